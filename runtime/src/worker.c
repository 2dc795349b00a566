#include "worker.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "error.h"
#include "spawn.h"
#include "stacks.h"
#include "worker_report.h"

enum {
  EXIT_GRACE_MS = 500,
  TERM_GRACE_MS = 1000,
  CLOSE_RETRY_MS = 1,
  REACH_RETRY_MS = 5,
  ATTACH_RETRY_MAX_MS = 1000,
  REAP_POLL_MS = 50
};
enum { STACKS_WAIT_MS = 200 }; /* that a process which hangs has to write its stacks */
enum { FD_STDIN, FD_STDOUT, FD_STDERR, FD_LAUNCH, VARIABLES_MAX = LAUNCH_VARIABLES + 5 };

#define NO_PIPES ((worker_pipes){{-1, -1}, {-1, -1}})

static int64_t ms(int64_t count) {
  return count * 1000000;
}

static void say(const struct worker *self, int level, const char *what) {
  log_write(self->shop->log, level, worker_pid(self), "worker %d: %s", self->index, what);
}

void worker_tell(worker_shop *shop, pid_t pid, int kind, const char *text, const pyproc_crash *crash) {
  const struct options *options = shop->options;
  if (options->event == NULL) return;
  pyproc_event event = {.size = sizeof event, .kind = kind, .worker_pid = pid, .text = text, .crash = crash};
  atomic_store(&shop->busy, true);
  options->event(&event, options->event_userdata);
  atomic_store(&shop->busy, false);
}

static void tell(const struct worker *self, int kind, const char *text, const pyproc_crash *crash) {
  worker_tell(self->shop, worker_pid(self), kind, text, crash);
}

/* ---- what the connection tells us, on any thread ---- */

static void raise_flag(struct worker *self, atomic_bool *flag) {
  if (!atomic_exchange(flag, true)) wake_signal(self->shop->wake);
}

static void on_ready(void *owner) {
  struct worker *self = owner;
  raise_flag(self, &self->became_ready);
}

static void on_broken(void *owner) {
  struct worker *self = owner;
  raise_flag(self, &self->became_broken);
}

/* The thread that runs callbacks reads, and says when it leaves. */
static bool is_attended(const struct worker *self) {
  return atomic_load(&self->connection->state) == CONNECTION_OPEN &&
         atomic_load(&self->shop->admission->attendants) > 0;
}

static bool on_watch(void *owner, bool for_write) {
  struct worker *self = owner;
  uint32_t wanted = for_write ? POLLER_IN | POLLER_OUT : POLLER_IN;
  if (is_attended(self)) return false;
  if ((atomic_load(&self->socket_events) & wanted) != wanted) raise_flag(self, &self->wants_watch);
  return true;
}

static void on_pump(void *owner) {
  struct worker *self = owner;
  raise_flag(self, &self->wants_pump);
}

static void on_freed(void *owner) {
  struct worker *self = owner;
  if (atomic_load(&self->is_retiring)) raise_flag(self, &self->became_idle);
  struct admission *admission = self->shop->admission;
  admission_dispatch(admission);
  if (admission->count > 1 && atomic_load(&self->connection->load) == 0 && !atomic_load(&self->shop->lopsided) &&
      admission_is_lopsided(admission))
    raise_flag(self, &self->shop->lopsided);
}

static void on_returned(void *owner, struct call *call) {
  struct worker *self = owner;
  admission_return(self->shop->admission, call);
}

static void on_overdue(void *owner) {
  wake_signal(((struct worker *)owner)->shop->wake);
}

static void on_crowded(void *owner) {
  struct worker *self = owner;
  if (!atomic_load_explicit(&self->shop->lopsided, memory_order_relaxed)) raise_flag(self, &self->shop->lopsided);
}

static int on_logs(void *owner, int fds[2]) {
  struct worker *self = owner;
  int count = 0;
  if (!atomic_load(&self->shop->busy) && !log_in_callback(self->shop->log)) return 0;
  for (int i = 0; i < 2; i++)
    if (self->streams[i] != NULL) fds[count++] = log_stream_fd(self->streams[i]);
  return count;
}

static void on_drain(void *owner) {
  struct worker *self = owner;
  for (int i = 0; i < 2; i++)
    if (self->streams[i] != NULL) log_stream_read(self->streams[i], self->shop->log);
}

const connection_owner worker_connection_owner = {
    .ready = on_ready,
    .freed = on_freed,
    .returned = on_returned,
    .broken = on_broken,
    .watch = on_watch,
    .pump = on_pump,
    .overdue = on_overdue,
    .crowded = on_crowded,
    .logs = on_logs,
    .drain = on_drain,
};

/* ---- descriptors ---- */

static void watch(struct worker *self, worker_source source, int fd, uint32_t events) {
  if (source == WORKER_SOCKET) atomic_store(&self->socket_events, events);
  poller_change(self->shop->poller, &self->watches[source].base, fd, events);
}

