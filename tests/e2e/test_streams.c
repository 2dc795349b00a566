/*
 * Streams of every kind: the same tests on the real worker and on the pure Python one that was written from schema/wire.md, in both
 * codecs.
 */
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sides.h"

enum { WINDOW = 4096 };

/* With a small window, so that it is soon full. */
static int open_narrow(void **state) {
  side *self = *state;
  if (support_setup(state) < 0) return -1;
  pyproc_pool_options options = side_options(self);
  options.stream_window_bytes = WINDOW;
  options.drain_timeout_ms = 200;
  self->pool = open_pool(&options);
  return 0;
}

/* ---- what the tests have in common ---- */

static void must(int result, int expected, pyproc_error *error, const char *what) {
  if (result == expected) return;
  print_error("%s: %d, not %d: %s\n", what, result, expected, pyproc_error_message(error));
  pyproc_error_free(error);
  fail();
}

#define MUST(expected, call) \
  do { \
    pyproc_error *why = NULL; \
    int result_ = (call); \
    must(result_, (expected), why, #call); \
  } while (0)

static pyproc_stream *produce(pyproc_pool *pool, int64_t count, int64_t size, const char *then,
                              const pyproc_call_options *options) {
  Conformance__Task task = CONFORMANCE__TASK__INIT;
  pyproc_stream *stream = NULL;
  task.count = count;
  task.size = size;
  task.then = (char *)(uintptr_t)then;
  MUST(0, conformance_streams_produce_open(pool, &task, options, &stream, &why));
  assert_non_null(stream);
  return stream;
}

static pyproc_stream *consume(pyproc_pool *pool, const pyproc_call_options *options) {
  pyproc_stream *stream = NULL;
  MUST(0, conformance_streams_consume_open(pool, options, &stream, &why));
  return stream;
}

static pyproc_stream *converse(pyproc_pool *pool, const pyproc_call_options *options) {
  pyproc_stream *stream = NULL;
  MUST(0, conformance_streams_converse_open(pool, options, &stream, &why));
  return stream;
}

static Conformance__Blob blob_of(const void *data, size_t size) {
  Conformance__Blob blob = CONFORMANCE__BLOB__INIT;
  blob.data.data = (uint8_t *)(uintptr_t)data;
  blob.data.len = size;
  return blob;
}

static int send_text(pyproc_stream *stream, const char *text) {
  Conformance__Blob blob = blob_of(text, strlen(text));
  return pyproc_stream_send(stream, &blob.base, NULL);
}

/* Whether it is message `number` of conformance.Streams/Produce. */
static bool is_produced(const Conformance__Blob *blob, int64_t number, int64_t size) {
  bool right = (int64_t)blob->data.len == size;
  for (int64_t i = 0; i < size && right; i++) right = blob->data.data[i] == (uint8_t)(number % 256 + i);
  return right;
}

static void expect_produced(pyproc_stream *stream, int64_t number, int64_t size) {
  Conformance__Blob *blob = NULL;
  MUST(1, conformance_streams_produce_recv(stream, &blob, &why));
  assert_true(is_produced(blob, number, size));
  pyproc_reply_free(blob);
}

static void expect_text(pyproc_stream *stream, const char *text) {
  Conformance__Blob *blob = NULL;
  MUST(1, conformance_streams_converse_recv(stream, &blob, &why));
  assert_int_equal(blob->data.len, strlen(text));
  assert_memory_equal(blob->data.data, text, strlen(text));
  pyproc_reply_free(blob);
}

/* The stream must have ended well, now and for ever. */
static void expect_end(pyproc_stream *stream) {
  static ProtobufCMessage untouched;
  for (int i = 0; i < 3; i++) {
    ProtobufCMessage *message = &untouched;
    MUST(0, pyproc_stream_recv(stream, &message, &why));
    assert_ptr_equal(message, &untouched);
  }
}

static void expect_error(pyproc_stream *stream, int code, const char *part, int may_have_run) {
  static ProtobufCMessage untouched;
  for (int i = 0; i < 3; i++) {
    ProtobufCMessage *message = &untouched;
    pyproc_error *error = NULL;
    int result = pyproc_stream_recv(stream, &message, &error);
    if (result >= 0) fail_msg("%d where an error was due", result);
    assert_int_equal(result, code);
    assert_ptr_equal(message, &untouched);
    assert_error(error, code, part, may_have_run);
  }
}

static bool is_idle(pyproc_pool *pool) {
  pyproc_health health = PYPROC_HEALTH_INIT;
  return pyproc_pool_health(pool, &health) == 0 && health.in_flight == 0 && health.queued == 0;
}

/* ---- messages ---- */

static void test_server_stream(void **state) {
  const side *self = *state;
  const int64_t shapes[][2] = {{0, 0}, {1, 0}, {1, 1}, {7, 300}, {1000, 5}, {20, 100000}};
  for (size_t i = 0; i < LENGTH(shapes); i++) {
    pyproc_stream *stream = produce(self->pool, shapes[i][0], shapes[i][1], "", NULL);
    for (int64_t number = 0; number < shapes[i][0]; number++) expect_produced(stream, number, shapes[i][1]);
    expect_end(stream);
    pyproc_stream_close(stream);
  }
}

static void test_client_stream(void **state) {
  const side *self = *state;
  const size_t shapes[][2] = {{0, 0}, {1, 0}, {3, 10}, {1000, 5}, {20, 100000}};
  uint8_t *data = calloc(1, 100000);
  for (size_t i = 0; i < LENGTH(shapes); i++) {
    pyproc_stream *stream = consume(self->pool, NULL);
    Conformance__Blob blob = blob_of(data, shapes[i][1]);
    Conformance__Task *reply = NULL;
    for (size_t number = 0; number < shapes[i][0]; number++)
      MUST(1, conformance_streams_consume_send(stream, &blob, &why));
    for (int again = 0; again < 2; again++) MUST(0, conformance_streams_consume_done_sending(stream, &why));
    MUST(1, conformance_streams_consume_recv(stream, &reply, &why));
    assert_int_equal(reply->count, shapes[i][0]);
    assert_int_equal(reply->size, shapes[i][0] * shapes[i][1]);
    pyproc_reply_free(reply);
    expect_end(stream);
    MUST(0, conformance_streams_consume_done_sending(stream, &why));
    pyproc_stream_close(stream);
  }
  free(data);
}

static void test_ping_pong(void **state) {
  const side *self = *state;
  pyproc_stream *stream = converse(self->pool, NULL);
  for (int i = 0; i < scaled(200); i++) {
    char text[32];
    snprintf(text, sizeof text, "line %d", i);
    assert_int_equal(send_text(stream, text), 1);
    expect_text(stream, text);
  }
  MUST(0, conformance_streams_converse_done_sending(stream, &why));
  expect_end(stream);
  pyproc_stream_close(stream);
}

typedef struct talk {
  pyproc_stream *stream;
  size_t size;
  int count, result;
} talk;

static void *talk_all(void *argument) {
  talk *self = argument;
  uint8_t *data = calloc(1, self->size + 1);
  Conformance__Blob blob = blob_of(data, self->size);
  for (int i = 0; i < self->count && data != NULL; i++) {
    data[0] = (uint8_t)i;
    self->result = conformance_streams_converse_send(self->stream, &blob, NULL);
    if (self->result != 1) break;
  }
  free(data);
  conformance_streams_converse_done_sending(self->stream, NULL);
  return NULL;
}

/* One thread sends while another one receives; each direction fills its window again and again. */
static void test_two_threads(void **state) {
  const side *self = *state;
  const size_t sizes[] = {1, 500, 30000};
  for (size_t i = 0; i < LENGTH(sizes); i++) {
    talk all = {.stream = converse(self->pool, NULL), .size = sizes[i], .count = scaled(400)};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, talk_all, &all), 0);
    for (int number = 0; number < all.count; number++) {
      Conformance__Blob *blob = NULL;
      MUST(1, conformance_streams_converse_recv(all.stream, &blob, &why));
      assert_int_equal(blob->data.len, sizes[i]);
      assert_int_equal(blob->data.data[0], number % 256);
      pyproc_reply_free(blob);
    }
    expect_end(all.stream);
    pthread_join(thread, NULL);
    assert_int_equal(all.result, 1);
    pyproc_stream_close(all.stream);
  }
}

