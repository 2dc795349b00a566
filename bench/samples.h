/* samples.h - times of single calls, and what is made of them. */
#ifndef BENCH_SAMPLES_H
#define BENCH_SAMPLES_H

#include <stddef.h>
#include <stdint.h>

/* Calls of each part of a round, however long they take: the first ones of some size meet memory that the kernel has to find,
 * and one time alone is no median. */
enum { CALLS_MIN = 3 };

typedef struct samples {
  int64_t *ns;
  size_t count, capacity;
} samples;

/* CLOCK_MONOTONIC. */
int64_t now_ns(void);

void sleep_seconds(double seconds);

/* Room for `capacity` times; ends the program when there is none. */
void samples_init(samples *self, size_t capacity);

/* Remembers one; what does not fit is left out. */
void samples_add(samples *self, int64_t ns);

/* Adds those of another. */
void samples_join(samples *self, const samples *other);

/* Puts them into ascending order. */
void samples_sort(samples *self);

/* The time in microseconds that `share` (0 … 1) of them, which must be sorted, do not exceed; 0 where there are none. */
double samples_quantile_us(const samples *self, double share);

void samples_free(samples *self);

#endif
