#include "receiver.h"

#include <stdlib.h>
#include <string.h>

#include "wire/bulk.h"
#include "wire/frame.h"

enum { RECEIVER_CAPACITY = 64 << 10 };

bool receiver_init(struct receiver *self) {
  *self = (struct receiver){.data = malloc(RECEIVER_CAPACITY)};
  return self->data != NULL;
}

void receiver_free(struct receiver *self) {
  free(self->data);
  free(self->block);
}

void receiver_reset(struct receiver *self) {
  free(self->block);
  *self = (struct receiver){.data = self->data};
}

typedef ssize_t channel_read(struct channel *self, void *to, size_t size);

static ssize_t fill(struct receiver *self, struct channel *channel, channel_read *read) {
  if (self->block != NULL) {
    ssize_t count = read(channel, self->block + self->block_filled, self->block_size - self->block_filled);
    if (count > 0) self->block_filled += (size_t)count;
    return count;
  }
  if (self->begin == self->end) {
    self->begin = self->end = 0;
  } else if (self->begin > RECEIVER_CAPACITY / 2) {
    memmove(self->data, self->data + self->begin, self->end - self->begin);
    self->end -= self->begin;
    self->begin = 0;
  }
  ssize_t count = read(channel, self->data + self->end, RECEIVER_CAPACITY - self->end);
  if (count > 0) self->end += (size_t)count;
  return count;
}

ssize_t receiver_fill(struct receiver *self, struct channel *channel) {
  return fill(self, channel, channel->ops->read);
}

ssize_t receiver_fill_blocking(struct receiver *self, struct channel *channel) {
  return fill(self, channel, channel->ops->read_blocking);
}

/* The frame does not fit in what is left of `data`: it gets a block of its own. */
static int begin_block(struct receiver *self, size_t size) {
  self->block = malloc(size);
  if (self->block == NULL) return RECEIVER_NO_MEMORY;
  bulk_expect(self->block, size);
  self->block_size = size;
  self->block_filled = self->end - self->begin - WIRE_LENGTH_SIZE;
  memcpy(self->block, self->data + self->begin + WIRE_LENGTH_SIZE, self->block_filled);
  self->begin = self->end = 0;
  return 0;
}

int receiver_next(struct receiver *self, size_t frame_limit, struct payload *ret_payload) {
  if (self->block != NULL) {
    if (self->block_filled < self->block_size) return 0;
    *ret_payload = (struct payload){.data = self->block, .size = self->block_size, .block = self->block};
    self->block = NULL;
    return 1;
  }
  size_t available = self->end - self->begin;
  if (available < WIRE_LENGTH_SIZE) return 0;
  size_t size = wire_get32(self->data + self->begin);
  if (size == 0 || size > frame_limit) return RECEIVER_OVERSIZED;
  if (available - WIRE_LENGTH_SIZE >= size) {
    *ret_payload = (struct payload){.data = self->data + self->begin + WIRE_LENGTH_SIZE, .size = size};
    self->begin += WIRE_LENGTH_SIZE + size;
    return 1;
  }
  return self->begin + WIRE_LENGTH_SIZE + size > RECEIVER_CAPACITY ? begin_block(self, size) : 0;
}
