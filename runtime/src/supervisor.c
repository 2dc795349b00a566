#include "supervisor.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "error.h"
#include "grpc_module.h"
#include "guard.h"
#include "private_dir.h"
#include "remote.h"
#include "roster.h"
#include "spawn.h"

enum { EVENTS_MAX = 64, LOG_BATCH = 64, PATH_SIZE = SUPERVISOR_PATH_SIZE, BALANCE_NS = 2000000 };

#ifndef PYPROC_WORKER_DIR
#define PYPROC_WORKER_DIR "/usr/local/lib/pyproc/worker"
#endif

struct supervisor {
  const struct options *options;
  supervisor_tick tick;
  worker_shop shop;
  roster roster;
  remote remote;      /* with option target: instead of workers */
  private_dir folder; /* for the sockets of gRPC's workers */
  poller poller;
  wake wake;
  int host_fd, host_keep_fd;
  char python[PATH_SIZE], bootstrap[PATH_SIZE];
  pthread_t thread;
  bool has_thread;

  pthread_mutex_t lock; /* the rest; and for the opener to wait on */
  pthread_cond_t changed;
  _Atomic int ready_count;
  pyproc_error *last_error; /* of the worker that failed last */
  int64_t failures;         /* how many did */
  change *asked;            /* for, and not begun yet */
  bool is_changing;         /* somebody waits for a change to be over */
  bool is_over;             /* the thread serves no more */
};

/* A server elsewhere takes the place of workers. */
static bool is_remote(const struct supervisor *self) {
  return self->options->target != NULL;
}

/* ---- opening ---- */

/* The folder with the worker package: beside the library, beside the program's lib folder, or where it was installed.
 * */
static int find_bootstrap(char *path, size_t size, pyproc_error **reterr) {
  char folder[PATH_SIZE];
  const char *own = platform_library_dir(folder, sizeof folder);
  const char *const places[] = {"pyproc/worker", "../lib/pyproc/worker"};
  for (size_t i = 0; own != NULL && i < sizeof places / sizeof *places; i++) {
    int length = snprintf(path, size, "%s/%s/pyproc_bootstrap.py", own, places[i]);
    if (length > 0 && (size_t)length < size && access(path, R_OK) == 0) return PYPROC_OK;
  }
  snprintf(path, size, "%s/pyproc_bootstrap.py", PYPROC_WORKER_DIR);
  if (access(path, R_OK) == 0) return PYPROC_OK;
  return error_set(reterr, PYPROC_E_NOT_FOUND,
                   "the worker package is missing: no %s; install the library with make install", path);
}

static int check_script(const char *script, pyproc_error **reterr) {
  char text[128];
  struct stat about;
  if (stat(script, &about) < 0)
    return error_set(reterr, errno == EACCES ? PYPROC_E_PERMISSION_DENIED : PYPROC_E_NOT_FOUND, "option script: %s: %s",
                     script, platform_error_text(errno, text, sizeof text));
  if (S_ISDIR(about.st_mode))
    return error_set(reterr, PYPROC_E_INVALID_ARGUMENT, "option script: %s is a folder", script);
  if (access(script, R_OK) < 0)
    return error_set(reterr, PYPROC_E_PERMISSION_DENIED, "option script: %s cannot be read", script);
  return PYPROC_OK;
}

static void wake_thread(void *argument) {
  wake_signal(&((struct supervisor *)argument)->wake);
}

/* All that a worker is started from, and the folder for its socket. */
static int find_files(struct supervisor *self, pyproc_error **reterr) {
  const struct options *options = self->options;
  int result = supervisor_find_python(options, self->python, sizeof self->python, reterr);
  if (result >= 0 && !options->bare_workers) result = find_bootstrap(self->bootstrap, sizeof self->bootstrap, reterr);
  if (result >= 0 && options->grpc) result = private_dir_open(&self->folder, reterr);
  if (result >= 0 && options->grpc) result = process_limits_give_folder(&options->limits, self->folder.path, reterr);
  return result;
}

static bool has_pidfds(void) {
  int fd = platform_process_watch(getpid());
  platform_close_fd(fd);
  return fd >= 0;
}

