/*
 * Workers that give way to others while calls go on: reload, resize, recycling; and the rest of a pool before its end.
 */
#include <signal.h>
#include <unistd.h>

#include "platform.h"
#include "support.h"

/* A worker whose `reply` answers `constant`, or that does not start. */
static void write_script(const char *path, const char *body) {
  FILE *file = fopen(path, "w");
  assert_non_null(file);
  fprintf(file,
          "import os\nimport time\nfrom pyproc_worker import expose, run_worker\n\n\n"
          "@expose\ndef pid(body):\n    return os.getpid()\n\n\n"
          "@expose\ndef sleep(body):\n    time.sleep(body / 1000)\n    return os.getpid()\n\n\n"
          "@expose\ndef grow(body):\n    grow.kept = bytearray(body)\n    return len(grow.kept)\n\n\n%s\n\n"
          "if __name__ == \"__main__\":\n    run_worker()\n",
          body);
  assert_int_equal(fclose(file), 0);
}

static void write_constant(const char *path, int constant) {
  char body[128];
  snprintf(body, sizeof body, "@expose\ndef reply(body):\n    return %d\n", constant);
  write_script(path, body);
}

static pyproc_pool_options options_of(const char *path, int workers) {
  pyproc_pool_options options = options_for("fault_worker.py");
  options.script = path;
  options.workers = workers;
  return options;
}

typedef struct traffic {
  pyproc_pool *pool;
  atomic_bool stop, is_replaced;
  atomic_int calls, failed, wrong, old_after;
} traffic;

/* Calls `reply` until told to stop; counts what must not be. */
static void call_on(int number, void *argument) {
  traffic *self = argument;
  (void)number;
  while (!atomic_load(&self->stop)) {
    char *body = NULL;
    bool is_replaced = atomic_load(&self->is_replaced);
    int result = pyproc_call_json(self->pool, "reply", "null", NULL, &body, NULL);
    atomic_fetch_add(&self->calls, 1);
    if (result < 0)
      atomic_fetch_add(&self->failed, 1);
    else if (strcmp(body, "1") != 0 && strcmp(body, "2") != 0)
      atomic_fetch_add(&self->wrong, 1);
    else if (is_replaced && strcmp(body, "1") == 0)
      atomic_fetch_add(&self->old_after, 1);
    pyproc_reply_free(body);
  }
}

enum { CALLERS = 16 };

/* Runs `work` on one thread beside CALLERS that call. */
typedef struct beside {
  traffic traffic;
  void (*work)(traffic *load, const char *path);
  const char *path;
} beside;

static void run_beside(int number, void *argument) {
  beside *self = argument;
  if (number < CALLERS) {
    call_on(number, &self->traffic);
    return;
  }
  WAIT_FOR(atomic_load(&self->traffic.calls) > CALLERS);
  self->work(&self->traffic, self->path);
  int calls = atomic_load(&self->traffic.calls);
  WAIT_FOR(atomic_load(&self->traffic.calls) > calls + CALLERS);
  atomic_store(&self->traffic.stop, true);
}

static void assert_no_call_lost(beside *self, int workers, void (*work)(traffic *load, const char *path)) {
  self->path = temporary_path("worker.py");
  self->work = work;
  write_constant(self->path, 1);
  pyproc_pool_options options = options_of(self->path, workers);
  self->traffic.pool = open_pool(&options);
  run_threads(CALLERS + 1, run_beside, self);
  assert_int_equal(atomic_load(&self->traffic.failed), 0);
  assert_int_equal(atomic_load(&self->traffic.wrong), 0);
  assert_int_equal(atomic_load(&self->traffic.old_after), 0);
}

static atomic_int work_failures;

static void reload_once(traffic *load, const char *path) {
  write_constant(path, 2);
  if (pyproc_pool_reload(load->pool, NULL, NULL) < 0) atomic_fetch_add(&work_failures, 1);
  atomic_store(&load->is_replaced, true);
}

