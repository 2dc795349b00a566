/* Limits of processes: what a child of spawn has of each, what is told where the system refuses, and for whom. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "platform.h"
#include "process_limits.h"
#include "spawn.h"

#include <errno.h>
#include <grp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { TEXT_SIZE = 4096, NOBODY = 65534, MIB = 1 << 20 };

#ifdef PYPROC_PLATFORM_LINUX
static const bool is_linux = true;
#else
static const bool is_linux = false;
#endif

static void wait_for_end(pid_t pid, int watch_fd) {
  platform_exit end = {0};
  struct pollfd polled = {.fd = watch_fd, .events = POLLIN};
  while (platform_poll(&polled, 1, PLATFORM_NO_DEADLINE) < 0) {}
  while (platform_reap(pid, watch_fd, &end) == 0) platform_yield();
  platform_close_fd(watch_fd);
}

/* Runs a shell; its output, or the error's message. Returns the code. */
static int run(const process_limits *limits, const char *script, const char *cwd, char text[TEXT_SIZE]) {
  int out[2], watch_fd = -1;
  pid_t pid = -1;
  size_t used = 0;
  pyproc_error *error = NULL;
  char *argv[] = {"sh", "-c", (char *)(uintptr_t)script, NULL};
  assert_int_equal(platform_pipe(out), 0);
  if (limits != NULL) process_limits_give(limits, out[1]);
  int fds[3] = {-1, out[1], out[1]};
  spawn_request request = {.program = "sh", .argv = argv, .cwd = cwd, .fds = fds, .fd_count = 3, .limits = limits};
  int result = spawn_process(&request, &pid, &watch_fd, &error);
  close(out[1]);
  for (ssize_t got; (got = read(out[0], text + used, TEXT_SIZE - 1 - used)) > 0;) used += (size_t)got;
  text[used] = '\0';
  close(out[0]);
  if (result >= 0) wait_for_end(pid, watch_fd);
  if (result < 0) snprintf(text, TEXT_SIZE, "%s", pyproc_error_message(error));
  pyproc_error_free(error);
  return result;
}

static void expect(const process_limits *limits, const char *script, const char *expected) {
  char text[TEXT_SIZE];
  int result = run(limits, script, NULL, text);
  if (result < 0) fail_msg("%s", text);
  assert_string_equal(text, expected);
}

static void refuse(const process_limits *limits, int code, const char *option, const char *why) {
  char text[TEXT_SIZE];
  assert_int_equal(run(limits, "echo it runs", NULL, text), code);
  if (strstr(text, option) == NULL || strstr(text, why) == NULL)
    fail_msg("no \"%s\", \"%s\" in: %s", option, why, text);
}

static void test_nothing_set_changes_nothing(void **state) {
  (void)state;
  static const char facts[] = "ulimit -a; umask; nice; id";
  char with[TEXT_SIZE], without[TEXT_SIZE];
  const process_limits none = {0};
  assert_int_equal(run(&none, facts, NULL, with), 0);
  assert_int_equal(run(NULL, facts, NULL, without), 0);
  assert_string_equal(with, without);
}

/* qemu-user takes no notice of it. */
static bool keeps_memory_limit(void) {
  int status = 0;
  pid_t pid = fork();
  if (pid == 0) {
    struct rlimit wanted = {.rlim_cur = INT64_C(1) << 40, .rlim_max = INT64_C(1) << 40}, found = {0};
    _exit(setrlimit(RLIMIT_AS, &wanted) < 0 || getrlimit(RLIMIT_AS, &found) < 0 || found.rlim_cur != wanted.rlim_cur);
  }
  return waitpid(pid, &status, 0) == pid && status == 0;
}

static void test_memory(void **state) {
  (void)state;
  const process_limits limits = {.memory_bytes = INT64_C(512) * MIB};
  if (!keeps_memory_limit()) skip();
  expect(&limits, "ulimit -v; ulimit -H -v", "524288\n524288\n");
}

