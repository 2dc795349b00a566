/*
 * guard.h - the circuit breaker of a pool at work: looks at what becomes of its workers, holds starts back and lets
 * calls fail at once while nothing can be had.
 *
 * Supervisor's thread only.
 */
#ifndef PYPROC_GUARD_H
#define PYPROC_GUARD_H

#include "roster.h"

/* Takes in what has happened to the workers. Returns when to look again. */
int64_t guard_step(worker_shop *shop, roster *places, int64_t now_ns);

/* Somebody wants new workers tried: an open breaker is half open from now on. */
void guard_try(worker_shop *shop, roster *places);

#endif
