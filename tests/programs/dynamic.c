/* JSON in and out, by an exposed name and by a typed method, on every protocol. */
#include <pyproc.h>
#include <stdio.h>
#include <string.h>

/* Whether the text holds 84 as a JSON number, whatever way it is written. */
static int holds_84(const char *body) {
  const char *at = strstr(body, "\"result\"");
  double value = 0;
  return at && sscanf(at, "\"result\" : %lf", &value) == 1 && value >= 84 && value <= 84;
}

static int call(pyproc_pool *pool, const char *method) {
  char *body = NULL;
  pyproc_error *error = NULL;
  int result = pyproc_call_json(pool, method, "{\"value\":42}", NULL, &body, &error);
  if (result < 0)
    fprintf(stderr, "%s: %s: %s\n%s", method, pyproc_strerror(result), pyproc_error_message(error),
            pyproc_error_traceback(error) ? pyproc_error_traceback(error) : "");
  else if (!holds_84(body)) {
    fprintf(stderr, "%s: %s\n", method, body);
    result = -1;
  }
  pyproc_reply_free(body);
  pyproc_error_free(error);
  return result;
}

static int run(const char *protocol) {
  pyproc_pool_options options = PYPROC_POOL_OPTIONS_INIT;
  options.script = "worker.py";
  options.protocol = protocol;
  options.workers = 1;
  options.log = pyproc_log_to_stderr;
  pyproc_pool *pool = NULL;
  pyproc_error *error = NULL;
  int result = pyproc_pool_open(&options, &pool, &error);
  if (result < 0) fprintf(stderr, "open: %s\n", pyproc_error_message(error));
  pyproc_error_free(error);
  if (result >= 0) result = call(pool, "predict");
  if (result >= 0) result = call(pool, "quickstart.Predictor/Predict");
  pyproc_pool_close(pool);
  return result;
}

int main(void) {
  return run("json") < 0 || run("protobuf") < 0;
}
