/*
 * Frames that are larger than sockets, caps and patience.
 */
#include <signal.h>

#include "support.h"

static const char *const protocols[] = {"protobuf", "json"};

static pyproc_pool *open_echo(const char *protocol) {
  pyproc_pool_options options = options_for("conformance_worker.py");
  options.protocol = protocol;
  return open_pool(&options);
}

/* Typed JSON is slow in Python: there an eighth does. */
static size_t large_size(const char *protocol) {
  size_t size = 32 * MIB / 100 * (size_t)scaled(100);
  if (size > 32 * MIB) size = 32 * MIB;
  return strcmp(protocol, "json") == 0 ? size / 8 : size;
}

static uint8_t *make_bytes(size_t size, int seed) {
  uint8_t *bytes = malloc(size);
  if (bytes == NULL) abort();
  uint32_t value = (uint32_t)seed * 2654435761u + 1;
  for (size_t i = 0; i < size; i++) bytes[i] = (uint8_t)((value = value * 1664525u + 1013904223u) >> 24);
  return bytes;
}

/* Echoes `size` bytes of its own; whether they came back. */
static bool echo_works(pyproc_pool *pool, size_t size, int seed) {
  Conformance__Blob request = CONFORMANCE__BLOB__INIT, *reply = NULL;
  pyproc_error *error = NULL;
  request.data.len = size;
  request.data.data = make_bytes(size, seed);
  bool right = conformance_echo_echo(pool, &request, &reply, &error) == 0 && reply->data.len == size &&
               memcmp(reply->data.data, request.data.data, size) == 0;
  if (error != NULL) fprintf(stderr, "%s\n", pyproc_error_message(error));
  pyproc_error_free(error);
  pyproc_reply_free(reply);
  free(request.data.data);
  return right;
}

static void test_large(void **state) {
  (void)state;
  for (size_t i = 0; i < LENGTH(protocols); i++) {
    pyproc_pool *pool = open_echo(protocols[i]);
    assert_true(echo_works(pool, large_size(protocols[i]), 1));
    assert_true(echo_works(pool, 10, 2));
    pyproc_pool_close(pool);
  }
}

typedef struct both_ways {
  pyproc_pool *pool;
  size_t size;
  int rounds;
  atomic_int wrong;
} both_ways;

static void exchange(int number, void *argument) {
  both_ways *all = argument;
  for (int i = 0; i < all->rounds; i++)
    if (!echo_works(all->pool, all->size, number * 100 + i)) atomic_fetch_add(&all->wrong, 1);
}

/* Two threads over one connection: neither side may wait for the other to read. */
static void test_both_ways(void **state) {
  (void)state;
  for (size_t i = 0; i < LENGTH(protocols); i++) {
    both_ways all = {.pool = open_echo(protocols[i]), .size = large_size(protocols[i]), .rounds = 2};
    run_threads(2, exchange, &all);
    assert_int_equal(atomic_load(&all.wrong), 0);
    pyproc_pool_close(all.pool);
  }
}

static void exchange_mixed(int number, void *argument) {
  both_ways *all = argument;
  for (int i = 0; i < all->rounds; i++)
    if (!echo_works(all->pool, number % 2 == 0 ? all->size / 8 : 100, number * 100 + i))
      atomic_fetch_add(&all->wrong, 1);
}

static void test_large_among_small(void **state) {
  (void)state;
  for (size_t i = 0; i < LENGTH(protocols); i++) {
    both_ways all = {.pool = open_echo(protocols[i]), .size = large_size(protocols[i]), .rounds = scaled(5)};
    run_threads(8, exchange_mixed, &all);
    assert_int_equal(atomic_load(&all.wrong), 0);
    pyproc_pool_close(all.pool);
  }
}

/* ---- a worker that does not read ---- */

static char *make_text(size_t size) {
  char *text = malloc(size + 3);
  if (text == NULL) abort();
  memset(text, 'x', size + 2);
  text[0] = text[size + 1] = '"';
  text[size + 2] = '\0';
  return text;
}

static pyproc_pool *open_faults(const char *protocol) {
  pyproc_pool_options options = options_for("fault_worker.py");
  options.protocol = protocol;
  return open_pool(&options);
}

static void test_stopped_worker(void **state) {
  (void)state;
  char *body = make_text(large_size("protobuf"));
  for (size_t i = 0; i < LENGTH(protocols); i++) {
    pyproc_pool *pool = open_faults(protocols[i]);
    long pid = worker_pid(pool);
    kill((pid_t)pid, SIGSTOP);
    assert_error(call_failure(pool, "ping", body, 300), PYPROC_E_DEADLINE_EXCEEDED, "within 300 ms", NOT_RUN);
    assert_error(call_failure(pool, "ping", "1", 50), PYPROC_E_DEADLINE_EXCEEDED, "within 50 ms", NOT_RUN);
    kill((pid_t)pid, SIGCONT);
    assert_answer(pool, "ping", "2", "2");
    pyproc_pool_close(pool);
  }
  free(body);
}

static void test_stopped_worker_is_closed(void **state) {
  (void)state;
  char *body = make_text(large_size("protobuf"));
  for (size_t i = 0; i < LENGTH(protocols); i++) {
    pyproc_pool_options options = options_for("fault_worker.py");
    options.protocol = protocols[i];
    options.drain_timeout_ms = 200;
    pyproc_pool *pool = open_pool(&options);
    long pid = worker_pid(pool);
    kill((pid_t)pid, SIGSTOP);
    assert_error(call_failure(pool, "ping", body, 200), PYPROC_E_DEADLINE_EXCEEDED, "within 200 ms", NOT_RUN);
    pyproc_pool_close(pool);
    assert_false(process_lives(pid));
  }
  free(body);
}