static void test_reload_under_load(void **state) {
  (void)state;
  beside self = {0};
  atomic_store(&work_failures, 0);
  assert_no_call_lost(&self, 3, reload_once);
  assert_int_equal(atomic_load(&work_failures), 0);
  pyproc_health health = PYPROC_HEALTH_INIT;
  assert_int_equal(pyproc_pool_health(self.traffic.pool, &health), PYPROC_OK);
  assert_int_equal(health.workers, 3);
  assert_int_equal(health.workers_ready, 3);
  assert_int_equal(health.restarts, 0);
  pyproc_pool_close(self.traffic.pool);
}

static void resize_up_and_down(traffic *load, const char *path) {
  static const int sizes[] = {4, 1, 3, 2};
  (void)path;
  for (size_t i = 0; i < LENGTH(sizes); i++) {
    pyproc_health health = PYPROC_HEALTH_INIT;
    int failed = pyproc_pool_resize(load->pool, sizes[i], NULL) < 0;
    failed |= pyproc_pool_health(load->pool, &health) < 0;
    failed |= health.workers != sizes[i] || health.workers_ready != sizes[i];
    if (failed) atomic_fetch_add(&work_failures, 1);
  }
}

static void test_resize_under_load(void **state) {
  (void)state;
  beside self = {0};
  atomic_store(&work_failures, 0);
  assert_no_call_lost(&self, 2, resize_up_and_down);
  assert_int_equal(atomic_load(&work_failures), 0);
  pyproc_pool_close(self.traffic.pool);
}

static void test_new_code_that_does_not_start(void **state) {
  (void)state;
  const char *path = temporary_path("worker.py");
  write_constant(path, 1);
  pyproc_pool_options options = options_of(path, 2);
  pyproc_pool *pool = open_pool(&options);
  write_script(path, "def broken(:\n");
  pyproc_error *error = NULL;
  assert_int_equal(pyproc_pool_reload(pool, NULL, &error), PYPROC_E_FAILED_PRECONDITION);
  assert_string_equal(pyproc_error_type(error), "SyntaxError");
  assert_non_null(pyproc_error_traceback(error));
  pyproc_error_free(error);
  for (int i = 0; i < 20; i++) assert_answer(pool, "reply", "null", "1");
  pyproc_health health = PYPROC_HEALTH_INIT;
  assert_int_equal(pyproc_pool_health(pool, &health), PYPROC_OK);
  assert_int_equal(health.workers_ready, 2);
  write_constant(path, 2);
  assert_int_equal(pyproc_pool_reload(pool, NULL, NULL), PYPROC_OK); /* mended */
  for (int i = 0; i < 20; i++) assert_answer(pool, "reply", "null", "2");
  pyproc_pool_close(pool);
}

static void test_reload_with_other_options(void **state) {
  (void)state;
  const char *const args[] = {"new", NULL};
  const char *const env[] = {"E2E_GIVEN=new", NULL};
  pyproc_pool_options options = options_for("fault_worker.py");
  pyproc_pool *pool = open_pool(&options);
  options.args = args;
  options.env = env;
  options.workers = 2;
  assert_int_equal(pyproc_pool_reload(pool, &options, NULL), PYPROC_OK);
  pyproc_health health = PYPROC_HEALTH_INIT;
  assert_int_equal(pyproc_pool_health(pool, &health), PYPROC_OK);
  assert_int_equal(health.workers_ready, 2);
  for (int i = 0; i < 2; i++) { /* also what is started later */
    char *reply = call_json(pool, "given", "\"E2E_GIVEN\"");
    assert_contains(reply, "\"args\":[\"new\"],\"env\":\"new\"");
    pyproc_reply_free(reply);
    kill((pid_t)call_number(pool, "pid", "null"), SIGKILL);
    kill((pid_t)call_number(pool, "pid", "null"), SIGKILL);
  }
  pyproc_pool_close(pool);
}