static void unwatch(struct worker *self, worker_source source) {
  watch(self, source, -1, 0);
}

/* The socket is watched only while the worker owes something that no caller waits for. Others see first that it may
 * not be watched, then we look whether something is owed: whoever makes that so afterwards, tells us. */
static void watch_socket(struct worker *self) {
  bool for_write = false;
  atomic_store(&self->socket_events, 0);
  bool owes = !is_attended(self) && self->connection->protocol->owes(self->connection);
  int fd = owes || worker_is_attached(self) ? self->connection->protocol->fd(self->connection, &for_write) : -1;
  if (!owes && fd >= 0) { /* no process tells of its end */
    watch(self, WORKER_SOCKET, fd, POLLER_HANGUP);
    return;
  }
  if (!owes) {
    unwatch(self, WORKER_SOCKET);
    return;
  }
  watch(self, WORKER_SOCKET, fd, for_write ? POLLER_IN | POLLER_OUT : POLLER_IN);
}

static void read_log(struct worker *self, int which) {
  worker_source source = which == 0 ? WORKER_STDOUT : WORKER_STDERR;
  if (self->streams[which] == NULL) return;
  if (log_stream_read(self->streams[which], self->shop->log) == 0) unwatch(self, source);
}

/* An event of the poller. */
static void handle(poller_watch *base, uint32_t events) {
  const worker_watch *watch = (const worker_watch *)(const void *)base;
  struct worker *self = watch->worker;
  (void)events;
  switch (watch->source) {
  case WORKER_SOCKET:
    self->connection->protocol->pump(self->connection);
    watch_socket(self);
    break;
  case WORKER_STDOUT:
    read_log(self, 0);
    break;
  case WORKER_STDERR:
    read_log(self, 1);
    break;
  default:
    self->may_have_ended = true;
    if (self->child.zygote != NULL) unwatch(self, WORKER_PROCESS); /* it takes a while to hear how */
    break;
  }
}

/* ---- start ---- */

worker_edition *worker_edition_new(struct options *options, const char *python) {
  worker_edition *self = calloc(1, sizeof *self);
  char *copy = strdup(python);
  if (self == NULL || copy == NULL) {
    free(self);
    free(copy);
    return NULL;
  }
  *self = (worker_edition){.options = options, .owned = options, .python = copy};
  return self;
}

void worker_edition_free(worker_edition *edition) {
  options_free(edition->owned);
  free(edition->owned);
  free((char *)(uintptr_t)edition->python);
  free(edition);
}

void worker_init(struct worker *self, worker_shop *shop) {
  *self = (struct worker){
      .shop = shop, .state = WORKER_DOWN, .due_ns = INT64_MAX, .site = LAUNCH_SITE_INIT, .stacks_fd = -1};
  self->process_fd = -1;
  self->pipes = NO_PIPES;
  for (int i = 0; i < WORKER_SOURCES; i++)
    self->watches[i] = (worker_watch){.base = {.handle = handle, .fd = -1}, .worker = self, .source = (worker_source)i};
}

static void close_stacks(struct worker *self) {
  platform_close_fd(self->stacks_fd);
  self->stacks_fd = -1;
}

static void close_pipes(worker_pipes *pipes) {
  for (int i = 0; i < 2; i++) {
    platform_close_fd(pipes->out[i]);
    platform_close_fd(pipes->err[i]);
  }
  *pipes = NO_PIPES;
}

static int open_pipes(worker_pipes *pipes, pyproc_error **reterr) {
  char text[128];
  *pipes = NO_PIPES;
  if (platform_pipe(pipes->out) >= 0 && platform_pipe(pipes->err) >= 0) return PYPROC_OK;
  int result =
      error_set(reterr, PYPROC_E_RESOURCE_EXHAUSTED, "no pipe for a worker: %s (limit of open files: ulimit -n)",
                platform_error_text(errno, text, sizeof text));
  close_pipes(pipes);
  return result;
}

static char **make_argv(const struct worker *self) {
  size_t count = 0, used = 0;
  const struct options *options = self->edition->options;
  while (options->args != NULL && options->args[count] != NULL) count++;
  char **argv = calloc(count + 4, sizeof *argv);
  if (argv == NULL) return NULL;
  argv[used++] = (char *)(uintptr_t)self->edition->python; /* spawn does not write to them */
  if (self->shop->launch->has_bootstrap) argv[used++] = (char *)(uintptr_t)self->shop->bootstrap;
  argv[used++] = options->script;
  for (size_t i = 0; i < count; i++) argv[used++] = options->args[i];
  return argv;
}