static void test_resources(void **state) {
  (void)state;
  const process_limits limits = {.cpu_seconds = 7, .files = 64, .core_bytes = PYPROC_OFF};
  expect(&limits, "ulimit -t; ulimit -H -t; ulimit -n; ulimit -H -n; ulimit -c; ulimit -H -c", "7\n8\n64\n64\n0\n0\n");
  const process_limits core = {.core_bytes = 4096};
  expect(&core, "ulimit -c", "8\n"); /* blocks of 512 bytes */
}

static void test_processor_time_ends_it(void **state) {
  (void)state;
  const process_limits limits = {.cpu_seconds = 1, .core_bytes = PYPROC_OFF};
  expect(&limits, "sh -c 'while :; do :; done' 2>/dev/null; echo $?", "152\n"); /* 128 and SIGXCPU */
}

static void test_nice_is_added(void **state) {
  (void)state;
  char text[TEXT_SIZE];
  errno = 0;
  int now = getpriority(PRIO_PROCESS, 0);
  const process_limits few = {.nice = 2}, many = {.nice = 19};
  snprintf(text, sizeof text, "%d\n", now + 2 > 19 ? 19 : now + 2);
  expect(&few, "nice", text);
  expect(&many, "nice", "19\n");
  assert_int_equal(getpriority(PRIO_PROCESS, 0), now);
}

static void test_umask(void **state) {
  (void)state;
  mode_t before = umask(0);
  umask(before);
  const process_limits limits = {.umask = 027};
  expect(&limits, "umask", "0027\n");
  assert_int_equal(umask(before), before);
}

static void test_spread_goes_round(void **state) {
  (void)state;
  char text[TEXT_SIZE];
  int count = is_linux ? platform_cpu_count() : 1, first = platform_nth_processor(0);
  for (int i = 0; i < 2 * count && i < 8; i++) {
    process_limits limits = {.is_spread = true};
    process_limits_spread(&limits, i);
    assert_int_equal(limits.has_processor, is_linux);
    if (!is_linux) continue;
    assert_int_equal(limits.processor, platform_nth_processor(i));
    snprintf(text, sizeof text, "Cpus_allowed_list:\t%d\n", limits.processor);
    expect(&limits, "grep Cpus_allowed_list /proc/self/status", text);
  }
  process_limits none = {0};
  process_limits_spread(&none, 1);
  assert_false(none.has_processor);
  assert_int_equal(platform_nth_processor(0), first); /* the host's own are as before */
}

static void test_no_new_privileges(void **state) {
  (void)state;
  const process_limits limits = {.no_new_privs = 1};
  if (is_linux)
    expect(&limits, "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t1\n");
  else
    refuse(&limits, PYPROC_E_UNIMPLEMENTED, "option no_new_privs is 1", "leave it out");
}

static void test_what_the_system_refuses_is_named(void **state) {
  (void)state;
  const process_limits files = {.files = INT32_MAX};
  refuse(&files, PYPROC_E_PERMISSION_DENIED, "option files_limit is 2147483647: Operation not permitted", "ulimit -H");
  if (!is_linux) return;
  const process_limits processor = {.has_processor = true, .processor = 65535};
  refuse(&processor, PYPROC_E_INVALID_ARGUMENT,
         "option affinity is \"spread\" (here processor 65535): Invalid argument", "not there");
}

/* ---- another user ---- */

static void test_user_and_group(void **state) {
  (void)state;
  struct stat about;
  int fds[2];
  if (geteuid() != 0) skip();
  const process_limits both = {.uid = NOBODY, .gid = NOBODY}, group = {.gid = NOBODY};
  expect(&both, "id -u; id -r -u; id -g; id -r -g; id -G; echo >/dev/stdout", "65534\n65534\n65534\n65534\n65534\n\n");
  expect(&group, "id -u; id -g; id -G", "0\n65534\n65534\n");
  assert_int_equal(getuid() + getgid(), 0);
  assert_int_equal(platform_pipe(fds), 0);
  process_limits_give(&both, fds[1]);
  assert_int_equal(fstat(fds[1], &about), 0);
  assert_int_equal(about.st_uid, NOBODY);
  close(fds[0]);
  close(fds[1]);
}

