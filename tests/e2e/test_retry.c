/*
 * Calls that are made again: which, how often, until when, and who can end that. Every test runs with each protocol.
 */
#include <unistd.h>

#include "grpc_support.h"
#include "retrying.pyproc.h"
#include "support.h"

enum { MANY = 200, A_LOT_MS = 60000 };

static char notes_variable[4096];
static const char *notes;

static pyproc_pool_options retry_options(const char *protocol) {
  static const char *env[] = {notes_variable, NULL};
  pyproc_pool_options options = options_for("retry_worker.py");
  notes = temporary_path("notes");
  unlink(notes);
  snprintf(notes_variable, sizeof notes_variable, "RETRY_NOTES=%s", notes);
  options.env = env;
  options.protocol = protocol;
  return options;
}

static pyproc_pool *open_retry(const char *protocol) {
  pyproc_pool_options options = retry_options(protocol);
  return open_pool(&options);
}

static const char *const protocols[] = {"protobuf", "json", "grpc"};
static size_t protocol_count; /* without gRPC where it was not built */
#define EACH_PROTOCOL(pool) \
  for (size_t round_ = 0; round_ < protocol_count; round_++) \
    for (pyproc_pool *pool = open_retry(protocols[round_]); pool != NULL; pyproc_pool_close(pool), pool = NULL)

/* How often a handler began for the key. */
static int attempts_of(const char *key) {
  char *text = read_file(notes), *rest = text;
  int count = 0;
  for (char *line; rest != NULL && (line = strsep(&rest, "\n")) != NULL;) count += strcmp(line, key) == 0;
  free(text);
  return count;
}

typedef int method(pyproc_pool *, const Retrying__TryRequest *, const pyproc_call_options *, Retrying__TryReply **,
                   pyproc_error **);

static Retrying__TryRequest request_for(const char *key, int64_t failures, const char *how) {
  Retrying__TryRequest request = RETRYING__TRY_REQUEST__INIT;
  request.key = key;
  request.failures = failures;
  request.how = how;
  return request;
}

/* The attempt that answered. */
static int64_t answer(pyproc_pool *pool, method *call, const char *key, int64_t failures, const char *how,
                      const pyproc_call_options *options) {
  Retrying__TryRequest request = request_for(key, failures, how);
  Retrying__TryReply *reply = NULL;
  pyproc_error *error = NULL;
  if (call(pool, &request, options, &reply, &error) < 0) fail_msg("%s: %s", key, pyproc_error_message(error));
  int64_t attempt = reply->attempt;
  pyproc_reply_free(reply);
  return attempt;
}

static pyproc_error *failure(pyproc_pool *pool, method *call, const char *key, const char *how,
                             const pyproc_call_options *options) {
  Retrying__TryRequest request = request_for(key, 1000, how);
  Retrying__TryReply *reply = NULL;
  pyproc_error *error = NULL;
  int result = call(pool, &request, options, &reply, &error);
  assert_true(result < 0);
  assert_null(reply);
  assert_int_equal(result, pyproc_error_code(error));
  return error;
}

static void test_workers_that_die(void **state) {
  (void)state;
  EACH_PROTOCOL(pool) {
    assert_int_equal(answer(pool, retrying_flaky_try_with, "dies", 2, "kill", NULL), 3);
    pyproc_health health = PYPROC_HEALTH_INIT;
    assert_int_equal(pyproc_pool_health(pool, &health), 0);
    assert_int_equal(health.restarts, 2);
    assert_int_equal(health.calls, 1);
    assert_int_equal(health.failures, 0);
  }
}

