/*
 * Calls that fail: what each says, and that the next call works.
 */
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include "support.h"

static pyproc_pool *open_faults(const char *protocol) {
  pyproc_pool_options options = options_for("fault_worker.py");
  options.protocol = protocol;
  return open_pool(&options);
}

/* Each test runs over both protocols. */
static const char *const protocols[] = {"protobuf", "json"};
#define EACH_PROTOCOL(pool) \
  for (size_t round_ = 0; round_ < LENGTH(protocols); round_++) \
    for (pyproc_pool *pool = open_faults(protocols[round_]); pool != NULL; pyproc_pool_close(pool), pool = NULL)

static void test_unknown_method(void **state) {
  (void)state;
  EACH_PROTOCOL(pool) {
    assert_error(call_failure(pool, "nobody", "{}", 0), PYPROC_E_UNIMPLEMENTED, "the worker has no method nobody",
                 NOT_RUN);
    assert_error(call_failure(pool, "", "{}", 0), PYPROC_E_UNIMPLEMENTED, "no method", NOT_RUN);
    assert_answer(pool, "ping", "1", "1");
  }
}

static void test_handler_raises(void **state) {
  (void)state;
  EACH_PROTOCOL(pool) {
    pyproc_error *error = call_failure(pool, "fail", "{\"type\":\"ValueError\",\"text\":\"no \\u00e4pfel\"}", 0);
    assert_string_equal(pyproc_error_type(error), "ValueError");
    assert_contains(pyproc_error_traceback(error), "fault_worker.py\", line");
    assert_contains(pyproc_error_traceback(error), "ValueError: no \u00e4pfel");
    assert_int_equal(pyproc_error_worker_pid(error), worker_pid(pool));
    assert_error(error, PYPROC_E_UNKNOWN, "no \u00e4pfel", RAN);
    error = call_failure(pool, "fail", "{\"type\":\"Odd\",\"text\":\"own\"}", 0);
    assert_string_equal(pyproc_error_type(error), "Odd");
    assert_error(error, PYPROC_E_UNKNOWN, "own", RAN);
    assert_answer(pool, "ping", "2", "2");
  }
}

static void test_handler_chooses_code(void **state) {
  (void)state;
  EACH_PROTOCOL(pool) {
    pyproc_error *error = call_failure(pool, "fail", "{\"type\":\"Error\",\"text\":\"no such model\"}", 0);
    assert_string_equal(pyproc_error_type(error), "pyproc_worker.Error");
    assert_error(error, PYPROC_E_NOT_FOUND, "no such model", RAN);
    assert_answer(pool, "ping", "3", "3");
  }
}

static void test_handler_leaves(void **state) {
  (void)state;
  EACH_PROTOCOL(pool) {
    pyproc_error *error = call_failure(pool, "fail", "{\"type\":\"SystemExit\",\"text\":\"\"}", 0);
    int code = pyproc_error_code(error);
    assert_true(code == PYPROC_E_UNKNOWN || code == PYPROC_E_UNAVAILABLE);
    assert_error(error, code, "", RAN);
    assert_answer(pool, "ping", "4", "4");
  }
}

static void test_handler_returns_wrong_type(void **state) {
  (void)state;
  EACH_PROTOCOL(pool) {
    assert_error(call_failure(pool, "wrong", "{}", 0), PYPROC_E_INTERNAL, "set", RAN);
    assert_error(call_failure(pool, "nan", "\"nan\"", 0), PYPROC_E_INTERNAL, "nan", RAN);
    assert_error(call_failure(pool, "nan", "\"inf\"", 0), PYPROC_E_INTERNAL, "nan", RAN);
    assert_answer(pool, "ping", "5", "5");
  }
}

static void test_bad_json_body(void **state) {
  (void)state;
  EACH_PROTOCOL(pool) {
    const char *const bodies[] = {"",   "{",   "NaN",         "[Infinity]", "-Infinity", "'x'",
                                  "01", "1 2", "\"\\ud800\"", "\"\xff\"",   "nul"};
    for (size_t i = 0; i < LENGTH(bodies); i++)
      assert_error(call_failure(pool, "ping", bodies[i], 0), PYPROC_E_INVALID_ARGUMENT, "the body of ping", NOT_RUN);
    assert_error(call_failure(pool, "pi\xffng", "{}", 0), PYPROC_E_INVALID_ARGUMENT, "UTF-8", NOT_RUN);
    assert_answer(pool, "ping", "6", "6");
  }
}

