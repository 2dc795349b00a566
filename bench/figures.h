/* figures.h - what one round of a case has found, and the medians over its rounds. */
#ifndef BENCH_FIGURES_H
#define BENCH_FIGURES_H

#include "samples.h"

typedef enum metric {
  METRIC_P50,
  METRIC_P95,
  METRIC_P99,
  METRIC_P999,
  METRIC_RATE,       /* calls, or messages, per second */
  METRIC_BYTES_RATE, /* MiB per second */
  METRIC_FAIRNESS,   /* calls of the slowest thread ÷ those of the fastest */
  METRIC_HOST_CPU,   /* us per call, of the calling process */
  METRIC_CPU,        /* the same, of all processes that take part */
  METRIC_SLEEPS,     /* times per call that one of their threads slept and was woken */
  METRIC_SYSCALLS,   /* per call, of all processes that take part */
  METRIC_TIME,       /* ms, of something that is no call */
  METRIC_IDLE_CPU,   /* percent of one processor */
  METRIC_MEMORY,     /* MiB */
  METRICS
} metric;

enum { ROUNDS_MAX = 9 };

/* One value for each metric, NAN where it was not measured. */
typedef struct figures {
  double of[METRICS];
} figures;

/* As in the results: "p50", "us". */
const char *metric_name(metric which);
const char *metric_unit(metric which);

void figures_clear(figures *self);

/* Sets the quantiles; sorts. */
void figures_set_times(figures *self, samples *times);

/* Sets MiB per second, from the rate, which is set, of messages of so many bytes. */
void figures_set_bytes(figures *self, size_t bytes);

/* Sorts the values; NAN where there are none. */
double median(double *values, int count);

/* The median of each metric over `count` rounds, those without a value left out. */
figures figures_median(const figures *rounds, int count);

#endif
