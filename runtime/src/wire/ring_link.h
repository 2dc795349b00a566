/*
 * ring_link.h - a ring in each direction, and the socket beside them, by which the sides wake each other and see each
 * other's end (schema/wire.md, "Rings").
 *
 * One thread at a time reads, one at a time writes; both never block, raise no SIGPIPE and do not keep errno. Each byte
 * on the socket, whatever it is, says: look. It is sent to a side that has said that it sleeps or waits for room, and to
 * no other.
 */
#ifndef PYPROC_WIRE_RING_LINK_H
#define PYPROC_WIRE_RING_LINK_H

#include "ring.h"

/* What reading and writing return besides a count, and RING_CORRUPT. */
enum { RING_AGAIN = -1, RING_END = -2 };

struct iovec;

typedef struct ring_link {
  ring_end in, out;
  void *memory;
  size_t mapped;
  int socket;          /* the owner's; non-blocking or not, but for ring_link_await */
  atomic_bool armed;   /* the other side was asked to wake us: there may be something on the socket */
  atomic_bool is_over; /* nothing more can be sent */
} ring_link;

/* Maps the memory behind `fd`, which stays the caller's to close. The host's, zeroed, is laid out by that; that of a
 * worker must have been, and nobody may be able to change its size. Returns 0, or -1 with errno: EINVAL: it is something
 * else; EPERM: its size is not sealed. */
int ring_link_open(ring_link *self, int socket, int fd, uint32_t ring_bytes, ring_side side);
void ring_link_close(ring_link *self);

/* Reads what is there. When the socket has ended, that is first what was written before. Returns a count above 0, or
 * RING_*. */
ptrdiff_t ring_link_read(ring_link *self, void *to, size_t size);

/* Writes what there is room for, and wakes the other side if it sleeps. Returns a count, or RING_*. */
ptrdiff_t ring_link_write(ring_link *self, const struct iovec *parts, int count);

/* Asks to be woken: from now on the socket polls readable once there is something to read, or (`to_write`) room, or when
 * the other side is gone. Returns whether that is so already. Any thread. One that reads or writes at the same time may
 * take it back: it asks again before it leaves. */
bool ring_link_arm(ring_link *self, bool to_read, bool to_write);

/* We do not sleep any more. Any thread. */
void ring_link_disarm(ring_link *self);

/* Sleeps until there may be something to read, as long as the socket blocks (blocking.h). Returns false when a signal's
 * handler has run. As reading. */
bool ring_link_await(ring_link *self);

/* Takes what is on the socket, if there may be something, and sees its end. As reading. */
void ring_link_settle(ring_link *self);

/* The other side sees the end of what we have written. Any thread. */
void ring_link_finish(ring_link *self);

/* Whether the other side will write no more. Any thread. */
bool ring_link_is_ending(const ring_link *self);

#endif
