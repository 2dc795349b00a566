#define _GNU_SOURCE
#include "connection.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "blocking.h"
#include "bulk.h"
#include "envelope.h"
#include "page.h"
#include "rings.h"

#ifndef MSG_CMSG_CLOEXEC
#define MSG_CMSG_CLOEXEC 0
#endif

enum { REASON_MAX = 1024 };

static const char no_memory[] = "there is no memory left for what it sent";
static const char spoilt[] = "it spoilt the memory that it shares with the worker";

uint64_t clock_ns(void) {
  struct timespec now;
  (void)clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

struct connection *connection_new(int fd, connection_stage stage, connection_cancel_callback *on_cancel,
                                  connection_stream_callback *on_stream, void *userdata) {
  struct connection *self = calloc(1, sizeof *self);
  if (self == NULL) return NULL;
  self->input = malloc(CONNECTION_INPUT);
  if (self->input == NULL || fcntl(fd, F_SETFD, FD_CLOEXEC) < 0 || blocking_begin(fd) < 0) {
    free(self->input);
    free(self);
    return NULL;
  }
  self->input_capacity = CONNECTION_INPUT;
  self->fd = fd;
  self->stage = stage;
  self->frame_limit = WIRE_FRAME_LIMIT_DEFAULT;
  self->streams.window = STREAM_WINDOW_DEFAULT;
  self->streams.max = STREAM_MAX_DEFAULT;
  self->on_cancel = on_cancel;
  self->on_stream = on_stream;
  self->userdata = userdata;
  return self;
}

void connection_abandon(struct connection *self) {
  if (self->fd >= 0) (void)close(self->fd);
  while (self->fd_count > 0) (void)close(self->fds[--self->fd_count]);
  rings_close(self);
  self->fd = -1;
  self->ended = true;
}

void connection_free(struct connection *self) {
  if (self == NULL) return;
  connection_abandon(self);
  page_unmap(self->page);
  Py_XDECREF(self->large);
  Py_XDECREF(self->codec);
  Py_XDECREF(self->large_metadata);
  streams_free(self);
  free(self->cancels);
  free(self->output);
  free(self->input);
  free(self);
}

/* Bytes of the frame at `at`, with its length; 0 while not even the length is there, or when it is a wrong one. */
static size_t frame_size(struct connection *self, size_t at) {
  if (self->input_end - at < WIRE_LENGTH_SIZE) return 0;
  const uint32_t size = wire_get32(self->input + at);
  if (size == 0 || size > self->frame_limit) {
    self->fault = size == 0 ? "it sent an empty frame" : "it sent a frame above the frame limit";
    return 0;
  }
  return (size_t)size + WIRE_LENGTH_SIZE;
}

bool connection_has_room(const struct connection *self) {
  return !self->ended && self->fault == NULL && self->input_scanned - self->input_start <= CONNECTION_BACKLOG &&
         self->output_end - self->output_start <= CONNECTION_BACKLOG;
}

short connection_events(const struct connection *self) {
  const bool room = connection_has_room(self), unsent = connection_unsent(self);
  if (self->rings != NULL) return room || unsent ? POLLIN : 0;
  return (short)((room ? POLLIN : 0) | (unsent ? POLLOUT : 0));
}

/* Makes room behind input_end for the rest of an unfinished frame, and for some bytes in any case. */
static int make_room(struct connection *self) {
  size_t unfinished = 0; /* a header is enough to give a long request an object of its own */
  if (self->input_end - self->input_scanned >= WIRE_LENGTH_SIZE + WIRE_HEADER_SIZE)
    unfinished = frame_size(self, self->input_scanned);
  if (self->fault != NULL) return -1;
  if (unfinished < CONNECTION_INPUT / 2) unfinished = CONNECTION_INPUT / 2;
  const size_t held = self->input_scanned - self->input_start;
  if (self->input_scanned + unfinished <= self->input_capacity && self->input_end < self->input_capacity) return 0;
  const size_t used = self->input_end - self->input_start;
  if (self->input_start > 0) {
    memmove(self->input, self->input + self->input_start, used);
    self->input_start = 0;
    self->input_scanned = held;
    self->input_end = used;
  }
  const size_t wanted = held + unfinished;
  if (wanted <= self->input_capacity && used < self->input_capacity) return 0;
  const size_t capacity = wanted > used ? wanted : used + CONNECTION_INPUT;
  uint8_t *input = realloc(self->input, capacity);
  if (input == NULL) {
    self->fault = no_memory;
    return -1;
  }
  self->input = input;
  self->input_capacity = capacity;
  return 0;
}

/* An empty buffer starts anew, and gives back what a long frame took. */
static void rewind_input(struct connection *self) {
  self->input_start = self->input_scanned = self->input_end = 0;
  self->cancel_count = 0; /* a cancel's frame follows its request's: what was cancelled has been answered */
  if (self->input_capacity <= CONNECTION_BACKLOG) return;
  uint8_t *input = realloc(self->input, CONNECTION_INPUT);
  if (input == NULL) return;
  self->input = input;
  self->input_capacity = CONNECTION_INPUT;
}

/* Keeps the first descriptors that come along, closes all others. */
static void keep_fds(struct connection *self, struct msghdr *message) {
  for (struct cmsghdr *part = CMSG_FIRSTHDR(message); part != NULL; part = CMSG_NXTHDR(message, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; i++) {
      int fd;
      memcpy(&fd, CMSG_DATA(part) + i * sizeof fd, sizeof fd);
      if (self->fd_count < CONNECTION_FDS_MAX)
        self->fds[self->fd_count++] = fd;
      else
        (void)close(fd);
    }
  }
}

static ssize_t receive_with_fds(struct connection *self, void *to, size_t size) {
  union {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(2 * CONNECTION_FDS_MAX * sizeof(int))];
  } ancillary;
  struct iovec piece = {.iov_base = to, .iov_len = size};
  struct msghdr message = {
      .msg_iov = &piece, .msg_iovlen = 1, .msg_control = &ancillary, .msg_controllen = sizeof ancillary};
  const ssize_t got = recvmsg(self->fd, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  if (got >= 0) keep_fds(self, &message);
  return got;
}

/* Returns the number of bytes, 0 for none, -1 at the end, CONNECTION_INTERRUPTED. */
static ptrdiff_t receive_from_socket(struct connection *self, void *to, size_t size, bool blocks) {
  const int flags = blocks ? 0 : MSG_DONTWAIT;
  ssize_t got;
  do got = self->stage == CONNECTION_OPEN ? recv(self->fd, to, size, flags) : receive_with_fds(self, to, size);
  while (got < 0 && errno == EINTR && !blocks);
  if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return 0;
  if (got < 0 && errno == EINTR) return CONNECTION_INTERRUPTED;
  return got > 0 ? got : -1;
}

/* The same. */
static ptrdiff_t receive_from_rings(struct connection *self, void *to, size_t size, bool blocks) {
  if (blocks && !ring_link_await(self->rings)) return CONNECTION_INTERRUPTED;
  const ptrdiff_t got = ring_link_read(self->rings, to, size);
  if (got == RING_CORRUPT) self->fault = spoilt;
  return got == RING_AGAIN ? 0 : got > 0 ? got : -1;
}

static ptrdiff_t receive(struct connection *self, bool blocks) {
  if (self->ended || self->fault != NULL) return -1;
  if (!connection_has_room(self)) {
    rings_settle(self);
    return 0;
  }
  const bool large = self->large != NULL && self->large_got < self->large_size;
  if (!large && make_room(self) < 0) return -1;
  uint8_t *to = large ? (uint8_t *)PyBytes_AS_STRING(self->large) + self->large_got : self->input + self->input_end;
  const size_t size = large ? self->large_size - self->large_got : self->input_capacity - self->input_end;
  const ptrdiff_t got =
      self->rings != NULL ? receive_from_rings(self, to, size, blocks) : receive_from_socket(self, to, size, blocks);
  if (got == CONNECTION_INTERRUPTED) return got;
  if (got <= 0) {
    self->ended = got < 0 && self->fault == NULL;
    return got;
  }
  if (large)
    self->large_got += (size_t)got;
  else
    self->input_end += (size_t)got;
  self->received_ns = clock_ns();
  return got;
}

ptrdiff_t connection_receive(struct connection *self) {
  return receive(self, false);
}

ptrdiff_t connection_receive_blocking(struct connection *self) {
  return receive(self, true);
}

static void remember_cancel(struct connection *self, uint64_t id, uint16_t code) {
  if (self->cancel_count == self->cancel_capacity) {
    const size_t capacity = self->cancel_capacity == 0 ? 16 : self->cancel_capacity * 2;
    if (capacity > CONNECTION_CANCELS_MAX) return; /* more than can be in flight: that peer invents them */
    connection_cancel_entry *cancels = realloc(self->cancels, capacity * sizeof *cancels);
    if (cancels == NULL) return; /* a cancel may be late, so it may also be lost */
    self->cancels = cancels;
    self->cancel_capacity = capacity;
  }
  self->cancels[self->cancel_count++] = (connection_cancel_entry){.id = id, .code = code};
}

static void scan_cancel(struct connection *self, uint64_t id, uint16_t code, const char *reason, size_t size) {
  if (code != 4) code = 1;
  if (self->on_cancel(self->userdata, self, id, code, reason, size)) return;
  struct stream *const stream = stream_find(self, id);
  if (stream == NULL)
    remember_cancel(self, id, code);
  else if (stream->early_code == 0)
    stream->early_code = code;
}

static void scan_ping(struct connection *self, const wire_header *ping, const uint8_t *body, size_t size) {
  if (size > CONNECTION_PING_MAX) {
    self->fault = "it sent a ping of more than 64 bytes";
    return;
  }
  uint8_t head[WIRE_LENGTH_SIZE + WIRE_HEADER_SIZE];
  const wire_header pong = {.kind = WIRE_PONG, .id = ping->id};
  wire_put32(head, (uint32_t)(WIRE_HEADER_SIZE + size));
  wire_header_put(head + WIRE_LENGTH_SIZE, &pong);
  if (connection_put(self, head, sizeof head) == 0) (void)connection_put(self, body, size);
}

/* A cancellation's reason as text; one that is longer than a reason is left out. */
static size_t plain_reason(envelope_text reason, char *to) {
  if (reason.data == NULL || reason.size >= REASON_MAX) return 0;
  return envelope_unescape(reason, to);
}

static void scan_envelope(struct connection *self, const char *payload, size_t size) {
  static const char word[] = "cancellation"; /* looked for first: parsing every request twice would be dear */
  if (memmem(payload, size, word, sizeof word - 1) == NULL) return;
  struct envelope parsed;
  if (envelope_parse(payload, size, &parsed) != NULL || parsed.type != ENVELOPE_CANCELLATION) return;
  char reason[REASON_MAX];
  scan_cancel(self, parsed.id, 1, reason, plain_reason(parsed.reason, reason));
}

/* Turns a timeout into the deadline's milliseconds, modulo 2^32, in place: the frame may wait here for long. */
static void fix_deadline(struct connection *self, uint8_t *payload) {
  const uint32_t timeout = wire_get32(payload + 16);
  if (timeout == 0) return;
  uint32_t deadline = (uint32_t)(self->received_ns / 1000000u) + timeout;
  if (timeout > INT32_MAX)
    deadline = 0; /* weeks: as good as none */
  else if (deadline == 0)
    deadline = 1;
  wire_put32(payload + 16, deadline);
}

static uint64_t deadline_ns(const struct connection *self, uint32_t deadline) {
  if (deadline == 0) return 0;
  const uint64_t now_ms = self->received_ns / 1000000u;
  const int32_t left = (int32_t)(deadline - (uint32_t)now_ms);
  const int64_t at_ms = (int64_t)now_ms + left;
  return at_ms <= 0 ? 1 : (uint64_t)at_ms * 1000000u;
}

/* Returns whether the frame has been dealt with, so that nobody needs to take it. */
static bool scan_frame(struct connection *self, uint8_t *payload, size_t size) {
  if (payload[0] == '{') {
    scan_envelope(self, (const char *)payload, size);
    return false;
  }
  wire_header header;
  if (wire_header_get(payload, size, &header) < 0) {
    self->fault = "it sent bytes that are no frame";
    return false;
  }
  const size_t skip = WIRE_HEADER_SIZE + (size_t)header.metadata_size;
  if (header.kind == WIRE_CANCEL) {
    scan_cancel(self, header.id, header.code, (const char *)payload + skip, size - skip);
  } else if (header.kind == WIRE_PING) {
    scan_ping(self, &header, payload + skip, size - skip);
    return self->fault == NULL;
  } else if (header.kind == WIRE_REQUEST) {
    fix_deadline(self, payload);
    if (self->stage == CONNECTION_OPEN) stream_receive_request(self, &header);
  } else if (header.kind == WIRE_STREAM_DATA || header.kind == WIRE_CREDIT || header.kind == WIRE_END) {
    stream_receive(self, &header, payload + skip, size - skip);
    return true;
  }
  return false;
}

/* Takes `gap` bytes in front of the frame that is scanned next out of the buffer. */
static void close_gap(struct connection *self, size_t gap, size_t size) {
  if (gap == 0) return;
  uint8_t *const at = self->input + self->input_scanned;
  memmove(at - gap, at, size);
}

/* Bytes of streams' frames leave a gap, which is closed frame by frame. Returns how large it is in the end. */
static size_t scan_frames(struct connection *self) {
  size_t gap = 0;
  while (self->fault == NULL && !self->greeted) {
    const bool held = self->input_scanned - gap > self->input_start;
    if (self->stage != CONNECTION_OPEN && held) break; /* it may change the limit */
    const size_t size = frame_size(self, self->input_scanned);
    if (size == 0) break;
    const size_t there = self->input_end - self->input_scanned;
    uint8_t *payload = self->input + self->input_scanned + WIRE_LENGTH_SIZE;
    if (there > WIRE_LENGTH_SIZE && payload[0] != '{' && (payload[0] == 0 || payload[0] > WIRE_KIND_MAX)) {
      self->fault = "it sent bytes that are no frame"; /* said at once: the rest of it may never come */
      break;
    }
    if (there < size) break;
    const bool done = scan_frame(self, payload, size - WIRE_LENGTH_SIZE);
    if (self->fault != NULL) break;
    if (!done)
      close_gap(self, gap, size);
    else if (held)
      gap += size;
    else
      self->input_start += size;
    self->input_scanned += size;
  }
  return gap;
}

void connection_scan(struct connection *self) {
  const size_t gap = scan_frames(self);
  close_gap(self, gap, self->input_end - self->input_scanned);
  self->input_scanned -= gap;
  self->input_end -= gap;
}

/* The metadata of a request: a new reference in `*ret_metadata`, NULL where it has none. -1 with a Python exception. */
static int copy_metadata(const wire_header *header, const uint8_t *payload, PyObject **ret_metadata) {
  *ret_metadata = NULL;
  if (header->kind != WIRE_REQUEST || header->metadata_size == 0) return 0;
  *ret_metadata =
      PyBytes_FromStringAndSize((const char *)payload + WIRE_HEADER_SIZE, (Py_ssize_t)header->metadata_size);
  return *ret_metadata == NULL ? -1 : 0;
}

/* Gives an unfinished long request an object of its own, which the rest is then received into. */
static int begin_large(struct connection *self) {
  const size_t there = self->input_end - self->input_start;
  const size_t size = frame_size(self, self->input_start);
  if (self->fault != NULL || self->stage != CONNECTION_OPEN) return 0;
  if (size <= CONNECTION_LARGE || there < WIRE_LENGTH_SIZE + WIRE_HEADER_SIZE) return 0;
  uint8_t *payload = self->input + self->input_start + WIRE_LENGTH_SIZE;
  size_t skip = WIRE_LENGTH_SIZE;
  wire_header header = {.kind = 0};
  if (payload[0] != '{') {
    if (wire_header_get(payload, size - WIRE_LENGTH_SIZE, &header) < 0) {
      self->fault = "it sent bytes that are no frame";
      return 0;
    }
    skip += WIRE_HEADER_SIZE + (size_t)header.metadata_size;
    if (header.kind != WIRE_REQUEST || there < skip) return 0;
    if (copy_metadata(&header, payload, &self->large_metadata) < 0) return -1;
    fix_deadline(self, payload);
    stream_receive_request(self, &header);
    if (self->fault != NULL) return 0;
  }
  PyObject *large = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(size - skip));
  if (large == NULL) {
    Py_CLEAR(self->large_metadata);
    return -1;
  }
  bulk_expect(PyBytes_AS_STRING(large), size - skip);
  memcpy(PyBytes_AS_STRING(large), self->input + self->input_start + skip, there - skip);
  self->large = large;
  self->large_got = there - skip;
  self->large_size = size - skip;
  self->large_header = header;
  self->large_deadline_ns = header.kind == 0 ? 0 : deadline_ns(self, wire_get32(payload + 16));
  self->input_start = self->input_scanned = self->input_end; /* cancels stay remembered: rewound later */
  return 0;
}

