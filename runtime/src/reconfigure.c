/*
 * reconfigure.c - what the public API can change about a pool that is open, and its orderly end.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "call_setup.h"
#include "error.h"
#include "option_table.h"
#include "roster.h"

static int apply(pyproc_pool *pool, change *wanted, pyproc_error **reterr) {
  if (pool->options.target != NULL)
    return error_set(reterr, PYPROC_E_FAILED_PRECONDITION, "the pool has no workers: it was opened with option target");
  return supervisor_change(pool->supervisor, wanted, reterr);
}

/* A checked copy of the new options. */
static int make_edition(const pyproc_pool *pool, const pyproc_pool_options *given, worker_edition **ret_edition,
                        pyproc_error **reterr) {
  char python[SUPERVISOR_PATH_SIZE];
  struct options *options = calloc(1, sizeof *options);
  if (options == NULL) return error_set(reterr, PYPROC_E_RESOURCE_EXHAUSTED, "out of memory");
  int result = options_copy(options, given, reterr);
  if (result < 0) goto no_options;
  result = options_check_change(&pool->options, options, reterr);
  python[0] = '\0';
  if (result >= 0 && options->socket_path == NULL)
    result = supervisor_find_python(options, python, sizeof python, reterr);
  if (result >= 0) {
    *ret_edition = worker_edition_new(options, python);
    if (*ret_edition != NULL) return PYPROC_OK;
    result = error_set(reterr, PYPROC_E_RESOURCE_EXHAUSTED, "out of memory");
  }
  options_free(options);
no_options:
  free(options);
  return result;
}

int pyproc_pool_reload(pyproc_pool *pool, const pyproc_pool_options *options, pyproc_error **reterr) {
  change wanted = {.kind = CHANGE_RELOAD};
  int result = pool_enter(pool, reterr);
  if (result < 0) return result;
  if (options != NULL) result = make_edition(pool, options, &wanted.edition, reterr);
  if (result >= 0 && options != NULL) wanted.workers = (int)wanted.edition->options->workers;
  if (result >= 0) result = apply(pool, &wanted, reterr);
  pool_leave(pool);
  return result;
}

int pyproc_pool_resize(pyproc_pool *pool, int64_t workers, pyproc_error **reterr) {
  const option_row *row = option_find("workers");
  int result = pool_enter(pool, reterr);
  if (result < 0) return result;
  if (workers < row->lowest || workers > row->highest)
    result = error_set(reterr, PYPROC_E_INVALID_ARGUMENT, "workers is %" PRId64 "; allowed are %" PRId64 " to %" PRId64,
                       workers, row->lowest, row->highest);
  change wanted = {.kind = CHANGE_RESIZE, .workers = (int)workers};
  if (result >= 0) result = apply(pool, &wanted, reterr);
  pool_leave(pool);
  return result;
}

int pyproc_pool_drain(pyproc_pool *pool, int64_t timeout_ms, pyproc_error **reterr) {
  int result = pool_enter(pool, reterr);
  if (result < 0) return result;
  pool_leave(pool); /* what is waited for are all others */
  int64_t deadline_ns = timeout_ms < 0 ? PLATFORM_NO_DEADLINE : call_setup_deadline(timeout_ms, platform_now_ns());
  gate_close(&pool->gate);
  admission_close(&pool->admission, NULL);
  if (gate_wait(&pool->gate, deadline_ns)) return PYPROC_OK;
  return error_set(reterr, PYPROC_E_DEADLINE_EXCEEDED, "calls were still inside after %" PRId64 " ms", timeout_ms);
}
