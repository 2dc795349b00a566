/*
 * Calls of all kinds for long, while workers are recycled: the program does not grow. A compressed soak; PYPROC_TEST_SCALE 5000 makes
 * five million calls.
 */
#include <unistd.h>

#include "storm.pyproc.h"
#include "support.h"

enum {
  CALLERS = 4,
  WORKERS = 2,
  CALLS = 100000,
  WARM_UP = 20000,
  GROWTH_MAX_KIB = 1024,
  RECYCLE_CALLS = 5000,
  COUNTDOWN = 8
};

typedef struct soak {
  pyproc_pool *pool;
  int calls_each;
  atomic_int calls, wrong;
} soak;

static atomic_int recycled, died;

static void count_event(const pyproc_event *event, void *userdata) {
  (void)userdata;
  if (event->kind == PYPROC_EVENT_WORKER_RECYCLED) atomic_fetch_add(&recycled, 1);
  if (event->kind == PYPROC_EVENT_WORKER_DIED) atomic_fetch_add(&died, 1);
}

/* ---- one call of each kind; each returns whether it went right ---- */

static bool hail(pyproc_pool *pool, int64_t number, const pyproc_call_options *options, int expected) {
  static const uint8_t load[] = "load";
  Storm__Question question = STORM__QUESTION__INIT;
  Storm__Answer *answer = NULL;
  pyproc_error *error = NULL;
  question.number = number;
  question.load = (ProtobufCBinaryData){.data = (uint8_t *)(uintptr_t)load, .len = 4};
  int result = storm_sailor_hail_with(pool, &question, options, &answer, &error);
  bool right = result == expected;
  if (right && result >= 0) right = answer->number == number * 3 + 1 && memcmp(answer->load.data, "daol", 4) == 0;
  if (!right) fprintf(stderr, "hail: %d %s\n", result, pyproc_error_message(error));
  pyproc_reply_free(answer);
  pyproc_error_free(error);
  return right;
}

static bool hail_plain(pyproc_pool *pool, int64_t number) {
  return hail(pool, number, NULL, PYPROC_OK);
}

static bool hail_with_metadata(pyproc_pool *pool, int64_t number) {
  const pyproc_metadata metadata[] = {{"traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", 0}};
  pyproc_call_options options = PYPROC_CALL_OPTIONS_INIT;
  options.metadata = metadata;
  options.metadata_count = 1;
  return hail(pool, number, &options, PYPROC_OK);
}

static bool hail_in_vain(pyproc_pool *pool, int64_t number) {
  return hail(pool, -1 - number, NULL, PYPROC_E_UNKNOWN);
}

static bool hail_cancelled(pyproc_pool *pool, int64_t number) {
  pyproc_call_options options = PYPROC_CALL_OPTIONS_INIT;
  if (pyproc_cancel_new(&options.cancel) < 0) return false;
  pyproc_cancel_fire(options.cancel);
  bool right = hail(pool, number, &options, PYPROC_E_CANCELLED);
  pyproc_cancel_free(options.cancel);
  return right;
}

static bool hail_by_name(pyproc_pool *pool, int64_t number) {
  char body[64], expected[64], *reply = NULL;
  snprintf(body, sizeof body, "{\"number\": \"%lld\"}", (long long)number);
  snprintf(expected, sizeof expected, "\"number\":\"%lld\"", (long long)number * 3 + 1);
  int result = pyproc_call_json(pool, "storm.Sailor/Hail", body, NULL, &reply, NULL);
  bool right = result == PYPROC_OK && strstr(reply, expected) != NULL;
  pyproc_reply_free(reply);
  return right;
}

static bool hail_later(pyproc_pool *pool, int64_t number) {
  Storm__Question question = STORM__QUESTION__INIT;
  Storm__Answer *answer = NULL;
  pyproc_future *future = NULL;
  question.number = number;
  int result = storm_sailor_hail_start(pool, &question, NULL, &future, NULL);
  if (result >= 0 && number % 4 != 0) result = storm_sailor_hail_finish(future, &answer, NULL);
  bool right = result >= 0 && (answer == NULL || answer->number == number * 3 + 1);
  pyproc_reply_free(answer);
  pyproc_future_free(future); /* one in four is given up */
  return right;
}