static void test_large_messages(void **state) {
  const side *self = *state;
  pyproc_stream *stream = produce(self->pool, 3, 3 << 20, "", NULL);
  for (int i = 0; i < 3; i++) expect_produced(stream, i, 3 << 20);
  expect_end(stream);
  pyproc_stream_close(stream);
}

static const char *beside(pyproc_stream *stream, const char *key, size_t count) {
  size_t found = 0;
  const pyproc_metadata *entries = pyproc_stream_metadata(stream, &found);
  assert_int_equal(found, count);
  assert_true((entries == NULL) == (count == 0));
  return pyproc_metadata_get(entries, found, key);
}

static void test_metadata(void **state) {
  const side *self = *state;
  if (!self->is_real) return; /* what is beside a frame may be ignored */
  for (int fails = 0; fails < 2; fails++) {
    const pyproc_metadata metadata[] = {{"x-note", "hello", 0}, {"x-raw-bin", "\0\1", 2}};
    pyproc_call_options options = PYPROC_CALL_OPTIONS_INIT;
    options.metadata = metadata;
    options.metadata_count = LENGTH(metadata);
    pyproc_stream *stream = converse(self->pool, &options);
    assert_null(beside(stream, "x-note", 0));
    Conformance__Blob *blob = NULL;
    size_t count = 0;
    assert_int_equal(send_text(stream, "one"), 1);
    assert_int_equal(send_text(stream, "two"), 1);
    MUST(1, conformance_streams_converse_recv(stream, &blob, &why));
    const pyproc_metadata *entries = pyproc_reply_metadata(blob, &count);
    assert_int_equal(count, 2);
    assert_string_equal(pyproc_metadata_get(entries, count, "x-note"), "hello");
    pyproc_reply_free(blob);
    assert_string_equal(beside(stream, "x-note", 2), "hello");
    assert_memory_equal(beside(stream, "x-raw-bin", 2), "\0\1", 2);
    expect_text(stream, "two");
    assert_int_equal(send_text(stream, fails ? "fail" : "stop"), 1);
    if (fails) {
      expect_error(stream, PYPROC_E_UNKNOWN, "as told", RAN);
    } else {
      expect_end(stream);
      assert_string_equal(beside(stream, "x-end", 3), "here");
    }
    assert_string_equal(beside(stream, "x-note", fails ? 2 : 3), "hello");
    pyproc_stream_close(stream);
  }
  assert_null(pyproc_stream_metadata(NULL, NULL));
}

/* ---- ends ---- */

static void test_handler_raises(void **state) {
  const side *self = *state;
  pyproc_stream *stream = produce(self->pool, 3, 10, "fail", NULL);
  for (int i = 0; i < 3; i++) expect_produced(stream, i, 10);
  pyproc_error *error = NULL;
  Conformance__Blob *blob = NULL;
  assert_int_equal(conformance_streams_produce_recv(stream, &blob, &error), PYPROC_E_UNKNOWN);
  assert_string_equal(pyproc_error_type(error), "ValueError");
  assert_contains(pyproc_error_traceback(error), "ValueError: as told");
  assert_int_equal(pyproc_error_attempts(error), 1);
  pyproc_error_free(error);
  expect_error(stream, PYPROC_E_UNKNOWN, "as told", RAN);
  pyproc_stream_close(stream);
}

