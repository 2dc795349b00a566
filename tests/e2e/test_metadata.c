/*
 * Metadata both ways: beside requests, replies and errors, with both codecs, waited for or not.
 */
#include "support.h"

static const char *const protocols[] = {"protobuf", "json"};

#define TRACEPARENT "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

static const pyproc_metadata sent[] = {
    {.key = "traceparent", .value = TRACEPARENT},
    {.key = "x-blob-bin", .value = "\0\1\2\377", .value_size = 4},
    {.key = "x-empty", .value = NULL},
    {.key = "traceparent", .value = "again, and cut", .value_size = 5},
    {.key = "x_y.z-9", .value = "~ !"},
};

static const pyproc_metadata wanted[] = {
    {"traceparent", TRACEPARENT, sizeof TRACEPARENT - 1},
    {"x-blob-bin", "\0\1\2\377", 4},
    {"x-empty", "", 0},
    {"traceparent", "again", 5},
    {"x_y.z-9", "~ !", 3},
    {"served-by", "metadata_worker", 15},
};

static pyproc_pool *open_metadata(const char *protocol) {
  pyproc_pool_options options = options_for("metadata_worker.py");
  options.protocol = protocol;
  return open_pool(&options);
}

#define EACH_PROTOCOL(pool) \
  for (size_t round_ = 0; round_ < LENGTH(protocols); round_++) \
    for (pyproc_pool *pool = open_metadata(protocols[round_]); pool != NULL; pyproc_pool_close(pool), pool = NULL)

static pyproc_call_options with_metadata(const pyproc_metadata *entries, size_t count) {
  pyproc_call_options options = PYPROC_CALL_OPTIONS_INIT;
  options.metadata = entries;
  options.metadata_count = count;
  return options;
}

static void assert_entries(const pyproc_metadata *got, size_t got_count, const pyproc_metadata *expected,
                           size_t expected_count) {
  assert_int_equal(got_count, expected_count);
  for (size_t i = 0; i < expected_count; i++) {
    assert_string_equal(got[i].key, expected[i].key);
    assert_int_equal(got[i].value_size, expected[i].value_size);
    assert_memory_equal(got[i].value, expected[i].value, expected[i].value_size);
    assert_int_equal(got[i].value[got[i].value_size], 0);
  }
}

static void assert_reply_has_all(const void *reply) {
  size_t count = 77;
  const pyproc_metadata *got = pyproc_reply_metadata(reply, &count);
  assert_entries(got, count, wanted, LENGTH(wanted));
  assert_string_equal(pyproc_metadata_get(got, count, "traceparent"), TRACEPARENT); /* the first */
  assert_null(pyproc_metadata_get(got, count, "absent"));
  assert_ptr_equal(pyproc_reply_metadata(reply, NULL), got);
}

static void assert_reply_has_none(const void *reply) {
  size_t count = 77;
  assert_null(pyproc_reply_metadata(reply, &count));
  assert_int_equal(count, 0);
}

static int predict(pyproc_pool *pool, double value, const pyproc_call_options *options,
                   Quickstart__PredictReply **ret_reply, pyproc_error **reterr) {
  Quickstart__PredictRequest request = QUICKSTART__PREDICT_REQUEST__INIT;
  request.value = value;
  return quickstart_predictor_predict_with(pool, &request, options, ret_reply, reterr);
}

static void test_typed(void **state) {
  (void)state;
  EACH_PROTOCOL(pool) {
    pyproc_call_options options = with_metadata(sent, LENGTH(sent));
    for (int i = 0; i < 3; i++) {
      Quickstart__PredictReply *reply = NULL;
      assert_int_equal(predict(pool, 21, &options, &reply, NULL), 0);
      assert_true(reply->result >= 42 && reply->result <= 42);
      assert_reply_has_all(reply);
      pyproc_reply_free(reply);
      assert_int_equal(predict(pool, 4, NULL, &reply, NULL), 0);
      size_t count;
      const pyproc_metadata *got = pyproc_reply_metadata(reply, &count);
      assert_entries(got, count, wanted + LENGTH(wanted) - 1, 1); /* nothing is left of the other call's */
      pyproc_reply_free(reply);
    }
  }
}

