/* Streams over frames, against a worker that speaks schema/wire.md by hand, well and badly. */
#include "link.h"

#include "error.h"
#include "request.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { WINDOW = 4096, MAX_STREAMS = 3, MESSAGES_MAX = 64 };

#define HELLO_OF(features) \
  "{\"version\":1,\"threads\":2,\"features\":[" features "],\"methods\":[{\"name\":\"echo\"}," \
  "{\"name\":\"t.S/Server\",\"kind\":\"server_stream\",\"fingerprint\":\"f\"}," \
  "{\"name\":\"t.S/Client\",\"kind\":\"client_stream\",\"fingerprint\":\"f\"}," \
  "{\"name\":\"t.S/Bidi\",\"kind\":\"bidi\",\"fingerprint\":\"f\"}]}"
#define HELLO HELLO_OF("\"started\",\"streams\"")

static const pyproc_method methods[] = {
    {.size = sizeof(pyproc_method), .name = "t.S/Server", .fingerprint = "f", .kind = PYPROC_RPC_SERVER_STREAM},
    {.size = sizeof(pyproc_method), .name = "t.S/Client", .fingerprint = "f", .kind = PYPROC_RPC_CLIENT_STREAM},
    {.size = sizeof(pyproc_method), .name = "t.S/Bidi", .fingerprint = "f", .kind = PYPROC_RPC_BIDI}};
enum { SERVER, CLIENT, BIDI };

/* ---- a stream ---- */

typedef struct stream {
  struct call call;
  call_stream part;
  size_t sizes[MESSAGES_MAX]; /* of the bodies to send */
  int to_send, sent, received, pulled_ends, finished;
  bool has_end;
  stream_message *messages[MESSAGES_MAX];
} stream;

static void on_received(struct call *call, stream_message *message, uint32_t *ret_bits) {
  stream *self = (stream *)(void *)call;
  (void)ret_bits;
  assert_in_range(self->received, 0, MESSAGES_MAX - 1);
  self->messages[self->received++] = message;
}

/* A message of `size` bytes, without an id. */
static frame_block *message_of(size_t size) {
  frame_block *frame = frame_block_new(CALL_BODY_CODEC);
  assert_non_null(frame);
  frame->body_offset = WIRE_LENGTH_SIZE + WIRE_HEADER_SIZE;
  assert_true(buffer_reserve(&frame->bytes, frame->body_offset + size));
  wire_put32(frame->bytes.data, (uint32_t)(WIRE_HEADER_SIZE + size));
  wire_header_put(frame->bytes.data + WIRE_LENGTH_SIZE, &(wire_header){.kind = WIRE_STREAM_DATA});
  memset(frame->bytes.data + frame->body_offset, 'm', size);
  frame->bytes.size = frame->body_offset + size;
  return frame;
}

static stream_next on_pull(struct call *call, bool may_send, frame_block **ret_frame, uint32_t *ret_bits) {
  stream *self = (stream *)(void *)call;
  (void)ret_bits;
  if (self->sent < self->to_send) {
    if (!may_send) return STREAM_NOTHING;
    *ret_frame = message_of(self->sizes[self->sent++]);
    return STREAM_MESSAGE;
  }
  if (!self->has_end || self->pulled_ends > 0) return STREAM_NOTHING;
  self->pulled_ends++;
  return STREAM_END;
}

static void on_finished(struct call *call) {
  ((stream *)(void *)call)->finished++;
}

static const stream_ops ops = {.received = on_received, .pull = on_pull};

static void stream_init(stream *self, struct lot *lot, int kind) {
  wire_header header = {.kind = WIRE_REQUEST};
  frame_block *frame = frame_block_new(CALL_BODY_CODEC);
  assert_non_null(frame);
  assert_true(buffer_reserve(&frame->bytes, WIRE_LENGTH_SIZE + WIRE_HEADER_SIZE));
  wire_header_put(frame->bytes.data + WIRE_LENGTH_SIZE, &header);
  frame->body_offset = frame->bytes.size = WIRE_LENGTH_SIZE + WIRE_HEADER_SIZE;
  memset(self, 0, sizeof *self);
  call_init(&self->call, lot, (call_method){.name = methods[kind].name, .typed = &methods[kind]}, frame, INT64_MAX);
  self->part.ops = &ops;
  self->call.stream = &self->part;
  self->call.finished = on_finished;
}

