/* Blocking calls of one handler by some threads, each in a closed loop: the next call begins when the last has ended. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "bench.pyproc.h"
#include "case.h"
#include "meter.h"

enum { THREADS_MAX = 64, SAMPLES_MAX = 1 << 22, WARM_UP = 5 /* a part of the time */ };

enum { KIND_TYPED, KIND_DYNAMIC };

/* One calling thread. */
typedef struct caller {
  pyproc_pool *pool;
  int kind;
  double seconds;
  pthread_barrier_t *turn;
  samples samples;
  double calls;
  pthread_t thread;
} caller;

static void call_typed(pyproc_pool *pool, double value) {
  pyproc_error *error = NULL;
  Bench__PredictRequest request = BENCH__PREDICT_REQUEST__INIT;
  Bench__PredictReply *reply = NULL;
  request.value = value;
  if (bench_predictor_predict(pool, &request, &reply, &error) < 0) bench_die("call", error);
  if (reply->result < 2 * value || reply->result > 2 * value) bench_die("call", NULL);
  pyproc_reply_free(reply);
}

static void call_dynamic(pyproc_pool *pool, double value) {
  pyproc_error *error = NULL;
  char request[64], *reply = NULL;
  snprintf(request, sizeof request, "{\"value\":%.0f}", value);
  if (pyproc_call_json(pool, "predict", request, NULL, &reply, &error) < 0) bench_die("call", error);
  pyproc_reply_free(reply);
}

static void loop(caller *self, double seconds) {
  int64_t before = now_ns(), end = before + (int64_t)(seconds * 1e9);
  while (before < end) {
    if (self->kind == KIND_TYPED)
      call_typed(self->pool, self->calls);
    else
      call_dynamic(self->pool, self->calls);
    int64_t now = now_ns();
    samples_add(&self->samples, now - before);
    self->calls++;
    before = now;
  }
}

static void *run_caller(void *argument) {
  caller *self = argument;
  loop(self, self->seconds / WARM_UP);
  self->samples.count = 0;
  self->calls = 0;
  pthread_barrier_wait(self->turn); /* all are warm */
  pthread_barrier_wait(self->turn); /* begin */
  loop(self, self->seconds);
  pthread_barrier_wait(self->turn); /* all have ended */
  return NULL;
}

/* Returns the number of calls. */
static double collect(caller *callers, int threads, samples *all, figures *to) {
  double slowest = callers[0].calls, fastest = callers[0].calls, calls = 0;
  for (int i = 0; i < threads; i++) {
    pthread_join(callers[i].thread, NULL);
    samples_join(all, &callers[i].samples);
    samples_free(&callers[i].samples);
    calls += callers[i].calls;
    if (callers[i].calls < slowest) slowest = callers[i].calls;
    if (callers[i].calls > fastest) fastest = callers[i].calls;
  }
  to->of[METRIC_FAIRNESS] = fastest > 0 ? slowest / fastest : 0;
  return calls;
}

static void measure(const bench_case *self, const bench_pool *pool, double seconds, figures *to) {
  caller callers[THREADS_MAX];
  pthread_barrier_t turn;
  samples all;
  meter cost;
  pthread_barrier_init(&turn, NULL, (unsigned)self->callers + 1);
  for (int i = 0; i < self->callers; i++) {
    callers[i] = (caller){.pool = pool->pool, .kind = self->kind, .seconds = seconds, .turn = &turn};
    samples_init(&callers[i].samples, (size_t)(SAMPLES_MAX / self->callers));
    if (pthread_create(&callers[i].thread, NULL, run_caller, &callers[i]) != 0) bench_die("no thread", NULL);
  }
  pthread_barrier_wait(&turn);
  meter_begin(&cost, pool->pids, pool->pid_count);
  int64_t began = now_ns();
  pthread_barrier_wait(&turn);
  pthread_barrier_wait(&turn);
  int64_t took = now_ns() - began;
  double calls = 0;
  for (int i = 0; i < self->callers; i++) calls += callers[i].calls;
  meter_end(&cost, calls, to);
  samples_init(&all, SAMPLES_MAX);
  collect(callers, self->callers, &all, to);
  to->of[METRIC_RATE] = calls / ((double)took / 1e9);
  figures_set_times(to, &all);
  samples_free(&all);
  pthread_barrier_destroy(&turn);
}

