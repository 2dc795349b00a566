/*
 * From open to close: what workers are given, their logs, hooks, restarts, and how a pool ends.
 */
#include <limits.h>
#include <signal.h>
#include <unistd.h>

#include "support.h"

static const char *const protocols[] = {"protobuf", "json"};

/* ---- what a worker is given ---- */

static void test_args_env_cwd(void **state) {
  (void)state;
  const char *const args[] = {"one", "", "two words", "--flag=\"q\"", NULL};
  const char *const env[] = {"E2E_GIVEN=a=b c", "E2E_EMPTY=", "PATH=/changed", NULL};
  pyproc_pool_options options = options_for("fault_worker.py");
  setenv("E2E_HOST", "host", 1);
  setenv("E2E_GIVEN", "the host's", 1);
  options.args = args;
  options.env = env;
  options.cwd = "/";
  pyproc_pool *pool = open_pool(&options);
  setenv("E2E_HOST", "changed later", 1);
  assert_answer(pool, "given", "\"E2E_GIVEN\"",
                "{\"args\":[\"one\",\"\",\"two words\",\"--flag=\\\"q\\\"\"],\"env\":\"a=b "
                "c\",\"cwd\":\"/\",\"name\":\"__main__\"}");
  char *reply = call_json(pool, "given", "\"E2E_EMPTY\"");
  assert_contains(reply, "\"env\":\"\"");
  pyproc_reply_free(reply);
  reply = call_json(pool, "given", "\"E2E_HOST\"");
  assert_contains(reply, "\"env\":\"host\"");
  pyproc_reply_free(reply);
  reply = call_json(pool, "given", "\"PATH\"");
  assert_contains(reply, "\"env\":\"/changed\"");
  pyproc_reply_free(reply);
  pyproc_pool_close(pool);
  assert_string_equal(getenv("E2E_GIVEN"), "the host's");
  unsetenv("E2E_HOST");
  unsetenv("E2E_GIVEN");
}

static void test_options_are_copied(void **state) {
  (void)state;
  char script[PATH_MAX], cwd[] = "/", arg[] = "first", variable[] = "E2E_GIVEN=1";
  const char *args[] = {arg, NULL}, *env[] = {variable, NULL};
  pyproc_pool_options options = options_for("fault_worker.py");
  snprintf(script, sizeof script, "%s", options.script);
  options.script = script;
  options.cwd = cwd;
  options.args = args;
  options.env = env;
  pyproc_pool *pool = open_pool(&options);
  memset(script, 'x', 10);
  memset(cwd, 'x', 1);
  memset(arg, 'x', 5);
  memset(variable, 'x', 9);
  args[0] = env[0] = NULL;
  kill((pid_t)worker_pid(pool), SIGKILL);
  assert_answer(pool, "given", "\"E2E_GIVEN\"",
                "{\"args\":[\"first\"],\"env\":\"1\",\"cwd\":\"/\",\"name\":\"__main__\"}");
  pyproc_pool_close(pool);
}

static void test_relative_paths(void **state) {
  (void)state;
  char before[PATH_MAX];
  assert_non_null(getcwd(before, sizeof before));
  pyproc_pool_options options = options_for("fault_worker.py");
  const char *folder = getenv("PYPROC_TEST_GEN");
  assert_int_equal(chdir(folder), 0);
  options.script = "fault_worker.py";
  pyproc_pool *pool = open_pool(&options);
  assert_answer(pool, "ping", "1", "1");
  assert_int_equal(chdir("/"), 0);
  kill((pid_t)worker_pid(pool), SIGKILL); /* the next start finds the same script */
  assert_answer(pool, "ping", "2", "2");
  pyproc_pool_close(pool);
  assert_int_equal(chdir(before), 0);
}

typedef struct indexes {
  pyproc_pool *pool;
  atomic_bool seen[3], wrong;
} indexes;

/* While others sleep in their workers, another one answers. */
static void collect_index(int number, void *argument) {
  indexes *all = argument;
  (void)number;
  for (int i = 0; i < 20; i++) {
    char *reply = NULL;
    int first = -1, second = -1;
    pyproc_call_json(all->pool, "sleep", "{\"ms\": 5}", NULL, &reply, NULL);
    pyproc_reply_free(reply);
    reply = NULL;
    if (pyproc_call_json(all->pool, "index", "null", NULL, &reply, NULL) == 0 &&
        sscanf(reply, "[%d,%d]", &first, &second) == 2 && first == second && first >= 0 && first < 3)
      atomic_store(&all->seen[first], true);
    else
      atomic_store(&all->wrong, true);
    pyproc_reply_free(reply);
  }
}

