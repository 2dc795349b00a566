/* The framed protocol against a worker that speaks schema/wire.md by hand, well and badly. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "error.h"
#include "framed.h"
#include "request.h"
#include "wire/envelope.h"
#include "wire/frame.h"
#include "wire/metadata.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

enum { PATIENCE_S = 30, BODY_MAX = 16 << 20, LIMIT = 32 << 20 };

#define FAR_NS (platform_now_ns() + PATIENCE_S * INT64_C(1000000000))
#define METHODS "\"methods\":[{\"name\":\"health\"},{\"name\":\"predict\"}]"
#define PAGE_HELLO "{\"version\":1,\"threads\":2,\"features\":[\"status_page\",\"started\"]," METHODS "}"
#define STARTED_HELLO "{\"version\":1,\"features\":[\"started\"]," METHODS "}"
#define PLAIN_HELLO "{\"version\":1," METHODS "}"

/* A connection, its owner, and the worker's end of the socket. */
struct link {
  struct lot lot;
  struct connection *connection;
  int peer;
  status_page *page; /* as the worker maps it */
  json_t *welcome;
  atomic_int ready, freed, broken, watched;
  struct call *returned;
};

/* ---- the owner ---- */

static void on_ready(void *owner) {
  atomic_fetch_add(&((struct link *)owner)->ready, 1);
}

static void on_freed(void *owner) {
  atomic_fetch_add(&((struct link *)owner)->freed, 1);
}

static void on_returned(void *owner, struct call *call) {
  ((struct link *)owner)->returned = call;
}

static void on_broken(void *owner) {
  atomic_fetch_add(&((struct link *)owner)->broken, 1);
}

static bool on_watch(void *owner, bool for_write) {
  (void)for_write;
  atomic_fetch_add(&((struct link *)owner)->watched, 1);
  return true;
}

static int on_logs(void *owner, int fds[2]) {
  (void)owner;
  (void)fds;
  return 0;
}

static void on_drain(void *owner) {
  (void)owner;
}

static const connection_owner owner_ops = {
    .ready = on_ready,
    .freed = on_freed,
    .returned = on_returned,
    .broken = on_broken,
    .watch = on_watch,
    .logs = on_logs,
    .drain = on_drain,
};

/* ---- the worker's side ---- */

static void peer_write(const struct link *self, const void *data, size_t size) {
  for (size_t sent = 0; sent < size;) {
    ssize_t count = send(self->peer, (const char *)data + sent, size - sent, MSG_NOSIGNAL);
    assert_true(count > 0);
    sent += (size_t)count;
  }
}

static void peer_read(const struct link *self, void *data, size_t size) {
  for (size_t got = 0; got < size;) {
    ssize_t count = recv(self->peer, (char *)data + got, size - got, 0);
    assert_true(count > 0);
    got += (size_t)count;
  }
}

static void append_frame(buffer *bytes, const wire_header *header, const void *body, size_t size) {
  assert_true(buffer_reserve(bytes, WIRE_LENGTH_SIZE + WIRE_HEADER_SIZE + size));
  wire_put32(bytes->data + bytes->size, (uint32_t)(WIRE_HEADER_SIZE + size));
  wire_header_put(bytes->data + bytes->size + WIRE_LENGTH_SIZE, header);
  bytes->size += WIRE_LENGTH_SIZE + WIRE_HEADER_SIZE;
  assert_true(buffer_append(bytes, body, size));
}

static void peer_send(const struct link *self, wire_header header, const char *body) {
  buffer bytes = {0};
  append_frame(&bytes, &header, body, strlen(body));
  peer_write(self, bytes.data, bytes.size);
  buffer_free(&bytes);
}

static void peer_reply(const struct link *self, uint64_t id, const char *body) {
  peer_send(self, (wire_header){.kind = WIRE_REPLY, .flags = WIRE_FLAG_JSON, .id = id}, body);
}

static void peer_envelope(const struct link *self, const char *text) {
  uint8_t length[WIRE_LENGTH_SIZE];
  wire_put32(length, (uint32_t)strlen(text));
  peer_write(self, length, sizeof length);
  peer_write(self, text, strlen(text));
}

/* The next frame; its body goes to `body`, with a NUL behind it. */
static wire_header peer_take(const struct link *self, buffer *body) {
  uint8_t head[WIRE_LENGTH_SIZE + WIRE_HEADER_SIZE];
  wire_header header;
  peer_read(self, head, sizeof head);
  size_t size = wire_get32(head);
  assert_in_range(size, WIRE_HEADER_SIZE, LIMIT);
  size -= WIRE_HEADER_SIZE;
  memset(&header, 0, sizeof header);
  (void)wire_header_get(head + WIRE_LENGTH_SIZE, WIRE_HEADER_SIZE, &header);
  buffer_clear(body);
  assert_true(buffer_reserve(body, size + 1));
  peer_read(self, body->data, size);
  body->data[size] = '\0';
  body->size = size;
  return header;
}

static wire_header peer_expect(const struct link *self, uint8_t kind) {
  buffer body = {0};
  wire_header header = peer_take(self, &body);
  buffer_free(&body);
  assert_int_equal(header.kind, kind);
  return header;
}

