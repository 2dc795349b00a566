/*
 * Deadlines and cancel tokens, and that a late answer never reaches another call.
 */
#include "support.h"

static const char *const protocols[] = {"protobuf", "json"};

static pyproc_pool *open_faults(const char *protocol) {
  pyproc_pool_options options = options_for("fault_worker.py");
  options.protocol = protocol;
  return open_pool(&options);
}

#define EACH_PROTOCOL(pool) \
  for (size_t round_ = 0; round_ < LENGTH(protocols); round_++) \
    for (pyproc_pool *pool = open_faults(protocols[round_]); pool != NULL; pyproc_pool_close(pool), pool = NULL)

static void test_deadline_passes(void **state) {
  (void)state;
  EACH_PROTOCOL(pool) {
    long pid = worker_pid(pool);
    pyproc_error *error = call_failure(pool, "sleep", "{\"ms\": 1000}", 100);
    assert_int_equal(pyproc_error_worker_pid(error), pid);
    assert_int_equal(pyproc_error_attempts(error), 1);
    assert_error(error, PYPROC_E_DEADLINE_EXCEEDED, "sleep had no answer within 100 ms", RAN);
    assert_answer(pool, "ping", "1", "1");
  }
}

static void test_negative_timeout(void **state) {
  (void)state;
  EACH_PROTOCOL(pool) {
    const int64_t timeouts[] = {-1, -2, -1000, INT64_MIN};
    for (size_t i = 0; i < LENGTH(timeouts); i++) {
      pyproc_error *error = call_failure(pool, "die", "{\"status\": 1}", timeouts[i]);
      assert_int_equal(pyproc_error_attempts(error), 0);
      assert_error(error, PYPROC_E_DEADLINE_EXCEEDED, "before it was sent", NOT_RUN);
    }
    pyproc_health health = PYPROC_HEALTH_INIT;
    assert_answer(pool, "ping", "2", "2");
    assert_int_equal(pyproc_pool_health(pool, &health), 0);
    assert_int_equal(health.restarts, 0);
    assert_int_equal(health.calls, 5);
    assert_int_equal(health.failures, 4);
  }
}

static void test_no_deadline(void **state) {
  (void)state;
  EACH_PROTOCOL(pool) {
    pyproc_call_options options = PYPROC_CALL_OPTIONS_INIT;
    const int64_t timeouts[] = {PYPROC_TIMEOUT_NONE, PYPROC_TIMEOUT_NONE - 1, INT64_C(1) << 50, 86400000};
    for (size_t i = 0; i < LENGTH(timeouts); i++) {
      char *reply = NULL;
      options.timeout_ms = timeouts[i];
      assert_int_equal(pyproc_call_json(pool, "ping", "3", &options, &reply, NULL), 0);
      assert_string_equal(reply, "3");
      pyproc_reply_free(reply);
    }
  }
}

/* The pool's default, where neither the call nor the schema says something; the schema's goes before it. */
static void test_default_timeouts(void **state) {
  (void)state;
  pyproc_pool_options options = options_for("fault_worker.py");
  options.call_timeout_ms = 100;
  pyproc_pool *pool = open_pool(&options);
  assert_error(call_failure(pool, "sleep", "{\"ms\": 1000}", 0), PYPROC_E_DEADLINE_EXCEEDED, "100 ms", RAN);
  pyproc_pool_close(pool);
}

/* What waited behind a slow call, and was given up, has not run. */
static void test_unstarted_has_not_run(void **state) {
  (void)state;
  const char *const env_format = "E2E_NOTES=%s";
  char notes[200];
  const char *const env[] = {notes, NULL};
  snprintf(notes, sizeof notes, env_format, temporary_path("notes"));
  pyproc_pool_options options = options_for("fault_worker.py");
  options.env = env;
  for (size_t i = 0; i < LENGTH(protocols); i++) {
    options.protocol = protocols[i];
    pyproc_pool *pool = open_pool(&options);
    long pid = worker_pid(pool);
    assert_error(call_failure(pool, "stay", "{\"ms\": 900}", 100), PYPROC_E_DEADLINE_EXCEEDED, "", RAN);
    assert_error(call_failure(pool, "die", "{\"status\": 1}", 100), PYPROC_E_DEADLINE_EXCEEDED, "", NOT_RUN);
    assert_answer(pool, "ping", "4", "4");
    assert_int_equal(worker_pid(pool), pid); /* die was revoked, the worker lives */
    pyproc_pool_close(pool);
  }
}

/* ---- late replies ---- */

typedef struct late {
  pyproc_pool *pool;
  int rounds;
  atomic_int wrong, good, timed_out;
} late;

