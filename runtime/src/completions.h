/*
 * completions.h - what is over and waits for the user's thread to be told: a queue with a descriptor that is readable
 * as long as the queue is not empty.
 *
 * Its lock is the innermost of all: completions_add may be called with any other one held.
 */
#ifndef PYPROC_COMPLETIONS_H
#define PYPROC_COMPLETIONS_H

#include "platform.h"

/* Part of what is over. */
typedef struct completion {
  struct completion *next;
  void (*deliver)(struct completion *self); /* runs the callback; the dispatching thread, no lock held */
} completion;

typedef struct completions {
  pthread_mutex_t lock;
  completion *first, *last; /* oldest first */
  wake wake;
  atomic_bool dispatching, closing;
} completions;

/* -1 with errno: no descriptor. Then it must not be destroyed. */
int completions_init(completions *self);
void completions_destroy(completions *self);

int completions_fd(const completions *self);

/* Any thread. From here on the item is the dispatching thread's. */
void completions_add(completions *self, completion *item);

/* Waits until something is over, or until `deadline_ns`, and delivers what is over then. Returns how many, or
 * FAILED_PRECONDITION: another thread, or a callback of this one's, does so; UNAVAILABLE: being closed, and nothing is
 * left. */
int completions_dispatch(completions *self, int64_t deadline_ns);

/* Whoever waits in completions_dispatch returns. */
void completions_close(completions *self);

#endif
