#include "engine.h"

#include <grpc/support/time.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>

#include "error.h"
#include "platform.h"

enum { SPARE_MAX = 64 };
#define QUIET_NS INT64_C(10000000) /* without a blocking call: then the poller reads again */
#define NO_TIME_NS INT64_C(10000)  /* a call that took less has read nothing */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static struct {
  _Atomic int users;
  _Atomic unsigned generation; /* of forks, when it was acquired */
  grpc_completion_queue *queue;
  pthread_t thread;
  grpc_channel *lame; /* for `bell` alone */
  grpc_call *bell;    /* its empty batches wake the poller out of libgrpc */
  grpc_completion_queue *spare[SPARE_MAX];
  int spare_count;

  _Atomic int expected;             /* tasks under way */
  _Atomic int64_t last_blocking_ns; /* when a blocking call last began to wait */
  atomic_bool parked;               /* the poller is in libgrpc */
  atomic_bool closing;
  platform_futex called; /* the poller sleeps on it while blocking calls follow one another */
} engine;

/* ---- the poller ---- */

static bool may_rest(int64_t now_ns) {
  return atomic_load(&engine.expected) == 0 && !atomic_load(&engine.closing) &&
         now_ns - atomic_load(&engine.last_blocking_ns) < QUIET_NS;
}

/* Sleeps while blocking calls do the reading and nobody else needs it. */
static void rest(void) {
  for (;;) {
    uint32_t word = atomic_load(&engine.called.word);
    if (!may_rest(platform_now_ns())) return;
    platform_futex_wait(&engine.called, word, 1, atomic_load(&engine.last_blocking_ns) + QUIET_NS);
  }
}

static void *poll_tasks(void *unused) {
  (void)unused;
  for (;;) {
    rest();
    atomic_store(&engine.parked, true);
    grpc_event event = grpc_completion_queue_next(engine.queue, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
    atomic_store(&engine.parked, false);
    if (event.type == GRPC_QUEUE_SHUTDOWN) return NULL;
    if (event.type != GRPC_OP_COMPLETE || event.tag == &engine) continue;
    atomic_load(&engine.expected); /* orders us behind who began the task, for tools that do not look into libgrpc */
    engine_task *task = event.tag;
    task->done(task, event.success != 0);
  }
}

/* Has the poller come out of libgrpc, to leave the reading to the caller. */
static void unpark(void) {
  if (atomic_load(&engine.expected) > 0 || !atomic_exchange(&engine.parked, false)) return;
  grpc_call_start_batch(engine.bell, NULL, 0, &engine, NULL);
}

static void wake_up(void) {
  atomic_fetch_add(&engine.called.word, 1);
  platform_futex_wake(&engine.called, 1, 1);
}

/* ---- begin and end ---- */

static void close_all(void) {
  grpc_call_unref(engine.bell);
  grpc_channel_destroy(engine.lame);
  for (int i = 0; i < engine.spare_count; i++) {
    grpc_completion_queue_shutdown(engine.spare[i]);
    grpc_completion_queue_pluck(engine.spare[i], NULL, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
    grpc_completion_queue_destroy(engine.spare[i]);
  }
  engine.spare_count = 0;
  grpc_completion_queue_destroy(engine.queue);
  grpc_shutdown_blocking();
  platform_futex_destroy(&engine.called);
}

/* All signals are blocked meanwhile: our thread and those that libgrpc starts inherit that. */
static int open_all(pyproc_error **reterr) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  grpc_init();
  platform_futex_init(&engine.called);
  atomic_store(&engine.expected, 0);
  atomic_store(&engine.closing, false);
  atomic_store(&engine.parked, false);
  engine.queue = grpc_completion_queue_create_for_next(NULL);
  engine.lame = grpc_lame_client_channel_create("pyproc", GRPC_STATUS_UNAVAILABLE, "");
  grpc_slice method = grpc_slice_from_static_string("/");
  engine.bell = grpc_channel_create_call(engine.lame, NULL, GRPC_PROPAGATE_DEFAULTS, engine.queue, method, NULL,
                                         gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
  bool started = pthread_create(&engine.thread, NULL, poll_tasks, NULL) == 0;
  if (!started) {
    grpc_completion_queue_shutdown(engine.queue);
    grpc_completion_queue_next(engine.queue, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
    close_all();
  }
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return started ? PYPROC_OK : error_set(reterr, PYPROC_E_RESOURCE_EXHAUSTED, "no thread left for gRPC's poller");
}

bool engine_is_forked(void) {
  return atomic_load(&engine.users) > 0 && atomic_load(&engine.generation) != platform_fork_generation();
}

int engine_acquire(pyproc_error **reterr) {
  if (engine_is_forked())
    return error_set(
        reterr, PYPROC_E_FAILED_PRECONDITION,
        "this process was forked while gRPC was in use, which libgrpc does not survive: fork before the first "
        "pool with gRPC is opened, or exec");
  int result = PYPROC_OK;
  pthread_mutex_lock(&lock);
  if (atomic_load(&engine.users) == 0) {
    atomic_store(&engine.generation, platform_fork_generation());
    result = open_all(reterr);
  }
  if (result >= 0) atomic_fetch_add(&engine.users, 1);
  pthread_mutex_unlock(&lock);
  return result;
}

void engine_release(void) {
  pthread_mutex_lock(&lock);
  if (atomic_fetch_sub(&engine.users, 1) == 1) {
    atomic_store(&engine.closing, true);
    wake_up();
    grpc_completion_queue_shutdown(engine.queue);
    pthread_join(engine.thread, NULL);
    close_all();
  }
  pthread_mutex_unlock(&lock);
}

grpc_completion_queue *engine_queue(void) {
  return engine.queue;
}

void engine_expect(int more) {
  if (atomic_fetch_add(&engine.expected, more) == 0 && more > 0) wake_up();
}

/* ---- blocking calls ---- */

grpc_completion_queue *engine_take_queue(void) {
  grpc_completion_queue *queue = NULL;
  pthread_mutex_lock(&lock);
  if (engine.spare_count > 0) queue = engine.spare[--engine.spare_count];
  pthread_mutex_unlock(&lock);
  return queue != NULL ? queue : grpc_completion_queue_create_for_pluck(NULL);
}

void engine_give_queue(grpc_completion_queue *queue) {
  pthread_mutex_lock(&lock);
  bool kept = engine.spare_count < SPARE_MAX;
  if (kept) engine.spare[engine.spare_count++] = queue;
  pthread_mutex_unlock(&lock);
  if (kept) return;
  grpc_completion_queue_shutdown(queue);
  grpc_completion_queue_pluck(queue, NULL, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
  grpc_completion_queue_destroy(queue);
}

gpr_timespec engine_deadline(int64_t deadline_ns) {
  if (deadline_ns == INT64_MAX) return gpr_inf_future(GPR_CLOCK_MONOTONIC);
  int64_t left_ns = deadline_ns - platform_now_ns();
  return gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_nanos(left_ns > 0 ? left_ns : 0, GPR_TIMESPAN));
}

bool engine_wait(grpc_completion_queue *queue, void *tag, int64_t deadline_ns) {
  int64_t began = platform_now_ns();
  atomic_store(&engine.last_blocking_ns, began);
  unpark();
  grpc_event event = grpc_completion_queue_pluck(queue, tag, engine_deadline(deadline_ns), NULL);
  if (platform_now_ns() - began < NO_TIME_NS) atomic_store(&engine.last_blocking_ns, 0);
  return event.type == GRPC_OP_COMPLETE;
}
