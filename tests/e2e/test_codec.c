/*
 * Codecs of the program's own: registered on both sides or on one, right and wrong, and on hostile bytes.
 */
#include <pyproc_protocol.h>

#include "codecs.h"
#include "support.h"

static pyproc_pool *open_codec(const char *codec) {
  pyproc_pool_options options = options_for("codec_worker.py");
  options.protocol = codec;
  return open_pool(&options);
}

#define EACH_CODEC(codec) \
  for (const char *codec = "turned"; codec != NULL; \
       codec = have_msgpack && strcmp(codec, "turned") == 0 ? "msgpack" : NULL)

static void test_dynamic(void **state) {
  (void)state;
  EACH_CODEC(codec) {
    pyproc_pool *pool = open_codec(codec);
    const char *const bodies[] = {"null",
                                  "true",
                                  "false",
                                  "0",
                                  "-1",
                                  "1.5",
                                  "-0.0",
                                  "1e300",
                                  "9223372036854775807",
                                  "-9223372036854775808",
                                  "\"\"",
                                  "\"\\u0000\\n\\\"\\\\\"",
                                  "\"\xe2\x82\xac\"",
                                  "[]",
                                  "{}",
                                  "[[[1,[2]]],{\"a\":{\"b\":[null,false]}}]"};
    for (size_t i = 0; i < LENGTH(bodies); i++) {
      char *once = call_json(pool, "echo", bodies[i]), *twice = call_json(pool, "echo", once);
      assert_string_equal(once, twice);
      pyproc_reply_free(once);
      pyproc_reply_free(twice);
    }
    assert_answer(pool, "kind", " [ 1 , 2.0 ] ", "[\"int\",\"float\"]");
    assert_answer(pool, "kind", "[\"x\",{\"k\":[]}]", "[\"str\",\"dict\"]");
    assert_error(call_failure(pool, "nobody", "{}", 0), PYPROC_E_UNIMPLEMENTED, "nobody", NOT_RUN);
    assert_error(call_failure(pool, "echo", "{", 0), PYPROC_E_INVALID_ARGUMENT, "JSON", NOT_RUN);
    pyproc_pool_close(pool);
  }
}

/* They travel in the codec, not as JSON with a flag. */
static void test_bodies_are_in_the_codec(void **state) {
  (void)state;
  pyproc_pool *pool = open_codec("turned");
  assert_answer(pool, "decoded", "{}", "[0,0]");
  char *reply = call_json(pool, "echo", "1");
  pyproc_reply_free(reply);
  reply = call_json(pool, "quickstart.Predictor/Predict", "{\"value\": 2}"); /* typed by name: JSON as ever */
  assert_contains(reply, "\"result\":4");
  pyproc_reply_free(reply);
  Quickstart__PredictRequest request = QUICKSTART__PREDICT_REQUEST__INIT;
  Quickstart__PredictReply *predicted = NULL;
  request.value = 3;
  assert_int_equal(quickstart_predictor_predict(pool, &request, &predicted, NULL), 0);
  assert_true(predicted->result == 6);
  pyproc_reply_free(predicted);
  assert_answer(pool, "decoded", "{}", "[2,1]");
  pyproc_pool_close(pool);
}

static void test_deep_json(void **state) {
  (void)state;
  EACH_CODEC(codec) {
    pyproc_pool *pool = open_codec(codec);
    char body[256] = "";
    for (int i = 0; i < 98; i++) body[i] = '[', body[98 + i] = ']';
    assert_answer(pool, "echo", body, body);
    assert_error(call_failure(pool, "deep", "99", 0), PYPROC_E_INTERNAL, "", RAN);
    assert_answer(pool, "echo", "1", "1");
    pyproc_pool_close(pool);
  }
}

static void test_large(void **state) {
  (void)state;
  EACH_CODEC(codec) {
    pyproc_pool *pool = open_codec(codec);
    size_t size = 5 * MIB;
    char *body = malloc(size + 3);
    assert_non_null(body);
    memset(body, 'x', size + 2);
    body[0] = body[size + 1] = '"';
    body[size + 2] = '\0';
    assert_answer(pool, "echo", body, body);
    Conformance__Blob request = CONFORMANCE__BLOB__INIT, *reply = NULL;
    request.data.data = (uint8_t *)body;
    request.data.len = size;
    assert_int_equal(conformance_echo_echo(pool, &request, &reply, NULL), 0);
    assert_int_equal(reply->data.len, size);
    assert_memory_equal(reply->data.data, body, size);
    pyproc_reply_free(reply);
    free(body);
    pyproc_pool_close(pool);
  }
}

