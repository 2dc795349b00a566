/* Spawn: what a child gets and what it does not, from hosts in odd states; what fails, and how it is said. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "platform.h"
#include "spawn.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { TEXT_SIZE = 16384 };

static char folder[] = "/tmp/pyproc-spawn-XXXXXX";
static int fds_before;

static int count_fds(void) {
  int count = 0;
  DIR *open_fds = opendir("/proc/self/fd");
  while (readdir(open_fds) != NULL) count++;
  closedir(open_fds);
  return count;
}

static int set_up(void **state) {
  (void)state;
  fds_before = count_fds();
  return 0;
}

/* Nothing is left: no descriptor, no child. */
static int tear_down(void **state) {
  (void)state;
  if (count_fds() != fds_before) {
    print_error("%d descriptors were left open\n", count_fds() - fds_before);
    return -1;
  }
  return waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD ? 0 : -1;
}

static bool has_pidfd(void) {
  int fd = platform_process_watch(getpid());
  platform_close_fd(fd);
  return fd >= 0;
}

/* Waits for the end that the watch descriptor tells, then takes the status. */
static platform_exit finish(pid_t pid, int watch_fd) {
  platform_exit end = {0};
  struct pollfd polled = {.fd = watch_fd, .events = POLLIN};
  while (platform_poll(&polled, 1, PLATFORM_NO_DEADLINE) < 0) {}
  /* a pipe is hung up a moment before the status is there */
  while (platform_reap(pid, watch_fd, &end) == 0) platform_yield();
  platform_close_fd(watch_fd);
  return end;
}

static void read_to_end(int fd, char text[TEXT_SIZE]) {
  size_t used = 0;
  for (ssize_t got; used < TEXT_SIZE - 1 && (got = read(fd, text + used, TEXT_SIZE - 1 - used)) > 0;)
    used += (size_t)got;
  text[used] = '\0';
}

/* Runs a program with its output in a pipe; 0, or the error's code with its message in `text`. */
static int run(const char *program, char *const *argv, char *const *envp, const char *cwd, char text[TEXT_SIZE],
               platform_exit *ret_end) {
  int out[2];
  pid_t pid = -1;
  int watch_fd = -1;
  pyproc_error *error = NULL;
  assert_int_equal(platform_pipe(out), 0);
  int fds[3] = {-1, out[1], out[1]};
  spawn_request request = {.program = program, .argv = argv, .envp = envp, .cwd = cwd, .fds = fds, .fd_count = 3};
  int result = spawn_process(&request, &pid, &watch_fd, &error);
  close(out[1]);
  if (result < 0) {
    assert_non_null(error);
    assert_int_equal(pyproc_error_code(error), result);
    assert_int_equal(pid, -1);
    assert_int_equal(watch_fd, -1);
    snprintf(text, TEXT_SIZE, "%s", pyproc_error_message(error));
    pyproc_error_free(error);
  } else {
    assert_null(error);
    read_to_end(out[0], text);
    *ret_end = finish(pid, watch_fd);
  }
  close(out[0]);
  return result;
}

static void run_shell(const char *script, char text[TEXT_SIZE]) {
  char *argv[] = {"sh", "-c", (char *)(uintptr_t)script, NULL};
  platform_exit end = {0};
  assert_int_equal(run("sh", argv, NULL, NULL, text, &end), 0);
  assert_true(end.known);
  assert_int_equal(end.signal, 0);
  assert_int_equal(end.exit_status, 0);
}

static int refuse(const char *program, const char *cwd, char text[TEXT_SIZE]) {
  char *argv[] = {"it", NULL};
  platform_exit end = {0};
  return run(program, argv, NULL, cwd, text, &end);
}

static void make_file(char path[256], const char *name, const char *content, mode_t mode) {
  snprintf(path, 256, "%s/%s", folder, name);
  int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
  assert_true(fd >= 0);
  assert_int_equal(write(fd, content, strlen(content)), strlen(content));
  fchmod(fd, mode);
  close(fd);
}

/* Runs a check in a forked host, whose descriptors and signals may be ruined. The check returns 0 when all is well,
   else the line that is not. */