static int open_shop(struct supervisor *self, struct admission *admission, pyproc_error **reterr) {
  const struct options *options = self->options;
  bool has_processes = !is_remote(self) && options->socket_path == NULL;
  int result = has_processes ? find_files(self, reterr) : PYPROC_OK;
  if (result < 0) return result;
  if (wake_open(&self->wake) < 0 || poller_open(&self->poller) < 0 ||
      platform_host_watch(&self->host_fd, &self->host_keep_fd) < 0 ||
      poller_set(&self->poller, self->wake.read_fd, POLLER_IN, NULL) < 0)
    return error_set(reterr, PYPROC_E_RESOURCE_EXHAUSTED,
                     "no descriptor left for the pool: raise the limit of open files (ulimit -n)");
  log_queue_options log = {.level = options->log_level,
                           .callback = options->log,
                           .userdata = options->log_userdata,
                           .wake = wake_thread,
                           .wake_argument = self};
  self->shop =
      (worker_shop){.options = options,
                    .launch = options->socket_path != NULL ? &launch_attached
                              : options->bare_workers      ? &launch_listening
                                                           : &launch_inherited,
                    .bootstrap = self->bootstrap,
                    .breaker = {.failures = options->breaker_failures, .cooldown_ms = options->breaker_cooldown_ms},
                    .admission = admission,
                    .poller = &self->poller,
                    .log = log_queue_new(&log),
                    .wake = &self->wake,
                    .host_fd = self->host_fd,
                    .has_pidfds = has_pidfds()};
  return self->shop.log != NULL ? PYPROC_OK : error_set(reterr, PYPROC_E_RESOURCE_EXHAUSTED, "out of memory");
}

static int make_places(struct supervisor *self, struct lot *lot, pyproc_error **reterr) {
  const struct options *options = self->options;
  const protocol *spoken = &protocol_framed;
  int result = options->grpc ? grpc_module_load(&spoken, reterr) : PYPROC_OK;
  if (result < 0) return result;
  const connection_settings settings = {.codec = options->codec,
                                        .lot = lot,
                                        .services = options->services,
                                        .frame_limit = options->frame_limit,
                                        .spin_ns = options->spin_ns,
                                        .cpu_count = platform_cpu_count(),
                                        .workers_ready = &self->ready_count,
                                        .cancel_grace_ms = options->cancel_grace_ms,
                                        .max_in_flight = (int)options->max_in_flight,
                                        .max_streams = (int)options->max_streams,
                                        .stream_window = options->stream_window,
                                        .bare = options->bare_workers,
                                        .poison = options->poison_limit > 0 ? self->shop.admission->poison : NULL,
                                        .channel = options->channel,
                                        .ring_bytes = (uint32_t)options->ring_bytes,
                                        .attached = options->socket_path != NULL,
                                        .folder = &self->folder,
                                        .target = options->target,
                                        .tls_ca_file = options->tls_ca_file,
                                        .tls_cert_file = options->tls_cert_file,
                                        .tls_key_file = options->tls_key_file,
                                        .authorization = options->authorization};
  if (is_remote(self))
    return remote_create(&self->remote, self->shop.admission, &self->wake, spoken, &settings, reterr);
  return roster_open(&self->roster, &self->shop, spoken, &settings, self->python, reterr);
}

/* ---- the thread ---- */

/* Counts what others may ask for. Returns whether anything runs. */
static bool take_stock(struct supervisor *self) {
  int ready = 0;
  bool running = self->shop.zygotes != NULL;
  int64_t failures = 0;
  pthread_mutex_lock(&self->lock);
  if (is_remote(self)) {
    ready = running = self->remote.is_open;
    failures = self->remote.failure != NULL;
    if (self->last_error == NULL && failures > 0) self->last_error = error_copy(self->remote.failure);
  }
  for (int i = 0; i < self->roster.count; i++) {
    struct worker *worker = &self->roster.entries[i]->worker;
    ready += worker->state == WORKER_READY;
    running |= worker->state != WORKER_DOWN;
    failures += worker->backoff.in_a_row;
    if (worker->last_error == NULL) continue;
    pyproc_error_free(self->last_error);
    self->last_error = worker->last_error;
    worker->last_error = NULL;
  }
  bool changed = ready != atomic_load(&self->ready_count) || failures != self->failures;
  atomic_store(&self->ready_count, ready);
  self->failures = failures;
  if (changed) pthread_cond_broadcast(&self->changed);
  pthread_mutex_unlock(&self->lock);
  return running;
}

static int64_t step_remote(struct supervisor *self, bool closing) {
  if (closing) remote_leave(&self->remote);
  return remote_step(&self->remote, platform_now_ns());
}

static int64_t step_processes(struct supervisor *self, bool closing) {
  int64_t now = platform_now_ns(), due = INT64_MAX;
  for (int i = 0; i < self->roster.count; i++) {
    struct worker *worker = &self->roster.entries[i]->worker;
    if (closing) worker_leave(worker, self->options->drain_timeout_ms);
    int64_t next = worker_step(worker, now);
    if (next < due && !(closing && worker->state == WORKER_DOWN)) due = next;
  }
  return due;
}

