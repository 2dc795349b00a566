/* The framed protocol with a worker that misbehaves or dies, and with several threads. */
#include "link.h"

#include "error.h"
#include "request.h"

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- a worker that misbehaves ---- */

static void bytes_that_are_no_frames(void **state) {
  (void)state;
  static const struct {
    uint8_t bytes[32];
    size_t size;
    int code;
  } cases[] = {{{0, 0, 0, 0}, 4, PYPROC_E_DATA_LOSS},
               {{0xff, 0xff, 0xff, 0xff}, 4, PYPROC_E_DATA_LOSS},
               {{0x02, 0, 0, 1}, 4, PYPROC_E_DATA_LOSS},             /* one byte above the limit */
               {{0, 0, 0, 1, 4}, 5, PYPROC_E_DATA_LOSS},             /* shorter than a header */
               {{0, 0, 0, 24, 0x40}, 28, PYPROC_E_DATA_LOSS},        /* no kind */
               {{0, 0, 0, 24, 4, 2}, 28, PYPROC_E_DATA_LOSS},        /* unknown flag */
               {{0, 0, 0, 24, 4, [27] = 1}, 28, PYPROC_E_DATA_LOSS}, /* metadata beyond the frame */
               {{0, 0, 0, 24, 1}, 28, PYPROC_E_DATA_LOSS},           /* a second hello */
               {{0, 0, 0, 2, '{', '}'}, 6, PYPROC_E_DATA_LOSS},      /* an envelope that is none */
               {{0, 0, 0, 2, '{', '{'}, 6, PYPROC_E_DATA_LOSS},
               {{0, 0, 0, 24, 9}, 28, PYPROC_E_FAILED_PRECONDITION}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct link self;
    struct call call;
    link_open(&self, &codec_protobuf, PAGE_HELLO);
    link_begin(&self, &call, "1");
    assert_true(status_page_start(self.page, call.id));
    peer_write(&self, cases[i].bytes, cases[i].size);
    peer_reply(&self, call.id, "\"not read any more\"");
    link_expect_broken(&self, cases[i].code);
    link_close(&self);
    link_finish_badly(&self, &call, PYPROC_E_UNAVAILABLE, "died");
  }
}

static void kinds_of_later_versions_are_ignored(void **state) {
  (void)state;
  struct link self;
  struct call call;
  link_open(&self, &codec_protobuf, PAGE_HELLO);
  link_begin(&self, &call, "1");
  for (uint8_t kind = WIRE_END; kind <= WIRE_KIND_MAX; kind++)
    peer_send(&self, (wire_header){.kind = kind, .id = call.id}, "whatever");
  peer_reply(&self, call.id, "1");
  link_finish(&self, &call, "1");
  link_close(&self);
}

static void half_a_reply_and_then_nothing(void **state) {
  (void)state;
  buffer bytes = {0};
  append_frame(&bytes, &(wire_header){.kind = WIRE_REPLY, .id = 1}, "123", 3);
  for (size_t size = 0; size < bytes.size; size += 3) {
    struct link self;
    struct call call;
    link_open(&self, &codec_protobuf, PAGE_HELLO);
    link_begin(&self, &call, "1");
    assert_true(status_page_start(self.page, call.id));
    peer_write(&self, bytes.data, size);
    shutdown(self.peer, SHUT_WR);
    link_expect_broken(&self, PYPROC_E_UNAVAILABLE);
    link_close(&self);
    assert_true(call.may_have_run);
    link_finish_badly(&self, &call, PYPROC_E_UNAVAILABLE, "died");
  }
  buffer_free(&bytes);
}