static void stream_clear(stream *self) {
  for (int i = 0; i < self->received; i++) stream_message_free(self->messages[i]);
  call_clear(&self->call);
}

/* ---- the worker's side ---- */

static void send_frame(const struct link *self, wire_header header, const void *body, size_t size) {
  uint8_t frame[WIRE_LENGTH_SIZE + WIRE_HEADER_SIZE + 8192];
  assert_in_range(size, 0, 8192);
  wire_put32(frame, (uint32_t)(WIRE_HEADER_SIZE + size));
  wire_header_put(frame + WIRE_LENGTH_SIZE, &header);
  if (size > 0) memcpy(frame + WIRE_LENGTH_SIZE + WIRE_HEADER_SIZE, body, size);
  size += WIRE_LENGTH_SIZE + WIRE_HEADER_SIZE;
  assert_int_equal(send(self->peer, frame, size, MSG_NOSIGNAL), size);
}

/* Sends a frame of the stream and has it read. */
static void peer_say(const struct link *self, wire_kind kind, uint64_t id, const void *body, size_t size) {
  send_frame(self, (wire_header){.kind = (uint8_t)kind, .id = id}, body, size);
  assert_true(protocol_framed.pump(self->connection));
}

static void peer_message(const struct link *self, uint64_t id, size_t size) {
  static const uint8_t body[8192] = {1, 2, 3};
  peer_say(self, WIRE_STREAM_DATA, id, body, size);
}

static void peer_credit(const struct link *self, uint64_t id, uint32_t credit) {
  uint8_t body[WIRE_CREDIT_SIZE];
  wire_put32(body, credit);
  peer_say(self, WIRE_CREDIT, id, body, sizeof body);
}

static void answer(const struct link *self, uint64_t id, uint16_t code) {
  const char *body = code == 0 ? "" : "{\"error\":\"so\"}";
  send_frame(self, (wire_header){.kind = WIRE_REPLY, .id = id, .code = code}, body, strlen(body));
  assert_true(protocol_framed.pump(self->connection));
}

/* The next frame must be of that kind; returns its header, *ret_size the size of its body, of which up to 8 bytes go to `body`. */
static wire_header expect_frame(const struct link *self, wire_kind kind, size_t *ret_size, uint8_t body[8]) {
  uint8_t head[WIRE_LENGTH_SIZE + WIRE_HEADER_SIZE], byte;
  wire_header header = {0};
  assert_int_equal(recv(self->peer, head, sizeof head, MSG_WAITALL), sizeof head);
  assert_int_equal(wire_header_get(head + WIRE_LENGTH_SIZE, WIRE_HEADER_SIZE, &header), 0);
  assert_int_equal(header.kind, kind);
  size_t size = wire_get32(head) - WIRE_HEADER_SIZE;
  for (size_t i = 0; i < size; i++) {
    assert_int_equal(recv(self->peer, &byte, 1, MSG_WAITALL), 1);
    if (body != NULL && i < 8) body[i] = byte;
  }
  if (ret_size != NULL) *ret_size = size;
  return header;
}

static void open_link(struct link *self, const char *hello) {
  link_create_with(
      self, (connection_settings){
                .codec = &codec_protobuf, .frame_limit = 1 << 20, .max_streams = MAX_STREAMS, .stream_window = WINDOW});
  link_connect(self);
  peer_say(self, WIRE_HELLO, 0, hello, strlen(hello));
  assert_int_equal(atomic_load(&self->connection->state), CONNECTION_OPEN);
  expect_frame(self, WIRE_WELCOME, NULL, NULL);
}

static void start(struct link *self, stream *one, int kind) {
  stream_init(one, &self->lot, kind);
  assert_int_equal(protocol_framed.start(self->connection, &one->call), CONNECTION_TAKEN);
  wire_header header = expect_frame(self, WIRE_REQUEST, NULL, NULL);
  assert_int_equal(header.id, one->call.id);
  assert_int_equal(header.timeout_ms, 0);
  assert_int_equal(header.method, 1 + kind);
}

