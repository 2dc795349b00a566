#include "zygote.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "spawn.h"
#include "worker.h"

enum { ANSWER_MS = 2000, END_MS = 1000, POLL_MS = 50, READ_SIZE = 64 << 10, ARGUMENT_SIZE = 4096 + 16 };
enum { FD_ZYGOTE = 3, FD_HOST };

typedef enum zygote_state { ZYGOTE_IS_DOWN, ZYGOTE_IS_STARTING, ZYGOTE_IS_READY, ZYGOTE_IS_LEAVING } zygote_state;

typedef enum zygote_source { SOURCE_PROCESS, SOURCE_SOCKET, SOURCE_STDOUT, SOURCE_STDERR, SOURCES } zygote_source;

typedef struct zygote_watch {
  poller_watch base; /* first: the poller's tag */
  zygote *zygote;
  zygote_source source;
} zygote_watch;

struct zygote {
  zygote *next;
  worker_shop *shop;
  const worker_edition *edition; /* lives as long as a worker is ours, or its revision is the current one */
  int revision;
  zygote_state state;
  int64_t due_ns, started_ns;
  pid_t pid;
  unsigned life; /* counts its processes */
  int process_fd, socket;
  bool may_have_ended;
  bool has_worked; /* some process of it was ready once */
  bool has_forked; /* this one has */
  bool is_unfit;   /* for good: `why` */
  bool has_pidfds;
  bool is_unwanted;  /* it is to end, and to be forgotten */
  int given_fd;      /* that came along and belongs to the next answer */
  uint64_t asked_id; /* of the request under way */
  zygote_child *asked;
  zygote_child *children; /* all workers that have joined */
  buffer in, out;
  size_t sent;
  zygote_watch watches[SOURCES];
  log_stream *streams[2];
  log_tail *tail;
  backoff backoff;
  pyproc_error *failure; /* it does not work at all */
  char why[ZYGOTE_TEXT_MAX + 64];
};

static int64_t ms(int64_t count) {
  return count * 1000000;
}

static void say(const zygote *self, int level, const char *format, ...) __attribute__((format(printf, 3, 4)));
static void say(const zygote *self, int level, const char *format, ...) {
  char text[ZYGOTE_TEXT_MAX + 256];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  log_write(self->shop->log, level, self->pid, "zygote: %s", text);
}

/* ---- descriptors ---- */

static void watch(zygote *self, zygote_source source, int fd, uint32_t events) {
  poller_change(self->shop->poller, &self->watches[source].base, fd, events);
}

static void close_socket(zygote *self) {
  watch(self, SOURCE_SOCKET, -1, 0);
  platform_close_fd(self->socket);
  platform_close_fd(self->given_fd);
  self->socket = self->given_fd = -1;
  buffer_clear(&self->in);
  buffer_clear(&self->out);
  self->sent = 0;
}

static void free_output(zygote *self) {
  for (int i = 0; i < 2; i++) {
    watch(self, i == 0 ? SOURCE_STDOUT : SOURCE_STDERR, -1, 0);
    log_stream_free(self->streams[i]);
    self->streams[i] = NULL;
  }
  log_tail_free(self->tail);
  self->tail = NULL;
}

/* ---- children ---- */

static void refuse(zygote_child *child, const char *why) {
  child->state = CHILD_NONE;
  child->is_refused = true;
  snprintf(child->why, sizeof child->why, "%s", why);
}

/* Whoever waits for an answer does not get one. */
static void refuse_asked(zygote *self, const char *why) {
  if (self->asked != NULL) {
    platform_close_fd(self->asked->process_fd);
    self->asked->process_fd = -1;
    refuse(self->asked, why);
  }
  self->asked = NULL;
}

static zygote_child *find_child(const zygote *self, uint64_t pid) {
  for (zygote_child *child = self->children; child != NULL; child = child->next)
    if (child->state == CHILD_REAPING && child->life == self->life && (uint64_t)child->pid == pid) return child;
  return NULL;
}

/* ---- end ---- */

