/*
 * receiver.h - cuts the bytes of a channel into payloads. Used by whoever holds the connection's reader role.
 */
#ifndef PYPROC_RECEIVER_H
#define PYPROC_RECEIVER_H

#include "channel.h"

enum { RECEIVER_OVERSIZED = -10, RECEIVER_NO_MEMORY = -11 };

struct receiver {
  uint8_t *data; /* small frames */
  size_t begin, end;
  uint8_t *block; /* a large one under way */
  size_t block_size, block_filled;
};

/* One payload. `block` is set where it has a malloc'd block of its own, which is now the caller's; else it is valid
 * until the next call. */
struct payload {
  const uint8_t *data;
  size_t size;
  uint8_t *block;
};

bool receiver_init(struct receiver *self);
void receiver_free(struct receiver *self);

/* Forgets what was received, for a new connection. */
void receiver_reset(struct receiver *self);

/* Reads once from the channel, as its read: bytes read, or CHANNEL_*, or RECEIVER_*. */
ssize_t receiver_fill(struct receiver *self, struct channel *channel);

/* The same, as the channel's read_blocking. */
ssize_t receiver_fill_blocking(struct receiver *self, struct channel *channel);

/* The next complete payload: 1, 0 where there is none yet, or RECEIVER_OVERSIZED (also a length of 0),
 * RECEIVER_NO_MEMORY. */
int receiver_next(struct receiver *self, size_t frame_limit, struct payload *ret_payload);

#endif
