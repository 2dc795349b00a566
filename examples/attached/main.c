/*
 * Calls a worker that this program has not started. Where it listens comes from the environment, PYPROC_SOCKET_PATH, as in
 * the files below deploy/, and so may all other options.
 */
#include <pyproc.h>
#include <stdio.h>

int main(int argc, char **argv) {
  pyproc_pool_options options = PYPROC_POOL_OPTIONS_INIT;
  pyproc_pool *pool = NULL;
  pyproc_error *error = NULL;
  char *reply = NULL;
  options.socket_path = "/run/pyproc/worker.sock";
  options.start_timeout_ms = 60000; /* the worker may be started after us */
  options.log = pyproc_log_to_stderr;
  int result = pyproc_options_load(&options, argc > 1 ? argv[1] : NULL, &error);
  if (result >= 0) result = pyproc_pool_open(&options, &pool, &error);
  if (result >= 0)
    result = pyproc_call_json(pool, "word_count", "{\"text\": \"to be or not to be\"}", NULL, &reply, &error);
  if (result >= 0)
    puts(reply);
  else
    fprintf(stderr, "%s: %s\n", pyproc_strerror(result), pyproc_error_message(error));
  pyproc_reply_free(reply);
  pyproc_error_free(error);
  pyproc_pool_close(pool);
  pyproc_options_clear(&options);
  return result < 0;
}
