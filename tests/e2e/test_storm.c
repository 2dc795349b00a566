/*
 * Workers are killed all the time, and no call is lost: alone, and while they are reloaded, resized and recycled. Then workers that
 * are killed before they have answered anything: the pool must not go on starting them.
 *
 * PYPROC_TEST_SEED repeats the draws of a run, whose seed is printed.
 */
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include "storm.pyproc.h"
#include "support.h"

enum { CALLERS = 16, WORKERS = 4, PLACES = 8, KILL_EVERY_MS = 50, LOAD_MAX = 2000, LARGE = 100000, STORM_MS = 5000 };
enum { BESIDE_MS = 1000, KILLS_MIN = 3, SLOW_MS = 60000 };

/* ---- draws ---- */

static uint64_t seed;

/* splitmix64: each thread has a state of its own. */
static uint64_t draw(uint64_t *state) {
  uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));
  z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
  z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
  return z ^ (z >> 31);
}

static int draw_below(uint64_t *state, int count) {
  return (int)(draw(state) % (uint64_t)count);
}

static int choose_seed(void **state) {
  (void)state;
  const char *given = getenv("PYPROC_TEST_SEED");
  seed = given != NULL ? strtoull(given, NULL, 10) : (uint64_t)time(NULL) * 1000 + (uint64_t)getpid() % 1000;
  print_message("PYPROC_TEST_SEED=%llu\n", (unsigned long long)seed);
  return 0;
}

/* ---- calls ---- */

typedef struct storm {
  pyproc_pool *pool;
  void (*disturb)(struct storm *self, uint64_t *state); /* again and again, beside the killer; NULL: nothing */
  int64_t until_ms;
  atomic_bool is_over;
  atomic_long answered[PLACES]; /* the worker that has last answered at a place, and was not killed yet */
  atomic_llong least_edition;   /* older answers are wrong */
  atomic_int calls, failed, wrong, kills, disturbances, disturbances_failed;
  atomic_llong longest_ms;
} storm;

static void note_time(storm *self, int64_t ms) {
  long long longest = atomic_load(&self->longest_ms);
  while (ms > longest && !atomic_compare_exchange_weak(&self->longest_ms, &longest, ms)) {}
}

static bool is_right(const Storm__Answer *answer, int64_t number, const uint8_t *load, size_t size, int64_t edition) {
  if (answer->number != number * 3 + 1 || answer->load.len != size || answer->edition < edition) return false;
  for (size_t i = 0; i < size; i++)
    if (answer->load.data[i] != load[size - 1 - i]) return false;
  return answer->index >= 0 && answer->index < PLACES;
}

static void call_once(storm *self, uint64_t *state, uint8_t *load) {
  Storm__Question question = STORM__QUESTION__INIT;
  Storm__Answer *answer = NULL;
  pyproc_error *error = NULL;
  size_t size = (size_t)draw_below(state, draw_below(state, 50) == 0 ? LARGE : LOAD_MAX);
  question.number = (int64_t)(draw(state) >> 8);
  for (size_t i = 0; i < 8 && i < size; i++) load[i] = (uint8_t)draw(state);
  question.load = (ProtobufCBinaryData){.data = load, .len = size};
  int64_t edition = atomic_load(&self->least_edition), before = now_ms();
  int result = storm_sailor_hail(self->pool, &question, &answer, &error);
  note_time(self, now_ms() - before);
  atomic_fetch_add(&self->calls, 1);
  if (result < 0) {
    atomic_fetch_add(&self->failed, 1);
    fprintf(stderr, "failed: %s: %s (attempts %d, may have run %d)\n", pyproc_strerror(result),
            pyproc_error_message(error), pyproc_error_attempts(error), pyproc_error_may_have_run(error));
  } else if (!is_right(answer, question.number, load, size, edition)) {
    atomic_fetch_add(&self->wrong, 1);
  } else {
    atomic_store(&self->answered[answer->index], (long)answer->pid);
  }
  pyproc_reply_free(answer);
  pyproc_error_free(error);
}

/* ---- kills ---- */