static void in_forked_host(int (*check)(void)) {
  int status = 0;
  pid_t pid = fork();
  if (pid == 0) _exit(check());
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_true(WIFEXITED(status));
  if (WEXITSTATUS(status) != 0) print_error("the forked host failed with %d\n", WEXITSTATUS(status));
  assert_int_equal(WEXITSTATUS(status), 0);
}

/* ---- what a child gets ---- */

static void test_output_and_status(void **state) {
  (void)state;
  char text[TEXT_SIZE];
  char *argv[] = {"sh", "-c", "echo out; echo err >&2; exit 7", NULL};
  platform_exit end = {0};
  assert_int_equal(run("/bin/sh", argv, NULL, NULL, text, &end), 0);
  assert_string_equal(text, "out\nerr\n");
  assert_true(end.known);
  assert_int_equal(end.exit_status, 7);
  assert_int_equal(end.signal, 0);
  assert_true(end.rss_bytes > 0);
}

static void test_death_by_signal(void **state) {
  (void)state;
  char text[TEXT_SIZE];
  char *argv[] = {"sh", "-c", "kill -KILL $$", NULL};
  platform_exit end = {0};
  assert_int_equal(run("/bin/sh", argv, NULL, NULL, text, &end), 0);
  assert_int_equal(end.signal, SIGKILL);
}

static void test_null_input(void **state) {
  (void)state;
  char text[TEXT_SIZE];
  run_shell("cat; echo end", text);
  assert_string_equal(text, "end\n");
}

static void test_no_other_descriptor_is_open(void **state) {
  (void)state;
  char text[TEXT_SIZE];
  char expected[64];
  char *argv[] = {"ls", "/proc/self/fd", NULL};
  platform_exit end = {0};
  int leaky = open("/dev/null", O_RDONLY); /* not close-on-exec */
  int high = fcntl(leaky, F_DUPFD, 200);
  assert_int_equal(run("ls", argv, NULL, NULL, text, &end), 0);
  close(leaky);
  close(high);
  /* the last is ls's own; without pidfd the death pipe is there */
  snprintf(expected, sizeof expected, has_pidfd() ? "0\n1\n2\n3\n" : "0\n1\n2\n3\n4\n");
  assert_string_equal(text, expected);
}

static void ignore_signal(int signo) {
  (void)signo;
}

static void assert_no_signals(const char *status, const char *name) {
  const unsigned long long libc_own = 3ull << 31; /* signals 32 and 33, which sigaction(2) of the C library refuses */
  const char *line = strstr(status, name);
  assert_non_null(line);
  assert_int_equal(strtoull(line + strlen(name), NULL, 16) & ~libc_own, 0);
}

static void test_signals_are_default_and_unblocked(void **state) {
  (void)state;
  char text[TEXT_SIZE];
  char *argv[] = {"cat", "/proc/self/status", NULL};
  platform_exit end = {0};
  sigset_t blocked, before, after;
  struct sigaction handled = {.sa_handler = ignore_signal};
  struct sigaction ignored = {.sa_handler = SIG_IGN};
  struct sigaction old_usr1, old_pipe, now;
  sigaction(SIGUSR1, &handled, &old_usr1);
  sigaction(SIGPIPE, &ignored, &old_pipe);
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGTERM);
  sigaddset(&blocked, SIGRTMIN + 3);
  pthread_sigmask(SIG_BLOCK, &blocked, &before);
  int result = run("cat", argv, NULL, NULL, text, &end);
  pthread_sigmask(SIG_SETMASK, &before, &after);
  sigaction(SIGUSR1, &old_usr1, &now);
  sigaction(SIGPIPE, &old_pipe, NULL);
  assert_int_equal(result, 0);
  assert_no_signals(text, "SigBlk:");
  assert_no_signals(text, "SigIgn:");
  assert_no_signals(text, "SigCgt:");
  /* and the host's are as they were */
  assert_true(now.sa_handler == ignore_signal);
  assert_int_equal(sigismember(&after, SIGTERM), 1);
  assert_int_equal(sigismember(&after, SIGRTMIN + 3), 1);
  assert_int_equal(sigismember(&after, SIGINT), 0);
}

static void test_child_leads_a_group_of_its_own(void **state) {
  (void)state;
  char text[TEXT_SIZE];
  int pid = 0;
  int group = 0;
  run_shell("echo $$ $(cut -d ' ' -f 5 /proc/self/stat)", text);
  assert_int_equal(sscanf(text, "%d %d", &pid, &group), 2);
  assert_int_equal(pid, group);
  assert_int_not_equal(group, getpgrp());
}

