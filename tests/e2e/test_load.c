/*
 * Many callers: everybody gets an answer of their own, the queue is bounded, and no fast call waits for a slow one.
 */
#include <limits.h>
#include <sched.h>
#include <unistd.h>

#include "support.h"

static const char *const protocols[] = {"protobuf", "json"};

static pyproc_pool *open_faults(const char *protocol, int workers) {
  pyproc_pool_options options = options_for("fault_worker.py");
  options.protocol = protocol;
  options.workers = workers;
  return open_pool(&options);
}

typedef struct crowd {
  pyproc_pool *pool;
  int rounds;
  atomic_int wrong;
} crowd;

static void ping_own(int number, void *argument) {
  crowd *all = argument;
  for (int i = 0; i < all->rounds; i++) {
    char body[64], *reply = NULL;
    pyproc_error *error = NULL;
    snprintf(body, sizeof body, "{\"number\":%d,\"round\":%d}", number, i);
    bool right = pyproc_call_json(all->pool, "ping", body, NULL, &reply, &error) == 0 && strcmp(reply, body) == 0;
    if (!right) {
      atomic_fetch_add(&all->wrong, 1);
      fprintf(stderr, "%s: %s\n", body, error != NULL ? pyproc_error_message(error) : reply);
    }
    pyproc_reply_free(reply);
    pyproc_error_free(error);
  }
}

static bool is_idle(pyproc_pool *pool) {
  pyproc_health health = PYPROC_HEALTH_INIT;
  return pyproc_pool_health(pool, &health) == 0 && health.in_flight == 0 && health.queued == 0;
}

#ifdef PYPROC_PLATFORM_LINUX
/* Callers keep off their worker's processor; which ones they may use is not ours to change. */
static void ping_and_look(int number, void *argument) {
  crowd *all = argument;
  cpu_set_t before, after;
  int failed = sched_getaffinity(0, sizeof before, &before);
  ping_own(number, argument);
  failed |= sched_getaffinity(0, sizeof after, &after);
  if (failed || !CPU_EQUAL(&before, &after)) atomic_fetch_add(&all->wrong, 1);
}

static void test_processors(void **state) {
  (void)state;
  for (size_t i = 0; i < LENGTH(protocols); i++) {
    crowd all = {.pool = open_faults(protocols[i], 1), .rounds = scaled(2000)};
    run_threads(16, ping_and_look, &all);
    assert_int_equal(atomic_load(&all.wrong), 0);
    pyproc_pool_close(all.pool);
  }
}
#endif

static void test_200_threads(void **state) {
  (void)state;
  for (size_t i = 0; i < LENGTH(protocols); i++)
    for (int workers = 1; workers <= 3; workers += 2) {
      crowd all = {.pool = open_faults(protocols[i], workers), .rounds = scaled(20)};
      run_threads(200, ping_own, &all);
      assert_int_equal(atomic_load(&all.wrong), 0);
      pyproc_health health = PYPROC_HEALTH_INIT;
      WAIT_FOR(is_idle(all.pool)); /* a worker may still have to say that a call was taken back from it */
      assert_int_equal(pyproc_pool_health(all.pool, &health), 0);
      assert_int_equal(health.calls, 200 * all.rounds);
      assert_int_equal(health.failures, 0);
      pyproc_pool_close(all.pool);
    }
}

/* Workers die all the time; a call either works or says that it may have run. */
static void ping_or_crash(int number, void *argument) {
  crowd *all = argument;
  for (int i = 0; i < all->rounds; i++) {
    char body[64], *reply = NULL;
    pyproc_error *error = NULL;
    snprintf(body, sizeof body, "{\"number\":%d,\"round\":%d}", number, i);
    bool dies = number == 0 && i % 4 == 0;
    int result =
        pyproc_call_json(all->pool, dies ? "die" : "ping", dies ? "{\"status\": 1}" : body, NULL, &reply, &error);
    bool right = dies || (result == 0 && strcmp(reply, body) == 0) ||
                 (result == PYPROC_E_UNAVAILABLE && pyproc_error_may_have_run(error) == 1);
    if (!right) {
      atomic_fetch_add(&all->wrong, 1);
      fprintf(stderr, "%s: %d %s\n", body, result, error != NULL ? pyproc_error_message(error) : reply);
    }
    pyproc_reply_free(reply);
    pyproc_error_free(error);
  }
}

