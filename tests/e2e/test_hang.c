/*
 * Workers that hang, or crash in C: they are noticed and replaced, and the error and the event have the stacks; handlers
 * that only take long are left alone.
 */
#include <signal.h>

#include "grpc_support.h"

enum { INTERVAL_MS = 100, TIMEOUT_MS = 1000 };

typedef struct seen {
  atomic_int hung, died;
  pthread_mutex_t lock;
  char hung_text[512], hung_stacks[1 << 16], hung_method[64], died_stacks[1 << 16];
  int died_signal;
} seen;

static seen events;
static log_lines lines;

static void on_event(const pyproc_event *event, void *userdata) {
  (void)userdata;
  pthread_mutex_lock(&events.lock);
  if (event->kind == PYPROC_EVENT_WORKER_HUNG) {
    snprintf(events.hung_text, sizeof events.hung_text, "%s", event->text);
    snprintf(events.hung_stacks, sizeof events.hung_stacks, "%s", event->crash->stacks);
    snprintf(events.hung_method, sizeof events.hung_method, "%s", event->crash->method);
  }
  if (event->kind == PYPROC_EVENT_WORKER_DIED) {
    snprintf(events.died_stacks, sizeof events.died_stacks, "%s", event->crash->stacks);
    events.died_signal = event->crash->signal;
  }
  pthread_mutex_unlock(&events.lock);
  if (event->kind == PYPROC_EVENT_WORKER_HUNG) atomic_fetch_add(&events.hung, 1);
  if (event->kind == PYPROC_EVENT_WORKER_DIED) atomic_fetch_add(&events.died, 1);
}

/* While no pool is open. */
static void forget(void) {
  memset(&events, 0, sizeof events);
  pthread_mutex_init(&events.lock, NULL);
  log_lines_init(&lines);
}

static pyproc_pool_options options_of(const char *script, const char *protocol) {
  pyproc_pool_options options = options_for(script);
  options.protocol = protocol;
  options.health_interval_ms = INTERVAL_MS;
  options.health_timeout_ms = TIMEOUT_MS;
  options.event = on_event;
  options.log = log_lines_callback;
  options.log_userdata = &lines;
  return options;
}

static const char *const protocols[] = {"protobuf", "json", "grpc"};
#define EACH_PROTOCOL(name) \
  for (size_t i_ = 0; i_ < LENGTH(protocols); i_++) \
    for (const char *name = protocols[i_]; name != NULL && (i_ < 2 || grpc_is_built()); name = NULL)

/* ---- no sign of life ---- */

static void test_stopped_while_idle(void **state) {
  (void)state;
  forget();
  pyproc_pool_options options = options_of("hang_worker.py", NULL);
  pyproc_pool *pool = open_pool(&options);
  long pid = worker_pid(pool);
  kill((pid_t)pid, SIGSTOP);
  WAIT_FOR(atomic_load(&events.died) == 1); /* although nobody calls */
  assert_int_equal(atomic_load(&events.hung), 1);
  assert_contains(events.hung_text, "hung: it gave no sign of life for 1000 ms (options health_interval_ms");
  assert_int_equal(events.died_signal, SIGKILL);
  assert_int_not_equal(worker_pid(pool), pid);
  WAIT_FOR(log_lines_have(&lines, "worker 0: worker "));
  WAIT_FOR(log_lines_have(&lines, "it is ended, its threads:"));
  pyproc_pool_close(pool);
}

typedef struct stopped {
  pyproc_pool *pools[2];
  pyproc_error *errors[2];
  long pids[2];
} stopped;

/* Half of the threads call, the other half stop the workers of those calls. */
static void stop_in_mid_call(int number, void *argument) {
  stopped *self = argument;
  int which = number % 2;
  char *reply = NULL;
  if (number >= 2) {
    pause_ms(200);
    kill((pid_t)self->pids[which], SIGSTOP);
    return;
  }
  pyproc_call_options options = PYPROC_CALL_OPTIONS_INIT;
  options.timeout_ms = 50000;
  pyproc_call_json(self->pools[which], "sleep", "{\"ms\": 3600000}", &options, &reply, &self->errors[which]);
  pyproc_reply_free(reply);
}

static void test_stopped_in_mid_call(void **state) {
  (void)state;
  forget();
  stopped self = {{NULL}, {NULL}, {0}};
  const char *const names[] = {"json", grpc_is_built() ? "grpc" : "protobuf"};
  for (int i = 0; i < 2; i++) {
    pyproc_pool_options options = options_of("hang_worker.py", names[i]);
    self.pools[i] = open_pool(&options);
    self.pids[i] = worker_pid(self.pools[i]);
  }
  run_threads(4, stop_in_mid_call, &self);
  for (int i = 0; i < 2; i++) {
    const pyproc_crash *crash = pyproc_error_crash(self.errors[i]);
    assert_non_null(crash);
    assert_int_equal(crash->pid, self.pids[i]);
    assert_int_equal(crash->signal, SIGKILL);
    assert_int_equal(crash->status_known, 1);
    assert_string_equal(crash->method, "sleep");
    assert_int_equal(pyproc_error_stop(self.errors[i]), PYPROC_STOP_NONE);
    assert_error(self.errors[i], PYPROC_E_UNAVAILABLE,
                 "gave no sign of life for 1000 ms (options health_interval_ms, health_timeout_ms), and was killed in "
                 "sleep",
                 RAN);
    assert_answer(self.pools[i], "ping", "1", "1");
    pyproc_pool_close(self.pools[i]);
  }
  assert_string_equal(events.hung_method, "sleep");
}

