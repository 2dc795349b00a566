/*
 * Requests that kill their workers: refused after a while, for a while, and no others.
 */
#include <signal.h>

#include "grpc_support.h"

static log_lines lines;

static pyproc_pool_options options_of(const char *protocol, int64_t limit, int64_t rest_ms) {
  pyproc_pool_options options = options_for("fault_worker.py");
  log_lines_init(&lines);
  options.protocol = protocol;
  options.poison_limit = limit;
  options.poison_rest_ms = rest_ms;
  options.breaker_failures = PYPROC_OFF;
  options.restart_max = PYPROC_OFF;
  options.log = log_lines_callback;
  options.log_userdata = &lines;
  return options;
}

static int64_t restarts_of(pyproc_pool *pool) {
  pyproc_health health = PYPROC_HEALTH_INIT;
  assert_int_equal(pyproc_pool_health(pool, &health), PYPROC_OK);
  return health.restarts;
}

static const char *const protocols[] = {"protobuf", "json", "grpc"};

static void test_is_refused(void **state) {
  (void)state;
  for (size_t i = 0; i < LENGTH(protocols) && (i < 2 || grpc_is_built()); i++) {
    pyproc_pool_options options = options_of(protocols[i], 0, 0); /* 3, a minute */
    pyproc_pool *pool = open_pool(&options);
    for (int k = 0; k < 3; k++)
      assert_error(call_failure(pool, "die", "{\"status\": 7}", 0), PYPROC_E_UNAVAILABLE, "exited with status 7", RAN);
    pyproc_error *error = call_failure(pool, "die", "{\"status\": 7}", 0);
    assert_contains(pyproc_error_message(error), "the last: worker ");
    assert_contains(pyproc_error_message(error), "exited with status 7 in die");
    assert_error(error, PYPROC_E_FAILED_PRECONDITION,
                 "this request to die is refused: it has killed 3 workers, one after the other (option poison_limit); "
                 "it may be tried again in ",
                 NOT_RUN);
    assert_error(call_failure(pool, "die", "{\"status\": 8}", 0), PYPROC_E_UNAVAILABLE, "status 8", RAN);
    assert_answer(pool, "ping", "{\"status\": 7}", "{\"status\":7}"); /* another method */
    assert_int_equal(restarts_of(pool), 4);
    WAIT_FOR(log_lines_have(&lines, "a request to die has killed 3 workers, one after the other (option "
                                    "poison_limit): it is refused for 60000 ms (option poison_rest_ms)"));
    pyproc_pool_close(pool);
  }
}

static void test_may_be_tried_after_its_rest(void **state) {
  (void)state;
  pyproc_pool_options options = options_of(NULL, 1, 500);
  pyproc_pool *pool = open_pool(&options);
  for (int i = 0; i < 2; i++) {
    assert_error(call_failure(pool, "die", "{\"status\": 7}", 0), PYPROC_E_UNAVAILABLE, "exited with status 7", RAN);
    assert_error(call_failure(pool, "die", "{\"status\": 7}", 0), PYPROC_E_FAILED_PRECONDITION, "is refused", NOT_RUN);
    pause_ms(600);
  }
  pyproc_pool_close(pool);
}

static void test_a_success_counts(void **state) {
  (void)state;
  const char *once = temporary_path("once");
  char variable[300], *env[] = {variable, NULL};
  snprintf(variable, sizeof variable, "E2E_NOTES=%s", once);
  pyproc_pool_options options = options_of(NULL, 2, 0);
  options.env = (const char *const *)env;
  pyproc_pool *pool = open_pool(&options);
  for (int i = 0; i < 4; i++) { /* every other time it works */
    assert_error(call_failure(pool, "die_every_other_time", "1", 0), PYPROC_E_UNAVAILABLE, "exited with status 9", RAN);
    assert_answer(pool, "die_every_other_time", "1", "1");
  }
  pyproc_pool_close(pool);
}

/* Nobody knows for what, but not for a request. */
static void test_kills_from_outside_do_not_count(void **state) {
  (void)state;
  pyproc_pool_options options = options_of(NULL, 1, 0);
  pyproc_pool *pool = open_pool(&options);
  for (int i = 0; i < 3; i++)
    assert_error(call_failure(pool, "crash", "{\"signal\": \"SIGKILL\"}", 0), PYPROC_E_UNAVAILABLE, "signal 9", RAN);
  assert_error(call_failure(pool, "crash", "{\"signal\": \"SIGABRT\"}", 0), PYPROC_E_UNAVAILABLE, "signal 6", RAN);
  assert_error(call_failure(pool, "crash", "{\"signal\": \"SIGABRT\"}", 0), PYPROC_E_FAILED_PRECONDITION, "signal 6",
               NOT_RUN);
  pyproc_pool_close(pool);
}

