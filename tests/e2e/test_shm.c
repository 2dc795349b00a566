/*
 * Shared memory with real workers: that it is used, what does not fit into it, workers that lie there, that are killed
 * at any instant, and memory that is spoilt under both. Also: tests/unit/test_shm_faults.c.
 */
#include "support.h"

#include <signal.h>
#include <unistd.h>

enum { RING_BYTES = 4096, MEMORY_BYTES = 4096 + 2 * RING_BYTES, MAPPINGS_MAX = 16 };

static pyproc_pool_options small_rings(const char *script) {
  pyproc_pool_options options = options_for(script);
  options.channel = "shm";
  options.shm_ring_bytes = RING_BYTES;
  return options;
}

/* The rings of all pools of this process, of that size. */
static int find_rings(uint8_t *found[MAPPINGS_MAX], size_t size) {
  char line[512];
  int count = 0;
  FILE *file = fopen("/proc/self/maps", "r");
  while (file != NULL && count < MAPPINGS_MAX && fgets(line, sizeof line, file) != NULL) {
    unsigned long long from, to;
    if (strstr(line, "memfd:pyproc") == NULL || sscanf(line, "%llx-%llx", &from, &to) != 2) continue;
    if (to - from == size) found[count++] = (uint8_t *)(uintptr_t)from;
  }
  if (file != NULL) fclose(file);
  return count;
}

static int rings_of(const char *channel) {
  uint8_t *found[MAPPINGS_MAX];
  pyproc_pool_options options = options_for("fault_worker.py");
  options.channel = channel;
  options.shm_ring_bytes = 2 * RING_BYTES;
  pyproc_pool *pool = open_pool(&options);
  assert_answer(pool, "ping", "[1]", "[1]");
  int count = find_rings(found, 4096 + 4 * RING_BYTES);
  pyproc_pool_close(pool);
  assert_int_equal(find_rings(found, 4096 + 4 * RING_BYTES), 0);
  return count;
}

static void test_which_channel(void **state) {
  (void)state;
  assert_int_equal(rings_of("shm"), 1);
  assert_int_equal(rings_of("auto"), 1);
  assert_int_equal(rings_of("uds"), 0);
}

/* tests/conformance/worker.py has none. */
static void test_a_worker_without(void **state) {
  (void)state;
  const char *const args[] = {"none", NULL};
  pyproc_pool_options options = options_for("mutant_worker.py");
  options.args = args;
  options.channel = "shm";
  assert_error(open_failure(&options), PYPROC_E_FAILED_PRECONDITION, "option channel is \"shm\"", NOT_RUN);
  options.channel = "auto";
  pyproc_pool_close(open_pool(&options));
}

/* ---- longer than the rings ---- */

static void echo_all(int number, void *argument) {
  pyproc_pool *pool = argument;
  enum { LONGEST = 1 << 20 };
  char *body = malloc(LONGEST + 3), *reply = NULL;
  for (size_t size = 1; body != NULL && size <= LONGEST; size = size * 3 + (size_t)number) {
    memset(body, 'a' + number, size + 1);
    body[0] = body[size + 1] = '"';
    body[size + 2] = '\0';
    if (pyproc_call_json(pool, "ping", body, NULL, &reply, NULL) < 0 || strcmp(reply, body) != 0) abort();
    pyproc_reply_free(reply);
  }
  free(body);
}

static void test_long_messages(void **state) {
  (void)state;
  pyproc_pool_options options = small_rings("fault_worker.py");
  for (int spin = 0; spin < 2; spin++) {
    options.spin_us = spin ? 0 : PYPROC_OFF; /* both sides sleep all the time, or hardly ever */
    pyproc_pool *pool = open_pool(&options);
    run_threads(4, echo_all, pool);
    pyproc_pool_close(pool);
  }
}

/* ---- workers that lie ---- */

enum { ANY = 1 };

typedef struct answer {
  const char *mode;
  int code; /* of the first call; 0: it succeeds */
  const char *part;
  int next_code; /* of one that does not fit into the ring; ANY: it may meet the end of the worker */
} answer;