static void test_stopped_worker_is_killed(void **state) {
  (void)state;
  char *body = make_text(large_size("protobuf"));
  for (size_t i = 0; i < LENGTH(protocols); i++) {
    pyproc_pool *pool = open_faults(protocols[i]);
    long pid = worker_pid(pool);
    kill((pid_t)pid, SIGSTOP);
    assert_error(call_failure(pool, "ping", body, 200), PYPROC_E_DEADLINE_EXCEEDED, "within 200 ms", NOT_RUN);
    kill((pid_t)pid, SIGKILL);
    assert_answer(pool, "ping", "3", "3");
    assert_int_not_equal(worker_pid(pool), pid);
    pyproc_pool_close(pool);
  }
  free(body);
}

typedef struct stopped {
  pyproc_pool *pool;
  char *body;
  atomic_int timed_out, other;
} stopped;

static void call_stopped(int number, void *argument) {
  stopped *all = argument;
  char *reply = NULL;
  pyproc_call_options options = PYPROC_CALL_OPTIONS_INIT;
  options.timeout_ms = 100 + number * 20;
  int result = pyproc_call_json(all->pool, "ping", number % 2 == 0 ? all->body : "4", &options, &reply, NULL);
  atomic_fetch_add(result == PYPROC_E_DEADLINE_EXCEEDED ? &all->timed_out : &all->other, 1);
  pyproc_reply_free(reply);
}

static void test_stopped_worker_many_callers(void **state) {
  (void)state;
  char *body = make_text(large_size("protobuf") / 4);
  for (size_t i = 0; i < LENGTH(protocols); i++) {
    stopped all = {.pool = open_faults(protocols[i]), .body = body};
    long pid = worker_pid(all.pool);
    kill((pid_t)pid, SIGSTOP);
    run_threads(10, call_stopped, &all);
    kill((pid_t)pid, SIGCONT);
    assert_int_equal(atomic_load(&all.timed_out), 10);
    assert_answer(all.pool, "ping", "5", "5");
    pyproc_pool_close(all.pool);
  }
  free(body);
}

/* ---- caps ---- */

static void test_caps(void **state) {
  (void)state;
  char *fits = make_text(3000), *too_large = make_text(5000);
  for (size_t i = 0; i < LENGTH(protocols); i++) {
    pyproc_pool_options options = options_for("conformance_worker.py");
    options.protocol = protocols[i];
    options.frame_limit_bytes = 4096;
    pyproc_pool *pool = open_pool(&options);
    assert_error(call_failure(pool, "echo", too_large, 0), PYPROC_E_RESOURCE_EXHAUSTED, "frame_limit_bytes (4096)",
                 NOT_RUN);
    assert_answer(pool, "echo", fits, fits);
    assert_error(call_failure(pool, "big", "{\"size\": 5000}", 0), PYPROC_E_RESOURCE_EXHAUSTED,
                 "larger than the frame limit", RAN);
    assert_error(call_failure(pool, "big", "{\"size\": 100000}", 0), PYPROC_E_RESOURCE_EXHAUSTED,
                 "larger than the frame limit", RAN);
    assert_answer(pool, "echo", "1", "1");
    assert_true(echo_works(pool, 2000, 1));
    Conformance__Blob request = CONFORMANCE__BLOB__INIT, *reply = NULL;
    uint8_t bytes[5000] = {0};
    pyproc_error *error = NULL;
    request.data = (ProtobufCBinaryData){.data = bytes, .len = sizeof bytes};
    assert_int_equal(conformance_echo_echo(pool, &request, &reply, &error), PYPROC_E_RESOURCE_EXHAUSTED);
    assert_error(error, PYPROC_E_RESOURCE_EXHAUSTED, "frame_limit_bytes", NOT_RUN);
    pyproc_pool_close(pool);
  }
  free(fits);
  free(too_large);
}

/* An error's text is cut to what a small cap leaves. */
static void test_long_error(void **state) {
  (void)state;
  char body[3000];
  memset(body, 'e', sizeof body);
  memcpy(body, "{\"type\":\"ValueError\",\"text\":\"", 29);
  memcpy(body + sizeof body - 3, "\"}", 3);
  for (size_t i = 0; i < LENGTH(protocols); i++) {
    pyproc_pool_options options = options_for("fault_worker.py");
    options.protocol = protocols[i];
    options.frame_limit_bytes = 4096;
    pyproc_pool *pool = open_pool(&options);
    assert_error(call_failure(pool, "fail", body, 0), PYPROC_E_UNKNOWN, "eeee", RAN);
    assert_answer(pool, "ping", "6", "6");
    pyproc_pool_close(pool);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      E2E_TEST(test_large),
      E2E_TEST(test_both_ways),
      E2E_TEST(test_large_among_small),
      E2E_TEST(test_stopped_worker),
      E2E_TEST(test_stopped_worker_is_closed),
      E2E_TEST(test_stopped_worker_is_killed),
      E2E_TEST(test_stopped_worker_many_callers),
      E2E_TEST(test_caps),
      E2E_TEST(test_long_error),
  };
  return RUN_TESTS(tests);
}
