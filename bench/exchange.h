/*
 * exchange.h - the least that carries a message between two processes: the limits are made of it, none of the library.
 *
 * Over a socket a message is a head, as large as the library's, and a body. In shared memory it is a cell of a ring.
 */
#ifndef BENCH_EXCHANGE_H
#define BENCH_EXCHANGE_H

#include <errno.h>
#include <sched.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>

enum {
  EXCHANGE_HEAD = 28,        /* bytes; the first four are the size of the body */
  EXCHANGE_BODY_MAX = 48,    /* of the cases that are measured with it */
  EXCHANGE_BUFFER = 1 << 16, /* bytes that one read takes */
  EXCHANGE_CELLS = 1 << 10,  /* of a ring, a power of two: more than there are messages on their way */
  EXCHANGE_BATCH = 8,        /* messages that are sent at once */
  EXCHANGE_TRIES = 1 << 12   /* looks before the processor is offered to others */
};

/* ---- sockets ---- */

/* Receives what there is, spinning or blocking. Returns 0 or less at the end. */
static inline ssize_t exchange_receive(int socket, char *to, size_t room, bool spin) {
  for (unsigned tries = 1;; tries++) {
    ssize_t count = recv(socket, to, room, spin ? MSG_DONTWAIT : 0);
    if (count >= 0 || (errno != EAGAIN && errno != EINTR)) return count;
    if (tries % EXCHANGE_TRIES == 0) sched_yield();
  }
}

static inline bool exchange_send(int socket, const char *bytes, size_t size) {
  while (size > 0) {
    ssize_t count = send(socket, bytes, size, MSG_NOSIGNAL);
    if (count < 0 && errno != EINTR) return false;
    if (count < 0) continue;
    bytes += count;
    size -= (size_t)count;
  }
  return true;
}

/* Writes a message at `to` and returns its size. */
static inline size_t exchange_put(char *to, const char *body, uint32_t size) {
  memset(to, 0, EXCHANGE_HEAD);
  memcpy(to, &size, sizeof size);
  memcpy(to + EXCHANGE_HEAD, body, size);
  return EXCHANGE_HEAD + size;
}

/* The size of the message at `from`, head included, or 0: it is not all there. */
static inline size_t exchange_size(const char *from, size_t there) {
  uint32_t size;
  if (there < EXCHANGE_HEAD) return 0;
  memcpy(&size, from, sizeof size);
  return there - EXCHANGE_HEAD < size ? 0 : EXCHANGE_HEAD + size;
}

/* ---- shared memory ---- */

/* A message; `turn` says whose it is: 1 + its place in the order of all messages once it is there. */
typedef struct exchange_cell {
  alignas(64) _Atomic uint32_t turn;
  uint32_t size;
  char body[EXCHANGE_BODY_MAX];
} exchange_cell;

typedef struct exchange_ring {
  exchange_cell cells[EXCHANGE_CELLS];
} exchange_ring;

typedef struct exchange_memory {
  exchange_ring requests, replies;
  _Atomic uint32_t closed;
} exchange_memory;

static inline void exchange_push(exchange_ring *ring, uint32_t place, const char *body, uint32_t size) {
  exchange_cell *cell = &ring->cells[place % EXCHANGE_CELLS];
  cell->size = size;
  memcpy(cell->body, body, size);
  atomic_store_explicit(&cell->turn, place + 1, memory_order_release);
}

/* The message in that place, or NULL where it is not there yet. */
static inline const exchange_cell *exchange_look(exchange_ring *ring, uint32_t place) {
  exchange_cell *cell = &ring->cells[place % EXCHANGE_CELLS];
  return atomic_load_explicit(&cell->turn, memory_order_acquire) == place + 1 ? cell : NULL;
}

/* Spins for it. NULL: the other side has closed. */
static inline const exchange_cell *exchange_wait(exchange_memory *memory, exchange_ring *ring, uint32_t place) {
  for (unsigned tries = 1;; tries++) {
    const exchange_cell *cell = exchange_look(ring, place);
    if (cell != NULL) return cell;
    if (tries % EXCHANGE_TRIES != 0) continue;
    if (atomic_load(&memory->closed)) return NULL;
    sched_yield();
  }
}

#endif
