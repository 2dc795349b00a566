/* report.h - the figures as a table and as JSON. */
#ifndef BENCH_REPORT_H
#define BENCH_REPORT_H

#include "cases.h"

typedef struct report_row {
  const char *name;
  measure *measure;
  const measure *limit; /* what it is compared with; NULL: nothing */
  const char *limit_name;
  double goal_p99_us; /* 0: none */
  double goal_ratio; /* p50 at most so many times that of the limit, calls per second at least one such part; 0: none */
} report_row;

/* Prints the table and writes `path`. Returns 0, or -1 when the file could not be written. */
int report(const report_row *rows, int count, const char *path);

#endif
