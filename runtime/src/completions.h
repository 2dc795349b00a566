/*
 * completions.h - what is over and waits for the user's thread to be told: a queue with a descriptor that is readable
 * as long as the queue is not empty.
 *
 * Its lock is the innermost of all: completions_add may be called with any other one held.
 */
#ifndef PYPROC_COMPLETIONS_H
#define PYPROC_COMPLETIONS_H

#include "platform.h"
#include "spin.h"

enum { COMPLETIONS_MAX = 256 };

/* Part of what is over. */
typedef struct completion {
  struct completion *next;
  void (*deliver)(struct completion *self); /* runs the callback; the dispatching thread, no lock held */
} completion;

/* What makes things be over, for a thread that would rather help than wait. */
typedef struct completions_source {
  void (*attend)(void *argument); /* the thread helps from now on */
  bool (*pump)(void *argument);   /* does what is possible without blocking; false: nothing is under way */
  void (*leave)(void *argument);  /* the thread blocks now, or leaves */
  void *argument;
  spin_gauge *spin;
} completions_source;

typedef struct completions {
  pthread_mutex_t lock;
  completion *first, *last; /* oldest first */
  bool awake;               /* the dispatching thread looks again before it blocks or leaves: it need not be woken */
  bool signalled;           /* the descriptor is readable */
  wake wake;
  atomic_bool dispatching, closing;
  _Atomic(const void *) dispatcher; /* the thread that runs callbacks now; NULL: none */
} completions;

/* -1 with errno: no descriptor. Then it must not be destroyed. */
int completions_init(completions *self);
void completions_destroy(completions *self);

int completions_fd(const completions *self);

/* Any thread. From here on the item is the dispatching thread's. */
void completions_add(completions *self, completion *item);

/* Waits until something is over, or until `deadline_ns`, and delivers what is over then, and what follows it soon: up to
 * COMPLETIONS_MAX and what came with the last of them. `source` may be NULL. Returns how many, or FAILED_PRECONDITION:
 * another thread, or a callback of this one's, does so; UNAVAILABLE: being closed, and nothing is left. */
int completions_dispatch(completions *self, const completions_source *source, int64_t deadline_ns);

/* Whether the calling thread runs a callback. */
bool completions_is_dispatcher(const completions *self);

/* Whoever waits in completions_dispatch returns. */
void completions_close(completions *self);

#endif
