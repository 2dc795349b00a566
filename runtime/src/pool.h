/*
 * pool.h - inside of pyproc_pool, for the parts of the public API.
 */
#ifndef PYPROC_POOL_H
#define PYPROC_POOL_H

#include "async.h"
#include "gate.h"
#include "poison.h"
#include "supervisor.h"

struct pyproc_pool {
  struct options options;
  unsigned fork_generation;
  struct lot lot;
  struct admission admission;
  poison poison;
  struct supervisor *supervisor;
  struct async_state async;
  gate gate; /* threads inside, and asynchronous calls in flight */
  _Atomic int64_t calls, failures;
  _Atomic int64_t references; /* to this memory: the pool's own, and its futures' */
};

/* Enters a call; every success needs pool_leave. INVALID_ARGUMENT: no pool; FAILED_PRECONDITION: this process is a
 * forked child of the one that opened it. */
int pool_enter(pyproc_pool *pool, pyproc_error **reterr);
void pool_leave(pyproc_pool *pool);

/* Whether this process is a forked child of the one that opened it. */
bool pool_is_forked(const pyproc_pool *pool);

/* Keep the struct's memory, after the pool is closed only its gate is of use. */
void pool_ref(pyproc_pool *pool);
void pool_unref(pyproc_pool *pool);

/* For pyproc_health: a call has ended with `result`. */
void pool_count(pyproc_pool *pool, int result);

#endif
