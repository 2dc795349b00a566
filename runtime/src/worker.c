#include "worker.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "error.h"
#include "spawn.h"

enum {
  BACKOFF_FIRST_MS = 100,
  BACKOFF_LAST_MS = 30000,
  EXIT_GRACE_MS = 500,
  TERM_GRACE_MS = 1000,
  CLOSE_RETRY_MS = 1,
  REAP_POLL_MS = 50
};
enum { FD_STDIN, FD_STDOUT, FD_STDERR, FD_WORKER, FD_HOST, FD_COUNT };
enum { STEP_ASKED, STEP_TERMINATED, STEP_KILLED };

static int64_t ms(int64_t count) {
  return count * 1000000;
}

static void say(const struct worker *self, int level, const char *what) {
  log_write(self->shop->log, level, self->pid, "worker %d: %s", self->index, what);
}

static void tell(const struct worker *self, int kind, const char *text, const pyproc_crash *crash) {
  const struct options *options = self->shop->options;
  if (options->event == NULL) return;
  pyproc_event event = {.size = sizeof event, .kind = kind, .worker_pid = self->pid, .text = text, .crash = crash};
  atomic_store(&self->shop->busy, true);
  options->event(&event, options->event_userdata);
  atomic_store(&self->shop->busy, false);
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

static void on_watch(void *owner, bool for_write) {
  struct worker *self = owner;
  uint32_t wanted = for_write ? POLLER_IN | POLLER_OUT : POLLER_IN;
  if ((atomic_load(&self->socket_events) & wanted) != wanted) raise_flag(self, &self->wants_watch);
}

static void on_freed(void *owner) {
  struct worker *self = owner;
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
    .logs = on_logs,
    .drain = on_drain,
};

/* ---- descriptors ---- */

static void watch(struct worker *self, worker_source source, int fd, uint32_t events) {
  worker_watch *watch = &self->watches[source];
  if (source == WORKER_SOCKET) atomic_store(&self->socket_events, events);
  if (watch->fd == fd && watch->events == events) return;
  if (watch->fd >= 0 && (watch->fd != fd || events == 0)) poller_set(self->shop->poller, watch->fd, 0, NULL);
  watch->fd = events != 0 ? fd : -1;
  watch->events = events;
  if (events != 0) poller_set(self->shop->poller, fd, events, watch);
}

static void unwatch(struct worker *self, worker_source source) {
  watch(self, source, -1, 0);
}

/* The socket is watched only while the worker owes something that no caller waits for. Others see first that it may
 * not be watched, then we look whether something is owed: whoever makes that so afterwards, tells us. */
static void watch_socket(struct worker *self) {
  bool for_write = false;
  atomic_store(&self->socket_events, 0);
  if (!self->connection->protocol->owes(self->connection)) {
    unwatch(self, WORKER_SOCKET);
    return;
  }
  int fd = self->connection->protocol->fd(self->connection, &for_write);
  watch(self, WORKER_SOCKET, fd, for_write ? POLLER_IN | POLLER_OUT : POLLER_IN);
}

static void read_log(struct worker *self, int which) {
  worker_source source = which == 0 ? WORKER_STDOUT : WORKER_STDERR;
  if (self->streams[which] == NULL) return;
  if (log_stream_read(self->streams[which], self->shop->log) == 0) unwatch(self, source);
}

void worker_handle(worker_watch *watch, uint32_t events) {
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
    break;
  }
}

/* ---- start ---- */

void worker_init(struct worker *self, worker_shop *shop, int index) {
  *self = (struct worker){.shop = shop, .index = index, .state = WORKER_DOWN};
  for (int i = 0; i < WORKER_SOURCES; i++)
    self->watches[i] = (worker_watch){.worker = self, .source = (worker_source)i, .fd = -1};
}

typedef struct worker_pipes {
  int out[2], err[2], sockets[2];
} worker_pipes;

static void close_pipes(worker_pipes *pipes) {
  for (int i = 0; i < 2; i++) {
    platform_close_fd(pipes->out[i]);
    platform_close_fd(pipes->err[i]);
    platform_close_fd(pipes->sockets[i]);
  }
}

static int open_pipes(worker_pipes *pipes, pyproc_error **reterr) {
  char text[128];
  *pipes = (worker_pipes){{-1, -1}, {-1, -1}, {-1, -1}};
  if (platform_pipe(pipes->out) >= 0 && platform_pipe(pipes->err) >= 0 && platform_socketpair(pipes->sockets) >= 0)
    return PYPROC_OK;
  int result = error_set(reterr, PYPROC_E_RESOURCE_EXHAUSTED,
                         "no pipe or socket for a worker: %s (limit of open files: ulimit -n)",
                         platform_error_text(errno, text, sizeof text));
  close_pipes(pipes);
  return result;
}