/* Calls are answered, but nobody answers pings: what sees cancels does not work. */
static void test_control_thread_stands_still(void **state) {
  (void)state;
  forget();
  char once[200];
  snprintf(once, sizeof once, "E2E_ONCE=%s", temporary_path("once"));
  const char *const args[] = {"good", "ping", NULL}, *const env[] = {once, NULL};
  pyproc_pool_options options = options_of("hostile_worker.py", NULL);
  options.args = args;
  options.env = env;
  pyproc_pool *pool = open_pool(&options);
  assert_answer(pool, "ping", "1", "true");
  WAIT_FOR(atomic_load(&events.hung) >= 1);
  pyproc_pool_close(pool);
}

/* One that does not say that it knows pings is never asked. */
static void test_worker_without_pings(void **state) {
  (void)state;
  forget();
  char once[200];
  snprintf(once, sizeof once, "E2E_ONCE=%s", temporary_path("once"));
  const char *const args[] = {"good", NULL}, *const env[] = {once, NULL};
  pyproc_pool_options options = options_of("hostile_worker.py", NULL);
  options.args = args;
  options.env = env;
  options.health_timeout_ms = 50;
  pyproc_pool *pool = open_pool(&options);
  assert_answer(pool, "ping", "1", "true");
  pause_ms(500);
  assert_answer(pool, "ping", "1", "true");
  assert_int_equal(atomic_load(&events.hung), 0);
  pyproc_pool_close(pool);
}

/* ---- requests wait, and nothing runs ---- */

static void *ask_again(void *argument) {
  pyproc_pool *pool = argument;
  char *reply = NULL;
  int result = pyproc_call_json(pool, "ping", "2", NULL, &reply, NULL);
  pyproc_reply_free(reply);
  return result == 0 ? pool : NULL;
}

/* Where the worker is shared its control thread answers pings all the while, in the other one nobody does. */
static void test_loop_stands_still(void **state) {
  (void)state;
  forget();
  const char *const args[] = {"shared", NULL};
  pyproc_pool_options options = options_of("hang_worker.py", NULL);
  pyproc_pool *plain = open_pool(&options);
  options = options_of("hang_worker.py", NULL);
  options.args = args;
  pyproc_pool *shared = open_pool(&options);
  pyproc_pool *pools[] = {plain, shared};
  long pids[2];
  pthread_t threads[2];
  for (int i = 0; i < 2; i++) {
    pids[i] = worker_pid(pools[i]);
    assert_answer(pools[i], "begin_hog", "1", "1");
  }
  pause_ms(300);
  for (int i = 0; i < 2; i++) assert_int_equal(pthread_create(&threads[i], NULL, ask_again, pools[i]), 0);
  for (int i = 0; i < 2; i++) {
    void *good = NULL;
    pthread_join(threads[i], &good);
    assert_non_null(good); /* it had not begun there, and was given to the next */
    assert_int_not_equal(worker_pid(pools[i]), pids[i]);
  }
  assert_int_equal(atomic_load(&events.hung), 2);
  WAIT_FOR(log_lines_have(&lines, "had requests and began none of them for 1000 ms"));
  assert_contains(events.hung_stacks, "most recent call first");
  assert_contains(events.hung_stacks, "in hog");
  assert_string_equal(events.hung_method, "");
  assert_contains(events.died_stacks, "in hog");
  WAIT_FOR(log_lines_have(&lines, "in hog"));
  for (int i = 0; i < 2; i++) pyproc_pool_close(pools[i]);
}

/* ---- a handler may take as long as its deadline lets it ---- */

static void on_end(int result, char *body, pyproc_error *error, void *userdata) {
  (void)body;
  if (result < 0) print_error("%s\n", pyproc_error_message(error));
  *(int *)userdata += result == 0;
  pyproc_error_free(error);
  pyproc_reply_free(body);
}

static void submit(pyproc_pool *pool, const char *method, const char *body, int *good) {
  assert_int_equal(pyproc_call_json_submit(pool, method, body, NULL, on_end, good, NULL), 0);
}

/* Also with the GIL held by a loop in C; also where more waits behind it than its worker reads, so that no ping gets
 * through. */
