/*
 * Memory does not grow with a stream: neither the program's nor the worker's, in both directions. A tenth of a GiB each; PYPROC_TEST_STREAM_MIB
 * says how much (1024: the whole).
 */
#include <unistd.h>

#include "grpc_support.h"
#include "support.h"

enum { MESSAGE_SIZE = 64 << 10, GROWTH_MAX_KIB = 16 << 10, MIB_DEFAULT = 103, AHEAD_MS = 500 };

static bool has_grpc;

/* Makes the largest resident set that was ever seen the present one, where that can be had. */
static void forget_peak(long pid) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%ld/clear_refs", pid);
  FILE *file = fopen(path, "w");
  if (file == NULL) return;
  fputs("5", file);
  fclose(file);
}

typedef struct measured {
  long pid, before;
} measured;

static void begin(measured *self, long pid) {
  self->pid = pid;
  forget_peak(pid);
  self->before = status_of(pid, "VmRSS:");
}

/* What it has grown by since, at the most. */
static void expect_flat(const measured *self, const char *what) {
  long peak = status_of(self->pid, "VmHWM:");
  if (IS_SANITIZED || self->before < 0 || peak < 0) return;
  print_message("  %s: %ld KiB before, %ld at the most\n", what, self->before, peak);
  assert_in_range(peak - self->before + GROWTH_MAX_KIB, 0, 2 * GROWTH_MAX_KIB);
}

static int64_t message_count(void) {
  const char *mib = getenv("PYPROC_TEST_STREAM_MIB");
  int64_t count = mib != NULL ? strtol(mib, NULL, 10) : scaled(MIB_DEFAULT);
  return (count << 20) / MESSAGE_SIZE;
}

static long pid_of_worker(pyproc_pool *pool) {
  char *health = call_json(pool, "health", "{}");
  const char *at = strstr(health, "\"pid\":");
  assert_non_null(at);
  long pid = strtol(at + 6, NULL, 10);
  pyproc_reply_free(health);
  return pid;
}

static void receive_much(pyproc_pool *pool, int64_t count) {
  Conformance__Task task = CONFORMANCE__TASK__INIT;
  Conformance__Blob *blob = NULL;
  pyproc_stream *stream = NULL;
  task.count = count;
  task.size = MESSAGE_SIZE;
  assert_int_equal(conformance_streams_produce_open(pool, &task, NULL, &stream, NULL), 0);
  for (int64_t i = 0; i < count; i++) {
    assert_int_equal(conformance_streams_produce_recv(stream, &blob, NULL), 1);
    assert_int_equal(blob->data.len, MESSAGE_SIZE);
    pyproc_reply_free(blob);
    if (i % 256 == 0) pause_ms(i == 0 ? AHEAD_MS : 5); /* the producer gets ahead, as far as it can */
  }
  assert_int_equal(conformance_streams_produce_recv(stream, &blob, NULL), 0);
  pyproc_stream_close(stream);
}

static void send_much(pyproc_pool *pool, int64_t count) {
  static uint8_t data[MESSAGE_SIZE];
  Conformance__Blob blob = CONFORMANCE__BLOB__INIT;
  Conformance__Task *reply = NULL;
  pyproc_stream *stream = NULL;
  assert_int_equal(conformance_streams_consume_open(pool, NULL, &stream, NULL), 0);
  blob.data.data = (uint8_t *)(uintptr_t) "pause"; /* the consumer falls behind, as far as it can */
  blob.data.len = 5;
  assert_int_equal(conformance_streams_consume_send(stream, &blob, NULL), 1);
  blob.data.data = data;
  blob.data.len = sizeof data;
  for (int64_t i = 0; i < count; i++) assert_int_equal(conformance_streams_consume_send(stream, &blob, NULL), 1);
  assert_int_equal(conformance_streams_consume_done_sending(stream, NULL), 0);
  assert_int_equal(conformance_streams_consume_recv(stream, &reply, NULL), 1);
  assert_int_equal(reply->count, count + 1);
  assert_int_equal(reply->size, count * MESSAGE_SIZE + 5);
  pyproc_reply_free(reply);
  pyproc_stream_close(stream);
}

static void measure(const char *protocol, void (*stream)(pyproc_pool *pool, int64_t count)) {
  pyproc_pool_options options = options_for("conformance_worker.py");
  options.protocol = protocol;
  pyproc_pool *pool = open_pool(&options);
  measured host, worker;
  stream(pool, 16); /* what a first message needs is no growth */
  begin(&host, getpid());
  begin(&worker, pid_of_worker(pool));
  stream(pool, message_count());
  expect_flat(&host, "program");
  expect_flat(&worker, "worker");
  pyproc_pool_close(pool);
}

static void test_receiving_protobuf(void **state) {
  (void)state;
  measure("protobuf", receive_much);
}

static void test_receiving_json(void **state) {
  (void)state;
  measure("json", receive_much);
}

static void test_sending_protobuf(void **state) {
  (void)state;
  measure("protobuf", send_much);
}

static void test_sending_json(void **state) {
  (void)state;
  measure("json", send_much);
}

static void measure_grpc(void (*stream)(pyproc_pool *pool, int64_t count)) {
  if (!has_grpc) {
    print_message("skipped: the library is built without gRPC\n");
    skip();
  }
  measure("grpc", stream);
}

static void test_receiving_grpc(void **state) {
  (void)state;
  measure_grpc(receive_much);
}

static void test_sending_grpc(void **state) {
  (void)state;
  measure_grpc(send_much);
}

/* libgrpc stays in use, see grpc_support.h. */
static int hold(void **state) {
  return has_grpc ? grpc_hold(state) : 0;
}

static int release(void **state) {
  return has_grpc ? grpc_release(state) : 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      E2E_TEST(test_receiving_protobuf), E2E_TEST(test_receiving_json), E2E_TEST(test_sending_protobuf),
      E2E_TEST(test_sending_json),       E2E_TEST(test_receiving_grpc), E2E_TEST(test_sending_grpc),
  };
  has_grpc = grpc_is_built();
  return RUN_TESTS_WITH(tests, hold, release);
}