static void test_directory_and_environment(void **state) {
  (void)state;
  char text[TEXT_SIZE];
  char expected[TEXT_SIZE];
  char *argv[] = {"sh", "-c", "pwd -P; echo \"$FRUIT\"", NULL};
  char *envp[] = {"FRUIT=a pear", "PATH=/usr/bin:/bin", NULL};
  char real[4096];
  platform_exit end = {0};
  assert_non_null(realpath(folder, real));
  assert_int_equal(run("sh", argv, envp, folder, text, &end), 0);
  snprintf(expected, sizeof expected, "%s\na pear\n", real);
  assert_string_equal(text, expected);
}

static void test_name_is_looked_up_on_the_childs_path(void **state) {
  (void)state;
  char text[TEXT_SIZE];
  char path[256];
  char search[512];
  char *argv[] = {"here", NULL};
  char *envp[] = {search, NULL};
  platform_exit end = {0};
  make_file(path, "here", "#!/bin/sh\necho found\n", 0755);
  snprintf(search, sizeof search, "PATH=/nonexistent:%s", folder);
  assert_int_equal(run("here", argv, envp, NULL, text, &end), 0);
  assert_string_equal(text, "found\n");
  assert_int_equal(unlink(path), 0);
}

static void test_relative_program_is_the_hosts(void **state) {
  (void)state;
  char text[TEXT_SIZE];
  char path[256];
  char before[4096];
  char *argv[] = {"here", NULL};
  platform_exit end = {0};
  make_file(path, "here", "#!/bin/sh\npwd\n", 0755);
  assert_non_null(getcwd(before, sizeof before));
  assert_int_equal(chdir(folder), 0);
  int result = run("./here", argv, NULL, "/usr", text, &end);
  assert_int_equal(chdir(before), 0);
  assert_int_equal(result, 0);
  assert_string_equal(text, "/usr\n");
  assert_int_equal(unlink(path), 0);
}

/* ---- hosts in odd states ---- */

#define CHECK(condition) \
  do { \
    if (!(condition)) return __LINE__ % 255 + 1; \
  } while (0)

static int check_closed_standard_streams(void) {
  int out[2];
  pid_t pid = -1;
  int watch_fd = -1;
  char text[TEXT_SIZE];
  char *argv[] = {"sh", "-c", "cat; echo out; echo err >&2", NULL};
  for (int fd = 0; fd < 3; fd++) close(fd);
  CHECK(platform_pipe(out) == 0);
  CHECK(out[0] > 2 && out[1] > 2);
  int fds[3] = {-1, out[1], out[1]};
  spawn_request request = {.program = "sh", .argv = argv, .fds = fds, .fd_count = 3};
  CHECK(spawn_process(&request, &pid, &watch_fd, NULL) == 0);
  CHECK(watch_fd > 2);
  close(out[1]);
  read_to_end(out[0], text);
  CHECK(finish(pid, watch_fd).exit_status == 0);
  CHECK(strcmp(text, "out\nerr\n") == 0);
  for (int fd = 0; fd < 3; fd++) CHECK(fcntl(fd, F_GETFD) < 0);
  return 0;
}

/* The host's own descriptors 0 to 4 are what the child gets, crosswise. */
static int check_overlapping_descriptors(void) {
  int a[2];
  int b[2];
  int out[2];
  pid_t pid = -1;
  int watch_fd = -1;
  char text[TEXT_SIZE];
  char *argv[] = {"sh", "-c", "cat <&0; cat <&3; cat <&4; echo end", NULL};
  CHECK(platform_pipe(a) == 0 && platform_pipe(b) == 0 && platform_pipe(out) == 0);
  CHECK(write(a[1], "A", 1) == 1 && write(b[1], "B", 1) == 1);
  for (int i = 0; i < 2; i++) { /* to where the numbers below do not reach */
    a[i] = fcntl(a[i], F_DUPFD_CLOEXEC, 50);
    b[i] = fcntl(b[i], F_DUPFD_CLOEXEC, 50);
    out[i] = fcntl(out[i], F_DUPFD_CLOEXEC, 50);
  }
  platform_close_from(100);
  for (int fd = 3; fd < 50; fd++) close(fd);
  close(a[1]);
  close(b[1]);
  CHECK(dup2(a[0], 3) == 3 && dup2(b[0], 4) == 4 && dup2(out[1], 0) == 0);
  close(a[0]);
  close(b[0]);
  close(out[1]);
  int fds[5] = {-1, 0, 0, 4, 3};
  spawn_request request = {.program = "sh", .argv = argv, .fds = fds, .fd_count = 5};
  CHECK(spawn_process(&request, &pid, &watch_fd, NULL) == 0);
  close(0);
  read_to_end(out[0], text);
  CHECK(finish(pid, watch_fd).exit_status == 0);
  CHECK(strcmp(text, "BAend\n") == 0);
  return 0;
}

