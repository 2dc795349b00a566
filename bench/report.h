/* report.h - the figures as a table and as JSON. */
#ifndef BENCH_REPORT_H
#define BENCH_REPORT_H

#include "results.h"

/* Prints the machine and the versions. */
void report_machine(void);

/* Prints the table of figures and that of goals. */
void report_print(results *of);

/* Writes all of it to `path`. Returns 0, or -1 when the file could not be written. */
int report_write(results *of, const char *path);

#endif
