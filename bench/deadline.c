/* How long calls take beyond their deadlines, where the handler does not end by itself. */
#include "case.h"

enum { TIMEOUT_MS = 5, SAMPLES_MAX = 1 << 16 };

static const char *run(const bench_case *self, double seconds, figures *to) {
  const char *why = NULL;
  bench_pool *pool = pools_get(&self->pool, &why);
  samples times;
  if (pool == NULL) return why;
  pyproc_call_options options = PYPROC_CALL_OPTIONS_INIT;
  options.timeout_ms = TIMEOUT_MS;
  samples_init(&times, SAMPLES_MAX);
  int64_t began = now_ns(), now = began;
  while (now - began < (int64_t)(seconds * 1e9)) {
    int64_t due = now + INT64_C(1000000) * TIMEOUT_MS;
    char *body = NULL;
    pyproc_error *error = NULL;
    int result = pyproc_call_json(pool->pool, self->program, "null", &options, &body, &error);
    now = now_ns();
    if (result != PYPROC_E_DEADLINE_EXCEEDED) bench_die(self->program, error);
    pyproc_error_free(error);
    samples_add(&times, now - due);
  }
  figures_set_times(to, &times);
  samples_free(&times);
  return NULL;
}

/* `program` is the handler. */
static const bench_case cases[] = {
    {.name = "past its deadline, handler sleeps", .run = run, .program = "sleep"},
    {.name = "past its deadline, handler loops", .run = run, .program = "spin"},
};

CASE_TABLE(deadline_cases, cases);