static int check_ignored_children(void) {
  char *argv[] = {"true", NULL};
  signal(SIGCHLD, SIG_IGN);
  for (int i = 0; i < 10; i++) {
    pid_t pid = -1;
    int watch_fd = -1;
    spawn_request request = {.program = "true", .argv = argv};
    CHECK(spawn_process(&request, &pid, &watch_fd, NULL) == 0);
    platform_exit end = finish(pid, watch_fd);
    CHECK(!end.known);
    CHECK(end.signal == 0 && end.exit_status == 0);
  }
  /* an error of the child is seen all the same */
  pid_t pid = -1;
  int watch_fd = -1;
  spawn_request request = {.program = "true", .argv = argv, .cwd = "/nonexistent"};
  CHECK(spawn_process(&request, &pid, &watch_fd, NULL) == PYPROC_E_NOT_FOUND);
  return 0;
}

static void test_host_with_closed_standard_streams(void **state) {
  (void)state;
  in_forked_host(check_closed_standard_streams);
}

static void test_overlapping_descriptors(void **state) {
  (void)state;
  in_forked_host(check_overlapping_descriptors);
}

static void test_host_that_ignores_its_children(void **state) {
  (void)state;
  in_forked_host(check_ignored_children);
}

static void *spawn_some(void *argument) {
  char *argv[] = {"sh", "-c", "exit 3", NULL};
  (void)argument;
  for (int i = 0; i < 10; i++) {
    pid_t pid = -1;
    int watch_fd = -1;
    spawn_request request = {.program = "sh", .argv = argv};
    if (spawn_process(&request, &pid, &watch_fd, NULL) < 0) return "not spawned";
    if (finish(pid, watch_fd).exit_status != 3) return "wrong status";
  }
  return NULL;
}

static void test_many_threads_spawn(void **state) {
  (void)state;
  pthread_t threads[4];
  for (int i = 0; i < 4; i++) assert_int_equal(pthread_create(&threads[i], NULL, spawn_some, NULL), 0);
  for (int i = 0; i < 4; i++) {
    void *wrong = NULL;
    assert_int_equal(pthread_join(threads[i], &wrong), 0);
    assert_null(wrong);
  }
}

/* ---- what fails ---- */

static void assert_says(const char *text, const char *part) {
  if (strstr(text, part) == NULL) print_error("'%s' does not say '%s'\n", text, part);
  assert_non_null(strstr(text, part));
}

static void test_no_such_program(void **state) {
  (void)state;
  char text[TEXT_SIZE];
  assert_int_equal(refuse("/nonexistent/python", NULL, text), PYPROC_E_NOT_FOUND);
  assert_says(text, "'/nonexistent/python'");
  assert_int_equal(refuse("no-such-program-anywhere", NULL, text), PYPROC_E_NOT_FOUND);
  assert_says(text, "'no-such-program-anywhere' on PATH");
  assert_int_equal(refuse("", NULL, text), PYPROC_E_INVALID_ARGUMENT);
  assert_int_equal(refuse(NULL, NULL, text), PYPROC_E_INVALID_ARGUMENT);
}

static void test_no_such_directory(void **state) {
  (void)state;
  char text[TEXT_SIZE];
  assert_int_equal(refuse("true", "/nonexistent/folder", text), PYPROC_E_NOT_FOUND);
  assert_says(text, "directory '/nonexistent/folder'");
  assert_int_equal(refuse("true", "/etc/passwd", text), PYPROC_E_NOT_FOUND);
}