static bool watch(pyproc_pool *pool, int64_t number) {
  Storm__Question question = STORM__QUESTION__INIT;
  Storm__Answer *answer = NULL;
  pyproc_stream *stream = NULL;
  question.number = COUNTDOWN;
  int result = storm_sailor_watch_open(pool, &question, NULL, &stream, NULL), seen = 0;
  int wanted = number % 4 == 0 ? COUNTDOWN / 2 : COUNTDOWN + 1; /* one in four is closed early */
  while (result >= 0 && seen < wanted && (result = storm_sailor_watch_recv(stream, &answer, NULL)) == 1) {
    seen++;
    pyproc_reply_free(answer);
  }
  storm_sailor_watch_close(stream);
  return result >= 0 && seen == (wanted < COUNTDOWN ? wanted : COUNTDOWN);
}

/* What is not plain, one in 128 each. */
static bool (*const kinds[])(pyproc_pool *pool, int64_t number) = {
    hail_with_metadata, hail_in_vain, hail_cancelled, hail_by_name, hail_later, watch,
};

static void call_on(int number, void *argument) {
  soak *self = argument;
  (void)number;
  for (int i = 0; i < self->calls_each; i++) {
    size_t kind = (size_t)i % 128;
    bool right = kind < LENGTH(kinds) ? kinds[kind](self->pool, i / 128) : hail_plain(self->pool, i);
    if (!right) atomic_fetch_add(&self->wrong, 1);
    atomic_fetch_add(&self->calls, 1);
  }
}

static void make_calls(soak *self, int count) {
  self->calls_each = count / CALLERS + 1;
  run_threads(CALLERS, call_on, self);
}

/* A successor whose predecessors have not all left yet has another place made for it, which stays and has two descriptors. */
enum { PLACE_FDS = 2 };

/* No worker is being replaced any more. */
static void settle(soak *self) {
  pyproc_health health = PYPROC_HEALTH_INIT;
  WAIT_FOR(pyproc_pool_health(self->pool, &health) >= 0 && health.workers_ready == WORKERS &&
           count_children(NULL) == WORKERS);
}

static void test_soak(void **state) {
  (void)state;
  pyproc_pool_options options = options_for("storm_worker.py");
  options.workers = WORKERS;
  options.recycle_calls = RECYCLE_CALLS;
  options.event = count_event;
  soak self = {.pool = open_pool(&options)};
  long threads = status_of(getpid(), "Threads:");
  do make_calls(&self, scaled(100) < 100 ? scaled(WARM_UP) : WARM_UP);
  while (atomic_load(&recycled) == 0);
  settle(&self);
  int fds = count_fds();
  long before_kib = status_of(getpid(), "VmRSS:");
  int64_t begun_ms = now_ms();
  make_calls(&self, scaled(CALLS));
  int64_t took_ms = now_ms() - begun_ms;
  settle(&self);
  WAIT_FOR(count_fds() <= fds + WORKERS * PLACE_FDS);
  long after_kib = status_of(getpid(), "VmRSS:");
  print_message("%d calls, %lld a second, %d recycled; resident %ld KiB before, %ld after; %d descriptors before, %d "
                "after; %ld threads\n",
                atomic_load(&self.calls), (long long)scaled(CALLS) * 1000 / (took_ms > 0 ? took_ms : 1),
                atomic_load(&recycled), before_kib, after_kib, fds, count_fds(), threads);
  assert_int_equal(atomic_load(&self.wrong), 0);
  assert_int_equal(atomic_load(&died), 0);
  assert_int_equal(status_of(getpid(), "Threads:"), threads);
  assert_true(IS_SANITIZED || is_under_valgrind() || after_kib - before_kib < GROWTH_MAX_KIB);
  pyproc_pool_close(self.pool);
}

int main(void) {
  const struct CMUnitTest tests[] = {E2E_TEST(test_soak)};
  return RUN_TESTS(tests);
}