/* The end comes while the program sends: sending says so, receiving says why. */
static void test_send_after_the_end(void **state) {
  const side *self = *state;
  pyproc_stream *stream = converse(self->pool, NULL);
  assert_int_equal(send_text(stream, "one"), 1);
  assert_int_equal(send_text(stream, "fail"), 1);
  expect_text(stream, "one");
  expect_error(stream, PYPROC_E_UNKNOWN, "as told", RAN);
  for (int i = 0; i < 2; i++) assert_int_equal(send_text(stream, "late"), 0);
  MUST(0, conformance_streams_converse_done_sending(stream, &why));
  pyproc_stream_close(stream);
}

/* A handler that has enough: the reply is there all the same. */
static void test_worker_stops_reading(void **state) {
  const side *self = *state;
  pyproc_stream *stream = consume(self->pool, NULL);
  Conformance__Task *reply = NULL;
  assert_int_equal(send_text(stream, "one"), 1);
  assert_int_equal(send_text(stream, "stop"), 1);
  int result = 1;
  while (result == 1) result = send_text(stream, "more"); /* waits for credit, until the end has come */
  assert_int_equal(result, 0);
  MUST(0, conformance_streams_consume_done_sending(stream, &why));
  MUST(1, conformance_streams_consume_recv(stream, &reply, &why));
  assert_int_equal(reply->count, 1);
  pyproc_reply_free(reply);
  expect_end(stream);
  pyproc_stream_close(stream);
}

static void test_deadline(void **state) {
  const side *self = *state;
  pyproc_call_options options = PYPROC_CALL_OPTIONS_INIT;
  options.timeout_ms = 1500;
  pyproc_stream *stream = produce(self->pool, 2, 10, "hang", &options);
  for (int i = 0; i < 2; i++) expect_produced(stream, i, 10);
  expect_error(stream, PYPROC_E_DEADLINE_EXCEEDED, "conformance.Streams/Produce was not over within 1500 ms", RAN);
  pyproc_stream_close(stream);

  stream = converse(self->pool, &options);
  assert_int_equal(send_text(stream, "one"), 1);
  expect_text(stream, "one");
  int result = send_text(stream, "hang");
  while (result == 1) result = send_text(stream, "waits for credit until the deadline");
  assert_int_equal(result, 0);
  expect_error(stream, PYPROC_E_DEADLINE_EXCEEDED, "1500 ms", RAN);
  pyproc_stream_close(stream);
  WAIT_FOR(is_idle(self->pool));

  options.timeout_ms = -1;
  pyproc_error *error = NULL;
  assert_int_equal(conformance_streams_converse_open(self->pool, &options, &stream, &error),
                   PYPROC_E_DEADLINE_EXCEEDED);
  assert_error(error, PYPROC_E_DEADLINE_EXCEEDED, "had passed before it was sent", NOT_RUN);
}

static void *fire_soon(void *argument) {
  pause_ms(100);
  pyproc_cancel_fire(argument);
  return NULL;
}

static void test_token(void **state) {
  const side *self = *state;
  pyproc_call_options options = PYPROC_CALL_OPTIONS_INIT;
  for (int sends = 0; sends < 2; sends++) {
    pthread_t thread;
    assert_int_equal(pyproc_cancel_new(&options.cancel), 0);
    pyproc_stream *sender = converse(self->pool, &options); /* first: it is begun by the thread that is to hang */
    assert_int_equal(send_text(sender, "one"), 1);
    expect_text(sender, "one");
    pyproc_stream *receiver = produce(self->pool, 1, 10, "hang", &options);
    expect_produced(receiver, 0, 10);
    assert_int_equal(pthread_create(&thread, NULL, fire_soon, options.cancel), 0);
    int result = send_text(sender, "hang");
    while (sends && result == 1) result = send_text(sender, "waits for credit until the token is fired");
    expect_error(receiver, PYPROC_E_CANCELLED, "was cancelled", RAN);
    expect_error(sender, PYPROC_E_CANCELLED, "was cancelled", RAN);
    assert_int_equal(send_text(sender, "late"), 0);
    pthread_join(thread, NULL);
    pyproc_stream_close(receiver);
    pyproc_stream_close(sender);
    pyproc_stream *stream = NULL;
    pyproc_error *error = NULL;
    assert_int_equal(conformance_streams_converse_open(self->pool, &options, &stream, &error), PYPROC_E_CANCELLED);
    assert_error(error, PYPROC_E_CANCELLED, "before it was sent", NOT_RUN);
    pyproc_cancel_free(options.cancel);
  }
  WAIT_FOR(is_idle(self->pool));
}

static void test_close_early(void **state) {
  const side *self = *state;
  for (int i = 0; i < scaled(40); i++) {
    pyproc_stream *streams[] = {produce(self->pool, 1000000, 100, "", NULL), produce(self->pool, 0, 0, "hang", NULL),
                                consume(self->pool, NULL), converse(self->pool, NULL)};
    if (i % 2 == 1) {
      expect_produced(streams[0], 0, 100);
      assert_int_equal(send_text(streams[2], "hang"), 1);
      assert_int_equal(send_text(streams[3], "one"), 1);
    }
    for (size_t j = 0; j < LENGTH(streams); j++) pyproc_stream_close(streams[j]);
  }
  WAIT_FOR(is_idle(self->pool));
  assert_answer(self->pool, "echo", "7", "7");
  pyproc_stream_close(NULL);
}