/* Whether nothing is there to be read. */
static bool peer_is_quiet(const struct link *self) {
  char byte;
  return recv(self->peer, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0;
}

static void peer_take_welcome(struct link *self) {
  uint8_t first;
  int fd = -1;
  char control[CMSG_SPACE(sizeof(int))];
  uint8_t head[WIRE_LENGTH_SIZE + WIRE_HEADER_SIZE - 1];
  struct iovec part = {.iov_base = &first, .iov_len = 1};
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
  assert_int_equal(recvmsg(self->peer, &message, MSG_CMSG_CLOEXEC), 1);
  const struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
  if (rights != NULL) memcpy(&fd, CMSG_DATA(rights), sizeof fd);
  peer_read(self, head, sizeof head);
  assert_int_equal(head[WIRE_LENGTH_SIZE - 1], WIRE_WELCOME);
  char body[512];
  size_t size = ((size_t)head[1] << 8 | head[2]) - WIRE_HEADER_SIZE;
  assert_in_range(size, 2, sizeof body - 1);
  peer_read(self, body, size);
  self->welcome = json_loadb(body, size, 0, NULL);
  assert_non_null(self->welcome);
  if (fd < 0) return;
  self->page = mmap(NULL, sizeof *self->page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  assert_ptr_not_equal(self->page, MAP_FAILED);
  close(fd);
}

/* ---- both together ---- */

static void link_connect(struct link *self) {
  int fds[2];
  struct timeval patience = {.tv_sec = PATIENCE_S};
  assert_int_equal(platform_socketpair(fds), 0);
  self->peer = fds[1];
  assert_int_equal(setsockopt(self->peer, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience), 0);
  assert_int_equal(setsockopt(self->peer, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience), 0);
  assert_int_equal(protocol_framed.open(self->connection, fds[0], NULL), PYPROC_OK);
  assert_int_equal(atomic_load(&self->connection->state), CONNECTION_HANDSHAKE);
}

static void link_create_with(struct link *self, connection_settings settings) {
  memset(self, 0, sizeof *self);
  lot_init(&self->lot);
  settings.lot = &self->lot;
  settings.cancel_grace_ms = 1234;
  settings.max_in_flight = 4096;
  self->connection = protocol_framed.create(&settings, &owner_ops, self, NULL);
  assert_non_null(self->connection);
  self->connection->index = 3;
  assert_int_equal(atomic_load(&self->connection->state), CONNECTION_DOWN);
  self->peer = -1;
}

static void link_create(struct link *self, const struct codec *codec, int64_t limit, int64_t spin_ns) {
  link_create_with(self, (connection_settings){.codec = codec, .frame_limit = limit, .spin_ns = spin_ns});
}

static void shake_hands(struct link *self, const char *hello) {
  assert_true(protocol_framed.owes(self->connection));
  peer_send(self, (wire_header){.kind = WIRE_HELLO, .flags = WIRE_FLAG_JSON}, hello);
  assert_true(protocol_framed.pump(self->connection));
  assert_int_equal(atomic_load(&self->connection->state), CONNECTION_OPEN);
  peer_take_welcome(self);
}

static void link_open(struct link *self, const struct codec *codec, const char *hello) {
  link_create(self, codec, LIMIT, 0);
  link_connect(self);
  shake_hands(self, hello);
  assert_int_equal(atomic_load(&self->ready), 1);
}

/* The end of the process: returns the calls that have not started. */
static call_list link_lose(struct link *self) {
  call_list unstarted = {0};
  pyproc_error *error = error_new(PYPROC_E_UNAVAILABLE, "the worker died");
  platform_close_fd(self->peer);
  self->peer = -1;
  protocol_framed.drain(self->connection);
  assert_int_equal(atomic_load(&self->connection->state), CONNECTION_BROKEN);
  assert_non_null(self->connection->reason);
  (protocol_framed.fail)(self->connection, error, &unstarted);
  pyproc_error_free(error);
  assert_int_equal(atomic_load(&self->connection->load), 0);
  assert_true(protocol_framed.close(self->connection));
  assert_int_equal(atomic_load(&self->connection->state), CONNECTION_DOWN);
  if (self->page != NULL) munmap(self->page, sizeof *self->page);
  json_decref(self->welcome);
  self->page = NULL;
  self->welcome = NULL;
  return unstarted;
}

static void link_close(struct link *self) {
  call_list unstarted = link_lose(self);
  assert_null(unstarted.first);
  protocol_framed.destroy(self->connection);
  lot_destroy(&self->lot);
}

/* As a blocking caller does. */
static void progress(struct connection *connection, struct call *call) {
  call_wait wait = {.call = call, .waiter = &call->waiter, .deadline_ns = call->deadline_ns};
  protocol_framed.progress(connection, &wait);
}

static void prepare(struct link *self, struct call *call, const char *method, const char *body) {
  frame_block *frame = NULL;
  assert_int_equal(request_encode_json(framed_of(self->connection)->settings.codec, method, body, NULL, &frame, NULL),
                   0);
  call_init(call, &self->lot, (call_method){.name = method}, frame, FAR_NS);
}

static void begin(struct link *self, struct call *call, const char *body) {
  prepare(self, call, "predict", body);
  assert_int_equal(protocol_framed.start(self->connection, call), CONNECTION_TAKEN);
  assert_ptr_equal(atomic_load(&call->connection), self->connection);
}

static void finish(struct link *self, struct call *call, const char *body) {
  if (!atomic_load(&call->done)) progress(self->connection, call);
  assert_true(atomic_load(&call->done));
  if (call->error != NULL) fail_msg("%s", pyproc_error_message(call->error));
  assert_int_equal(call->body_size, strlen(body));
  assert_memory_equal(call->body, body, call->body_size);
  call_clear(call);
}

static void finish_badly(struct link *self, struct call *call, int code, const char *text) {
  if (!atomic_load(&call->done)) progress(self->connection, call);
  assert_true(atomic_load(&call->done));
  assert_non_null(call->error);
  assert_int_equal(pyproc_error_code(call->error), code);
  if (strstr(pyproc_error_message(call->error), text) == NULL) fail_msg("%s", pyproc_error_message(call->error));
  call_clear(call);
}

/* Reads what is there until the connection is broken, and checks why. */
static void expect_broken(struct link *self, int code) {
  for (int i = 0; i < 100 && atomic_load(&self->connection->state) != CONNECTION_BROKEN; i++)
    assert_true(protocol_framed.pump(self->connection));
  assert_int_equal(atomic_load(&self->connection->state), CONNECTION_BROKEN);
  assert_int_equal(atomic_load(&self->broken), 1);
  if (pyproc_error_code(self->connection->reason) != code)
    fail_msg("%s", pyproc_error_message(self->connection->reason));
  assert_false(protocol_framed.owes(self->connection));
}

/* A worker that stops gives back what it has not begun; what it has begun may say UNAVAILABLE for itself. */
static void a_call_given_back(void **state) {
  (void)state;
  struct link self;
  struct call begun, waiting;
  const char *error = "{\"error\":\"the worker stops\"}";
  link_open(&self, &codec_protobuf, PAGE_HELLO);
  begin(&self, &begun, "1");
  begin(&self, &waiting, "2");
  assert_true(status_page_start(self.page, begun.id));
  peer_send(&self, (wire_header){.kind = WIRE_REPLY, .flags = WIRE_FLAG_JSON, .code = 14, .id = begun.id}, error);
  peer_send(&self, (wire_header){.kind = WIRE_REPLY, .flags = WIRE_FLAG_JSON, .code = 14, .id = waiting.id}, error);
  finish_badly(&self, &begun, PYPROC_E_UNAVAILABLE, "the worker stops");
  protocol_framed.pump(self.connection);
  assert_ptr_equal(self.returned, &waiting);
  assert_false(atomic_load(&waiting.done));
  assert_int_equal(atomic_load(&self.connection->load), 0);
  assert_int_equal(atomic_load(&self.connection->capacity), 0);
  call_clear(&waiting);
  link_close(&self);
}

/* A call taken back before its caller came to read leaves a reply that somebody has to read. */
static void a_recalled_call_leaves_a_debt(void **state) {
  (void)state;
  struct link self;
  struct call call;
  call_list calls = {0};
  link_open(&self, &codec_protobuf, PAGE_HELLO);
  begin(&self, &call, "1");
  int watched = atomic_load(&self.watched);
  protocol_framed.recall(self.connection, 0, &calls);
  assert_ptr_equal(calls.first, &call);
  assert_true(protocol_framed.owes(self.connection));
  assert_int_equal(atomic_load(&self.watched), watched + 1);
  call_clear(&call);
  link_close(&self);
}

/* ---- handshake ---- */

static void a_handshake(void **state) {
  (void)state;
  struct link self;
  link_open(&self, &codec_protobuf, PAGE_HELLO);
  assert_int_equal(json_integer_value(json_object_get(self.welcome, "version")), 1);
  assert_string_equal(json_string_value(json_object_get(self.welcome, "codec")), "protobuf");
  assert_int_equal(json_integer_value(json_object_get(self.welcome, "frame_limit")), LIMIT);
  assert_int_equal(json_integer_value(json_object_get(self.welcome, "worker_index")), 3);
  assert_int_equal(json_integer_value(json_object_get(self.welcome, "cancel_grace_ms")), 1234);
  assert_int_equal(json_integer_value(json_object_get(self.welcome, "spin_us")), 0);
  assert_int_equal(atomic_load(&self.connection->capacity), 2);
  assert_non_null(self.page);
  assert_ptr_equal(self.connection->page, framed_of(self.connection)->page_memory);
  assert_int_equal(self.page->magic, STATUS_PAGE_MAGIC);
  assert_int_equal(self.page->version, STATUS_PAGE_VERSION);
  assert_int_equal(self.page->thread_count, STATUS_PAGE_THREADS);
  assert_int_equal(self.page->slot_count, STATUS_PAGE_SLOTS);
  assert_false(protocol_framed.owes(self.connection));
  link_close(&self);
}

static void no_page_for_a_worker_that_has_no_use_for_it(void **state) {
  (void)state;
  struct link self;
  link_open(&self, &codec_json, PLAIN_HELLO);
  assert_null(self.page);
  assert_null(self.connection->page);
  assert_string_equal(json_string_value(json_object_get(self.welcome, "codec")), "json");
  assert_int_equal(atomic_load(&self.connection->prefetch), 0); /* what waits in it could not be taken back */
  link_close(&self);
}

/* Byte by byte; and nothing starts before it is over. */
static void a_hello_in_pieces(void **state) {
  (void)state;
  struct link self;
  struct call call;
  buffer bytes = {0};
  append_frame(&bytes, &(wire_header){.kind = WIRE_HELLO, .flags = WIRE_FLAG_JSON}, PAGE_HELLO, strlen(PAGE_HELLO));
  link_create(&self, &codec_protobuf, LIMIT, 0);
  prepare(&self, &call, "predict", "1");
  assert_int_equal(protocol_framed.start(self.connection, &call), CONNECTION_CLOSED);
  link_connect(&self);
  for (size_t i = 0; i < bytes.size; i++) {
    assert_int_equal(atomic_load(&self.ready), 0);
    assert_int_equal(protocol_framed.start(self.connection, &call), CONNECTION_CLOSED);
    peer_write(&self, bytes.data + i, 1);
    assert_true(protocol_framed.pump(self.connection));
  }
  assert_int_equal(atomic_load(&self.ready), 1);
  peer_take_welcome(&self);
  assert_null(atomic_load(&call.connection));
  assert_int_equal(call.attempts, 0);
  call_clear(&call);
  link_close(&self);
  buffer_free(&bytes);
}

/* The limit holds from the handshake on: a hello that is larger is fine, a reply is not. */
static void a_hello_above_the_frame_limit(void **state) {
  (void)state;
  struct link self;
  struct call call;
  buffer hello = {0};
  assert_true(buffer_append_text(&hello, "{\"version\":1,\"methods\":[{\"name\":\"predict\"}"));
  for (int i = 0; i < 5000; i++) assert_true(buffer_append_text(&hello, ",{\"name\":\"predict\",\"kind\":\"unary\"}"));
  assert_true(buffer_append(&hello, "]}", 3));
  link_create(&self, &codec_protobuf, WIRE_FRAME_LIMIT_MIN, 0);
  link_connect(&self);
  buffer bytes = {0};
  append_frame(&bytes, &(wire_header){.kind = WIRE_HELLO, .flags = WIRE_FLAG_JSON}, hello.data, hello.size - 1);
  for (size_t at = 0; at < bytes.size; at += 4096) {
    peer_write(&self, bytes.data + at, bytes.size - at < 4096 ? bytes.size - at : 4096);
    assert_true(protocol_framed.pump(self.connection));
  }
  assert_int_equal(atomic_load(&self.ready), 1);
  peer_take_welcome(&self);
  begin(&self, &call, "1");
  peer_send(&self, (wire_header){.kind = WIRE_REPLY, .id = call.id}, (const char *)hello.data);
  expect_broken(&self, PYPROC_E_DATA_LOSS);
  platform_close_fd(self.peer);
  self.peer = -1;
  link_close(&self); /* no page, no STARTED: the call may have run and is over */
  assert_true(call.may_have_run);
  call_clear(&call);
  buffer_free(&hello);
  buffer_free(&bytes);
}

/* What a worker may say instead of a hello. After each the same place is used again. */
static void handshakes_that_fail(void **state) {
  (void)state;
  static const struct {
    wire_header header;
    const char *body;
    int code;
    const char *text;
  } cases[] = {
      {{.kind = WIRE_HELLO}, "{\"version\":2," METHODS "}", PYPROC_E_FAILED_PRECONDITION, "version"},
      {{.kind = WIRE_HELLO}, "{\"version\":", PYPROC_E_DATA_LOSS, "JSON"},
      {{.kind = WIRE_HELLO}, "", PYPROC_E_DATA_LOSS, "JSON"},
      {{.kind = WIRE_HELLO, .flags = 2}, PLAIN_HELLO, PYPROC_E_DATA_LOSS, "no frame"},
      {{.kind = WIRE_HELLO, .metadata_size = 1000000}, PLAIN_HELLO, PYPROC_E_DATA_LOSS, "no frame"},
      {{.kind = WIRE_REPLY, .id = 4096}, "{}", PYPROC_E_DATA_LOSS, "before its hello"},
      {{.kind = WIRE_GOODBYE}, "", PYPROC_E_DATA_LOSS, "before its hello"},
      {{.kind = 0}, "", PYPROC_E_DATA_LOSS, "no frame"},
      {{.kind = '{'}, "", PYPROC_E_DATA_LOSS, "no frame"},
      {{.kind = WIRE_FAILED},
       "{\"error\":\"no such module\",\"type\":\"ImportError\"}",
       PYPROC_E_FAILED_PRECONDITION,
       "no such module"},
      {{.kind = WIRE_FAILED}, "nonsense", PYPROC_E_FAILED_PRECONDITION, ""},
  };
  struct link self;
  link_create(&self, &codec_protobuf, LIMIT, 0);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    atomic_store(&self.broken, 0);
    link_connect(&self);
    peer_send(&self, cases[i].header, cases[i].body);
    expect_broken(&self, cases[i].code);
    const char *text = pyproc_error_message(self.connection->reason);
    if (strstr(text, cases[i].text) == NULL) fail_msg("no \"%s\" in: %s", cases[i].text, text);
    assert_null(link_lose(&self).first);
  }
  assert_int_equal(atomic_load(&self.ready), 0);
  atomic_store(&self.broken, 0);
  link_connect(&self);
  shake_hands(&self, PAGE_HELLO);
  assert_int_equal(atomic_load(&self.ready), 1);
  link_close(&self);
}

static void a_peer_that_goes_at_any_byte_of_its_hello(void **state) {
  (void)state;
  struct link self;
  buffer bytes = {0};
  append_frame(&bytes, &(wire_header){.kind = WIRE_HELLO}, PLAIN_HELLO, strlen(PLAIN_HELLO));
  link_create(&self, &codec_protobuf, LIMIT, 0);
  for (size_t size = 0; size < bytes.size; size += 5) {
    atomic_store(&self.broken, 0);
    link_connect(&self);
    peer_write(&self, bytes.data, size);
    close(self.peer);
    self.peer = -1;
    expect_broken(&self, PYPROC_E_UNAVAILABLE);
    assert_null(link_lose(&self).first);
  }
  atomic_store(&self.broken, 0);
  link_connect(&self);
  link_close(&self);
  buffer_free(&bytes);
}

/* ---- calls ---- */

static void one_call(void **state) {
  (void)state;
  struct link self;
  struct call call;
  buffer body = {0};
  link_open(&self, &codec_protobuf, PAGE_HELLO);
  begin(&self, &call, "{\"value\":42}");
  assert_int_equal(atomic_load(&self.connection->load), 1);
  wire_header header = peer_take(&self, &body);
  assert_int_equal(header.kind, WIRE_REQUEST);
  assert_int_equal(header.flags, WIRE_FLAG_JSON);
  assert_int_equal(header.method, 1);
  assert_true(header.id == call.id && header.id >= STATUS_PAGE_SLOTS && header.id < UINT64_C(1) << 53);
  assert_in_range(header.timeout_ms, 1, PATIENCE_S * 1000);
  assert_string_equal((char *)body.data, "{\"value\":42}");
  assert_true(status_page_start(self.page, header.id));
  peer_reply(&self, header.id, "{\"result\":84}");
  finish(&self, &call, "{\"result\":84}");
  assert_int_equal(atomic_load(&self.connection->load), 0);
  assert_int_equal(atomic_load(&self.connection->good_calls), 1);
  assert_true(atomic_load(&self.freed) > 0);
  buffer_free(&body);
  link_close(&self);
}

static void replies_in_any_order_and_cut_anywhere(void **state) {
  (void)state;
  static const int orders[][3] = {{0, 1, 2}, {2, 1, 0}, {1, 2, 0}};
  static const char *const bodies[] = {"\"a\"", "\"bb\"", "\"\""};
  struct link self;
  link_open(&self, &codec_protobuf, PAGE_HELLO);
  for (size_t order = 0; order < 3; order++)
    for (size_t cut = 1; cut < 3 * (WIRE_LENGTH_SIZE + WIRE_HEADER_SIZE); cut += 7) {
      struct call calls[3];
      buffer bytes = {0};
      for (int i = 0; i < 3; i++) begin(&self, &calls[i], "1");
      for (int i = 0; i < 3; i++) peer_expect(&self, WIRE_REQUEST);
      for (int i = 0; i < 3; i++) {
        int which = orders[order][i];
        wire_header header = {.kind = WIRE_REPLY, .flags = WIRE_FLAG_JSON, .id = calls[which].id};
        append_frame(&bytes, &header, bodies[which], strlen(bodies[which]));
      }
      peer_write(&self, bytes.data, cut);
      assert_true(protocol_framed.pump(self.connection));
      peer_write(&self, bytes.data + cut, bytes.size - cut);
      for (int i = 0; i < 3; i++) finish(&self, &calls[i], bodies[i]);
      buffer_free(&bytes);
    }
  link_close(&self);
}

static void large_both_ways(void **state) {
  (void)state;
  enum { SIZE = 300000 };
  struct link self;
  struct call call;
  char *text = malloc(SIZE + 1);
  assert_non_null(text);
  memset(text, 'x', SIZE);
  text[0] = text[SIZE - 1] = '"';
  text[SIZE] = '\0';
  link_open(&self, &codec_protobuf, PAGE_HELLO);
  begin(&self, &call, text);
  bool for_write = false;
  assert_true(protocol_framed.fd(self.connection, &for_write) >= 0);
  assert_true(for_write); /* it does not fit into the socket */
  buffer body = {0};
  uint8_t head[WIRE_LENGTH_SIZE + WIRE_HEADER_SIZE];
  peer_read(&self, head, sizeof head);
  assert_true(buffer_reserve(&body, SIZE));
  while (body.size < SIZE) { /* in turns, as one thread plays both sides */
    ssize_t count = recv(self.peer, body.data + body.size, SIZE - body.size, MSG_DONTWAIT);
    if (count > 0) body.size += (size_t)count;
    assert_true(protocol_framed.pump(self.connection));
  }
  assert_memory_equal(body.data, text, SIZE);
  protocol_framed.fd(self.connection, &for_write);
  assert_false(for_write);
  buffer bytes = {0};
  append_frame(&bytes, &(wire_header){.kind = WIRE_REPLY, .flags = WIRE_FLAG_JSON, .id = call.id}, text, SIZE);
  for (size_t at = 0; at < bytes.size; at += 50000) {
    peer_write(&self, bytes.data + at, bytes.size - at < 50000 ? bytes.size - at : 50000);
    assert_true(protocol_framed.pump(self.connection));
  }
  finish(&self, &call, text);
  link_close(&self);
  buffer_free(&bytes);
  buffer_free(&body);
  free(text);
}

static void errors_of_the_worker(void **state) {
  (void)state;
  static const struct {
    uint16_t status;
    const char *body;
    int code;
    const char *text;
  } cases[] = {{2, "{\"error\":\"boom\",\"type\":\"ValueError\",\"traceback\":\"tb\"}", PYPROC_E_UNKNOWN, "boom"},
               {3, "{\"error\":\"bad\"}", PYPROC_E_INVALID_ARGUMENT, "bad"},
               {16, "{\"error\":\"who\"}", PYPROC_E_UNAUTHENTICATED, "who"},
               {17, "{\"error\":\"later\"}", PYPROC_E_UNKNOWN, "later"},
               {65535, "{\"error\":\"x\"}", PYPROC_E_UNKNOWN, "x"},
               {5, "", PYPROC_E_NOT_FOUND, ""},
               {5, "garbage", PYPROC_E_NOT_FOUND, ""}};
  struct link self;
  link_open(&self, &codec_protobuf, PAGE_HELLO);
  self.connection->peer_pid = 4711;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct call call;
    begin(&self, &call, "1");
    wire_header header = peer_expect(&self, WIRE_REQUEST);
    if (i > 0) assert_true(status_page_start(self.page, header.id));
    peer_send(&self, (wire_header){.kind = WIRE_REPLY, .code = cases[i].status, .id = header.id}, cases[i].body);
    progress(self.connection, &call);
    assert_int_equal(call.may_have_run, i > 0);
    assert_int_equal(pyproc_error_worker_pid(call.error), 4711);
    if (i == 0) assert_string_equal(pyproc_error_type(call.error), "ValueError");
    finish_badly(&self, &call, cases[i].code, cases[i].text);
  }
  assert_int_equal(atomic_load(&self.connection->state), CONNECTION_OPEN);
  link_close(&self);
}