static void finish_well(struct link *self, stream *one) {
  answer(self, one->call.id, 0);
  assert_int_equal(one->finished, 1);
  assert_null(one->call.error);
  stream_clear(one);
}

/* ---- credit ---- */

static void sends_as_far_as_its_credit_goes(void **state) {
  (void)state;
  struct link self;
  stream one;
  size_t size;
  open_link(&self, HELLO);
  start(&self, &one, BIDI);
  assert_true(peer_is_quiet(&self));
  for (int i = 0; i < 6; i++) one.sizes[i] = 1000;
  one.to_send = 6;
  one.has_end = true;
  protocol_framed.send(self.connection, &one.call);
  assert_int_equal(one.sent, 4); /* 4096 - 4 * 1064 = -160 */
  for (int i = 0; i < 4; i++) {
    assert_int_equal(expect_frame(&self, WIRE_STREAM_DATA, &size, NULL).id, one.call.id);
    assert_int_equal(size, 1000);
  }
  protocol_framed.send(self.connection, &one.call);
  peer_credit(&self, one.call.id, 160); /* 0: still none */
  assert_int_equal(one.sent, 4);
  assert_true(peer_is_quiet(&self));
  peer_credit(&self, one.call.id, 1);
  assert_int_equal(one.sent, 5);
  expect_frame(&self, WIRE_STREAM_DATA, NULL, NULL);
  assert_true(peer_is_quiet(&self));
  peer_credit(&self, one.call.id, 1064);
  expect_frame(&self, WIRE_STREAM_DATA, NULL, NULL);
  assert_int_equal(expect_frame(&self, WIRE_END, &size, NULL).id, one.call.id); /* costs nothing */
  assert_int_equal(size, 0);
  protocol_framed.send(self.connection, &one.call);
  assert_true(peer_is_quiet(&self));
  finish_well(&self, &one);
  link_close(&self);
}

static void what_waits_goes_with_the_request(void **state) {
  (void)state;
  struct link self;
  stream one;
  open_link(&self, HELLO);
  stream_init(&one, &self.lot, CLIENT);
  one.to_send = 1;
  one.has_end = true;
  assert_int_equal(protocol_framed.start(self.connection, &one.call), CONNECTION_TAKEN);
  expect_frame(&self, WIRE_REQUEST, NULL, NULL);
  expect_frame(&self, WIRE_STREAM_DATA, NULL, NULL);
  expect_frame(&self, WIRE_END, NULL, NULL);
  finish_well(&self, &one);
  link_close(&self);
}

static void grants_what_was_taken_in_batches(void **state) {
  (void)state;
  struct link self;
  stream one;
  uint8_t body[8];
  open_link(&self, HELLO);
  start(&self, &one, SERVER);
  for (int i = 0; i < 8; i++) peer_message(&self, one.call.id, 448); /* 512 each: the whole window */
  assert_int_equal(one.received, 8);
  assert_int_equal(one.messages[0]->size, 448);
  assert_int_equal(one.messages[0]->body[1], 2);
  protocol_framed.taken(self.connection, &one.call, 448);
  assert_true(peer_is_quiet(&self)); /* half a quarter */
  protocol_framed.taken(self.connection, &one.call, 448);
  assert_int_equal(expect_frame(&self, WIRE_CREDIT, NULL, body).id, one.call.id);
  assert_int_equal(wire_get32(body), 1024);
  peer_message(&self, one.call.id, 6000); /* overdraws it by one */
  assert_int_equal(one.received, 9);
  for (int i = 0; i < 6; i++) protocol_framed.taken(self.connection, &one.call, 448);
  for (int i = 0; i < 3; i++) expect_frame(&self, WIRE_CREDIT, NULL, NULL);
  protocol_framed.taken(self.connection, &one.call, 6000);
  expect_frame(&self, WIRE_CREDIT, NULL, body);
  assert_int_equal(wire_get32(body), 6064);
  finish_well(&self, &one);
  protocol_framed.taken(self.connection, &one.call, 6000); /* too late: it has no more to do with it */
  protocol_framed.send(self.connection, &one.call);
  assert_true(peer_is_quiet(&self));
  link_close(&self);
}

/* ---- workers that do not keep to it ---- */