static void test_errors(void **state) {
  (void)state;
  EACH_CODEC(codec) {
    pyproc_pool *pool = open_codec(codec);
    pyproc_error *error = call_failure(pool, "fail", "\"soup\"", 0);
    assert_string_equal(pyproc_error_type(error), "ValueError");
    assert_error(error, PYPROC_E_UNKNOWN, "soup", RAN);
    assert_error(call_failure(pool, "unserialisable", "0", 0), PYPROC_E_INTERNAL, "unserialisable", RAN);
    pyproc_pool_close(pool);
  }
}

/* ---- one side only ---- */

static void test_not_registered_here(void **state) {
  (void)state;
  pyproc_pool_options options = options_for("codec_worker.py");
  options.protocol = "elsewhere";
  assert_error(open_failure(&options), PYPROC_E_INVALID_ARGUMENT, "registered with pyproc_protocol_register", NOT_RUN);
}

static void test_not_registered_in_the_worker(void **state) {
  (void)state;
  pyproc_pool_options options = options_for("conformance_worker.py");
  options.protocol = "turned";
  assert_error(open_failure(&options), PYPROC_E_FAILED_PRECONDITION,
               "the worker has no codec \"turned\": call pyproc_worker.register_codec(\"turned\", ...)", NOT_RUN);
}

/* ---- codecs that do something wrong ---- */

static int call_echo(pyproc_pool *pool, pyproc_error **reterr) {
  Conformance__Blob request = CONFORMANCE__BLOB__INIT, *reply = NULL;
  int result = conformance_echo_echo(pool, &request, &reply, reterr);
  assert_true(result < 0 || reply != NULL);
  pyproc_reply_free(reply);
  return result;
}

static int call_lists(pyproc_pool *pool, pyproc_error **reterr) {
  Kinds__Everything request = KINDS__EVERYTHING__INIT, *reply = NULL;
  int result = kinds_kinds_echo(pool, &request, &reply, reterr);
  pyproc_reply_free(reply);
  return result;
}

static int call_name(pyproc_pool *pool, pyproc_error **reterr) {
  char *reply = NULL;
  int result = pyproc_call_json(pool, "echo", "1", NULL, &reply, reterr);
  pyproc_reply_free(reply);
  return result;
}

static void test_wrong_codecs(void **state) {
  (void)state;
  const struct {
    int mode, code;
    int (*call)(pyproc_pool *pool, pyproc_error **reterr);
    const char *text;
    int ran;
  } cases[] = {
      {TURNED_NOTHING, PYPROC_E_INTERNAL, call_echo, "unpack of the codec \"turned\" gave no message", RAN},
      {TURNED_FOREIGN, PYPROC_E_INTERNAL, call_echo, "is not the arena's first allocation", RAN},
      {TURNED_LATE, PYPROC_E_INTERNAL, call_echo, "is not the arena's first allocation", RAN},
      {TURNED_OTHER, PYPROC_E_INTERNAL, call_echo, "gave a message that is not in order: conformance.Blob", RAN},
      {TURNED_BROKEN, PYPROC_E_INTERNAL, call_lists, "field \"texts\": 3 elements at NULL", RAN},
      {TURNED_GREEDY, PYPROC_E_RESOURCE_EXHAUSTED, call_echo, "takes more memory than it may", RAN},
      {TURNED_SILENT, PYPROC_E_INTERNAL, call_echo, "pack of the codec \"turned\" failed with code -10", NOT_RUN},
      {TURNED_SILENT, PYPROC_E_INTERNAL, call_name, "pack_json of the codec \"turned\" failed with code", NOT_RUN},
      {TURNED_FAILING, PYPROC_E_OUT_OF_RANGE, call_echo, "turned: field \"a[3]\": number 5", NOT_RUN},
      {TURNED_FAILING, PYPROC_E_OUT_OF_RANGE, call_name, "the body of echo: turned: field \"a[3]\": number 5", NOT_RUN},
      {TURNED_NO_JSON, PYPROC_E_INTERNAL, call_name, "unpack_json of the codec \"turned\" gave what is", RAN},
      {TURNED_DEEP, PYPROC_E_INTERNAL, call_name, "unpack_json of the codec \"turned\" gave what is", RAN},
  };
  pyproc_pool *pool = open_codec("turned");
  for (size_t i = 0; i < LENGTH(cases); i++) {
    pyproc_error *error = NULL;
    atomic_store(&turned_mode, cases[i].mode);
    int result = cases[i].call(pool, &error);
    atomic_store(&turned_mode, TURNED_RIGHT);
    if (result != cases[i].code) fail_msg("case %zu: %d", i, result);
    assert_error(error, cases[i].code, cases[i].text, cases[i].ran);
    assert_int_equal(call_echo(pool, NULL), 0);
  }
  pyproc_pool_close(pool);
}