/* What a worker sent before it died still counts. */
static void last_words(void **state) {
  (void)state;
  struct link self;
  struct call answered, lost;
  link_open(&self, &codec_protobuf, PAGE_HELLO);
  link_begin(&self, &answered, "1");
  link_begin(&self, &lost, "1");
  assert_true(status_page_start(self.page, answered.id));
  assert_true(status_page_start(self.page, lost.id));
  peer_reply(&self, answered.id, "\"last\"");
  peer_send(&self, (wire_header){.kind = WIRE_FAILED}, "{\"error\":\"out of luck\"}");
  close(self.peer);
  self.peer = -1;
  protocol_framed.drain(self.connection);
  assert_non_null(strstr(pyproc_error_message(self.connection->reason), "out of luck"));
  link_finish(&self, &answered, "\"last\"");
  link_close(&self);
  link_finish_badly(&self, &lost, PYPROC_E_UNAVAILABLE, "died");
}

static void what_the_worker_runs(void **state) {
  (void)state;
  struct link self;
  struct call call;
  uint64_t id = 0;
  char name[4];
  link_open(&self, &codec_protobuf, PAGE_HELLO);
  link_begin(&self, &call, "1");
  assert_false(protocol_framed.running(self.connection, &id, name, sizeof name));
  atomic_store(&self.page->threads[5].call_id, call.id + STATUS_PAGE_SLOTS); /* none of ours */
  assert_false(protocol_framed.running(self.connection, &id, name, sizeof name));
  atomic_store(&self.page->threads[63].call_id, call.id);
  assert_true(protocol_framed.running(self.connection, &id, name, sizeof name));
  assert_true(id == call.id);
  assert_string_equal(name, "pre");
  peer_reply(&self, call.id, "1");
  link_finish(&self, &call, "1");
  assert_false(protocol_framed.running(self.connection, &id, name, sizeof name));
  link_close(&self);
}

/* The next process in the same place starts with a clean page and new ids. */
static void the_place_is_used_again(void **state) {
  (void)state;
  struct link self;
  struct call call;
  link_open(&self, &codec_protobuf, PAGE_HELLO);
  link_begin(&self, &call, "1");
  uint64_t id = call.id;
  assert_true(status_page_start(self.page, id));
  memset((void *)self.page->threads, 0xff, sizeof self.page->threads);
  link_lose(&self);
  call_clear(&call);
  link_connect(&self);
  link_shake_hands(&self, PAGE_HELLO);
  assert_true(atomic_load(&self.page->threads[0].call_id) == 0);
  assert_true(atomic_load(&self.page->slots[id % STATUS_PAGE_SLOTS]) == 0);
  assert_int_equal(self.page->magic, STATUS_PAGE_MAGIC);
  link_begin(&self, &call, "1");
  assert_true(call.id > id);
  peer_reply(&self, id, "\"of the dead\"");
  peer_reply(&self, call.id, "1");
  link_finish(&self, &call, "1");
  link_close(&self);
}

static void no_more_requests(void **state) {
  (void)state;
  struct link self;
  char byte;
  link_open(&self, &codec_protobuf, PAGE_HELLO);
  protocol_framed.finish(self.connection);
  assert_int_equal(recv(self.peer, &byte, 1, 0), 0);
  link_close(&self);
}

/* ---- roles and threads ---- */

static void the_supervisor_leaves_a_reader_alone(void **state) {
  (void)state;
  struct link self;
  link_open(&self, &codec_protobuf, PAGE_HELLO);
  assert_true(framed_take_reading(framed_of(self.connection)));
  assert_false(framed_take_reading(framed_of(self.connection)));
  assert_false(protocol_framed.pump(self.connection));
  assert_false(protocol_framed.close(self.connection));
  framed_leave_reading(framed_of(self.connection), NULL);
  assert_true(protocol_framed.pump(self.connection));
  link_close(&self);
}

static void *progress_alone(void *argument) {
  struct call *call = argument;
  struct connection *connection = atomic_load(&call->connection);
  link_progress(connection, call);
  return NULL;
}

