#include "deadlines.h"

#include <stdlib.h>

enum { CAPACITY_AT_FIRST = 64 };

/* Positions count from 1: the parent of n is n / 2, its children are 2n and 2n + 1. */
static deadline *at(const deadlines *self, size_t position) {
  return self->items[position - 1];
}

static void place(deadlines *self, size_t position, deadline *item) {
  self->items[position - 1] = item;
  item->position = position;
}

static void sift_up(deadlines *self, size_t position, deadline *item) {
  for (; position > 1 && item->at_ns < at(self, position / 2)->at_ns; position /= 2)
    place(self, position, at(self, position / 2));
  place(self, position, item);
}

static void sift_down(deadlines *self, size_t position, deadline *item) {
  for (size_t child; (child = 2 * position) <= self->count; position = child) {
    if (child < self->count && at(self, child + 1)->at_ns < at(self, child)->at_ns) child++;
    if (item->at_ns <= at(self, child)->at_ns) break;
    place(self, position, at(self, child));
  }
  place(self, position, item);
}

bool deadlines_add(deadlines *self, deadline *item) {
  if (self->count == self->capacity) {
    size_t capacity = self->capacity == 0 ? CAPACITY_AT_FIRST : 2 * self->capacity;
    deadline **grown = realloc(self->items, capacity * sizeof(deadline *));
    if (grown == NULL) return false;
    self->items = grown;
    self->capacity = capacity;
  }
  sift_up(self, ++self->count, item);
  return true;
}

/* Finds the place of an item that may belong nearer to the top, or to the bottom, than `position`. */
static void sift(deadlines *self, size_t position, deadline *item) {
  if (position > 1 && item->at_ns < at(self, position / 2)->at_ns)
    sift_up(self, position, item);
  else
    sift_down(self, position, item);
}

void deadlines_move(deadlines *self, deadline *item, int64_t at_ns) {
  item->at_ns = at_ns;
  sift(self, item->position, item);
}

void deadlines_remove(deadlines *self, deadline *item) {
  size_t position = item->position;
  if (position == 0) return;
  deadline *last = at(self, self->count--);
  item->position = 0;
  if (last != item) sift(self, position, last);
}

deadline *deadlines_first(const deadlines *self) {
  return self->count > 0 ? self->items[0] : NULL;
}

void deadlines_free(deadlines *self) {
  free(self->items);
  *self = (deadlines){0};
}