static void test_worker_dies(void **state) {
  const side *self = *state;
  pyproc_stream *other = converse(self->pool, NULL);
  assert_int_equal(send_text(other, "one"), 1);
  expect_text(other, "one"); /* it runs: one that does not would go on with the next worker */
  pyproc_stream *stream = produce(self->pool, 3, 10, "die", NULL);
  for (int i = 0; i < 3; i++) expect_produced(stream, i, 10);
  expect_error(stream, PYPROC_E_UNAVAILABLE, "exited with status 9", RAN);
  pyproc_error *error = NULL;
  Conformance__Blob *blob = NULL;
  assert_int_equal(conformance_streams_converse_recv(other, &blob, &error), PYPROC_E_UNAVAILABLE);
  assert_non_null(pyproc_error_crash(error));
  pyproc_error_free(error);
  assert_int_equal(send_text(other, "late"), 0);
  pyproc_stream_close(stream);
  pyproc_stream_close(other);

  stream = produce(self->pool, 3, 10, "", NULL); /* waits for the next worker */
  for (int i = 0; i < 3; i++) expect_produced(stream, i, 10);
  expect_end(stream);
  pyproc_stream_close(stream);
}

/* ---- flow control; the window is small ---- */

/* A program that does not read: the producer waits, and others of the same worker do not. */
static void test_slow_program(void **state) {
  const side *self = *state;
  pyproc_stream *stream = produce(self->pool, 2000, 100, "", NULL);
  expect_produced(stream, 0, 100);
  for (int i = 0; i < 50; i++) assert_answer(self->pool, "echo", "7", "7");
  pyproc_stream *other = produce(self->pool, 100, 100, "", NULL);
  for (int i = 0; i < 100; i++) expect_produced(other, i, 100);
  expect_end(other);
  pyproc_stream_close(other);
  for (int i = 1; i < 2000; i++) expect_produced(stream, i, 100);
  expect_end(stream);
  pyproc_stream_close(stream);
}

typedef struct pushing {
  pyproc_stream *stream;
  atomic_int count, result; /* messages that were taken; 2: not yet over */
} pushing;

static void *push(void *argument) {
  pushing *self = argument;
  uint8_t data[100] = {0};
  Conformance__Blob blob = blob_of(data, sizeof data);
  int result = send_text(self->stream, "hang");
  while (result == 1 && (result = conformance_streams_consume_send(self->stream, &blob, NULL)) == 1)
    atomic_fetch_add(&self->count, 1);
  atomic_store(&self->result, result);
  return NULL;
}

/* A worker that does not read: the program waits, having sent no more than the window and one message; others do not. */
static void test_slow_worker(void **state) {
  const side *self = *state;
  pushing all = {.stream = consume(self->pool, NULL), .result = 2};
  pthread_t thread;
  assert_int_equal(pthread_create(&thread, NULL, push, &all), 0);
  WAIT_FOR(atomic_load(&all.count) >= WINDOW / (100 + 100));
  for (int i = 0; i < 50; i++) assert_answer(self->pool, "echo", "7", "7");
  pyproc_error *error = NULL;
  pause_ms(20);
  assert_int_equal(atomic_load(&all.result), 2);
  assert_in_range(atomic_load(&all.count), WINDOW / (100 + 100), WINDOW / (100 + 64) + 1);
  Conformance__Blob blob = blob_of("x", 1);
  assert_int_equal(conformance_streams_consume_send(all.stream, &blob, &error), PYPROC_E_FAILED_PRECONDITION);
  assert_error(error, PYPROC_E_FAILED_PRECONDITION, "sending on", NOT_RUN);
  error = NULL;
  assert_int_equal(conformance_streams_consume_done_sending(all.stream, &error), PYPROC_E_FAILED_PRECONDITION);
  assert_error(error, PYPROC_E_FAILED_PRECONDITION, "another thread is sending", NOT_RUN);
  pyproc_pool_close(self->pool); /* with a thread in it the stream may go on for drain_timeout_ms */
  ((side *)*state)->pool = NULL;
  pthread_join(thread, NULL);
  assert_int_equal(atomic_load(&all.result), 0);
  pyproc_stream_close(all.stream);
}

/* One message may be larger than the window, but not than the frame limit. */
static void test_messages_above_the_window(void **state) {
  const side *self = *state;
  pyproc_stream *stream = produce(self->pool, 20, WINDOW * 3, "", NULL);
  for (int i = 0; i < 20; i++) expect_produced(stream, i, WINDOW * 3);
  expect_end(stream);
  pyproc_stream_close(stream);

  talk all = {.stream = converse(self->pool, NULL), .size = WINDOW * 3, .count = 20};
  pthread_t thread;
  assert_int_equal(pthread_create(&thread, NULL, talk_all, &all), 0);
  for (int i = 0; i < 20; i++) {
    Conformance__Blob *blob = NULL;
    MUST(1, conformance_streams_converse_recv(all.stream, &blob, &why));
    assert_int_equal(blob->data.len, all.size);
    pyproc_reply_free(blob);
  }
  expect_end(all.stream);
  pthread_join(thread, NULL);
  pyproc_stream_close(all.stream);
}

/* ---- many at once ---- */

typedef struct crowd {
  pyproc_pool *pool;
  int rounds;
  atomic_int wrong;
} crowd;

static bool run_stream(pyproc_pool *pool, int number) {
  Conformance__Task task = CONFORMANCE__TASK__INIT;
  pyproc_stream *stream = NULL;
  Conformance__Blob *blob = NULL;
  task.count = number % 50;
  task.size = number * 37 % 2000;
  bool right = conformance_streams_produce_open(pool, &task, NULL, &stream, NULL) == 0;
  for (int i = 0; i < task.count && right; i++) {
    right = conformance_streams_produce_recv(stream, &blob, NULL) == 1 && is_produced(blob, i, task.size);
    pyproc_reply_free(blob);
    blob = NULL;
  }
  right = right && conformance_streams_produce_recv(stream, &blob, NULL) == 0;
  pyproc_stream_close(stream);
  return right;
}