static void test_crashes_among_calls(void **state) {
  (void)state;
  for (size_t i = 0; i < LENGTH(protocols); i++) {
    crowd all = {.pool = open_faults(protocols[i], 2), .rounds = scaled(20)};
    run_threads(12, ping_or_crash, &all);
    assert_int_equal(atomic_load(&all.wrong), 0);
    assert_answer(all.pool, "ping", "1", "1");
    pyproc_pool_close(all.pool);
  }
}

/* ---- calls that are held ---- */

typedef struct held {
  pyproc_pool *pool;
  const char *begun, *until; /* files */
  char body[2 * 4096 + 64];
  int callers;
  atomic_int good, full, other;
} held;

static held *open_held(const pyproc_pool_options *options, int callers) {
  static held self;
  self = (held){.pool = open_pool(options),
                .begun = temporary_path("begun"),
                .until = temporary_path("until"),
                .callers = callers};
  snprintf(self.body, sizeof self.body, "{\"begun\":\"%s\",\"until\":\"%s\"}", self.begun, self.until);
  return &self;
}

static void close_held(held *self) {
  pyproc_pool_close(self->pool);
  unlink(self->begun);
  unlink(self->until);
}

static void call_held(held *all, const char *method) {
  char *reply = NULL;
  pyproc_error *error = NULL;
  int result = pyproc_call_json(all->pool, method, all->body, NULL, &reply, &error);
  if (result == 0)
    atomic_fetch_add(&all->good, 1);
  else if (result == PYPROC_E_RESOURCE_EXHAUSTED && strstr(pyproc_error_message(error), "queue_limit") != NULL &&
           pyproc_error_may_have_run(error) == 0)
    atomic_fetch_add(&all->full, 1);
  else
    atomic_fetch_add(&all->other, 1);
  pyproc_reply_free(reply);
  pyproc_error_free(error);
}

/* ---- the queue ---- */

static bool all_are_settled(held *all) {
  pyproc_health health = PYPROC_HEALTH_INIT;
  return pyproc_pool_health(all->pool, &health) == 0 &&
         health.in_flight + health.queued + atomic_load(&all->full) >= all->callers;
}

/* Nobody is answered before all are in the queue, at work or refused, which the first thread sees to. */
static void hold_or_release(int number, void *argument) {
  held *all = argument;
  if (number > 0) {
    call_held(all, "hold");
    return;
  }
  for (int64_t end = now_ms() + 20000; !all_are_settled(all) && now_ms() < end;) pause_ms(2);
  if (!touch(all->until)) atomic_fetch_add(&all->other, 1);
}

static void run_queue(int64_t queue_limit, int64_t max_in_flight, int callers, int least_full, int most_full) {
  pyproc_pool_options options = options_for("fault_worker.py");
  options.queue_limit = queue_limit;
  options.max_in_flight = max_in_flight;
  held *all = open_held(&options, callers);
  run_threads(1 + callers, hold_or_release, all);
  assert_int_equal(atomic_load(&all->other), 0);
  assert_int_equal(atomic_load(&all->good) + atomic_load(&all->full), callers);
  assert_true(atomic_load(&all->full) >= least_full);
  assert_true(atomic_load(&all->full) <= most_full);
  assert_answer(all->pool, "ping", "1", "1");
  close_held(all);
}

static void test_queue_full(void **state) {
  (void)state;
  run_queue(2, 1, 12, 1, 11);
  run_queue(PYPROC_OFF, 1, 6, 1, 5);
  run_queue(PYPROC_UNLIMITED, 1, 8, 0, 0);
  run_queue(0, 0, 8, 0, 0);
}

/* ---- fast and slow ---- */

/* The first is held until all others have their answers. */
static void run_race(int number, void *argument) {
  held *all = argument;
  if (number == 0) {
    call_held(all, "hold");
    return;
  }
  for (int64_t end = now_ms() + 20000; access(all->begun, F_OK) != 0 && now_ms() < end;) pause_ms(2);
  call_held(all, "ping");
  if (atomic_load(&all->good) == all->callers - 1 && !touch(all->until)) atomic_fetch_add(&all->other, 1);
}

static void race_after(int rounds) {
  for (size_t i = 0; i < LENGTH(protocols); i++) {
    pyproc_pool_options options = options_for("fault_worker.py");
    options.protocol = protocols[i];
    options.workers = 2;
    held *all = open_held(&options, 1 + scaled(100));
    crowd first = {.pool = all->pool, .rounds = rounds};
    run_threads(20, ping_own, &first);
    run_threads(all->callers, run_race, all);
    assert_int_equal(atomic_load(&first.wrong), 0);
    assert_int_equal(atomic_load(&all->good), all->callers);
    assert_int_equal(atomic_load(&all->other), 0);
    close_held(all);
  }
}

