/* What callers of which each blocks cannot be faster than: threads of one program that yield to each other. */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#include "case.h"
#include "cpus.h"
#include "meter.h"

enum { THREADS_MAX = 64 };

static atomic_bool over;

static void *yield_on(void *argument) {
  long *turns = argument;
  for (; !atomic_load_explicit(&over, memory_order_relaxed); ++*turns) sched_yield();
  return NULL;
}

/* On one processor: the worker has the other, or they do as much on each. */
static const char *run_turns(const bench_case *self, double seconds, figures *to) {
  pthread_t threads[THREADS_MAX];
  long turns[THREADS_MAX] = {0}, total = 0;
  meter cost;
  cpus_pin(0, 0); /* the threads inherit that */
  atomic_store(&over, false);
  meter_begin(&cost, NULL, 0);
  int64_t began = now_ns();
  for (int i = 0; i < self->callers; i++)
    if (pthread_create(&threads[i], NULL, yield_on, &turns[i]) != 0) bench_die("pthread_create", NULL);
  sleep_seconds(seconds);
  atomic_store(&over, true);
  for (int i = 0; i < self->callers; i++) {
    pthread_join(threads[i], NULL);
    total += turns[i];
  }
  to->of[METRIC_RATE] = (double)total / ((double)(now_ns() - began) / 1e9);
  meter_end(&cost, (double)total, to);
  cpus_free(0);
  return NULL;
}

static const bench_case cases[] = {
    {.name = "limit: 16 threads taking turns", .run = run_turns, .callers = 16},
};

CASE_TABLE(turn_cases, cases);
