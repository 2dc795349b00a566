/* Calls Python functions by name, with JSON bodies, and shows what an exception looks like from here. */
#include <pyproc.h>
#include <stdio.h>
#include <string.h>

static int call(pyproc_pool *pool, const char *method, const char *body, pyproc_error **reterr) {
  char *reply = NULL;
  int result = pyproc_call_json(pool, method, body, NULL, &reply, reterr);
  if (result >= 0) printf("%s: %s\n", method, reply);
  pyproc_reply_free(reply);
  return result;
}

/* The handler raises KeyError: type, message and traceback arrive. */
static int show_exception(pyproc_pool *pool) {
  pyproc_error *error = NULL;
  int result = call(pool, "predict", "{}", &error);
  const char *type = result < 0 ? pyproc_error_type(error) : NULL;
  int as_expected = result == PYPROC_E_UNKNOWN && type && strcmp(type, "KeyError") == 0;
  if (result < 0)
    printf("predict: %s: %s: %s\n", pyproc_strerror(result), type ? type : "-", pyproc_error_message(error));
  pyproc_error_free(error);
  return as_expected ? 0 : -1;
}

int main(void) {
  pyproc_pool_options options = PYPROC_POOL_OPTIONS_INIT;
  options.script = "worker.py";
  options.protocol = "json";
  options.workers = 2;
  options.log = pyproc_log_to_stderr;
  pyproc_pool *pool = NULL;
  pyproc_error *error = NULL;
  int result = pyproc_pool_open(&options, &pool, &error);
  if (result >= 0) result = call(pool, "predict", "{\"value\": 42}", &error);
  if (result >= 0) result = call(pool, "word_count", "{\"text\": \"to be or not to be\"}", &error);
  if (result < 0) {
    fprintf(stderr, "%s: %s\n", pyproc_strerror(result), pyproc_error_message(error));
    pyproc_error_free(error);
  } else {
    result = show_exception(pool);
  }
  pyproc_pool_close(pool);
  return result < 0;
}