static char **make_environment(const struct worker *self, const launch_terms *terms) {
  const struct options *options = self->edition->options;
  char index[32], stacks[32];
  static const char *const framed[] = {"PYPROC_PROTOCOL=", NULL}; /* what the host was configured by is not for it */
  const char *own[VARIABLES_MAX] = {index};
  int count = 1;
  snprintf(index, sizeof index, "PYPROC_WORKER_INDEX=%d", self->index);
  for (int i = 0; i < terms->variable_count; i++) own[count++] = terms->variables[i];
  if (self->stacks_fd >= 0) own[count++] = stacks;
  snprintf(stacks, sizeof stacks, "PYPROC_STACKS_FD=%d", FD_LAUNCH + terms->fd_count);
  const protocol *ops = self->connection->protocol;
  const char *const *more = ops->environment != NULL ? ops->environment(self->connection) : framed;
  while (*more != NULL && count < VARIABLES_MAX - 1) own[count++] = *more++;
  return spawn_environment(options->clear_env != 0, (const char *const *)options->env, own);
}

static int spawn(struct worker *self, const worker_pipes *pipes, const launch_terms *terms, pyproc_error **reterr) {
  const struct options *options = self->edition->options;
  char **argv = make_argv(self), **env = make_environment(self, terms);
  int result;
  if (argv == NULL || env == NULL) {
    result = error_set(reterr, PYPROC_E_RESOURCE_EXHAUSTED, "out of memory");
  } else {
    int fds[FD_LAUNCH + LAUNCH_FDS + 1] = {-1, pipes->out[1], pipes->err[1]};
    for (int i = 0; i < terms->fd_count; i++) fds[FD_LAUNCH + i] = terms->fds[i];
    fds[FD_LAUNCH + terms->fd_count] = self->stacks_fd;
    process_limits limits = options->limits;
    process_limits_spread(&limits, self->index);
    for (int i = 0; i < FD_LAUNCH; i++)
      if (fds[i] >= 0) process_limits_give(&limits, fds[i]);
    spawn_request request = {.program = self->edition->python,
                             .argv = argv,
                             .envp = env,
                             .cwd = options->cwd,
                             .fds = fds,
                             .fd_count = FD_LAUNCH + (size_t)terms->fd_count + (self->stacks_fd >= 0),
                             .dies_with_host = self->shop->launch->dies_with_host,
                             .limits = &limits};
    result = spawn_process(&request, &self->pid, &self->process_fd, reterr);
  }
  free(argv);
  free(env);
  return result;
}

/* Opens the connection, if the process can be reached already; else that is tried again soon. */
static int reach(struct worker *self, int64_t now_ns, pyproc_error **reterr) {
  pyproc_error *error = NULL;
  int socket = self->shop->launch->reach(&self->site, &error);
  if (error != NULL) return error_give(reterr, error);
  self->due_ns = now_ns + ms(self->reach_pause_ms);
  if (worker_is_attached(self) && self->reach_pause_ms < ATTACH_RETRY_MAX_MS) self->reach_pause_ms *= 2;
  if (self->due_ns > self->start_due_ns) self->due_ns = self->start_due_ns;
  if (socket < 0) return PYPROC_OK;
  self->shop->launch->clear(&self->site);
  self->is_reached = true;
  self->due_ns = self->start_due_ns;
  return self->connection->protocol->open(self->connection, socket, reterr);
}

/* Takes the process and its pipes over. */
static void adopt(struct worker *self, worker_pipes *pipes) {
  self->tail = log_tail_new();
  self->streams[0] = log_stream_new(pipes->out[0], PYPROC_LOG_INFO, "stdout", self->tail);
  self->streams[1] = log_stream_new(pipes->err[0], PYPROC_LOG_WARNING, "stderr", self->tail);
  pipes->out[0] = pipes->err[0] = -1;
  self->connection->peer_pid = self->pid;
  self->connection->index = self->index;
  watch(self, WORKER_PROCESS, self->process_fd, POLLER_IN);
  for (int i = 0; i < 2; i++) {
    if (self->streams[i] == NULL) continue;
    log_stream_set_pid(self->streams[i], self->pid);
    watch(self, i == 0 ? WORKER_STDOUT : WORKER_STDERR, log_stream_fd(self->streams[i]), POLLER_IN);
  }
}

/* How long to wait before the next start. */
static int64_t pause_after(struct worker *self, bool failed, int64_t now_ns) {
  const struct options *options = self->shop->options;
  const backoff_policy policy = {.max = options->restart_max, .window_ms = options->restart_window_ms};
  bool rests;
  if (!failed) {
    backoff_reset(&self->backoff);
    return 0;
  }
  self->has_failed = true;
  int64_t wait_ms = backoff_next(&self->backoff, &policy, now_ns, &rests);
  if (rests && self->is_wanted)
    log_write(self->shop->log, PYPROC_LOG_ERROR, 0,
              "worker %d: failed %" PRId64 " times within %" PRId64 " ms (options restart_max, restart_window_ms): it "
              "rests for %" PRId64 " ms",
              self->index, policy.max + 1, policy.window_ms, wait_ms);
  return wait_ms;
}

