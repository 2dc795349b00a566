/*
 * The host process: forks, signals, descriptors, threads, and its own end.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support.h"

#if defined(__SANITIZE_THREAD__)
#define IS_TSAN
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define IS_TSAN
#endif
#endif

/* Waits for a child of the test's own; its exit status, or 128 and the signal. */
static int wait_for_child(pid_t child) {
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {}
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* Runs a function in a child process without cmocka; the child's exit status. */
static int in_child(int (*function)(void *argument), void *argument) {
  fflush(stdout);
  fflush(stderr);
  pid_t child = fork();
  assert_true(child >= 0);
  if (child == 0) _exit(function(argument));
  return wait_for_child(child);
}

/* Runs one of `processes` below in a process of its own: this program, anew. */
static int in_process(const char *name) {
  char variable[64], path[PATH_MAX] = "", *argv[] = {path, NULL};
  assert_true(readlink("/proc/self/exe", path, sizeof path - 1) > 0); /* the library looks beside argv[0] */
  snprintf(variable, sizeof variable, "E2E_PROCESS=%s", name);
  fflush(stdout);
  pid_t child = fork();
  assert_true(child >= 0);
  if (child == 0) {
    putenv(variable);
    execv(path, argv);
    _exit(127);
  }
  return wait_for_child(child);
}

/* ---- the host is killed ---- */

typedef struct doomed {
  int report[2]; /* the pids of two workers, then that of a child that lives on, or 0 */
  bool leaves_child;
} doomed;

static long ask_pid(pyproc_pool *pool) {
  char *reply = NULL;
  if (pyproc_call_json(pool, "pid", "null", NULL, &reply, NULL) < 0) return -1;
  long pid = strtol(reply, NULL, 10);
  pyproc_reply_free(reply);
  return pid;
}

static int be_killed(void *argument) {
  const doomed *self = argument;
  pyproc_pool *pool = NULL;
  pyproc_pool_options options = options_for("fault_worker.py");
  options.workers = 2;
  if (pyproc_pool_open(&options, &pool, NULL) < 0) return 1;
  long pids[3] = {ask_pid(pool), 0, 0};
  for (int i = 0; i < 1000 && (pids[1] = ask_pid(pool)) == pids[0]; i++) {}
  if (self->leaves_child) {
    pids[2] = fork();
    if (pids[2] == 0) {
      close(self->report[0]);
      close(self->report[1]);
      pause_ms(600000); /* holds all that the host had open */
      _exit(0);
    }
  }
  if (write(self->report[1], pids, sizeof pids) != (ssize_t)sizeof pids) return 2;
  char *reply = NULL;
  pyproc_call_json(pool, "sleep", "{\"ms\": 600000}", NULL, &reply, NULL);
  return 3;
}

static void kill_host(bool leaves_child) {
  doomed self = {.leaves_child = leaves_child};
  long pids[3];
  assert_int_equal(pipe(self.report), 0);
  fflush(stdout);
  /* what the host leaves behind becomes this process's child, so that it can be cleaned away */
  assert_int_equal(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
  pid_t host = fork();
  assert_true(host >= 0);
  if (host == 0) _exit(be_killed(&self));
  assert_int_equal(read(self.report[0], pids, sizeof pids), sizeof pids);
  assert_true(pids[0] > 0 && pids[1] > 0 && pids[0] != pids[1]);
  assert_true(process_lives(pids[0]) && process_lives(pids[1]));
  pause_ms(50); /* into the call */
  kill(host, SIGKILL);
  assert_int_equal(wait_for_child(host), 128 + SIGKILL);
  WAIT_FOR(!process_lives(pids[0]) && !process_lives(pids[1]));
  if (leaves_child) {
    assert_true(process_lives(pids[2]));
    kill((pid_t)pids[2], SIGKILL);
  }
  while (waitpid(-1, NULL, 0) > 0) {}
  prctl(PR_SET_CHILD_SUBREAPER, 0);
  close(self.report[0]);
  close(self.report[1]);
}

static void test_host_is_killed(void **state) {
  (void)state;
  kill_host(false);
}

static void test_host_is_killed_and_its_child_lives(void **state) {
  (void)state;
  kill_host(true);
}

/* ---- fork ---- */

#define CHECK(condition) \
  do { \
    if (!(condition)) { \
      fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
      return 1; \
    } \
  } while (0)

static int use_parents_pool(void *argument) {
  pyproc_pool *pool = argument;
  char *reply = NULL;
  pyproc_error *error = NULL;
  pyproc_health health = PYPROC_HEALTH_INIT;
  Quickstart__PredictRequest request = QUICKSTART__PREDICT_REQUEST__INIT;
  Quickstart__PredictReply *typed = NULL;
  CHECK(pyproc_call_json(pool, "ping", "1", NULL, &reply, &error) == PYPROC_E_FAILED_PRECONDITION);
  CHECK(pyproc_error_code(error) == PYPROC_E_FAILED_PRECONDITION);
  CHECK(strstr(pyproc_error_message(error), "fork") != NULL);
  CHECK(pyproc_error_may_have_run(error) == 0);
  pyproc_error_free(error);
  CHECK(quickstart_predictor_predict(pool, &request, &typed, NULL) == PYPROC_E_FAILED_PRECONDITION);
  CHECK(pyproc_pool_health(pool, &health) == PYPROC_E_FAILED_PRECONDITION);
  CHECK(reply == NULL && typed == NULL);
  pyproc_pool_close(pool);
  return 0;
}

static void test_forked_child_calls(void **state) {
  (void)state;
  pyproc_pool_options options = options_for("fault_worker.py");
  pyproc_pool *pool = open_pool(&options);
  long pid = worker_pid(pool);
  assert_int_equal(in_child(use_parents_pool, pool), 0);
  assert_answer(pool, "ping", "1", "1");
  assert_int_equal(worker_pid(pool), pid);
  pyproc_pool_close(pool);
}

static int open_own_pool(void *argument) {
  pyproc_pool *old = argument, *pool = NULL;
  char *reply = NULL;
  pyproc_pool_options options = options_for("fault_worker.py");
  pyproc_pool_close(old);
  CHECK(pyproc_pool_open(&options, &pool, NULL) == 0);
  CHECK(pyproc_call_json(pool, "ping", "2", NULL, &reply, NULL) == 0);
  CHECK(strcmp(reply, "2") == 0);
  pyproc_reply_free(reply);
  pyproc_pool_close(pool);
  return 0;
}

static void test_forked_child_opens_its_own(void **state) {
  (void)state;
#ifdef IS_TSAN
  skip(); /* ThreadSanitizer does not support threads in a child of a process with threads */
#endif
  pyproc_pool_options options = options_for("fault_worker.py");
  pyproc_pool *pool = open_pool(&options);
  assert_int_equal(in_child(open_own_pool, pool), 0);
  assert_answer(pool, "ping", "2", "2");
  pyproc_pool_close(pool);
}

/* Forked while other threads are in calls: locks may be held by threads that the child does not have. */
typedef struct busy {
  pyproc_pool *pool;
  atomic_bool stop;
} busy;

static void *call_on(void *argument) {
  busy *self = argument;
  while (!atomic_load(&self->stop)) {
    char *reply = NULL;
    pyproc_call_json(self->pool, "ping", "3", NULL, &reply, NULL);
    pyproc_reply_free(reply);
  }
  return NULL;
}

static void test_fork_during_calls(void **state) {
  (void)state;
  if (is_under_valgrind()) skip(); /* in the child it takes what other threads of the parent held for lost */
  pyproc_pool_options options = options_for("fault_worker.py");
  busy self = {.pool = open_pool(&options)};
  pthread_t threads[4];
  for (size_t i = 0; i < LENGTH(threads); i++) assert_int_equal(pthread_create(&threads[i], NULL, call_on, &self), 0);
  for (int i = 0; i < scaled(20); i++) assert_int_equal(in_child(use_parents_pool, self.pool), 0);
  atomic_store(&self.stop, true);
  for (size_t i = 0; i < LENGTH(threads); i++) pthread_join(threads[i], NULL);
  assert_answer(self.pool, "ping", "4", "4");
  pyproc_pool_close(self.pool);
}

/* ---- signals ---- */

/* What the library may not change. */
static void test_signals_are_untouched(void **state) {
  (void)state;
  sigset_t before, after;
  struct sigaction actions_before[32], action;
  pthread_sigmask(SIG_SETMASK, NULL, &before);
  for (int i = 1; i < 32; i++) sigaction(i, NULL, &actions_before[i]);
  pyproc_pool_options options = options_for("fault_worker.py");
  pyproc_pool *pool = open_pool(&options);
  pyproc_error_free(call_failure(pool, "die", "{\"status\": 1}", 0));
  assert_answer(pool, "ping", "1", "1");
  pyproc_pool_close(pool);
  pthread_sigmask(SIG_SETMASK, NULL, &after);
  for (int i = 1; i < 32; i++) {
    sigaction(i, NULL, &action);
    assert_int_equal(sigismember(&before, i), sigismember(&after, i));
    assert_ptr_equal(actions_before[i].sa_handler, action.sa_handler);
  }
}

static atomic_int pipe_signals;

static void on_pipe(int number) {
  (void)number;
  atomic_fetch_add(&pipe_signals, 1);
}

static void test_no_sigpipe(void **state) {
  (void)state;
  struct sigaction action = {.sa_handler = on_pipe}, before;
  sigaction(SIGPIPE, &action, &before);
  pyproc_pool_options options = options_for("fault_worker.py");
  pyproc_pool *pool = open_pool(&options);
  char *body = malloc(4 * MIB);
  assert_non_null(body);
  memset(body, 'x', 4 * MIB);
  body[0] = body[4 * MIB - 2] = '"';
  body[4 * MIB - 1] = '\0';
  for (int i = 0; i < scaled(10); i++) {
    kill((pid_t)worker_pid(pool), SIGKILL);
    char *reply = NULL;
    pyproc_call_json(pool, "ping", body, NULL, &reply, NULL); /* may meet the old worker or the new one */
    pyproc_reply_free(reply);
  }
  free(body);
  pyproc_pool_close(pool);
  sigaction(SIGPIPE, &before, NULL);
  assert_int_equal(atomic_load(&pipe_signals), 0);
}

/* The worker has Python's usual dispositions, whatever the host's are. */
static int ignore_child_signals(void) {
  pyproc_pool *pool = NULL;
  char *reply = NULL;
  pyproc_error *error = NULL;
  pyproc_pool_options options = options_for("fault_worker.py");
  signal(SIGCHLD, SIG_IGN);
  CHECK(pyproc_pool_open(&options, &pool, NULL) == 0);
  CHECK(pyproc_call_json(pool, "ping", "1", NULL, &reply, NULL) == 0);
  pyproc_reply_free(reply);
  CHECK(pyproc_call_json(pool, "die", "{\"status\": 7}", NULL, &reply, &error) == PYPROC_E_UNAVAILABLE);
  CHECK(strstr(pyproc_error_message(error), "has ended") != NULL ||
        strstr(pyproc_error_message(error), "status 7") != NULL);
  CHECK((strstr(pyproc_error_message(error), "its exit status is unknown") == NULL) ==
        (pyproc_error_crash(error)->status_known == 1));
  CHECK(pyproc_error_may_have_run(error) == 1);
  pyproc_error_free(error);
  CHECK(pyproc_call_json(pool, "ping", "2", NULL, &reply, NULL) == 0);
  pyproc_reply_free(reply);
  pyproc_pool_close(pool);
  return 0;
}

static void test_host_ignores_sigchld(void **state) {
  (void)state;
  assert_int_equal(in_process("ignore_child_signals"), 0);
}

/* A host that waits for any child takes the worker's exit status away, and nothing else. */
static int wait_for_any(void) {
  pyproc_pool *pool = NULL;
  char *reply = NULL;
  pyproc_pool_options options = options_for("fault_worker.py");
  CHECK(pyproc_pool_open(&options, &pool, NULL) == 0);
  long pid = ask_pid(pool);
  CHECK(pid > 0);
  kill((pid_t)pid, SIGKILL);
  while (kill((pid_t)pid, 0) == 0) waitpid(-1, NULL, WNOHANG); /* a race with the library, which either may win */
  CHECK(pyproc_call_json(pool, "ping", "2", NULL, &reply, NULL) == 0);
  pyproc_reply_free(reply);
  pyproc_pool_close(pool);
  return 0;
}

static void test_host_waits_for_any(void **state) {
  (void)state;
  for (int i = 0; i < scaled(5); i++) assert_int_equal(in_process("wait_for_any"), 0);
}

static void take_all_children(int number) {
  int before = errno;
  (void)number;
  while (waitpid(-1, NULL, WNOHANG) > 0) {}
  errno = before;
}

/* A handler that waits for any child: where it comes first, the status is not known, and is not invented. */
static int handle_child_signals(void) {
  pyproc_pool *pool = NULL;
  char *reply = NULL;
  pyproc_pool_options options = options_for("fault_worker.py");
  options.poison_limit = PYPROC_OFF; /* the same request kills on and on */
  const struct sigaction action = {.sa_handler = take_all_children, .sa_flags = SA_RESTART};
  CHECK(sigaction(SIGCHLD, &action, NULL) == 0);
  CHECK(pyproc_pool_open(&options, &pool, NULL) == 0);
  for (int i = 0; i < scaled(10); i++) {
    pyproc_error *error = NULL;
    CHECK(pyproc_call_json(pool, "die", "{\"status\": 7}", NULL, &reply, &error) == PYPROC_E_UNAVAILABLE);
    const pyproc_crash *crash = pyproc_error_crash(error);
    bool is_known = strstr(pyproc_error_message(error), "exited with status 7") != NULL;
    CHECK(is_known || strstr(pyproc_error_message(error), "since the host took it") != NULL);
    CHECK(crash != NULL && crash->signal == 0 && (crash->exit_status == 7) == is_known);
    pyproc_error_free(error);
    CHECK(pyproc_call_json(pool, "ping", "1", NULL, &reply, NULL) == 0);
    pyproc_reply_free(reply);
  }
  pyproc_pool_close(pool);
  return 0;
}

static void test_host_handles_sigchld(void **state) {
  (void)state;
  assert_int_equal(in_process("handle_child_signals"), 0);
}

/* A terminal's Ctrl-C goes to the host alone. */
static void test_own_process_group(void **state) {
  (void)state;
  pyproc_pool_options options = options_for("fault_worker.py");
  pyproc_pool *pool = open_pool(&options);
  pid_t pid = (pid_t)worker_pid(pool);
  assert_int_equal(getpgid(pid), pid);
  assert_int_not_equal(getpgid(pid), getpgrp());
  pyproc_pool_close(pool);
}

/* ---- descriptors and threads ---- */

static int without_standard_streams(void) {
  pyproc_pool *pool = NULL;
  char *reply = NULL;
  pyproc_pool_options options = options_for("fault_worker.py");
  int spare = fcntl(2, F_DUPFD_CLOEXEC, 100);
  for (int i = 0; i < 3; i++) close(i);
  int result = pyproc_pool_open(&options, &pool, NULL);
  if (result == 0) result = pyproc_call_json(pool, "ping", "1", NULL, &reply, NULL);
  pyproc_reply_free(reply);
  if (result == 0) result = pyproc_call_json(pool, "die", "{\"status\": 1}", NULL, &reply, NULL) + 14;
  if (result == 0) result = pyproc_call_json(pool, "shout", "{\"lines\": 100, \"size\": 100}", NULL, &reply, NULL);
  if (result == 0) pyproc_reply_free(reply);
  pyproc_pool_close(pool);
  dup2(spare, 2);
  CHECK(result == 0);
  CHECK(fcntl(0, F_GETFD) < 0 && fcntl(1, F_GETFD) < 0);
  return 0;
}

static void test_closed_standard_streams(void **state) {
  (void)state;
  assert_int_equal(in_process("without_standard_streams"), 0);
}

static const char *handshake; /* of what is opened next */

static void *open_in_thread(void *argument) {
  pyproc_pool_options options = options_for(handshake != NULL ? "bare_worker.py" : "fault_worker.py");
  options.handshake = handshake;
  pyproc_pool_open(&options, argument, NULL);
  return NULL;
}

/* A worker belongs to the process, not to the thread that opened its pool; also one that the kernel kills with who
 * started it. */
static void test_opened_by_short_lived_thread(void **state) {
  (void)state;
  for (int round = 0; round < 2; round++) {
    pyproc_pool *pool = NULL;
    pthread_t thread;
    handshake = round == 0 ? NULL : "none";
    assert_int_equal(pthread_create(&thread, NULL, open_in_thread, &pool), 0);
    pthread_join(thread, NULL);
    assert_non_null(pool);
    pause_ms(100);
    long pid = worker_pid(pool);
    pause_ms(100);
    assert_int_equal(worker_pid(pool), pid);
    pyproc_pool_close(pool);
  }
}

static int with_few_descriptors(void) {
  pyproc_pool *pool = NULL;
  pyproc_error *error = NULL;
  pyproc_pool_options options = options_for("fault_worker.py");
  const struct rlimit limit = {.rlim_cur = 64, .rlim_max = 64};
  int last = -1;
  CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
  for (int fd; (fd = dup(0)) >= 0;) last = fd;
  for (int spare = 0; spare < 40; spare++) {
    int result = pyproc_pool_open(&options, &pool, &error);
    if (result == 0) {
      pyproc_pool_close(pool);
      return spare > 0 ? 0 : 1;
    }
    CHECK(result == PYPROC_E_RESOURCE_EXHAUSTED);
    CHECK(strstr(pyproc_error_message(error), "ulimit -") != NULL);
    pyproc_error_free(error);
    close(last--);
  }
  return 2;
}

static void test_few_descriptors(void **state) {
  (void)state;
  assert_int_equal(in_process("with_few_descriptors"), 0);
}

/* Takes all descriptors that are left. Returns the last one; the others are those below it. */
static int take_descriptors(void) {
  int last = -1;
  for (int fd; (fd = dup(0)) >= 0;) last = fd;
  return last;
}

/* The pool is open already: calls go on, but a worker that dies cannot be replaced until there are some again. */
static int out_of_descriptors(void) {
  pyproc_pool *pool = NULL;
  pyproc_error *error = NULL;
  char *reply = NULL;
  pyproc_pool_options options = options_for("fault_worker.py");
  pyproc_call_options call = PYPROC_CALL_OPTIONS_INIT;
  const struct rlimit limit = {.rlim_cur = 64, .rlim_max = 64};
  options.restart_max = options.breaker_failures = PYPROC_OFF;
  call.timeout_ms = 500;
  CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
  CHECK(pyproc_pool_open(&options, &pool, NULL) == 0);
  int last = take_descriptors();
  CHECK(last > 0);
  long pid = ask_pid(pool);
  CHECK(pid > 0 && ask_pid(pool) == pid);
  CHECK(kill((pid_t)pid, SIGKILL) == 0);
  while (process_lives(pid)) pause_ms(2);
  int more = take_descriptors(); /* those of the worker, too */
  if (more > last) last = more;
  CHECK(pyproc_call_json(pool, "ping", "1", &call, &reply, &error) == PYPROC_E_DEADLINE_EXCEEDED);
  CHECK(strstr(pyproc_error_message(error), "ulimit -n") != NULL);
  CHECK(pyproc_error_may_have_run(error) == 0);
  pyproc_error_free(error);
  for (int i = 0; i < 20; i++) close(last--);
  CHECK(pyproc_call_json(pool, "ping", "2", NULL, &reply, NULL) == 0);
  pyproc_reply_free(reply);
  pyproc_pool_close(pool);
  return 0;
}

static void test_out_of_descriptors(void **state) {
  (void)state;
  assert_int_equal(in_process("out_of_descriptors"), 0);
}

static const struct {
  const char *name;
  int (*function)(void);
} processes[] = {{"ignore_child_signals", ignore_child_signals}, {"wait_for_any", wait_for_any},
                 {"handle_child_signals", handle_child_signals}, {"without_standard_streams", without_standard_streams},
                 {"with_few_descriptors", with_few_descriptors}, {"out_of_descriptors", out_of_descriptors}};

static int run_process(const char *name) {
  for (size_t i = 0; i < LENGTH(processes); i++)
    if (strcmp(processes[i].name, name) == 0) return processes[i].function();
  return 3;
}

int main(void) {
  const char *process = getenv("E2E_PROCESS");
  if (process != NULL) return run_process(process);
  const struct CMUnitTest tests[] = {
      E2E_TEST(test_host_is_killed),
      E2E_TEST(test_host_is_killed_and_its_child_lives),
      E2E_TEST(test_forked_child_calls),
      E2E_TEST(test_forked_child_opens_its_own),
      E2E_TEST(test_fork_during_calls),
      E2E_TEST(test_signals_are_untouched),
      E2E_TEST(test_no_sigpipe),
      E2E_TEST(test_host_ignores_sigchld),
      E2E_TEST(test_host_waits_for_any),
      E2E_TEST(test_host_handles_sigchld),
      E2E_TEST(test_own_process_group),
      E2E_TEST(test_closed_standard_streams),
      E2E_TEST(test_opened_by_short_lived_thread),
      E2E_TEST(test_few_descriptors),
      E2E_TEST(test_out_of_descriptors),
  };
  return RUN_TESTS(tests);
}
