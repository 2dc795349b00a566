/* results.h - which cases are measured, and what they found. */
#ifndef BENCH_RESULTS_H
#define BENCH_RESULTS_H

#include "case.h"

typedef struct result {
  const bench_case *of;
  bool wanted;
  bool in_goal;        /* a goal names it */
  const char *skipped; /* why it was not measured, or NULL */
  int rounds;
  figures round[ROUNDS_MAX], median;
} result;

enum { RESULTS_MAX = 256 };

typedef struct results {
  result all[RESULTS_MAX];
  int count;
  result *order[RESULTS_MAX]; /* in which they run: what a goal compares, then the others */
} results;

/* What is asked for. */
typedef struct selection {
  const char *only; /* patterns, separated by bars, one of which must fit; NULL: all */
  bool full;        /* those of a full run, too */
  bool no_peers;    /* programs of others are left out */
} selection;

/* All cases, those marked as wanted that are asked for, with what they, and their goals, are compared with. */
void results_init(results *self, const selection *asked);

/* NULL where there is no such case. */
result *results_find(results *self, const char *name);

/* The median of a metric, NAN where it was not measured. */
double results_value(results *self, const char *name, metric which);

/* The metric in one round, NAN where it was not measured. */
double results_round(const result *self, int round, metric which);

/* The median of what the rounds of a metric are, each divided by its own of `by`; NAN counts for nothing. */
double results_divided(const result *self, metric which, const double by[ROUNDS_MAX]);

/* The metric in terms of the other case's: the median of the rounds' ratios, so that a change of the machine's speed from
 * round to round cancels out. NAN where one of them was not measured. */
double results_ratio(results *self, const result *own, const char *other, metric which);

#endif
