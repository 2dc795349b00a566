/* goals.h - what is to be reached, as ratios within one run. */
#ifndef BENCH_GOALS_H
#define BENCH_GOALS_H

#include "results.h"

enum { GOAL_TERMS = 2 };

/* `metric` of case `name` is to be at most (at least) `factor` times the sum of weight × against_metric of the cases
 * `against`; or `factor` itself where there are none. */
typedef struct goal {
  const char *text;
  const char *name;
  metric metric;
  bool at_least;
  double factor;
  const char *against[GOAL_TERMS];
  metric against_metric;
  double weight[GOAL_TERMS]; /* 0: 1 */
  const char *against_text;  /* what the sum is, for people */
  bool peer;                 /* it is a program of others, else a limit */
} goal;

extern const goal goals[];
extern const int goal_count;

/* How a goal stands. */
typedef struct goal_state {
  const char *skipped; /* why nobody knows; NULL: it was measured */
  double value;        /* the median over the rounds */
  double ratio;        /* the median of the rounds' ratios to what it is compared with; NAN: to nothing */
  double threshold;    /* of `value`, by that ratio */
  bool met;
  bool limit_met; /* whether the limit of a case that is compared with a program of others would; else true */
} goal_state;

goal_state goal_look(const goal *self, results *in);

#endif
