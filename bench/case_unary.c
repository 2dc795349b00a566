#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "bench.pyproc.h"
#include "cases.h"

enum { THREADS_MAX = 64, SAMPLES_PER_THREAD = 1 << 20 };

struct unary_pool {
  pyproc_pool *pool;
};

/* One calling thread. */
typedef struct caller {
  pyproc_pool *pool;
  unary_kind kind;
  int64_t end_ns;
  samples samples;
  double calls;
  pthread_t thread;
} caller;

static void die(const char *what, pyproc_error *error) {
  fprintf(stderr, "bench: %s: %s\n", what, error != NULL ? pyproc_error_message(error) : "wrong answer");
  exit(1);
}

unary_pool *unary_open(const char *protocol, int64_t spin_us) {
  unary_pool *self = calloc(1, sizeof *self);
  pyproc_error *error = NULL;
  pyproc_pool_options options = PYPROC_POOL_OPTIONS_INIT;
  options.script = BENCH_WORKER;
  options.workers = 1;
  options.protocol = protocol;
  options.spin_us = spin_us;
  options.log = pyproc_log_to_stderr;
  if (self == NULL || pyproc_pool_open(&options, &self->pool, &error) < 0) die("open", error);
  return self;
}

unary_pool *unary_open_target(const char *target) {
  unary_pool *self = calloc(1, sizeof *self);
  pyproc_error *error = NULL;
  pyproc_pool_options options = PYPROC_POOL_OPTIONS_INIT;
  options.target = target;
  if (self == NULL || pyproc_pool_open(&options, &self->pool, &error) < 0) die("open", error);
  return self;
}

struct pyproc_pool *unary_handle(unary_pool *pool) {
  return pool->pool;
}

static void call_typed(pyproc_pool *pool, double value) {
  pyproc_error *error = NULL;
  Bench__PredictRequest request = BENCH__PREDICT_REQUEST__INIT;
  Bench__PredictReply *reply = NULL;
  request.value = value;
  if (bench_predictor_predict(pool, &request, &reply, &error) < 0) die("call", error);
  if (reply->result < 2 * value || reply->result > 2 * value) die("call", NULL);
  pyproc_reply_free(reply);
}

static void call_dynamic(pyproc_pool *pool, double value) {
  pyproc_error *error = NULL;
  char request[64], *reply = NULL;
  snprintf(request, sizeof request, "{\"value\":%.0f}", value);
  if (pyproc_call_json(pool, "predict", request, NULL, &reply, &error) < 0) die("call", error);
  pyproc_reply_free(reply);
}

static void *run_caller(void *argument) {
  caller *self = argument;
  for (int64_t before = now_ns(); before < self->end_ns;) {
    if (self->kind == UNARY_TYPED)
      call_typed(self->pool, self->calls);
    else
      call_dynamic(self->pool, self->calls);
    int64_t now = now_ns();
    samples_add(&self->samples, now - before);
    self->calls++;
    before = now;
  }
  return NULL;
}

static void collect(caller *callers, int threads, measure *to) {
  double slowest = callers[0].calls, fastest = callers[0].calls;
  for (int i = 0; i < threads; i++) {
    for (size_t j = 0; j < callers[i].samples.count; j++) samples_add(&to->samples, callers[i].samples.ns[j]);
    to->calls += callers[i].calls;
    if (callers[i].calls < slowest) slowest = callers[i].calls;
    if (callers[i].calls > fastest) fastest = callers[i].calls;
    samples_free(&callers[i].samples);
  }
  to->fairness += fastest > 0 ? slowest / fastest : 0;
}

void run_unary(unary_pool *pool, unary_kind kind, int threads, double seconds, measure *to) {
  caller callers[THREADS_MAX];
  int64_t began = now_ns();
  for (int i = 0; i < threads; i++) {
    callers[i] = (caller){.pool = pool->pool, .kind = kind, .end_ns = began + (int64_t)(seconds * 1e9)};
    samples_init(&callers[i].samples, (size_t)(SAMPLES_PER_THREAD / threads));
    if (pthread_create(&callers[i].thread, NULL, run_caller, &callers[i]) != 0) die("no thread", NULL);
  }
  for (int i = 0; i < threads; i++) pthread_join(callers[i].thread, NULL);
  to->seconds += (double)(now_ns() - began) / 1e9;
  to->rounds++;
  collect(callers, threads, to);
}

void unary_close(unary_pool *pool) {
  pyproc_pool_close(pool->pool);
  free(pool);
}
