/*
 * send_queue.h - frames that wait to be written to one worker: small ones are copied together, large ones are
 * referred to.
 *
 * Not locked: its connection's lock is held by every caller. Between send_queue_take and send_queue_wrote the taken
 * bytes may be written without the lock, while others append.
 */
#ifndef PYPROC_SEND_QUEUE_H
#define PYPROC_SEND_QUEUE_H

#include <sys/uio.h>

#include "call.h"

enum { SEND_QUEUE_PARTS = 16 };

typedef struct send_chunk {
  struct send_chunk *next;
  frame_block *frame; /* a large frame; NULL: `data` is the chunk's own */
  uint8_t *data;
  size_t size, written, capacity;
  bool taken; /* somebody may be writing it */
} send_chunk;

typedef struct send_queue {
  send_chunk *first, *last;
  send_chunk *spare; /* one that was emptied, kept for the next */
} send_queue;

/* Appends a whole frame; copied when it is small, else referred to. False: out of memory. */
bool send_queue_append(send_queue *queue, frame_block *frame);
bool send_queue_append_bytes(send_queue *queue, const void *data, size_t size);

/* Takes a large frame out again if no byte of it may have been written. */
bool send_queue_remove(send_queue *queue, const frame_block *frame);

static inline bool send_queue_is_empty(const send_queue *queue) {
  return queue->first == NULL;
}

/* The bytes to write next; returns the number of parts. */
int send_queue_take(send_queue *queue, struct iovec parts[SEND_QUEUE_PARTS]);

/* `size` of the bytes taken were written. */
void send_queue_wrote(send_queue *queue, size_t size);

/* Drops everything. */
void send_queue_clear(send_queue *queue);

#endif