/* Whoever blocks in progress looks again when it is nudged, whether it has the reader's role or sleeps. */
static void nudged_after_a_cancel(void **state) {
  (void)state;
  struct link self;
  struct call calls[2];
  pthread_t threads[2];
  link_open(&self, &codec_protobuf, PAGE_HELLO);
  for (int i = 0; i < 2; i++) link_begin(&self, &calls[i], "1");
  for (int i = 0; i < 2; i++) calls[i].deadline_ns = INT64_MAX; /* nothing else ends the waiting */
  for (int i = 0; i < 2; i++) assert_int_equal(pthread_create(&threads[i], NULL, progress_alone, &calls[i]), 0);
  while (!atomic_load(&framed_of(self.connection)->blocked)) platform_yield();
  for (int i = 0; i < 2; i++) {
    atomic_store(&calls[i].cancelled, true);
    protocol_framed.nudge(self.connection);
    lot_wake(&self.lot, calls[i].waiter.bit);
  }
  for (int i = 0; i < 2; i++) {
    assert_int_equal(pthread_join(threads[i], NULL), 0);
    assert_false(atomic_load(&calls[i].done));
    assert_int_equal(protocol_framed.withdraw(self.connection, &calls[i], PYPROC_E_CANCELLED), 0);
    call_clear(&calls[i]);
  }
  link_close(&self);
}

/* Whether the reader's role is taken and let go of again, within ten milliseconds. */
static bool role_comes_and_goes(const framed *self) {
  int64_t until = platform_now_ns() + 10000000;
  bool taken = false;
  while (platform_now_ns() < until) {
    bool is_taken = atomic_load(&self->reading);
    if (taken && !is_taken) return true;
    taken |= is_taken;
  }
  return false;
}

/* A caller is not alone as long as others, whose replies have come, have not run since: it yields to them, and looks only
 * now and then. On a busy machine it may give that up: once in many times is enough. */
static void others_that_have_their_replies_can_run(void **state) {
  (void)state;
  if (platform_cpu_count() < 2) skip();
  struct link self;
  bool yields = false;
  link_create(&self, &codec_protobuf, LINK_LIMIT, LINK_PATIENCE_S * INT64_C(1000000000));
  link_connect(&self);
  link_shake_hands(&self, PAGE_HELLO);
  for (int times = 0; times < 200 && !yields; times++) {
    struct call calls[2];
    pthread_t thread;
    for (int i = 0; i < 2; i++) {
      link_begin(&self, &calls[i], "1");
      peer_expect(&self, WIRE_REQUEST);
    }
    peer_reply(&self, calls[0].id, "2");
    assert_true(protocol_framed.pump(self.connection));
    assert_true(atomic_load(&calls[0].done));
    assert_int_equal(pthread_create(&thread, NULL, progress_alone, &calls[1]), 0);
    yields = role_comes_and_goes(framed_of(self.connection));
    peer_reply(&self, calls[1].id, "2");
    assert_int_equal(pthread_join(thread, NULL), 0);
    for (int i = 0; i < 2; i++) link_finish(&self, &calls[i], "2");
  }
  assert_true(yields);
  link_close(&self);
}

/* The worker dies under callers that wait: all of them come back. */
static void a_death_under_waiting_threads(void **state) {
  (void)state;
  enum { COUNT = 4 };
  struct link self;
  struct call calls[COUNT];
  pthread_t threads[COUNT];
  link_open(&self, &codec_protobuf, STARTED_HELLO);
  for (int i = 0; i < COUNT; i++) {
    link_begin(&self, &calls[i], "1");
    peer_send(&self, (wire_header){.kind = WIRE_STARTED, .id = calls[i].id}, "");
  }
  for (int i = 0; i < COUNT; i++) assert_int_equal(pthread_create(&threads[i], NULL, progress_alone, &calls[i]), 0);
  call_list unstarted = {0};
  pyproc_error *error = error_new(PYPROC_E_UNAVAILABLE, "the worker died");
  close(self.peer);
  self.peer = -1;
  protocol_framed.drain(self.connection);
  (protocol_framed.fail)(self.connection, error, &unstarted);
  assert_null(unstarted.first);
  for (int i = 0; i < COUNT; i++) assert_int_equal(pthread_join(threads[i], NULL), 0);
  pyproc_error_free(error);
  link_close(&self);
  for (int i = 0; i < COUNT; i++) {
    assert_true(calls[i].may_have_run);
    link_finish_badly(&self, &calls[i], PYPROC_E_UNAVAILABLE, "died");
  }
}