static bool run_talk(pyproc_pool *pool) {
  pyproc_stream *stream = NULL;
  Conformance__Blob *blob = NULL;
  bool right = conformance_streams_converse_open(pool, NULL, &stream, NULL) == 0;
  for (int i = 0; i < 10 && right; i++) {
    char text[32];
    snprintf(text, sizeof text, "%d", i);
    right = send_text(stream, text) == 1 && conformance_streams_converse_recv(stream, &blob, NULL) == 1 &&
            blob->data.len == strlen(text) && memcmp(blob->data.data, text, strlen(text)) == 0;
    pyproc_reply_free(blob);
    blob = NULL;
  }
  right = right && conformance_streams_converse_done_sending(stream, NULL) == 0 &&
          conformance_streams_converse_recv(stream, &blob, NULL) == 0;
  pyproc_stream_close(stream);
  return right;
}

static void mix(int number, void *argument) {
  crowd *all = argument;
  for (int i = 0; i < all->rounds; i++) {
    bool right;
    if (number % 3 == 0) {
      char *reply = NULL;
      right = pyproc_call_json(all->pool, "echo", "7", NULL, &reply, NULL) == 0 && strcmp(reply, "7") == 0;
      pyproc_reply_free(reply);
    } else {
      right = number % 3 == 1 ? run_stream(all->pool, number * 100 + i) : run_talk(all->pool);
    }
    if (!right) atomic_fetch_add(&all->wrong, 1);
  }
}

static void test_many_beside_calls(void **state) {
  const side *self = *state;
  for (int workers = 1; workers <= 3; workers += 2) {
    pyproc_pool_options options = side_options(self);
    options.workers = workers;
    options.stream_window_bytes = WINDOW;
    crowd all = {.pool = open_pool(&options), .rounds = scaled(20)};
    run_threads(48, mix, &all);
    assert_int_equal(atomic_load(&all.wrong), 0);
    WAIT_FOR(is_idle(all.pool));
    pyproc_pool_close(all.pool);
  }
}

/* Streams come and go while workers die under them: each ends, and says how. */
static void open_and_abandon(int number, void *argument) {
  crowd *all = argument;
  for (int i = 0; i < all->rounds; i++) {
    Conformance__Task task = CONFORMANCE__TASK__INIT;
    pyproc_stream *stream = NULL;
    ProtobufCMessage *message = NULL;
    pyproc_error *error = NULL;
    task.count = 10;
    task.size = 100;
    task.then = (char *)(uintptr_t)(number == 0 && i % 4 == 0 ? "die" : "");
    int result = conformance_streams_produce_open(all->pool, &task, NULL, &stream, &error), count = 0;
    while (result >= 0 && (result = pyproc_stream_recv(stream, &message, &error)) == 1) {
      pyproc_reply_free(message);
      if (++count == i % 12) break;
    }
    if (result < 0 && result != PYPROC_E_UNAVAILABLE) {
      fprintf(stderr, "%d %s\n", result, pyproc_error_message(error));
      atomic_fetch_add(&all->wrong, 1);
    }
    pyproc_error_free(error);
    pyproc_stream_close(stream);
  }
}

static void test_many_while_workers_die(void **state) {
  const side *self = *state;
  pyproc_pool_options options = side_options(self);
  options.workers = 2;
  crowd all = {.pool = open_pool(&options), .rounds = scaled(40)};
  run_threads(8, open_and_abandon, &all);
  assert_int_equal(atomic_load(&all.wrong), 0);
  pyproc_pool_close(all.pool);
}

static void test_max_streams(void **state) {
  const side *self = *state;
  pyproc_pool_options options = side_options(self);
  options.workers = 2;
  options.max_streams = 3;
  pyproc_pool *pool = open_pool(&options);
  pyproc_stream *streams[6], *one_more = NULL;
  for (int round = 0; round < scaled(20); round++) {
    pyproc_error *error = NULL;
    for (int i = 0; i < 6; i++) streams[i] = converse(pool, NULL);
    for (int i = 0; i < 6; i++) assert_int_equal(send_text(streams[i], "one"), 1);
    assert_int_equal(conformance_streams_converse_open(pool, NULL, &one_more, &error), PYPROC_E_RESOURCE_EXHAUSTED);
    assert_error(error, PYPROC_E_RESOURCE_EXHAUSTED, "6 streams are open", NOT_RUN);
    assert_answer(pool, "echo", "7", "7");
    for (int i = 0; i < 6; i++) expect_text(streams[i], "one");
    for (int i = 0; i < 6; i++) pyproc_stream_close(streams[i]); /* the next ones wait until their ends are confirmed */
  }
  pyproc_pool_close(pool);
}

/* ---- wrong use ---- */

