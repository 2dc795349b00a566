#include "vectors.h"

#include "error.h"

static void test_codes(void **state) {
  (void)state;
  assert_string_equal(pyproc_strerror(PYPROC_OK), "ok");
  assert_string_equal(pyproc_strerror(3), "ok");
  assert_string_equal(pyproc_strerror(PYPROC_E_DEADLINE_EXCEEDED), "deadline exceeded");
  assert_string_equal(pyproc_strerror(PYPROC_E_UNAUTHENTICATED), "unauthenticated");
  assert_string_equal(pyproc_strerror(-17), "not a code of pyproc");
  assert_string_equal(pyproc_strerror(INT32_MIN), "not a code of pyproc");
  for (uint32_t status = 1; status <= 16; status++) assert_int_equal(error_from_wire(status), -(int)status);
  assert_int_equal(error_from_wire(0), PYPROC_E_UNKNOWN);
  assert_int_equal(error_from_wire(17), PYPROC_E_UNKNOWN);
  assert_int_equal(error_from_wire(UINT32_MAX), PYPROC_E_UNKNOWN);
}

static void test_null(void **state) {
  (void)state;
  assert_int_equal(pyproc_error_code(NULL), 0);
  assert_string_equal(pyproc_error_message(NULL), "");
  assert_null(pyproc_error_type(NULL));
  assert_null(pyproc_error_traceback(NULL));
  assert_null(pyproc_error_log(NULL));
  assert_int_equal(pyproc_error_worker_pid(NULL), 0);
  assert_int_equal(pyproc_error_may_have_run(NULL), 0);
  assert_int_equal(pyproc_error_attempts(NULL), 0);
  assert_null(pyproc_error_crash(NULL));
  pyproc_error_free(NULL);
}

static void test_set(void **state) {
  (void)state;
  assert_int_equal(error_set(NULL, PYPROC_E_NOT_FOUND, "%d", 1), PYPROC_E_NOT_FOUND);
  pyproc_error *error = NULL;
  assert_int_equal(error_set(&error, PYPROC_E_NOT_FOUND, "no %s at %d", "file", 7), PYPROC_E_NOT_FOUND);
  assert_int_equal(pyproc_error_code(error), PYPROC_E_NOT_FOUND);
  assert_string_equal(pyproc_error_message(error), "no file at 7");
  error_append(error, " (%s)", "why");
  error_prefix(error, "%s: ", "where");
  assert_string_equal(pyproc_error_message(error), "where: no file at 7 (why)");
  pyproc_error_free(error);
  assert_int_equal(error_set(&error, 5, "no code"), PYPROC_E_UNKNOWN);
  assert_int_equal(pyproc_error_code(error), PYPROC_E_UNKNOWN);
  pyproc_error_free(error);
}

static void test_give(void **state) {
  (void)state;
  pyproc_error *error = NULL, *made = error_new(PYPROC_E_ABORTED, "x");
  assert_int_equal(error_give(&error, made), PYPROC_E_ABORTED);
  assert_ptr_equal(error, made);
  assert_int_equal(error_give(NULL, made), PYPROC_E_ABORTED); /* frees it */
}

static void test_long_message(void **state) {
  (void)state;
  char *text = malloc(200001);
  assert_non_null(text);
  memset(text, 'x', 200000);
  text[200000] = '\0';
  text[60000] = '\0';
  pyproc_error *error = error_new(PYPROC_E_INTERNAL, "<%s>", text);
  assert_int_equal(strlen(pyproc_error_message(error)), 60002);
  pyproc_error_free(error);
  text[60000] = 'x';
  error = error_new(PYPROC_E_INTERNAL, "%s", text); /* 64 KiB is the most */
  assert_int_equal(strlen(pyproc_error_message(error)), 65536);
  pyproc_error_free(error);
  free(text);
}

static void test_text_is_utf8(void **state) {
  (void)state;
  pyproc_error *error = error_new(PYPROC_E_INTERNAL, "a\xff"
                                                     "b\xc3\xa4\xe2\x82");
  assert_string_equal(pyproc_error_message(error), "a\xef\xbf\xbd"
                                                   "b\xc3\xa4\xef\xbf\xbd\xef\xbf\xbd");
  error_set_python(error, "T\0y", 3, "t\x80", 2);
  assert_string_equal(pyproc_error_type(error), "T\xef\xbf\xbdy");
  assert_string_equal(pyproc_error_traceback(error), "t\xef\xbf\xbd");
  error_set_log(error, "\xed\xa0\x80");
  assert_string_equal(pyproc_error_log(error), "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");
  pyproc_error_free(error);
}

static pyproc_error *full_error(void) {
  pyproc_error *error = error_new(PYPROC_E_UNAVAILABLE, "died");
  char method[] = "p.S/M", log[] = "last", stacks[] = "stack";
  pyproc_crash crash = {
      .size = sizeof crash, .pid = 7, .signal = 9, .call_id = 4097, .method = method, .log = log, .stacks = stacks};
  error_set_python(error, "ValueErrors", 10, "Traceback", 9);
  error_set_worker(error, 4711);
  error_set_log(error, "first");
  error_set_log(error, "line");
  error_set_may_have_run(error, 2);
  error_set_attempts(error, 3);
  error_set_crash(error, &crash);
  error_set_crash(error, &crash);
  memset(method, 'x', sizeof method - 1);
  return error;
}

