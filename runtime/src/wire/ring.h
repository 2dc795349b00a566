/*
 * ring.h - bytes from one process to another through shared memory (schema/wire.md, "Rings").
 *
 * A ring has one producer and one consumer. Each end is used by one thread at a time, but for what says otherwise. What
 * the other side can write to is believed only after it was copied and checked; our own index is never read back.
 * Compiled into the library and into the worker's extension.
 *
 * Why no wake is lost. A consumer stores `sleeps`, then looks at the producer's index once more; a producer stores its
 * index, then looks at `sleeps`. All four are sequentially consistent, so that at least one of the two sees the other.
 * Waiting for room is the same the other way round.
 */
#ifndef PYPROC_WIRE_RING_H
#define PYPROC_WIRE_RING_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
  RING_MAGIC = 0x50595247,
  RING_VERSION = 1,
  RING_BYTES_MIN = 4096,
  RING_BYTES_MAX = 1 << 30,
  RING_BYTES_DEFAULT = 256 << 10,
  RING_PAGE_SIZE = 4096, /* what lies before the first ring's bytes */
  RING_CORRUPT = -4      /* an index that cannot be: nothing in the memory is of any use */
};

/* What the two sides tell each other of one ring; each word is alone on its cache lines. */
typedef struct ring_lane {
  _Alignas(128) _Atomic uint32_t tail; /* by the producer: bytes written so far, modulo 2^32 */
  _Atomic uint32_t closed;             /* by the producer: not 0, no more will be written */
  _Alignas(128) _Atomic uint32_t head; /* by the consumer: bytes read so far, modulo 2^32 */
  _Alignas(128) _Atomic uint32_t
      sleeps; /* by the consumer: to be woken once there is something to read; by who does that: 0 */
  _Alignas(128) _Atomic uint32_t waits; /* by the producer: to be woken once there is room; by who does that: 0 */
} ring_lane;

typedef enum ring_side { RING_HOST, RING_WORKER } ring_side;

/* The beginning of the memory. */
typedef struct ring_page {
  uint32_t magic, version, ring_bytes, reserved[125];
  ring_lane lanes[2]; /* lanes[side]: what that side writes */
} ring_page;

_Static_assert(sizeof(ring_lane) == 512 && sizeof(ring_page) == 1536, "the rings are laid out as in schema/wire.md");
_Static_assert(sizeof(_Atomic uint32_t) == 4 && ATOMIC_INT_LOCK_FREE == 2, "atomic words are plain words");

/* One end of a ring. */
typedef struct ring_end {
  ring_lane *lane;
  uint8_t *data;
  uint32_t size;        /* a power of two */
  _Atomic uint32_t own; /* our index; only the end's user changes it */
  uint32_t seen;        /* the other side's, as it was checked last */
  atomic_bool stopped;  /* consumer: nothing counts that was written after `stop` */
  uint32_t stop;
} ring_end;

/* Bytes of the whole memory for two rings of that many bytes each. */
static inline size_t ring_memory_size(uint32_t ring_bytes) {
  return RING_PAGE_SIZE + 2 * (size_t)ring_bytes;
}

/* Whether two rings may have that many bytes each. */
static inline bool ring_bytes_fit(uint64_t ring_bytes) {
  return ring_bytes >= RING_BYTES_MIN && ring_bytes <= RING_BYTES_MAX && (ring_bytes & (ring_bytes - 1)) == 0;
}

/* The host: lays out zeroed memory. */
void ring_format(void *memory, uint32_t ring_bytes);

/* Whether the memory is laid out so. */
bool ring_is_formatted(const void *memory, uint32_t ring_bytes);

/* The end of the ring that `writer` writes, as yet unused. */
void ring_end_init(ring_end *self, void *memory, uint32_t ring_bytes, ring_side writer);

/* ---- consumer ---- */

/* Takes up to `size` bytes, and fewer where a quarter of the ring is reached, so that the producer goes on meanwhile.
 * Returns how many, 0 where there is nothing, or RING_CORRUPT. */
ptrdiff_t ring_read(ring_end *self, void *to, size_t size);

/* After ring_read(): whether the producer, which waits until a quarter of the ring is free, is to be woken now. It is
 * told that it was. */
bool ring_room_due(ring_end *self);

/* Says that we are about to sleep. Returns whether that is no use: there is something to read, or to find out. Any
 * thread, as long as nobody reads. */
bool ring_sleep(ring_end *self);
void ring_awake(ring_end *self);

/* Whether the producer has said that no more will be written: what it has written before can then be seen. */
bool ring_is_closed(const ring_end *self);

/* Nothing counts that is written from now on. */
void ring_stop(ring_end *self);

/* ---- producer ---- */

/* Copies as much as there is room for, for the consumer to see after ring_publish(). Returns how much, or RING_CORRUPT. */
ptrdiff_t ring_put(ring_end *self, const void *from, size_t size);
void ring_publish(ring_end *self);

/* After ring_publish(): whether the consumer is to be woken now. It is told that it was. */
bool ring_wake_due(ring_end *self);

/* Says that we wait for room. Returns whether that is no use: there is a quarter of the ring, or something to find out.
 * Any thread, as long as nobody writes. */
bool ring_await_room(ring_end *self);
void ring_await_no_room(ring_end *self);

void ring_close(ring_end *self);

#endif
