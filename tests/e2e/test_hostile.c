/*
 * Workers that do not keep to the protocol, or to the schema: the call says so, and the next one works.
 */
#include "support.h"

static pyproc_pool_options hostile_options(const char *const *args, const char *const *env) {
  pyproc_pool_options options = options_for("hostile_worker.py");
  options.args = args;
  options.env = env;
  return options;
}

static void once_variable(char *text, size_t size, const char *name) {
  snprintf(text, size, "E2E_ONCE=%s", temporary_path(name));
}

typedef struct answer {
  const char *mode;
  int code; /* 0: the call succeeds */
  const char *part;
} answer;

static const answer answers[] = {
    {"garbage", PYPROC_E_DATA_LOSS, "no frame"},
    {"empty", PYPROC_E_DATA_LOSS, "no bytes or above the frame limit"},
    {"huge", PYPROC_E_DATA_LOSS, "above the frame limit"},
    {"over_limit", PYPROC_E_DATA_LOSS, "above the frame limit"},
    {"short_header", PYPROC_E_DATA_LOSS, "no frame"},
    {"metadata", PYPROC_E_DATA_LOSS, "no frame"},
    {"metadata_beyond", PYPROC_E_DATA_LOSS, "an entry that reaches beyond its end"},
    {"metadata_cut", PYPROC_E_DATA_LOSS, "an entry that reaches beyond its end"},
    {"metadata_half", PYPROC_E_DATA_LOSS, "an entry that reaches beyond its end"},
    {"metadata_many", PYPROC_E_DATA_LOSS, "more than 64 entries"},
    {"metadata_large", PYPROC_E_DATA_LOSS, "more than 16 KiB"},
    {"metadata_key", PYPROC_E_DATA_LOSS, "a key that is not allowed"},
    {"metadata_no_key", PYPROC_E_DATA_LOSS, "a key that is not allowed"},
    {"metadata_nul_key", PYPROC_E_DATA_LOSS, "a key that is not allowed"},
    {"metadata_reserved", PYPROC_E_DATA_LOSS, "a key that is not allowed"},
    {"metadata_nul", PYPROC_E_DATA_LOSS, "a value that is not allowed"},
    {"metadata_of_error", PYPROC_E_DATA_LOSS, "a value that is not allowed"},
    {"metadata_good", 0, NULL},
    {"flags", PYPROC_E_DATA_LOSS, "no frame"},
    {"second_hello", PYPROC_E_DATA_LOSS, "a second hello"},
    {"bad_json", PYPROC_E_DATA_LOSS, "ping"},
    {"bad_utf8", PYPROC_E_DATA_LOSS, "ping"},
    {"bad_envelope", PYPROC_E_DATA_LOSS, "no reply"},
    {"other_form", PYPROC_E_DATA_LOSS, "another form"},
    {"bad_error", PYPROC_E_INVALID_ARGUMENT, ""},
    {"unknown_code", PYPROC_E_UNKNOWN, "from the future"},
    {"truncated", PYPROC_E_UNAVAILABLE, "exited with status 0"},
    {"close", PYPROC_E_UNAVAILABLE, "closed its connection"},
    {"unknown_kind", 0, NULL},
    {"unknown_id", 0, NULL},
    {"twice", 0, NULL},
    {"started_unknown", 0, NULL},
    {"good", 0, NULL},
};

static void try_answer(const answer *tried, const char *feature) {
  char once[200], name[64];
  snprintf(name, sizeof name, "%s-%s", tried->mode, feature);
  once_variable(once, sizeof once, name);
  const char *const args[] = {tried->mode, feature, NULL}, *const env[] = {once, NULL};
  pyproc_pool_options options = hostile_options(args, env);
  pyproc_pool *pool = open_pool(&options);
  if (tried->code == 0)
    assert_answer(pool, "ping", "{}", "true");
  else
    /* without status page and STARTED frames every call that was sent may have run */
    assert_error(call_failure(pool, "ping", "{}", 0), tried->code, tried->part, strcmp(feature, "started") != 0);
  assert_answer(pool, "ping", "{}", "true");
  pyproc_pool_close(pool);
}

static void test_answers(void **state) {
  (void)state;
  for (size_t i = 0; i < LENGTH(answers); i++) {
    /* the answer to a call ends it, whether it was broken or not: then it has run as far as the host knows */
    print_message("  %s\n", answers[i].mode);
    try_answer(&answers[i], "-");
  }
}

/* ---- schema and handshake ---- */

static pyproc_pool_options mutant_options(const char *const *args) {
  pyproc_pool_options options = options_for("mutant_worker.py");
  options.args = args;
  return options;
}