static void test_long_calls_are_left_alone(void **state) {
  (void)state;
  forget();
  enum { SIZE = 1000000, LARGE = 8 };
  static char large[SIZE + 3];
  pyproc_pool *pools[4] = {NULL};
  const char *const names[] = {"protobuf", "json", "grpc", "protobuf"};
  int good = 0, count = grpc_is_built() ? 4 : 2;
  memset(large, 'x', sizeof large - 1);
  large[0] = large[SIZE + 1] = '"';
  for (int i = 0; i < count; i++) {
    pyproc_pool_options options = options_of("hang_worker.py", names[i]);
    pools[i] = open_pool(&options);
    for (int k = 0; k < 64; k++) assert_answer(pools[i], "ping", "1", "1"); /* it is quick: it is given many at once */
  }
  for (int i = 0; i < count; i++) submit(pools[i], i == 3 ? "sleep" : "stuck", "{\"ms\": 3000}", &good);
  for (int i = 0; i < LARGE; i++) submit(pools[0], "size", large, &good);
  for (int i = 0; i < count; i++)
    for (int ended = 0; ended < (i == 0 ? 1 + LARGE : 1);) ended += pyproc_pool_dispatch(pools[i], 60000);
  assert_int_equal(good, count + LARGE);
  assert_int_equal(atomic_load(&events.hung), 0);
  for (int i = 0; i < count; i++) pyproc_pool_close(pools[i]);
}

/* ---- what is left of a process ---- */

static void test_past_the_grace(void **state) {
  (void)state;
  EACH_PROTOCOL(protocol) {
    forget();
    pyproc_pool_options options = options_of("hang_worker.py", protocol);
    options.cancel_grace_ms = 100;
    pyproc_pool *pool = open_pool(&options);
    assert_error(call_failure(pool, "spin", "null", 100), PYPROC_E_DEADLINE_EXCEEDED, "spin", RAN);
    WAIT_FOR(atomic_load(&events.died) == 1);
    assert_answer(pool, "ping", "1", "1");
    assert_int_equal(atomic_load(&events.hung), 1);
    assert_contains(events.hung_text,
                    "hung: a handler did not end although its call was given up (option cancel_grace");
    assert_contains(events.hung_stacks, "spin still runs");
    assert_contains(events.hung_stacks, "in spin");
    assert_contains(events.died_stacks, "in spin");
    WAIT_FOR(log_lines_have(&lines, "in spin"));
    pyproc_pool_close(pool);
  }
}

static void test_crashes(void **state) {
  (void)state;
  EACH_PROTOCOL(protocol) {
    forget();
    pyproc_pool_options options = options_of("hang_worker.py", protocol);
    pyproc_pool *pool = open_pool(&options);
    pyproc_error *error = call_failure(pool, "segfault", "null", 0);
    const pyproc_crash *crash = pyproc_error_crash(error);
    /* A sanitizer has the last word on SIGSEGV: the process then exits by itself. */
    if (!IS_SANITIZED) assert_int_equal(crash->signal, SIGSEGV);
    assert_contains(crash->stacks, "Fatal Python error: Segmentation fault");
    assert_contains(crash->stacks, "in segfault");
    if (!IS_SANITIZED) assert_contains(crash->log, "last words");
    assert_null(strstr(crash->log, "most recent call first")); /* it is in the stacks alone */
    assert_string_equal(crash->method, "segfault");
    assert_int_equal(crash->oom_killed, 0);
    assert_true(crash->rss_bytes > 0 && crash->cpu_ms > 0);
    assert_error(error, PYPROC_E_UNAVAILABLE,
                 IS_SANITIZED ? "in segfault" : "signal 11 (Segmentation fault) in segfault", RAN);
    WAIT_FOR(atomic_load(&events.died) == 1);
    assert_contains(events.died_stacks, "in segfault");
    assert_int_equal(atomic_load(&events.hung), 0);
    WAIT_FOR(log_lines_have(&lines, "4 pyproc:   File "));
    error = call_failure(pool, "abort", "null", 0);
    assert_contains(pyproc_error_crash(error)->stacks, "in abort");
    assert_null(strstr(pyproc_error_crash(error)->stacks, "in segfault")); /* of this process alone */
    assert_error(error, PYPROC_E_UNAVAILABLE, "signal 6", RAN);
    assert_answer(pool, "ping", "1", "1");
    pyproc_pool_close(pool);
  }
}

static void test_no_stacks(void **state) {
  (void)state;
  forget();
  pyproc_pool_options options = options_of("hang_worker.py", NULL);
  pyproc_pool *pool = open_pool(&options);
  kill((pid_t)worker_pid(pool), SIGKILL);
  WAIT_FOR(atomic_load(&events.died) == 1);
  assert_string_equal(events.died_stacks, "");
  pyproc_pool_close(pool);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      E2E_TEST(test_stopped_while_idle),
      E2E_TEST(test_stopped_in_mid_call),
      E2E_TEST(test_control_thread_stands_still),
      E2E_TEST(test_worker_without_pings),
      E2E_TEST(test_loop_stands_still),
      E2E_TEST(test_long_calls_are_left_alone),
      E2E_TEST(test_past_the_grace),
      E2E_TEST(test_crashes),
      E2E_TEST(test_no_stacks),
  };
  return RUN_TESTS_BESIDE_GRPC(tests);
}