static int take_large(struct connection *self, connection_frame *ret_frame) {
  if (self->large_got < self->large_size) return 0;
  *ret_frame = (connection_frame){.header = self->large_header,
                                  .body = self->large,
                                  .metadata = self->large_metadata,
                                  .deadline_ns = self->large_deadline_ns};
  self->large = self->large_metadata = NULL;
  return 1;
}

int connection_take(struct connection *self, connection_frame *ret_frame) {
  if (self->large != NULL) return take_large(self, ret_frame);
  if (self->input_scanned == self->input_start) connection_scan(self);
  if (self->fault != NULL && self->input_scanned == self->input_start) return 0;
  if (self->input_scanned == self->input_start) {
    if (self->input_start < self->input_end) return begin_large(self);
    rewind_input(self);
    return 0;
  }
  const size_t size = wire_get32(self->input + self->input_start);
  const uint8_t *payload = self->input + self->input_start + WIRE_LENGTH_SIZE;
  wire_header header = {.kind = 0};
  size_t skip = 0;
  uint64_t deadline = 0;
  if (payload[0] != '{') {
    (void)wire_header_get(payload, size, &header); /* scan has found it right */
    skip = WIRE_HEADER_SIZE + (size_t)header.metadata_size;
    deadline = header.kind == WIRE_REQUEST ? deadline_ns(self, header.timeout_ms) : 0;
  }
  PyObject *metadata;
  if (copy_metadata(&header, payload, &metadata) < 0) return -1;
  PyObject *body = PyBytes_FromStringAndSize((const char *)payload + skip, (Py_ssize_t)(size - skip));
  if (body == NULL) {
    Py_XDECREF(metadata);
    return -1;
  }
  *ret_frame = (connection_frame){.header = header, .body = body, .metadata = metadata, .deadline_ns = deadline};
  self->input_start += WIRE_LENGTH_SIZE + size;
  if (self->input_start == self->input_end) rewind_input(self);
  self->greeted = self->stage != CONNECTION_OPEN;
  return 1;
}

