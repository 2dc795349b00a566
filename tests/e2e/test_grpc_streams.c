/*
 * Streams over gRPC: the same tests with a worker of ours and with a plain grpcio server elsewhere.
 */
#include <signal.h>
#include <stdio.h>

#include "grpc_support.h"

typedef struct side {
  const char *name;
  bool is_remote;
  grpc_server server;
  pyproc_pool *pool;
} side;

static side sides[] = {{.name = "worker"}, {.name = "server", .is_remote = true}};

static int open_side(void **state) {
  side *self = *state;
  char target[512];
  if (support_setup(state) < 0) return -1;
  pyproc_pool_options options = options_for("grpc_worker.py");
  options.protocol = "grpc";
  if (self->is_remote) {
    snprintf(target, sizeof target, "unix:%s", temporary_path("s"));
    self->server = grpc_server_start(target, "s", NULL);
    options = options_for_target(target);
  }
  options.stream_window_bytes = 4096;
  self->pool = open_pool(&options);
  return 0;
}

static int close_side(void **state) {
  side *self = *state;
  pyproc_pool_close(self->pool);
  grpc_server_kill(&self->server);
  return support_teardown(state);
}

#define MUST(expected, call) \
  do { \
    pyproc_error *why = NULL; \
    int result_ = (call); \
    if (result_ != (expected)) \
      print_error("%s: %d, not %d: %s\n", #call, result_, (expected), pyproc_error_message(why)); \
    if (result_ < 0) pyproc_error_free(why); \
    assert_int_equal(result_, (expected)); \
  } while (0)

static pyproc_stream *open_count(pyproc_pool *pool, int64_t number, const char *text, size_t size,
                                 const pyproc_call_options *options) {
  Remote__Item request = REMOTE__ITEM__INIT;
  pyproc_stream *stream = NULL;
  uint8_t *data = calloc(1, size + 1);
  request.number = number;
  request.text = text;
  request.data.data = data;
  request.data.len = size;
  MUST(0, remote_echo_count_open(pool, &request, options, &stream, &why));
  free(data);
  return stream;
}

static void expect(pyproc_stream *stream, int64_t number, size_t size) {
  Remote__Item *message = NULL;
  MUST(1, remote_echo_count_recv(stream, &message, &why));
  assert_int_equal(message->number, number);
  assert_int_equal(message->data.len, size);
  pyproc_reply_free(message);
}

static void expect_end(pyproc_stream *stream) {
  Remote__Item *message = NULL;
  for (int i = 0; i < 2; i++) MUST(0, remote_echo_count_recv(stream, &message, &why));
  assert_null(message);
}

static pyproc_error *expect_failure(pyproc_stream *stream) {
  Remote__Item *message = NULL;
  pyproc_error *error = NULL;
  assert_true(remote_echo_count_recv(stream, &message, &error) < 0);
  assert_null(message);
  return error;
}

/* ---- server streams ---- */

static void test_count(void **state) {
  const side *self = *state;
  const int64_t counts[] = {0, 1, 3, scaled(3000)};
  for (size_t i = 0; i < LENGTH(counts); i++) {
    pyproc_stream *stream = open_count(self->pool, counts[i], "", 10, NULL);
    for (int64_t j = 0; j < counts[i]; j++) expect(stream, j, 10);
    expect_end(stream);
    remote_echo_count_close(stream);
  }
}

static void test_metadata(void **state) {
  const side *self = *state;
  size_t count = 0;
  pyproc_stream *stream = open_count(self->pool, 3, "", 1, NULL);
  expect(stream, 0, 1);
  const pyproc_metadata *entries = pyproc_stream_metadata(stream, &count);
  assert_int_equal(count, 1);
  assert_string_equal(pyproc_metadata_get(entries, count, "before"), "the first");
  expect(stream, 1, 1);
  expect(stream, 2, 1);
  expect_end(stream);
  entries = pyproc_stream_metadata(stream, &count);
  assert_int_equal(count, 2);
  assert_string_equal(pyproc_metadata_get(entries, count, "after"), "the last");
  remote_echo_count_close(stream);
}

static void test_count_fails(void **state) {
  const side *self = *state;
  pyproc_stream *stream = open_count(self->pool, 10, "fail", 0, NULL);
  for (int i = 0; i < 3; i++) expect(stream, i, 0);
  assert_error(expect_failure(stream), PYPROC_E_ABORTED, "three is enough", RAN);
  assert_error(expect_failure(stream), PYPROC_E_ABORTED, "three is enough", RAN);
  remote_echo_count_close(stream);
}

/* One that nobody reads holds up nobody, and is there to its last message when somebody does. */
static void test_nobody_reads(void **state) {
  const side *self = *state;
  enum { SIZE = 20000 };
  int count = scaled(400);
  pyproc_stream *stream = open_count(self->pool, count, "", SIZE, NULL);
  expect(stream, 0, SIZE);
  for (int i = 0; i < scaled(100); i++) pyproc_reply_free(echo(self->pool, "others"));
  for (int i = 1; i < count; i++) expect(stream, i, SIZE);
  expect_end(stream);
  remote_echo_count_close(stream);
}

static void test_close_early(void **state) {
  const side *self = *state;
  for (int i = 0; i < scaled(20); i++) {
    pyproc_stream *stream = open_count(self->pool, 1000000, "", 1000, NULL);
    for (int j = 0; j < i % 4; j++) expect(stream, j, 1000);
    remote_echo_count_close(stream);
  }
  pyproc_reply_free(echo(self->pool, "still there"));
}

static void test_deadline(void **state) {
  const side *self = *state;
  pyproc_call_options options = PYPROC_CALL_OPTIONS_INIT;
  options.timeout_ms = 100;
  pyproc_stream *stream = NULL;
  Remote__Item *message = NULL;
  pyproc_error *error = NULL;
  MUST(0, remote_echo_chat_open(self->pool, &options, &stream, &why));
  assert_int_equal(remote_echo_chat_recv(stream, &message, &error), PYPROC_E_DEADLINE_EXCEEDED);
  assert_error(error, PYPROC_E_DEADLINE_EXCEEDED, "100 ms", RAN);
  remote_echo_chat_close(stream);
}

static void fire_soon(int number, void *argument) {
  pyproc_stream **both = argument;
  if (number == 0) {
    Remote__Item *message = NULL;
    pyproc_error *error = NULL;
    if (remote_echo_chat_recv(both[0], &message, &error) != PYPROC_E_CANCELLED) abort();
    pyproc_error_free(error);
  } else {
    pause_ms(30);
    pyproc_cancel_fire((pyproc_cancel *)(void *)both[1]);
  }
}

static void test_cancel(void **state) {
  const side *self = *state;
  pyproc_call_options options = PYPROC_CALL_OPTIONS_INIT;
  pyproc_stream *stream = NULL;
  assert_int_equal(pyproc_cancel_new(&options.cancel), 0);
  MUST(0, remote_echo_chat_open(self->pool, &options, &stream, &why));
  pyproc_stream *both[] = {stream, (pyproc_stream *)(void *)options.cancel};
  run_threads(2, fire_soon, both);
  remote_echo_chat_close(stream);
  pyproc_cancel_free(options.cancel);
}

/* ---- client streams ---- */

static void test_sum(void **state) {
  const side *self = *state;
  const int counts[] = {0, 1, 5, scaled(2000)};
  for (size_t i = 0; i < LENGTH(counts); i++) {
    pyproc_stream *stream = NULL;
    Remote__Item item = REMOTE__ITEM__INIT, *reply = NULL;
    char expected[32];
    MUST(0, remote_echo_sum_open(self->pool, NULL, &stream, &why));
    for (int j = 0; j < counts[i]; j++) {
      item.number = j;
      MUST(1, remote_echo_sum_send(stream, &item, &why));
    }
    MUST(0, remote_echo_sum_done_sending(stream, &why));
    MUST(1, remote_echo_sum_recv(stream, &reply, &why));
    assert_int_equal(reply->number, (int64_t)counts[i] * (counts[i] - 1) / 2);
    snprintf(expected, sizeof expected, "%d", counts[i]);
    assert_string_equal(reply->text, expected);
    pyproc_reply_free(reply);
    MUST(0, remote_echo_sum_recv(stream, &reply, &why));
    remote_echo_sum_close(stream);
  }
}

/* The sender waits as long as the handler is slow; when it has ended sending returns 0. */
static void test_sum_refused(void **state) {
  const side *self = *state;
  pyproc_stream *stream = NULL;
  Remote__Item item = REMOTE__ITEM__INIT, *reply = NULL;
  uint8_t data[10000] = {0};
  pyproc_error *error = NULL;
  MUST(0, remote_echo_sum_open(self->pool, NULL, &stream, &why));
  item.data.data = data;
  item.data.len = sizeof data;
  item.text = "sleep";
  item.number = 1;
  for (int i = 0; i < 50; i++) MUST(1, remote_echo_sum_send(stream, &item, &why));
  item.text = "refuse";
  int sent = 1;
  for (int i = 0; i < 100000 && sent == 1; i++) {
    sent = remote_echo_sum_send(stream, &item, &error);
    assert_true(sent >= 0);
  }
  assert_int_equal(sent, 0);
  assert_int_equal(remote_echo_sum_recv(stream, &reply, &error), PYPROC_E_OUT_OF_RANGE);
  assert_error(error, PYPROC_E_OUT_OF_RANGE, "enough", RAN);
  remote_echo_sum_close(stream);
}

/* ---- both ways ---- */

static void test_ping_pong(void **state) {
  const side *self = *state;
  pyproc_stream *stream = NULL;
  Remote__Item item = REMOTE__ITEM__INIT, *reply = NULL;
  MUST(0, remote_echo_chat_open(self->pool, NULL, &stream, &why));
  for (int i = 0; i < scaled(300); i++) {
    item.number = i;
    MUST(1, remote_echo_chat_send(stream, &item, &why));
    MUST(1, remote_echo_chat_recv(stream, &reply, &why));
    assert_int_equal(reply->number, i);
    pyproc_reply_free(reply);
  }
  MUST(0, remote_echo_chat_done_sending(stream, &why));
  MUST(0, remote_echo_chat_recv(stream, &reply, &why));
  remote_echo_chat_close(stream);
}

static void test_ends_by_itself(void **state) {
  const side *self = *state;
  const char *const words[] = {"end", "fail"};
  for (int i = 0; i < 2; i++) {
    pyproc_stream *stream = NULL;
    Remote__Item item = REMOTE__ITEM__INIT, *reply = NULL;
    pyproc_error *error = NULL;
    MUST(0, remote_echo_chat_open(self->pool, NULL, &stream, &why));
    item.text = words[i];
    MUST(1, remote_echo_chat_send(stream, &item, &why));
    MUST(1, remote_echo_chat_recv(stream, &reply, &why));
    pyproc_reply_free(reply);
    int result = remote_echo_chat_recv(stream, &reply, &error);
    assert_int_equal(result, i == 0 ? 0 : PYPROC_E_DATA_LOSS);
    if (result < 0) assert_error(error, PYPROC_E_DATA_LOSS, "as told", RAN);
    MUST(0, remote_echo_chat_send(stream, &item, &why));
    remote_echo_chat_close(stream);
  }
}

enum { FLOOD_SIZE = 5000 };

static void flood(int number, void *argument) {
  pyproc_stream *stream = argument;
  Remote__Item item = REMOTE__ITEM__INIT, *reply = NULL;
  static uint8_t data[FLOOD_SIZE];
  int count = scaled(1000);
  if (number == 0) {
    item.data.data = data;
    item.data.len = sizeof data;
    for (item.number = 0; item.number < count; item.number++)
      if (remote_echo_chat_send(stream, &item, NULL) != 1) abort();
    if (remote_echo_chat_done_sending(stream, NULL) != 0) abort();
    return;
  }
  for (int i = 0; i < count; i++) {
    if (remote_echo_chat_recv(stream, &reply, NULL) != 1 || reply->number != i || reply->data.len != sizeof data)
      abort();
    pyproc_reply_free(reply);
  }
  if (remote_echo_chat_recv(stream, &reply, NULL) != 0) abort();
}

static void test_both_ways_at_once(void **state) {
  const side *self = *state;
  pyproc_stream *stream = NULL;
  MUST(0, remote_echo_chat_open(self->pool, NULL, &stream, &why));
  run_threads(2, flood, stream);
  remote_echo_chat_close(stream);
}

static void on_message(int result, Remote__Item *message, pyproc_error *error, void *userdata) {
  int *last = userdata;
  *last = result == 1 ? (int)message->number : result == 0 ? -100 : -200;
  pyproc_reply_free(message);
  pyproc_error_free(error);
}

static void test_submit(void **state) {
  const side *self = *state;
  int last = -1;
  pyproc_stream *stream = open_count(self->pool, 5, "", 3000, NULL);
  for (int i = 0; i < 6; i++) {
    MUST(0, remote_echo_count_recv_submit(stream, on_message, &last, &why));
    while (pyproc_pool_dispatch(self->pool, -1) == 0) {}
    assert_int_equal(last, i < 5 ? i : -100);
  }
  remote_echo_count_close(stream);
}

/* ---- how it may end ---- */

static void test_killed_under_a_stream(void **state) {
  const side *self = *state;
  pyproc_stream *stream = open_count(self->pool, 10, "die", 0, NULL);
  pyproc_error *error = NULL;
  Remote__Item *message = NULL;
  int result;
  while ((result = remote_echo_count_recv(stream, &message, &error)) == 1) pyproc_reply_free(message);
  assert_int_equal(result, PYPROC_E_UNAVAILABLE);
  assert_non_null(pyproc_error_crash(error));
  assert_error(error, PYPROC_E_UNAVAILABLE, "killed by signal 9", RAN);
  remote_echo_count_close(stream);
  pyproc_reply_free(echo(self->pool, "its successor"));
}

static void test_pool_is_closed(void **state) {
  side *self = *state;
  pyproc_stream *stream = NULL;
  Remote__Item *message = NULL;
  pyproc_error *error = NULL;
  MUST(0, remote_echo_chat_open(self->pool, NULL, &stream, &why));
  pyproc_pool_close(self->pool);
  self->pool = NULL;
  assert_int_equal(remote_echo_chat_recv(stream, &message, &error), PYPROC_E_UNAVAILABLE);
  assert_error(error, PYPROC_E_UNAVAILABLE, "closed", RAN);
  remote_echo_chat_close(stream);
}

#define SIDES_TEST(function) \
  {#function " worker", function, open_side, close_side, &sides[0]}, { \
#function " server", function, open_side, close_side, &sides[1] \
  }

int main(void) {
  const struct CMUnitTest tests[] = {
      SIDES_TEST(test_count),
      SIDES_TEST(test_metadata),
      SIDES_TEST(test_count_fails),
      SIDES_TEST(test_nobody_reads),
      SIDES_TEST(test_close_early),
      SIDES_TEST(test_deadline),
      SIDES_TEST(test_cancel),
      SIDES_TEST(test_sum),
      SIDES_TEST(test_sum_refused),
      SIDES_TEST(test_ping_pong),
      SIDES_TEST(test_ends_by_itself),
      SIDES_TEST(test_both_ways_at_once),
      SIDES_TEST(test_submit),
      {"test_killed_under_a_stream worker", test_killed_under_a_stream, open_side, close_side, &sides[0]},
      SIDES_TEST(test_pool_is_closed),
  };
  return RUN_GRPC_TESTS(tests);
}