static void refused_calls(void **state) {
  (void)state;
  struct link self;
  struct call call;
  link_open(&self, &codec_protobuf, PAGE_HELLO);
  prepare(&self, &call, "nope", "1");
  assert_int_equal(protocol_framed.start(self.connection, &call), CONNECTION_REFUSED);
  assert_false(call.may_have_run);
  finish_badly(&self, &call, PYPROC_E_UNIMPLEMENTED, "nope");
  assert_int_equal(atomic_load(&self.connection->load), 0);
  assert_true(peer_is_quiet(&self));
  link_close(&self);
}

/* Slots end at 4,096 calls in flight; used again, they never make the same id. */
static void slots_and_ids(void **state) {
  (void)state;
  struct link self;
  struct call one;
  struct call *calls = calloc(STATUS_PAGE_SLOTS, sizeof *calls);
  assert_non_null(calls);
  link_open(&self, &codec_protobuf, PAGE_HELLO);
  uint64_t before = 0;
  for (int i = 0; i < 50; i++) {
    begin(&self, &one, "1");
    peer_expect(&self, WIRE_REQUEST);
    assert_true(one.id > before);
    before = one.id;
    peer_reply(&self, one.id, "1");
    finish(&self, &one, "1");
  }
  for (int i = 0; i < STATUS_PAGE_SLOTS; i++) begin(&self, &calls[i], "1");
  uint8_t seen[STATUS_PAGE_SLOTS] = {0};
  for (int i = 0; i < STATUS_PAGE_SLOTS; i++) assert_int_equal(seen[calls[i].id % STATUS_PAGE_SLOTS]++, 0);
  prepare(&self, &one, "predict", "1");
  assert_int_equal(protocol_framed.start(self.connection, &one), CONNECTION_REFUSED);
  finish_badly(&self, &one, PYPROC_E_RESOURCE_EXHAUSTED, "in flight");
  assert_true(status_page_start(self.page, calls[7].id));
  call_list unstarted = link_lose(&self);
  int count = 0;
  for (const struct call *call = unstarted.first; call != NULL; call = call->next) count++;
  assert_int_equal(count, STATUS_PAGE_SLOTS - 1);
  assert_ptr_equal(unstarted.first, &calls[0]); /* oldest first */
  assert_true(calls[7].may_have_run && atomic_load(&calls[7].done));
  for (int i = 0; i < STATUS_PAGE_SLOTS; i++) call_clear(&calls[i]);
  free(calls);
  protocol_framed.destroy(self.connection);
  lot_destroy(&self.lot);
}