static void test_folder_is_looked_at_as_that_user(void **state) {
  (void)state;
  char text[TEXT_SIZE], folder[] = "/tmp/pyproc-limits-XXXXXX";
  if (geteuid() != 0) skip();
  const process_limits limits = {.uid = NOBODY, .gid = NOBODY};
  assert_non_null(mkdtemp(folder)); /* 0700, root's */
  assert_int_equal(run(&limits, "pwd", folder, text), PYPROC_E_PERMISSION_DENIED);
  assert_non_null(strstr(text, folder));
  assert_int_equal(process_limits_give_folder(&limits, folder, NULL), PYPROC_OK);
  assert_int_equal(run(&limits, "pwd", folder, text), 0);
  assert_int_equal(strncmp(text, folder, strlen(folder)), 0);
  rmdir(folder);
}

/* In a host that is not root: the number of the first line that is wrong, or 0. */
static int try_as_nobody(void) {
  const process_limits both = {.uid = 1, .gid = 1}, group = {.gid = 1};
  pyproc_error *error = NULL;
  if (setgroups(0, NULL) < 0 || setgid(NOBODY) < 0 || setuid(NOBODY) < 0) return __LINE__;
  if (process_limits_check(&both, &error) != PYPROC_E_PERMISSION_DENIED) return __LINE__;
  if (strstr(pyproc_error_message(error), "option uid is 1: only a program that runs as root") == NULL) return __LINE__;
  pyproc_error_free(error);
  if (process_limits_check(&group, NULL) != PYPROC_E_PERMISSION_DENIED) return __LINE__;
  pid_t pid = -1;
  int fd = -1;
  char *argv[] = {"sh", NULL};
  spawn_request request = {.program = "sh", .argv = argv, .limits = &both};
  if (spawn_process(&request, &pid, &fd, &error) != PYPROC_E_PERMISSION_DENIED) return __LINE__;
  if (strstr(pyproc_error_message(error), "option gid is 1: Operation not permitted") == NULL) return __LINE__;
  pyproc_error_free(error);
  return 0;
}

static void test_only_root_becomes_somebody_else(void **state) {
  (void)state;
  int status = 0;
  if (geteuid() != 0) skip();
  pid_t pid = fork();
  if (pid == 0) _exit(try_as_nobody());
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_true(WIFEXITED(status));
  assert_int_equal(WEXITSTATUS(status), 0);
}

static void test_user_needs_a_group(void **state) {
  (void)state;
  const process_limits limits = {.uid = NOBODY};
  pyproc_error *error = NULL;
  assert_int_equal(process_limits_check(&limits, &error), PYPROC_E_INVALID_ARGUMENT);
  assert_non_null(strstr(pyproc_error_message(error), "option gid is not set"));
  pyproc_error_free(error);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_nothing_set_changes_nothing),
      cmocka_unit_test(test_memory),
      cmocka_unit_test(test_resources),
      cmocka_unit_test(test_processor_time_ends_it),
      cmocka_unit_test(test_nice_is_added),
      cmocka_unit_test(test_umask),
      cmocka_unit_test(test_spread_goes_round),
      cmocka_unit_test(test_no_new_privileges),
      cmocka_unit_test(test_what_the_system_refuses_is_named),
      cmocka_unit_test(test_user_and_group),
      cmocka_unit_test(test_folder_is_looked_at_as_that_user),
      cmocka_unit_test(test_only_root_becomes_somebody_else),
      cmocka_unit_test(test_user_needs_a_group),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
