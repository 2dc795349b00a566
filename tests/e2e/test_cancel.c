/*
 * What is cancelled, or late, stops in Python: the worker is at once free for the next call, or is replaced.
 */
#include "support.h"

#include <signal.h>

static const char *const protocols[] = {"protobuf", "json"};

static pyproc_pool *open_faults(const char *protocol, int64_t grace_ms, log_lines *lines) {
  pyproc_pool_options options = options_for("fault_worker.py");
  options.protocol = protocol;
  options.cancel_grace_ms = grace_ms;
  options.poison_limit = PYPROC_OFF; /* the same request may kill on and on */
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

/* By then a handler has begun. */
enum { BEGINS_MS = IS_SANITIZED ? 400 : 50 };
static const char *const begins_text = IS_SANITIZED ? "400 ms" : "50 ms";

static void *fire_later(void *token) {
  pause_ms(BEGINS_MS);
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

typedef struct submitted_end {
  int called, result;
  pyproc_error *error;
} submitted_end;

static void on_submitted_end(int result, char *body, pyproc_error *error, void *userdata) {
  submitted_end *self = userdata;
  self->called++;
  self->result = result;
  self->error = error;
  pyproc_reply_free(body);
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
      assert_error(call_failure(pool, "sleep", "{\"ms\": 3600000}", BEGINS_MS), PYPROC_E_DEADLINE_EXCEEDED, begins_text,
                   RAN);
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

/* ---- how far a handler was made to stop ---- */

static void assert_stop(pyproc_error *error, int code, int stop, const char *part, int may_have_run) {
  if (pyproc_error_stop(error) != stop) fail_msg("%d: %s", pyproc_error_stop(error), pyproc_error_message(error));
  assert_error(error, code, part, may_have_run);
}

/* A busy machine may take longer than the caller stays: then it is only known that it was asked. */
static void assert_interrupted(pyproc_pool *pool, const char *method, const char *body) {
  for (int tries = 0; tries < 100; tries++) {
    pyproc_error *error = call_failure(pool, method, body, 50);
    int stop = pyproc_error_stop(error);
    if (stop == PYPROC_STOP_INTERRUPTED) {
      assert_string_equal(pyproc_error_type(error), "pyproc_worker.Cancelled");
      assert_contains(pyproc_error_traceback(error), "time.sleep");
      assert_stop(error, PYPROC_E_DEADLINE_EXCEEDED, PYPROC_STOP_INTERRUPTED, "50 ms; its handler was interrupted",
                  RAN);
      return;
    }
    assert_stop(error, PYPROC_E_DEADLINE_EXCEEDED, PYPROC_STOP_ASKED, "50 ms; its handler was asked to stop", RAN);
  }
  fail_msg("never interrupted");
}

static void test_stops(void **state) {
  (void)state;
  EACH_PROTOCOL(pool, 60000, NULL) {
    assert_interrupted(pool, "sleep", "{\"ms\": 3600000}");
    assert_stop(call_failure(pool, "stay", "{\"ms\": 1000}", 50), PYPROC_E_DEADLINE_EXCEEDED, PYPROC_STOP_ASKED,
                "50 ms; its handler was asked to stop", RAN);
    /* behind it */
    assert_stop(call_failure(pool, "die", "{\"status\": 1}", 50), PYPROC_E_DEADLINE_EXCEEDED, PYPROC_STOP_NONE,
                "die had no answer within 50 ms", NOT_RUN);
    assert_stop(call_failure(pool, "ping", "1", -1), PYPROC_E_DEADLINE_EXCEEDED, PYPROC_STOP_NONE, "", NOT_RUN);
    assert_stop(call_failure(pool, "fail", "{\"type\": \"ValueError\", \"text\": \"no\"}", 0), PYPROC_E_UNKNOWN,
                PYPROC_STOP_NONE, "no", RAN);
    assert_answer(pool, "ping", "1", "1");
  }
}

/* With a grace that is shorter than the caller stays it sees the end of the worker. */
static void test_killed(void **state) {
  (void)state;
  for (size_t i = 0; i < LENGTH(protocols); i++) {
    bool is_seen = false;
    pyproc_pool *pool = open_faults(protocols[i], 1, NULL);
    for (int tries = 0; tries < scaled(100) && !is_seen; tries++) {
      assert_answer(pool, "ping", "1", "1"); /* it is there again */
      pyproc_error *error = call_failure(pool, "hang", "{}", 100);
      is_seen = pyproc_error_stop(error) == PYPROC_STOP_KILLED;
      if (is_seen) {
        const pyproc_crash *crash = pyproc_error_crash(error);
        assert_non_null(crash);
        assert_int_equal(crash->signal, SIGKILL);
        assert_string_equal(crash->method, "hang");
      }
      assert_stop(error, PYPROC_E_DEADLINE_EXCEEDED, is_seen ? PYPROC_STOP_KILLED : PYPROC_STOP_ASKED,
                  is_seen ? "did not stop, and its worker was killed" : "asked to stop", RAN);
    }
    assert_true(is_seen || scaled(100) < 100); /* slowed down, a worker may always take longer than the caller stays */
    assert_answer(pool, "ping", "1", "1");
    pyproc_pool_close(pool);
  }
}

/* ---- calls that are lost with somebody else's handler ---- */

typedef struct victim {
  pyproc_pool *pool;
  pyproc_error *error;
  int result;
} victim;

static void *nap_long(void *argument) {
  victim *self = argument;
  char *reply = NULL;
  self->result = pyproc_call_json(self->pool, "nap", "{\"ms\": 3600000}", NULL, &reply, &self->error);
  return NULL;
}

static bool is_running(pyproc_pool *pool, int count) {
  pyproc_health health = PYPROC_HEALTH_INIT;
  pyproc_pool_health(pool, &health);
  return health.in_flight == count;
}

static void test_lost_with_a_stuck_handler(void **state) {
  (void)state;
  pthread_t thread;
  pyproc_pool_options options = options_for("coroutine_worker.py");
  options.cancel_grace_ms = 200;
  victim self = {.pool = open_pool(&options)};
  assert_int_equal(pthread_create(&thread, NULL, nap_long, &self), 0);
  WAIT_FOR(is_running(self.pool, 1));
  pause_ms(50);
  pyproc_error *error = call_failure(self.pool, "hang", "{}", 50);
  assert_int_not_equal(pyproc_error_stop(error), PYPROC_STOP_INTERRUPTED);
  assert_error(error, PYPROC_E_DEADLINE_EXCEEDED, "hang", RAN);
  pthread_join(thread, NULL);
  assert_int_equal(self.result, PYPROC_E_UNAVAILABLE);
  assert_string_equal(pyproc_error_crash(self.error)->method, "hang");
  assert_contains(pyproc_error_crash(self.error)->stacks, "hang still runs");
  assert_contains(pyproc_error_crash(self.error)->stacks, "in hang");
  assert_stop(self.error, PYPROC_E_UNAVAILABLE, PYPROC_STOP_KILLED, "in hang, which did not end although", RAN);
  pyproc_pool_close(self.pool);
}

/* ---- calls that no thread waits for ---- */

static void test_stops_of_futures(void **state) {
  (void)state;
  pyproc_pool_options options = options_for("fault_worker.py");
  options.cancel_grace_ms = 60000;
  pyproc_pool *pool = open_pool(&options);
  pyproc_cancel *token = NULL;
  assert_int_equal(pyproc_cancel_new(&token), 0);
  for (int i = 0; i < 2; i++) {
    submitted_end end = {0};
    pyproc_call_options call = PYPROC_CALL_OPTIONS_INIT;
    call.timeout_ms = i == 0 ? 50 : 60000;
    call.cancel = i == 0 ? NULL : token;
    assert_int_equal(pyproc_call_json_submit(pool, "sleep", "{\"ms\": 3600000}", &call, on_submitted_end, &end, NULL),
                     0);
    if (i == 1) pause_ms(100);
    if (i == 1) pyproc_cancel_fire(token);
    while (end.called == 0) assert_true(pyproc_pool_dispatch(pool, -1) >= 0);
    int code = i == 0 ? PYPROC_E_DEADLINE_EXCEEDED : PYPROC_E_CANCELLED;
    assert_int_equal(end.result, code);
    assert_true(pyproc_error_stop(end.error) == PYPROC_STOP_INTERRUPTED ||
                pyproc_error_stop(end.error) == PYPROC_STOP_ASKED);
    assert_error(end.error, code, "; its handler was ", RAN);
    assert_answer(pool, "ping", "1", "1");
  }
  pyproc_cancel_free(token);
  pyproc_pool_close(pool);
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

/* ---- async handlers, and threads ---- */

enum { MEETING = 100 };

typedef struct meeting {
  pyproc_pool *pool;
  atomic_int good;
} meeting;

static void meet(int number, void *argument) {
  meeting *all = argument;
  char *reply = NULL;
  (void)number;
  if (pyproc_call_json(all->pool, "meet", "100", NULL, &reply, NULL) == 0) atomic_fetch_add(&all->good, 1);
  pyproc_reply_free(reply);
}

static void assert_predicts(pyproc_pool *pool, double value) {
  Quickstart__PredictRequest request = QUICKSTART__PREDICT_REQUEST__INIT;
  Quickstart__PredictReply *reply = NULL;
  request.value = value;
  assert_int_equal(quickstart_predictor_predict(pool, &request, &reply, NULL), 0);
  assert_true(reply->result >= 2 * value && reply->result <= 2 * value);
  pyproc_reply_free(reply);
}

/* One worker runs them all at once, and what is cancelled or late among them ends. */
static void test_async_handlers(void **state) {
  (void)state;
  for (size_t i = 0; i < LENGTH(protocols); i++) {
    pyproc_pool_options options = options_for("coroutine_worker.py");
    options.protocol = protocols[i];
    options.cancel_grace_ms = 60000;
    meeting all = {.pool = open_pool(&options)};
    long pid = worker_pid(all.pool);
    run_threads(MEETING, meet, &all);
    assert_int_equal(atomic_load(&all.good), MEETING);
    assert_predicts(all.pool, 21);
    call_cancelled(all.pool, "nap", "{\"ms\": 3600000}");
    assert_error(call_failure(all.pool, "nap", "{\"ms\": 3600000}", 50), PYPROC_E_DEADLINE_EXCEEDED, "50 ms", RAN);
    assert_predicts(all.pool, 4);
    assert_int_equal(worker_pid(all.pool), pid);
    pyproc_pool_close(all.pool);
  }
}

typedef struct napping {
  pyproc_pool *pool;
  pyproc_cancel *token;
  atomic_int result;
} napping;

static void *keep_main_thread(void *argument) {
  napping *self = argument;
  char *reply = NULL;
  pyproc_call_options options = PYPROC_CALL_OPTIONS_INIT;
  options.cancel = self->token;
  options.timeout_ms = PYPROC_TIMEOUT_NONE;
  atomic_store(&self->result, pyproc_call_json(self->pool, "sleep", "{\"ms\": 3600000}", &options, &reply, NULL));
  pyproc_reply_free(reply);
  return NULL;
}

/* Async calls are answered while a plain handler keeps the main thread. */
static void test_plain_handler_stalls_no_async_one(void **state) {
  (void)state;
  pthread_t thread;
  pyproc_pool_options options = options_for("coroutine_worker.py");
  options.cancel_grace_ms = 60000;
  napping plain = {.pool = open_pool(&options)};
  assert_int_equal(pyproc_cancel_new(&plain.token), 0);
  assert_predicts(plain.pool, 1);
  assert_int_equal(pthread_create(&thread, NULL, keep_main_thread, &plain), 0);
  for (int i = 0; i < 50; i++) {
    assert_predicts(plain.pool, i);
    pause_ms(1);
  }
  pyproc_cancel_fire(plain.token);
  pthread_join(thread, NULL);
  assert_int_equal(atomic_load(&plain.result), PYPROC_E_CANCELLED);
  pyproc_cancel_free(plain.token);
  pyproc_pool_close(plain.pool);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      E2E_TEST(test_cancel_frees_the_worker),
      E2E_TEST(test_deadline_frees_the_worker),
      E2E_TEST(test_stuck_worker_is_replaced),
      E2E_TEST(test_event_is_heeded_first),
      E2E_TEST(test_stops),
      E2E_TEST(test_killed),
      E2E_TEST(test_lost_with_a_stuck_handler),
      E2E_TEST(test_stops_of_futures),
      E2E_TEST(test_async_handlers),
      E2E_TEST(test_plain_handler_stalls_no_async_one),
  };
  return RUN_TESTS(tests);
}