static void test_codes(void **state) {
  (void)state;
  EACH_PROTOCOL(pool) {
    assert_int_equal(answer(pool, retrying_flaky_try_with, "unavailable", 4, "UNAVAILABLE", NULL), 5);
    assert_int_equal(answer(pool, retrying_flaky_try_with, "aborted", 1, "ABORTED", NULL), 2);
    pyproc_error *error = failure(pool, retrying_flaky_try_with, "not found", "NOT_FOUND", NULL);
    assert_int_equal(pyproc_error_attempts(error), 1);
    assert_error(error, PYPROC_E_NOT_FOUND, "attempt 1 fails", RAN);
    assert_int_equal(attempts_of("not found"), 1);
    error = failure(pool, retrying_flaky_try_with, "too often", "UNAVAILABLE", NULL);
    assert_int_equal(pyproc_error_attempts(error), 5);
    assert_error(error, PYPROC_E_UNAVAILABLE, "attempt 5 fails", RAN);
    assert_int_equal(attempts_of("too often"), 5);
  }
}

static void test_not_idempotent(void **state) {
  (void)state;
  EACH_PROTOCOL(pool) {
    pyproc_call_options more = PYPROC_CALL_OPTIONS_INIT;
    more.max_attempts = 10;
    pyproc_error *error = failure(pool, retrying_flaky_once_with, "once", "UNAVAILABLE", NULL);
    assert_int_equal(pyproc_error_attempts(error), 1);
    assert_error(error, PYPROC_E_UNAVAILABLE, "attempt 1 fails", RAN);
    error = failure(pool, retrying_flaky_once_with, "killed", "kill", &more);
    assert_int_equal(pyproc_error_attempts(error), 1);
    assert_error(error, PYPROC_E_UNAVAILABLE, "", RAN);
    assert_int_equal(attempts_of("once"), 1);
    assert_int_equal(attempts_of("killed"), 1);
  }
}

static void *free_soon(void *future) {
  pause_ms(100);
  pyproc_future_free(future);
  return NULL;
}

/* One that certainly did not run is made again: here there is no place for it yet. */
static void test_did_not_run(void **state) {
  (void)state;
  for (size_t i = 0; i < protocol_count; i++) {
    pyproc_pool_options options = retry_options(protocols[i]);
    options.queue_limit = PYPROC_OFF;
    options.max_in_flight = 1;
    pyproc_pool *pool = open_pool(&options);
    Retrying__TryRequest request = request_for("first", 0, "");
    request.wait_ms = A_LOT_MS;
    pyproc_future *first = NULL;
    pthread_t thread;
    assert_int_equal(retrying_flaky_try_start(pool, &request, NULL, &first, NULL), 0);
    pyproc_call_options once = PYPROC_CALL_OPTIONS_INIT;
    once.max_attempts = 1;
    pyproc_error *error = failure(pool, retrying_flaky_squeeze_with, "no place", "", &once);
    assert_error(error, PYPROC_E_RESOURCE_EXHAUSTED, "queue_limit", NOT_RUN);
    assert_int_equal(pthread_create(&thread, NULL, free_soon, first), 0);
    assert_int_equal(answer(pool, retrying_flaky_squeeze_with, "second", 0, "", NULL), 1);
    pthread_join(thread, NULL);
    pyproc_pool_close(pool);
  }
}

static void test_options(void **state) {
  (void)state;
  EACH_PROTOCOL(pool) {
    pyproc_call_options options = PYPROC_CALL_OPTIONS_INIT;
    options.max_attempts = 1;
    assert_error(failure(pool, retrying_flaky_try_with, "never again", "UNAVAILABLE", &options), PYPROC_E_UNAVAILABLE,
                 "attempt 1 fails", RAN);
    options.max_attempts = 7;
    assert_error(failure(pool, retrying_flaky_try_with, "more", "UNAVAILABLE", &options), PYPROC_E_UNAVAILABLE,
                 "attempt 7 fails", RAN);
    options.max_attempts = 2;
    assert_error(failure(pool, retrying_flaky_plain_with, "default", "UNAVAILABLE", &options), PYPROC_E_UNAVAILABLE,
                 "attempt 2 fails", RAN);
    assert_error(failure(pool, retrying_flaky_plain_with, "none", "UNAVAILABLE", NULL), PYPROC_E_UNAVAILABLE,
                 "attempt 1 fails", RAN);
    char *body = NULL;
    pyproc_error *error = NULL;
    const char *json = "{\"key\": \"json\", \"failures\": 1, \"how\": \"UNAVAILABLE\"}";
    assert_int_equal(pyproc_call_json(pool, "retrying.Flaky/Try", json, &options, &body, &error), PYPROC_E_UNAVAILABLE);
    assert_int_equal(pyproc_error_attempts(error), 1); /* by its name nobody knows that it is idempotent */
    assert_error(error, PYPROC_E_UNAVAILABLE, "attempt 1 fails", RAN);
    for (options.max_attempts = -1; options.max_attempts <= 11; options.max_attempts += 12)
      assert_error(failure(pool, retrying_flaky_try_with, "range", "UNAVAILABLE", &options), PYPROC_E_INVALID_ARGUMENT,
                   "max_attempts", NOT_RUN);
    assert_int_equal(attempts_of("range"), 0);
  }
}