static void test_nesting(void **state) {
  (void)state;
  char body[300];
  EACH_PROTOCOL(pool) {
    memset(body, '[', 99);
    memset(body + 99, ']', 99);
    body[198] = '\0';
    assert_error(call_failure(pool, "ping", body, 0), PYPROC_E_INVALID_ARGUMENT, "nested", NOT_RUN);
    memset(body, '[', 98);
    memset(body + 98, ']', 98);
    body[196] = '\0';
    assert_answer(pool, "ping", body, body);
  }
}

static void test_exit(void **state) {
  (void)state;
  EACH_PROTOCOL(pool) {
    long pid = worker_pid(pool);
    pyproc_error *error = call_failure(pool, "die", "{\"status\": 42}", 0);
    assert_contains(pyproc_error_log(error), "last words on stdout");
    assert_contains(pyproc_error_log(error), "last words on stderr");
    assert_int_equal(pyproc_error_worker_pid(error), pid);
    const pyproc_crash *crash = pyproc_error_crash(error);
    assert_int_equal(crash->pid, pid);
    assert_int_equal(crash->exit_status, 42);
    assert_int_equal(crash->signal, 0);
    assert_string_equal(crash->method, "die");
    assert_contains(crash->log, "last words");
    assert_error(error, PYPROC_E_UNAVAILABLE, "exited with status 42", RAN);
    assert_answer(pool, "ping", "7", "7");
    assert_int_not_equal(worker_pid(pool), pid);
  }
}

static void test_signals(void **state) {
  (void)state;
  EACH_PROTOCOL(pool) {
    pyproc_error *error = call_failure(pool, "crash", "{\"signal\": \"SIGKILL\"}", 0);
    assert_int_equal(pyproc_error_crash(error)->signal, SIGKILL);
    assert_error(error, PYPROC_E_UNAVAILABLE, "was killed by signal 9", RAN);
    assert_error(call_failure(pool, "crash", "{\"signal\": \"SIGABRT\"}", 0), PYPROC_E_UNAVAILABLE, "signal 6", RAN);
    assert_answer(pool, "ping", "8", "8");
  }
}

typedef struct killed {
  pyproc_pool *pool;
  long pid;
} killed;

static void *kill_later(void *argument) {
  const killed *target = argument;
  pause_ms(100);
  kill((pid_t)target->pid, SIGKILL);
  return NULL;
}

static void test_kill_in_mid_call(void **state) {
  (void)state;
  EACH_PROTOCOL(pool) {
    killed target = {.pool = pool, .pid = worker_pid(pool)};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, kill_later, &target), 0);
    pyproc_error *error = call_failure(pool, "sleep", "{\"ms\": 60000}", 0);
    pthread_join(thread, NULL);
    assert_string_equal(pyproc_error_crash(error)->method, "sleep");
    assert_error(error, PYPROC_E_UNAVAILABLE, "killed by signal 9", RAN);
    assert_answer(pool, "ping", "9", "9");
  }
}

/* A worker that dies while nobody calls is replaced, and costs no call. */
static void test_kill_when_idle(void **state) {
  (void)state;
  EACH_PROTOCOL(pool) {
    for (int i = 0; i < scaled(5); i++) {
      long pid = worker_pid(pool);
      kill((pid_t)pid, SIGKILL);
      WAIT_FOR(!process_lives(pid));
      assert_answer(pool, "ping", "10", "10");
    }
    pyproc_health health = PYPROC_HEALTH_INIT;
    assert_int_equal(pyproc_pool_health(pool, &health), 0);
    assert_int_equal(health.restarts, scaled(5));
  }
}

/* Calls that wait in the worker behind the one that kills it have not run, and run in the next. */
typedef struct bystanders {
  pyproc_pool *pool;
  atomic_int good, bad;
} bystanders;

static void stand_by(int number, void *argument) {
  bystanders *all = argument;
  char *reply = NULL;
  pyproc_error *error = NULL;
  if (number > 0) pause_ms(50);
  int result = number == 0 ? pyproc_call_json(all->pool, "sleep", "{\"ms\": 60000}", NULL, &reply, &error)
                           : pyproc_call_json(all->pool, "ping", "11", NULL, &reply, &error);
  bool right = number == 0 ? result == PYPROC_E_UNAVAILABLE && pyproc_error_may_have_run(error) == 1
                           : result == 0 && strcmp(reply, "11") == 0;
  if (!right) fprintf(stderr, "call %d: %d %s\n", number, result, pyproc_error_message(error));
  atomic_fetch_add(right ? &all->good : &all->bad, 1);
  pyproc_reply_free(reply);
  pyproc_error_free(error);
}

