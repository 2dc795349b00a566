#include "pool.h"

#include <stdlib.h>
#include <string.h>

#include "error.h"

enum { LEAVE_POLL_NS = 1000000 };

int pool_enter(pyproc_pool *pool, pyproc_error **reterr) {
  if (pool == NULL)
    return error_set(reterr, PYPROC_E_INVALID_ARGUMENT, "pool is NULL: was pyproc_pool_open successful?");
  if (pool->fork_generation != platform_fork_generation())
    return error_set(reterr, PYPROC_E_FAILED_PRECONDITION,
                     "the pool was opened before this process was forked: open one in the child, after the fork");
  atomic_fetch_add(&pool->callers, 1);
  return PYPROC_OK;
}

void pool_leave(pyproc_pool *pool) {
  atomic_fetch_sub(&pool->callers, 1); /* the pool may be gone from here on */
}

void pool_count(pyproc_pool *pool, int result) {
  atomic_fetch_add_explicit(&pool->calls, 1, memory_order_relaxed);
  if (result < 0) atomic_fetch_add_explicit(&pool->failures, 1, memory_order_relaxed);
}

int pyproc_pool_open(const pyproc_pool_options *given, pyproc_pool **ret_pool, pyproc_error **reterr) {
  if (ret_pool == NULL) return error_set(reterr, PYPROC_E_INVALID_ARGUMENT, "ret_pool is NULL");
  pyproc_pool *pool = calloc(1, sizeof *pool);
  if (pool == NULL) return error_set(reterr, PYPROC_E_RESOURCE_EXHAUSTED, "out of memory");
  int result = options_copy(&pool->options, given, reterr);
  if (result < 0) goto no_options;
  pool->fork_generation = platform_fork_generation();
  lot_init(&pool->lot);
  admission_init(&pool->admission, &pool->lot, pool->options.queue_limit, (int)pool->options.max_in_flight);
  result = supervisor_open(&pool->options, &pool->lot, &pool->admission, &pool->supervisor, reterr);
  if (result < 0) goto no_supervisor;
  *ret_pool = pool;
  return PYPROC_OK;
no_supervisor:
  admission_destroy(&pool->admission);
  lot_destroy(&pool->lot);
  options_free(&pool->options);
no_options:
  free(pool);
  return result;
}

static bool nobody_inside(void *argument) {
  return atomic_load(&((pyproc_pool *)argument)->callers) == 0;
}

/* Looks again and again: whoever leaves last must not touch the pool any more, not even to wake us. */
static void wait_for_callers(pyproc_pool *pool, int64_t deadline_ns) {
  lot_waiter waiter = {0};
  lot_waiter_init(&pool->lot, &waiter);
  for (int64_t now = platform_now_ns(); !nobody_inside(pool) && now < deadline_ns; now = platform_now_ns()) {
    int64_t next = deadline_ns - now > LEAVE_POLL_NS ? now + LEAVE_POLL_NS : deadline_ns;
    lot_sleep(&pool->lot, &waiter, nobody_inside, pool, next);
  }
}

void pyproc_pool_close(pyproc_pool *pool) {
  if (pool == NULL) return;
  if (pool->fork_generation == platform_fork_generation()) {
    atomic_store(&pool->closing, true);
    admission_close(&pool->admission, NULL);
    wait_for_callers(pool, platform_now_ns() + pool->options.drain_timeout_ms * 1000000);
    pyproc_error *error = error_new(PYPROC_E_UNAVAILABLE, "the pool was closed");
    admission_close(&pool->admission, error);
    pyproc_error_free(error);
    supervisor_stop(pool->supervisor);
    wait_for_callers(pool, INT64_MAX);
    admission_destroy(&pool->admission);
    lot_destroy(&pool->lot);
  }
  supervisor_free(pool->supervisor);
  options_free(&pool->options);
  free(pool);
}

int pyproc_pool_health(pyproc_pool *pool, pyproc_health *ret_health) {
  pyproc_health health;
  if (ret_health == NULL) return PYPROC_E_INVALID_ARGUMENT;
  int result = options_copy_sized(&health, sizeof health, ret_health, "pyproc_health", NULL);
  if (result >= 0) result = pool_enter(pool, NULL);
  if (result < 0) return result;
  size_t size = health.size < sizeof health ? health.size : sizeof health;
  health.workers = pool->options.workers;
  health.workers_ready = supervisor_ready_workers(pool->supervisor);
  health.queued = atomic_load(&pool->admission.queued);
  health.in_flight = 0;
  for (int i = 0; i < pool->admission.count; i++)
    health.in_flight += atomic_load(&pool->admission.connections[i]->load);
  health.restarts = supervisor_restarts(pool->supervisor);
  health.calls = atomic_load(&pool->calls);
  health.failures = atomic_load(&pool->failures);
  memcpy(ret_health, &health, size);
  pool_leave(pool);
  return PYPROC_OK;
}
