/*
 * What schema/wire.md promises, end to end: the same tests on the real worker and on the pure Python one that was written from that page, in
 * both codecs.
 */
#include <math.h>

#include "sides.h"

static void test_typed(void **state) {
  const side *self = *state;
  const double values[] = {0, -0.5, 21, 1e300, -1e300, 4.9e-324};
  for (size_t i = 0; i < LENGTH(values); i++) {
    Quickstart__PredictRequest request = QUICKSTART__PREDICT_REQUEST__INIT;
    Quickstart__PredictReply *reply = NULL;
    request.value = values[i];
    assert_int_equal(quickstart_predictor_predict(self->pool, &request, &reply, NULL), 0);
    assert_true(reply->result == values[i] * 2);
    pyproc_reply_free(reply);
  }
}

static void test_typed_infinity_and_nan(void **state) {
  const side *self = *state;
  Quickstart__PredictRequest request = QUICKSTART__PREDICT_REQUEST__INIT;
  Quickstart__PredictReply *reply = NULL;
  request.value = -(double)INFINITY;
  assert_int_equal(quickstart_predictor_predict(self->pool, &request, &reply, NULL), 0);
  assert_true(reply->result < -1.7976931348623157e308);
  pyproc_reply_free(reply);
  request.value = (double)NAN;
  assert_int_equal(quickstart_predictor_predict(self->pool, &request, &reply, NULL), 0);
  assert_true(reply->result != reply->result);
  pyproc_reply_free(reply);
}

static void echo_bytes(const side *self, size_t size) {
  Conformance__Blob request = CONFORMANCE__BLOB__INIT, *reply = NULL;
  request.data.data = malloc(size + 1);
  request.data.len = size;
  assert_non_null(request.data.data);
  for (size_t i = 0; i < size; i++) request.data.data[i] = (uint8_t)(i * 31 + (i >> 8));
  pyproc_error *error = NULL;
  int result = conformance_echo_echo(self->pool, &request, &reply, &error);
  if (result < 0) print_error("%s\n", pyproc_error_message(error));
  assert_int_equal(result, 0);
  assert_int_equal(reply->data.len, size);
  assert_memory_equal(reply->data.data, request.data.data, size);
  pyproc_reply_free(reply);
  free(request.data.data);
}

static void test_bytes(void **state) {
  const size_t sizes[] = {0, 1, 100, 255, 256, 257, 8191, 8192, 65536, 1 << 20};
  for (size_t i = 0; i < LENGTH(sizes); i++) echo_bytes(*state, sizes[i]);
}

static void test_typed_by_name(void **state) {
  const side *self = *state;
  char *reply = call_json(self->pool, "quickstart.Predictor/Predict", "{\"value\": 4}");
  assert_contains(reply, "\"result\"");
  assert_contains(reply, "8");
  pyproc_reply_free(reply);
}

static void test_dynamic(void **state) {
  const side *self = *state;
  assert_int_equal(call_number(self->pool, "predict", "{\"value\": 21}") * 0, 0);
  const char *const bodies[] = {"null",
                                "true",
                                "0",
                                "-1.5",
                                "\"\"",
                                "[]",
                                "{}",
                                "[1,[2,[3]]]",
                                "9007199254740993",
                                "\"\\u00e4\\n\\\"\\\\\"",
                                "{\"a\":{\"b\":[null,false]}}"};
  for (size_t i = 0; i < LENGTH(bodies); i++) {
    char *once = call_json(self->pool, "echo", bodies[i]);
    char *twice = call_json(self->pool, "echo", once);
    assert_string_equal(once, twice);
    pyproc_reply_free(once);
    pyproc_reply_free(twice);
  }
  assert_answer(self->pool, "echo", "9007199254740993", "9007199254740993");
  assert_answer(self->pool, "echo", " [ ] ", "[]");
}

static void test_health(void **state) {
  const side *self = *state;
  char *reply = call_json(self->pool, "health", "{}");
  assert_contains(reply, "healthy");
  pyproc_reply_free(reply);
}

static void test_unknown_method(void **state) {
  const side *self = *state;
  assert_error(call_failure(self->pool, "nobody", "{}", 0), PYPROC_E_UNIMPLEMENTED, "nobody", NOT_RUN);
  assert_error(call_failure(self->pool, "no.Body/Home", "{}", 0), PYPROC_E_UNIMPLEMENTED, "no.Body/Home", NOT_RUN);
  assert_answer(self->pool, "echo", "1", "1");
}

static void test_raise(void **state) {
  const side *self = *state;
  pyproc_error *error = call_failure(self->pool, "fail", "{\"text\": \"soup\"}", 0);
  assert_string_equal(pyproc_error_type(error), "ValueError");
  assert_contains(pyproc_error_traceback(error), "Traceback");
  assert_contains(pyproc_error_traceback(error), "ValueError: ");
  assert_true(pyproc_error_worker_pid(error) > 0);
  assert_int_equal(pyproc_error_attempts(error), 1);
  assert_error(error, PYPROC_E_UNKNOWN, "'soup'", RAN);
  assert_answer(self->pool, "echo", "2", "2");
}

static void test_bad_request(void **state) {
  const side *self = *state;
  assert_error(call_failure(self->pool, "quickstart.Predictor/Predict", "{\"value\": \"much\"}", 0),
               PYPROC_E_INVALID_ARGUMENT, "", self->is_real ? NOT_RUN : RAN);
  assert_error(call_failure(self->pool, "quickstart.Predictor/Predict", "[1]", 0), PYPROC_E_INVALID_ARGUMENT, "",
               self->is_real ? NOT_RUN : RAN);
  assert_answer(self->pool, "echo", "3", "3");
}

