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
      E2E_TEST(test_cancel_frees_the_worker),  E2E_TEST(test_deadline_frees_the_worker),
      E2E_TEST(test_stuck_worker_is_replaced), E2E_TEST(test_event_is_heeded_first),
      E2E_TEST(test_async_handlers),           E2E_TEST(test_plain_handler_stalls_no_async_one),
  };
  return RUN_TESTS(tests);
}