static int predict(pyproc_pool *pool, pyproc_error **reterr) {
  Quickstart__PredictRequest request = QUICKSTART__PREDICT_REQUEST__INIT;
  Quickstart__PredictReply *reply = NULL;
  request.value = 21;
  int result = quickstart_predictor_predict(pool, &request, &reply, reterr);
  if (result >= 0) assert_true(reply->result == 42 || reply->result == 0);
  pyproc_reply_free(reply);
  return result;
}

typedef struct mutation {
  const char *mode;
  int code;
  const char *part;
} mutation;

static const mutation schemas[] = {
    {"none", 0, NULL},
    {"added", 0, NULL},
    {"removed", 0, NULL},
    {"few_members", 0, NULL},
    {"number", PYPROC_E_FAILED_PRECONDITION,
     "quickstart.Predictor/Predict: field value of quickstart.PredictRequest has number 1 here and 2"},
    {"type", PYPROC_E_FAILED_PRECONDITION, "field value of quickstart.PredictRequest has type double here and float"},
    {"label", PYPROC_E_FAILED_PRECONDITION, "field value of quickstart.PredictRequest has label one here and many"},
    {"kind", PYPROC_E_FAILED_PRECONDITION, "quickstart.Predictor/Predict is unary here and server_stream"},
    {"absent", PYPROC_E_UNIMPLEMENTED, "quickstart.Predictor/Predict"},
};

static void test_schema_at_first_call(void **state) {
  (void)state;
  for (size_t i = 0; i < LENGTH(schemas); i++) {
    const char *const args[] = {schemas[i].mode, NULL};
    pyproc_pool_options options = mutant_options(args);
    pyproc_error *error = NULL;
    pyproc_pool *pool = open_pool(&options);
    print_message("  %s\n", schemas[i].mode);
    for (int round = 0; round < 2; round++) {
      assert_int_equal(predict(pool, &error), schemas[i].code);
      if (schemas[i].code < 0) assert_error(error, schemas[i].code, schemas[i].part, NOT_RUN);
    }
    assert_answer(pool, "echo", "1", "1");
    pyproc_pool_close(pool);
  }
}

static void test_schema_at_open(void **state) {
  (void)state;
  const pyproc_service *const services[] = {&quickstart_predictor_service, NULL};
  for (size_t i = 0; i < LENGTH(schemas); i++) {
    const char *const args[] = {schemas[i].mode, NULL};
    pyproc_pool_options options = mutant_options(args);
    options.services = services;
    print_message("  %s\n", schemas[i].mode);
    if (schemas[i].code < 0) {
      assert_error(open_failure(&options), schemas[i].code, schemas[i].part, NOT_RUN);
    } else {
      pyproc_pool *pool = open_pool(&options);
      assert_int_equal(predict(pool, NULL), 0);
      pyproc_pool_close(pool);
    }
  }
}

static const mutation handshakes[] = {
    {"newer", PYPROC_E_FAILED_PRECONDITION, "version"}, {"no_version", PYPROC_E_DATA_LOSS, "version"},
    {"text_version", PYPROC_E_DATA_LOSS, "version"},    {"no_methods", PYPROC_E_DATA_LOSS, "methods"},
    {"bad_json", PYPROC_E_DATA_LOSS, "hello"},
};

static void test_handshakes(void **state) {
  (void)state;
  for (size_t i = 0; i < LENGTH(handshakes); i++) {
    const char *const args[] = {handshakes[i].mode, NULL};
    pyproc_pool_options options = mutant_options(args);
    print_message("  %s\n", handshakes[i].mode);
    pyproc_error *error = open_failure(&options);
    int code = pyproc_error_code(error);
    assert_true(code == PYPROC_E_FAILED_PRECONDITION || code == PYPROC_E_DATA_LOSS);
    assert_error(error, handshakes[i].code, handshakes[i].part, NOT_RUN);
  }
}

static void test_good_handshakes(void **state) {
  (void)state;
  const char *const modes[] = {"range", "threads", "few_members"};
  for (size_t i = 0; i < LENGTH(modes); i++) {
    const char *const args[] = {modes[i], NULL};
    pyproc_pool_options options = mutant_options(args);
    print_message("  %s\n", modes[i]);
    pyproc_pool *pool = open_pool(&options);
    assert_int_equal(predict(pool, NULL), 0);
    pyproc_pool_close(pool);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      E2E_TEST(test_answers),    E2E_TEST(test_schema_at_first_call), E2E_TEST(test_schema_at_open),
      E2E_TEST(test_handshakes), E2E_TEST(test_good_handshakes),
  };
  return RUN_TESTS(tests);
}