static char **make_argv(const worker_shop *shop) {
  size_t count = 0;
  const struct options *options = shop->options;
  while (options->args != NULL && options->args[count] != NULL) count++;
  char **argv = calloc(count + 4, sizeof *argv);
  if (argv == NULL) return NULL;
  argv[0] = (char *)(uintptr_t)shop->python; /* spawn does not write to them */
  argv[1] = (char *)(uintptr_t)shop->bootstrap;
  argv[2] = options->script;
  for (size_t i = 0; i < count; i++) argv[3 + i] = options->args[i];
  return argv;
}

static int spawn(struct worker *self, const worker_pipes *pipes, int *ret_process_fd, pyproc_error **reterr) {
  const worker_shop *shop = self->shop;
  char worker_fd[32], host_fd[32], index[32];
  snprintf(worker_fd, sizeof worker_fd, "PYPROC_WORKER_FD=%d", FD_WORKER);
  snprintf(host_fd, sizeof host_fd, "PYPROC_HOST_FD=%d", FD_HOST);
  snprintf(index, sizeof index, "PYPROC_WORKER_INDEX=%d", self->index);
  const char *const own[] = {worker_fd, host_fd, index, NULL};
  char **argv = make_argv(shop), **env = spawn_environment((const char *const *)shop->options->env, own);
  int result;
  if (argv == NULL || env == NULL) {
    result = error_set(reterr, PYPROC_E_RESOURCE_EXHAUSTED, "out of memory");
  } else {
    const int fds[FD_COUNT] = {-1, pipes->out[1], pipes->err[1], pipes->sockets[1], shop->host_fd};
    spawn_request request = {.program = shop->python,
                             .argv = argv,
                             .envp = env,
                             .cwd = shop->options->cwd,
                             .fds = fds,
                             .fd_count = FD_COUNT};
    result = spawn_process(&request, &self->pid, ret_process_fd, reterr);
  }
  free(argv);
  free(env);
  return result;
}

/* Takes the process and its pipes over. */
static int adopt(struct worker *self, worker_pipes *pipes, int process_fd, pyproc_error **reterr) {
  self->tail = log_tail_new();
  self->streams[0] = log_stream_new(pipes->out[0], PYPROC_LOG_INFO, "stdout", self->tail);
  self->streams[1] = log_stream_new(pipes->err[0], PYPROC_LOG_WARNING, "stderr", self->tail);
  pipes->out[0] = pipes->err[0] = -1;
  self->connection->peer_pid = self->pid;
  int socket = pipes->sockets[0];
  pipes->sockets[0] = -1;
  int result = self->connection->protocol->open(self->connection, socket, reterr);
  watch(self, WORKER_PROCESS, process_fd, POLLER_IN);
  for (int i = 0; i < 2; i++) {
    if (self->streams[i] == NULL) continue;
    log_stream_set_pid(self->streams[i], self->pid);
    watch(self, i == 0 ? WORKER_STDOUT : WORKER_STDERR, log_stream_fd(self->streams[i]), POLLER_IN);
  }
  return result;
}

static void schedule_restart(struct worker *self, int64_t now_ns) {
  int64_t wait_ms = 0;
  if (self->failures > 0) {
    wait_ms = BACKOFF_LAST_MS;
    if (self->failures < 10 && (int64_t)BACKOFF_FIRST_MS << (self->failures - 1) < wait_ms)
      wait_ms = (int64_t)BACKOFF_FIRST_MS << (self->failures - 1);
    wait_ms = wait_ms / 2 + (int64_t)(platform_random64() % (uint64_t)wait_ms) / 2; /* half of it is jitter */
  }
  self->state = WORKER_DOWN;
  self->due_ns = now_ns + ms(wait_ms);
}

static void keep_error(struct worker *self, pyproc_error *error) {
  pyproc_error_free(self->last_error);
  self->last_error = error;
}

static void start(struct worker *self, int64_t now_ns) {
  worker_pipes pipes;
  pyproc_error *error = NULL;
  int process_fd = -1;
  self->may_have_ended = false;
  atomic_store(&self->became_ready, false);
  atomic_store(&self->became_broken, false);
  int result = open_pipes(&pipes, &error);
  if (result >= 0) result = spawn(self, &pipes, &process_fd, &error);
  if (result >= 0) result = adopt(self, &pipes, process_fd, &error);
  close_pipes(&pipes);
  if (self->pid == 0) { /* nothing runs */
    self->failures++;
    log_write(self->shop->log, PYPROC_LOG_ERROR, 0, "worker %d: %s", self->index, pyproc_error_message(error));
    keep_error(self, error);
    schedule_restart(self, now_ns);
    return;
  }
  self->verdict = result < 0 ? error : NULL;
  self->state = WORKER_STARTING;
  self->due_ns = result < 0 ? now_ns : now_ns + ms(self->shop->options->start_timeout_ms);
  watch_socket(self);
}