static void test_worker_index(void **state) {
  (void)state;
  pyproc_pool_options options = options_for("fault_worker.py");
  options.workers = 3;
  indexes all = {.pool = open_pool(&options)};
  run_threads(4, collect_index, &all);
  assert_false(atomic_load(&all.wrong));
  for (int i = 0; i < 3; i++) assert_true(atomic_load(&all.seen[i]));
  pyproc_pool_close(all.pool);
}

/* ---- hooks ---- */

static void test_hooks(void **state) {
  (void)state;
  char variable[PATH_MAX];
  const char *path = temporary_path("notes"), *const env[] = {variable, NULL};
  snprintf(variable, sizeof variable, "E2E_NOTES=%s", path);
  pyproc_pool_options options = options_for("fault_worker.py");
  options.env = env;
  pyproc_pool *pool = open_pool(&options);
  assert_answer(pool, "ping", "1", "1");
  char *notes = read_file(path);
  assert_string_equal(notes, "start\n");
  free(notes);
  pyproc_pool_close(pool);
  notes = read_file(path);
  assert_string_equal(notes, "start\nstop\natexit\n");
  free(notes);
}

/* ---- restarts and health ---- */

typedef struct events {
  pthread_mutex_t lock;
  int ready, died, other;
  pid_t last_pid;
  int last_status;
} events;

static void on_event(const pyproc_event *event, void *userdata) {
  events *self = userdata;
  pthread_mutex_lock(&self->lock);
  if (event->kind == PYPROC_EVENT_WORKER_READY) {
    self->ready++;
    self->last_pid = event->worker_pid;
  } else if (event->kind == PYPROC_EVENT_WORKER_DIED) {
    self->died++;
    self->last_status = event->crash != NULL ? event->crash->exit_status : -1;
  } else {
    self->other++;
  }
  pthread_mutex_unlock(&self->lock);
}

static int64_t ready_workers(pyproc_pool *pool) {
  pyproc_health health = PYPROC_HEALTH_INIT;
  assert_int_equal(pyproc_pool_health(pool, &health), 0);
  return health.workers_ready;
}

static void test_restarts(void **state) {
  (void)state;
  static events seen = {.lock = PTHREAD_MUTEX_INITIALIZER};
  pyproc_pool_options options = options_for("fault_worker.py");
  options.event = on_event;
  options.event_userdata = &seen;
  pyproc_pool *pool = open_pool(&options);
  for (int i = 0; i < 3; i++) {
    assert_error(call_failure(pool, "die", "{\"status\": 11}", 0), PYPROC_E_UNAVAILABLE, "status 11", RAN);
    assert_answer(pool, "ping", "1", "1");
  }
  pyproc_health health = PYPROC_HEALTH_INIT;
  WAIT_FOR(ready_workers(pool) == 1);
  assert_int_equal(pyproc_pool_health(pool, &health), 0);
  assert_int_equal(health.workers, 1);
  assert_int_equal(health.restarts, 3);
  assert_int_equal(health.calls, 6);
  assert_int_equal(health.failures, 3);
  pid_t pid = (pid_t)worker_pid(pool);
  pyproc_pool_close(pool);
  assert_int_equal(seen.ready, 4);
  assert_int_equal(seen.died, 3); /* an orderly end is no death */
  assert_int_equal(seen.other, 0);
  assert_int_equal(seen.last_pid, pid);
  assert_int_equal(seen.last_status, 11);
}

/* While no worker can start, calls wait for their deadline and then say why. */
static void test_broken_later(void **state) {
  (void)state;
  const char *path = temporary_path("worker.py");
  FILE *file = fopen(path, "w");
  fputs("from pyproc_worker import expose, run_worker\nimport os\n@expose\ndef die(body): os._exit(1)\nrun_worker()\n",
        file);
  fclose(file);
  pyproc_pool_options options = options_for("fault_worker.py");
  options.script = path;
  options.restart_max = PYPROC_OFF; /* it fails more than three times within the minute */
  pyproc_pool *pool = open_pool(&options);
  file = fopen(path, "w");
  fputs("raise RuntimeError('edited badly')\n", file);
  fclose(file);
  assert_error(call_failure(pool, "die", "{}", 0), PYPROC_E_UNAVAILABLE, "status 1", RAN);
  assert_error(call_failure(pool, "health", "{}", 1500), PYPROC_E_DEADLINE_EXCEEDED, "edited badly", NOT_RUN);
  pyproc_health health = PYPROC_HEALTH_INIT;
  assert_int_equal(pyproc_pool_health(pool, &health), 0);
  assert_int_equal(health.workers_ready, 0);
  file = fopen(path, "w");
  fputs("from pyproc_worker import run_worker\nrun_worker()\n", file);
  fclose(file);
  char *reply = call_json(pool, "health", "{}");
  assert_contains(reply, "healthy");
  pyproc_reply_free(reply);
  pyproc_pool_close(pool);
}