/* ---- giving up ---- */

static void a_late_reply_reaches_nobody(void **state) {
  (void)state;
  struct link self;
  struct call first, second;
  link_open(&self, &codec_protobuf, PAGE_HELLO);
  begin(&self, &first, "1");
  uint64_t id = first.id;
  peer_expect(&self, WIRE_REQUEST);
  assert_int_equal(protocol_framed.withdraw(self.connection, &first, PYPROC_E_DEADLINE_EXCEEDED), 0);
  assert_null(atomic_load(&first.connection));
  assert_int_equal(protocol_framed.withdraw(self.connection, &first, PYPROC_E_DEADLINE_EXCEEDED), -1);
  call_clear(&first);
  assert_false(status_page_start(self.page, id)); /* revoked: the worker will not run it */
  wire_header cancel = peer_expect(&self, WIRE_CANCEL);
  assert_true(cancel.id == id);
  assert_int_equal(cancel.code, 4);
  assert_true(protocol_framed.owes(self.connection)); /* the reply; and nobody waits for it */
  assert_true(atomic_load(&self.watched) > 0);
  assert_int_equal(atomic_load(&self.connection->load), 1);
  begin(&self, &second, "2");
  assert_int_not_equal(second.id % STATUS_PAGE_SLOTS, id % STATUS_PAGE_SLOTS);
  peer_expect(&self, WIRE_REQUEST);
  peer_reply(&self, id, "\"late\"");
  peer_reply(&self, id, "\"twice\"");
  peer_reply(&self, id + STATUS_PAGE_SLOTS, "\"next generation\"");
  peer_reply(&self, 0, "\"nobody\"");
  peer_reply(&self, UINT64_MAX, "\"nobody\"");
  peer_reply(&self, second.id, "\"second\"");
  finish(&self, &second, "\"second\"");
  assert_false(protocol_framed.owes(self.connection));
  assert_int_equal(atomic_load(&self.connection->load), 0);
  link_close(&self);
}