/* Its caller has left long before its worker is killed. */
static void test_handlers_that_do_not_end(void **state) {
  (void)state;
  pyproc_pool_options options = options_of(NULL, 2, 0);
  options.cancel_grace_ms = 100;
  pyproc_pool *pool = open_pool(&options);
  for (int i = 0; i < 2; i++) {
    int64_t before = restarts_of(pool);
    assert_answer(pool, "ping", "1", "1"); /* a worker is there */
    assert_error(call_failure(pool, "hang", "1", 100), PYPROC_E_DEADLINE_EXCEEDED, "hang", RAN);
    WAIT_FOR(restarts_of(pool) > before);
  }
  assert_error(call_failure(pool, "hang", "1", 50), PYPROC_E_FAILED_PRECONDITION, "hang is refused", NOT_RUN);
  pyproc_pool_close(pool);
}

/* Many at once, of which most wait, in workers and in the queue: they do not kill all workers, one after the other. */
typedef struct crowd {
  pyproc_pool *pool;
  atomic_int lost, refused, other;
} crowd;

static void join_crowd(int number, void *argument) {
  (void)number;
  crowd *self = argument;
  char *reply = NULL;
  pyproc_error *error = NULL;
  int result = pyproc_call_json(self->pool, "die", "{\"status\": 7}", NULL, &reply, &error);
  atomic_fetch_add(result == PYPROC_E_UNAVAILABLE           ? &self->lost
                   : result == PYPROC_E_FAILED_PRECONDITION ? &self->refused
                                                            : &self->other,
                   1);
  pyproc_error_free(error);
  pyproc_reply_free(reply);
}

static void test_a_crowd(void **state) {
  (void)state;
  enum { COUNT = 32, WORKERS = 2, LIMIT = 3 };
  pyproc_pool_options options = options_of(NULL, LIMIT, 0);
  options.workers = WORKERS;
  crowd self = {.pool = open_pool(&options)};
  run_threads(COUNT, join_crowd, &self);
  assert_int_equal(atomic_load(&self.other), 0);
  assert_int_equal(atomic_load(&self.lost) + atomic_load(&self.refused), COUNT);
  assert_in_range(atomic_load(&self.lost), LIMIT, LIMIT + 2 * WORKERS); /* those that run when it is found out */
  assert_answer(self.pool, "ping", "1", "1");
  pyproc_pool_close(self.pool);
}

static void on_end(int result, char *body, pyproc_error *error, void *userdata) {
  *(int *)userdata = result;
  pyproc_error_free(error);
  pyproc_reply_free(body);
}

static void test_submitted_calls(void **state) {
  (void)state;
  pyproc_pool_options options = options_of(NULL, 1, 0);
  pyproc_pool *pool = open_pool(&options);
  pyproc_error *error = NULL;
  int result = 0;
  assert_int_equal(pyproc_call_json_submit(pool, "die", "{\"status\": 7}", NULL, on_end, &result, NULL), 0);
  while (pyproc_pool_dispatch(pool, 60000) == 0) {}
  assert_int_equal(result, PYPROC_E_UNAVAILABLE);
  assert_int_equal(pyproc_call_json_submit(pool, "die", "{\"status\": 7}", NULL, on_end, &result, &error),
                   PYPROC_E_FAILED_PRECONDITION);
  assert_error(error, PYPROC_E_FAILED_PRECONDITION, "is refused", NOT_RUN);
  pyproc_pool_close(pool);
}

static void test_can_be_off(void **state) {
  (void)state;
  pyproc_pool_options options = options_of(NULL, PYPROC_OFF, 0);
  pyproc_pool *pool = open_pool(&options);
  for (int i = 0; i < 5; i++)
    assert_error(call_failure(pool, "die", "{\"status\": 7}", 0), PYPROC_E_UNAVAILABLE, "exited with status 7", RAN);
  pyproc_pool_close(pool);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      E2E_TEST(test_is_refused),
      E2E_TEST(test_may_be_tried_after_its_rest),
      E2E_TEST(test_a_success_counts),
      E2E_TEST(test_kills_from_outside_do_not_count),
      E2E_TEST(test_handlers_that_do_not_end),
      E2E_TEST(test_a_crowd),
      E2E_TEST(test_submitted_calls),
      E2E_TEST(test_can_be_off),
  };
  return RUN_TESTS_BESIDE_GRPC(tests);
}
