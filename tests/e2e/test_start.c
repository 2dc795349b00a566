/*
 * Pools that do not open: each says why, and leaves nothing behind.
 */
#include "support.h"

static pyproc_pool_options start_options(const char *const *args) {
  pyproc_pool_options options = options_for("start_worker.py");
  options.args = args;
  return options;
}

static void test_no_such_python(void **state) {
  (void)state;
  pyproc_pool_options options = options_for("fault_worker.py");
  options.python = "/nowhere/python3";
  assert_error(open_failure(&options), PYPROC_E_NOT_FOUND, "/nowhere/python3", NOT_RUN);
  options.python = "python-that-nobody-has";
  assert_error(open_failure(&options), PYPROC_E_NOT_FOUND, "python-that-nobody-has", NOT_RUN);
}

static void test_python_is_no_program(void **state) {
  (void)state;
  pyproc_pool_options options = options_for("fault_worker.py");
  options.python = options.script;
  pyproc_error *error = open_failure(&options);
  int code = pyproc_error_code(error);
  assert_error(error, code, "fault_worker.py", NOT_RUN);
  assert_true(code == PYPROC_E_PERMISSION_DENIED || code == PYPROC_E_NOT_FOUND);
}

static void test_python_is_another_program(void **state) {
  (void)state;
  pyproc_pool_options options = options_for("fault_worker.py");
  options.python = "/bin/true";
  assert_error(open_failure(&options), PYPROC_E_UNAVAILABLE, "exited with status 0 before it was ready", NOT_RUN);
}

static void test_no_such_script(void **state) {
  (void)state;
  pyproc_pool_options options = options_for("nobody.py");
  assert_error(open_failure(&options), PYPROC_E_NOT_FOUND, "nobody.py", NOT_RUN);
  options.script = "/tmp";
  assert_error(open_failure(&options), PYPROC_E_INVALID_ARGUMENT, "/tmp", NOT_RUN);
}

static void test_no_such_cwd(void **state) {
  (void)state;
  pyproc_pool_options options = options_for("fault_worker.py");
  options.cwd = "/nowhere/at/all";
  assert_error(open_failure(&options), PYPROC_E_NOT_FOUND, "/nowhere/at/all", NOT_RUN);
}

static void test_script_raises_at_import(void **state) {
  (void)state;
  const char *const import[] = {"import", NULL}, *const raise[] = {"raise", NULL};
  pyproc_pool_options options = start_options(import);
  pyproc_error *error = open_failure(&options);
  assert_string_equal(pyproc_error_type(error), "ModuleNotFoundError");
  assert_contains(pyproc_error_traceback(error), "start_worker.py\", line");
  assert_contains(pyproc_error_log(error), "a_module_that_nobody_has");
  assert_true(pyproc_error_worker_pid(error) > 0);
  assert_error(error, PYPROC_E_FAILED_PRECONDITION, "a_module_that_nobody_has", NOT_RUN);
  options = start_options(raise);
  error = open_failure(&options);
  assert_string_equal(pyproc_error_type(error), "RuntimeError");
  assert_error(error, PYPROC_E_FAILED_PRECONDITION, "the model is missing", NOT_RUN);
}

static void test_script_has_a_syntax_error(void **state) {
  (void)state;
  pyproc_pool_options options = options_for("quickstart.proto");
  options.script = source_path("tests/e2e/quickstart.proto");
  pyproc_error *error = open_failure(&options);
  assert_string_equal(pyproc_error_type(error), "SyntaxError");
  assert_error(error, PYPROC_E_FAILED_PRECONDITION, "quickstart.proto", NOT_RUN);
}

static void test_script_never_becomes_ready(void **state) {
  (void)state;
  const char *const args[] = {"hang", NULL};
  pyproc_pool_options options = start_options(args);
  options.start_timeout_ms = 300;
  assert_error(open_failure(&options), PYPROC_E_DEADLINE_EXCEEDED, "start_timeout_ms", NOT_RUN);
}

static void test_script_exits_at_once(void **state) {
  (void)state;
  const char *const zero[] = {"exit", "0", NULL}, *const three[] = {"exit", "3", NULL};
  pyproc_pool_options options = start_options(zero);
  pyproc_error *error = open_failure(&options);
  assert_contains(pyproc_error_log(error), "giving up");
  assert_error(error, PYPROC_E_FAILED_PRECONDITION, "exited with status 0", NOT_RUN);
  options = start_options(three);
  error = open_failure(&options);
  assert_int_equal(pyproc_error_crash(error)->exit_status, 3);
  assert_error(error, PYPROC_E_FAILED_PRECONDITION, "exited with status 3", NOT_RUN);
}

static void test_script_dies_at_once(void **state) {
  (void)state;
  const char *const args[] = {"kill", NULL};
  pyproc_pool_options options = start_options(args);
  assert_error(open_failure(&options), PYPROC_E_UNAVAILABLE, "exited with status 9 before it was ready", NOT_RUN);
}

static void test_script_ends(void **state) {
  (void)state;
  const char *const args[] = {"end", NULL};
  pyproc_pool_options options = start_options(args);
  assert_error(open_failure(&options), PYPROC_E_FAILED_PRECONDITION, "serve()", NOT_RUN);
}

static void test_several_workers_fail(void **state) {
  (void)state;
  const char *const args[] = {"raise", NULL};
  pyproc_pool_options options = start_options(args);
  options.workers = 4;
  assert_error(open_failure(&options), PYPROC_E_FAILED_PRECONDITION, "the model is missing", NOT_RUN);
}

/* A failed open leaves the process fit for another. */
static void test_good_after_bad(void **state) {
  (void)state;
  const char *const args[] = {"raise", NULL};
  pyproc_pool_options bad = start_options(args), good = options_for("fault_worker.py");
  pyproc_error_free(open_failure(&bad));
  pyproc_pool *pool = open_pool(&good);
  assert_answer(pool, "ping", "1", "1");
  pyproc_pool_close(pool);
}

static void test_open_without_error(void **state) {
  (void)state;
  pyproc_pool *pool = NULL;
  pyproc_pool_options options = options_for("nobody.py");
  assert_int_equal(pyproc_pool_open(&options, &pool, NULL), PYPROC_E_NOT_FOUND);
  assert_null(pool);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      E2E_TEST(test_no_such_python),
      E2E_TEST(test_python_is_no_program),
      E2E_TEST(test_python_is_another_program),
      E2E_TEST(test_no_such_script),
      E2E_TEST(test_no_such_cwd),
      E2E_TEST(test_script_raises_at_import),
      E2E_TEST(test_script_has_a_syntax_error),
      E2E_TEST(test_script_never_becomes_ready),
      E2E_TEST(test_script_exits_at_once),
      E2E_TEST(test_script_dies_at_once),
      E2E_TEST(test_script_ends),
      E2E_TEST(test_several_workers_fail),
      E2E_TEST(test_good_after_bad),
      E2E_TEST(test_open_without_error),
  };
  return RUN_TESTS(tests);
}