/* Every second call asks for more time than it has. */
static void call_late(int number, void *argument) {
  late *all = argument;
  for (int i = 0; i < all->rounds; i++) {
    char body[64], *reply = NULL;
    bool slow = (i + number) % 2 == 0;
    pyproc_call_options options = PYPROC_CALL_OPTIONS_INIT;
    options.timeout_ms = slow ? 1 + i % 3 : 60000;
    snprintf(body, sizeof body, "{\"ms\":%d,\"number\":%d,\"round\":%d}", slow ? 3 : 0, number, i);
    int result = pyproc_call_json(all->pool, "sleep", body, &options, &reply, NULL);
    if (result == 0 && strcmp(reply, body) == 0)
      atomic_fetch_add(&all->good, 1);
    else if (result == PYPROC_E_DEADLINE_EXCEEDED && slow)
      atomic_fetch_add(&all->timed_out, 1);
    else {
      fprintf(stderr, "%s: %d %s\n", body, result, result == 0 ? reply : "");
      atomic_fetch_add(&all->wrong, 1);
    }
    pyproc_reply_free(reply);
  }
}

static bool is_idle(pyproc_pool *pool) {
  pyproc_health health = PYPROC_HEALTH_INIT;
  pyproc_pool_health(pool, &health);
  return health.in_flight == 0 && health.queued == 0;
}

static void test_late_replies(void **state) {
  (void)state;
  for (size_t i = 0; i < LENGTH(protocols); i++) {
    pyproc_pool_options options = options_for("fault_worker.py");
    options.protocol = protocols[i];
    options.workers = 2;
    late all = {.pool = open_pool(&options), .rounds = scaled(40)};
    run_threads(16, call_late, &all);
    assert_int_equal(atomic_load(&all.wrong), 0);
    assert_true(atomic_load(&all.good) >= 16 * (all.rounds / 2));
    assert_true(atomic_load(&all.timed_out) > 0);
    assert_answer(all.pool, "ping", "5", "5");
    WAIT_FOR(is_idle(all.pool));
    pyproc_pool_close(all.pool);
  }
}

/* ---- half of all calls time out, at random moments ---- */

enum { HAMMERS = 16, HAMMER_CALLS = 10000, HAMMER_WORKERS = 4 };

typedef struct hammer {
  pyproc_pool *pool;
  int rounds;
  atomic_int wrong, good, late, stops[PYPROC_STOP_KILLED + 1];
} hammer;

static uint32_t next_random(uint32_t *state) {
  *state = *state * 1664525u + 1013904223u;
  return *state >> 16;
}

/* One call, whose body no other call has. A handler that would go on for a minute is ended by the deadline alone. */
static void strike(hammer *all, int number, int round, uint32_t *random) {
  char body[64], *reply = NULL;
  pyproc_error *error = NULL;
  pyproc_call_options options = PYPROC_CALL_OPTIONS_INIT;
  bool is_late = next_random(random) % 2 == 0;
  int ms = is_late ? 60000 : (int)(next_random(random) % 2);
  options.timeout_ms = is_late ? 1 + next_random(random) % 5 : 60000;
  snprintf(body, sizeof body, "{\"ms\":%d,\"number\":%d,\"round\":%d}", ms, number, round);
  int result = pyproc_call_json(all->pool, "sleep", body, &options, &reply, &error);
  if (!is_late && result == 0 && strcmp(reply, body) == 0) {
    atomic_fetch_add(&all->good, 1);
  } else if (is_late && result == PYPROC_E_DEADLINE_EXCEEDED) {
    atomic_fetch_add(&all->late, 1);
    atomic_fetch_add(&all->stops[pyproc_error_stop(error)], 1);
  } else {
    fprintf(stderr, "%s: %d %s\n", body, result, result == 0 ? reply : pyproc_error_message(error));
    atomic_fetch_add(&all->wrong, 1);
  }
  pyproc_reply_free(reply);
  pyproc_error_free(error);
}

static void strike_on(int number, void *argument) {
  hammer *all = argument;
  uint32_t random = (uint32_t)number * 7919u + 1;
  for (int i = 0; i < all->rounds; i++) strike(all, number, i, &random);
}

static void test_hammer(void **state) {
  (void)state;
  for (size_t i = 0; i < LENGTH(protocols); i++) {
    pyproc_pool_options options = options_for("fault_worker.py");
    options.protocol = protocols[i];
    options.workers = HAMMER_WORKERS;
    options.cancel_grace_ms = 60000;
    hammer all = {.pool = open_pool(&options), .rounds = scaled(HAMMER_CALLS) / HAMMERS + 1};
    pyproc_health health = PYPROC_HEALTH_INIT;
    run_threads(HAMMERS, strike_on, &all);
    print_message("  %d answered, %d late: not begun %d, asked %d, interrupted %d\n", atomic_load(&all.good),
                  atomic_load(&all.late), atomic_load(&all.stops[PYPROC_STOP_NONE]),
                  atomic_load(&all.stops[PYPROC_STOP_ASKED]), atomic_load(&all.stops[PYPROC_STOP_INTERRUPTED]));
    assert_int_equal(atomic_load(&all.wrong), 0);
    assert_true(atomic_load(&all.good) > 0 && atomic_load(&all.late) > 0);
    assert_int_equal(atomic_load(&all.stops[PYPROC_STOP_KILLED]), 0);
    assert_answer(all.pool, "ping", "5", "5");
    WAIT_FOR(is_idle(all.pool));
    assert_int_equal(pyproc_pool_health(all.pool, &health), 0);
    assert_int_equal(health.restarts, 0);
    pyproc_pool_close(all.pool);
  }
}