static void schedule_restart(struct worker *self) {
  self->state = WORKER_DOWN;
  self->due_ns = self->is_wanted ? self->restart_ns : INT64_MAX;
}

static void keep_error(struct worker *self, pyproc_error *error) {
  pyproc_error_free(self->last_error);
  self->last_error = error;
}

/* The process runs; from here on its end is seen. */
static void begin(struct worker *self, int64_t now_ns) {
  pyproc_error *error = NULL;
  if (reach(self, now_ns, &error) < 0) {
    self->verdict = error;
    self->due_ns = now_ns;
  }
  watch_socket(self);
}

/* Nothing is started: it is only to be reached. */
static int attach(struct worker *self, pyproc_error **reterr) {
  self->connection->peer_pid = 0;
  self->connection->index = self->index;
  return self->shop->launch->prepare(&self->site, self->edition->options, -1, NULL, reterr);
}

/* Nothing runs. Takes the error. */
static void fail_to_start(struct worker *self, pyproc_error *error, int64_t now_ns) {
  self->shop->launch->clear(&self->site);
  zygote_leave(&self->child);
  close_stacks(self);
  self->restart_ns = now_ns + ms(pause_after(self, true, now_ns));
  log_write(self->shop->log, PYPROC_LOG_ERROR, 0, "worker %d: %s", self->index, pyproc_error_message(error));
  keep_error(self, error);
  schedule_restart(self);
}

static void begin_start(struct worker *self, int64_t now_ns) {
  self->state = WORKER_STARTING;
  self->start_due_ns = now_ns + ms(self->edition->options->start_timeout_ms);
  begin(self, now_ns);
}

static void adopt_and_begin(struct worker *self, worker_pipes *pipes, int64_t now_ns) {
  adopt(self, pipes);
  begin_start(self, now_ns);
}

static void start_attached(struct worker *self, int64_t now_ns) {
  pyproc_error *error = NULL;
  if (attach(self, &error) >= 0)
    begin_start(self, now_ns);
  else
    fail_to_start(self, error, now_ns);
}

static int open_ends(struct worker *self, worker_pipes *pipes, launch_terms *terms, pyproc_error **reterr) {
  int result = open_pipes(pipes, reterr);
  if (result < 0) return result;
  return self->shop->launch->prepare(&self->site, self->edition->options, self->shop->host_fd, terms, reterr);
}

static void start_by_exec(struct worker *self, int64_t now_ns) {
  worker_pipes pipes;
  launch_terms terms;
  pyproc_error *error = NULL;
  int result = open_ends(self, &pipes, &terms, &error);
  if (result >= 0) result = spawn(self, &pipes, &terms, &error);
  if (result >= 0)
    adopt_and_begin(self, &pipes, now_ns);
  else
    fail_to_start(self, error, now_ns);
  close_pipes(&pipes);
}

/* The folder for a process that is forked elsewhere; "": that of the zygote has to do. */
static void absolute_cwd(const char *cwd, char *path, size_t size) {
  char host[PATH_MAX];
  int length = 0;
  *path = '\0';
  if (cwd != NULL && cwd[0] == '/')
    length = snprintf(path, size, "%s", cwd);
  else if (getcwd(host, sizeof host) != NULL)
    length = snprintf(path, size, "%s%s%s", host, cwd != NULL ? "/" : "", cwd != NULL ? cwd : "");
  if (length < 0 || (size_t)length >= size) *path = '\0';
}

static zygote_offer send_request(struct worker *self, const launch_terms *terms, int64_t now_ns) {
  const struct options *options = self->edition->options;
  char cwd[2 * PATH_MAX];
  char **argv = make_argv(self), **env = make_environment(self, terms);
  zygote_offer offer = ZYGOTE_CANNOT;
  process_limits limits = options->limits;
  process_limits_spread(&limits, self->index);
  absolute_cwd(options->cwd, cwd, sizeof cwd);
  int script = 0; /* behind the interpreter and the bootstrap, which the zygote has */
  while (argv != NULL && argv[script] != options->script) script++;
  if (argv != NULL && env != NULL) {
    const int fds[] = {self->pipes.out[1], self->pipes.err[1], terms->fds[0], self->stacks_fd};
    for (int i = 0; i < 2; i++) process_limits_give(&limits, fds[i]);
    const zygote_request request = {
        .processor = limits.has_processor ? limits.processor : -1, .cwd = cwd, .argv = argv + script, .envp = env};
    offer = zygote_fork(&self->child, &request, fds, now_ns);
  } else {
    snprintf(self->child.why, sizeof self->child.why, "out of memory");
  }
  free(argv);
  free(env);
  return offer;
}

static void close_theirs(int pipe[2]) {
  platform_close_fd(pipe[1]);
  pipe[1] = -1;
}