/* It is of no use any more. Its children live on. */
static void kill_it(zygote *self, int64_t now_ns) {
  platform_kill_group(self->pid, SIGKILL);
  close_socket(self);
  self->state = ZYGOTE_IS_LEAVING;
  self->due_ns = now_ns + ms(POLL_MS);
}

static void give_up(zygote *self, const char *why, int64_t now_ns) {
  snprintf(self->why, sizeof self->why, "%s", why);
  say(self, PYPROC_LOG_ERROR, "%s: it is killed", why);
  refuse_asked(self, why);
  kill_it(self, now_ns);
}

/* It cannot be had, now or at all: before it was ever ready that is an error of the options. */
static void fail(zygote *self, pyproc_error *error) {
  snprintf(self->why, sizeof self->why, "%.500s", pyproc_error_message(error));
  refuse_asked(self, self->why);
  if (self->has_worked || self->failure != NULL) {
    pyproc_error_free(error);
    return;
  }
  char *tail = self->tail != NULL ? log_tail_text(self->tail) : NULL;
  error_set_worker(error, self->pid);
  error_set_log(error, tail != NULL ? tail : "");
  free(tail);
  self->failure = error;
}

static void describe_exit(const platform_exit *exit, char *text, size_t size) {
  if (exit->known)
    platform_describe_exit(exit, text, size);
  else
    snprintf(text, size, "has ended; the host took its exit status");
}

/* When it is started again: at once where it has worked. */
static void schedule(zygote *self, int64_t now_ns) {
  const struct options *options = self->shop->options;
  const backoff_policy policy = {.max = options->restart_max, .window_ms = options->restart_window_ms};
  bool rests = false;
  self->state = ZYGOTE_IS_DOWN;
  self->due_ns = INT64_MAX;
  if (self->is_unwanted || self->is_unfit || self->failure != NULL) return;
  if (self->has_forked) backoff_reset(&self->backoff);
  int64_t wait_ms = self->has_forked ? 0 : backoff_next(&self->backoff, &policy, now_ns, &rests);
  self->due_ns = now_ns + ms(wait_ms);
  say(self, PYPROC_LOG_WARNING, "a new one is started in %" PRId64 " ms%s; workers that it forked go on", wait_ms,
      rests ? " (options restart_max, restart_window_ms)" : "");
}

static void bury(zygote *self, const platform_exit *exit, int64_t now_ns) {
  char text[160];
  bool is_expected = self->state == ZYGOTE_IS_LEAVING || self->is_unwanted;
  watch(self, SOURCE_PROCESS, -1, 0);
  platform_close_fd(self->process_fd);
  self->process_fd = -1;
  for (int i = 0; i < 2; i++) log_stream_take_last(self->streams[i], self->shop->log);
  describe_exit(exit, text, sizeof text);
  if (!is_expected) {
    say(self, PYPROC_LOG_ERROR, "%s", text);
    fail(self, error_new(PYPROC_E_UNAVAILABLE, "option preload: the zygote %ld %s while it imported %s",
                         (long)self->pid, text, self->edition->options->preload));
    snprintf(self->why, sizeof self->why, "the zygote %ld %s", (long)self->pid, text);
    refuse_asked(self, self->why);
  }
  close_socket(self);
  free_output(self);
  schedule(self, now_ns);
  self->pid = 0;
}

/* What is in its group ends with it, workers are not. */
static bool bury_if_ended(zygote *self, int64_t now_ns) {
  platform_exit exit = {0};
  if (self->pid == 0 || !(self->may_have_ended || now_ns >= self->due_ns)) return false;
  if (platform_reap(self->pid, self->process_fd, &exit) == 0) return false;
  platform_kill_group(self->pid, SIGKILL);
  bury(self, &exit, now_ns);
  return true;
}

/* Asks it to end, where it listens. */
static void dismiss(zygote *self, int64_t now_ns) {
  self->is_unwanted = true;
  self->edition = NULL;
  if (self->state == ZYGOTE_IS_DOWN || self->state == ZYGOTE_IS_LEAVING) return;
  if (self->state != ZYGOTE_IS_READY) {
    kill_it(self, now_ns);
    return;
  }
  close_socket(self);
  self->state = ZYGOTE_IS_LEAVING;
  self->due_ns = now_ns + ms(END_MS);
}