/* ---- end ---- */

static void describe_exit(const struct worker *self, const platform_exit *exit, char *text, size_t size) {
  bool killed_by_us = self->state == WORKER_LEAVING && self->leaving_step == STEP_KILLED && exit->signal == SIGKILL;
  if (!exit->known)
    snprintf(text, size, "worker %ld has ended; the host took its exit status", (long)self->pid);
  else if (killed_by_us)
    snprintf(text, size, "worker %ld %s and was killed", (long)self->pid,
             atomic_load(&self->shop->closing) ? "did not end in time" : "closed its connection");
  else if (exit->signal != 0)
    snprintf(text, size, "worker %ld was killed by signal %d (%s)", (long)self->pid, exit->signal,
             strsignal(exit->signal));
  else
    snprintf(text, size, "worker %ld exited with status %d", (long)self->pid, exit->exit_status);
}

/* Whether the process killed itself, as it is to where a handler does not end when it is told to. */
static bool was_stuck(const struct worker *self, const platform_exit *exit) {
  status_page *page = self->connection->page;
  return page != NULL && atomic_load(&page->stuck_id) != 0 && (!exit->known || exit->signal == SIGKILL);
}

/* The error that calls in flight and the opener of the pool get. */
static pyproc_error *make_error(struct worker *self, const platform_exit *exit, bool was_ready) {
  char text[160], method[256] = "";
  uint64_t id = 0;
  pyproc_error *error;
  const pyproc_error *reason = self->connection->reason;
  bool said_why = reason != NULL && pyproc_error_code(reason) != PYPROC_E_UNAVAILABLE;
  describe_exit(self, exit, text, sizeof text);
  bool stuck = was_stuck(self, exit);
  bool running = self->connection->protocol->running(self->connection, &id, method, sizeof method);
  if (self->verdict != NULL)
    error = error_copy(self->verdict);
  else if (said_why)
    error = error_copy(reason);
  else if (was_ready)
    error =
        error_new(PYPROC_E_UNAVAILABLE, "%s%s%s%s%s", atomic_load(&self->shop->closing) ? "the pool was closed: " : "",
                  text, running ? " in " : "", method,
                  stuck ? ", which did not end although its call was given up (option cancel_grace_ms)" : "");
  else
    error = error_new(PYPROC_E_UNAVAILABLE, "%s before it was ready: does %s call serve()?", text,
                      self->shop->options->script);
  char *tail = self->tail != NULL ? log_tail_text(self->tail) : NULL;
  pyproc_crash crash = {.size = sizeof crash,
                        .pid = self->pid,
                        .signal = exit->signal,
                        .exit_status = exit->exit_status,
                        .rss_bytes = exit->rss_bytes,
                        .cpu_ms = exit->cpu_ms,
                        .call_id = (int64_t)id,
                        .method = method,
                        .log = tail != NULL ? tail : "",
                        .stacks = ""};
  error_set_worker(error, self->pid);
  error_set_stop(error, stuck ? PYPROC_STOP_KILLED : PYPROC_STOP_NONE);
  error_set_log(error, crash.log);
  error_set_crash(error, &crash);
  free(tail);
  return error;
}

static void take_last_lines(struct worker *self) {
  for (int i = 0; i < 2; i++) {
    if (self->streams[i] == NULL) continue;
    while (log_stream_read(self->streams[i], self->shop->log) > 0) {}
    log_stream_flush(self->streams[i], self->shop->log);
  }
}

static void free_output(struct worker *self) {
  for (int i = 0; i < 2; i++) {
    log_stream_free(self->streams[i]);
    self->streams[i] = NULL;
  }
  log_tail_free(self->tail);
  self->tail = NULL;
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
    schedule_restart(self, now_ns);
  }
}

static void bury(struct worker *self, const platform_exit *exit, int64_t now_ns) {
  worker_state was = self->state;
  int process_fd = self->watches[WORKER_PROCESS].fd;
  for (int i = 0; i < WORKER_SOURCES; i++) unwatch(self, (worker_source)i);
  platform_close_fd(process_fd);
  take_last_lines(self);
  self->connection->protocol->drain(self->connection);
  bool had_good_call = atomic_load(&self->connection->good_calls) > 0;
  pyproc_error *error = make_error(self, exit, was != WORKER_STARTING);
  /* its socket may have ended before it: that it is leaving does not mean that we sent it away */
  log_write(self->shop->log, atomic_load(&self->shop->closing) ? PYPROC_LOG_DEBUG : PYPROC_LOG_ERROR, self->pid,
            "worker %d: %s", self->index, pyproc_error_message(error));
  admission_lose(self->shop->admission, self->connection, error);
  if (!atomic_load(&self->shop->closing))
    tell(self, PYPROC_EVENT_WORKER_DIED, pyproc_error_message(error), pyproc_error_crash(error));
  self->failures = had_good_call ? 0 : self->failures + 1;
  keep_error(self, error);
  if (!atomic_load(&self->shop->closing)) atomic_fetch_add(&self->shop->restarts, 1);
  self->state = WORKER_GONE;
  let_go(self, now_ns);
}