/* A worker that has answered, at a place that is drawn; one that has gone already may be named. */
static long choose_victim(storm *self, uint64_t *state) {
  int first = draw_below(state, PLACES);
  for (int i = 0; i < PLACES; i++) {
    long pid = atomic_exchange(&self->answered[(first + i) % PLACES], 0);
    if (pid != 0 && is_child(pid)) return pid;
  }
  return 0;
}

/* One every KILL_EVERY_MS, or as soon as there is one. */
static void kill_on(storm *self, uint64_t *state) {
  int64_t due_ms = now_ms();
  while (!atomic_load(&self->is_over)) {
    pause_ms(2);
    long pid = now_ms() < due_ms ? 0 : choose_victim(self, state);
    if (pid == 0 || kill((pid_t)pid, SIGKILL) < 0) continue;
    atomic_fetch_add(&self->kills, 1);
    due_ms = now_ms() + KILL_EVERY_MS;
  }
}

/* It blows for so long, and until it has done something, where things are slow. */
static bool is_over(storm *self) {
  int64_t now = now_ms();
  bool has_blown =
      atomic_load(&self->kills) >= KILLS_MIN && (self->disturb == NULL || atomic_load(&self->disturbances) > 0);
  return now >= self->until_ms && (has_blown || now >= self->until_ms + SLOW_MS);
}

static void run_part(int number, void *argument) {
  storm *self = argument;
  uint64_t state = seed + (uint64_t)number;
  uint8_t *load = calloc(1, LARGE);
  if (number == CALLERS) {
    kill_on(self, &state);
  } else if (number == CALLERS + 1) {
    while (self->disturb != NULL && !atomic_load(&self->is_over)) self->disturb(self, &state);
  } else if (load != NULL) {
    while (!is_over(self)) call_once(self, &state, load);
    atomic_store(&self->is_over, true);
  }
  free(load);
}

static int64_t ready_workers(pyproc_pool *pool) {
  pyproc_health health = PYPROC_HEALTH_INIT;
  return pyproc_pool_health(pool, &health) < 0 ? -1 : health.workers_ready;
}

static pyproc_pool_options storm_options(void) {
  pyproc_pool_options options = options_for("storm_worker.py");
  options.workers = WORKERS;
  return options;
}

static atomic_int recycled;

static void count_recycled(const pyproc_event *event, void *userdata) {
  (void)userdata;
  if (event->kind == PYPROC_EVENT_WORKER_RECYCLED) atomic_fetch_add(&recycled, 1);
}

/* Opens, lets it blow for so long, and compares the figures. `workers`: so many must be ready in the end, 0: whatever. */
static void weather(const char *name, const pyproc_pool_options *options, int ms, int workers,
                    void (*disturb)(storm *self, uint64_t *state)) {
  storm self = {.pool = open_pool(options), .disturb = disturb};
  pyproc_health health = PYPROC_HEALTH_INIT;
  self.until_ms = now_ms() + ms;
  run_threads(CALLERS + 2, run_part, &self);
  assert_int_equal(pyproc_pool_health(self.pool, &health), 0);
  print_message("%s: %d ms, %d calls, %d kills, %lld restarts, %d changes, longest call %lld ms; %d failed, %d wrong\n",
                name, ms, atomic_load(&self.calls), atomic_load(&self.kills), (long long)health.restarts,
                atomic_load(&self.disturbances), atomic_load(&self.longest_ms), atomic_load(&self.failed),
                atomic_load(&self.wrong));
  if (workers > 0) WAIT_FOR(ready_workers(self.pool) == workers);
  pyproc_pool_close(self.pool);
  assert_int_equal(atomic_load(&self.failed), 0);
  assert_int_equal(atomic_load(&self.wrong), 0);
  assert_int_equal(atomic_load(&self.disturbances_failed), 0);
  assert_true(atomic_load(&self.kills) >= KILLS_MIN);
  assert_true(health.restarts <= atomic_load(&self.kills)); /* none died but those */
  assert_true(disturb == NULL || atomic_load(&self.disturbances) > 0);
}