/* ---- what it says ---- */

static void become_ready(zygote *self, const zygote_answer *answer, int64_t now_ns) {
  self->state = ZYGOTE_IS_READY;
  self->due_ns = INT64_MAX;
  self->has_pidfds = answer->has_pidfds && self->shop->has_pidfds;
  self->has_worked = true;
  say(self, PYPROC_LOG_INFO, "ready after %" PRId64 " ms: it has imported %s", (now_ns - self->started_ns) / 1000000,
      self->edition->options->preload);
}

static void become_unfit(zygote *self, const zygote_answer *answer, int64_t now_ns) {
  self->is_unfit = true;
  snprintf(self->why, sizeof self->why, "with option preload \"%.200s\" a fork is not safe: %.300s",
           self->edition->options->preload, answer->text);
  say(self, PYPROC_LOG_WARNING, "%s; workers are started by exec", self->why);
  self->state = ZYGOTE_IS_LEAVING;
  self->due_ns = now_ns + ms(END_MS);
}

static void become_failed(zygote *self, const zygote_answer *answer, int64_t now_ns) {
  pyproc_error *error = error_from_object(PYPROC_E_FAILED_PRECONDITION, answer->object, answer->object_size);
  for (int i = 0; i < 2; i++) log_stream_take_last(self->streams[i], self->shop->log); /* it has written it before */
  error_prefix(error, "option preload, %s: ", self->edition->python);
  say(self, PYPROC_LOG_ERROR, "%s", pyproc_error_message(error));
  fail(self, error);
  self->state = ZYGOTE_IS_LEAVING;
  self->due_ns = now_ns + ms(END_MS);
}

/* The pid is only taken for what the zygote says where its parent is the zygote: we shall signal it. */
static bool is_ours(const zygote *self, pid_t pid) {
  pid_t parent = platform_parent_of(pid);
  return parent < 0 || parent == self->pid;
}

static bool take_child(zygote *self, const zygote_answer *answer) {
  zygote_child *child = self->asked;
  int fd = self->given_fd;
  self->given_fd = -1;
  if (child == NULL || answer->id != self->asked_id || !is_ours(self, answer->pid) || (fd >= 0) != self->has_pidfds) {
    platform_close_fd(fd);
    return false;
  }
  self->asked = NULL;
  self->has_forked = true;
  self->due_ns = INT64_MAX;
  child->pid = answer->pid;
  child->has_pidfd = fd >= 0;
  child->life = self->life;
  child->state = CHILD_RUNS;
  if (fd >= 0) child->process_fd = fd;
  return true;
}

static bool take_refusal(zygote *self, const zygote_answer *answer) {
  char why[ZYGOTE_TEXT_MAX + 64];
  if (self->asked == NULL || answer->id != self->asked_id) return false;
  snprintf(why, sizeof why, "the zygote cannot fork: %s", answer->text);
  refuse_asked(self, why);
  self->due_ns = INT64_MAX;
  return true;
}

static bool take_status(zygote *self, const zygote_answer *answer) {
  zygote_child *child = find_child(self, answer->id);
  if (child == NULL) return false;
  child->state = answer->kind == ZYGOTE_ENDED ? CHILD_ENDED : CHILD_RUNS;
  child->exit = answer->exit;
  return true;
}

/* False: it makes no sense. */
static bool take_answer(zygote *self, const zygote_answer *answer, int64_t now_ns) {
  bool is_starting = self->state == ZYGOTE_IS_STARTING;
  switch (answer->kind) {
  case ZYGOTE_READY:
    if (is_starting) become_ready(self, answer, now_ns);
    return is_starting;
  case ZYGOTE_UNFIT:
    if (is_starting) become_unfit(self, answer, now_ns);
    return is_starting;
  case ZYGOTE_FAILED:
    if (is_starting) become_failed(self, answer, now_ns);
    return is_starting;
  case ZYGOTE_FORKED:
    return take_child(self, answer);
  case ZYGOTE_NOT_FORKED:
    return take_refusal(self, answer);
  default:
    return take_status(self, answer);
  }
}