static void test_json(void **state) {
  (void)state;
  EACH_PROTOCOL(pool) {
    pyproc_call_options options = with_metadata(sent, LENGTH(sent));
    char *reply = NULL;
    assert_int_equal(pyproc_call_json(pool, "echo", "{\"a\":[1]}", &options, &reply, NULL), 0);
    assert_string_equal(reply, "{\"a\":[1]}");
    assert_reply_has_all(reply);
    pyproc_reply_free(reply);
    assert_int_equal(pyproc_call_json(pool, "quickstart.Predictor/Predict", "{\"value\":21}", &options, &reply, NULL),
                     0);
    assert_contains(reply, "42");
    assert_reply_has_all(reply);
    pyproc_reply_free(reply);
    assert_int_equal(pyproc_call_json(pool, "quiet", "1", &options, &reply, NULL), 0);
    assert_string_equal(reply, "1");
    assert_reply_has_none(reply);
    pyproc_reply_free(reply);
    assert_int_equal(pyproc_call_json(pool, "only_reply", "\"b\"", NULL, &reply, NULL), 0);
    assert_string_equal(reply, "\"b\"");
    assert_string_equal(pyproc_metadata_get(pyproc_reply_metadata(reply, NULL), 1, "x-only"), "reply");
    pyproc_reply_free(reply);
    reply = call_json(pool, "quiet", "2");
    assert_reply_has_none(reply);
    pyproc_reply_free(reply);
  }
}

static void test_errors(void **state) {
  (void)state;
  EACH_PROTOCOL(pool) {
    pyproc_call_options options = with_metadata(sent, LENGTH(sent));
    pyproc_error *error = NULL;
    Quickstart__PredictReply *reply = NULL;
    char *body = NULL;
    size_t count;
    assert_int_equal(predict(pool, -1, &options, &reply, &error), PYPROC_E_UNAVAILABLE);
    const pyproc_metadata *got = pyproc_error_metadata(error, &count);
    assert_int_equal(count, LENGTH(wanted) + 2);
    assert_entries(got, LENGTH(wanted), wanted, LENGTH(wanted));
    assert_string_equal(pyproc_metadata_get(got, count, "retry-after"), "3");
    assert_string_equal(got[count - 1].value, "later");
    assert_error(error, PYPROC_E_UNAVAILABLE, "busy", RAN);
    assert_int_equal(pyproc_call_json(pool, "echo", "null", &options, &body, &error), PYPROC_E_UNKNOWN);
    assert_entries(pyproc_error_metadata(error, NULL), LENGTH(wanted), wanted, LENGTH(wanted));
    assert_string_equal(pyproc_error_type(error), "ValueError");
    assert_error(error, PYPROC_E_UNKNOWN, "null", RAN);
    error = call_failure(pool, "no_such_function", "1", 0);
    assert_null(pyproc_error_metadata(error, &count));
    assert_int_equal(count, 0);
    pyproc_error_free(error);
  }
}

/* What an interrupted handler had added comes with the error of the call that was given up. */
static void test_interrupted(void **state) {
  (void)state;
  EACH_PROTOCOL(pool) {
    pyproc_error *error = call_failure(pool, "interrupted", "1", 60);
    if (pyproc_error_stop(error) == PYPROC_STOP_INTERRUPTED)
      assert_string_equal(pyproc_metadata_get(pyproc_error_metadata(error, NULL), 1, "x-before"), "the end");
    assert_error(error, PYPROC_E_DEADLINE_EXCEEDED, "60 ms", RAN);
  }
}

/* ---- without a waiting thread ---- */

typedef struct outcome {
  int result, called;
  size_t count;
} outcome;

static void on_predicted(int result, Quickstart__PredictReply *reply, pyproc_error *error, void *userdata) {
  outcome *self = userdata;
  self->result = result;
  self->called++;
  (void)(result < 0 ? pyproc_error_metadata(error, &self->count) : pyproc_reply_metadata(reply, &self->count));
  pyproc_reply_free(reply);
  pyproc_error_free(error);
}

static void on_json(int result, char *body, pyproc_error *error, void *userdata) {
  outcome *self = userdata;
  self->result = result;
  self->called++;
  pyproc_reply_metadata(body, &self->count);
  pyproc_reply_free(body);
  pyproc_error_free(error);
}

/* All that is passed may be changed as soon as the function has returned. */
static void test_submitted(void **state) {
  (void)state;
  EACH_PROTOCOL(pool) {
    char key[] = "x-copied", value[] = "v";
    pyproc_metadata entry = {.key = key, .value = value};
    pyproc_call_options options = with_metadata(&entry, 1);
    Quickstart__PredictRequest request = QUICKSTART__PREDICT_REQUEST__INIT;
    outcome good = {0}, bad = {0}, json = {0};
    pyproc_future *future = NULL;
    request.value = 1;
    assert_int_equal(quickstart_predictor_predict_submit(pool, &request, &options, on_predicted, &good, NULL), 0);
    assert_int_equal(quickstart_predictor_predict_start(pool, &request, &options, &future, NULL), 0);
    request.value = -1;
    assert_int_equal(quickstart_predictor_predict_submit(pool, &request, &options, on_predicted, &bad, NULL), 0);
    assert_int_equal(pyproc_call_json_submit(pool, "echo", "1", &options, on_json, &json, NULL), 0);
    memset(key, 'z', sizeof key);
    memset(value, 'z', sizeof value);
    memset(&entry, 0, sizeof entry);
    while (good.called + bad.called + json.called < 3) assert_true(pyproc_pool_dispatch(pool, -1) >= 0);
    assert_int_equal(good.result, 0);
    assert_int_equal(good.count, 2);
    assert_int_equal(bad.result, PYPROC_E_UNAVAILABLE);
    assert_int_equal(bad.count, 4);
    assert_int_equal(json.result, 0);
    assert_int_equal(json.count, 2);
    Quickstart__PredictReply *reply = NULL;
    assert_int_equal(quickstart_predictor_predict_finish(future, &reply, NULL), 0);
    assert_string_equal(pyproc_metadata_get(pyproc_reply_metadata(reply, NULL), 2, "x-copied"), "v");
    pyproc_reply_free(reply);
    pyproc_future_free(future);
  }
}

