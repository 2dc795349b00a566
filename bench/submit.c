/* One thread that keeps many calls on their way and runs their callbacks, each of which submits the next call. */
#include <stdlib.h>

#include "bench.pyproc.h"
#include "case.h"
#include "meter.h"

enum { IN_FLIGHT_MAX = 10000, SAMPLES_MAX = 1 << 22, WARM_UP = 5 /* a part of the time */ };

typedef struct loop {
  pyproc_pool *pool;
  samples samples;
  int64_t end_ns;
  double calls;
  int open;
} loop;

/* One place among those in flight. */
typedef struct place {
  loop *loop;
  double value;
  int64_t began_ns;
} place;

static bench_predictor_predict_done on_predicted;

static void submit(place *self) {
  Bench__PredictRequest request = BENCH__PREDICT_REQUEST__INIT;
  pyproc_error *error = NULL;
  request.value = ++self->value;
  self->began_ns = now_ns();
  self->loop->open++;
  if (bench_predictor_predict_submit(self->loop->pool, &request, NULL, on_predicted, self, &error) < 0)
    bench_die("submit", error);
}

static void on_predicted(int result, Bench__PredictReply *reply, pyproc_error *error, void *userdata) {
  place *self = userdata;
  int64_t now = now_ns();
  if (result < 0) bench_die("submit", error);
  if (reply->result < 2 * self->value || reply->result > 2 * self->value) bench_die("submit", NULL);
  pyproc_reply_free(reply);
  samples_add(&self->loop->samples, now - self->began_ns);
  self->loop->calls++;
  self->loop->open--;
  if (now < self->loop->end_ns) submit(self);
}

static void keep(loop *self, place *places, int in_flight, double seconds) {
  self->samples.count = 0;
  self->calls = 0;
  self->end_ns = now_ns() + (int64_t)(seconds * 1e9);
  for (int i = 0; i < in_flight; i++) {
    places[i] = (place){.loop = self};
    submit(&places[i]);
  }
  while (self->open > 0 && pyproc_pool_dispatch(self->pool, -1) >= 0) {}
}

const char *run_submit(const bench_case *self, double seconds, figures *to) {
  static place places[IN_FLIGHT_MAX];
  const char *why = NULL;
  bench_pool *pool = pools_get(&self->pool, &why);
  meter cost;
  if (pool == NULL) return why;
  loop all = {.pool = pool->pool};
  samples_init(&all.samples, SAMPLES_MAX);
  keep(&all, places, self->callers, seconds / WARM_UP);
  meter_begin(&cost, pool->pids, pool->pid_count);
  int64_t began = now_ns();
  keep(&all, places, self->callers, seconds);
  int64_t took = now_ns() - began;
  meter_end(&cost, all.calls, to);
  to->of[METRIC_RATE] = all.calls / ((double)took / 1e9);
  figures_set_times(to, &all.samples);
  samples_free(&all.samples);
  return NULL;
}

#define UDS .run = run_submit, .pool.channel = "uds", .limit = "limit: UDS with handler, 64 in flight"
#define SHM .run = run_submit, .pool.channel = "shm", .limit = "limit: shm with handler, 64 in flight"

static const bench_case cases[] = {
    {.name = "submit, uds, 1 in flight",
     .run = run_submit,
     .pool.channel = "uds",
     .limit = "limit: UDS with handler, blocking",
     .peer = "gRPC, 1 thread",
     .callers = 1},
    {.name = "submit, uds, 16 in flight", UDS, .peer = "gRPC, 16 threads", .callers = 16},
    {.name = "submit, uds, 64 in flight", UDS, .peer = "gRPC, 64 threads", .callers = 64},
    {.name = "submit, uds, 256 in flight", UDS, .callers = 256},
    {.name = "submit, uds, 1000 in flight", UDS, .callers = 1000},
    {.name = "submit, uds, 10000 in flight", UDS, .callers = 10000},
    {.name = "submit, shm, 64 in flight", SHM, .peer = "gRPC, 64 threads", .callers = 64},
    {.name = "submit, shm, 256 in flight", SHM, .callers = 256},
    {.name = "submit, shm, 10000 in flight", SHM, .callers = 10000},
    {.name = "submit, uds, JSON, 64 in flight", UDS, .pool.protocol = "json", .callers = 64},
};

CASE_TABLE(submit_cases, cases);