/* Whether a call may have run, by page, by STARTED, and where nothing is known. */
static void whether_it_may_have_run(void **state) {
  (void)state;
  static const struct {
    const char *hello;
    bool starts;
    int ran;
  } cases[] = {{PAGE_HELLO, false, 0},
               {PAGE_HELLO, true, 1},
               {STARTED_HELLO, false, 0},
               {STARTED_HELLO, true, 1},
               {PLAIN_HELLO, false, 1}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct link self;
    struct call withdrawn, lost;
    link_open(&self, &codec_protobuf, cases[i].hello);
    begin(&self, &withdrawn, "1");
    begin(&self, &lost, "1");
    if (cases[i].starts && self.page != NULL) {
      assert_true(status_page_start(self.page, withdrawn.id));
      assert_true(status_page_start(self.page, lost.id));
    } else if (cases[i].starts) {
      peer_send(&self, (wire_header){.kind = WIRE_STARTED, .id = withdrawn.id + STATUS_PAGE_SLOTS}, "");
      peer_send(&self, (wire_header){.kind = WIRE_STARTED, .id = withdrawn.id}, "");
      assert_true(protocol_framed.pump(self.connection));
      peer_send(&self, (wire_header){.kind = WIRE_STARTED, .id = lost.id}, ""); /* read by drain */
    }
    assert_int_equal(protocol_framed.withdraw(self.connection, &withdrawn, PYPROC_E_CANCELLED), cases[i].ran);
    call_list unstarted = link_lose(&self);
    if (cases[i].ran) {
      assert_null(unstarted.first);
      assert_true(lost.may_have_run);
      finish_badly(&self, &lost, PYPROC_E_UNAVAILABLE, "the worker died");
    } else {
      assert_ptr_equal(unstarted.first, &lost);
      assert_null(atomic_load(&lost.connection));
      assert_false(atomic_load(&lost.done));
      call_clear(&lost);
    }
    call_clear(&withdrawn);
    protocol_framed.destroy(self.connection);
    lot_destroy(&self.lot);
  }
}

/* What a call's owner hears of a handler that was told to stop: its end, the worker's death, or nothing. */
static void asked_to_stop(void **state) {
  (void)state;
  for (int i = 0; i < 4; i++) {
    struct link self;
    struct call call;
    buffer body = {0};
    link_open(&self, &codec_protobuf, PAGE_HELLO);
    begin(&self, &call, "1");
    peer_expect(&self, WIRE_REQUEST);
    uint64_t id = call.id;
    assert_true(status_page_start(self.page, id));
    for (int times = 0; times < 2; times++)
      assert_int_equal(protocol_framed.ask(self.connection, &call, PYPROC_E_DEADLINE_EXCEEDED), CONNECTION_ASKED);
    assert_int_equal(call.asked, PYPROC_E_DEADLINE_EXCEEDED);
    wire_header told = peer_take(&self, &body);
    assert_int_equal(told.kind, WIRE_CANCEL);
    assert_int_equal(told.code, 4);
    assert_true(told.id == id);
    if (i == 0) {
      peer_send(&self, (wire_header){.kind = WIRE_REPLY, .flags = WIRE_FLAG_JSON, .code = 4, .id = id},
                "{\"error\":\"the deadline passed\",\"interrupted\":true}");
      progress(self.connection, &call);
      assert_int_equal(pyproc_error_stop(call.error), PYPROC_STOP_INTERRUPTED);
      finish_badly(&self, &call, PYPROC_E_DEADLINE_EXCEEDED, "passed");
    } else if (i == 1) { /* one that is not begun is not given to another worker then */
      atomic_store(&self.page->slots[id % STATUS_PAGE_SLOTS], 0);
      call_list unstarted = link_lose(&self);
      assert_null(unstarted.first);
      assert_false(call.may_have_run);
      finish_badly(&self, &call, PYPROC_E_UNAVAILABLE, "died");
    } else {
      assert_int_equal(protocol_framed.withdraw(self.connection, &call, PYPROC_E_DEADLINE_EXCEEDED), 1);
      call_clear(&call);
      begin(&self, &call, "2"); /* the worker is not told twice */
      assert_int_equal(peer_take(&self, &body).kind, WIRE_REQUEST);
      if (i == 2) peer_reply(&self, id, "\"late\"");
      peer_reply(&self, call.id, "2");
      finish(&self, &call, "2");
    }
    buffer_free(&body);
    if (i != 1) {
      link_close(&self);
    } else {
      protocol_framed.destroy(self.connection);
      lot_destroy(&self.lot);
    }
  }
}

/* One that has not begun is withdrawn at once. */
static void asked_in_time(void **state) {
  (void)state;
  struct link self;
  struct call call;
  link_open(&self, &codec_protobuf, PAGE_HELLO);
  begin(&self, &call, "1");
  peer_expect(&self, WIRE_REQUEST);
  assert_int_equal(protocol_framed.ask(self.connection, &call, PYPROC_E_CANCELLED), 0);
  assert_int_equal(call.asked, 0);
  assert_null(atomic_load(&call.connection));
  assert_false(status_page_start(self.page, call.id));
  assert_int_equal(protocol_framed.ask(self.connection, &call, PYPROC_E_CANCELLED), -1);
  call_clear(&call);
  link_close(&self);
}