/* Begins what was asked for, goes on with what was begun, and tells who waits for it. */
static int64_t step_roster(struct supervisor *self, bool closing) {
  const change *before = self->roster.change;
  pthread_mutex_lock(&self->lock);
  change *asked = self->asked;
  self->asked = NULL;
  pthread_mutex_unlock(&self->lock);
  if (asked != NULL) {
    guard_try(&self->shop, &self->roster);
    roster_begin(&self->roster, asked);
  }
  if (closing) roster_abandon(&self->roster, PYPROC_E_UNAVAILABLE, "the pool was closed meanwhile");
  int64_t due = closing ? INT64_MAX : roster_step(&self->roster, platform_now_ns());
  if (self->roster.change == NULL && (before != NULL || asked != NULL)) {
    pthread_mutex_lock(&self->lock);
    pthread_cond_broadcast(&self->changed);
    pthread_mutex_unlock(&self->lock);
  }
  return due;
}

static int64_t step_workers(struct supervisor *self, bool closing) {
  int64_t due = step_processes(self, closing);
  int64_t guarded = closing ? INT64_MAX : guard_step(&self->shop, &self->roster, platform_now_ns());
  int64_t moved = step_roster(self, closing);
  int64_t forking = zygote_step_all(&self->shop, self->roster.current->revision, closing, platform_now_ns());
  if (guarded < due) due = guarded;
  if (forking < due) due = forking;
  return moved < due ? moved : due;
}

static int64_t balance(struct supervisor *self, int64_t due) {
  if (!atomic_load(&self->shop.lopsided)) return due;
  admission_balance(self->shop.admission, BALANCE_NS);
  atomic_store(&self->shop.lopsided,
               admission_is_lopsided(self->shop.admission) || admission_is_narrow(self->shop.admission));
  int64_t again = platform_now_ns() + BALANCE_NS;
  return atomic_load(&self->shop.lopsided) && again < due ? again : due;
}

static void wait_for_events(struct supervisor *self, int64_t due) {
  poller_event events[EVENTS_MAX];
  int64_t now = platform_now_ns();
  int count = poller_wait(&self->poller, events, EVENTS_MAX, due == INT64_MAX ? -1 : due > now ? due - now : 0);
  for (int i = 0; i < count; i++) {
    poller_watch *watch = events[i].tag;
    if (watch == NULL)
      wake_drain(&self->wake);
    else
      watch->handle(watch, events[i].events);
  }
}

static void *run(void *argument) {
  struct supervisor *self = argument;
  for (;;) {
    bool closing = atomic_load(&self->shop.closing);
    int64_t due = is_remote(self) ? step_remote(self, closing) : step_workers(self, closing);
    bool running = take_stock(self);
    if (closing && !running) break;
    due = balance(self, due);
    int64_t next = self->tick.run(self->tick.argument, platform_now_ns());
    if (next < due) due = next;
    if (log_deliver(self->shop.log, LOG_BATCH)) due = 0; /* more lines wait */
    wait_for_events(self, due);
  }
  while (log_deliver(self->shop.log, LOG_BATCH)) {}
  pthread_mutex_lock(&self->lock);
  self->is_over = true;
  pthread_cond_broadcast(&self->changed);
  pthread_mutex_unlock(&self->lock);
  return NULL;
}

static int start_thread(struct supervisor *self, pyproc_error **reterr) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all,
                  &before); /* the thread inherits the mask: no signal of the host's is handled on it */
  self->has_thread = pthread_create(&self->thread, NULL, run, self) == 0;
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return self->has_thread ? PYPROC_OK
                          : error_set(reterr, PYPROC_E_RESOURCE_EXHAUSTED, "no thread left for the pool's supervisor");
}

static int wait_until_ready(struct supervisor *self, pyproc_error **reterr) {
  int result = PYPROC_OK;
  pthread_mutex_lock(&self->lock);
  while (self->failures == 0 && atomic_load(&self->ready_count) < self->options->workers)
    pthread_cond_wait(&self->changed, &self->lock);
  if (self->failures > 0) {
    pyproc_error *error = self->last_error != NULL ? error_copy(self->last_error)
                                                   : error_new(PYPROC_E_UNAVAILABLE, "a worker did not start");
    result = error_give(reterr, error);
  }
  pthread_mutex_unlock(&self->lock);
  return result;
}