static void close_ends(struct worker *self) {
  close_pipes(&self->pipes);
  self->shop->launch->clear(&self->site);
}

static void give_zygote_up(struct worker *self, int64_t now_ns) {
  log_write(self->shop->log, PYPROC_LOG_WARNING, 0, "worker %d: started by exec, without option preload: %s",
            self->index, self->child.why);
  close_ends(self);
  zygote_leave(&self->child);
  start_by_exec(self, now_ns);
}

/* The zygote would fork now. */
static zygote_offer request_fork(struct worker *self, int64_t now_ns, pyproc_error **ret_error) {
  launch_terms terms;
  zygote_offer offer = ZYGOTE_FAILS;
  if (open_ends(self, &self->pipes, &terms, ret_error) >= 0) offer = send_request(self, &terms, now_ns);
  if (offer != ZYGOTE_WILL_FORK) {
    close_ends(self);
    return offer;
  }
  close_theirs(self->pipes.out);
  close_theirs(self->pipes.err);
  platform_close_fd(self->site.theirs);
  self->site.theirs = -1;
  return offer;
}

static void take_forked(struct worker *self, int64_t now_ns) {
  self->pid = self->child.pid;
  self->process_fd = self->child.process_fd;
  adopt_and_begin(self, &self->pipes, now_ns);
}

/* Nobody wants it any more: what was asked for comes all the same, or has just come, and is then told to end. */
static void stop_waiting(struct worker *self) {
  if (self->child.state != CHILD_NONE) return;
  close_ends(self);
  zygote_leave(&self->child);
  close_stacks(self);
  schedule_restart(self);
  if (atomic_load(&self->shop->closing)) self->due_ns = INT64_MAX;
}

/* Looks how far the zygote is. */
static void wait_for_zygote(struct worker *self, int64_t now_ns) {
  pyproc_error *error = NULL;
  self->due_ns = INT64_MAX; /* it is looked at in every step */
  if (self->child.state == CHILD_ASKED) return;
  if (self->child.state != CHILD_NONE) {
    take_forked(self, now_ns);
    if (worker_is_expected(self)) worker_leave(self, 0);
    return;
  }
  if (worker_is_expected(self)) {
    stop_waiting(self);
    return;
  }
  zygote_offer offer = self->child.is_refused ? ZYGOTE_CANNOT : zygote_ask(&self->child, now_ns);
  if (offer == ZYGOTE_FAILS) error = error_copy(zygote_failure(&self->child));
  if (offer == ZYGOTE_WILL_FORK) offer = request_fork(self, now_ns, &error);
  if (offer == ZYGOTE_CANNOT)
    give_zygote_up(self, now_ns);
  else if (offer == ZYGOTE_FAILS)
    fail_to_start(self, error, now_ns);
}

static void start(struct worker *self, int64_t now_ns) {
  pyproc_error *error = NULL;
  self->may_have_ended = self->is_reached = false;
  self->leaving_step = STEP_ASKED;
  self->revision = self->edition->revision;
  self->reach_pause_ms = REACH_RETRY_MS;
  atomic_store(&self->connection->good_calls, 0); /* also where it is never opened */
  atomic_store(&self->is_retiring, false);
  atomic_store(&self->became_ready, false);
  atomic_store(&self->became_broken, false);
  self->health.due_ns = INT64_MAX;
  self->hang = HANG_NONE;
  self->hang_told = false;
  self->oom_before = platform_oom_now();
  if (self->shop->launch->has_bootstrap)
    self->stacks_fd = stacks_open(); /* without it, they go to its standard error */
  self->stacks_logged = 0;
  if (worker_is_attached(self)) {
    start_attached(self, now_ns);
  } else if (self->edition->options->preload == NULL) {
    start_by_exec(self, now_ns);
  } else if (zygote_join(self->shop, self->edition, &self->child, &error) < 0) {
    fail_to_start(self, error, now_ns);
  } else {
    self->state = WORKER_WAITING;
    wait_for_zygote(self, now_ns);
  }
}

/* ---- end ---- */

static void free_output(struct worker *self) {
  for (int i = 0; i < 2; i++) {
    log_stream_free(self->streams[i]);
    self->streams[i] = NULL;
  }
  log_tail_free(self->tail);
  self->tail = NULL;
  close_stacks(self);
}

/* Lets go of what belonged to the process, once no caller is inside. */
static void let_go(struct worker *self, int64_t now_ns) {
  if (!self->connection->protocol->close(self->connection)) {
    self->due_ns = now_ns + ms(CLOSE_RETRY_MS);
    return;
  }
  free_output(self);
  pyproc_error_free(self->verdict);
  self->verdict = NULL;
  self->pid = 0;
  if (atomic_load(&self->shop->closing)) {
    self->state = WORKER_DOWN;
    self->due_ns = INT64_MAX;
  } else {
    schedule_restart(self);
  }
}

