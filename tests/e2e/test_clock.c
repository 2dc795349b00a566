/*
 * The time of day jumps, in the program and in its workers, while calls, timers and supervision go on: nothing ends early and
 * nothing is late for it.
 */
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "support.h"

enum { DAY = 86400, DECADE = 3650 * DAY, WORKERS = 4, PARTS = 5 };
static const int64_t jumps[] = {DAY, -DAY, DECADE, -5 * (int64_t)DECADE, 0};

/* ---- the clock ---- */

extern const _Atomic int64_t *shifted_clock; /* preload/shifted_clock.c */
static _Atomic int64_t *shift;
static char clock_variable[PATH_MAX];

static void set_clock(int64_t seconds) {
  atomic_store(shift, seconds);
}

static int setup(void **state) {
  if (support_setup(state) != 0) return -1;
  const char *path = temporary_path("clock");
  int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0 || ftruncate(fd, sizeof *shift) < 0) return -1;
  shift = mmap(NULL, sizeof *shift, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  if (shift == MAP_FAILED) return -1;
  shifted_clock = shift;
  snprintf(clock_variable, sizeof clock_variable, "E2E_CLOCK=%s", path);
  return 0;
}

static int teardown(void **state) {
  shifted_clock = NULL;
  munmap(shift, sizeof *shift);
  return support_teardown(state);
}

static pyproc_pool_options shifted_options(void) {
  static const char *const env[] = {clock_variable, "LD_PRELOAD=" E2E_SHIFTED_CLOCK, NULL};
  pyproc_pool_options options = options_for("fault_worker.py");
  options.env = env;
  return options;
}

static void test_the_clock_is_shifted(void **state) {
  (void)state;
  pyproc_pool_options options = shifted_options();
  pyproc_pool *pool = open_pool(&options);
  struct timespec now;
  set_clock(DECADE);
  assert_int_equal(syscall(SYS_clock_gettime, CLOCK_REALTIME, &now), 0);
  assert_true(time(NULL) - now.tv_sec > DECADE - DAY);
  long told = call_number(pool, "clock", "null");
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) /* whose Python preloads something else */
  assert_true(told - now.tv_sec > DECADE - DAY);
#endif
  assert_true(told > 0);
  set_clock(0);
  pyproc_pool_close(pool);
}

/* ---- calls ---- */

typedef struct jump {
  pyproc_pool *pool;
  int64_t seconds;
  atomic_int wrong;
} jump;

static void expect(jump *self, int result, int expected, pyproc_error *error) {
  if (result != expected) {
    fprintf(stderr, "jump of %lld s: %d instead of %d: %s\n", (long long)self->seconds, result, expected,
            pyproc_error_message(error));
    atomic_fetch_add(&self->wrong, 1);
  }
  pyproc_error_free(error);
}

static void on_done(int result, char *body, pyproc_error *error, void *userdata) {
  expect(userdata, result, PYPROC_E_DEADLINE_EXCEEDED, error);
  pyproc_reply_free(body);
}

/* Each of them waits in another way while the clock jumps. */
static void run_part(int number, void *argument) {
  jump *self = argument;
  pyproc_error *error = NULL;
  char *body = NULL;
  pyproc_call_options call = PYPROC_CALL_OPTIONS_INIT;
  call.timeout_ms = 200;
  int result;
  switch (number) {
  case 0: /* has time enough */
    result = pyproc_call_json(self->pool, "sleep", "{\"ms\": 200}", NULL, &body, &error);
    expect(self, result, PYPROC_OK, error);
    break;
  case 1: /* has not */
    result = pyproc_call_json(self->pool, "sleep", "{\"ms\": 600000}", &call, &body, &error);
    expect(self, result, PYPROC_E_DEADLINE_EXCEEDED, error);
    break;
  case 2: /* waits in the pool's timers */
    result = pyproc_call_json_submit(self->pool, "sleep", "{\"ms\": 600000}", &call, on_done, self, NULL);
    if (result >= 0) result = pyproc_pool_dispatch(self->pool, -1);
    expect(self, result, 1, NULL);
    break;
  case 3: /* sleeps for an answer with a lot of time */
    call.timeout_ms = 3600000;
    result = pyproc_call_json(self->pool, "sleep", "{\"ms\": 200}", &call, &body, &error);
    expect(self, result, PYPROC_OK, error);
    break;
  default:
    pause_ms(100);
    set_clock(self->seconds);
    break;
  }
  pyproc_reply_free(body);
}

static void test_calls(void **state) {
  (void)state;
  pyproc_pool_options options = shifted_options();
  options.workers = WORKERS;
  jump self = {.pool = open_pool(&options)};
  for (size_t i = 0; i < LENGTH(jumps); i++) {
    self.seconds = jumps[i];
    run_threads(PARTS, run_part, &self);
  }
  assert_int_equal(atomic_load(&self.wrong), 0);
  pyproc_pool_close(self.pool);
}

/* ---- supervision ---- */

static atomic_int recycled;

static void count_recycled(const pyproc_event *event, void *userdata) {
  (void)userdata;
  if (event->kind == PYPROC_EVENT_WORKER_RECYCLED) atomic_fetch_add(&recycled, 1);
}

/* A day is no age for a worker, nor a time-out for its start; pauses between starts are as long as ever. */
static void test_supervision(void **state) {
  (void)state;
  pyproc_pool_options options = shifted_options();
  options.recycle_age_ms = 3600000;
  options.event = count_recycled;
  atomic_store(&recycled, 0);
  pyproc_pool *pool = open_pool(&options);
  for (size_t i = 0; i < LENGTH(jumps); i++) {
    long pid = worker_pid(pool);
    set_clock(jumps[i]);
    pause_ms(300);
    assert_int_equal(worker_pid(pool), pid);
    assert_int_equal(atomic_load(&recycled), 0);
    kill((pid_t)pid, SIGKILL);
    set_clock(-jumps[i]); /* while its successor starts */
    assert_answer(pool, "ping", "1", "1");
    assert_int_equal(pyproc_pool_reload(pool, NULL, NULL), PYPROC_OK);
    assert_int_equal(atomic_exchange(&recycled, 0), 1);
  }
  set_clock(DECADE);
  assert_int_equal(pyproc_pool_drain(pool, 60000, NULL), PYPROC_OK);
  set_clock(-DECADE);
  pyproc_pool_close(pool);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_the_clock_is_shifted, setup, teardown),
      cmocka_unit_test_setup_teardown(test_calls, setup, teardown),
      cmocka_unit_test_setup_teardown(test_supervision, setup, teardown),
  };
  return RUN_TESTS(tests);
}