/* Looks whether the process has ended. What it left behind in its group ends with it; the group's number is ours
 * until it is reaped. */
static bool bury_if_ended(struct worker *self, int64_t now_ns) {
  platform_exit exit = {0}; /* -1, not ours to wait for: unknown */
  if (self->pid == 0 || self->state == WORKER_GONE || !(self->may_have_ended || now_ns >= self->due_ns)) return false;
  if (platform_reap(self->pid, self->watches[WORKER_PROCESS].fd, &exit) == 0) return false;
  platform_kill_group(self->pid, SIGKILL);
  bury(self, &exit, now_ns);
  return true;
}

static void end_now(struct worker *self, int64_t now_ns) {
  platform_kill_group(self->pid, SIGKILL);
  if (self->state != WORKER_STARTING) self->state = WORKER_LEAVING;
  self->leaving_step = STEP_KILLED;
  self->due_ns = now_ns + ms(REAP_POLL_MS);
}

void worker_leave(struct worker *self, int64_t grace_ms) {
  if (self->state == WORKER_DOWN || self->state == WORKER_GONE || self->state == WORKER_LEAVING) return;
  bool is_listening = self->state == WORKER_READY;
  self->connection->protocol->finish(self->connection);
  self->state = WORKER_LEAVING;
  self->leaving_step = STEP_ASKED;
  self->due_ns = is_listening ? platform_now_ns() + ms(grace_ms) : 0;
}

/* ---- steps ---- */

static void become_ready(struct worker *self) {
  if (self->state != WORKER_STARTING) return;
  self->state = WORKER_READY;
  self->due_ns = INT64_MAX;
  say(self, PYPROC_LOG_DEBUG, "ready");
  admission_dispatch(self->shop->admission);
  tell(self, PYPROC_EVENT_WORKER_READY, "ready", NULL);
}

/* The connection is of no use: where the process ends by itself, its exit status says more than our signal would. */
static void become_broken(struct worker *self, int64_t now_ns) {
  if (self->state != WORKER_STARTING && self->state != WORKER_READY) return;
  bool hung_up = pyproc_error_code(self->connection->reason) == PYPROC_E_UNAVAILABLE;
  bool failed = self->state == WORKER_STARTING;
  if (self->state == WORKER_READY) self->state = WORKER_LEAVING;
  self->leaving_step = STEP_TERMINATED;
  self->due_ns = hung_up || failed ? now_ns + ms(EXIT_GRACE_MS) : now_ns;
  unwatch(self, WORKER_SOCKET);
}

static void do_what_is_due(struct worker *self, int64_t now_ns) {
  switch (self->state) {
  case WORKER_DOWN:
    if (!atomic_load(&self->shop->closing)) start(self, now_ns);
    break;
  case WORKER_STARTING:
    if (self->verdict == NULL && atomic_load(&self->connection->state) == CONNECTION_HANDSHAKE)
      self->verdict =
          error_new(PYPROC_E_DEADLINE_EXCEEDED,
                    "worker %ld was not ready within %" PRId64 " ms (option start_timeout_ms): does %s call serve()?",
                    (long)self->pid, self->shop->options->start_timeout_ms, self->shop->options->script);
    end_now(self, now_ns);
    break;
  case WORKER_LEAVING:
    if (self->leaving_step == STEP_ASKED) {
      platform_kill_group(self->pid, SIGTERM);
      self->leaving_step = STEP_TERMINATED;
      self->due_ns = now_ns + ms(TERM_GRACE_MS);
    } else {
      end_now(self, now_ns);
    }
    break;
  case WORKER_GONE:
    let_go(self, now_ns);
    break;
  case WORKER_READY:
    break;
  }
}

int64_t worker_step(struct worker *self, int64_t now_ns) {
  if (atomic_exchange(&self->became_ready, false)) become_ready(self);
  if (atomic_exchange(&self->became_broken, false)) become_broken(self, now_ns);
  bury_if_ended(self, now_ns);
  if (now_ns >= self->due_ns) do_what_is_due(self, now_ns);
  if (atomic_exchange(&self->wants_watch, false) && self->state != WORKER_DOWN && self->state != WORKER_GONE)
    watch_socket(self);
  return self->due_ns;
}

void worker_clear(struct worker *self) {
  free_output(self);
  platform_close_fd(self->watches[WORKER_PROCESS].fd);
  pyproc_error_free(self->verdict);
  pyproc_error_free(self->last_error);
}