static _Atomic int callback_result;

static void on_done(int result, char *body, pyproc_error *error, void *userdata) {
  (void)userdata;
  atomic_store(&callback_result, result);
  if (result == 0) assert_string_equal(body, "[1]");
  pyproc_reply_free(body);
  pyproc_error_free(error);
}

static void test_submitted(void **state) {
  (void)state;
  EACH_CODEC(codec) {
    pyproc_pool *pool = open_codec(codec);
    atomic_store(&callback_result, 1);
    assert_int_equal(pyproc_call_json_submit(pool, "echo", "[1]", NULL, on_done, NULL, NULL), 0);
    assert_int_equal(pyproc_pool_dispatch(pool, -1), 1);
    assert_int_equal(atomic_load(&callback_result), 0);
    Conformance__Blob request = CONFORMANCE__BLOB__INIT, *reply = NULL;
    pyproc_future *future = NULL;
    assert_int_equal(conformance_echo_echo_start(pool, &request, NULL, &future, NULL), 0);
    assert_int_equal(conformance_echo_echo_finish(future, &reply, NULL), 0);
    pyproc_reply_free(reply);
    pyproc_future_free(future);
    pyproc_pool_close(pool);
  }
}

/* ---- bytes from the worker that are no message ---- */

/* The worker's codec passes on what it is told to. */
static void test_hostile_bytes(void **state) {
  (void)state;
  EACH_CODEC(codec) {
    pyproc_pool *pool = open_codec(codec);
    bool is_turned = strcmp(codec, "turned") == 0;
    for (int i = 0; i < scaled(400); i++) {
      char body[64];
      char *reply = NULL;
      pyproc_error *error = NULL;
      snprintf(body, sizeof body, "{\"seed\": %d}", i);
      int result = pyproc_call_json(pool, "hostile_body", body, NULL, &reply, &error);
      if (result < 0 && result != PYPROC_E_DATA_LOSS && !(is_turned && result == PYPROC_E_INTERNAL))
        fail_msg("%s, seed %d: %d, %s", codec, i, result, pyproc_error_message(error));
      pyproc_reply_free(reply);
      pyproc_error_free(error);
      Kinds__Everything request = KINDS__EVERYTHING__INIT, *echoed = NULL;
      Kinds__Scalars scalars = KINDS__SCALARS__INIT;
      request.scalars = &scalars;
      scalars.an_int32 = i + 1; /* the seed */
      error = NULL;
      result = kinds_kinds_echo(pool, &request, &echoed, &error);
      if (result < 0 && result != PYPROC_E_DATA_LOSS && result != PYPROC_E_RESOURCE_EXHAUSTED)
        fail_msg("%s, seed %d: %d, %s", codec, i, result, pyproc_error_message(error));
      pyproc_reply_free(echoed);
      pyproc_error_free(error);
    }
    assert_answer(pool, "echo", "1", "1");
    pyproc_pool_close(pool);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      E2E_TEST(test_dynamic),
      E2E_TEST(test_bodies_are_in_the_codec),
      E2E_TEST(test_deep_json),
      E2E_TEST(test_large),
      E2E_TEST(test_errors),
      E2E_TEST(test_not_registered_here),
      E2E_TEST(test_not_registered_in_the_worker),
      E2E_TEST(test_wrong_codecs),
      E2E_TEST(test_submitted),
      E2E_TEST(test_hostile_bytes),
  };
  register_codecs();
  return RUN_TESTS(tests);
}
