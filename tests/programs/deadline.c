/* A call's own deadline: one that passes, one that has passed already, and a good call after both. */
#include "quickstart.pyproc.h"
#include <stdio.h>

static int predict(pyproc_pool *pool, double value, int64_t timeout_ms, int wanted) {
  pyproc_call_options options = PYPROC_CALL_OPTIONS_INIT;
  options.timeout_ms = timeout_ms;
  Quickstart__PredictRequest request = QUICKSTART__PREDICT_REQUEST__INIT;
  request.value = value;
  Quickstart__PredictReply *reply = NULL;
  pyproc_error *error = NULL;
  int result = quickstart_predictor_predict_with(pool, &request, &options, &reply, &error);
  int as_wanted = result == wanted && (result < 0) == (error != NULL) && (result < 0) == (reply == NULL);
  /* What was never sent cannot have run. */
  if (timeout_ms < 0 && pyproc_error_may_have_run(error)) as_wanted = 0;
  if (!as_wanted)
    fprintf(stderr, "value %g, timeout %lld: result %d, wanted %d: %s\n", value, (long long)timeout_ms, result, wanted,
            error ? pyproc_error_message(error) : "no error");
  pyproc_error_free(error);
  pyproc_reply_free(reply);
  return as_wanted ? 0 : -1;
}

int main(void) {
  pyproc_pool_options options = PYPROC_POOL_OPTIONS_INIT;
  options.script = "gen/worker.py";
  options.workers = 1;
  pyproc_pool *pool = NULL;
  if (pyproc_pool_open(&options, &pool, NULL) < 0) return 1;
  int result = predict(pool, -0.5, 100, PYPROC_E_DEADLINE_EXCEEDED);
  if (predict(pool, 1, -1, PYPROC_E_DEADLINE_EXCEEDED) < 0) result = -1;
  if (predict(pool, 1, 60000, PYPROC_OK) < 0) result = -1;
  pyproc_pool_close(pool);
  return result < 0;
}