static void test_what_cannot_change(void **state) {
  (void)state;
  pyproc_pool_options options = options_for("fault_worker.py");
  pyproc_pool *pool = open_pool(&options);
  pyproc_error *error = NULL;
  long before = worker_pid(pool);
  options.frame_limit_bytes = 4096;
  assert_int_equal(pyproc_pool_reload(pool, &options, &error), PYPROC_E_INVALID_ARGUMENT);
  assert_error(error, PYPROC_E_INVALID_ARGUMENT, "option frame_limit_bytes cannot change while the pool is open",
               NOT_RUN);
  options = options_for("fault_worker.py");
  options.protocol = "json";
  assert_int_equal(pyproc_pool_reload(pool, &options, &error), PYPROC_E_INVALID_ARGUMENT);
  assert_error(error, PYPROC_E_INVALID_ARGUMENT, "option protocol cannot change", NOT_RUN);
  options = options_for("fault_worker.py");
  options.script = "/no/such/worker.py";
  assert_int_equal(pyproc_pool_reload(pool, &options, &error), PYPROC_E_NOT_FOUND);
  assert_error(error, PYPROC_E_NOT_FOUND, "option script: /no/such/worker.py", NOT_RUN);
  assert_int_equal(pyproc_pool_resize(pool, 0, &error), PYPROC_E_INVALID_ARGUMENT);
  assert_error(error, PYPROC_E_INVALID_ARGUMENT, "workers is 0; allowed are 1 to 1024", NOT_RUN);
  assert_int_equal(pyproc_pool_reload(NULL, NULL, NULL), PYPROC_E_INVALID_ARGUMENT);
  assert_int_equal(worker_pid(pool), before);
  pyproc_pool_close(pool);
}

static void sleep_in_call(int number, void *argument) {
  char *body = NULL;
  if (number == 0) {
    pyproc_call_json(argument, "sleep", "300", NULL, &body, NULL);
    if (body == NULL) atomic_fetch_add(&work_failures, 1);
    pyproc_reply_free(body);
    return;
  }
  pause_ms(100);
  if (pyproc_pool_reload(argument, NULL, NULL) < 0) atomic_fetch_add(&work_failures, 1);
}

static void test_a_running_call_ends_in_the_old_worker(void **state) {
  (void)state;
  const char *path = temporary_path("worker.py");
  write_constant(path, 1);
  pyproc_pool_options options = options_of(path, 1);
  pyproc_pool *pool = open_pool(&options);
  long before = call_number(pool, "pid", "null");
  atomic_store(&work_failures, 0);
  run_threads(2, sleep_in_call, pool);
  assert_int_equal(atomic_load(&work_failures), 0);
  assert_false(process_lives(before));
  assert_int_not_equal(call_number(pool, "pid", "null"), before);
  pyproc_pool_close(pool);
}

/* ---- recycling ---- */

static atomic_int recycled, died;

static void count_event(const pyproc_event *event, void *userdata) {
  (void)userdata;
  if (event->kind == PYPROC_EVENT_WORKER_RECYCLED) atomic_fetch_add(&recycled, 1);
  if (event->kind == PYPROC_EVENT_WORKER_DIED) atomic_fetch_add(&died, 1);
}

static pyproc_pool *open_counted(pyproc_pool_options *options) {
  options->event = count_event;
  atomic_store(&recycled, 0);
  atomic_store(&died, 0);
  return open_pool(options);
}

static void test_recycled_by_calls(void **state) {
  (void)state;
  const char *path = temporary_path("worker.py");
  write_constant(path, 1);
  pyproc_pool_options options = options_of(path, 2);
  options.recycle_calls = 50;
  pyproc_pool *pool = open_counted(&options);
  int64_t until = now_ms() + 60000;
  while (atomic_load(&recycled) < 4 && now_ms() < until) assert_answer(pool, "reply", "null", "1");
  assert_true(atomic_load(&recycled) >= 4);
  assert_int_equal(atomic_load(&died), 0);
  pyproc_health health = PYPROC_HEALTH_INIT;
  assert_int_equal(pyproc_pool_health(pool, &health), PYPROC_OK);
  assert_int_equal(health.restarts, 0);
  assert_int_equal(health.failures, 0);
  pyproc_pool_close(pool);
}