/* A channel that holds up its first writer. */
struct slow_channel {
  struct channel base;
  struct channel *real;
  channel_ops ops;
  atomic_bool inside, go, failed, failed_too_early;
  atomic_uint sum;
};

static ssize_t slow_write(struct channel *base, const struct iovec *parts, int count) {
  struct slow_channel *self = (struct slow_channel *)base;
  unsigned sum = 0;
  atomic_store(&self->inside, true);
  while (!atomic_load(&self->go)) platform_yield();
  atomic_store(&self->failed_too_early, atomic_load(&self->failed));
  for (int i = 0; i < count; i++)
    for (size_t j = 0; j < parts[i].iov_len; j++) sum += ((const uint8_t *)parts[i].iov_base)[j];
  atomic_store(&self->sum, sum);
  return CHANNEL_END;
}

static ssize_t slow_read(struct channel *base, void *to, size_t size) {
  struct slow_channel *self = (struct slow_channel *)base;
  return self->real->ops->read(self->real, to, size);
}

static ssize_t slow_read_blocking(struct channel *base, void *to, size_t size) {
  struct slow_channel *self = (struct slow_channel *)base;
  return self->real->ops->read_blocking(self->real, to, size);
}

static void slow_shut(struct channel *base, bool both) {
  struct slow_channel *self = (struct slow_channel *)base;
  self->real->ops->shut(self->real, both);
}

struct loss {
  struct link *link;
  struct slow_channel *channel;
  struct call *call;
  atomic_bool began;
};

static void *start_slowly(void *argument) {
  struct loss *self = argument;
  protocol_framed.start(self->link->connection, self->call);
  return NULL;
}

static void *lose(void *argument) {
  struct loss *self = argument;
  call_list unstarted = {0};
  pyproc_error *error = error_new(PYPROC_E_UNAVAILABLE, "the worker died");
  protocol_framed.drain(self->link->connection);
  atomic_store(&self->began, true);
  (protocol_framed.fail)(self->link->connection, error, &unstarted);
  atomic_store(&self->channel->failed, true);
  pyproc_error_free(error);
  return NULL;
}

/* The worker is given up while a thread writes to it: the bytes in its hands stay until it is done with them. */
static void a_loss_under_a_writer(void **state) {
  (void)state;
  struct link self;
  struct call call;
  pthread_t writer, loser;
  link_open(&self, &codec_protobuf, PAGE_HELLO);
  framed *inner = framed_of(self.connection);
  struct slow_channel slow = {.real = inner->channel, .ops = *inner->channel->ops};
  slow.ops.write = slow_write;
  slow.ops.read = slow_read;
  slow.ops.read_blocking = slow_read_blocking;
  slow.ops.shut = slow_shut;
  slow.base.ops = &slow.ops;
  inner->channel = &slow.base;
  link_prepare(&self, &call, "predict", "1");
  struct loss loss = {.link = &self, .channel = &slow, .call = &call};
  assert_int_equal(pthread_create(&writer, NULL, start_slowly, &loss), 0);
  while (!atomic_load(&slow.inside)) platform_yield();
  assert_int_equal(pthread_create(&loser, NULL, lose, &loss), 0);
  while (!atomic_load(&loss.began)) platform_yield();
  for (int i = 0; i < 1000; i++) platform_yield();
  atomic_store(&slow.go, true);
  assert_int_equal(pthread_join(writer, NULL), 0);
  assert_int_equal(pthread_join(loser, NULL), 0);
  assert_false(atomic_load(&slow.failed_too_early));
  assert_true(atomic_load(&slow.sum) > 0);
  assert_false(atomic_load(&call.done)); /* it has not started: another worker may have it */
  assert_null(atomic_load(&call.connection));
  inner->channel = slow.real;
  call_clear(&call);
  link_close(&self);
}

