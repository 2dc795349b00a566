/* Calls a typed Python function and prints 84. */
#include <stdio.h>
#include <stdlib.h>

#include "quickstart.pyproc.h"

static void die(pyproc_error *error) {
  fprintf(stderr, "%s: %s\n", pyproc_strerror(pyproc_error_code(error)), pyproc_error_message(error));
  pyproc_error_free(error);
  exit(1);
}

int main(void) {
  pyproc_pool_options options = PYPROC_POOL_OPTIONS_INIT;
  options.script = "gen/worker.py";
  options.workers = 4;
  pyproc_pool *pool = NULL;
  pyproc_error *error = NULL;
  if (pyproc_pool_open(&options, &pool, &error) < 0) die(error);

  Quickstart__PredictRequest request = QUICKSTART__PREDICT_REQUEST__INIT;
  request.value = 42;
  Quickstart__PredictReply *reply = NULL;
  if (quickstart_predictor_predict(pool, &request, &reply, &error) < 0) die(error);
  printf("%g\n", reply->result); /* 84 */

  pyproc_reply_free(reply);
  pyproc_pool_close(pool);
  return 0;
}
