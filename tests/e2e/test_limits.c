/*
 * Limits of workers: each option is what the worker finds, what happens to who takes more, other users, and what the
 * system refuses.
 */
#include <inttypes.h>
#include <sys/resource.h>
#include <unistd.h>

#include "support.h"

static pyproc_pool_options limits_options(void) {
  pyproc_pool_options options = options_for("limits_worker.py");
  options.call_timeout_ms = 30000;
  return options;
}

static void test_each_is_what_the_worker_finds(void **state) {
  (void)state;
  pyproc_pool_options options = limits_options();
  char nice[32];
  snprintf(nice, sizeof nice, "%d", getpriority(PRIO_PROCESS, 0) + 1);
  if (!IS_SANITIZED) options.memory_limit_bytes = INT64_C(4) << 30; /* a sanitizer takes terabytes */
  options.cpu_limit_seconds = 500;
  options.files_limit = 100;
  options.core_limit_bytes = PYPROC_OFF;
  options.nice = 1;
  options.umask = 027;
  pyproc_pool *pool = open_pool(&options);
  if (!IS_SANITIZED) assert_answer(pool, "fact", "\"memory\"", "4294967296");
  assert_answer(pool, "fact", "\"cpu\"", "[500,501]");
  assert_answer(pool, "fact", "\"files\"", "100");
  assert_answer(pool, "fact", "\"core\"", "0");
  assert_answer(pool, "fact", "\"nice\"", nice);
  assert_answer(pool, "fact", "\"umask\"", "23");
  pyproc_pool_close(pool);
}

#ifdef PYPROC_PLATFORM_LINUX
static void test_spread_over_processors(void **state) {
  (void)state;
  char *first, *second;
  pyproc_pool_options options = limits_options();
  options.affinity = "spread";
  pyproc_pool *pool = open_pool(&options);
  first = call_json(pool, "fact", "\"cpus\"");
  assert_null(strchr(first, ','));
  pyproc_error_free(call_failure(pool, "burn", "1", 10)); /* the worker is killed: its successor has the same place */
  second = call_json(pool, "fact", "\"cpus\"");
  assert_string_equal(first, second);
  pyproc_reply_free(first);
  pyproc_reply_free(second);
  pyproc_pool_close(pool);
}

static void test_no_new_privileges(void **state) {
  (void)state;
  pyproc_pool_options options = limits_options();
  options.no_new_privs = 1;
  pyproc_pool *pool = open_pool(&options);
  assert_answer(pool, "fact", "\"no_new_privs\"", "\"1\"");
  pyproc_pool_close(pool);
}
#endif

static void test_environment_is_cleared(void **state) {
  (void)state;
  const char *const env[] = {"E2E_ADDED=1", NULL};
  pyproc_pool_options options = limits_options();
  options.clear_env = 1;
  options.env = env;
  setenv("E2E_SECRET", "1", 1);
  pyproc_pool *pool = open_pool(&options);
  char *names = call_json(pool, "environment", "1");
  assert_contains(names, "E2E_ADDED");
  assert_null(strstr(names, "E2E_SECRET"));
  assert_null(strstr(names, "\"PATH\""));
  pyproc_reply_free(names);
  pyproc_pool_close(pool);
  unsetenv("E2E_SECRET");
}

/* ---- who takes more ---- */

static void test_memory_is_an_exception(void **state) {
  (void)state;
  if (IS_SANITIZED) skip();
  pyproc_pool_options options = limits_options();
  options.memory_limit_bytes = INT64_C(1) << 30;
  pyproc_pool *pool = open_pool(&options);
  long pid = call_number(pool, "pid", "1");
  pyproc_error *error = call_failure(pool, "balloon", "2147483648", 0);
  assert_string_equal(pyproc_error_type(error), "MemoryError");
  assert_error(error, PYPROC_E_UNKNOWN, "", RAN);
  assert_int_equal(call_number(pool, "pid", "1"), pid);
  assert_answer(pool, "balloon", "1048576", "1048576");
  pyproc_pool_close(pool);
}

static void test_processor_time_ends_the_worker(void **state) {
  (void)state;
  pyproc_pool_options options = limits_options();
  options.cpu_limit_seconds = IS_SANITIZED ? 4 : 1;
  options.core_limit_bytes = PYPROC_OFF;
  pyproc_pool *pool = open_pool(&options);
  long pid = call_number(pool, "pid", "1");
  pyproc_error *error = call_failure(pool, "burn", "1", 0);
  assert_non_null(pyproc_error_crash(error));
  assert_int_equal(pyproc_error_crash(error)->signal, 24); /* SIGXCPU */
  assert_error(error, PYPROC_E_UNAVAILABLE, "CPU time limit", RAN);
  assert_int_not_equal(call_number(pool, "pid", "1"), pid);
  pyproc_pool_close(pool);
}

