/* Workers that fail again and again: their places rest, the breaker opens, is tried, and closes. */
#include <signal.h>
#include <unistd.h>

#include "support.h"

/* A worker that works as long as the file `broken` does not exist. */
static void write_script(const char *path, const char *broken) {
  FILE *file = fopen(path, "w");
  assert_non_null(file);
  fprintf(file,
          "import os\nimport time\n\nfrom pyproc_worker import expose, run_worker\n\n"
          "if os.path.exists(\"%s\"):\n    raise RuntimeError(\"it is broken\")\n\n\n"
          "@expose\ndef pid(body):\n    return os.getpid()\n\n\n"
          "@expose\ndef wait(body):\n    time.sleep(body)\n\n\n"
          "@expose\ndef die(body):\n    os._exit(7)\n\n\nrun_worker()\n",
          broken);
  assert_int_equal(fclose(file), 0);
}

static atomic_int events[16];

static void count_event(const pyproc_event *event, void *userdata) {
  (void)userdata;
  atomic_fetch_add(&events[event->kind], 1);
}

static int seen(int kind) {
  return atomic_load(&events[kind]);
}

static pyproc_pool_options options_of(const char *path, log_lines *lines) {
  pyproc_pool_options options = options_for("fault_worker.py");
  for (size_t i = 0; i < LENGTH(events); i++) atomic_store(&events[i], 0);
  log_lines_init(lines);
  options.script = path;
  options.event = count_event;
  options.log = log_lines_callback;
  options.log_userdata = lines;
  return options;
}

static int64_t breaker_of(pyproc_pool *pool) {
  pyproc_health health = PYPROC_HEALTH_INIT;
  assert_int_equal(pyproc_pool_health(pool, &health), PYPROC_OK);
  return health.breaker_open;
}

static void test_opens_and_closes(void **state) {
  (void)state;
  static log_lines lines;
  const char *path = temporary_path("worker.py"), *broken = temporary_path("broken");
  write_script(path, broken);
  pyproc_pool_options options = options_of(path, &lines);
  options.breaker_failures = 2;
  options.breaker_cooldown_ms = 300;
  pyproc_pool *pool = open_pool(&options);
  long before = call_number(pool, "pid", "null");
  assert_true(touch(broken));
  kill((pid_t)before, SIGKILL);
  WAIT_FOR(seen(PYPROC_EVENT_BREAKER_OPEN) >= 1);
  WAIT_FOR(breaker_of(pool) == 1);
  pyproc_error *error = call_failure(pool, "pid", "null", 0); /* at once, not at its deadline of a minute */
  assert_string_equal(pyproc_error_type(error), "RuntimeError");
  assert_error(error, PYPROC_E_UNAVAILABLE, "breaker is open after 2 failures", NOT_RUN);
  assert_true(log_lines_have(&lines, "it is broken"));
  WAIT_FOR(seen(PYPROC_EVENT_BREAKER_HALF_OPEN) >= 1 && seen(PYPROC_EVENT_BREAKER_OPEN) >= 2); /* it still is */
  assert_int_equal(unlink(broken), 0);
  WAIT_FOR(breaker_of(pool) == 0);
  assert_int_not_equal(call_number(pool, "pid", "null"), before);
  WAIT_FOR(seen(PYPROC_EVENT_BREAKER_CLOSED) == 1);
  pyproc_pool_close(pool);
}

static void test_waiting_calls_fail(void **state) {
  (void)state;
  static log_lines lines;
  const char *path = temporary_path("worker.py"), *broken = temporary_path("broken");
  write_script(path, broken);
  pyproc_pool_options options = options_of(path, &lines);
  options.breaker_failures = 1;
  pyproc_pool *pool = open_pool(&options);
  long before = call_number(pool, "pid", "null");
  assert_true(touch(broken));
  kill((pid_t)before, SIGKILL);
  WAIT_FOR(!process_lives(before));
  assert_error(call_failure(pool, "pid", "null", 0), PYPROC_E_UNAVAILABLE, "it is broken", NOT_RUN);
  assert_int_equal(unlink(broken), 0);
  assert_int_equal(pyproc_pool_reload(pool, NULL, NULL), PYPROC_OK); /* does not wait for the cool-down of 30 s */
  assert_int_not_equal(call_number(pool, "pid", "null"), before);
  WAIT_FOR(breaker_of(pool) == 0);
  pyproc_pool_close(pool);
}