static void test_not_executable(void **state) {
  (void)state;
  char text[TEXT_SIZE];
  char path[256];
  make_file(path, "data", "#!/bin/sh\n", 0644);
  assert_int_equal(refuse(path, NULL, text), PYPROC_E_PERMISSION_DENIED);
  assert_says(text, path);
  assert_says(text, "chmod +x");
  assert_int_equal(unlink(path), 0);
  assert_int_equal(refuse(folder, NULL, text), PYPROC_E_PERMISSION_DENIED);
  assert_says(text, "is a directory");
}

static void test_missing_interpreter(void **state) {
  (void)state;
  char text[TEXT_SIZE];
  char path[256];
  make_file(path, "script", "#!/nonexistent/python\n", 0755);
  assert_int_equal(refuse(path, NULL, text), PYPROC_E_NOT_FOUND);
  assert_says(text, "interpreter");
  assert_int_equal(unlink(path), 0);
}

static void test_no_program_at_all(void **state) {
  (void)state;
  char text[TEXT_SIZE];
  char path[256];
  make_file(path, "text", "print('no first line')\n", 0755);
  assert_int_equal(refuse(path, NULL, text), PYPROC_E_FAILED_PRECONDITION);
  assert_says(text, "first line");
  assert_int_equal(unlink(path), 0);
}

static void test_too_many_descriptors(void **state) {
  (void)state;
  char *argv[] = {"true", NULL};
  int fds[SPAWN_FD_MAX + 1];
  pid_t pid = -1;
  int watch_fd = -1;
  for (int i = 0; i <= SPAWN_FD_MAX; i++) fds[i] = -1;
  spawn_request request = {.program = "true", .argv = argv, .fds = fds, .fd_count = SPAWN_FD_MAX + 1};
  assert_int_equal(spawn_process(&request, &pid, &watch_fd, NULL), PYPROC_E_INVALID_ARGUMENT);
  request.fd_count = SPAWN_FD_MAX;
  assert_int_equal(spawn_process(&request, &pid, &watch_fd, NULL), 0);
  assert_int_equal(finish(pid, watch_fd).exit_status, 0);
}

static void test_bad_descriptor(void **state) {
  (void)state;
  char *argv[] = {"true", NULL};
  int fds[1] = {987};
  pid_t pid = -1;
  int watch_fd = -1;
  pyproc_error *error = NULL;
  spawn_request request = {.program = "true", .argv = argv, .fds = fds, .fd_count = 1};
  assert_true(spawn_process(&request, &pid, &watch_fd, &error) < 0);
  assert_says(pyproc_error_message(error), "descriptors");
  pyproc_error_free(error);
}

/* ---- find_program ---- */

static void test_find_program(void **state) {
  (void)state;
  char path[4096] = "untouched";
  pyproc_error *error = NULL;
  assert_int_equal(spawn_find_program("sh", path, sizeof path, &error), 0);
  assert_int_equal(path[0], '/');
  assert_string_equal(path + strlen(path) - 3, "/sh");
  assert_int_equal(spawn_find_program("/bin/sh", path, sizeof path, &error), 0);
  assert_string_equal(path, "/bin/sh");
  assert_int_equal(spawn_find_program("/bin/sh", path, 7, &error), PYPROC_E_INVALID_ARGUMENT);
  pyproc_error_free(error);
  assert_int_equal(spawn_find_program("sh", path, 3, NULL), PYPROC_E_INVALID_ARGUMENT);
  assert_string_equal(path, "/bin/sh");
  assert_int_equal(spawn_find_program("no-such-program-anywhere", path, sizeof path, NULL), PYPROC_E_NOT_FOUND);
}

/* ---- environment ---- */

static const char *value_in(char *const *environment, const char *name, int *ret_count) {
  const char *value = NULL;
  size_t size = strlen(name);
  *ret_count = 0;
  for (; *environment != NULL; environment++) {
    if (strncmp(*environment, name, size) != 0 || (*environment)[size] != '=') continue;
    value = *environment + size + 1;
    ++*ret_count;
  }
  return value;
}