static void test_kills(void **state) {
  (void)state;
  pyproc_pool_options options = storm_options();
  weather("kills", &options, scaled(STORM_MS), WORKERS, NULL);
}

static void note_change(storm *self, const char *what, int result, pyproc_error *error) {
  atomic_fetch_add(&self->disturbances, 1);
  if (result >= 0) return;
  atomic_fetch_add(&self->disturbances_failed, 1);
  fprintf(stderr, "%s: %s\n", what, pyproc_error_message(error));
  pyproc_error_free(error);
}

/* A call that begins once a reload has returned is answered by the new code. */
static void reload(storm *self, uint64_t *state) {
  (void)state;
  char edition[32];
  const char *const args[] = {edition, NULL};
  pyproc_pool_options options = storm_options();
  pyproc_error *error = NULL;
  long long next = atomic_load(&self->least_edition) + 1;
  snprintf(edition, sizeof edition, "%lld", next);
  options.args = args;
  int result = pyproc_pool_reload(self->pool, &options, &error);
  if (result >= 0) atomic_store(&self->least_edition, next);
  note_change(self, "reload", result, error);
}

static void test_kills_while_reloading(void **state) {
  (void)state;
  pyproc_pool_options options = storm_options();
  weather("kills and reloads", &options, scaled(BESIDE_MS), WORKERS, reload);
}

static void resize(storm *self, uint64_t *state) {
  pyproc_error *error = NULL;
  int result = pyproc_pool_resize(self->pool, 2 + draw_below(state, PLACES - 3), &error);
  note_change(self, "resize", result, error);
}

static void test_kills_while_resizing(void **state) {
  (void)state;
  pyproc_pool_options options = storm_options();
  weather("kills and resizes", &options, scaled(BESIDE_MS), 0, resize);
}

static void test_kills_while_recycling(void **state) {
  (void)state;
  pyproc_pool_options options = storm_options();
  options.recycle_calls = 50;
  options.recycle_age_ms = 100;
  options.event = count_recycled;
  atomic_store(&recycled, 0);
  weather("kills and recycling", &options, scaled(BESIDE_MS), WORKERS, NULL);
  print_message("%d recycled\n", atomic_load(&recycled));
}

/* ---- workers that answer nothing ---- */

enum { KINDS = 16, FEW = 2, FAILURES = 6 };

/* Kills each worker as soon as it is ready, before anybody has called it. */
typedef struct reaper {
  log_lines lines;
  atomic_bool strikes;
  atomic_int seen[KINDS], killed;
  atomic_int ready_when_open; /* events of WORKER_READY before the first of BREAKER_OPEN */
} reaper;

static void strike(const pyproc_event *event, void *userdata) {
  reaper *self = userdata;
  int before = atomic_fetch_add(&self->seen[event->kind], 1);
  if (event->kind == PYPROC_EVENT_BREAKER_OPEN && before == 0)
    atomic_store(&self->ready_when_open, atomic_load(&self->seen[PYPROC_EVENT_WORKER_READY]));
  if (event->kind != PYPROC_EVENT_WORKER_READY || !atomic_load(&self->strikes)) return;
  kill(event->worker_pid, SIGKILL);
  atomic_fetch_add(&self->killed, 1);
}

static int times(reaper *self, int kind) {
  return atomic_load(&self->seen[kind]);
}

static pyproc_pool_options doomed_options(reaper *self) {
  pyproc_pool_options options = storm_options();
  memset(self, 0, sizeof *self);
  log_lines_init(&self->lines);
  options.event = strike;
  options.event_userdata = self;
  options.log = log_lines_callback;
  options.log_userdata = &self->lines;
  return options;
}

/* Has each worker answer once, so that its death is no failure, and kills them all. */
static void strike_all(pyproc_pool *pool, reaper *self, int workers) {
  long pids[PLACES] = {0};
  for (int found = 0; found < workers;) {
    Storm__Question question = STORM__QUESTION__INIT;
    Storm__Answer *answer = NULL;
    assert_int_equal(storm_sailor_hail(pool, &question, &answer, NULL), PYPROC_OK);
    found += pids[answer->index] == 0;
    pids[answer->index] = (long)answer->pid;
    pyproc_reply_free(answer);
  }
  atomic_store(&self->strikes, true);
  for (int i = 0; i < PLACES; i++)
    if (pids[i] != 0) kill((pid_t)pids[i], SIGKILL);
}

