#include "pool.h"

#include <stdlib.h>
#include <string.h>

#include "error.h"

enum { LONELY_NS = 100000000, LOOK_NS = 20000000 };

bool pool_is_forked(const pyproc_pool *pool) {
  return pool->fork_generation != platform_fork_generation();
}

int pool_enter(pyproc_pool *pool, pyproc_error **reterr) {
  if (pool == NULL)
    return error_set(reterr, PYPROC_E_INVALID_ARGUMENT, "pool is NULL: was pyproc_pool_open successful?");
  if (pool_is_forked(pool))
    return error_set(reterr, PYPROC_E_FAILED_PRECONDITION,
                     "the pool was opened before this process was forked: open one in the child, after the fork");
  if (!gate_enter(&pool->gate)) return error_set(reterr, PYPROC_E_UNAVAILABLE, "the pool is closed");
  return PYPROC_OK;
}

void pool_leave(pyproc_pool *pool) {
  gate_leave(&pool->gate);
}

void pool_ref(pyproc_pool *pool) {
  atomic_fetch_add(&pool->references, 1);
}

void pool_unref(pyproc_pool *pool) {
  if (atomic_fetch_sub(&pool->references, 1) > 1) return;
  gate_destroy(&pool->gate);
  free(pool);
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
  result = async_init(&pool->async, pool->options.spin_ns, reterr);
  if (result < 0) goto no_async;
  gate_init(&pool->gate);
  atomic_init(&pool->references, 1);
  pool->fork_generation = platform_fork_generation();
  lot_init(&pool->lot);
  admission_init(&pool->admission, &pool->lot, pool->options.queue_limit, (int)pool->options.max_in_flight,
                 (int)pool->options.max_streams);
  poison_init(&pool->poison, pool->options.poison_limit, pool->options.poison_rest_ms, platform_random64());
  pool->admission.poison = &pool->poison;
  supervisor_tick tick = {.run = async_expire, .argument = pool};
  result = supervisor_open(&pool->options, &pool->lot, &pool->admission, tick, &pool->supervisor, reterr);
  if (result < 0) goto no_supervisor;
  *ret_pool = pool;
  return PYPROC_OK;
no_supervisor:
  poison_destroy(&pool->poison);
  admission_destroy(&pool->admission);
  lot_destroy(&pool->lot);
  gate_destroy(&pool->gate);
  async_destroy(&pool->async);
no_async:
  options_free(&pool->options);
no_options:
  free(pool);
  return result;
}

/* Waits for drain_timeout_ms until calls have ended. Streams that nobody waits in any more would not. */
static void drain(pyproc_pool *pool) {
  int64_t now, until = platform_now_ns() + pool->options.drain_timeout_ms * 1000000;
  bool is_empty = false;
  while (!is_empty && (now = platform_now_ns()) < until) {
    async_end_streams(pool, now - LONELY_NS);
    is_empty = gate_wait(&pool->gate, now + LOOK_NS < until ? now + LOOK_NS : until);
  }
  async_end_streams(pool, INT64_MAX);
}

/* Lets calls end, then ends them, and runs the callbacks that are left. */
static void end_calls(pyproc_pool *pool) {
  gate_close(&pool->gate);
  completions_close(&pool->async.completions);
  admission_close(&pool->admission, NULL);
  async_end_pauses(pool);
  lot_wake(&pool->lot, UINT32_MAX); /* blocking calls that pause */
  drain(pool);
  pyproc_error *error = error_new(PYPROC_E_UNAVAILABLE, "the pool was closed");
  admission_close(&pool->admission, error);
  pyproc_error_free(error);
  supervisor_stop(pool->supervisor);
  gate_wait(&pool->gate, PLATFORM_NO_DEADLINE);
  while (completions_dispatch(&pool->async.completions, NULL, 0) > 0) {}
  gate_shut(&pool->gate);
}

void pyproc_pool_close(pyproc_pool *pool) {
  if (pool == NULL) return;
  if (!pool_is_forked(pool)) {
    end_calls(pool);
    admission_destroy(&pool->admission);
    poison_destroy(&pool->poison);
    lot_destroy(&pool->lot);
  }
  supervisor_free(pool->supervisor);
  async_destroy(&pool->async);
  options_free(&pool->options);
  pool_unref(pool);
}

int pyproc_pool_health(pyproc_pool *pool, pyproc_health *ret_health) {
  pyproc_health health;
  if (ret_health == NULL) return PYPROC_E_INVALID_ARGUMENT;
  int result = options_copy_sized(&health, sizeof health, ret_health, "pyproc_health", NULL);
  if (result >= 0) result = pool_enter(pool, NULL);
  if (result < 0) return result;
  size_t size = health.size < sizeof health ? health.size : sizeof health;
  health.workers = supervisor_wanted_workers(pool->supervisor);
  health.workers_ready = supervisor_ready_workers(pool->supervisor);
  health.queued = atomic_load(&pool->admission.queued);
  health.in_flight = 0;
  int count = atomic_load(&pool->admission.count);
  for (int i = 0; i < count; i++)
    health.in_flight +=
        atomic_load(&pool->admission.connections[i]->load) + atomic_load(&pool->admission.connections[i]->streams);
  health.restarts = supervisor_restarts(pool->supervisor);
  health.breaker_open = supervisor_breaker_is_open(pool->supervisor);
  health.calls = atomic_load(&pool->calls);
  health.failures = atomic_load(&pool->failures);
  memcpy(ret_health, &health, size);
  pool_leave(pool);
  return PYPROC_OK;
}