static void test_deadlines(void **state) {
  (void)state;
  EACH_PROTOCOL(pool) {
    pyproc_call_options options = PYPROC_CALL_OPTIONS_INIT;
    options.timeout_ms = 5000; /* a pause of up to a day will not end before */
    pyproc_error *error = failure(pool, retrying_flaky_patient_with, "patient", "UNAVAILABLE", &options);
    assert_int_equal(pyproc_error_attempts(error), 1);
    assert_error(error, PYPROC_E_UNAVAILABLE, "attempt 1 fails", RAN);

    Retrying__TryRequest request = request_for("slow", 1, "UNAVAILABLE");
    request.wait_ms = A_LOT_MS;
    Retrying__TryReply *reply = NULL;
    options.timeout_ms = 3000;
    assert_int_equal(retrying_flaky_try_with(pool, &request, &options, &reply, &error), PYPROC_E_DEADLINE_EXCEEDED);
    assert_int_equal(pyproc_error_attempts(error), 2);
    assert_contains(pyproc_error_message(error), "within 3000 ms");
    assert_error(error, PYPROC_E_DEADLINE_EXCEEDED, "attempt 1 fails", RAN);
    assert_int_equal(attempts_of("slow"), 2);
  }
}

typedef struct paused_call {
  pyproc_pool *pool;
  pyproc_call_options options;
  int result, attempts, may_have_run;
  atomic_int ended;
} paused_call;

static void note(paused_call *self, int result, pyproc_error *error) {
  self->result = result;
  self->attempts = pyproc_error_attempts(error);
  self->may_have_run = pyproc_error_may_have_run(error);
  pyproc_error_free(error);
  atomic_fetch_add(&self->ended, 1);
}

static void *call_patient(void *argument) {
  paused_call *self = argument;
  Retrying__TryRequest request = request_for("paused", 1000, "UNAVAILABLE");
  Retrying__TryReply *reply = NULL;
  pyproc_error *error = NULL;
  int result = retrying_flaky_patient_with(self->pool, &request, &self->options, &reply, &error);
  note(self, result, error);
  return NULL;
}

static void on_patient(int result, Retrying__TryReply *reply, pyproc_error *error, void *userdata) {
  assert_null(reply);
  note(userdata, result, error);
}

static void submit_patient(paused_call *self) {
  Retrying__TryRequest request = request_for("paused", 1000, "UNAVAILABLE");
  assert_int_equal(retrying_flaky_patient_submit(self->pool, &request, &self->options, on_patient, self, NULL), 0);
}

static bool is_dispatched(paused_call *self) {
  pyproc_pool_dispatch(self->pool, 0);
  return atomic_load(&self->ended) > 0;
}

static void assert_cancelled(const paused_call *self) {
  assert_int_equal(self->ended, 1);
  assert_int_equal(self->result, PYPROC_E_CANCELLED);
  assert_int_equal(self->attempts, 1);
  assert_int_equal(self->may_have_run, RAN);
}