static void *kill_much_later(void *argument) {
  const killed *target = argument;
  pause_ms(400);
  kill((pid_t)target->pid, SIGKILL);
  return NULL;
}

static void test_bystanders(void **state) {
  (void)state;
  EACH_PROTOCOL(pool) {
    bystanders all = {.pool = pool};
    killed target = {.pool = pool, .pid = worker_pid(pool)};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, kill_much_later, &target), 0);
    run_threads(8, stand_by, &all);
    pthread_join(thread, NULL);
    assert_int_equal(atomic_load(&all.bad), 0);
    assert_int_equal(atomic_load(&all.good), 8);
  }
}

/* What a handler has started does not outlive its worker. */
static void test_children_of_workers(void **state) {
  (void)state;
  EACH_PROTOCOL(pool) {
    long child = call_number(pool, "child", "null");
    assert_true(process_lives(child));
    kill((pid_t)worker_pid(pool), SIGKILL);
    WAIT_FOR(!process_lives(child));
    long other = call_number(pool, "child", "null");
    pyproc_pool_close(pool);
    WAIT_FOR(!process_lives(other));
    pool = open_faults(NULL);
  }
}

enum { CHILDREN = 50 };

static void leave_children(pyproc_pool *pool, long pids[CHILDREN]) {
  char body[16];
  snprintf(body, sizeof body, "%d", CHILDREN);
  char *reply = call_json(pool, "children", body), *rest = reply;
  for (int i = 0; i < CHILDREN; i++) {
    pids[i] = strtol(rest + 1, &rest, 10); /* behind '[' or ',' */
    assert_true(process_lives(pids[i]));
  }
  pyproc_reply_free(reply);
}

/* They take no notice of SIGTERM, and go with their worker's group: when it is killed, and when it is asked to leave. */
static void test_many_children_of_workers(void **state) {
  (void)state;
  pyproc_pool *pool = open_faults(NULL);
  long pids[CHILDREN];
  leave_children(pool, pids);
  kill((pid_t)worker_pid(pool), SIGKILL);
  for (int i = 0; i < CHILDREN; i++) WAIT_FOR(!process_lives(pids[i]));
  leave_children(pool, pids);
  assert_int_equal(pyproc_pool_reload(pool, NULL, NULL), PYPROC_OK);
  for (int i = 0; i < CHILDREN; i++) WAIT_FOR(!process_lives(pids[i]));
  leave_children(pool, pids);
  pyproc_pool_close(pool);
  for (int i = 0; i < CHILDREN; i++) WAIT_FOR(!process_lives(pids[i]));
}

static void test_no_inherited_descriptors(void **state) {
  (void)state;
  const char *path = temporary_path("leaked");
  int leaked = open(path, O_CREAT | O_RDONLY, 0600); /* not close-on-exec */
  assert_true(leaked >= 0);
  EACH_PROTOCOL(pool) {
    char *links = call_json(pool, "descriptors", "null");
    assert_contains(links, "socket:");
    assert_null(strstr(links, path));
    pyproc_reply_free(links);
  }
  close(leaked);
}

static void test_stop_self(void **state) {
  (void)state;
  EACH_PROTOCOL(pool) {
    long pid = worker_pid(pool);
    assert_error(call_failure(pool, "stop_self", "null", 200), PYPROC_E_DEADLINE_EXCEEDED, "within 200 ms", RAN);
    kill((pid_t)pid, SIGCONT);
    assert_answer(pool, "ping", "12", "12");
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      E2E_TEST(test_unknown_method),
      E2E_TEST(test_handler_raises),
      E2E_TEST(test_handler_chooses_code),
      E2E_TEST(test_handler_leaves),
      E2E_TEST(test_handler_returns_wrong_type),
      E2E_TEST(test_bad_json_body),
      E2E_TEST(test_nesting),
      E2E_TEST(test_exit),
      E2E_TEST(test_signals),
      E2E_TEST(test_kill_in_mid_call),
      E2E_TEST(test_kill_when_idle),
      E2E_TEST(test_bystanders),
      E2E_TEST(test_children_of_workers),
      E2E_TEST(test_many_children_of_workers),
      E2E_TEST(test_no_inherited_descriptors),
      E2E_TEST(test_stop_self),
  };
  return RUN_TESTS(tests);
}