static void test_files_are_an_exception(void **state) {
  (void)state;
  pyproc_pool_options options = limits_options();
  options.files_limit = 40;
  pyproc_pool *pool = open_pool(&options);
  pyproc_error *error = call_failure(pool, "open_files", "1", 0);
  assert_string_equal(pyproc_error_type(error), "OSError");
  assert_error(error, PYPROC_E_UNKNOWN, "Too many open files", RAN);
  pyproc_pool_close(pool);
}

/* ---- what cannot be ---- */

static void test_what_the_system_refuses(void **state) {
  (void)state;
  pyproc_pool_options options = limits_options();
  options.files_limit = INT32_MAX;
  assert_error(open_failure(&options), PYPROC_E_PERMISSION_DENIED,
               "option files_limit is 2147483647: Operation not permitted", NOT_RUN);
  options = limits_options();
  options.affinity = "everywhere";
  assert_error(open_failure(&options), PYPROC_E_INVALID_ARGUMENT, "option affinity is \"everywhere\"", NOT_RUN);
  options = limits_options();
  options.uid = NOBODY;
  assert_error(open_failure(&options), PYPROC_E_INVALID_ARGUMENT, "option gid is not set", NOT_RUN);
  options = limits_options();
  options.script = NULL;
  options.target = "unix:/nowhere";
  options.nice = 3;
  assert_error(open_failure(&options), PYPROC_E_INVALID_ARGUMENT, "options target and nice", NOT_RUN);
}

static void test_reload_changes_them(void **state) {
  (void)state;
  pyproc_error *error = NULL;
  pyproc_pool_options options = limits_options();
  options.files_limit = 100;
  pyproc_pool *pool = open_pool(&options);
  options.files_limit = 101;
  assert_int_equal(pyproc_pool_reload(pool, &options, &error), 0);
  assert_answer(pool, "fact", "\"files\"", "101");
  options.files_limit = INT32_MAX;
  assert_int_equal(pyproc_pool_reload(pool, &options, &error), PYPROC_E_PERMISSION_DENIED);
  assert_error(error, PYPROC_E_PERMISSION_DENIED, "files_limit", NOT_RUN);
  assert_answer(pool, "fact", "\"files\"", "101");
  pyproc_pool_close(pool);
}

/* ---- another user ---- */

static pyproc_pool_options nobody_options(void) {
  pyproc_pool_options options = limits_options();
  if (!nobody_can_run(options.script)) skip();
  options.uid = NOBODY;
  options.gid = NOBODY;
  return options;
}

static void test_another_user(void **state) {
  (void)state;
  log_lines lines;
  pyproc_pool_options options = nobody_options();
  log_lines_init(&lines);
  options.log = log_lines_callback;
  options.log_userdata = &lines;
  pyproc_pool *pool = open_pool(&options);
  assert_answer(pool, "fact", "\"uid\"", "[65534,65534,65534]");
  assert_answer(pool, "fact", "\"gid\"", "[65534,65534,65534]");
  assert_answer(pool, "fact", "\"groups\"", "[65534]");
  assert_answer(pool, "print_by_name", "\"it is written\"", "null");
  WAIT_FOR(log_lines_have(&lines, "it is written stderr") && log_lines_have(&lines, "it is written stdout"));
  assert_true(log_lines_have(&lines, "stderr: it is written\n"));
  pyproc_error *error = call_failure(pool, "burn", "1", 50); /* the page tells that it runs, though it is another's */
  assert_error(error, PYPROC_E_DEADLINE_EXCEEDED, "", RAN);
  assert_answer(pool, "fact", "\"uid\"", "[65534,65534,65534]"); /* who was killed is replaced */
  pyproc_pool_close(pool);
}

static void test_another_user_without_a_handshake(void **state) {
  (void)state;
  const char *const env[] = {"PYTHONPATH=", NULL};
  pyproc_pool_options options = nobody_options();
  options.script = gen_path("bare_worker.py");
  options.handshake = "none";
  options.env = env;
  pyproc_pool *pool = open_pool(&options);
  pyproc_pool_close(pool);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      E2E_TEST(test_each_is_what_the_worker_finds),
#ifdef PYPROC_PLATFORM_LINUX
      E2E_TEST(test_spread_over_processors),
      E2E_TEST(test_no_new_privileges),
#endif
      E2E_TEST(test_environment_is_cleared),
      E2E_TEST(test_memory_is_an_exception),
      E2E_TEST(test_processor_time_ends_the_worker),
      E2E_TEST(test_files_are_an_exception),
      E2E_TEST(test_what_the_system_refuses),
      E2E_TEST(test_reload_changes_them),
      E2E_TEST(test_another_user),
      E2E_TEST(test_another_user_without_a_handshake),
  };
  return RUN_TESTS(tests);
}