static void append_entry(buffer *to, const char *key, const char *value, size_t value_size) {
  wire_metadata entry = {key, value, strlen(key), value_size};
  assert_true(buffer_reserve(to, wire_metadata_size(&entry)));
  to->size = (size_t)(wire_metadata_put(to->data + to->size, &entry) - to->data);
}

/* Metadata of replies, small and large, and of errors. */
static void metadata_of_replies(void **state) {
  (void)state;
  for (int i = 0; i < 3; i++) {
    struct link self;
    struct call call;
    buffer bytes = {0}, payload = {0};
    char long_value[8000];
    memset(long_value, 'v', sizeof long_value);
    link_open(&self, &codec_protobuf, PAGE_HELLO);
    begin(&self, &call, "1");
    peer_expect(&self, WIRE_REQUEST);
    append_entry(&bytes, "x-blob-bin", "\0\1", 2);
    if (i == 1) append_entry(&bytes, "x-long", long_value, sizeof long_value);
    size_t metadata_size = bytes.size;
    wire_header header = {.kind = WIRE_REPLY, .flags = WIRE_FLAG_JSON, .id = call.id};
    header.metadata_size = (uint32_t)metadata_size;
    header.code = i == 2 ? 5 : 0;
    assert_true(buffer_append_text(&bytes, i == 2 ? "{\"error\":\"no\"}" : "84"));
    append_frame(&payload, &header, (const char *)bytes.data, bytes.size);
    peer_write(&self, payload.data, payload.size);
    progress(self.connection, &call);
    if (i < 2) {
      assert_int_equal(call.metadata_size, metadata_size);
      assert_memory_equal(call.body - metadata_size, bytes.data, metadata_size);
      finish(&self, &call, "84");
    } else {
      size_t count;
      const pyproc_metadata *got = pyproc_error_metadata(call.error, &count);
      assert_int_equal(count, 1);
      assert_string_equal(got->key, "x-blob-bin");
      assert_int_equal(got->value_size, 2);
      assert_memory_equal(got->value, "\0\1\0", 3);
      finish_badly(&self, &call, PYPROC_E_NOT_FOUND, "no");
    }
    buffer_free(&payload);
    buffer_free(&bytes);
    link_close(&self);
  }
}

/* What is wrong with metadata costs the call, not the worker; sizes beyond the frame are no frame. */
static void broken_metadata(void **state) {
  (void)state;
  static const struct {
    uint32_t size;
    const char *text;
  } cases[] = {{3, "abc1"}, {13, "ab\x7f\x7f\x7f\x7fxyz1234567"}, {9, "\x7f\x7f\x7f\x7f\x7f\x7fxyz1"}};
  struct link self;
  struct call call;
  link_open(&self, &codec_protobuf, PAGE_HELLO);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    begin(&self, &call, "1");
    peer_expect(&self, WIRE_REQUEST);
    peer_send(&self, (wire_header){.kind = WIRE_REPLY, .id = call.id, .metadata_size = cases[i].size}, cases[i].text);
    finish_badly(&self, &call, PYPROC_E_DATA_LOSS, "metadata");
  }
  begin(&self, &call, "1");
  peer_expect(&self, WIRE_REQUEST);
  assert_true(status_page_start(self.page, call.id));
  peer_send(&self, (wire_header){.kind = WIRE_REPLY, .id = call.id, .metadata_size = 2}, "1");
  expect_broken(&self, PYPROC_E_DATA_LOSS);
  link_close(&self);
  finish_badly(&self, &call, PYPROC_E_UNAVAILABLE, "died");
}

static void taking_calls_back(void **state) {
  (void)state;
  struct link self;
  struct call calls[3];
  call_list taken = {0};
  link_open(&self, &codec_protobuf, PAGE_HELLO);
  for (int i = 0; i < 3; i++) {
    begin(&self, &calls[i], "1");
    peer_expect(&self, WIRE_REQUEST);
  }
  assert_true(status_page_start(self.page, calls[0].id));
  protocol_framed.recall(self.connection, INT64_C(60000000000), &taken);
  assert_null(taken.first); /* they were sent just now */
  protocol_framed.recall(self.connection, 0, &taken);
  assert_ptr_equal(taken.first, &calls[1]);
  assert_ptr_equal(taken.last, &calls[2]);
  assert_ptr_equal(calls[1].next, &calls[2]);
  for (int i = 1; i < 3; i++) {
    assert_null(atomic_load(&calls[i].connection));
    assert_false(atomic_load(&calls[i].done));
    assert_false(status_page_start(self.page, calls[i].id));
    peer_send(&self, (wire_header){.kind = WIRE_REPLY, .code = 1, .id = calls[i].id}, "{\"error\":\"revoked\"}");
  }
  assert_int_equal(atomic_load(&self.connection->load), 3); /* it owes two answers */
  peer_reply(&self, calls[0].id, "1");
  finish(&self, &calls[0], "1");
  assert_int_equal(atomic_load(&self.connection->load), 0);
  assert_int_equal(protocol_framed.start(self.connection, &calls[1]), CONNECTION_TAKEN); /* as on any other */
  assert_int_equal(calls[1].attempts, 1); /* one that was taken back is none */
  wire_header header = peer_expect(&self, WIRE_REQUEST);
  assert_true(header.id == calls[1].id);
  peer_reply(&self, header.id, "2");
  finish(&self, &calls[1], "2");
  call_clear(&calls[2]);
  link_close(&self);
}

static void without_a_page_nothing_is_taken_back(void **state) {
  (void)state;
  struct link self;
  struct call call;
  call_list taken = {0};
  link_open(&self, &codec_protobuf, STARTED_HELLO);
  begin(&self, &call, "1");
  protocol_framed.recall(self.connection, 0, &taken);
  assert_null(taken.first);
  peer_reply(&self, call.id, "1");
  finish(&self, &call, "1");
  link_close(&self);
}

/* Gives up in the middle of a frame, and before the first byte of another. */
static void giving_up_what_is_being_written(void **state) {
  (void)state;
  enum { SIZE = 4 << 20 };
  struct link self;
  struct call partly, unsent, after;
  char *text = malloc(SIZE + 1);
  assert_non_null(text);
  memset(text, '1', SIZE);
  text[SIZE] = '\0';
  link_open(&self, &codec_protobuf, PAGE_HELLO);
  begin(&self, &partly, text);
  begin(&self, &unsent, text);
  uint64_t id = partly.id;
  assert_int_equal(protocol_framed.withdraw(self.connection, &unsent, PYPROC_E_CANCELLED), 0);
  assert_int_equal(atomic_load(&self.connection->load), 1); /* the worker never hears of it */
  call_clear(&unsent);
  assert_int_equal(protocol_framed.withdraw(self.connection, &partly, PYPROC_E_CANCELLED), 0);
  call_clear(&partly); /* its bytes are still needed */
  assert_true(protocol_framed.owes(self.connection));
  size_t got = 0, total = WIRE_LENGTH_SIZE + WIRE_HEADER_SIZE + SIZE;
  uint8_t *bytes = malloc(total);
  assert_non_null(bytes);
  while (got < total) {
    ssize_t count = recv(self.peer, bytes + got, total - got, MSG_DONTWAIT);
    if (count > 0) got += (size_t)count;
    assert_true(protocol_framed.pump(self.connection));
  }
  assert_memory_equal(bytes + total - SIZE, text, SIZE);
  wire_header cancel = peer_expect(&self, WIRE_CANCEL);
  assert_true(cancel.id == id);
  assert_int_equal(cancel.code, 1);
  peer_send(&self, (wire_header){.kind = WIRE_REPLY, .code = 1, .id = id}, "{\"error\":\"x\"}");
  begin(&self, &after, "1");
  peer_expect(&self, WIRE_REQUEST); /* the stream is still in step */
  peer_reply(&self, after.id, "1");
  finish(&self, &after, "1");
  link_close(&self);
  free(bytes);
  free(text);
}

