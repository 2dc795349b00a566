/*
 * Options: each that is wrong is named, with what is allowed. Accessors and destructors that get NULL.
 */
#include <inttypes.h>

#include "support.h"

#define NUMBER(name) \
  { #name, offsetof(pyproc_pool_options, name) }

static const struct {
  const char *name;
  size_t offset;
} numbers[] = {NUMBER(workers),           NUMBER(max_in_flight),   NUMBER(queue_limit),       NUMBER(start_timeout_ms),
               NUMBER(call_timeout_ms),   NUMBER(cancel_grace_ms), NUMBER(drain_timeout_ms),  NUMBER(spin_us),
               NUMBER(frame_limit_bytes), NUMBER(recycle_calls),   NUMBER(recycle_rss_bytes), NUMBER(recycle_age_ms),
               NUMBER(log_level)};

static void test_bad_numbers(void **state) {
  (void)state;
  const int64_t values[] = {-3, INT64_MIN};
  for (size_t i = 0; i < LENGTH(numbers); i++)
    for (size_t j = 0; j < LENGTH(values); j++) {
      pyproc_pool_options options = options_for("fault_worker.py");
      memcpy((char *)&options + numbers[i].offset, &values[j], sizeof values[j]);
      pyproc_error *error = open_failure(&options);
      assert_error(error, PYPROC_E_INVALID_ARGUMENT, numbers[i].name, NOT_RUN);
    }
}

static void refuse_number(size_t offset, int64_t value, const char *name) {
  pyproc_pool_options options = options_for("fault_worker.py");
  memcpy((char *)&options + offset, &value, sizeof value);
  char text[32];
  snprintf(text, sizeof text, "is %" PRId64, value);
  pyproc_error *error = open_failure(&options);
  assert_contains(pyproc_error_message(error), text);
  assert_error(error, PYPROC_E_INVALID_ARGUMENT, name, NOT_RUN);
}

static void test_numbers_out_of_range(void **state) {
  (void)state;
  refuse_number(offsetof(pyproc_pool_options, workers), 1000000, "workers");
  refuse_number(offsetof(pyproc_pool_options, workers), PYPROC_OFF, "workers");
  refuse_number(offsetof(pyproc_pool_options, workers), PYPROC_UNLIMITED, "workers");
  refuse_number(offsetof(pyproc_pool_options, max_in_flight), 4097, "max_in_flight");
  refuse_number(offsetof(pyproc_pool_options, frame_limit_bytes), 1023, "frame_limit_bytes");
  refuse_number(offsetof(pyproc_pool_options, frame_limit_bytes), INT64_C(1) << 31, "frame_limit_bytes");
  refuse_number(offsetof(pyproc_pool_options, log_level), 9, "log_level");
  refuse_number(offsetof(pyproc_pool_options, start_timeout_ms), PYPROC_OFF, "start_timeout_ms");
}

static void test_bad_texts(void **state) {
  (void)state;
  const char *const no_name[] = {"A=1", "no-equals-sign", NULL}, *const empty_name[] = {"=1", NULL};
  pyproc_pool_options options = options_for("fault_worker.py");
  options.protocol = "smoke";
  assert_error(open_failure(&options), PYPROC_E_INVALID_ARGUMENT, "option protocol is \"smoke\"", NOT_RUN);
  options = options_for("fault_worker.py");
  options.channel = "pigeon";
  assert_error(open_failure(&options), PYPROC_E_INVALID_ARGUMENT, "option channel is \"pigeon\"", NOT_RUN);
  options = options_for("fault_worker.py");
  options.script = NULL;
  assert_error(open_failure(&options), PYPROC_E_INVALID_ARGUMENT, "option script", NOT_RUN);
  options.script = "";
  assert_error(open_failure(&options), PYPROC_E_INVALID_ARGUMENT, "option script", NOT_RUN);
  options = options_for("fault_worker.py");
  options.env = no_name;
  assert_error(open_failure(&options), PYPROC_E_INVALID_ARGUMENT, "no-equals-sign", NOT_RUN);
  options.env = empty_name;
  assert_error(open_failure(&options), PYPROC_E_INVALID_ARGUMENT, "env", NOT_RUN);
}

static void test_sizes(void **state) {
  (void)state;
  struct {
    pyproc_pool_options known;
    int64_t unknown[2];
  } larger = {.known = options_for("fault_worker.py"), .unknown = {0, 0}};
  pyproc_pool *pool = NULL;
  pyproc_pool_options options = options_for("fault_worker.py");
  options.size = 0;
  assert_error(open_failure(&options), PYPROC_E_INVALID_ARGUMENT, "pyproc_pool_options", NOT_RUN);
  larger.known.size = sizeof larger;
  pool = open_pool(&larger.known); /* of a later header, with nothing in its tail */
  assert_answer(pool, "ping", "1", "1");
  larger.unknown[1] = 1;
  assert_error(open_failure(&larger.known), PYPROC_E_INVALID_ARGUMENT, "does not know", NOT_RUN);
  pyproc_call_options call = PYPROC_CALL_OPTIONS_INIT;
  char *reply = NULL;
  pyproc_error *error = NULL;
  call.size = 0;
  assert_int_equal(pyproc_call_json(pool, "ping", "1", &call, &reply, &error), PYPROC_E_INVALID_ARGUMENT);
  assert_error(error, PYPROC_E_INVALID_ARGUMENT, "pyproc_call_options", NOT_RUN);
  call.size = offsetof(pyproc_call_options, cancel); /* of an earlier header */
  assert_int_equal(pyproc_call_json(pool, "ping", "1", &call, &reply, NULL), 0);
  pyproc_reply_free(reply);
  pyproc_health health = PYPROC_HEALTH_INIT;
  health.size = 0;
  assert_int_equal(pyproc_pool_health(pool, &health), PYPROC_E_INVALID_ARGUMENT);
  health = (pyproc_health){.size = offsetof(pyproc_health, workers_ready), .workers_ready = 77};
  assert_int_equal(pyproc_pool_health(pool, &health), 0);
  assert_int_equal(health.workers, 1);
  assert_int_equal(health.workers_ready, 77); /* beyond what the caller has */
  pyproc_pool_close(pool);
}

static void test_call_options(void **state) {
  (void)state;
  const pyproc_metadata metadata = {.key = "Upper", .value = "v", .value_size = 1};
  pyproc_pool_options options = options_for("fault_worker.py");
  pyproc_pool *pool = open_pool(&options);
  pyproc_call_options call = PYPROC_CALL_OPTIONS_INIT;
  char *reply = NULL;
  pyproc_error *error = NULL;
  call.max_attempts = 11;
  assert_int_equal(pyproc_call_json(pool, "ping", "1", &call, &reply, &error), PYPROC_E_INVALID_ARGUMENT);
  assert_error(error, PYPROC_E_INVALID_ARGUMENT, "max_attempts is 11; allowed are 0 to 10", NOT_RUN);
  call = (pyproc_call_options)PYPROC_CALL_OPTIONS_INIT;
  call.metadata = &metadata;
  call.metadata_count = 1;
  assert_int_equal(pyproc_call_json(pool, "ping", "1", &call, &reply, &error), PYPROC_E_INVALID_ARGUMENT);
  assert_error(error, PYPROC_E_INVALID_ARGUMENT, "metadata", NOT_RUN);
  assert_null(reply);
  pyproc_pool_close(pool);
}

static void test_null_arguments(void **state) {
  (void)state;
  pyproc_pool_options options = options_for("fault_worker.py");
  pyproc_error *error = NULL;
  pyproc_health health = PYPROC_HEALTH_INIT;
  char *reply = NULL;
  assert_int_equal(pyproc_pool_open(&options, NULL, &error), PYPROC_E_INVALID_ARGUMENT);
  assert_error(error, PYPROC_E_INVALID_ARGUMENT, "ret_pool", NOT_RUN);
  assert_error(open_failure(NULL), PYPROC_E_INVALID_ARGUMENT, "options", NOT_RUN);
  assert_int_equal(pyproc_pool_health(NULL, &health), PYPROC_E_INVALID_ARGUMENT);
  assert_int_equal(pyproc_call_json(NULL, "ping", "1", NULL, &reply, &error), PYPROC_E_INVALID_ARGUMENT);
  assert_error(error, PYPROC_E_INVALID_ARGUMENT, "pool", NOT_RUN);
  pyproc_pool *pool = open_pool(&options);
  assert_int_equal(pyproc_pool_health(pool, NULL), PYPROC_E_INVALID_ARGUMENT);
  assert_int_equal(pyproc_call_json(pool, NULL, "1", NULL, &reply, &error), PYPROC_E_INVALID_ARGUMENT);
  assert_error(error, PYPROC_E_INVALID_ARGUMENT, "method is NULL", NOT_RUN);
  assert_int_equal(pyproc_call_json(pool, "ping", NULL, NULL, &reply, &error), PYPROC_E_INVALID_ARGUMENT);
  assert_error(error, PYPROC_E_INVALID_ARGUMENT, "body is NULL", NOT_RUN);
  assert_int_equal(pyproc_call_json(pool, "ping", "1", NULL, NULL, &error), PYPROC_E_INVALID_ARGUMENT);
  assert_error(error, PYPROC_E_INVALID_ARGUMENT, "ret_body is NULL", NOT_RUN);
  assert_int_equal(pyproc_call_json(pool, "nobody", "1", NULL, &reply, NULL), PYPROC_E_UNIMPLEMENTED);
  assert_null(reply);
  pyproc_pool_close(pool);
}

static void test_accessors_of_null(void **state) {
  (void)state;
  assert_int_equal(pyproc_error_code(NULL), PYPROC_OK);
  pyproc_error_message(NULL);
  pyproc_error_type(NULL);
  pyproc_error_traceback(NULL);
  pyproc_error_log(NULL);
  assert_int_equal(pyproc_error_worker_pid(NULL), 0);
  assert_int_equal(pyproc_error_may_have_run(NULL), 0);
  assert_int_equal(pyproc_error_attempts(NULL), 0);
  assert_null(pyproc_error_crash(NULL));
  pyproc_error_free(NULL);
  pyproc_reply_free(NULL);
  pyproc_pool_close(NULL);
  for (int code = -20; code <= 1; code++) assert_non_null(pyproc_strerror(code));
  assert_non_null(pyproc_version());
}

static void test_all_set(void **state) {
  (void)state;
  pyproc_pool_options options = options_for("fault_worker.py");
  options.workers = 2;
  options.max_in_flight = 7;
  options.queue_limit = PYPROC_UNLIMITED;
  options.start_timeout_ms = 20000;
  options.call_timeout_ms = 20000;
  options.cancel_grace_ms = 100;
  options.drain_timeout_ms = PYPROC_OFF;
  options.spin_us = PYPROC_OFF;
  options.frame_limit_bytes = 1024;
  options.log_level = PYPROC_OFF;
  options.channel = "uds";
  options.protocol = "json";
  pyproc_pool *pool = open_pool(&options);
  for (int i = 0; i < 20; i++) assert_answer(pool, "ping", "1", "1");
  pyproc_pool_close(pool);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      E2E_TEST(test_bad_numbers),       E2E_TEST(test_numbers_out_of_range),
      E2E_TEST(test_bad_texts),         E2E_TEST(test_sizes),
      E2E_TEST(test_call_options),      E2E_TEST(test_null_arguments),
      E2E_TEST(test_accessors_of_null), E2E_TEST(test_all_set),
  };
  return RUN_TESTS(tests);
}
