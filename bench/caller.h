/*
 * caller.h - one thread that calls, and calls again when it has its reply.
 */
#ifndef BENCH_CALLER_H
#define BENCH_CALLER_H

#include <pyproc.h>

#include "figures.h"
#include "pools.h"

/* One call, checked; what goes wrong ends the program. */
typedef void caller_call(pyproc_pool *pool, const void *what);

/* Calls for `warm_up` seconds, then for `seconds`, CALLS_MIN at least each, and sets calls/s, CPU and times of the second part. */
void caller_measure(const bench_pool *pool, caller_call *call, const void *what, double warm_up, double seconds,
                    figures *to);

#endif
