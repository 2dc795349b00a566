#include "samples.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

int64_t now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

void sleep_seconds(double seconds) {
  struct timespec pause = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
  nanosleep(&pause, NULL);
}

void samples_init(samples *self, size_t capacity) {
  *self = (samples){.ns = malloc(capacity * sizeof *self->ns), .capacity = capacity};
  if (self->ns != NULL) return;
  fputs("bench: out of memory\n", stderr);
  exit(1);
}

void samples_add(samples *self, int64_t ns) {
  if (self->count < self->capacity) self->ns[self->count++] = ns;
}

void samples_join(samples *self, const samples *other) {
  size_t room = self->capacity - self->count, count = other->count < room ? other->count : room;
  if (count > 0) memcpy(self->ns + self->count, other->ns, count * sizeof *self->ns);
  self->count += count;
}

static int compare(const void *a, const void *b) {
  int64_t left = *(const int64_t *)a, right = *(const int64_t *)b;
  return (left > right) - (left < right);
}

void samples_sort(samples *self) {
  qsort(self->ns, self->count, sizeof *self->ns, compare);
}

double samples_quantile_us(const samples *self, double share) {
  if (self->count == 0) return 0;
  size_t at = (size_t)(share * (double)(self->count - 1));
  return (double)self->ns[at] / 1000.0;
}

void samples_free(samples *self) {
  free(self->ns);
  *self = (samples){0};
}