/* ---- cancel ---- */

static int call_with(pyproc_pool *pool, const char *method, const char *body, pyproc_cancel *token,
                     pyproc_error **reterr) {
  char *reply = NULL;
  pyproc_call_options options = PYPROC_CALL_OPTIONS_INIT;
  options.cancel = token;
  int result = pyproc_call_json(pool, method, body, &options, &reply, reterr);
  pyproc_reply_free(reply);
  return result;
}

static void test_fired_before(void **state) {
  (void)state;
  EACH_PROTOCOL(pool) {
    pyproc_cancel *token = NULL;
    pyproc_error *error = NULL;
    assert_int_equal(pyproc_cancel_new(&token), 0);
    assert_int_equal(pyproc_cancel_fired(token), 0);
    pyproc_cancel_fire(token);
    pyproc_cancel_fire(token);
    assert_int_equal(pyproc_cancel_fired(token), 1);
    assert_int_equal(call_with(pool, "die", "{\"status\": 1}", token, &error), PYPROC_E_CANCELLED);
    assert_error(error, PYPROC_E_CANCELLED, "before it was sent", NOT_RUN);
    pyproc_cancel_free(token);
    assert_answer(pool, "ping", "6", "6");
  }
}

static void *fire_later(void *token) {
  pause_ms(50);
  pyproc_cancel_fire(token);
  return NULL;
}

static void test_fired_while(void **state) {
  (void)state;
  EACH_PROTOCOL(pool) {
    pyproc_cancel *token = NULL;
    pyproc_error *error = NULL;
    pthread_t thread;
    assert_int_equal(pyproc_cancel_new(&token), 0);
    assert_int_equal(pthread_create(&thread, NULL, fire_later, token), 0);
    assert_int_equal(call_with(pool, "sleep", "{\"ms\": 1000}", token, &error), PYPROC_E_CANCELLED);
    pthread_join(thread, NULL);
    assert_error(error, PYPROC_E_CANCELLED, "sleep was cancelled", RAN);
    pyproc_cancel_free(token);
    assert_answer(pool, "ping", "7", "7");
  }
}

static void test_unfired(void **state) {
  (void)state;
  EACH_PROTOCOL(pool) {
    pyproc_cancel *token = NULL;
    assert_int_equal(pyproc_cancel_new(&token), 0);
    for (int i = 0; i < 10; i++) assert_int_equal(call_with(pool, "ping", "1", token, NULL), 0);
    pyproc_cancel_fire(token);
    assert_int_equal(call_with(pool, "ping", "1", token, NULL), PYPROC_E_CANCELLED);
    pyproc_cancel_free(token);
  }
}

/* One token for many calls; it is freed while they are held by it. */
typedef struct group {
  pyproc_pool *pool;
  pyproc_cancel *token;
  atomic_int cancelled, other, waiting;
} group;

static void call_in_group(int number, void *argument) {
  group *all = argument;
  (void)number;
  atomic_fetch_add(&all->waiting, 1);
  int result = call_with(all->pool, "sleep", "{\"ms\": 50000}", all->token, NULL);
  atomic_fetch_add(result == PYPROC_E_CANCELLED ? &all->cancelled : &all->other, 1);
}

static void *fire_and_free(void *argument) {
  group *all = argument;
  while (atomic_load(&all->waiting) < 20) pause_ms(1);
  pause_ms(100);
  pyproc_cancel_fire(all->token);
  pyproc_cancel_free(all->token);
  return NULL;
}

static void test_group(void **state) {
  (void)state;
  EACH_PROTOCOL(pool) {
    pthread_t thread;
    group all = {.pool = pool};
    assert_int_equal(pyproc_cancel_new(&all.token), 0);
    assert_int_equal(pthread_create(&thread, NULL, fire_and_free, &all), 0);
    run_threads(20, call_in_group, &all);
    pthread_join(thread, NULL);
    assert_int_equal(atomic_load(&all.cancelled), 20);
    assert_answer(pool, "ping", "8", "8");
  }
}

static void test_null_tokens(void **state) {
  (void)state;
  pyproc_cancel_fire(NULL);
  pyproc_cancel_free(NULL);
  assert_int_equal(pyproc_cancel_fired(NULL), 0);
  assert_int_equal(pyproc_cancel_new(NULL), PYPROC_E_INVALID_ARGUMENT);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      E2E_TEST(test_deadline_passes),
      E2E_TEST(test_negative_timeout),
      E2E_TEST(test_no_deadline),
      E2E_TEST(test_default_timeouts),
      E2E_TEST(test_unstarted_has_not_run),
      E2E_TEST(test_late_replies),
      E2E_TEST(test_hammer),
      E2E_TEST(test_fired_before),
      E2E_TEST(test_fired_while),
      E2E_TEST(test_unfired),
      E2E_TEST(test_group),
      E2E_TEST(test_null_tokens),

  };
  return RUN_TESTS(tests);
}