static void test_wrong_use(void **state) {
  const side *self = *state;
  Conformance__Task task = CONFORMANCE__TASK__INIT, *reply = NULL;
  Conformance__Blob blob = CONFORMANCE__BLOB__INIT, *got = NULL;
  pyproc_stream *stream = NULL;
  const struct {
    int (*open)(pyproc_pool *pool, const pyproc_method *method, const ProtobufCMessage *request,
                const pyproc_call_options *options, pyproc_stream **ret_stream, pyproc_error **reterr);
    const pyproc_method *method;
    const ProtobufCMessage *request;
    const char *part;
  } opens[] = {
      {pyproc_stream_open, NULL, NULL, "method is NULL"},
      {pyproc_stream_open, &conformance_echo_echo_method, &blob.base, "is a unary method"},
      {pyproc_stream_open, &conformance_streams_produce_method, NULL, "request is NULL"},
      {pyproc_stream_open, &conformance_streams_produce_method, &blob.base, "is no conformance.Task"},
      {pyproc_stream_open, &conformance_streams_consume_method, &blob.base, "request is not NULL"},
  };
  for (size_t i = 0; i < LENGTH(opens); i++) {
    pyproc_error *error = NULL;
    assert_int_equal(opens[i].open(self->pool, opens[i].method, opens[i].request, NULL, &stream, &error),
                     PYPROC_E_INVALID_ARGUMENT);
    assert_error(error, PYPROC_E_INVALID_ARGUMENT, opens[i].part, NOT_RUN);
    assert_null(stream);
  }
  assert_int_equal(pyproc_stream_open(self->pool, &conformance_streams_consume_method, NULL, NULL, NULL, NULL),
                   PYPROC_E_INVALID_ARGUMENT);
  assert_int_equal(pyproc_stream_open(NULL, &conformance_streams_consume_method, NULL, NULL, &stream, NULL),
                   PYPROC_E_INVALID_ARGUMENT);
  assert_int_equal(pyproc_stream_send(NULL, &blob.base, NULL), PYPROC_E_INVALID_ARGUMENT);
  assert_int_equal(pyproc_stream_recv(NULL, NULL, NULL), PYPROC_E_INVALID_ARGUMENT);
  assert_int_equal(pyproc_stream_done_sending(NULL, NULL), PYPROC_E_INVALID_ARGUMENT);
  assert_int_equal(pyproc_stream_recv_submit(NULL, NULL, NULL, NULL), PYPROC_E_INVALID_ARGUMENT);

  stream = produce(self->pool, 1, 1, "", NULL);
  assert_int_equal(conformance_streams_converse_recv(stream, &got, NULL), PYPROC_E_INVALID_ARGUMENT);
  assert_int_equal(conformance_streams_consume_send(stream, &blob, NULL), PYPROC_E_INVALID_ARGUMENT);
  assert_int_equal(pyproc_stream_send(stream, &task.base, NULL), PYPROC_E_INVALID_ARGUMENT);
  assert_int_equal(pyproc_stream_done_sending(stream, NULL), PYPROC_E_INVALID_ARGUMENT);
  assert_int_equal(pyproc_stream_recv(stream, NULL, NULL), PYPROC_E_INVALID_ARGUMENT);
  assert_int_equal(pyproc_stream_recv_submit(stream, NULL, NULL, NULL), PYPROC_E_INVALID_ARGUMENT);
  expect_produced(stream, 0, 1);
  expect_end(stream);
  pyproc_stream_close(stream);

  stream = consume(self->pool, NULL);
  assert_int_equal(conformance_streams_consume_send(stream, NULL, NULL), PYPROC_E_INVALID_ARGUMENT);
  assert_int_equal(pyproc_stream_send(stream, &task.base, NULL), PYPROC_E_INVALID_ARGUMENT);
  MUST(0, conformance_streams_consume_done_sending(stream, &why));
  assert_int_equal(conformance_streams_consume_send(stream, &blob, NULL), PYPROC_E_FAILED_PRECONDITION);
  MUST(1, conformance_streams_consume_recv(stream, &reply, &why));
  assert_int_equal(reply->count, 0);
  pyproc_reply_free(reply);
  pyproc_stream_close(stream);
}

static void test_message_above_the_frame_limit(void **state) {
  const side *self = *state;
  pyproc_pool_options options = side_options(self);
  options.frame_limit_bytes = 4096;
  pyproc_pool *pool = open_pool(&options);
  static uint8_t data[5000];
  pyproc_stream *stream = consume(pool, NULL);
  Conformance__Task *reply = NULL;
  Conformance__Blob blob = blob_of(data, sizeof data);
  pyproc_error *error = NULL;
  assert_int_equal(conformance_streams_consume_send(stream, &blob, &error), PYPROC_E_RESOURCE_EXHAUSTED);
  assert_error(error, PYPROC_E_RESOURCE_EXHAUSTED, "frame_limit_bytes (4096)", NOT_RUN);
  blob.data.len = 1000;
  MUST(1, conformance_streams_consume_send(stream, &blob, &why));
  MUST(0, conformance_streams_consume_done_sending(stream, &why));
  MUST(1, conformance_streams_consume_recv(stream, &reply, &why));
  assert_int_equal(reply->size, 1000);
  pyproc_reply_free(reply);
  pyproc_stream_close(stream);
  pyproc_pool_close(pool);
}

typedef struct receiving {
  pyproc_stream *stream;
  int result;
} receiving;

static void *receive_one(void *argument) {
  receiving *self = argument;
  Conformance__Blob *blob = NULL;
  self->result = conformance_streams_converse_recv(self->stream, &blob, NULL);
  pyproc_reply_free(blob);
  return NULL;
}

static void test_second_receiver(void **state) {
  const side *self = *state;
  receiving one = {.stream = converse(self->pool, NULL), .result = 2};
  pthread_t thread;
  assert_int_equal(pthread_create(&thread, NULL, receive_one, &one), 0);
  int result = 1;
  Conformance__Blob *blob = NULL;
  pause_ms(100); /* should it not wait by now it will be told to be the second */
  pyproc_error *error = NULL;
  result = pyproc_stream_recv_submit(one.stream, (pyproc_done *)(void (*)(void))receive_one, NULL, &error);
  assert_int_equal(result, PYPROC_E_FAILED_PRECONDITION);
  assert_error(error, PYPROC_E_FAILED_PRECONDITION, "receiving from", NOT_RUN);
  assert_int_equal(conformance_streams_converse_recv(one.stream, &blob, NULL), PYPROC_E_FAILED_PRECONDITION);
  assert_int_equal(send_text(one.stream, "one"), 1);
  pthread_join(thread, NULL);
  assert_int_equal(one.result, 1);
  pyproc_stream_close(one.stream);
}