static void test_recycled_by_age(void **state) {
  (void)state;
  const char *path = temporary_path("worker.py");
  write_constant(path, 1);
  pyproc_pool_options options = options_of(path, 1);
  options.recycle_age_ms = 300;
  pyproc_pool *pool = open_counted(&options);
  long before = call_number(pool, "pid", "null");
  WAIT_FOR(atomic_load(&recycled) >= 2); /* nobody calls meanwhile */
  assert_int_not_equal(call_number(pool, "pid", "null"), before);
  pyproc_pool_close(pool);
  assert_int_equal(atomic_load(&died), 0);
}

static void test_recycled_by_memory(void **state) {
  (void)state;
  const char *path = temporary_path("worker.py");
  write_constant(path, 1);
  pyproc_pool_options options = options_of(path, 1);
  options.recycle_rss_bytes = (int64_t)(200 * MIB);
  pyproc_pool *pool = open_counted(&options);
  long before = call_number(pool, "pid", "null");
  pause_ms(600); /* small enough */
  assert_int_equal(atomic_load(&recycled), 0);
  if (platform_process_rss((pid_t)before) > 0) { /* else this platform cannot tell */
    assert_answer(pool, "grow", "268435456", "268435456");
    WAIT_FOR(atomic_load(&recycled) >= 1);
    assert_int_not_equal(call_number(pool, "pid", "null"), before);
  }
  pyproc_pool_close(pool);
}

static void test_a_successor_that_fails_is_tried_again(void **state) {
  (void)state;
  const char *path = temporary_path("worker.py");
  write_constant(path, 1);
  pyproc_pool_options options = options_of(path, 1);
  options.recycle_age_ms = 200;
  pyproc_pool *pool = open_counted(&options);
  write_script(path, "raise RuntimeError\n");
  int seen = atomic_load(&recycled); /* one may have slipped through before the script was changed */
  for (int64_t until = now_ms() + 1500; now_ms() < until;) assert_answer(pool, "reply", "null", "1");
  assert_true(atomic_load(&recycled) <= seen + 1);
  write_constant(path, 1);
  WAIT_FOR(atomic_load(&recycled) > seen + 1);
  pyproc_pool_close(pool);
}

enum { SLOW_CALLERS = 6 };

static void sleep_on(int number, void *argument) {
  char *body = NULL;
  pause_ms(number * 50);
  if (pyproc_call_json(argument, "sleep", "400", NULL, &body, NULL) < 0) atomic_fetch_add(&work_failures, 1);
  pyproc_reply_free(body);
}

static void watch_children(int number, void *argument) {
  static atomic_int sleeping;
  if (number < SLOW_CALLERS) {
    atomic_fetch_add(&sleeping, 1);
    sleep_on(number, argument);
    atomic_fetch_sub(&sleeping, 1);
    return;
  }
  int most = 0;
  do {
    int count = count_children(NULL);
    if (count > most) most = count;
    pause_ms(5);
  } while (atomic_load(&sleeping) > 0);
  if (most > 2) atomic_fetch_add(&work_failures, most);
}

/* Workers that are slow to leave do not pile up: there is one for each place, at the most. */
static void test_recycled_while_old_ones_linger(void **state) {
  (void)state;
  const char *path = temporary_path("worker.py");
  write_constant(path, 1);
  pyproc_pool_options options = options_of(path, 1);
  options.recycle_age_ms = 20;
  options.drain_timeout_ms = 60000;
  atomic_store(&work_failures, 0);
  pyproc_pool *pool = open_counted(&options);
  run_threads(SLOW_CALLERS + 1, watch_children, pool);
  assert_int_equal(atomic_load(&work_failures), 0);
  assert_true(atomic_load(&recycled) > 0);
  pyproc_pool_close(pool);
}