static void take_answers(zygote *self, int64_t now_ns) {
  size_t used = 0;
  ptrdiff_t size = 0;
  zygote_answer answer;
  while (self->socket >= 0 && (size = zygote_frame_read(self->in.data + used, self->in.size - used, &answer)) > 0) {
    used += (size_t)size;
    if (!take_answer(self, &answer, now_ns)) size = -1;
    if (size < 0) break;
  }
  if (size < 0) {
    give_up(self, "the zygote sent what makes no sense", now_ns);
    return;
  }
  if (used == 0 || self->in.size < used) return;
  memmove(self->in.data, self->in.data + used, self->in.size - used);
  self->in.size -= used;
}

static void read_socket(zygote *self, int64_t now_ns) {
  int fd = -1;
  if (!buffer_reserve(&self->in, READ_SIZE)) {
    give_up(self, "no memory for what the zygote says", now_ns);
    return;
  }
  ssize_t got = platform_receive_fd(self->socket, self->in.data + self->in.size, READ_SIZE, &fd);
  if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) return;
  if (got <= 0) { /* it is about to end, which says more */
    watch(self, SOURCE_SOCKET, -1, 0);
    if (self->state != ZYGOTE_IS_LEAVING) self->due_ns = now_ns + ms(END_MS);
    return;
  }
  if (fd >= 0 && self->given_fd >= 0) {
    platform_close_fd(fd);
    give_up(self, "the zygote sent what makes no sense", now_ns);
    return;
  }
  if (fd >= 0) self->given_fd = fd;
  self->in.size += (size_t)got;
  take_answers(self, now_ns);
}

/* ---- what it is told ---- */

/* Sends what there is to send. -1 with errno: nothing of it went out. */
static int send_out(zygote *self, const int *fds, int count) {
  while (self->sent < self->out.size) {
    ssize_t sent =
        platform_send_fds(self->socket, self->out.data + self->sent, self->out.size - self->sent, fds, count);
    if (sent < 0 && self->sent == 0 && count > 0) return -1;
    if (sent < 0) break; /* later; or it has gone, which its end tells */
    self->sent += (size_t)sent;
    count = 0;
  }
  if (self->sent == self->out.size) {
    buffer_clear(&self->out);
    self->sent = 0;
  }
  watch(self, SOURCE_SOCKET, self->socket, self->out.size > 0 ? POLLER_IN | POLLER_OUT : POLLER_IN);
  return 0;
}

static void handle(poller_watch *base, uint32_t events) {
  const zygote_watch *watched = (const zygote_watch *)(const void *)base;
  zygote *self = watched->zygote;
  int which = watched->source == SOURCE_STDOUT ? 0 : 1;
  switch (watched->source) {
  case SOURCE_SOCKET:
    if (events & POLLER_OUT) send_out(self, NULL, 0);
    if (events & (POLLER_IN | POLLER_HANGUP)) read_socket(self, platform_now_ns());
    break;
  case SOURCE_STDOUT:
  case SOURCE_STDERR:
    if (self->streams[which] != NULL && log_stream_read(self->streams[which], self->shop->log) == 0)
      watch(self, watched->source, -1, 0);
    break;
  default:
    self->may_have_ended = true;
    break;
  }
}

/* ---- start ---- */

typedef struct zygote_ends {
  int out[2], err[2], wire[2];
} zygote_ends;

static void close_ends(zygote_ends *ends) {
  for (int i = 0; i < 2; i++) {
    platform_close_fd(ends->out[i]);
    platform_close_fd(ends->err[i]);
    platform_close_fd(ends->wire[i]);
  }
}