static const answer answers[] = {
    {"good", 0, NULL, 0},
    {"flags", 0, NULL, 0},
    {"tail_back", PYPROC_E_DATA_LOSS, "has spoilt the memory", 0},
    {"tail_ahead", PYPROC_E_DATA_LOSS, "has spoilt the memory", 0},
    {"tail_far", PYPROC_E_DATA_LOSS, "has spoilt the memory", 0},
    {"garbage", PYPROC_E_DATA_LOSS, "no frame", 0},
    {"closed", PYPROC_E_UNAVAILABLE, "closed its connection", 0},
    {"silent", PYPROC_E_DEADLINE_EXCEEDED, "", 0},
    {"deaf", 0, NULL, PYPROC_E_DEADLINE_EXCEEDED},
    {"head_back", 0, NULL, PYPROC_E_DATA_LOSS},
    {"head_ahead", 0, NULL, PYPROC_E_DATA_LOSS},
    {"hang_up", 0, NULL, ANY},
    {"keep_writing", PYPROC_E_UNAVAILABLE, "closed its connection", 0},
};

/* Calls, and expects that code, or ANY. */
static void expect_code(pyproc_pool *pool, size_t size, int64_t timeout_ms, int code, const char *part) {
  pyproc_call_options options = PYPROC_CALL_OPTIONS_INIT;
  pyproc_error *error = NULL;
  char *reply = NULL, *body = malloc(size + 3);
  assert_non_null(body);
  memset(body, 'x', size + 1);
  body[0] = body[size + 1] = '"';
  body[size + 2] = '\0';
  options.timeout_ms = timeout_ms;
  int result = pyproc_call_json(pool, "ping", body, &options, &reply, &error);
  if (result < 0 && part != NULL) assert_contains(pyproc_error_message(error), part);
  if (code != ANY && result != code)
    fail_msg("%zu bytes: %d, not %d: %s", size, result, code, result < 0 ? pyproc_error_message(error) : "answered");
  pyproc_error_free(error);
  pyproc_reply_free(reply);
  free(body);
}

static void try_answer(const answer *tried) {
  char once[200];
  snprintf(once, sizeof once, "E2E_ONCE=%s", temporary_path(tried->mode));
  const char *const args[] = {tried->mode, NULL}, *const env[] = {once, NULL};
  pyproc_pool_options options = small_rings("hostile_shm_worker.py");
  options.args = args;
  options.env = env;
  options.drain_timeout_ms = PYPROC_OFF;
  pyproc_pool *pool = open_pool(&options);
  int64_t timeout_ms = tried->code == PYPROC_E_DEADLINE_EXCEEDED ? 300 : 0;
  expect_code(pool, 1, timeout_ms, tried->code, tried->part);
  timeout_ms = tried->next_code == PYPROC_E_DEADLINE_EXCEEDED ? 300 : 0;
  expect_code(pool, 3 * RING_BYTES, timeout_ms, tried->next_code, NULL);
  if (strcmp(tried->mode, "deaf") != 0) expect_code(pool, 1, 0, 0, NULL);
  pyproc_pool_close(pool);
}

static void test_lies(void **state) {
  (void)state;
  for (size_t i = 0; i < LENGTH(answers); i++) {
    print_message("  %s\n", answers[i].mode);
    try_answer(&answers[i]);
  }
}

/* ---- killed, and spoilt ---- */

typedef struct traffic {
  pyproc_pool *pool;
  atomic_bool over;
  atomic_int good, failed, wrong;
  bool is_honest;
} traffic;

static void keep_calling(int number, void *argument) {
  traffic *self = argument;
  char body[600];
  pyproc_call_options options = PYPROC_CALL_OPTIONS_INIT;
  options.timeout_ms = self->is_honest ? 0 : 100;
  for (unsigned i = 0; !atomic_load(&self->over); i++) {
    size_t size = i * 37 % 500;
    char *reply = NULL;
    memset(body, 'a' + number, size + 1);
    body[0] = body[size + 1] = '"';
    body[size + 2] = '\0';
    int result = pyproc_call_json(self->pool, "ping", body, &options, &reply, NULL);
    atomic_fetch_add(result >= 0 ? &self->good : &self->failed, 1);
    bool is_right = result >= 0 ? strcmp(reply, body) == 0 : result == PYPROC_E_UNAVAILABLE;
    if (self->is_honest && !is_right) atomic_fetch_add(&self->wrong, 1);
    pyproc_reply_free(reply);
  }
}