static void test_fast_among_slow(void **state) {
  (void)state;
  race_after(0);
}

/* The same after many fast calls, when the workers were given calls in advance. */
static void test_fast_among_slow_after_many_fast(void **state) {
  (void)state;
  race_after(scaled(50));
}

static bool keep_calling(held *all, int number, const char *until, int calls) {
  crowd one = {.pool = all->pool, .rounds = 1};
  int64_t end = now_ms() + 20000;
  for (int i = 0; (until == NULL || access(until, F_OK) != 0) && i < calls && now_ms() < end; i++)
    ping_own(number, &one);
  return atomic_load(&one.wrong) == 0;
}

/* The first calls like the others, and is then held until all of these have had many more answers. */
static void run_in_the_midst(int number, void *argument) {
  held *all = argument;
  bool right = keep_calling(all, number, number == 0 ? NULL : all->begun, number == 0 ? scaled(300) : INT_MAX);
  if (number == 0) {
    call_held(all, "hold");
  } else {
    right &= keep_calling(all, number, NULL, scaled(300));
    atomic_fetch_add(&all->good, 1);
  }
  if (!right) atomic_fetch_add(&all->other, 1);
  if (atomic_load(&all->good) == all->callers - 1 && !touch(all->until)) atomic_fetch_add(&all->other, 1);
}

/* However few workers the calls go to as long as they are short, one that is not holds up nobody for long. */
static void test_slow_in_the_midst_of_fast(void **state) {
  (void)state;
  for (int round = 0; round < 4; round++) {
    pyproc_pool_options options = options_for("fault_worker.py");
    options.protocol = protocols[round % 2];
    options.workers = 4;
    held *all = open_held(&options, 9);
    run_threads(all->callers, run_in_the_midst, all);
    assert_int_equal(atomic_load(&all->good), all->callers);
    assert_int_equal(atomic_load(&all->other), 0);
    close_held(all);
  }
}

/* Both workers get work. */
static void note_pid(int number, void *argument) {
  long *pids = argument;
  char *reply = NULL;
  pyproc_pool *pool = (pyproc_pool *)pids[0];
  if (pyproc_call_json(pool, number % 2 == 0 ? "sleep" : "pid", "{\"ms\": 50}", NULL, &reply, NULL) == 0 &&
      number % 2 == 1)
    pids[1 + number] = strtol(reply, NULL, 10);
  pyproc_reply_free(reply);
}

static void test_all_workers_work(void **state) {
  (void)state;
  long pids[41] = {0}, first = 0;
  bool several = false;
  pyproc_pool *pool = open_faults(NULL, 3);
  pids[0] = (long)pool;
  run_threads(40, note_pid, pids);
  for (int i = 1; i <= 40; i++) {
    if (first == 0) first = pids[i];
    if (pids[i] != 0 && pids[i] != first) several = true;
  }
  assert_true(several);
  pyproc_pool_close(pool);
}

static void test_several_pools(void **state) {
  (void)state;
  pyproc_pool *pools[3];
  for (size_t i = 0; i < LENGTH(pools); i++) pools[i] = open_faults(protocols[i % 2], 1);
  for (size_t i = 0; i < LENGTH(pools); i++) assert_answer(pools[i], "ping", "1", "1");
  pyproc_pool_close(pools[1]);
  assert_answer(pools[0], "ping", "2", "2");
  assert_answer(pools[2], "ping", "3", "3");
  pyproc_pool_close(pools[0]);
  pyproc_pool_close(pools[2]);
}

int main(void) {
  const struct CMUnitTest tests[] = {
#ifdef PYPROC_PLATFORM_LINUX
      E2E_TEST(test_processors),
#endif
      E2E_TEST(test_200_threads),
      E2E_TEST(test_crashes_among_calls),
      E2E_TEST(test_queue_full),
      E2E_TEST(test_fast_among_slow),
      E2E_TEST(test_fast_among_slow_after_many_fast),
      E2E_TEST(test_slow_in_the_midst_of_fast),
      E2E_TEST(test_all_workers_work),
      E2E_TEST(test_several_pools),
  };
  return RUN_TESTS(tests);
}
