/* A handler that keeps its processor busy for a while: does the host spin for nothing? */
#include "bench.pyproc.h"
#include "case.h"
#include "meter.h"

enum { SAMPLES_MAX = 1 << 18, WARM_UP = 5 /* a part of the time */ };

static double loop(pyproc_pool *pool, uint32_t us, int64_t end, samples *to) {
  double calls = 0;
  for (int64_t before = now_ns(); before < end; calls++) {
    Bench__WorkRequest request = BENCH__WORK_REQUEST__INIT;
    Bench__PredictReply *reply = NULL;
    pyproc_error *error = NULL;
    request.us = us;
    if (bench_predictor_work(pool, &request, &reply, &error) < 0) bench_die("work", error);
    pyproc_reply_free(reply);
    int64_t now = now_ns();
    samples_add(to, now - before);
    before = now;
  }
  return calls;
}

static const char *run(const bench_case *self, double seconds, figures *to) {
  const char *why = NULL;
  bench_pool *pool = pools_get(&self->pool, &why);
  samples times;
  meter cost;
  if (pool == NULL) return why;
  samples_init(&times, SAMPLES_MAX);
  loop(pool->pool, (uint32_t)self->kind, now_ns() + (int64_t)(seconds * 1e9 / WARM_UP), &times);
  times.count = 0;
  meter_begin(&cost, pool->pids, pool->pid_count);
  int64_t began = now_ns();
  double calls = loop(pool->pool, (uint32_t)self->kind, began + (int64_t)(seconds * 1e9), &times);
  int64_t took = now_ns() - began;
  meter_end(&cost, calls, to);
  to->of[METRIC_RATE] = calls / ((double)took / 1e9);
  figures_set_times(to, &times);
  samples_free(&times);
  return NULL;
}

#define UDS .run = run, .pool.channel = "uds"
#define SHM .run = run, .pool.channel = "shm"
#define OFF .pool.spin_us = PYPROC_OFF

/* `kind` is the time in microseconds. */
static const bench_case cases[] = {
    {.name = "handler of 20 us, uds", UDS, .kind = 20, .limit = "handler of 20 us, uds, spin off"},
    {.name = "handler of 20 us, uds, spin off", UDS, OFF, .kind = 20},
    {.name = "handler of 20 us, shm", SHM, .kind = 20, .limit = "handler of 20 us, shm, spin off"},
    {.name = "handler of 20 us, shm, spin off", SHM, OFF, .kind = 20},
    {.name = "handler of 1 ms, uds", UDS, .kind = 1000, .limit = "handler of 1 ms, uds, spin off"},
    {.name = "handler of 1 ms, uds, spin off", UDS, OFF, .kind = 1000},
    {.name = "handler of 1 ms, shm", SHM, .kind = 1000, .limit = "handler of 1 ms, shm, spin off"},
    {.name = "handler of 1 ms, shm, spin off", SHM, OFF, .kind = 1000},
};

CASE_TABLE(handler_cases, cases);