enum { CALLERS = 6, ROUNDS = 60, BATCH = 4 };

struct caller {
  struct link *link;
  int number, wrong;
};

/* Calls with a body of its own, and counts the answers that are not its own. */
static void *call_again_and_again(void *argument) {
  struct caller *self = argument;
  for (int i = 0; i < ROUNDS; i++) {
    struct call call;
    frame_block *frame = NULL;
    char body[32];
    snprintf(body, sizeof body, "\"%d/%d\"", self->number, i);
    if (request_encode_json(&codec_protobuf, "predict", body, NULL, &frame, NULL) < 0) abort();
    call_init(&call, &self->link->lot, (call_method){.name = "predict"}, frame, LINK_FAR_NS);
    if (protocol_framed.start(self->link->connection, &call) != CONNECTION_TAKEN) abort();
    link_progress(self->link->connection, &call);
    bool right = atomic_load(&call.done) && call.error == NULL && call.body_size == strlen(body) &&
                 memcmp(call.body, body, call.body_size) == 0;
    if (!right) self->wrong++;
    if (!atomic_load(&call.done)) protocol_framed.withdraw(self->link->connection, &call, PYPROC_E_CANCELLED);
    call_clear(&call);
  }
  return NULL;
}

/* Answers what has arrived, up to BATCH at a time, the last first. */
static void answer_all(const struct link *self) {
  wire_header headers[BATCH];
  buffer bodies[BATCH] = {{0}};
  for (int left = CALLERS * ROUNDS; left > 0;) {
    int count = 0;
    do headers[count] = peer_take(self, &bodies[count]);
    while (++count < BATCH && count < left && !peer_is_quiet(self));
    left -= count;
    while (count-- > 0) peer_reply(self, headers[count].id, (const char *)bodies[count].data);
  }
  for (int i = 0; i < BATCH; i++) buffer_free(&bodies[i]);
}

static void many_threads_take_turns(void **state) {
  (void)state;
  for (int spin = 0; spin < 2; spin++) {
    struct link self;
    struct caller callers[CALLERS];
    pthread_t threads[CALLERS];
    link_create(&self, &codec_protobuf, LINK_LIMIT, spin * INT64_C(50000));
    link_connect(&self);
    link_shake_hands(&self, PAGE_HELLO);
    for (int i = 0; i < CALLERS; i++) {
      callers[i] = (struct caller){.link = &self, .number = i};
      assert_int_equal(pthread_create(&threads[i], NULL, call_again_and_again, &callers[i]), 0);
    }
    answer_all(&self);
    for (int i = 0; i < CALLERS; i++) {
      assert_int_equal(pthread_join(threads[i], NULL), 0);
      assert_int_equal(callers[i].wrong, 0);
    }
    assert_int_equal(atomic_load(&self.connection->load), 0);
    assert_int_equal(atomic_load(&self.connection->good_calls), CALLERS * ROUNDS);
    assert_in_range(atomic_load(&self.connection->prefetch), 1, 64);
    assert_int_equal(atomic_load(&framed_of(self.connection)->awake), 0);
    assert_false(atomic_load(&framed_of(self.connection)->reading));
    link_close(&self);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(bytes_that_are_no_frames),
      cmocka_unit_test(kinds_of_later_versions_are_ignored),
      cmocka_unit_test(half_a_reply_and_then_nothing),
      cmocka_unit_test(last_words),
      cmocka_unit_test(what_the_worker_runs),
      cmocka_unit_test(the_place_is_used_again),
      cmocka_unit_test(no_more_requests),
      cmocka_unit_test(the_supervisor_leaves_a_reader_alone),
      cmocka_unit_test(nudged_after_a_cancel),
      cmocka_unit_test(others_that_have_their_replies_can_run),
      cmocka_unit_test(a_death_under_waiting_threads),
      cmocka_unit_test(a_loss_under_a_writer),
      cmocka_unit_test(many_threads_take_turns),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
