#include "ring.h"

#include <string.h>

void ring_format(void *memory, uint32_t ring_bytes) {
  ring_page *page = memory;
  page->magic = RING_MAGIC;
  page->version = RING_VERSION;
  page->ring_bytes = ring_bytes;
}

bool ring_is_formatted(const void *memory, uint32_t ring_bytes) {
  const ring_page *page = memory;
  return page->magic == RING_MAGIC && page->version == RING_VERSION && page->ring_bytes == ring_bytes;
}

void ring_end_init(ring_end *self, void *memory, uint32_t ring_bytes, ring_side writer) {
  ring_page *page = memory;
  *self = (ring_end){.lane = &page->lanes[writer],
                     .data = (uint8_t *)memory + RING_PAGE_SIZE + (writer == RING_HOST ? 0 : ring_bytes),
                     .size = ring_bytes};
}

static uint32_t own_of(const ring_end *self) {
  return atomic_load_explicit(&self->own, memory_order_relaxed);
}

/* So much at once, then the other side may see it: both sides of a long message are busy at the same time. */
static uint32_t step_of(const ring_end *self) {
  return self->size / 4;
}

static size_t smaller(size_t one, size_t other) {
  return one < other ? one : other;
}

/* ---- consumer ---- */

ptrdiff_t ring_read(ring_end *self, void *to, size_t size) {
  uint32_t own = own_of(self);
  __builtin_prefetch(self->data + (own & (self->size - 1))); /* its line comes over beside the index's */
  bool stopped = atomic_load_explicit(&self->stopped, memory_order_relaxed);
  uint32_t tail = stopped ? self->stop : atomic_load_explicit(&self->lane->tail, memory_order_acquire);
  uint32_t there = tail - own;
  if (there > self->size || there < self->seen - own) return RING_CORRUPT;
  self->seen = tail;
  size_t count = smaller(smaller(there, size), step_of(self));
  if (count == 0) return 0;
  size_t at = own & (self->size - 1), first = smaller(count, self->size - at);
  memcpy(to, self->data + at, first);
  if (count > first) memcpy((uint8_t *)to + first, self->data, count - first);
  own += (uint32_t)count;
  atomic_store_explicit(&self->own, own, memory_order_relaxed);
  atomic_store(&self->lane->head, own);
  return (ptrdiff_t)count;
}

bool ring_room_due(ring_end *self) {
  if (atomic_load(&self->lane->waits) == 0) return false;
  uint32_t there = self->seen - own_of(self);
  if (there > self->size - step_of(self)) return false;
  return atomic_exchange(&self->lane->waits, 0) != 0;
}

bool ring_sleep(ring_end *self) {
  if (atomic_load_explicit(&self->lane->sleeps, memory_order_relaxed) != 1) atomic_store(&self->lane->sleeps, 1);
  return atomic_load(&self->lane->tail) != own_of(self) || ring_is_closed(self) || atomic_load(&self->stopped);
}

void ring_awake(ring_end *self) {
  atomic_store_explicit(&self->lane->sleeps, 0, memory_order_relaxed);
}

bool ring_is_closed(const ring_end *self) {
  return atomic_load_explicit(&self->lane->closed, memory_order_acquire) != 0;
}

void ring_stop(ring_end *self) {
  uint32_t own = own_of(self), tail = atomic_load_explicit(&self->lane->tail, memory_order_acquire);
  if (atomic_load_explicit(&self->stopped, memory_order_relaxed)) return;
  self->stop = tail - own <= self->size && tail - own >= self->seen - own ? tail : self->seen;
  atomic_store(&self->stopped, true);
}

/* ---- producer ---- */

/* Room as of what was seen, after a look at the consumer's index where that is less than wanted. False: corrupt. */
static bool find_room(ring_end *self, size_t wanted, uint32_t *ret_room) {
  uint32_t own = own_of(self), used = own - self->seen;
  if (self->size - used < wanted) {
    uint32_t head = atomic_load_explicit(&self->lane->head, memory_order_acquire);
    if (own - head > used) return false;
    self->seen = head;
    used = own - head;
  }
  *ret_room = self->size - used;
  return true;
}

ptrdiff_t ring_put(ring_end *self, const void *from, size_t size) {
  uint32_t room, own = own_of(self);
  if (!find_room(self, size, &room)) return RING_CORRUPT;
  size_t count = smaller(smaller(room, size), step_of(self));
  if (count == 0) return 0;
  size_t at = own & (self->size - 1), first = smaller(count, self->size - at);
  memcpy(self->data + at, from, first);
  if (count > first) memcpy(self->data, (const uint8_t *)from + first, count - first);
  atomic_store_explicit(&self->own, own + (uint32_t)count, memory_order_relaxed);
  return (ptrdiff_t)count;
}

void ring_publish(ring_end *self) {
  atomic_store(&self->lane->tail, own_of(self));
}

bool ring_wake_due(ring_end *self) {
  return atomic_load(&self->lane->sleeps) != 0 && atomic_exchange(&self->lane->sleeps, 0) != 0;
}

bool ring_await_room(ring_end *self) {
  if (atomic_load_explicit(&self->lane->waits, memory_order_relaxed) != 1) atomic_store(&self->lane->waits, 1);
  uint32_t used = own_of(self) - atomic_load(&self->lane->head);
  return used <= self->size - step_of(self) || used > self->size;
}

void ring_await_no_room(ring_end *self) {
  atomic_store_explicit(&self->lane->waits, 0, memory_order_relaxed);
}

void ring_close(ring_end *self) {
  atomic_store(&self->lane->closed, 1);
}
