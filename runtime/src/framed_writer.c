#include "framed.h"

#include <string.h>

#include "error.h"
#include "wire/frame.h"

enum { CONTROL_BODY_MAX = 4096, COMBINED_FRAMES = 8 };

void framed_flush(framed *self) {
  struct iovec parts[SEND_QUEUE_PARTS];
  while (!self->writing && !send_queue_is_empty(&self->queue) && framed_is_open(self)) {
    int count = send_queue_take(&self->queue, parts);
    atomic_store_explicit(&self->unwritten, 0, memory_order_relaxed);
    self->writing = true;
    pthread_mutex_unlock(&self->lock);
    ssize_t written = self->channel->ops->write(self->channel, parts, count);
    if (written == CHANNEL_CORRUPT)
      framed_break(self, framed_corrupt(self));
    else if (written == CHANNEL_FAILED || written == CHANNEL_END)
      framed_break(self, error_new(PYPROC_E_UNAVAILABLE, "the worker closed its connection"));
    pthread_mutex_lock(&self->lock);
    self->writing = false;
    send_queue_wrote(&self->queue, written > 0 ? (size_t)written : 0);
    if (written < 0) {
      atomic_store(&self->write_blocked, written == CHANNEL_AGAIN);
      break;
    }
    atomic_store_explicit(&self->write_blocked, false, memory_order_relaxed);
  }
  if (send_queue_is_empty(&self->queue) && atomic_load_explicit(&self->write_blocked, memory_order_relaxed))
    atomic_store(&self->write_blocked, false); /* the last frame was withdrawn */
}

bool framed_put_off(framed *self) {
  int unwritten = atomic_load_explicit(&self->unwritten, memory_order_relaxed) + 1;
  atomic_store_explicit(&self->unwritten, unwritten, memory_order_relaxed);
  return unwritten < COMBINED_FRAMES;
}

void framed_flush_all(struct connection *base) {
  framed *self = framed_of(base);
  if (atomic_load(&self->unwritten) == 0) return;
  pthread_mutex_lock(&self->lock);
  framed_flush(self);
  pthread_mutex_unlock(&self->lock);
  if (atomic_load(&self->write_blocked)) framed_nudge(base); /* whoever blocks there does not look for room yet */
}

bool framed_send_control(framed *self, uint8_t kind, uint16_t code, uint64_t id, const void *body, size_t size) {
  uint8_t frame[WIRE_LENGTH_SIZE + WIRE_HEADER_SIZE + CONTROL_BODY_MAX];
  if (size > CONTROL_BODY_MAX) return false;
  wire_header header = {.kind = kind, .code = code, .id = id};
  wire_put32(frame, (uint32_t)(WIRE_HEADER_SIZE + size));
  wire_header_put(frame + WIRE_LENGTH_SIZE, &header);
  if (size > 0) memcpy(frame + WIRE_LENGTH_SIZE + WIRE_HEADER_SIZE, body, size);
  return send_queue_append_bytes(&self->queue, frame, WIRE_LENGTH_SIZE + WIRE_HEADER_SIZE + size);
}