/* ---- the end ---- */

static void test_drain(void **state) {
  (void)state;
  pyproc_pool_options options = options_for("fault_worker.py");
  pyproc_pool *pool = open_pool(&options);
  pyproc_error *error = NULL;
  char *body = NULL;
  assert_answer(pool, "ping", "1", "1");
  assert_int_equal(pyproc_pool_drain(pool, 1000, NULL), PYPROC_OK);
  assert_int_equal(pyproc_call_json(pool, "ping", "1", NULL, &body, &error), PYPROC_E_UNAVAILABLE);
  assert_error(error, PYPROC_E_UNAVAILABLE, "the pool is being closed", NOT_RUN);
  assert_int_equal(pyproc_pool_drain(pool, -1, NULL), PYPROC_OK);
  pyproc_pool_close(pool);
}

static void slow_or_drain(int number, void *argument) {
  char *body = NULL;
  if (number == 0) {
    if (pyproc_call_json(argument, "sleep", "{\"ms\": 500}", NULL, &body, NULL) < 0)
      atomic_fetch_add(&work_failures, 1);
    pyproc_reply_free(body);
    return;
  }
  pause_ms(100);
  if (pyproc_pool_drain(argument, 1, NULL) != PYPROC_E_DEADLINE_EXCEEDED) atomic_fetch_add(&work_failures, 1);
  if (pyproc_pool_drain(argument, 30000, NULL) != PYPROC_OK) atomic_fetch_add(&work_failures, 1);
}

static void test_drain_waits_for_calls(void **state) {
  (void)state;
  pyproc_pool_options options = options_for("fault_worker.py");
  pyproc_pool *pool = open_pool(&options);
  atomic_store(&work_failures, 0);
  run_threads(2, slow_or_drain, pool);
  assert_int_equal(atomic_load(&work_failures), 0);
  pyproc_pool_close(pool);
}

static void reload_or_kill(int number, void *argument) {
  if (number == 0)
    pyproc_pool_reload(argument, NULL, NULL);
  else
    for (int i = 0; i < 5; i++) {
      char *body = NULL;
      if (pyproc_call_json(argument, "pid", "null", NULL, &body, NULL) >= 0) kill((pid_t)atol(body), SIGKILL);
      pyproc_reply_free(body);
      pause_ms(20);
    }
}

static void test_workers_die_during_a_reload(void **state) {
  (void)state;
  const char *path = temporary_path("worker.py");
  write_constant(path, 1);
  pyproc_pool_options options = options_of(path, 3);
  pyproc_pool *pool = open_pool(&options);
  for (int i = 0; i < 3; i++) run_threads(2, reload_or_kill, pool);
  pyproc_health health = PYPROC_HEALTH_INIT;
  WAIT_FOR(pyproc_pool_health(pool, &health) >= 0 && health.workers_ready == 3);
  assert_int_equal(pyproc_pool_reload(pool, NULL, NULL), PYPROC_OK);
  assert_int_equal(pyproc_pool_health(pool, &health), PYPROC_OK);
  assert_int_equal(health.workers_ready, 3);
  pyproc_pool_close(pool);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      E2E_TEST(test_reload_under_load),
      E2E_TEST(test_resize_under_load),
      E2E_TEST(test_new_code_that_does_not_start),
      E2E_TEST(test_reload_with_other_options),
      E2E_TEST(test_what_cannot_change),
      E2E_TEST(test_a_running_call_ends_in_the_old_worker),
      E2E_TEST(test_recycled_by_calls),
      E2E_TEST(test_recycled_by_age),
      E2E_TEST(test_recycled_by_memory),
      E2E_TEST(test_a_successor_that_fails_is_tried_again),
      E2E_TEST(test_recycled_while_old_ones_linger),
      E2E_TEST(test_drain),
      E2E_TEST(test_drain_waits_for_calls),
      E2E_TEST(test_workers_die_during_a_reload),
  };
  return RUN_TESTS(tests);
}
