#include "caller.h"

#include "meter.h"
#include "samples.h"

enum { SAMPLES_MAX = 1 << 18 };

static double run(const bench_pool *pool, caller_call *call, const void *what, double seconds, samples *to) {
  double calls = 0;
  int64_t before = now_ns(), end = before + (int64_t)(seconds * 1e9);
  do {
    call(pool->pool, what);
    int64_t now = now_ns();
    samples_add(to, now - before);
    before = now;
    calls++;
  } while (before < end || calls < CALLS_MIN);
  return calls;
}

void caller_measure(const bench_pool *pool, caller_call *call, const void *what, double warm_up, double seconds,
                    figures *to) {
  samples times;
  meter cost;
  samples_init(&times, SAMPLES_MAX);
  run(pool, call, what, warm_up, &times);
  times.count = 0;
  meter_begin(&cost, pool->pids, pool->pid_count);
  int64_t began = now_ns();
  double calls = run(pool, call, what, seconds, &times);
  double took = (double)(now_ns() - began) / 1e9;
  meter_end(&cost, calls, to);
  to->of[METRIC_RATE] = calls / took;
  figures_set_times(to, &times);
  samples_free(&times);
}