static void check_full(const pyproc_error *error) {
  assert_int_equal(pyproc_error_code(error), PYPROC_E_UNAVAILABLE);
  assert_string_equal(pyproc_error_message(error), "died");
  assert_string_equal(pyproc_error_type(error), "ValueError");
  assert_string_equal(pyproc_error_traceback(error), "Traceback");
  assert_int_equal(pyproc_error_worker_pid(error), 4711);
  assert_string_equal(pyproc_error_log(error), "line");
  assert_int_equal(pyproc_error_may_have_run(error), 1);
  assert_int_equal(pyproc_error_attempts(error), 3);
  const pyproc_crash *crash = pyproc_error_crash(error);
  assert_non_null(crash);
  assert_int_equal(crash->size, sizeof *crash);
  assert_int_equal(crash->pid, 7);
  assert_int_equal(crash->signal, 9);
  assert_int_equal(crash->call_id, 4097);
  assert_string_equal(crash->method, "p.S/M");
  assert_string_equal(crash->log, "last");
  assert_string_equal(crash->stacks, "stack");
}

static void test_everything(void **state) {
  (void)state;
  pyproc_error *error = full_error(), *copy = error_copy(error);
  check_full(error);
  pyproc_error_free(error);
  check_full(copy);
  error_set_crash(copy, NULL);
  assert_null(pyproc_error_crash(copy));
  error_set_python(copy, NULL, 0, NULL, 0);
  assert_null(pyproc_error_type(copy));
  pyproc_error_free(copy);
}

/* The static error: error_copy(NULL) gives it, as every allocation failure does. */
static void test_out_of_memory(void **state) {
  (void)state;
  pyproc_error *error = error_copy(NULL);
  assert_int_equal(pyproc_error_code(error), PYPROC_E_RESOURCE_EXHAUSTED);
  assert_string_equal(pyproc_error_message(error), "out of memory");
  error_set_log(error, "x");
  error_append(error, "x");
  error_prefix(error, "x");
  error_set_worker(error, 1);
  error_set_python(error, "x", 1, "x", 1);
  assert_null(pyproc_error_log(error));
  assert_string_equal(pyproc_error_message(error), "out of memory");
  assert_int_equal(pyproc_error_worker_pid(error), 0);
  pyproc_error *copy = error_copy(error);
  assert_ptr_equal(copy, error);
  pyproc_error_free(error);
  pyproc_error_free(copy);
}

static void check_object(const char *json, const char *message, const char *type, const char *traceback) {
  char *exact = exact_copy(json, strlen(json));
  pyproc_error *error = error_from_object(PYPROC_E_UNKNOWN, exact, strlen(json));
  assert_int_equal(pyproc_error_code(error), PYPROC_E_UNKNOWN);
  assert_string_equal(pyproc_error_message(error), message);
  if (type == NULL)
    assert_null(pyproc_error_type(error));
  else
    assert_string_equal(pyproc_error_type(error), type);
  if (traceback == NULL)
    assert_null(pyproc_error_traceback(error));
  else
    assert_string_equal(pyproc_error_traceback(error), traceback);
  pyproc_error_free(error);
  free(exact);
}

static void test_object(void **state) {
  (void)state;
  check_object("{\"error\": \"m\\u00e4\\n\", \"type\": \"ValueError\", \"traceback\": \"Trace\\\"back\"}",
               "m\xc3\xa4\n", "ValueError", "Trace\"back");
  check_object("{\"error\":\"\"}", "", NULL, NULL);
  check_object("{\"error\":\"100 %s %n\",\"later\":{}}", "100 %s %n", NULL, NULL);
  check_object("{\"error\":\"a\\u0000b\"}",
               "a\xef\xbf\xbd"
               "b",
               NULL, NULL);
  check_object("{}", "the worker failed, and its error object is broken: member \"error\" is missing", NULL, NULL);
  check_object("", "the worker failed, and its error object is broken: not a JSON object", NULL, NULL);
  check_object("{\"error\":7}", "the worker failed, and its error object is broken: member \"error\" is no string",
               NULL, NULL);
}

static void test_long_object(void **state) {
  (void)state;
  enum { SIZE = 300000 };
  char *json = malloc(SIZE + 64);
  assert_non_null(json);
  memcpy(json, "{\"error\":\"", 10);
  memset(json + 10, 'x', SIZE);
  memcpy(json + 10 + SIZE, "\"}", 2);
  pyproc_error *error = error_from_object(PYPROC_E_UNKNOWN, json, SIZE + 12);
  assert_int_equal(strlen(pyproc_error_message(error)), 65536);
  pyproc_error_free(error);
  free(json);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_codes),       cmocka_unit_test(test_null),          cmocka_unit_test(test_set),
      cmocka_unit_test(test_give),        cmocka_unit_test(test_long_message),  cmocka_unit_test(test_text_is_utf8),
      cmocka_unit_test(test_everything),  cmocka_unit_test(test_out_of_memory), cmocka_unit_test(test_object),
      cmocka_unit_test(test_long_object),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