static int spawn(zygote *self, const zygote_ends *ends, pyproc_error **reterr) {
  const struct options *options = self->edition->options;
  char modules[ARGUMENT_SIZE];
  static const char *const own[] = {"PYPROC_ZYGOTE_FD=3", "PYPROC_HOST_FD=4", NULL};
  snprintf(modules, sizeof modules, "--zygote=%s", options->preload);
  /* spawn does not write to them */
  char *argv[] = {(char *)(uintptr_t)self->edition->python, (char *)(uintptr_t)self->shop->bootstrap, modules,
                  options->script, NULL};
  char **env = spawn_environment(options->clear_env != 0, (const char *const *)options->env, own);
  if (env == NULL) return error_set(reterr, PYPROC_E_RESOURCE_EXHAUSTED, "out of memory");
  const int fds[] = {-1, ends->out[1], ends->err[1], [FD_ZYGOTE] = ends->wire[1], [FD_HOST] = self->shop->host_fd};
  const spawn_request request = {.program = self->edition->python,
                                 .argv = argv,
                                 .envp = env,
                                 .cwd = options->cwd,
                                 .fds = fds,
                                 .fd_count = sizeof fds / sizeof *fds,
                                 .dies_with_host =
                                     true, /* also while it imports; its children watch the host themselves */
                                 .limits = &options->limits};
  int result = spawn_process(&request, &self->pid, &self->process_fd, reterr);
  free(env);
  return result;
}

static void adopt(zygote *self, zygote_ends *ends) {
  self->tail = log_tail_new();
  self->streams[0] = log_stream_new(ends->out[0], PYPROC_LOG_INFO, "stdout", self->tail);
  self->streams[1] = log_stream_new(ends->err[0], PYPROC_LOG_WARNING, "stderr", self->tail);
  self->socket = ends->wire[0];
  ends->out[0] = ends->err[0] = ends->wire[0] = -1;
  watch(self, SOURCE_PROCESS, self->process_fd, POLLER_IN);
  watch(self, SOURCE_SOCKET, self->socket, POLLER_IN);
  for (int i = 0; i < 2; i++) {
    if (self->streams[i] == NULL) continue;
    log_stream_set_pid(self->streams[i], self->pid);
    watch(self, i == 0 ? SOURCE_STDOUT : SOURCE_STDERR, log_stream_fd(self->streams[i]), POLLER_IN);
  }
}

static void start(zygote *self, int64_t now_ns) {
  zygote_ends ends = {{-1, -1}, {-1, -1}, {-1, -1}};
  pyproc_error *error = NULL;
  char text[128];
  int result = PYPROC_OK;
  self->may_have_ended = self->has_forked = false;
  if (platform_pipe(ends.out) < 0 || platform_pipe(ends.err) < 0 || platform_socketpair(ends.wire) < 0)
    result =
        error_set(&error, PYPROC_E_RESOURCE_EXHAUSTED, "no socket for the zygote: %s (limit of open files: ulimit -n)",
                  platform_error_text(errno, text, sizeof text));
  if (result >= 0) {
    process_limits_give(&self->edition->options->limits, ends.out[1]);
    process_limits_give(&self->edition->options->limits, ends.err[1]);
    result = spawn(self, &ends, &error);
  }
  if (result >= 0) {
    self->life++;
    adopt(self, &ends);
    self->state = ZYGOTE_IS_STARTING;
    self->started_ns = now_ns;
    self->due_ns = now_ns + ms(self->edition->options->start_timeout_ms);
  } else { /* a worker that is started without it meets the same, and says so */
    snprintf(self->why, sizeof self->why, "%.500s", pyproc_error_message(error));
    schedule(self, now_ns);
  }
  pyproc_error_free(error);
  close_ends(&ends);
}

static zygote *make(worker_shop *shop, const worker_edition *edition) {
  zygote *self = calloc(1, sizeof *self);
  if (self == NULL) return NULL;
  *self = (zygote){.shop = shop, .edition = edition, .revision = edition->revision, .next = shop->zygotes};
  self->process_fd = self->socket = self->given_fd = -1;
  for (int i = 0; i < SOURCES; i++)
    self->watches[i] = (zygote_watch){.base = {.handle = handle, .fd = -1}, .zygote = self, .source = (zygote_source)i};
  shop->zygotes = self;
  return self;
}

int zygote_join(worker_shop *shop, const worker_edition *edition, zygote_child *child, pyproc_error **reterr) {
  zygote *self = shop->zygotes;
  while (self != NULL && (self->is_unwanted || self->revision != edition->revision)) self = self->next;
  if (self == NULL) self = make(shop, edition);
  if (self == NULL) return error_set(reterr, PYPROC_E_RESOURCE_EXHAUSTED, "out of memory");
  *child = (zygote_child){.zygote = self, .next = self->children, .process_fd = -1};
  self->children = child;
  return PYPROC_OK;
}