static atomic_int deaths, crashes;

static void on_event(const pyproc_event *event, void *userdata) {
  (void)userdata;
  if (event->kind != PYPROC_EVENT_WORKER_DIED) return;
  int number = event->crash != NULL ? event->crash->signal : 0;
  atomic_fetch_add(&deaths, 1);
  if (number == 0 || number == SIGKILL || number == SIGTERM) return;
  print_error("%s\n", event->text);
  atomic_fetch_add(&crashes, 1);
}

typedef struct trouble {
  traffic traffic;
  void (*make)(traffic *self);
} trouble;

static void call_or_trouble(int number, void *argument) {
  trouble *self = argument;
  if (number > 0) {
    keep_calling(number, &self->traffic);
    return;
  }
  self->make(&self->traffic);
  atomic_store(&self->traffic.over, true);
}

static void run_trouble(void (*make)(traffic *self), bool is_honest) {
  pyproc_pool_options options = small_rings("shm_worker.py");
  options.workers = 2;
  options.breaker_failures = options.restart_max = PYPROC_OFF;
  options.event = on_event;
  atomic_store(&deaths, 0);
  atomic_store(&crashes, 0);
  trouble self = {.traffic = {.pool = open_pool(&options), .is_honest = is_honest}, .make = make};
  run_threads(4, call_or_trouble, &self);
  print_message("  %d calls answered, %d failed\n", atomic_load(&self.traffic.good), atomic_load(&self.traffic.failed));
  assert_int_equal(atomic_load(&self.traffic.wrong), 0);
  assert_true(atomic_load(&self.traffic.good) > 0);
  assert_int_equal(pyproc_pool_reload(self.traffic.pool, NULL, NULL), 0); /* what is spoilt may be deaf for good */
  expect_code(self.traffic.pool, 1, 0, 0, NULL);
  pyproc_pool_close(self.traffic.pool);
}

/* One after the other, at any instant of its life from the first answer on. */
static void kill_workers(traffic *self) {
  unsigned seed = (unsigned)now_ms();
  for (int kills = 0; kills < scaled(15); kills++) {
    char *reply = NULL;
    if (pyproc_call_json(self->pool, "pid", "null", NULL, &reply, NULL) < 0) continue;
    long pid = strtol(reply, NULL, 10);
    pyproc_reply_free(reply);
    usleep((unsigned)rand_r(&seed) % 3000);
    if (pid > 1) kill((pid_t)pid, SIGKILL);
    WAIT_FOR(atomic_load(&deaths) > kills);
  }
}

static void test_kills(void **state) {
  (void)state;
  run_trouble(kill_workers, true);
}

enum { WORDS = 10000, WORDS_EACH = 250 };

/* Each worker that is told to spoils so many words of both directions, and ends. */
static void spoil_words(traffic *self) {
  int lives = scaled(WORDS) / WORDS_EACH + 1;
  char body[64];
  snprintf(body, sizeof body, "[%d, %d]", MEMORY_BYTES, WORDS_EACH);
  while (atomic_load(&deaths) < lives) {
    char *reply = NULL;
    pyproc_call_options options = PYPROC_CALL_OPTIONS_INIT;
    options.timeout_ms = 100;
    if (pyproc_call_json(self->pool, "spoil", body, &options, &reply, NULL) >= 0) pause_ms(2);
    pyproc_reply_free(reply);
  }
}

static void test_spoilt_words(void **state) {
  (void)state;
  run_trouble(spoil_words, false);
  assert_int_equal(atomic_load(&crashes), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      E2E_TEST(test_which_channel), E2E_TEST(test_a_worker_without), E2E_TEST(test_long_messages), E2E_TEST(test_lies),
      E2E_TEST(test_kills),         E2E_TEST(test_spoilt_words),
  };
#ifndef PYPROC_PLATFORM_LINUX
  print_message("skipped: no shared memory on this platform\n");
  return 0;
#endif
  return RUN_TESTS(tests);
}