static void test_environment_later_ones_win(void **state) {
  (void)state;
  int count = 0;
  const char *const added[] = {"PYPROC_TEST_A=added", "PYPROC_TEST_B=first", "PYPROC_TEST_B=second",
                               "PYPROC_TEST_AB=x",    "PYPROC_TEST_C=added", NULL};
  const char *const own[] = {"PYPROC_TEST_C=own", "PYPROC_TEST_EMPTY=", NULL};
  setenv("PYPROC_TEST_A", "host", 1);
  setenv("PYPROC_TEST_HOST", "host", 1);
  char **environment = spawn_environment(false, added, own);
  assert_non_null(environment);
  assert_string_equal(value_in(environment, "PYPROC_TEST_A", &count), "added");
  assert_int_equal(count, 1);
  assert_string_equal(value_in(environment, "PYPROC_TEST_B", &count), "second");
  assert_int_equal(count, 1);
  assert_string_equal(value_in(environment, "PYPROC_TEST_AB", &count), "x");
  assert_string_equal(value_in(environment, "PYPROC_TEST_C", &count), "own");
  assert_int_equal(count, 1);
  assert_string_equal(value_in(environment, "PYPROC_TEST_EMPTY", &count), "");
  assert_string_equal(value_in(environment, "PYPROC_TEST_HOST", &count), "host");
  assert_string_equal(getenv("PYPROC_TEST_A"), "host");
  free(environment);
  environment = spawn_environment(false, NULL, NULL);
  assert_string_equal(value_in(environment, "PYPROC_TEST_A", &count), "host");
  free(environment);
  environment = spawn_environment(true, added, own); /* nothing of the host's */
  assert_string_equal(value_in(environment, "PYPROC_TEST_A", &count), "added");
  assert_string_equal(value_in(environment, "PYPROC_TEST_C", &count), "own");
  assert_null(value_in(environment, "PYPROC_TEST_HOST", &count));
  assert_null(value_in(environment, "PATH", &count));
  free(environment);
  environment = spawn_environment(true, NULL, NULL);
  assert_string_equal(value_in(environment, "GLIBC_TUNABLES", &count), "glibc.malloc.hugetlb=1");
  assert_null(environment[1]);
  free(environment);
  unsetenv("PYPROC_TEST_A");
  unsetenv("PYPROC_TEST_HOST");
}

static void test_environment_defaults_yield(void **state) {
  (void)state;
  static const char name[] = "GLIBC_TUNABLES";
  int count = 0;
  const char *const added[] = {"GLIBC_TUNABLES=", NULL};
  const char *before = getenv(name);
  char *kept = before != NULL ? strdup(before) : NULL;
  setenv(name, "of=host", 1);
  char **environment = spawn_environment(false, NULL, NULL);
  assert_string_equal(value_in(environment, name, &count), "of=host");
  assert_int_equal(count, 1);
  free(environment);
  environment = spawn_environment(false, added, NULL);
  assert_string_equal(value_in(environment, name, &count), "");
  free(environment);
  unsetenv(name);
  environment = spawn_environment(false, NULL, NULL);
  assert_string_equal(value_in(environment, name, &count), "glibc.malloc.hugetlb=1");
  free(environment);
  if (kept != NULL) setenv(name, kept, 1);
  free(kept);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

static int make_folder(void **state) {
  (void)state;
  return mkdtemp(folder) == NULL ? -1 : 0;
}

static int remove_folder(void **state) {
  (void)state;
  return rmdir(folder);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(test_output_and_status),
      TEST(test_death_by_signal),
      TEST(test_null_input),
      TEST(test_no_other_descriptor_is_open),
      TEST(test_signals_are_default_and_unblocked),
      TEST(test_child_leads_a_group_of_its_own),
      TEST(test_directory_and_environment),
      TEST(test_name_is_looked_up_on_the_childs_path),
      TEST(test_relative_program_is_the_hosts),
      TEST(test_host_with_closed_standard_streams),
      TEST(test_overlapping_descriptors),
      TEST(test_host_that_ignores_its_children),
      TEST(test_many_threads_spawn),
      TEST(test_no_such_program),
      TEST(test_no_such_directory),
      TEST(test_not_executable),
      TEST(test_missing_interpreter),
      TEST(test_no_program_at_all),
      TEST(test_too_many_descriptors),
      TEST(test_bad_descriptor),
      TEST(test_find_program),
      TEST(test_environment_later_ones_win),
      TEST(test_environment_defaults_yield),
  };
  return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