/* The last frame that waited is withdrawn: waiting for room to write would be a busy loop. */
static void nothing_left_to_write(void **state) {
  (void)state;
  enum { SIZE = 9000, MANY = 2000 };
  struct link self;
  struct call *calls = calloc(MANY, sizeof *calls);
  char text[SIZE + 1];
  bool for_write = false;
  int count = 0;
  assert_non_null(calls);
  memset(text, '1', SIZE);
  text[SIZE] = '\0';
  link_open(&self, &codec_protobuf, PAGE_HELLO);
  while (!for_write && count < MANY) {
    begin(&self, &calls[count++], text);
    protocol_framed.fd(self.connection, &for_write);
  }
  assert_true(for_write);
  struct call *last = &calls[count - 1];
  assert_int_equal(protocol_framed.withdraw(self.connection, last, PYPROC_E_CANCELLED), 0);
  if (send_queue_is_empty(&framed_of(self.connection)->queue)) { /* the system took frames as a whole */
    assert_true(protocol_framed.pump(self.connection));
    protocol_framed.fd(self.connection, &for_write);
    assert_false(for_write);
  }
  link_lose(&self);
  for (int i = 0; i < count; i++) call_clear(&calls[i]);
  free(calls);
  protocol_framed.destroy(self.connection);
  lot_destroy(&self.lot);
}

static void a_deadline_ends_progress(void **state) {
  (void)state;
  for (int spin = 0; spin < 2; spin++) {
    struct link self;
    struct call call;
    link_create(&self, &codec_protobuf, LIMIT, spin * INT64_C(2000000));
    link_connect(&self);
    shake_hands(&self, PAGE_HELLO);
    prepare(&self, &call, "predict", "1");
    call.deadline_ns = platform_now_ns() + 20000000;
    assert_int_equal(protocol_framed.start(self.connection, &call), CONNECTION_TAKEN);
    wire_header header = peer_expect(&self, WIRE_REQUEST);
    assert_in_range(header.timeout_ms, 1, 20);
    progress(self.connection, &call);
    assert_false(atomic_load(&call.done));
    assert_true(platform_now_ns() >= call.deadline_ns);
    assert_int_equal(protocol_framed.withdraw(self.connection, &call, PYPROC_E_DEADLINE_EXCEEDED), 0);
    call_clear(&call);
    link_close(&self);
  }
}

static void no_deadline_is_none_on_the_wire(void **state) {
  (void)state;
  struct link self;
  struct call call;
  link_open(&self, &codec_protobuf, PAGE_HELLO);
  prepare(&self, &call, "predict", "1");
  call.deadline_ns = INT64_MAX;
  assert_int_equal(protocol_framed.start(self.connection, &call), CONNECTION_TAKEN);
  wire_header header = peer_expect(&self, WIRE_REQUEST);
  assert_int_equal(header.timeout_ms, 0);
  peer_reply(&self, call.id, "1");
  finish(&self, &call, "1");
  link_close(&self);
}

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
    begin(&self, &call, "1");
    assert_true(status_page_start(self.page, call.id));
    peer_write(&self, cases[i].bytes, cases[i].size);
    peer_reply(&self, call.id, "\"not read any more\"");
    expect_broken(&self, cases[i].code);
    link_close(&self);
    finish_badly(&self, &call, PYPROC_E_UNAVAILABLE, "died");
  }
}

static void kinds_of_later_versions_are_ignored(void **state) {
  (void)state;
  struct link self;
  struct call call;
  link_open(&self, &codec_protobuf, PAGE_HELLO);
  begin(&self, &call, "1");
  for (uint8_t kind = WIRE_END; kind <= WIRE_KIND_MAX; kind++)
    peer_send(&self, (wire_header){.kind = kind, .id = call.id}, "whatever");
  peer_reply(&self, call.id, "1");
  finish(&self, &call, "1");
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
    begin(&self, &call, "1");
    assert_true(status_page_start(self.page, call.id));
    peer_write(&self, bytes.data, size);
    shutdown(self.peer, SHUT_WR);
    expect_broken(&self, PYPROC_E_UNAVAILABLE);
    link_close(&self);
    assert_true(call.may_have_run);
    finish_badly(&self, &call, PYPROC_E_UNAVAILABLE, "died");
  }
  buffer_free(&bytes);
}

/* What a worker sent before it died still counts. */
static void last_words(void **state) {
  (void)state;
  struct link self;
  struct call answered, lost;
  link_open(&self, &codec_protobuf, PAGE_HELLO);
  begin(&self, &answered, "1");
  begin(&self, &lost, "1");
  assert_true(status_page_start(self.page, answered.id));
  assert_true(status_page_start(self.page, lost.id));
  peer_reply(&self, answered.id, "\"last\"");
  peer_send(&self, (wire_header){.kind = WIRE_FAILED}, "{\"error\":\"out of luck\"}");
  close(self.peer);
  self.peer = -1;
  protocol_framed.drain(self.connection);
  assert_non_null(strstr(pyproc_error_message(self.connection->reason), "out of luck"));
  link_close(&self);
  finish(&self, &answered, "\"last\"");
  finish_badly(&self, &lost, PYPROC_E_UNAVAILABLE, "died");
}

static void what_the_worker_runs(void **state) {
  (void)state;
  struct link self;
  struct call call;
  uint64_t id = 0;
  char name[4];
  link_open(&self, &codec_protobuf, PAGE_HELLO);
  begin(&self, &call, "1");
  assert_false(protocol_framed.running(self.connection, &id, name, sizeof name));
  atomic_store(&self.page->threads[5].call_id, call.id + STATUS_PAGE_SLOTS); /* none of ours */
  assert_false(protocol_framed.running(self.connection, &id, name, sizeof name));
  atomic_store(&self.page->threads[63].call_id, call.id);
  assert_true(protocol_framed.running(self.connection, &id, name, sizeof name));
  assert_true(id == call.id);
  assert_string_equal(name, "pre");
  peer_reply(&self, call.id, "1");
  finish(&self, &call, "1");
  assert_false(protocol_framed.running(self.connection, &id, name, sizeof name));
  link_close(&self);
}

