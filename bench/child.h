/* child.h - other programs that take part: what is measured beside the library, and the limits. */
#ifndef BENCH_CHILD_H
#define BENCH_CHILD_H

#include <stdbool.h>
#include <sys/types.h>

#include "figures.h"

typedef struct child {
  pid_t pid;
  int input, output; /* our ends of its standard input and output */
} child;

enum { CHILD_DESCRIPTOR = 3 };

/* Starts argv[0], looked for on PATH. `descriptor` becomes its descriptor 3, -1: none. */
bool child_start(child *self, const char *const *argv, int descriptor);

/* The interpreter that workers and other programs run with. */
const char *child_python(void);

/* Waits, 20 s at most, until it has written something. */
bool child_is_ready(const child *self);

/* Takes its input away and waits for its end. Returns its exit status, -1 where it was killed. */
int child_stop(child *self);

/* Runs a program that writes what peers/client.h says, with the time of each call or without. `server` (0: none) is the
 * process that it calls. Returns false when it fails. */
bool child_measure(const char *const *argv, pid_t server, bool has_times, figures *to);

#endif
