/*
 * What is cancelled, or late, stops in Python: the worker is at once free for the next call, or is replaced.
 */
#include "support.h"

static const char *const protocols[] = {"protobuf", "json"};

static pyproc_pool *open_faults(const char *protocol, int64_t grace_ms, log_lines *lines) {
  pyproc_pool_options options = options_for("fault_worker.py");
  options.protocol = protocol;
  options.cancel_grace_ms = grace_ms;
  if (lines != NULL) {
    options.log = log_lines_callback;
    options.log_userdata = lines;
  }
  return open_pool(&options);
}

#define EACH_PROTOCOL(pool, grace_ms, lines) \
  for (size_t round_ = 0; round_ < LENGTH(protocols); round_++) \
    for (pyproc_pool *pool = open_faults(protocols[round_], grace_ms, lines); pool != NULL; \
         pyproc_pool_close(pool), pool = NULL)

static void *fire_later(void *token) {
  pause_ms(50);
  pyproc_cancel_fire(token);
  return NULL;
}

static void call_cancelled(pyproc_pool *pool, const char *method, const char *body) {
  pyproc_cancel *token = NULL;
  pyproc_error *error = NULL;
  char *reply = NULL;
  pthread_t thread;
  pyproc_call_options options = PYPROC_CALL_OPTIONS_INIT;
  assert_int_equal(pyproc_cancel_new(&token), 0);
  options.cancel = token;
  options.timeout_ms = PYPROC_TIMEOUT_NONE;
  assert_int_equal(pthread_create(&thread, NULL, fire_later, token), 0);
  assert_int_equal(pyproc_call_json(pool, method, body, &options, &reply, &error), PYPROC_E_CANCELLED);
  pthread_join(thread, NULL);
  assert_error(error, PYPROC_E_CANCELLED, "was cancelled", RAN);
  pyproc_cancel_free(token);
}

/* The handlers here would go on for an hour. */
static void test_cancel_frees_the_worker(void **state) {
  (void)state;
  EACH_PROTOCOL(pool, 60000, NULL) {
    long pid = worker_pid(pool);
    for (int i = 0; i < 5; i++) {
      call_cancelled(pool, "sleep", "{\"ms\": 3600000}");
      assert_answer(pool, "ping", "1", "1");
    }
    assert_int_equal(worker_pid(pool), pid);
  }
}

static void test_deadline_frees_the_worker(void **state) {
  (void)state;
  EACH_PROTOCOL(pool, 60000, NULL) {
    long pid = worker_pid(pool);
    for (int i = 0; i < 5; i++) {
      assert_error(call_failure(pool, "sleep", "{\"ms\": 3600000}", 50), PYPROC_E_DEADLINE_EXCEEDED, "50 ms", RAN);
      assert_answer(pool, "ping", "1", "1");
    }
    assert_int_equal(worker_pid(pool), pid);
  }
}

/* One that C code holds is killed with its worker, and its stack is in the log. */
static void test_stuck_worker_is_replaced(void **state) {
  (void)state;
  static log_lines lines;
  log_lines_init(&lines);
  EACH_PROTOCOL(pool, 100, &lines) {
    long pid = worker_pid(pool);
    assert_error(call_failure(pool, "hang", "{}", 100), PYPROC_E_DEADLINE_EXCEEDED, "hang", RAN);
    assert_answer(pool, "ping", "1", "1");
    assert_int_not_equal(worker_pid(pool), pid);
    call_cancelled(pool, "hang", "{}");
    assert_answer(pool, "ping", "2", "2");
  }
  assert_true(log_lines_have(&lines, "hang still runs"));
  assert_true(log_lines_have(&lines, "in hang"));
}

/* A handler that asked for its event ends by itself within the grace. */
static void test_event_is_heeded_first(void **state) {
  (void)state;
  pyproc_pool_options options = options_for("conformance_worker.py");
  options.cancel_grace_ms = 60000;
  pyproc_pool *pool = open_pool(&options);
  call_cancelled(pool, "sleep", "{\"ms\": 3600000}");
  assert_answer(pool, "echo", "1", "1");
  pyproc_pool_close(pool);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      E2E_TEST(test_cancel_frees_the_worker),
      E2E_TEST(test_deadline_frees_the_worker),
      E2E_TEST(test_stuck_worker_is_replaced),
      E2E_TEST(test_event_is_heeded_first),
  };
  return RUN_TESTS(tests);
}
