/*
 * deadlines.h - points in time, the next one first: a binary heap. Its owner locks it.
 */
#ifndef PYPROC_DEADLINES_H
#define PYPROC_DEADLINES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Part of what has the deadline. Zeroed: in no heap. */
typedef struct deadline {
  int64_t at_ns;   /* CLOCK_MONOTONIC; changed by deadlines_move alone while it is in */
  size_t position; /* in the heap, counted from 1; 0: not in */
} deadline;

/* Zeroed: empty. */
typedef struct deadlines {
  deadline **items;
  size_t count, capacity;
} deadlines;

/* False: out of memory. */
bool deadlines_add(deadlines *self, deadline *item);

/* Changes the time of one that is in. */
void deadlines_move(deadlines *self, deadline *item, int64_t at_ns);

/* Takes it out; one that is not in is fine. */
void deadlines_remove(deadlines *self, deadline *item);

/* The next one, or NULL. */
deadline *deadlines_first(const deadlines *self);

void deadlines_free(deadlines *self);

#endif