/* ---- what may not be sent ---- */

static void assert_refused(pyproc_pool *pool, const pyproc_metadata *entries, size_t count, const char *part) {
  pyproc_call_options options = with_metadata(entries, count);
  pyproc_error *error = NULL;
  char *reply = NULL;
  assert_int_equal(pyproc_call_json(pool, "echo", "1", &options, &reply, &error), PYPROC_E_INVALID_ARGUMENT);
  assert_null(reply);
  assert_int_equal(pyproc_error_attempts(error), 0);
  assert_error(error, PYPROC_E_INVALID_ARGUMENT, part, NOT_RUN);
}

static void test_refused(void **state) {
  (void)state;
  static char long_key[130], long_value[17000];
  static pyproc_metadata many[65];
  memset(long_key, 'k', sizeof long_key - 1);
  memset(long_value, 'v', sizeof long_value - 1);
  const struct {
    pyproc_metadata entry;
    const char *part;
  } cases[] = {
      {{NULL, "v", 0}, "a key is NULL"},
      {{"x", NULL, 3}, "\"x\" has 3 bytes of value at NULL"},
      {{"", "v", 0}, "1 to 128 characters"},
      {{"X-Tenant", "v", 0}, "\"X-Tenant\" may hold lower-case letters, digits"},
      {{"x tenant", "v", 0}, "may hold"},
      {{"grpc-timeout", "1S", 0}, "\"grpc-timeout\" begins with"},
      {{"pyproc-x", "v", 0}, "reserved"},
      {{long_key, "v", 0}, "longer than 128"},
      {{"x", "caf\xc3\xa9", 0}, "\"x\" has a value that is not printable ASCII"},
      {{"x", "a\0b", 3}, "not printable"},
      {{"x", "a\n", 0}, "not printable"},
      {{"x", " a", 0}, "begins or ends with a blank"},
      {{"x", "a ", 0}, "begins or ends with a blank"},
      {{"x", long_value, 0}, "more than 16 KiB"},
      {{"x-bin", long_value, 16384}, "\"x-bin\" it takes more than 16384 bytes"},
  };
  EACH_PROTOCOL(pool) {
    for (size_t i = 0; i < LENGTH(cases); i++) assert_refused(pool, &cases[i].entry, 1, cases[i].part);
    assert_refused(pool, NULL, 1, "1 entries at NULL");
    for (size_t i = 0; i < LENGTH(many); i++) many[i] = (pyproc_metadata){"k", "v", 1};
    assert_refused(pool, many, 65, "65 entries; allowed are 64");
    pyproc_call_options options = with_metadata(many, 64);
    char *reply = NULL;
    assert_int_equal(pyproc_call_json(pool, "quiet", "1", &options, &reply, NULL), 0);
    pyproc_reply_free(reply);
    options = with_metadata(&(pyproc_metadata){"x-bin", long_value, 16384 - 11}, 1);
    assert_int_equal(pyproc_call_json(pool, "quiet", "1", &options, &reply, NULL), 0);
    pyproc_reply_free(reply);
  }
}

static void test_null(void **state) {
  (void)state;
  size_t count = 7;
  assert_null(pyproc_reply_metadata(NULL, &count));
  assert_int_equal(count, 0);
  count = 7;
  assert_null(pyproc_error_metadata(NULL, &count));
  assert_int_equal(count, 0);
  assert_null(pyproc_error_metadata(NULL, NULL));
  assert_null(pyproc_metadata_get(NULL, 0, "k"));
  assert_null(pyproc_metadata_get(sent, LENGTH(sent), NULL));
  assert_int_equal(pyproc_error_stop(NULL), PYPROC_STOP_NONE);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      E2E_TEST(test_typed),     E2E_TEST(test_json),    E2E_TEST(test_errors), E2E_TEST(test_interrupted),
      E2E_TEST(test_submitted), E2E_TEST(test_refused), E2E_TEST(test_null),
  };
  return RUN_TESTS(tests);
}