void zygote_leave(zygote_child *child) {
  if (child->zygote == NULL) return;
  zygote_child **at = &child->zygote->children;
  while (*at != child) at = &(*at)->next;
  *at = child->next;
  if (child->zygote->asked == child) child->zygote->asked = NULL;
  *child = (zygote_child){.process_fd = -1};
}

/* ---- forks ---- */

const pyproc_error *zygote_failure(const zygote_child *child) {
  return child->zygote->failure;
}

static zygote_offer cannot(zygote_child *child, const char *why) {
  refuse(child, why);
  return ZYGOTE_CANNOT;
}

zygote_offer zygote_ask(zygote_child *child, int64_t now_ns) {
  zygote *self = child->zygote;
  if (self->failure != NULL) return ZYGOTE_FAILS;
  if (self->is_unfit) return cannot(child, self->why);
  if (self->state == ZYGOTE_IS_DOWN && self->life == 0) start(self, now_ns);
  switch (self->state) {
  case ZYGOTE_IS_STARTING:
    return ZYGOTE_LATER;
  case ZYGOTE_IS_READY:
    return self->asked != NULL || self->out.size > 0 ? ZYGOTE_LATER : ZYGOTE_WILL_FORK;
  default:
    return cannot(child, self->why);
  }
}

/* A pipe that the child keeps until it ends. */
static int open_death_pipe(zygote_child *child, int *ret_theirs) {
  int fds[2];
  if (platform_pipe(fds) < 0) return -1;
  child->process_fd = fds[0];
  *ret_theirs = fds[1];
  return 0;
}

zygote_offer zygote_fork(zygote_child *child, const zygote_request *request, const int fds[4], int64_t now_ns) {
  zygote *self = child->zygote;
  char text[128], why[256];
  int given[PLATFORM_FDS_MAX] = {fds[0], fds[1], fds[2]}, pipe = -1;
  int count = 3;
  if (fds[3] >= 0) given[count++] = fds[3];
  if (!self->has_pidfds) {
    if (open_death_pipe(child, &pipe) < 0) return cannot(child, "no pipe: raise the limit of open files (ulimit -n)");
    given[count++] = pipe;
  }
  zygote_offer offer = ZYGOTE_WILL_FORK;
  if (!zygote_frame_fork(&self->out, self->asked_id + 1, request)) {
    offer = cannot(child, "environment and arguments are too large for a request to the zygote");
  } else if (send_out(self, given, count) < 0) {
    int errnum = errno;
    buffer_clear(&self->out);
    snprintf(why, sizeof why, "the zygote cannot be asked: %s", platform_error_text(errnum, text, sizeof text));
    offer = cannot(child, why);
  }
  platform_close_fd(pipe);
  if (offer != ZYGOTE_WILL_FORK) {
    platform_close_fd(child->process_fd);
    child->process_fd = -1;
    return offer;
  }
  self->asked_id++;
  self->asked = child;
  child->state = CHILD_ASKED;
  child->is_refused = false;
  self->due_ns = now_ns + ms(ANSWER_MS);
  return ZYGOTE_WILL_FORK;
}

/* ---- ends of children ---- */

static bool is_readable(int fd) {
  struct pollfd polled = {.fd = fd, .events = POLLIN};
  return platform_poll(&polled, 1, 0) > 0;
}

static bool is_gone(pid_t pid) {
  return kill(pid, 0) < 0 && errno == ESRCH;
}

/* The process that forked it is there no more, or is on its way. */
static bool is_orphan(const zygote_child *child) {
  const zygote *self = child->zygote;
  return self->life != child->life || self->state != ZYGOTE_IS_READY || self->socket < 0;
}

static int end_unknown(zygote_child *child, platform_exit *ret) {
  platform_kill_group(child->pid, SIGKILL);
  child->state = CHILD_ENDED;
  child->exit = *ret = (platform_exit){0};
  return 1;
}