const char *run_unary(const bench_case *self, double seconds, figures *to) {
  const char *why = NULL;
  bench_pool *pool = pools_get(&self->pool, &why);
  if (pool == NULL) return why;
  pools_enter(pool);
  measure(self, pool, seconds, to);
  pools_leave(pool);
  return NULL;
}

#define UDS .run = run_unary, .pool.channel = "uds"
#define SHM .run = run_unary, .pool.channel = "shm"
#define UDS_LIMIT .limit = "limit: UDS with handler, spinning"
#define SHM_LIMIT .limit = "limit: shm with handler, spinning"
#define UDS_MANY .limit = "limit: UDS with handler, 64 in flight"
#define SHM_MANY .limit = "limit: shm with handler, 64 in flight"
#define BLOCKING .pool.spin_us = PYPROC_OFF, .limit = "limit: UDS with handler, blocking"
#define GRPC_1 .peer = "gRPC, 1 thread"
#define ORIGINAL_1 .peer = "original, 1 goroutine"

static const bench_case cases[] = {
    {.name = "typed, uds, 1 thread", UDS, UDS_LIMIT, GRPC_1, .callers = 1},
    {.name = "typed, uds, 1 thread, spin off", UDS, BLOCKING, GRPC_1, .callers = 1},
    {.name = "typed, uds, 1 thread, two processors, spin off",
     UDS,
     BLOCKING,
     GRPC_1,
     .pool.placement = PLACE_APART,
     .callers = 1},
    {.name = "typed, uds, 1 thread, moved onto one processor, spin off",
     UDS,
     .pool.spin_us = PYPROC_OFF,
     GRPC_1,
     .pool.placement = PLACE_SAME_CPU,
     .callers = 1,
     .limit = "limit: UDS with handler, blocking, one processor"},
    {.name = "typed, uds, 1 thread, one processor",
     UDS,
     GRPC_1,
     .pool.placement = PLACE_ONE_CPU,
     .callers = 1,
     .limit = "typed, uds, 1 thread, one processor, spin off"},
    {.name = "typed, uds, 1 thread, one processor, spin off",
     UDS,
     BLOCKING,
     GRPC_1,
     .pool.placement = PLACE_ONE_CPU,
     .callers = 1},
    {.name = "typed, uds, 1 thread, moved onto one processor",
     UDS,
     GRPC_1,
     .pool.placement = PLACE_SAME_CPU,
     .callers = 1,
     .limit = "typed, uds, 1 thread, one processor, spin off"},
    {.name = "typed, shm, 1 thread", SHM, SHM_LIMIT, GRPC_1, .callers = 1},
    {.name = "typed, shm, 1 thread, spin off", SHM, BLOCKING, GRPC_1, .callers = 1},
    {.name = "typed, shm, 1 thread, one processor",
     SHM,
     GRPC_1,
     .pool.placement = PLACE_ONE_CPU,
     .callers = 1,
     .limit = "typed, uds, 1 thread, one processor, spin off"},
    {.name = "typed, shm, 1 thread, moved onto one processor",
     SHM,
     GRPC_1,
     .pool.placement = PLACE_SAME_CPU,
     .callers = 1,
     .limit = "typed, uds, 1 thread, one processor, spin off"},
    {.name = "@expose, uds, 1 thread", UDS, UDS_LIMIT, ORIGINAL_1, .kind = KIND_DYNAMIC, .callers = 1},
    {.name = "@expose, shm, 1 thread", SHM, SHM_LIMIT, ORIGINAL_1, .kind = KIND_DYNAMIC, .callers = 1},
    {.name = "@expose, uds, JSON, 1 thread",
     UDS,
     UDS_LIMIT,
     ORIGINAL_1,
     .kind = KIND_DYNAMIC,
     .pool.protocol = "json",
     .callers = 1},
    {.name = "typed, uds, JSON, 1 thread", UDS, UDS_LIMIT, ORIGINAL_1, .pool.protocol = "json", .callers = 1},
    {.name = "typed, uds, JSON, 1 thread, spin off", UDS, BLOCKING, ORIGINAL_1, .pool.protocol = "json", .callers = 1},
    {.name = "typed, shm, JSON, 1 thread", SHM, SHM_LIMIT, ORIGINAL_1, .pool.protocol = "json", .callers = 1},
    {.name = "typed, uds, JSON, 16 threads",
     UDS,
     UDS_LIMIT,
     .peer = "original, 16 goroutines",
     .pool.protocol = "json",
     .callers = 16},
    {.name = "typed, gRPC worker, 1 thread",
     .run = run_unary,
     .limit = "limit: UDS with handler, blocking",
     GRPC_1,
     .pool.protocol = "grpc",
     .callers = 1},
    {.name = "typed, uds, 2 threads", UDS, UDS_MANY, .callers = 2},
    {.name = "typed, uds, 4 threads", UDS, UDS_MANY, .callers = 4},
    {.name = "typed, uds, 16 threads", UDS, UDS_MANY, .peer = "gRPC, 16 threads", .callers = 16},
    {.name = "typed, uds, 16 threads, spin off",
     UDS,
     .pool.spin_us = PYPROC_OFF,
     UDS_MANY,
     .peer = "gRPC, 16 threads",
     .callers = 16},
    {.name = "typed, uds, 64 threads", UDS, UDS_MANY, .peer = "gRPC, 64 threads", .callers = 64},
    {.name = "typed, shm, 2 threads", SHM, SHM_MANY, .callers = 2},
    {.name = "typed, shm, 4 threads", SHM, SHM_MANY, .callers = 4},
    {.name = "typed, shm, 16 threads", SHM, SHM_MANY, .peer = "gRPC, 16 threads", .callers = 16},
    {.name = "typed, shm, 64 threads", SHM, SHM_MANY, .peer = "gRPC, 64 threads", .callers = 64},
    {.name = "typed, uds, 8 threads", UDS, UDS_MANY, .callers = 8, .full = true},
    {.name = "typed, uds, 32 threads", UDS, UDS_MANY, .callers = 32, .full = true},
    {.name = "typed, shm, 8 threads", SHM, SHM_MANY, .callers = 8, .full = true},
    {.name = "typed, shm, 32 threads", SHM, SHM_MANY, .callers = 32, .full = true},
    {.name = "8 workers, 1 thread", .limit = "typed, shm, 1 thread", .run = run_unary, .pool.workers = 8, .callers = 1},
    {.name = "64 workers, 1 thread",
     .limit = "typed, shm, 1 thread",
     .run = run_unary,
     .pool.workers = 64,
     .callers = 1,
     .full = true},
    {.name = "2 workers, 16 threads", UDS_MANY, .run = run_unary, .pool.workers = 2, .callers = 16},
    {.name = "4 workers, 16 threads", UDS_MANY, .run = run_unary, .pool.workers = 4, .callers = 16},
    {.name = "8 workers, 16 threads", UDS_MANY, .run = run_unary, .pool.workers = 8, .callers = 16},
    {.name = "16 workers, 16 threads", UDS_MANY, .run = run_unary, .pool.workers = 16, .callers = 16, .full = true},
    {.name = "32 workers, 16 threads", UDS_MANY, .run = run_unary, .pool.workers = 32, .callers = 16, .full = true},
    {.name = "64 workers, 16 threads", UDS_MANY, .run = run_unary, .pool.workers = 64, .callers = 16, .full = true},
};

CASE_TABLE(unary_cases, cases);