bool connection_is_clear(const struct connection *self) {
  return !self->ended && self->fault == NULL && self->large == NULL && self->input_start == self->input_end;
}

bool connection_has_frame(const struct connection *self) {
  if (self->ended) return false;
  return self->large != NULL ? self->large_got == self->large_size : self->input_scanned > self->input_start;
}

uint16_t connection_cancelled(const struct connection *self, uint64_t id) {
  for (size_t i = 0; i < self->cancel_count; i++)
    if (self->cancels[i].id == id) return self->cancels[i].code;
  return 0;
}

int connection_put(struct connection *self, const void *data, size_t size) {
  if (size == 0) return 0;
  if (self->output_start == self->output_end) self->output_start = self->output_end = 0;
  if (size > self->output_capacity - self->output_end && self->output_start > self->output_capacity / 2) {
    memmove(self->output, self->output + self->output_start, self->output_end - self->output_start);
    self->output_end -= self->output_start; /* where the peer reads, but never all, it must not grow for ever */
    self->output_start = 0;
  }
  if (size > self->output_capacity - self->output_end) {
    size_t capacity = self->output_capacity == 0 ? CONNECTION_INPUT : self->output_capacity;
    while (capacity - self->output_end < size) capacity *= 2;
    uint8_t *output = realloc(self->output, capacity);
    if (output == NULL) {
      self->fault = no_memory;
      return -1;
    }
    self->output = output;
    self->output_capacity = capacity;
  }
  memcpy(self->output + self->output_end, data, size);
  self->output_end += size;
  return 0;
}

