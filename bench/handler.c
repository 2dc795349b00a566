/* A handler that keeps its processor busy for a while: does the host spin for nothing? */
#include "bench.pyproc.h"
#include "caller.h"
#include "case.h"

enum { WARM_UP = 5 /* a part of the time */ };

static void work(pyproc_pool *pool, const void *what) {
  const bench_case *self = what;
  Bench__WorkRequest request = BENCH__WORK_REQUEST__INIT;
  Bench__PredictReply *reply = NULL;
  pyproc_error *error = NULL;
  request.us = (uint32_t)self->kind;
  if (bench_predictor_work(pool, &request, &reply, &error) < 0) bench_die("work", error);
  pyproc_reply_free(reply);
}

static const char *run(const bench_case *self, double seconds, figures *to) {
  const char *why = NULL;
  const bench_pool *pool = pools_get(&self->pool, &why);
  if (pool == NULL) return why;
  pools_enter(pool);
  caller_measure(pool, work, self, seconds / WARM_UP, seconds, to);
  pools_leave(pool);
  return NULL;
}

#define UDS .run = run, .pool.channel = "uds"
#define SHM .run = run, .pool.channel = "shm"
#define OFF .pool.spin_us = PYPROC_OFF
#define APART .pool.placement = PLACE_APART

/* `kind` is the time in microseconds. Who spins is on two processors; who blocks is put there, where the wake-ups are that
 * spinning is to save: on one, 20 us and a call take less than spinning could make of it. */
static const bench_case cases[] = {
    {.name = "handler of 20 us, uds", UDS, .kind = 20, .limit = "handler of 20 us, uds, two processors, spin off"},
    {.name = "handler of 20 us, uds, two processors, spin off", UDS, OFF, APART, .kind = 20},
    {.name = "handler of 20 us, shm", SHM, .kind = 20, .limit = "handler of 20 us, shm, two processors, spin off"},
    {.name = "handler of 20 us, shm, two processors, spin off", SHM, OFF, APART, .kind = 20},
    {.name = "handler of 1 ms, uds", UDS, .kind = 1000, .limit = "handler of 1 ms, uds, spin off"},
    {.name = "handler of 1 ms, uds, spin off", UDS, OFF, .kind = 1000},
    {.name = "handler of 1 ms, shm", SHM, .kind = 1000, .limit = "handler of 1 ms, shm, spin off"},
    {.name = "handler of 1 ms, shm, spin off", SHM, OFF, .kind = 1000},
};

CASE_TABLE(handler_cases, cases);