static void test_unserialisable(void **state) {
  const side *self = *state;
  assert_error(call_failure(self->pool, "nan", "{}", 0), PYPROC_E_INTERNAL, "nan", RAN);
  assert_answer(self->pool, "echo", "4", "4");
}

static void test_reply_above_limit(void **state) {
  side *self = *state;
  pyproc_pool_options options = side_options(self);
  options.frame_limit_bytes = 4096;
  pyproc_pool *pool = open_pool(&options);
  assert_error(call_failure(pool, "big", "{\"size\": 5000}", 0), PYPROC_E_RESOURCE_EXHAUSTED, "frame", RAN);
  char *reply = call_json(pool, "big", "{\"size\": 4000}");
  assert_int_equal(strlen(reply), 4002);
  pyproc_reply_free(reply);
  pyproc_pool_close(pool);
}

static void test_deadline(void **state) {
  const side *self = *state;
  assert_error(call_failure(self->pool, "sleep", "{\"ms\": 60000}", 200), PYPROC_E_DEADLINE_EXCEEDED, "sleep", RAN);
  assert_answer(self->pool, "echo", "5", "5");
}

static void *fire_later(void *argument) {
  pause_ms(100);
  pyproc_cancel_fire(argument);
  return NULL;
}

static void test_cancel(void **state) {
  const side *self = *state;
  pyproc_call_options options = PYPROC_CALL_OPTIONS_INIT;
  pyproc_error *error = NULL;
  char *reply = NULL;
  pthread_t thread;
  assert_int_equal(pyproc_cancel_new(&options.cancel), 0);
  assert_int_equal(pthread_create(&thread, NULL, fire_later, options.cancel), 0);
  int result = pyproc_call_json(self->pool, "sleep", "{\"ms\": 60000}", &options, &reply, &error);
  pthread_join(thread, NULL);
  pyproc_cancel_free(options.cancel);
  assert_int_equal(result, PYPROC_E_CANCELLED);
  assert_error(error, PYPROC_E_CANCELLED, "sleep was cancelled", RAN);
  assert_answer(self->pool, "echo", "6", "6");
}

static void test_metadata(void **state) {
  const side *self = *state;
  const pyproc_metadata sent[] = {{"x-text", "~ !", 0}, {"x-blob-bin", "\0\377", 2}, {"x-empty", "", 0}};
  pyproc_call_options options = PYPROC_CALL_OPTIONS_INIT;
  for (size_t count = 0; count <= LENGTH(sent); count += LENGTH(sent)) { /* by an envelope, where that is the form */
    char *body = NULL;
    size_t got_count;
    options.metadata = sent;
    options.metadata_count = count;
    assert_int_equal(pyproc_call_json(self->pool, "beside", "[1]", &options, &body, NULL), 0);
    assert_string_equal(body, "[1]");
    const pyproc_metadata *got = pyproc_reply_metadata(body, &got_count);
    assert_int_equal(got_count, count + 1);
    assert_string_equal(pyproc_metadata_get(got, got_count, "served-by"), "beside");
    if (count > 0) {
      assert_string_equal(got[0].value, "~ !");
      assert_int_equal(got[1].value_size, 2);
      assert_memory_equal(got[1].value, "\0\377", 2);
      assert_string_equal(got[2].key, "x-empty");
    }
    pyproc_reply_free(body);
  }
}

static void test_death(void **state) {
  const side *self = *state;
  pyproc_error *error = call_failure(self->pool, "die", "{\"status\": 5}", 0);
  const pyproc_crash *crash = pyproc_error_crash(error);
  assert_non_null(crash);
  assert_int_equal(crash->exit_status, 5);
  assert_int_equal(crash->signal, 0);
  assert_error(error, PYPROC_E_UNAVAILABLE, "exited with status 5", RAN);
  assert_answer(self->pool, "echo", "7", "7");
}

typedef struct many {
  pyproc_pool *pool;
  int rounds;
  atomic_int wrong;
} many;

static void call_many(int number, void *argument) {
  many *all = argument;
  for (int i = 0; i < all->rounds; i++) {
    Quickstart__PredictRequest request = QUICKSTART__PREDICT_REQUEST__INIT;
    Quickstart__PredictReply *reply = NULL;
    request.value = number * 1000 + i;
    bool right =
        quickstart_predictor_predict(all->pool, &request, &reply, NULL) == 0 && reply->result == request.value * 2;
    if (!right) atomic_fetch_add(&all->wrong, 1);
    pyproc_reply_free(reply);
  }
}

static void test_many_threads(void **state) {
  const side *self = *state;
  many all = {.pool = self->pool, .rounds = scaled(100)};
  run_threads(16, call_many, &all);
  assert_int_equal(atomic_load(&all.wrong), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      ON_ALL(test_typed),
      ON_ALL(test_typed_infinity_and_nan),
      ON_ALL(test_bytes),
      ON_ALL(test_typed_by_name),
      ON_ALL(test_dynamic),
      ON_ALL(test_health),
      ON_ALL(test_unknown_method),
      ON_ALL(test_raise),
      ON_ALL(test_bad_request),
      ON_ALL(test_unserialisable),
      ON_ALL(test_reply_above_limit),
      ON_ALL(test_deadline),
      ON_ALL(test_cancel),
      ON_ALL(test_metadata),
      ON_ALL_WITH(test_death, side_open, side_close),
      ON_ALL(test_many_threads),
  };
  return RUN_TESTS_WITH(tests, NULL, sides_close);
}