static void wait_a_little(int number, void *argument) {
  char *reply = NULL;
  (void)number;
  pyproc_call_json(argument, "wait", "0.3", NULL, &reply, NULL);
  pyproc_reply_free(reply);
}

static void test_one_good_worker_keeps_it_closed(void **state) {
  (void)state;
  static log_lines lines;
  const char *path = temporary_path("worker.py"), *broken = temporary_path("broken");
  write_script(path, broken);
  pyproc_pool_options options = options_of(path, &lines);
  options.workers = 2;
  options.breaker_failures = 1;
  options.restart_max = PYPROC_OFF;
  pyproc_pool *pool = open_pool(&options);
  WAIT_FOR(seen(PYPROC_EVENT_WORKER_READY) == 2);
  run_threads(4, wait_a_little, pool); /* each has answered */
  long one = call_number(pool, "pid", "null");
  assert_true(touch(broken));
  kill((pid_t)one, SIGKILL);
  WAIT_FOR(seen(PYPROC_EVENT_WORKER_DIED) >= 3); /* itself, and two that did not start */
  long other = call_number(pool, "pid", "null");
  assert_int_not_equal(other, one);
  for (int i = 0; i < 10; i++) assert_int_equal(call_number(pool, "pid", "null"), other);
  assert_int_equal(seen(PYPROC_EVENT_BREAKER_OPEN), 0);
  pyproc_pool_close(pool);
}

static void test_a_place_rests(void **state) {
  (void)state;
  static log_lines lines;
  const char *path = temporary_path("worker.py"), *broken = temporary_path("broken");
  write_script(path, broken);
  pyproc_pool_options options = options_of(path, &lines);
  options.restart_max = 1;
  options.restart_window_ms = 5000;
  options.breaker_failures = PYPROC_OFF;
  pyproc_pool *pool = open_pool(&options);
  long before = call_number(pool, "pid", "null");
  assert_true(touch(broken));
  kill((pid_t)before, SIGKILL);
  WAIT_FOR(log_lines_have(&lines,
                          "worker 0: failed 2 times within 5000 ms (options restart_max, restart_window_ms): it "
                          "rests for 5000 ms"));
  int died = seen(PYPROC_EVENT_WORKER_DIED);
  assert_int_equal(unlink(broken), 0);
  assert_error(call_failure(pool, "pid", "null", 200), PYPROC_E_DEADLINE_EXCEEDED, "no worker is ready", NOT_RUN);
  assert_int_equal(seen(PYPROC_EVENT_WORKER_DIED), died);
  assert_int_not_equal(call_number(pool, "pid", "null"), before); /* once it has rested */
  pyproc_pool_close(pool);
}

static void test_a_worker_that_had_answered_counts_nowhere(void **state) {
  (void)state;
  static log_lines lines;
  const char *path = temporary_path("worker.py"), *broken = temporary_path("broken");
  write_script(path, broken);
  pyproc_pool_options options = options_of(path, &lines);
  options.restart_max = 1;
  options.breaker_failures = 1;
  options.poison_limit = PYPROC_OFF;
  pyproc_pool *pool = open_pool(&options);
  for (int i = 0; i < 10; i++) {
    call_number(pool, "pid", "null");
    assert_error(call_failure(pool, "die", "null", 0), PYPROC_E_UNAVAILABLE, "exited with status 7", RAN);
  }
  call_number(pool, "pid", "null");
  assert_int_equal(seen(PYPROC_EVENT_BREAKER_OPEN), 0);
  assert_false(log_lines_have(&lines, "rests for"));
  pyproc_pool_close(pool);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      E2E_TEST(test_opens_and_closes),
      E2E_TEST(test_waiting_calls_fail),
      E2E_TEST(test_one_good_worker_keeps_it_closed),
      E2E_TEST(test_a_place_rests),
      E2E_TEST(test_a_worker_that_had_answered_counts_nowhere),
  };
  return RUN_TESTS(tests);
}
