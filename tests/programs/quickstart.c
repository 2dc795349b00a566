/* One typed call, and what the pool says of its workers. */
#include "quickstart.pyproc.h"
#include <stdio.h>

static int fail(const char *what, pyproc_error *error) {
  fprintf(stderr, "%s: %s: %s\n", what, pyproc_strerror(pyproc_error_code(error)), pyproc_error_message(error));
  pyproc_error_free(error);
  return 1;
}

int main(void) {
  pyproc_pool_options options = PYPROC_POOL_OPTIONS_INIT;
  options.script = "gen/worker.py";
  options.workers = 3;
  pyproc_pool *pool = NULL;
  pyproc_error *error = NULL;
  if (pyproc_pool_open(&options, &pool, &error) < 0) return fail("open", error);

  int result = 0;
  Quickstart__PredictRequest request = QUICKSTART__PREDICT_REQUEST__INIT;
  request.value = 21;
  Quickstart__PredictReply *reply = NULL;
  pyproc_health health = PYPROC_HEALTH_INIT;
  if (quickstart_predictor_predict(pool, &request, &reply, &error) < 0) {
    result = fail("predict", error);
  } else if (reply->result < 42 || reply->result > 42) {
    fprintf(stderr, "got %g, wanted 42\n", reply->result);
    result = 1;
  } else if (pyproc_pool_health(pool, &health) < 0 || health.workers != 3 || health.workers_ready < 1 ||
             health.calls != 1) {
    fprintf(stderr, "health: %lld of %lld ready, %lld calls\n", (long long)health.workers_ready,
            (long long)health.workers, (long long)health.calls);
    result = 1;
  }
  pyproc_reply_free(reply);
  pyproc_pool_close(pool);
  return result;
}
