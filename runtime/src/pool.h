/*
 * pool.h - inside of pyproc_pool, for the parts of the public API.
 */
#ifndef PYPROC_POOL_H
#define PYPROC_POOL_H

#include "supervisor.h"

struct pyproc_pool {
  struct options options;
  unsigned fork_generation;
  struct lot lot;
  struct admission admission;
  struct supervisor *supervisor;
  _Atomic int64_t calls, failures;
  _Atomic int64_t callers; /* threads inside a call */
  atomic_bool closing;
};

/* Enters a call; every success needs pool_leave. INVALID_ARGUMENT: no pool; FAILED_PRECONDITION: this process is a
 * forked child of the one that opened it. */
int pool_enter(pyproc_pool *pool, pyproc_error **reterr);
void pool_leave(pyproc_pool *pool);

/* For pyproc_health: a call has ended with `result`. */
void pool_count(pyproc_pool *pool, int result);

#endif