static void bury(struct worker *self, const platform_exit *exit, int64_t now_ns) {
  worker_state was = self->state;
  for (int i = 0; i < WORKER_SOURCES; i++) unwatch(self, (worker_source)i);
  platform_close_fd(self->process_fd);
  self->process_fd = -1;
  self->shop->launch->clear(&self->site);
  for (int i = 0; i < 2; i++) log_stream_take_last(self->streams[i], self->shop->log);
  self->connection->protocol->drain(self->connection);
  bool had_good_call = atomic_load(&self->connection->good_calls) > 0;
  pyproc_error *error = worker_report_error(self, exit, was != WORKER_STARTING);
  worker_report_stacks(self);
  /* its socket may have ended before it: that it is leaving does not mean that we sent it away */
  log_write(self->shop->log, worker_is_expected(self) ? PYPROC_LOG_DEBUG : PYPROC_LOG_ERROR, worker_pid(self),
            "worker %d: %s", self->index, pyproc_error_message(error));
  if (was != WORKER_STARTING) worker_report_blame(self, exit, error, now_ns);
  admission_lose(self->shop->admission, self->connection, error);
  worker_report_hang(self, pyproc_error_crash(error));
  bool is_loss = !worker_is_expected(self) && (was != WORKER_STARTING || !worker_is_attached(self));
  if (is_loss) tell(self, PYPROC_EVENT_WORKER_DIED, pyproc_error_message(error), pyproc_error_crash(error));
  zygote_leave(&self->child);
  self->restart_ns = now_ns + ms(pause_after(self, !had_good_call && !worker_is_expected(self), now_ns));
  if (worker_is_expected(self))
    pyproc_error_free(error);
  else
    keep_error(self, error);
  if (is_loss) atomic_fetch_add(&self->shop->restarts, 1);
  self->state = WORKER_GONE;
  let_go(self, now_ns);
}

/* Whether the process has ended. What it left behind in its group ends with it; the group's number is ours until it is
 * reaped. */
static bool take_exit(struct worker *self, int64_t now_ns, platform_exit *exit) {
  if (self->child.zygote != NULL) return zygote_reap(&self->child, now_ns, exit) != 0;
  if (platform_reap(self->pid, self->process_fd, exit) == 0) return false;
  platform_kill_group(self->pid, SIGKILL);
  return true;
}

static bool bury_if_ended(struct worker *self, int64_t now_ns) {
  platform_exit exit = {0}; /* -1, not ours to wait for: unknown */
  if (self->pid == 0 || self->state == WORKER_GONE || !(self->may_have_ended || now_ns >= self->due_ns)) return false;
  if (!take_exit(self, now_ns, &exit)) return false;
  bury(self, &exit, now_ns);
  return true;
}

/* The ladder of a process that hangs: it is asked for its stacks, which it writes whatever it runs unless it is stopped,
 * then told to end, then killed. Its calls fail, or move, when it has ended. */
static void begin_to_end_hung(struct worker *self, worker_hang hang, int64_t now_ns) {
  char text[256];
  self->hang = hang;
  worker_report_hang_text(self, text, sizeof text);
  log_write(self->shop->log, PYPROC_LOG_ERROR, worker_pid(self),
            "worker %d: %s; it is ended, its threads:", self->index, text);
  atomic_store(&self->connection->capacity, 0); /* no call is given to it */
  if (self->stacks_fd >= 0 && self->connection->stacks_signal != 0)
    platform_signal(self->pid, self->connection->stacks_signal);
  self->state = WORKER_LEAVING;
  self->leaving_step = worker_is_attached(self) ? STEP_TERMINATED : STEP_STACKS; /* it is disconnected at once */
  self->due_ns = worker_is_attached(self) ? now_ns : now_ns + ms(STACKS_WAIT_MS);
}

static void look_at_health(struct worker *self, int64_t now_ns) {
  const protocol *ops = self->connection->protocol;
  health_facts facts = {0};
  if (self->state != WORKER_READY || now_ns < self->health.due_ns || ops->look == NULL) return;
  ops->look(self->connection, &facts);
  switch (health_look(&self->health, &facts, now_ns)) {
  case HEALTH_ASK:
    if (ops->ping != NULL) ops->ping(self->connection, self->health.ping);
    watch_socket(self); /* somebody has to read the answer */
    break;
  case HEALTH_SILENT:
    begin_to_end_hung(self, HANG_SILENT, now_ns);
    break;
  case HEALTH_STILL:
    begin_to_end_hung(self, HANG_STILL, now_ns);
    break;
  case HEALTH_FINE:
    break;
  }
}

/* Of an attached worker the connection ends here and now, and nothing else. */
static void end_now(struct worker *self, int64_t now_ns) {
  if (worker_is_attached(self)) {
    const platform_exit unknown = {0};
    bury(self, &unknown, now_ns);
    return;
  }
  platform_kill_group(self->pid, SIGKILL);
  if (self->state != WORKER_STARTING) self->state = WORKER_LEAVING;
  self->leaving_step = STEP_KILLED;
  self->due_ns = now_ns + ms(REAP_POLL_MS);
}