/* ---- event loops ---- */

typedef struct loop {
  pyproc_pool *pool;
  pyproc_stream *stream;
  int received, sent, open; /* `open`: callbacks that are due */
  int count;                /* to send */
  int last_received, last_sent;
  bool closes; /* the stream, in the callback that sees the end */
} loop;

static conformance_streams_converse_done on_received;
static pyproc_done on_sent;

static void submit_receive(loop *self) {
  MUST(0, conformance_streams_converse_recv_submit(self->stream, on_received, self, &why));
  self->open++;
}

static void submit_send(loop *self) {
  char text[32];
  snprintf(text, sizeof text, "%d", self->sent);
  Conformance__Blob blob = blob_of(text, strlen(text));
  MUST(0, conformance_streams_converse_send_submit(self->stream, &blob, on_sent, self, &why));
  self->open++;
}

static void on_received(int result, Conformance__Blob *blob, pyproc_error *error, void *userdata) {
  loop *self = userdata;
  self->open--;
  self->last_received = result;
  assert_true((result == 1) == (blob != NULL));
  assert_true((result < 0) == (error != NULL));
  if (result == 1) {
    char text[32];
    snprintf(text, sizeof text, "%d", self->received++);
    assert_int_equal(blob->data.len, strlen(text));
    assert_memory_equal(blob->data.data, text, strlen(text));
    submit_receive(self);
  } else if (self->closes) {
    pyproc_stream_close(self->stream);
  }
  pyproc_reply_free(blob);
  pyproc_error_free(error);
}

static void on_sent(int result, ProtobufCMessage *reply, pyproc_error *error, void *userdata) {
  loop *self = userdata;
  self->open--;
  self->last_sent = result;
  assert_null(reply);
  assert_true((result < 0) == (error != NULL));
  pyproc_error_free(error);
  if (result != 1) return;
  if (++self->sent < self->count)
    submit_send(self);
  else
    MUST(0, conformance_streams_converse_done_sending(self->stream, &why));
}

static void run_loop(loop *self) {
  struct pollfd readable = {.fd = pyproc_pool_fd(self->pool), .events = POLLIN};
  while (self->open > 0) {
    assert_int_equal(poll(&readable, 1, 60000), 1);
    assert_true(pyproc_pool_dispatch(self->pool, 0) >= 0);
  }
}

static void test_event_loop(void **state) {
  const side *self = *state;
  loop all = {.pool = self->pool, .stream = converse(self->pool, NULL), .count = scaled(300), .closes = true};
  submit_receive(&all);
  submit_send(&all);
  Conformance__Blob blob = blob_of("x", 1);
  assert_int_equal(conformance_streams_converse_send_submit(all.stream, &blob, on_sent, &all, NULL),
                   PYPROC_E_FAILED_PRECONDITION);
  run_loop(&all);
  assert_int_equal(all.received, all.count);
  assert_int_equal(all.sent, all.count);
  assert_int_equal(all.last_received, 0);
}

/* Nobody dispatches in between: what is submitted makes the supervisor read. */
static void test_submitted_to_a_server_stream(void **state) {
  const side *self = *state;
  pyproc_stream *stream = produce(self->pool, 0, 0, "", NULL);
  loop all = {.pool = self->pool, .stream = stream, .closes = true};
  MUST(0, pyproc_stream_recv_submit(stream, (pyproc_done *)(void (*)(void))on_received, &all, &why));
  all.open++;
  run_loop(&all);
  assert_int_equal(all.last_received, 0);
}

static void test_close_with_callbacks_outstanding(void **state) {
  const side *self = *state;
  for (int i = 0; i < 20; i++) {
    loop all = {.pool = self->pool, .stream = converse(self->pool, NULL), .count = 1};
    static uint8_t data[WINDOW * 2];
    Conformance__Blob blob = blob_of(data, sizeof data);
    assert_int_equal(send_text(all.stream, "hang"), 1);
    MUST(1, conformance_streams_converse_send(all.stream, &blob, &why)); /* no credit is left */
    MUST(0, conformance_streams_converse_send_submit(all.stream, &blob, on_sent, &all, &why));
    submit_receive(&all);
    all.open++;
    if (i % 2 == 0) assert_int_equal(pyproc_pool_dispatch(self->pool, 5), 0);
    pyproc_stream_close(all.stream);
    run_loop(&all);
    assert_int_equal(all.last_received, PYPROC_E_CANCELLED);
    assert_int_equal(all.last_sent, PYPROC_E_CANCELLED);
  }
}

/* ---- pools that close ---- */

static void test_pool_closed_first(void **state) {
  const side *self = *state;
  pyproc_pool_options options = side_options(self);
  for (int i = 0; i < 5; i++) {
    pyproc_pool *pool = open_pool(&options);
    pyproc_stream *stream = produce(pool, 3, 10, "hang", NULL), *other = converse(pool, NULL);
    loop all = {.pool = pool, .stream = converse(pool, NULL), .closes = true};
    submit_receive(&all);
    assert_int_equal(send_text(other, "one"), 1);
    expect_produced(stream, 0, 10);
    int64_t began = now_ms();
    pyproc_pool_close(pool);
    assert_true(now_ms() - began < 60000);
    assert_int_equal(all.open, 0);
    assert_int_equal(all.last_received, PYPROC_E_UNAVAILABLE);
    pyproc_error *error = NULL;
    Conformance__Blob *blob = NULL;
    int result;
    while ((result = conformance_streams_produce_recv(stream, &blob, &error)) == 1) pyproc_reply_free(blob);
    assert_int_equal(result, PYPROC_E_UNAVAILABLE);
    assert_error(error, PYPROC_E_UNAVAILABLE, "the pool was closed", RAN);
    assert_int_equal(send_text(other, "late"), 0);
    MUST(0, conformance_streams_converse_done_sending(other, &why));
    assert_int_equal(conformance_streams_converse_recv_submit(other, on_received, &all, NULL), PYPROC_E_UNAVAILABLE);
    pyproc_stream_close(stream);
    pyproc_stream_close(other);
  }
}