/* The child's number, and so its group's, is its own until the zygote is told to wait for it. */
static int reap_running(zygote_child *child, int64_t now_ns, platform_exit *ret) {
  bool has_ended = is_readable(child->process_fd);
  if (!has_ended && child->has_pidfd) return 0;
  if (is_orphan(child)) return has_ended || is_gone(child->pid) ? end_unknown(child, ret) : 0;
  if (has_ended) platform_kill_group(child->pid, SIGKILL);
  if (!zygote_frame_reap(&child->zygote->out, child->pid)) return 0; /* no memory: another time */
  child->state = CHILD_REAPING;
  child->asked_ns = now_ns;
  send_out(child->zygote, NULL, 0);
  return 0;
}

int zygote_reap(zygote_child *child, int64_t now_ns, platform_exit *ret) {
  switch (child->state) {
  case CHILD_RUNS:
    return reap_running(child, now_ns, ret);
  case CHILD_REAPING:
    if (!is_orphan(child) && now_ns - child->asked_ns < ms(ANSWER_MS)) return 0;
    if (!is_orphan(child)) give_up(child->zygote, "the zygote did not say how a worker had ended", now_ns);
    if (is_readable(child->process_fd)) return end_unknown(child, ret);
    child->state = CHILD_RUNS; /* it was asked too early */
    return 0;
  default:
    *ret = child->exit;
    return 1;
  }
}

/* ---- steps ---- */

static void do_what_is_due(zygote *self, bool is_current, int64_t now_ns) {
  char why[160];
  switch (self->state) {
  case ZYGOTE_IS_DOWN:
    self->due_ns = INT64_MAX;
    if (is_current && !self->is_unfit && self->failure == NULL) start(self, now_ns);
    break;
  case ZYGOTE_IS_STARTING:
    snprintf(why, sizeof why, "the zygote was not ready within %" PRId64 " ms (option start_timeout_ms)",
             self->edition->options->start_timeout_ms);
    fail(self, error_new(PYPROC_E_DEADLINE_EXCEEDED, "option preload: %s: it imports %s", why,
                         self->edition->options->preload));
    give_up(self, why, now_ns);
    break;
  case ZYGOTE_IS_READY:
    snprintf(why, sizeof why, "the zygote %ld did not answer within %d ms", (long)self->pid, ANSWER_MS);
    give_up(self, why, now_ns);
    break;
  case ZYGOTE_IS_LEAVING:
    kill_it(self, now_ns);
    break;
  }
}

/* At once again where something has happened, which workers may wait for. */
static int64_t step(zygote *self, bool is_current, int64_t now_ns) {
  if (!is_current && self->children == NULL && !self->is_unwanted) dismiss(self, now_ns);
  bool has_acted = bury_if_ended(self, now_ns) || now_ns >= self->due_ns;
  if (now_ns >= self->due_ns) do_what_is_due(self, is_current, now_ns);
  return has_acted ? now_ns : self->due_ns;
}

/* Leaves the poller alone: in a forked child of the host it is the parent's. */
static void free_it(zygote *self) {
  for (int i = 0; i < 2; i++) log_stream_free(self->streams[i]);
  log_tail_free(self->tail);
  platform_close_fd(self->socket);
  platform_close_fd(self->given_fd);
  platform_close_fd(self->process_fd);
  pyproc_error_free(self->failure);
  buffer_free(&self->in);
  buffer_free(&self->out);
  free(self);
}

int64_t zygote_step_all(worker_shop *shop, int revision, bool closing, int64_t now_ns) {
  int64_t due = INT64_MAX;
  for (zygote **at = &shop->zygotes; *at != NULL;) {
    zygote *self = *at;
    int64_t next = step(self, !closing && self->revision == revision, now_ns);
    if (next < due) due = next;
    if (self->is_unwanted && self->state == ZYGOTE_IS_DOWN) {
      *at = self->next;
      free_it(self);
    } else {
      at = &self->next;
    }
  }
  return due;
}

void zygote_free_all(worker_shop *shop) {
  while (shop->zygotes != NULL) {
    zygote *self = shop->zygotes;
    shop->zygotes = self->next;
    free_it(self);
  }
}