void worker_leave(struct worker *self, int64_t grace_ms) {
  if (self->state == WORKER_DOWN || self->state == WORKER_GONE || self->state == WORKER_LEAVING) return;
  if (self->state == WORKER_WAITING) {
    stop_waiting(self);
    return;
  }
  bool is_listening = self->state == WORKER_READY || self->state == WORKER_RETIRING;
  /* The signal first: Python, which misses one that comes just before it reads, sees it when it reads the end. */
  if (self->shop->launch->stop_signal != 0) platform_kill_group(self->pid, self->shop->launch->stop_signal);
  self->connection->protocol->finish(self->connection);
  self->state = WORKER_LEAVING;
  self->leaving_step = worker_is_attached(self) ? STEP_TERMINATED : STEP_ASKED;
  self->due_ns = is_listening && !worker_is_attached(self) ? platform_now_ns() + ms(grace_ms) : 0;
}

void worker_employ(struct worker *self, const worker_edition *edition, int index) {
  self->edition = edition;
  self->index = index;
  self->is_wanted = true;
  self->backoff = (backoff){0};
  self->is_probe = self->is_held = self->has_failed = false;
  self->due_ns = 0;
}

void worker_release(struct worker *self) {
  if (self->state == WORKER_DOWN && self->is_held) self->due_ns = 0;
  self->is_held = false;
}

/* Whatever was given to it, it has answered: what callers that chose it before still send is given back unstarted. */
static bool is_idle(const struct worker *self) {
  return atomic_load(&self->connection->load) == 0 && atomic_load(&self->connection->streams) == 0;
}

void worker_dismiss(struct worker *self, int64_t drain_ms) {
  self->is_wanted = false;
  if (self->state == WORKER_DOWN) self->due_ns = INT64_MAX;
  if (self->state != WORKER_READY) {
    worker_leave(self, 0);
    return;
  }
  self->state = WORKER_RETIRING;
  self->due_ns = platform_now_ns() + ms(drain_ms);
  atomic_store(&self->connection->capacity, 0); /* no call is given to it */
  atomic_store(&self->became_idle, true);       /* look at once */
  atomic_store(&self->is_retiring, true);
}

/* ---- steps ---- */

static void become_ready(struct worker *self) {
  if (self->state != WORKER_STARTING) return;
  self->state = WORKER_READY;
  self->due_ns = INT64_MAX;
  health_begin(&self->health, self->shop->options->health_interval_ms, self->shop->options->health_timeout_ms,
               platform_random64(), platform_now_ns());
  say(self, PYPROC_LOG_DEBUG, "ready");
  admission_dispatch(self->shop->admission);
  tell(self, PYPROC_EVENT_WORKER_READY, "ready", NULL);
}

/* Who listens may just be ending, or starting anew: that is as if nobody had listened. */
static bool reach_again(struct worker *self, int64_t now_ns) {
  const protocol *ops = self->connection->protocol;
  unwatch(self, WORKER_SOCKET);
  ops->drain(self->connection);
  if (!ops->close(self->connection)) return false;
  self->is_reached = false;
  self->site.errnum = ECONNRESET;
  self->due_ns = now_ns + ms(self->reach_pause_ms);
  return true;
}

/* The connection is of no use: where the process ends by itself, its exit status says more than our signal would. */
static void become_broken(struct worker *self, int64_t now_ns) {
  if (self->state != WORKER_STARTING && self->state != WORKER_READY && self->state != WORKER_RETIRING) return;
  bool hung_up = pyproc_error_code(self->connection->reason) == PYPROC_E_UNAVAILABLE;
  bool failed = self->state == WORKER_STARTING;
  if (failed && hung_up && worker_is_attached(self) && now_ns < self->start_due_ns && reach_again(self, now_ns)) return;
  if (!failed) self->state = WORKER_LEAVING;
  self->leaving_step = STEP_TERMINATED;
  self->due_ns = (hung_up || failed) && !worker_is_attached(self) ? now_ns + ms(EXIT_GRACE_MS) : now_ns;
  unwatch(self, WORKER_SOCKET);
}

/* A worker that cannot be told to stop a call has not ended one in time that was given up. Nothing can be given to it
 * in between: it holds that call, or takes no more. */