/* What the socket has taken comes off the queue first, then off the rest. */
static void advance(struct connection *self, size_t sent, const uint8_t **rest, size_t *rest_size) {
  const size_t queued = self->output_end - self->output_start;
  if (sent < queued) {
    self->output_start += sent;
    return;
  }
  self->output_start = self->output_end = 0;
  if (rest == NULL) return;
  *rest += sent - queued;
  *rest_size -= sent - queued;
}

/* An empty queue gives back what long replies took. */
static void shrink_output(struct connection *self) {
  if (self->output_capacity <= CONNECTION_BACKLOG) return;
  free(self->output);
  self->output = NULL;
  self->output_start = self->output_end = self->output_capacity = 0;
}

/* Returns how much was sent, 0 when there is no room, -1 when the peer is gone. */
static ptrdiff_t send_pieces(struct connection *self, struct iovec *pieces, size_t count) {
  if (self->rings != NULL) {
    const ptrdiff_t sent = ring_link_write(self->rings, pieces, (int)count);
    if (sent == RING_CORRUPT) self->fault = spoilt;
    return sent == RING_AGAIN ? 0 : sent > 0 ? sent : -1;
  }
  const struct msghdr message = {.msg_iov = pieces, .msg_iovlen = count};
  ssize_t sent;
  do
    sent = count == 1 /* is cheaper */
               ? send(self->fd, pieces->iov_base, pieces->iov_len, MSG_NOSIGNAL | MSG_DONTWAIT)
               : sendmsg(self->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  while (sent < 0 && errno == EINTR);
  return sent >= 0 ? sent : errno == EAGAIN || errno == EWOULDBLOCK ? 0 : -1;
}

int connection_send(struct connection *self, const uint8_t **rest, size_t *rest_size) {
  for (;;) {
    struct iovec pieces[2];
    size_t count = 0;
    if (connection_unsent(self))
      pieces[count++] = (struct iovec){self->output + self->output_start, self->output_end - self->output_start};
    if (rest != NULL && *rest_size > 0) pieces[count++] = (struct iovec){(void *)(uintptr_t)*rest, *rest_size};
    if (count == 0) {
      shrink_output(self);
      return 1;
    }
    const ptrdiff_t sent = send_pieces(self, pieces, count);
    if (sent == 0) return 0;
    if (sent < 0) {
      self->output_start = self->output_end = 0;
      return -1; /* what it sent before it went can still be read */
    }
    advance(self, (size_t)sent, rest, rest_size);
  }
}

int connection_wait_writable(const struct connection *self, int timeout_ms) {
  if (self->rings != NULL) return rings_wait_writable(self, timeout_ms);
  struct pollfd wanted = {.fd = self->fd, .events = POLLOUT};
  const int ready = poll(&wanted, 1, timeout_ms);
  if (ready <= 0) return ready;
  if ((wanted.revents & POLLOUT) != 0) return 1;
  errno = EPIPE;
  return -1;
}