typedef struct lie {
  int kind; /* of the stream; -1: a unary call */
  wire_kind frame;
  uint8_t flags;
  size_t size;
  uint8_t body[4];
  int times; /* well sent before it */
  const char *part;
} lie;

static const lie lies[] = {
    {SERVER, WIRE_STREAM_DATA, 0, 1000, {0}, 4, "more messages on a stream than it had credit for"},
    {CLIENT, WIRE_STREAM_DATA, 0, 1, {0}, 0, "a message on a stream of the host's"},
    {SERVER, WIRE_STREAM_DATA, WIRE_FLAG_JSON, 1, {0}, 0, "a message in another form"},
    {-1, WIRE_STREAM_DATA, 0, 1, {0}, 0, "a stream's message for a call that is none"},
    {-1, WIRE_CREDIT, 0, 4, {0, 0, 0, 1}, 0, "credit for a call that is no stream"},
    {BIDI, WIRE_CREDIT, 0, 4, {0, 0, 0, 1}, 0, "more credit than a stream has used"},
    {BIDI, WIRE_CREDIT, 0, 4, {0xff, 0xff, 0xff, 0xff}, 0, "more credit than a stream has used"},
    {BIDI, WIRE_CREDIT, 0, 3, {0}, 0, "credit of another size"},
    {BIDI, WIRE_CREDIT, 0, 5, {0}, 0, "credit of another size"},
};

static void lies_end_the_connection(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
    struct link self;
    stream one;
    struct call unary;
    uint8_t body[8192] = {0};
    const lie *told = &lies[i];
    open_link(&self, HELLO);
    uint64_t *id = &one.call.id;
    if (told->kind >= 0) {
      start(&self, &one, told->kind);
    } else {
      frame_block *frame = NULL;
      assert_int_equal(request_encode_json(&codec_protobuf, "echo", "1", NULL, &frame, NULL), 0);
      call_init(&unary, &self.lot, (call_method){.name = "echo"}, frame, INT64_MAX);
      assert_int_equal(protocol_framed.start(self.connection, &unary), CONNECTION_TAKEN);
      id = &unary.id;
    }
    for (int j = 0; j < told->times; j++) peer_message(&self, *id, 1000);
    assert_int_equal(atomic_load(&self.broken), 0);
    memcpy(body, told->body, sizeof told->body);
    send_frame(&self, (wire_header){.kind = (uint8_t)told->frame, .flags = told->flags, .id = *id}, body, told->size);
    assert_true(protocol_framed.pump(self.connection));
    assert_int_equal(atomic_load(&self.broken), 1);
    assert_int_equal(pyproc_error_code(self.connection->reason), PYPROC_E_DATA_LOSS);
    if (strstr(pyproc_error_message(self.connection->reason), told->part) == NULL)
      fail_msg("%s", pyproc_error_message(self.connection->reason));
    call_list unstarted = link_lose(&self);
    if (told->kind >= 0) {
      assert_int_equal(one.received, told->times);
      assert_int_equal(one.finished, told->times > 0); /* else it can be had by another worker */
      assert_true((unstarted.first == NULL) == (told->times > 0));
      stream_clear(&one);
    } else {
      call_clear(&unary);
    }
    protocol_framed.destroy(self.connection);
    lot_destroy(&self.lot);
  }
}

static void what_nobody_wants_is_dropped(void **state) {
  (void)state;
  struct link self;
  stream ended, given_up, one;
  open_link(&self, HELLO);
  start(&self, &ended, SERVER);
  finish_well(&self, &ended);
  start(&self, &given_up, BIDI);
  peer_message(&self, given_up.call.id, 1);
  assert_int_equal(protocol_framed.withdraw(self.connection, &given_up.call, PYPROC_E_CANCELLED), 1);
  wire_header header = expect_frame(&self, WIRE_CANCEL, NULL, NULL);
  assert_int_equal(header.id, given_up.call.id);
  assert_int_equal(header.code, 1);
  start(&self, &one, BIDI);
  const uint64_t ids[] = {ended.call.id, given_up.call.id, one.call.id ^ STATUS_PAGE_SLOTS, UINT64_MAX, 0};
  for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
    for (int j = 0; j < 10; j++) peer_message(&self, ids[i], 5000); /* no credit is kept of what is dropped */
    peer_credit(&self, ids[i], UINT32_MAX);
  }
  peer_say(&self, WIRE_END, one.call.id, NULL, 0); /* only hosts send that */
  assert_int_equal(atomic_load(&self.broken), 0);
  assert_int_equal(given_up.received, 1);
  assert_int_equal(one.received, 0);
  assert_int_equal(given_up.finished, 0); /* its owner ends it */
  assert_int_equal(atomic_load(&self.connection->streams), 2);
  answer(&self, given_up.call.id, 1);
  assert_int_equal(atomic_load(&self.connection->streams), 1);
  stream_clear(&given_up);
  finish_well(&self, &one);
  link_close(&self);
}