static void test_cancel_in_the_pause(void **state) {
  (void)state;
  EACH_PROTOCOL(pool) {
    paused_call blocking = {.pool = pool, .options = PYPROC_CALL_OPTIONS_INIT};
    blocking.options.timeout_ms = PYPROC_TIMEOUT_NONE;
    assert_int_equal(pyproc_cancel_new(&blocking.options.cancel), 0);
    paused_call submitted = {.pool = pool, .options = blocking.options};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, call_patient, &blocking), 0);
    submit_patient(&submitted);
    WAIT_FOR(attempts_of("paused") == 2);
    pause_ms(20); /* most likely they pause by now; the result is the same where they do not */
    assert_int_equal(atomic_load(&blocking.ended), 0);
    assert_false(is_dispatched(&submitted));
    pyproc_cancel_fire(blocking.options.cancel);
    pthread_join(thread, NULL);
    WAIT_FOR(is_dispatched(&submitted));
    assert_cancelled(&blocking);
    assert_cancelled(&submitted);
    pyproc_cancel_free(blocking.options.cancel);
    assert_int_equal(attempts_of("paused"), 2);
  }
}

/* A pool that is closed does not wait for pauses. */
static void test_close_in_the_pause(void **state) {
  (void)state;
  for (size_t i = 0; i < 2 * protocol_count; i++) {
    pyproc_pool_options options = retry_options(protocols[i / 2]);
    options.drain_timeout_ms = i % 2 == 0 ? PYPROC_OFF : 10 * A_LOT_MS;
    pyproc_pool *pool = open_pool(&options);
    paused_call blocking = {.pool = pool, .options = PYPROC_CALL_OPTIONS_INIT};
    blocking.options.timeout_ms = PYPROC_TIMEOUT_NONE;
    paused_call submitted = {.pool = pool, .options = blocking.options};
    Retrying__TryRequest request = request_for("paused", 1000, "UNAVAILABLE");
    pyproc_future *kept = NULL, *freed = NULL;
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, call_patient, &blocking), 0);
    submit_patient(&submitted);
    assert_int_equal(retrying_flaky_patient_start(pool, &request, &blocking.options, &kept, NULL), 0);
    assert_int_equal(retrying_flaky_patient_start(pool, &request, &blocking.options, &freed, NULL), 0);
    WAIT_FOR(attempts_of("paused") == 4);
    pause_ms(20);
    assert_int_equal(pyproc_future_wait_any(&kept, 1, 0), PYPROC_E_DEADLINE_EXCEEDED);
    pyproc_future_free(freed);
    pyproc_pool_close(pool);
    pthread_join(thread, NULL);
    Retrying__TryReply *reply = NULL;
    assert_int_equal(retrying_flaky_patient_finish(kept, &reply, NULL), PYPROC_E_UNAVAILABLE);
    pyproc_future_free(kept);
    assert_int_equal(blocking.result, PYPROC_E_UNAVAILABLE);
    assert_int_equal(submitted.ended, 1);
    assert_int_equal(submitted.result, PYPROC_E_UNAVAILABLE);
    assert_int_equal(submitted.attempts, 1);
  }
}

static void on_tried(int result, Retrying__TryReply *reply, pyproc_error *error, void *userdata) {
  int *attempts = userdata;
  *attempts = result < 0 ? result : (int)reply->attempt;
  pyproc_reply_free(reply);
  pyproc_error_free(error);
}

static void test_many_at_once(void **state) {
  (void)state;
  EACH_PROTOCOL(pool) {
    int count = scaled(MANY), attempts[MANY] = {0}, ended = 0;
    char key[32];
    for (int i = 0; i < count; i++) {
      snprintf(key, sizeof key, "many %d", i);
      Retrying__TryRequest request = request_for(key, i % 3, "UNAVAILABLE");
      assert_int_equal(retrying_flaky_try_submit(pool, &request, NULL, on_tried, &attempts[i], NULL), 0);
    }
    while (ended < count) ended += pyproc_pool_dispatch(pool, -1);
    assert_int_equal(ended, count);
    for (int i = 0; i < count; i++) assert_int_equal(attempts[i], i % 3 + 1);
    pyproc_health health = PYPROC_HEALTH_INIT;
    assert_int_equal(pyproc_pool_health(pool, &health), 0);
    assert_int_equal(health.calls, count);
    assert_int_equal(health.failures, 0);
  }
}