/* The next process in the same place starts with a clean page and new ids. */
static void the_place_is_used_again(void **state) {
  (void)state;
  struct link self;
  struct call call;
  link_open(&self, &codec_protobuf, PAGE_HELLO);
  begin(&self, &call, "1");
  uint64_t id = call.id;
  assert_true(status_page_start(self.page, id));
  memset((void *)self.page->threads, 0xff, sizeof self.page->threads);
  link_lose(&self);
  call_clear(&call);
  link_connect(&self);
  shake_hands(&self, PAGE_HELLO);
  assert_true(atomic_load(&self.page->threads[0].call_id) == 0);
  assert_true(atomic_load(&self.page->slots[id % STATUS_PAGE_SLOTS]) == 0);
  assert_int_equal(self.page->magic, STATUS_PAGE_MAGIC);
  begin(&self, &call, "1");
  assert_true(call.id > id);
  peer_reply(&self, id, "\"of the dead\"");
  peer_reply(&self, call.id, "1");
  finish(&self, &call, "1");
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

/* ---- envelopes ---- */

static void envelopes(void **state) {
  (void)state;
  struct link self;
  struct call call;
  char text[256];
  link_open(&self, &codec_json, PAGE_HELLO);
  for (int i = 0; i < 5; i++) {
    begin(&self, &call, "{\"value\":42}");
    uint8_t length[WIRE_LENGTH_SIZE];
    char request[512];
    struct envelope envelope;
    peer_read(&self, length, sizeof length);
    assert_in_range(wire_get32(length), 2, sizeof request);
    peer_read(&self, request, wire_get32(length));
    assert_null(envelope_parse(request, wire_get32(length), &envelope));
    assert_true(envelope.id == call.id);
    peer_envelope(&self, "{\"id\":0,\"ok\":false,\"error\":\"whose?\"}");
    if (i == 3) { /* the other form */
      peer_send(&self, (wire_header){.kind = WIRE_REPLY, .id = call.id}, "\"\\u0000 unchecked");
      finish_badly(&self, &call, PYPROC_E_DATA_LOSS, "form");
      continue;
    }
    if (i == 4) { /* as with metadata */
      peer_reply(&self, call.id, "84");
      finish(&self, &call, "84");
      continue;
    }
    static const char *const replies[] = {"\"ok\":true,\"body\":{\"result\":84}", "\"ok\":true",
                                          "\"ok\":false,\"error\":\"b\\u00f6om\",\"code\":5,\"type\":\"KeyError\""};
    snprintf(text, sizeof text, "{\"id\":%llu,%s}", (unsigned long long)call.id, replies[i]);
    peer_envelope(&self, text);
    if (i == 0) finish(&self, &call, "{\"result\":84}");
    if (i == 1) {
      progress(self.connection, &call);
      assert_true(atomic_load(&call.done));
      assert_null(call.error);
      assert_null(envelope_check_json((const char *)call.body, call.body_size)); /* absent: still a JSON value */
      call_clear(&call);
    }
    if (i == 2) finish_badly(&self, &call, PYPROC_E_NOT_FOUND, "b\xc3\xb6om");
  }
  link_close(&self);
}

static void an_envelope_for_a_frame(void **state) {
  (void)state;
  struct link self;
  struct call call;
  char text[128];
  link_open(&self, &codec_protobuf, PAGE_HELLO);
  begin(&self, &call, "1");
  snprintf(text, sizeof text, "{\"id\":%llu,\"ok\":true,\"body\":1}", (unsigned long long)call.id);
  peer_envelope(&self, text);
  finish_badly(&self, &call, PYPROC_E_DATA_LOSS, "form");
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
  progress(connection, call);
  return NULL;
}

/* Whoever blocks in progress looks again when it is nudged, whether it has the reader's role or sleeps. */
static void nudged_after_a_cancel(void **state) {
  (void)state;
  struct link self;
  struct call calls[2];
  pthread_t threads[2];
  link_open(&self, &codec_protobuf, PAGE_HELLO);
  for (int i = 0; i < 2; i++) begin(&self, &calls[i], "1");
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

/* The worker dies under callers that wait: all of them come back. */
static void a_death_under_waiting_threads(void **state) {
  (void)state;
  enum { COUNT = 4 };
  struct link self;
  struct call calls[COUNT];
  pthread_t threads[COUNT];
  link_open(&self, &codec_protobuf, STARTED_HELLO);
  for (int i = 0; i < COUNT; i++) {
    begin(&self, &calls[i], "1");
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
    finish_badly(&self, &calls[i], PYPROC_E_UNAVAILABLE, "died");
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
  slow.ops.shut = slow_shut;
  slow.base.ops = &slow.ops;
  inner->channel = &slow.base;
  prepare(&self, &call, "predict", "1");
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
    call_init(&call, &self->link->lot, (call_method){.name = "predict"}, frame, FAR_NS);
    if (protocol_framed.start(self->link->connection, &call) != CONNECTION_TAKEN) abort();
    progress(self->link->connection, &call);
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
    link_create(&self, &codec_protobuf, LIMIT, spin * INT64_C(50000));
    link_connect(&self);
    shake_hands(&self, PAGE_HELLO);
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

/* Who listens ends before it is greeted; then somebody else does. */
static void a_hello_that_nobody_took(void **state) {
  (void)state;
  struct link link;
  int fds[2];
  link_create_with(&link, (connection_settings){.codec = &codec_json, .frame_limit = LIMIT, .attached = true});
  assert_int_equal(platform_socketpair(fds), 0);
  platform_close_fd(fds[1]);
  assert_int_equal(protocol_framed.open(link.connection, fds[0], NULL), PYPROC_OK);
  assert_int_equal(atomic_load(&link.connection->state), CONNECTION_BROKEN);
  assert_true(protocol_framed.close(link.connection));
  link_connect(&link);
  (void)peer_expect(&link, WIRE_HELLO);
  assert_true(peer_is_quiet(&link));
  link_close(&link);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_call_given_back),
      cmocka_unit_test(a_recalled_call_leaves_a_debt),
      cmocka_unit_test(a_handshake),
      cmocka_unit_test(no_page_for_a_worker_that_has_no_use_for_it),
      cmocka_unit_test(a_hello_in_pieces),
      cmocka_unit_test(a_hello_above_the_frame_limit),
      cmocka_unit_test(handshakes_that_fail),
      cmocka_unit_test(a_peer_that_goes_at_any_byte_of_its_hello),
      cmocka_unit_test(one_call),
      cmocka_unit_test(replies_in_any_order_and_cut_anywhere),
      cmocka_unit_test(large_both_ways),
      cmocka_unit_test(errors_of_the_worker),
      cmocka_unit_test(refused_calls),
      cmocka_unit_test(slots_and_ids),
      cmocka_unit_test(a_late_reply_reaches_nobody),
      cmocka_unit_test(whether_it_may_have_run),
      cmocka_unit_test(asked_to_stop),
      cmocka_unit_test(asked_in_time),
      cmocka_unit_test(metadata_of_replies),
      cmocka_unit_test(broken_metadata),
      cmocka_unit_test(taking_calls_back),
      cmocka_unit_test(without_a_page_nothing_is_taken_back),
      cmocka_unit_test(giving_up_what_is_being_written),
      cmocka_unit_test(nothing_left_to_write),
      cmocka_unit_test(a_deadline_ends_progress),
      cmocka_unit_test(no_deadline_is_none_on_the_wire),
      cmocka_unit_test(bytes_that_are_no_frames),
      cmocka_unit_test(kinds_of_later_versions_are_ignored),
      cmocka_unit_test(half_a_reply_and_then_nothing),
      cmocka_unit_test(last_words),
      cmocka_unit_test(what_the_worker_runs),
      cmocka_unit_test(the_place_is_used_again),
      cmocka_unit_test(no_more_requests),
      cmocka_unit_test(envelopes),
      cmocka_unit_test(an_envelope_for_a_frame),
      cmocka_unit_test(the_supervisor_leaves_a_reader_alone),
      cmocka_unit_test(nudged_after_a_cancel),
      cmocka_unit_test(a_death_under_waiting_threads),
      cmocka_unit_test(a_loss_under_a_writer),
      cmocka_unit_test(many_threads_take_turns),
      cmocka_unit_test(a_hello_that_nobody_took),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