/* ---- who gets a stream, and who reads for it ---- */

static void no_more_than_max_streams(void **state) {
  (void)state;
  struct link self;
  stream some[MAX_STREAMS], more;
  open_link(&self, HELLO);
  for (int i = 0; i < MAX_STREAMS; i++) start(&self, &some[i], BIDI);
  assert_int_equal(atomic_load(&self.connection->load), 0);
  assert_int_equal(atomic_load(&self.connection->streams), MAX_STREAMS);
  stream_init(&more, &self.lot, BIDI);
  assert_int_equal(protocol_framed.start(self.connection, &more.call), CONNECTION_FULL);
  assert_int_equal(more.finished, 0);
  int freed = atomic_load(&self.freed);
  finish_well(&self, &some[0]);
  assert_int_equal(atomic_load(&self.freed), freed + 1);
  assert_int_equal(protocol_framed.start(self.connection, &more.call), CONNECTION_TAKEN);
  finish_well(&self, &more);
  for (int i = 1; i < MAX_STREAMS; i++) finish_well(&self, &some[i]);
  link_close(&self);
}

static void old_workers_get_none(void **state) {
  (void)state;
  struct link self;
  stream one;
  open_link(&self, HELLO_OF("\"started\""));
  stream_init(&one, &self.lot, BIDI);
  assert_int_equal(protocol_framed.start(self.connection, &one.call), CONNECTION_REFUSED);
  assert_int_equal(one.finished, 1);
  assert_int_equal(pyproc_error_code(one.call.error), PYPROC_E_UNIMPLEMENTED);
  assert_non_null(strstr(pyproc_error_message(one.call.error), "too old"));
  stream_clear(&one);
  link_close(&self);
}

static void an_idle_stream_needs_no_reader(void **state) {
  (void)state;
  struct link self;
  stream one;
  open_link(&self, HELLO);
  start(&self, &one, BIDI);
  assert_false(protocol_framed.owes(self.connection));
  assert_int_equal(atomic_load(&self.watched), 0);
  atomic_store(&one.part.is_unattended, true);
  protocol_framed.attend(self.connection, &one.call);
  assert_true(protocol_framed.owes(self.connection));
  assert_int_equal(atomic_load(&self.watched), 1);
  finish_well(&self, &one);
  assert_false(protocol_framed.owes(self.connection));

  stream_init(&one, &self.lot, BIDI);
  atomic_store(&one.part.is_unattended, true); /* before it has found a place */
  assert_int_equal(protocol_framed.start(self.connection, &one.call), CONNECTION_TAKEN);
  assert_true(protocol_framed.owes(self.connection));
  assert_int_equal(protocol_framed.withdraw(self.connection, &one.call, PYPROC_E_CANCELLED), 0);
  assert_true(protocol_framed.owes(self.connection)); /* a late reply */
  answer(&self, one.call.id, 1);
  assert_false(protocol_framed.owes(self.connection));
  stream_clear(&one);
  link_close(&self);
}