static void test_futures(void **state) {
  (void)state;
  EACH_PROTOCOL(pool) {
    Retrying__TryRequest requests[] = {request_for("dies", 1, "kill"), request_for("fails", 1000, "UNAVAILABLE"),
                                       request_for("once", 1, "UNAVAILABLE")};
    pyproc_future *futures[LENGTH(requests)] = {NULL};
    Retrying__TryReply *reply = NULL;
    pyproc_error *error = NULL;
    assert_int_equal(retrying_flaky_try_start(pool, &requests[0], NULL, &futures[0], NULL), 0);
    assert_int_equal(retrying_flaky_try_finish(futures[0], &reply, &error), 0);
    assert_int_equal(reply->attempt, 2);
    pyproc_reply_free(reply);
    assert_int_equal(retrying_flaky_try_start(pool, &requests[1], NULL, &futures[1], NULL), 0);
    assert_int_equal(retrying_flaky_once_start(pool, &requests[2], NULL, &futures[2], NULL), 0);
    assert_int_equal(retrying_flaky_try_finish(futures[1], &reply, &error), PYPROC_E_UNAVAILABLE);
    assert_int_equal(pyproc_error_attempts(error), 5);
    assert_error(error, PYPROC_E_UNAVAILABLE, "attempt 5 fails", RAN);
    assert_int_equal(retrying_flaky_once_finish(futures[2], &reply, &error), PYPROC_E_UNAVAILABLE);
    assert_int_equal(pyproc_error_attempts(error), 1);
    assert_error(error, PYPROC_E_UNAVAILABLE, "attempt 1 fails", RAN);
    for (size_t i = 0; i < LENGTH(futures); i++) pyproc_future_free(futures[i]);
  }
}

/* Tokens are fired, and futures freed, at random moments of calls that are made again and again. */
static void test_races(void **state) {
  (void)state;
  EACH_PROTOCOL(pool) {
    for (int i = 0; i < scaled(MANY); i++) {
      char key[32];
      snprintf(key, sizeof key, "race %d", i);
      Retrying__TryRequest request = request_for(key, 3, "UNAVAILABLE");
      pyproc_call_options options = PYPROC_CALL_OPTIONS_INIT;
      pyproc_future *first = NULL, *second = NULL;
      assert_int_equal(pyproc_cancel_new(&options.cancel), 0);
      assert_int_equal(retrying_flaky_try_start(pool, &request, &options, &first, NULL), 0);
      assert_int_equal(retrying_flaky_try_start(pool, &request, NULL, &second, NULL), 0);
      usleep((useconds_t)(i % 20) * 500);
      pyproc_cancel_fire(options.cancel);
      pyproc_future_free(second);
      Retrying__TryReply *reply = NULL;
      int result = retrying_flaky_try_finish(first, &reply, NULL);
      /* UNAVAILABLE: it was cancelled just when an attempt had failed */
      assert_true(result == 0 || result == PYPROC_E_CANCELLED || result == PYPROC_E_UNAVAILABLE);
      assert_int_equal(reply != NULL, result == 0);
      pyproc_reply_free(reply);
      pyproc_future_free(first);
      pyproc_cancel_free(options.cancel);
    }
    assert_int_equal(answer(pool, retrying_flaky_try_with, "after it", 1, "ABORTED", NULL), 2);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      E2E_TEST(test_workers_that_die),
      E2E_TEST(test_codes),
      E2E_TEST(test_not_idempotent),
      E2E_TEST(test_did_not_run),
      E2E_TEST(test_options),
      E2E_TEST(test_deadlines),
      E2E_TEST(test_cancel_in_the_pause),
      E2E_TEST(test_close_in_the_pause),
      E2E_TEST(test_many_at_once),
      E2E_TEST(test_futures),
      E2E_TEST(test_races),
  };
  bool has_grpc = grpc_is_built();
  protocol_count = LENGTH(protocols) - (has_grpc ? 0 : 1);
  return RUN_TESTS_WITH(tests, has_grpc ? grpc_hold : NULL, has_grpc ? grpc_release : NULL);
}
