/*
 * trial.h - which of two ways brings more answers, where only trying tells.
 *
 * Time goes in periods of some milliseconds. The way that has brought more answers in a second is taken, and the other one
 * is tried for a period now and then: after 20, and after twice as many each time that it was in vain, up to 160; or at once
 * where the one that is taken has become worse than the other was. Whoever uses it has a lock of its own.
 */
#ifndef PYPROC_TRIAL_H
#define PYPROC_TRIAL_H

#include <stdbool.h>
#include <stdint.h>

typedef struct trial {
  bool way;              /* in this period */
  bool is_trying;        /* the way that seemed worse */
  int left, pause;       /* periods until that is done again, now and after it was done last */
  int64_t since_ns;      /* the period's beginning, once what came before it is over */
  int64_t since_answers; /* that had come by then; -1: it is still to come */
  int64_t rates[2];      /* answers in a second */
} trial;

/* The first way is `false`. */
void trial_init(trial *self);

/* Whether it wants to be told; `now_ns`: CLOCK_MONOTONIC. */
static inline bool trial_is_due(const trial *self, int64_t now_ns) {
  enum { PERIOD_NS = 5000000 };
  return now_ns - self->since_ns >= (self->since_answers < 0 ? 0 : PERIOD_NS);
}

/* Tells how many answers have come in all, when it is due. Nothing is learnt from a stretch in which hardly anybody asked. */
void trial_tell(trial *self, int64_t answers, int64_t now_ns);

#endif