/* A stream of which only the request was sent is another worker's; the others end. */
static void death_ends_what_has_begun(void **state) {
  (void)state;
  struct link self;
  stream fresh, sent, got;
  open_link(&self, HELLO);
  start(&self, &fresh, SERVER);
  start(&self, &sent, CLIENT);
  start(&self, &got, SERVER);
  sent.to_send = 1;
  protocol_framed.send(self.connection, &sent.call);
  peer_message(&self, got.call.id, 1);
  call_list unstarted = link_lose(&self);
  assert_ptr_equal(unstarted.first, &fresh.call);
  assert_ptr_equal(unstarted.last, &fresh.call);
  assert_int_equal(fresh.finished + sent.finished + got.finished, 2);
  assert_int_equal(pyproc_error_code(sent.call.error), PYPROC_E_UNAVAILABLE);
  assert_false(sent.call.may_have_run);
  assert_true(got.call.may_have_run);
  stream_clear(&fresh);
  stream_clear(&sent);
  stream_clear(&got);
  protocol_framed.destroy(self.connection);
  lot_destroy(&self.lot);
}

static void a_stopping_worker_gives_back_what_has_not_begun(void **state) {
  (void)state;
  struct link self;
  stream fresh, sent;
  open_link(&self, HELLO);
  start(&self, &fresh, SERVER);
  start(&self, &sent, CLIENT);
  sent.to_send = 1;
  protocol_framed.send(self.connection, &sent.call);
  answer(&self, sent.call.id, 14);
  assert_null(self.returned);
  assert_int_equal(sent.finished, 1);
  answer(&self, fresh.call.id, 14);
  assert_ptr_equal(self.returned, &fresh.call);
  assert_int_equal(fresh.finished, 0);
  stream_clear(&fresh);
  stream_clear(&sent);
  link_close(&self);
}

static void streams_are_not_recalled(void **state) {
  (void)state;
  struct link self;
  stream one;
  call_list calls = {0};
  open_link(&self, HELLO_OF("\"status_page\",\"streams\""));
  start(&self, &one, SERVER);
  protocol_framed.recall(self.connection, 0, &calls);
  assert_null(calls.first);
  finish_well(&self, &one);
  link_close(&self);
}

/* ---- threads ---- */

typedef struct sleeper {
  struct link *link;
  stream *one;
  lot_waiter waiter;
  int wanted; /* messages */
} sleeper;

static bool has_wanted(const call_wait *wait) {
  const stream *one = (const stream *)(const void *)wait->call;
  return one->received >= 1 || one->finished > 0;
}

static void *wait_for_message(void *argument) {
  sleeper *self = argument;
  call_wait wait = {
      .call = &self->one->call, .ready = has_wanted, .waiter = &self->waiter, .deadline_ns = PLATFORM_NO_DEADLINE};
  protocol_framed.progress(self->link->connection, &wait);
  return NULL;
}

/* A thread that waits for a stream reads for itself: nobody else has to. */
static void a_waiting_thread_reads(void **state) {
  (void)state;
  struct link self;
  stream one;
  pthread_t thread;
  open_link(&self, HELLO);
  start(&self, &one, BIDI);
  atomic_store(&one.part.is_unattended, true);
  protocol_framed.attend(self.connection, &one.call);
  sleeper waiting = {.link = &self, .one = &one};
  lot_waiter_init(&self.lot, &waiting.waiter);
  assert_int_equal(pthread_create(&thread, NULL, wait_for_message, &waiting), 0);
  while (protocol_framed.owes(self.connection)) platform_yield(); /* it has come */
  send_frame(&self, (wire_header){.kind = WIRE_STREAM_DATA, .id = one.call.id}, "x", 1);
  pthread_join(thread, NULL);
  assert_int_equal(one.received, 1);
  assert_true(protocol_framed.owes(self.connection)); /* it has gone */
  finish_well(&self, &one);
  link_close(&self);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(sends_as_far_as_its_credit_goes),
      cmocka_unit_test(what_waits_goes_with_the_request),
      cmocka_unit_test(grants_what_was_taken_in_batches),
      cmocka_unit_test(lies_end_the_connection),
      cmocka_unit_test(what_nobody_wants_is_dropped),
      cmocka_unit_test(no_more_than_max_streams),
      cmocka_unit_test(old_workers_get_none),
      cmocka_unit_test(an_idle_stream_needs_no_reader),
      cmocka_unit_test(death_ends_what_has_begun),
      cmocka_unit_test(a_stopping_worker_gives_back_what_has_not_begun),
      cmocka_unit_test(streams_are_not_recalled),
      cmocka_unit_test(a_waiting_thread_reads),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