static void end_if_overdue(struct worker *self, int64_t now_ns) {
  struct connection *connection = self->connection;
  if (self->state != WORKER_READY || now_ns < atomic_load(&connection->answer_due_ns)) return;
  int capacity = atomic_exchange(&connection->capacity, 0);
  const protocol *ops = connection->protocol;
  if (now_ns < atomic_load(&connection->answer_due_ns) || (ops->overdue != NULL && !ops->overdue(connection, now_ns))) {
    /* it has just answered */
    atomic_store(&connection->capacity, capacity);
    admission_dispatch(self->shop->admission);
    return;
  }
  self->verdict = error_new(PYPROC_E_UNAVAILABLE,
                            "worker %ld was %s: it went on with a call for %" PRId64
                            " ms after that was given up (option cancel_grace_ms)",
                            (long)worker_pid(self), worker_is_attached(self) ? "disconnected" : "killed",
                            self->shop->options->cancel_grace_ms);
  end_now(self, now_ns);
}

/* An attached worker was not ready in time. */
static pyproc_error *unreached(const struct worker *self) {
  char text[128];
  return error_new(PYPROC_E_DEADLINE_EXCEEDED,
                   "the worker at %s was not ready within %" PRId64 " ms (options socket_path, start_timeout_ms): %s",
                   self->edition->options->socket_path, self->edition->options->start_timeout_ms,
                   launch_last_reason(&self->site, text, sizeof text));
}

static bool may_start(const struct worker *self) {
  breaker_state state = self->shop->breaker.state;
  return state == BREAKER_CLOSED || (state == BREAKER_HALF_OPEN && self->is_probe);
}

static void do_what_is_due(struct worker *self, int64_t now_ns) {
  switch (self->state) {
  case WORKER_DOWN:
    if (!self->is_wanted || atomic_load(&self->shop->closing)) break;
    self->is_held = !may_start(self);
    if (self->is_held)
      self->due_ns = INT64_MAX;
    else
      start(self, now_ns);
    break;
  case WORKER_WAITING:
    break;
  case WORKER_STARTING:
    if (!self->is_reached && self->verdict == NULL && self->leaving_step != STEP_KILLED &&
        now_ns < self->start_due_ns) {
      begin(self, now_ns);
      break;
    }
    if (self->verdict == NULL && (!self->is_reached || atomic_load(&self->connection->state) == CONNECTION_HANDSHAKE))
      self->verdict = worker_is_attached(self) ? unreached(self)
                                               : error_new(PYPROC_E_DEADLINE_EXCEEDED,
                                                           "worker %ld was not ready within %" PRId64
                                                           " ms (option start_timeout_ms): does %s %s?",
                                                           (long)self->pid, self->edition->options->start_timeout_ms,
                                                           self->edition->options->script, self->shop->launch->task);
    end_now(self, now_ns);
    break;
  case WORKER_LEAVING:
    if (self->leaving_step == STEP_STACKS) worker_report_hang(self, NULL);
    if (self->leaving_step < STEP_TERMINATED) {
      platform_kill_group(self->pid, SIGTERM);
      self->leaving_step = STEP_TERMINATED;
      self->due_ns = now_ns + ms(TERM_GRACE_MS);
    } else {
      end_now(self, now_ns);
    }
    break;
  case WORKER_RETIRING:
    worker_leave(self, self->shop->options->drain_timeout_ms);
    break;
  case WORKER_GONE:
    let_go(self, now_ns);
    break;
  case WORKER_READY:
    break;
  }
}

static int64_t earlier(int64_t one, int64_t other) {
  return one < other ? one : other;
}

int64_t worker_step(struct worker *self, int64_t now_ns) {
  if (self->state == WORKER_WAITING) wait_for_zygote(self, now_ns);
  if (atomic_exchange(&self->became_ready, false)) become_ready(self);
  if (atomic_exchange(&self->became_broken, false)) become_broken(self, now_ns);
  bury_if_ended(self, now_ns);
  if (atomic_exchange(&self->became_idle, false) && self->state == WORKER_RETIRING && is_idle(self))
    worker_leave(self, self->shop->options->drain_timeout_ms);
  if (now_ns >= self->due_ns) do_what_is_due(self, now_ns);
  end_if_overdue(self, now_ns);
  look_at_health(self, now_ns);
  bool wants_pump = atomic_exchange(&self->wants_pump, false), wants_watch = atomic_exchange(&self->wants_watch, false);
  if ((wants_pump || wants_watch) && self->state != WORKER_DOWN && self->state != WORKER_GONE) {
    if (wants_pump) self->connection->protocol->pump(self->connection);
    watch_socket(self);
  }
  bool is_being_reaped = self->may_have_ended && self->child.zygote != NULL && self->pid != 0;
  int64_t due_ns = is_being_reaped ? earlier(self->due_ns, now_ns + ms(REAP_POLL_MS)) : self->due_ns;
  if (self->state != WORKER_READY) return due_ns;
  return earlier(earlier(due_ns, atomic_load(&self->connection->answer_due_ns)), self->health.due_ns);
}

void worker_clear(struct worker *self) {
  free_output(self);
  platform_close_fd(self->process_fd);
  close_pipes(&self->pipes);
  zygote_leave(&self->child);
  pyproc_error_free(self->verdict);
  pyproc_error_free(self->last_error);
}