/* ---- close ---- */

typedef struct caller {
  pyproc_pool *pool;
  atomic_int waiting, good, closed, other;
} caller;

static void sleep_long(int number, void *argument) {
  caller *all = argument;
  char *reply = NULL;
  pyproc_error *error = NULL;
  (void)number;
  atomic_fetch_add(&all->waiting, 1);
  int result = pyproc_call_json(all->pool, "sleep", number < 0 ? "{\"ms\": 1}" : "{\"ms\": 300}", NULL, &reply, &error);
  if (result == 0)
    atomic_fetch_add(&all->good, 1);
  else if (result == PYPROC_E_UNAVAILABLE && strstr(pyproc_error_message(error), "clos") != NULL)
    atomic_fetch_add(&all->closed, 1);
  else {
    fprintf(stderr, "%d %s\n", result, pyproc_error_message(error));
    atomic_fetch_add(&all->other, 1);
  }
  pyproc_reply_free(reply);
  pyproc_error_free(error);
}

static void *close_soon(void *argument) {
  caller *all = argument;
  while (atomic_load(&all->waiting) < 4) pause_ms(1);
  pause_ms(50);
  pyproc_pool_close(all->pool);
  return NULL;
}

static void close_among_calls(const char *protocol, int64_t drain_timeout_ms, int least_good, int least_closed) {
  pthread_t thread;
  pyproc_pool_options options = options_for("fault_worker.py");
  options.protocol = protocol;
  options.drain_timeout_ms = drain_timeout_ms;
  caller all = {.pool = open_pool(&options)};
  assert_int_equal(pthread_create(&thread, NULL, close_soon, &all), 0);
  run_threads(4, sleep_long, &all);
  pthread_join(thread, NULL);
  assert_int_equal(atomic_load(&all.other), 0);
  assert_int_equal(atomic_load(&all.good) + atomic_load(&all.closed), 4);
  assert_true(atomic_load(&all.good) >= least_good);
  assert_true(atomic_load(&all.closed) >= least_closed);
}

static void test_close_with_calls_in_flight(void **state) {
  (void)state;
  for (size_t i = 0; i < LENGTH(protocols); i++) {
    close_among_calls(protocols[i], 60000, 4, 0);      /* there is time for all of them */
    close_among_calls(protocols[i], PYPROC_OFF, 0, 3); /* none: one may just end well */
    close_among_calls(protocols[i], 400, 1, 1);
  }
}

static void test_open_and_close(void **state) {
  (void)state;
  for (int i = 0; i < scaled(10); i++) {
    pyproc_pool_options options = options_for("fault_worker.py");
    options.workers = 2;
    pyproc_pool_close(open_pool(&options));
  }
  pyproc_pool_close(NULL);
}

static void test_replies_outlive_the_pool(void **state) {
  (void)state;
  for (size_t i = 0; i < LENGTH(protocols); i++) {
    pyproc_pool_options options = options_for("conformance_worker.py");
    options.protocol = protocols[i];
    pyproc_pool *pool = open_pool(&options);
    Conformance__Blob request = CONFORMANCE__BLOB__INIT, *blob = NULL;
    uint8_t bytes[] = "kept";
    request.data = (ProtobufCBinaryData){.data = bytes, .len = 4};
    char *text = call_json(pool, "echo", "\"kept too\"");
    assert_int_equal(conformance_echo_echo(pool, &request, &blob, NULL), 0);
    pyproc_error *error = call_failure(pool, "fail", "{\"text\": \"soup\"}", 0);
    pyproc_pool_close(pool);
    assert_string_equal(text, "\"kept too\"");
    assert_memory_equal(blob->data.data, "kept", 4);
    pyproc_reply_free(text);
    pyproc_reply_free(blob);
    assert_contains(pyproc_error_traceback(error), "soup");
    assert_error(error, PYPROC_E_UNKNOWN, "soup", RAN);
  }
  pyproc_reply_free(NULL);
}

/* A worker that ignores SIGTERM and the end of its input is killed in the end. */
static void *call_stuck(void *argument) {
  char *reply = NULL;
  pyproc_call_json(argument, "stuck", "{\"s\": 600}", NULL, &reply, NULL);
  pyproc_reply_free(reply);
  return NULL;
}