int supervisor_open(const struct options *options, struct lot *lot, struct admission *admission, supervisor_tick tick,
                    struct supervisor **ret_supervisor, pyproc_error **reterr) {
  struct supervisor *self = calloc(1, sizeof *self);
  if (self == NULL) return error_set(reterr, PYPROC_E_RESOURCE_EXHAUSTED, "out of memory");
  self->options = options;
  self->tick = tick;
  self->poller.fd = self->wake.read_fd = self->wake.write_fd = self->host_fd = self->host_keep_fd = -1;
  pthread_mutex_init(&self->lock, NULL);
  pthread_cond_init(&self->changed, NULL);
  int result = open_shop(self, admission, reterr);
  if (result >= 0) result = make_places(self, lot, reterr);
  if (result >= 0) result = start_thread(self, reterr);
  if (result >= 0) result = wait_until_ready(self, reterr);
  if (result >= 0) {
    *ret_supervisor = self;
    return PYPROC_OK;
  }
  supervisor_stop(self);
  supervisor_free(self);
  return result;
}

void supervisor_stop(struct supervisor *self) {
  if (!self->has_thread) return;
  atomic_store(&self->shop.closing, true);
  wake_signal(&self->wake);
  pthread_join(self->thread, NULL);
  self->has_thread = false;
}

void supervisor_free(struct supervisor *self) {
  roster_close(&self->roster);
  zygote_free_all(&self->shop);
  remote_destroy(&self->remote);
  if (!self->has_thread) private_dir_remove(&self->folder); /* in a forked child it is the parent's */
  if (self->shop.log != NULL) log_queue_free(self->shop.log);
  poller_close(&self->poller);
  wake_close(&self->wake);
  platform_close_fd(self->host_fd);
  platform_close_fd(self->host_keep_fd);
  pyproc_error_free(self->last_error);
  if (!self->has_thread) { /* in a forked child somebody may seem to wait for ever */
    pthread_cond_destroy(&self->changed);
    pthread_mutex_destroy(&self->lock);
  }
  free(self);
}

void supervisor_wake(struct supervisor *self) {
  wake_signal(&self->wake);
}

/* Counted where calls look, too: a worker that answers is never said not to be ready. */
int supervisor_ready_workers(const struct supervisor *self) {
  const struct admission *admission = self->shop.admission;
  int ready = 0, count = atomic_load(&admission->count);
  for (int i = 0; i < count; i++) {
    struct connection *one = admission->connections[i];
    if (one->protocol->is_reached != NULL && !one->protocol->is_reached(one)) continue;
    ready += atomic_load(&one->state) == CONNECTION_OPEN && atomic_load(&one->capacity) > 0;
  }
  return ready;
}

int supervisor_wanted_workers(const struct supervisor *self) {
  return atomic_load(&self->shop.admission->workers);
}

int supervisor_change(struct supervisor *self, change *wanted, pyproc_error **reterr) {
  bool is_over;
  pthread_mutex_lock(&self->lock);
  while (self->is_changing && !self->is_over) pthread_cond_wait(&self->changed, &self->lock);
  self->is_changing = true;
  if (wanted->workers == 0) wanted->workers = supervisor_wanted_workers(self);
  self->asked = wanted;
  wake_signal(&self->wake);
  while (!atomic_load(&wanted->is_done) && !self->is_over) pthread_cond_wait(&self->changed, &self->lock);
  is_over = !atomic_load(&wanted->is_done);
  self->is_changing = false;
  pthread_cond_broadcast(&self->changed);
  pthread_mutex_unlock(&self->lock);
  if (is_over) return error_set(reterr, PYPROC_E_UNAVAILABLE, "the pool was closed");
  return wanted->error != NULL ? error_give(reterr, wanted->error) : PYPROC_OK;
}

int supervisor_find_python(const struct options *options, char *path, size_t size, pyproc_error **reterr) {
  int result = check_script(options->script, reterr);
  return result >= 0 ? spawn_find_program(options->python, path, size, reterr) : result;
}

bool supervisor_breaker_is_open(const struct supervisor *self) {
  return admission_is_broken(self->shop.admission);
}

int64_t supervisor_restarts(const struct supervisor *self) {
  return atomic_load(&self->shop.restarts);
}

pyproc_error *supervisor_last_error(struct supervisor *self) {
  pthread_mutex_lock(&self->lock);
  pyproc_error *error = self->last_error != NULL ? error_copy(self->last_error) : NULL;
  pthread_mutex_unlock(&self->lock);
  return error;
}
