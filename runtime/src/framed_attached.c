/*
 * Workers that somebody else runs, on a path: the client speaks first, and the process goes on when the connection has
 * ended. So nothing that it may still do is taken for done, and nobody but us ends a connection whose call does not end.
 */
#include "framed.h"

#include <string.h>

#include "error.h"
#include "wire/frame.h"

#define HELLO "{\"version\":1}"
enum { HELLO_SIZE = sizeof HELLO - 1, MARGIN_MS = 250 };

static void say_hello(framed *self) {
  uint8_t frame[WIRE_LENGTH_SIZE + WIRE_HEADER_SIZE + HELLO_SIZE];
  wire_header header = {.kind = WIRE_HELLO, .flags = WIRE_FLAG_JSON};
  wire_put32(frame, WIRE_HEADER_SIZE + HELLO_SIZE);
  wire_header_put(frame + WIRE_LENGTH_SIZE, &header);
  memcpy(frame + WIRE_LENGTH_SIZE + WIRE_HEADER_SIZE, HELLO, HELLO_SIZE);
  pthread_mutex_lock(&self->lock);
  bool is_queued = send_queue_append_bytes(&self->queue, frame, sizeof frame);
  if (is_queued) framed_flush(self);
  pthread_mutex_unlock(&self->lock);
  if (!is_queued) framed_break(self, error_new(PYPROC_E_RESOURCE_EXHAUSTED, "out of memory"));
}

static void take(framed *self, const struct payload *payload) {
  framed_hello.take(self, payload);
}

/* A worker that we start ends itself for a handler that does not end; this one does not. One that looks for a cancel by
 * itself has the grace twice. */
static void send_cancel(framed *self, uint64_t id, int code) {
  int64_t due_ns = platform_now_ns() + (2 * self->settings.cancel_grace_ms + MARGIN_MS) * 1000000;
  framed_slot *slot = &self->slots[id % STATUS_PAGE_SLOTS];
  if (slot->id == id) slot->due_ns = due_ns;
  if (due_ns < atomic_load(&self->base.answer_due_ns)) {
    atomic_store(&self->base.answer_due_ns, due_ns);
    self->base.owner_ops->overdue(self->base.owner);
  }
  framed_hello.give_up(self, id, code);
}

bool framed_overdue(struct connection *base, int64_t now_ns) {
  framed *self = framed_of(base);
  if (self->handshake != &framed_attached) return true;
  int64_t due_ns = INT64_MAX;
  pthread_mutex_lock(&self->lock);
  for (int i = 0; i < STATUS_PAGE_SLOTS; i++)
    if (self->slots[i].id != 0 && self->slots[i].due_ns != 0 && self->slots[i].due_ns < due_ns)
      due_ns = self->slots[i].due_ns;
  if (due_ns > now_ns) atomic_store(&base->answer_due_ns, due_ns);
  pthread_mutex_unlock(&self->lock);
  return due_ns <= now_ns;
}

const framed_handshake framed_attached = {
    .has_frames = true, .prefetch_max = 64, .begin = say_hello, .take = take, .give_up = send_cancel};