static void test_close_with_stuck_handler(void **state) {
  (void)state;
  pyproc_pool_options options = options_for("fault_worker.py");
  options.drain_timeout_ms = 100;
  pyproc_pool *pool = open_pool(&options);
  long pid = worker_pid(pool);
  pthread_t thread;
  assert_int_equal(pthread_create(&thread, NULL, call_stuck, pool), 0);
  pause_ms(100);
  pyproc_pool_close(pool);
  pthread_join(thread, NULL);
  assert_false(process_lives(pid));
}

/* ---- logs ---- */

static log_lines lines;

static pyproc_pool_options logged_options(int64_t level) {
  pyproc_pool_options options = options_for("fault_worker.py");
  log_lines_init(&lines);
  options.log = log_lines_callback;
  options.log_userdata = &lines;
  options.log_level = level;
  return options;
}

static void test_log(void **state) {
  (void)state;
  pyproc_pool_options options = logged_options(0);
  pyproc_pool *pool = open_pool(&options);
  assert_answer(pool, "shout", "{\"lines\": 3, \"size\": 2}", "3");
  WAIT_FOR(log_lines_have(&lines, "stdout: line 2 xx\n"));
  pyproc_error_free(call_failure(pool, "die", "{\"status\": 1}", 0));
  WAIT_FOR(log_lines_have(&lines, "stderr: last words on stderr\n"));
  assert_true(log_lines_have(&lines, "stdout: last words on stdout\n"));
  WAIT_FOR(log_lines_have(&lines, "exited with status 1"));
  pyproc_pool_close(pool);
}

static void test_log_level(void **state) {
  (void)state;
  pyproc_pool_options options = logged_options(PYPROC_LOG_WARNING);
  pyproc_pool *pool = open_pool(&options);
  assert_answer(pool, "shout", "{\"lines\": 3, \"size\": 2}", "3");
  pyproc_error_free(call_failure(pool, "die", "{\"status\": 1}", 0));
  pyproc_pool_close(pool);
  assert_false(log_lines_have(&lines, "line 2"));
  assert_true(log_lines_have(&lines, "last words on stderr"));
}

typedef struct slow_log {
  atomic_int in_callback, lines, dropped;
  atomic_bool blocks;
} slow_log;

static void block_in_callback(const pyproc_log_record *record, void *userdata) {
  slow_log *self = userdata;
  atomic_fetch_add(&self->lines, 1);
  if (strstr(record->text, "dropped") != NULL) atomic_fetch_add(&self->dropped, 1);
  if (!atomic_load(&self->blocks) || strstr(record->text, "line ") == NULL) return;
  atomic_store(&self->in_callback, 1);
  pause_ms(2000);
  atomic_store(&self->in_callback, 2);
  atomic_store(&self->blocks, false);
}

/* The callback blocks the pool's own thread, and calls go on; what does not fit in the queue is counted. */
static void test_log_callback_blocks(void **state) {
  (void)state;
  for (size_t i = 0; i < LENGTH(protocols); i++) {
    slow_log self = {.blocks = true};
    pyproc_pool_options options = options_for("fault_worker.py");
    options.protocol = protocols[i];
    options.log = block_in_callback;
    options.log_userdata = &self;
    options.log_level = 0;
    pyproc_pool *pool = open_pool(&options);
    int calls = 0;
    assert_answer(pool, "shout", "{\"lines\": 1, \"size\": 1}", "1");
    WAIT_FOR(atomic_load(&self.in_callback) == 1);
    while (calls < 100 && atomic_load(&self.in_callback) == 1) {
      assert_answer(pool, "shout", "{\"lines\": 300, \"size\": 100}", "300");
      calls++;
    }
    /* all of them, or at least several, while the callback blocked */
    assert_true(calls >= 10 * scaled(100) / 100 || scaled(100) < 100);
    WAIT_FOR(atomic_load(&self.in_callback) == 2);
    assert_answer(pool, "ping", "1", "1");
    pyproc_pool_close(pool);
    assert_true(atomic_load(&self.dropped) > 0);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      E2E_TEST(test_args_env_cwd),
      E2E_TEST(test_options_are_copied),
      E2E_TEST(test_relative_paths),
      E2E_TEST(test_worker_index),
      E2E_TEST(test_hooks),
      E2E_TEST(test_restarts),
      E2E_TEST(test_broken_later),
      E2E_TEST(test_close_with_calls_in_flight),
      E2E_TEST(test_open_and_close),
      E2E_TEST(test_replies_outlive_the_pool),
      E2E_TEST(test_close_with_stuck_handler),
      E2E_TEST(test_log),
      E2E_TEST(test_log_level),
      E2E_TEST(test_log_callback_blocks),
  };
  return RUN_TESTS(tests);
}