static pyproc_error *hail_in_vain(pyproc_pool *pool, int64_t timeout_ms) {
  pyproc_call_options options = PYPROC_CALL_OPTIONS_INIT;
  Storm__Question question = STORM__QUESTION__INIT;
  Storm__Answer *answer = NULL;
  pyproc_error *error = NULL;
  options.timeout_ms = timeout_ms;
  options.max_attempts = 1;
  assert_true(storm_sailor_hail_with(pool, &question, &options, &answer, &error) < 0);
  return error;
}

/* Each place tries four times (restart_max and 1), then all rest, for a minute or until somebody reloads. */
static void test_places_rest(void **state) {
  (void)state;
  static reaper self;
  pyproc_pool_options options = doomed_options(&self);
  options.breaker_failures = PYPROC_OFF;
  options.workers = FEW;
  pyproc_pool *pool = open_pool(&options);
  strike_all(pool, &self, FEW);
  char resting[64];
  for (int i = 0; i < FEW; i++) {
    snprintf(resting, sizeof resting, "worker %d: failed 4 times within 60000 ms", i);
    WAIT_FOR(log_lines_have(&self.lines, resting));
  }
  assert_error(hail_in_vain(pool, 300), PYPROC_E_DEADLINE_EXCEEDED, "no worker is ready", NOT_RUN);
  assert_int_equal(atomic_load(&self.killed), FEW * 4);
  atomic_store(&self.strikes, false);
  assert_int_equal(pyproc_pool_reload(pool, NULL, NULL), PYPROC_OK);
  WAIT_FOR(ready_workers(pool) == FEW);
  pyproc_pool_close(pool);
}

/* After so many failures in a row nothing is started but one worker now and then, until that has answered a call. */
static void test_breaker(void **state) {
  (void)state;
  static reaper self;
  pyproc_pool_options options = doomed_options(&self);
  options.restart_max = PYPROC_OFF;
  options.breaker_failures = FAILURES;
  options.breaker_cooldown_ms = 200;
  pyproc_pool *pool = open_pool(&options);
  strike_all(pool, &self, WORKERS);
  WAIT_FOR(times(&self, PYPROC_EVENT_BREAKER_OPEN) >= 1);
  assert_true(atomic_load(&self.killed) >= FAILURES);
  WAIT_FOR(times(&self, PYPROC_EVENT_BREAKER_OPEN) >= 3);
  /* those that were being started when it opened, and one for each time that it was half open */
  assert_true(times(&self, PYPROC_EVENT_WORKER_READY) <=
              atomic_load(&self.ready_when_open) + WORKERS - 1 + times(&self, PYPROC_EVENT_BREAKER_HALF_OPEN));
  assert_true(log_lines_have(&self.lines, "killed by signal 9"));
  atomic_store(&self.strikes, false);
  Storm__Question question = STORM__QUESTION__INIT;
  Storm__Answer *answer = NULL;
  pyproc_error *error = NULL;
  int result;
  do { /* fails at once as long as the breaker is open */
    result = storm_sailor_hail(pool, &question, &answer, &error);
    if (result >= 0) break;
    assert_error(error, PYPROC_E_UNAVAILABLE, "breaker is open", NOT_RUN);
    pause_ms(10);
  } while (true);
  pyproc_reply_free(answer);
  WAIT_FOR(times(&self, PYPROC_EVENT_BREAKER_CLOSED) == 1);
  WAIT_FOR(ready_workers(pool) == WORKERS);
  pyproc_pool_close(pool);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      E2E_TEST(test_kills),
      E2E_TEST(test_kills_while_reloading),
      E2E_TEST(test_kills_while_resizing),
      E2E_TEST(test_kills_while_recycling),
      E2E_TEST(test_places_rest),
      E2E_TEST(test_breaker),
  };
  return RUN_TESTS_WITH(tests, choose_seed, NULL);
}