/* A thread that waits has drain_timeout_ms. */
static void test_pool_closes_under_a_receiver(void **state) {
  const side *self = *state;
  pyproc_pool_options options = side_options(self);
  for (int ends = 0; ends < 2; ends++) {
    options.drain_timeout_ms = ends ? 60000 : 100;
    pyproc_pool *pool = open_pool(&options);
    receiving one = {.stream = converse(pool, NULL), .result = 2};
    pthread_t thread;
    assert_int_equal(send_text(one.stream, ends ? "one" : "hang"), 1);
    assert_int_equal(pthread_create(&thread, NULL, receive_one, &one), 0);
    if (!ends) pause_ms(100);
    pyproc_pool_close(pool);
    pthread_join(thread, NULL);
    if (!ends) assert_int_equal(one.result, PYPROC_E_UNAVAILABLE);
    pyproc_stream_close(one.stream);
  }
}

static void test_forked_child(void **state) {
  const side *self = *state;
  pyproc_call_options options = PYPROC_CALL_OPTIONS_INIT;
  assert_int_equal(pyproc_cancel_new(&options.cancel), 0);
  pyproc_stream *other = converse(self->pool, &options);
  assert_int_equal(send_text(other, "zero"), 1);
  expect_text(other, "zero"); /* begun: nothing does so any more once the other hangs on that thread */
  pyproc_stream *stream = produce(self->pool, 3, 10, "hang", NULL);
  expect_produced(stream, 0, 10);
  pid_t child = fork();
  if (child == 0) {
    ProtobufCMessage *message = NULL;
    int wrong = pyproc_stream_recv(stream, &message, NULL) != PYPROC_E_FAILED_PRECONDITION;
    wrong += send_text(other, "one") != PYPROC_E_FAILED_PRECONDITION;
    pyproc_stream_close(stream);
    pyproc_stream_close(other);
    pyproc_cancel_free(options.cancel);
    pyproc_pool_close(self->pool);
    _exit(wrong);
  }
  int status = -1;
  assert_int_equal(waitpid(child, &status, 0), child);
  assert_int_equal(status, 0);
  for (int i = 1; i < 3; i++) expect_produced(stream, i, 10);
  assert_int_equal(send_text(other, "one"), 1);
  expect_text(other, "one");
  pyproc_stream_close(stream);
  pyproc_stream_close(other);
  pyproc_cancel_free(options.cancel);
}

static void test_idle_timeout(void **state) {
  const side *self = *state;
  pyproc_pool_options options = side_options(self);
  options.stream_idle_timeout_ms = 1000;
  pyproc_pool *pool = open_pool(&options);
  pyproc_stream *stream = produce(pool, 2, 10, "hang", NULL);
  expect_produced(stream, 0, 10);
  pause_ms(2500); /* a message waits for the program: that is not the worker's idleness */
  expect_produced(stream, 1, 10);
  expect_error(stream, PYPROC_E_DEADLINE_EXCEEDED, "1000 ms (option stream_idle_timeout_ms)", RAN);
  pyproc_stream_close(stream);

  stream = converse(pool, NULL);
  for (int i = 0; i < 5; i++) {
    assert_int_equal(send_text(stream, "one"), 1);
    expect_text(stream, "one");
    pause_ms(100);
  }
  expect_error(stream, PYPROC_E_DEADLINE_EXCEEDED, "stream_idle_timeout_ms", RAN);
  pyproc_stream_close(stream);
  WAIT_FOR(is_idle(pool));
  pyproc_pool_close(pool);
}

/* With pools of their own: each worker and each codec once. */
#define ALONE(function) ON_SIDE(function, side_open, side_close, 0), ON_SIDE(function, side_open, side_close, 3)
#define NARROW(function) ON_SIDE(function, open_narrow, side_close, 0), ON_SIDE(function, open_narrow, side_close, 3)

int main(void) {
  const struct CMUnitTest tests[] = {
      ON_ALL(test_server_stream),
      ON_ALL(test_client_stream),
      ON_ALL(test_ping_pong),
      ON_ALL(test_two_threads),
      ON_ALL(test_large_messages),
      ON_ALL(test_metadata),
      ON_ALL(test_handler_raises),
      ON_ALL(test_send_after_the_end),
      ON_ALL(test_worker_stops_reading),
      ON_ALL(test_wrong_use),
      ON_ALL(test_second_receiver),
      ON_ALL(test_event_loop),
      ON_ALL(test_submitted_to_a_server_stream),
      ALONE(test_deadline),
      ALONE(test_token),
      ALONE(test_close_early),
      ALONE(test_worker_dies),
      NARROW(test_slow_program),
      NARROW(test_slow_worker),
      NARROW(test_messages_above_the_window),
      NARROW(test_two_threads),
      ALONE(test_many_beside_calls),
      ALONE(test_many_while_workers_die),
      ALONE(test_max_streams),
      ALONE(test_message_above_the_frame_limit),
      NARROW(test_close_with_callbacks_outstanding),
      ALONE(test_pool_closed_first),
      ALONE(test_pool_closes_under_a_receiver),
      ALONE(test_forked_child),
      ALONE(test_idle_timeout),
  };
  return RUN_TESTS_WITH(tests, NULL, sides_close);
}
