#include "link.h"

#include "error.h"
#include "request.h"

#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

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

void peer_write(const struct link *self, const void *data, size_t size) {
  for (size_t sent = 0; sent < size;) {
    ssize_t count = send(self->peer, (const char *)data + sent, size - sent, MSG_NOSIGNAL);
    assert_true(count > 0);
    sent += (size_t)count;
  }
}

void peer_read(const struct link *self, void *data, size_t size) {
  for (size_t got = 0; got < size;) {
    ssize_t count = recv(self->peer, (char *)data + got, size - got, 0);
    assert_true(count > 0);
    got += (size_t)count;
  }
}

void append_frame(buffer *bytes, const wire_header *header, const void *body, size_t size) {
  assert_true(buffer_reserve(bytes, WIRE_LENGTH_SIZE + WIRE_HEADER_SIZE + size));
  wire_put32(bytes->data + bytes->size, (uint32_t)(WIRE_HEADER_SIZE + size));
  wire_header_put(bytes->data + bytes->size + WIRE_LENGTH_SIZE, header);
  bytes->size += WIRE_LENGTH_SIZE + WIRE_HEADER_SIZE;
  assert_true(buffer_append(bytes, body, size));
}

void peer_send(const struct link *self, wire_header header, const char *body) {
  buffer bytes = {0};
  append_frame(&bytes, &header, body, strlen(body));
  peer_write(self, bytes.data, bytes.size);
  buffer_free(&bytes);
}

void peer_reply(const struct link *self, uint64_t id, const char *body) {
  peer_send(self, (wire_header){.kind = WIRE_REPLY, .flags = WIRE_FLAG_JSON, .id = id}, body);
}

void peer_envelope(const struct link *self, const char *text) {
  uint8_t length[WIRE_LENGTH_SIZE];
  wire_put32(length, (uint32_t)strlen(text));
  peer_write(self, length, sizeof length);
  peer_write(self, text, strlen(text));
}

/* The next frame; its body goes to `body`, with a NUL behind it. */
wire_header peer_take(const struct link *self, buffer *body) {
  uint8_t head[WIRE_LENGTH_SIZE + WIRE_HEADER_SIZE];
  wire_header header;
  peer_read(self, head, sizeof head);
  size_t size = wire_get32(head);
  assert_in_range(size, WIRE_HEADER_SIZE, LINK_LIMIT);
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

wire_header peer_expect(const struct link *self, uint8_t kind) {
  buffer body = {0};
  wire_header header = peer_take(self, &body);
  buffer_free(&body);
  assert_int_equal(header.kind, kind);
  return header;
}

/* Whether nothing is there to be read. */
bool peer_is_quiet(const struct link *self) {
  char byte;
  return recv(self->peer, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0;
}

void peer_take_welcome(struct link *self) {
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

void link_connect(struct link *self) {
  int fds[2];
  struct timeval patience = {.tv_sec = LINK_PATIENCE_S};
  assert_int_equal(platform_socketpair(fds), 0);
  self->peer = fds[1];
  assert_int_equal(setsockopt(self->peer, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience), 0);
  assert_int_equal(setsockopt(self->peer, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience), 0);
  assert_int_equal(protocol_framed.open(self->connection, fds[0], NULL), PYPROC_OK);
  assert_int_equal(atomic_load(&self->connection->state), CONNECTION_HANDSHAKE);
}

void link_create_with(struct link *self, connection_settings settings) {
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

void link_create(struct link *self, const struct codec *codec, int64_t limit, int64_t spin_ns) {
  link_create_with(self, (connection_settings){.codec = codec, .frame_limit = limit, .spin_ns = spin_ns});
}

void link_shake_hands(struct link *self, const char *hello) {
  assert_true(protocol_framed.owes(self->connection));
  peer_send(self, (wire_header){.kind = WIRE_HELLO, .flags = WIRE_FLAG_JSON}, hello);
  assert_true(protocol_framed.pump(self->connection));
  assert_int_equal(atomic_load(&self->connection->state), CONNECTION_OPEN);
  peer_take_welcome(self);
}

void link_open(struct link *self, const struct codec *codec, const char *hello) {
  link_create(self, codec, LINK_LIMIT, 0);
  link_connect(self);
  link_shake_hands(self, hello);
  assert_int_equal(atomic_load(&self->ready), 1);
}

/* The end of the process: returns the calls that have not started. */
call_list link_lose(struct link *self) {
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
  assert_int_equal(atomic_load(&self->connection->streams), 0);
  assert_true(protocol_framed.close(self->connection));
  assert_int_equal(atomic_load(&self->connection->state), CONNECTION_DOWN);
  if (self->page != NULL) munmap(self->page, sizeof *self->page);
  json_decref(self->welcome);
  self->page = NULL;
  self->welcome = NULL;
  return unstarted;
}

void link_close(struct link *self) {
  call_list unstarted = link_lose(self);
  assert_null(unstarted.first);
  assert_int_equal(atomic_load(&framed_of(self->connection)->resuming), 0);
  protocol_framed.destroy(self->connection);
  lot_destroy(&self->lot);
}

/* As a blocking caller does. */
void link_progress(struct connection *connection, struct call *call) {
  call_wait wait = {.call = call, .waiter = &call->waiter, .deadline_ns = call->deadline_ns};
  protocol_framed.progress(connection, &wait);
  call_resume(call);
}

void link_prepare(struct link *self, struct call *call, const char *method, const char *body) {
  frame_block *frame = NULL;
  assert_int_equal(request_encode_json(framed_of(self->connection)->settings.codec, method, body, NULL, &frame, NULL),
                   0);
  call_init(call, &self->lot, (call_method){.name = method}, frame, LINK_FAR_NS);
}

void link_begin(struct link *self, struct call *call, const char *body) {
  link_prepare(self, call, "predict", body);
  assert_int_equal(protocol_framed.start(self->connection, call), CONNECTION_TAKEN);
  assert_ptr_equal(atomic_load(&call->connection), self->connection);
}

void link_finish(struct link *self, struct call *call, const char *body) {
  if (!atomic_load(&call->done)) link_progress(self->connection, call);
  assert_true(atomic_load(&call->done));
  call_resume(call);
  if (call->error != NULL) fail_msg("%s", pyproc_error_message(call->error));
  assert_int_equal(call->body_size, strlen(body));
  assert_memory_equal(call->body, body, call->body_size);
  call_clear(call);
}

void link_finish_badly(struct link *self, struct call *call, int code, const char *text) {
  if (!atomic_load(&call->done)) link_progress(self->connection, call);
  assert_true(atomic_load(&call->done));
  call_resume(call);
  assert_non_null(call->error);
  assert_int_equal(pyproc_error_code(call->error), code);
  if (strstr(pyproc_error_message(call->error), text) == NULL) fail_msg("%s", pyproc_error_message(call->error));
  call_clear(call);
}

/* Reads what is there until the connection is broken, and checks why. */
void link_expect_broken(struct link *self, int code) {
  for (int i = 0; i < 100 && atomic_load(&self->connection->state) != CONNECTION_BROKEN; i++)
    assert_true(protocol_framed.pump(self->connection));
  assert_int_equal(atomic_load(&self->connection->state), CONNECTION_BROKEN);
  assert_int_equal(atomic_load(&self->broken), 1);
  if (pyproc_error_code(self->connection->reason) != code)
    fail_msg("%s", pyproc_error_message(self->connection->reason));
  assert_false(protocol_framed.owes(self->connection));
}
