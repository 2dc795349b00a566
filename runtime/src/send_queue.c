#include "send_queue.h"

#include <stdlib.h>
#include <string.h>

enum { CHUNK_CAPACITY = 32 << 10, COPIED_MAX = 8 << 10 };

static void append_chunk(send_queue *queue, send_chunk *chunk) {
  chunk->next = NULL;
  if (queue->last != NULL)
    queue->last->next = chunk;
  else
    queue->first = chunk;
  queue->last = chunk;
}

static send_chunk *copy_chunk(send_queue *queue, size_t capacity) {
  send_chunk *chunk = queue->spare;
  if (chunk != NULL && chunk->capacity >= capacity) {
    queue->spare = NULL;
  } else {
    if (capacity < CHUNK_CAPACITY) capacity = CHUNK_CAPACITY;
    chunk = malloc(sizeof *chunk + capacity);
    if (chunk == NULL) return NULL;
    *chunk = (send_chunk){.data = (uint8_t *)(chunk + 1), .capacity = capacity};
  }
  append_chunk(queue, chunk);
  return chunk;
}

bool send_queue_append_bytes(send_queue *queue, const void *data, size_t size) {
  send_chunk *chunk = queue->last;
  if (chunk == NULL || chunk->frame != NULL || chunk->capacity - chunk->size < size) chunk = copy_chunk(queue, size);
  if (chunk == NULL) return false;
  memcpy(chunk->data + chunk->size, data, size);
  chunk->size += size;
  return true;
}

bool send_queue_append(send_queue *queue, frame_block *frame) {
  if (frame->bytes.size <= COPIED_MAX) return send_queue_append_bytes(queue, frame->bytes.data, frame->bytes.size);
  send_chunk *chunk = malloc(sizeof *chunk);
  if (chunk == NULL) return false;
  *chunk = (send_chunk){.frame = frame_block_ref(frame), .data = frame->bytes.data, .size = frame->bytes.size};
  append_chunk(queue, chunk);
  return true;
}

static void free_chunk(send_queue *queue, send_chunk *chunk) {
  if (chunk->frame == NULL && queue->spare == NULL && chunk->capacity == CHUNK_CAPACITY) {
    *chunk = (send_chunk){.data = chunk->data, .capacity = chunk->capacity};
    queue->spare = chunk;
    return;
  }
  frame_block_unref(chunk->frame);
  free(chunk);
}

bool send_queue_remove(send_queue *queue, const frame_block *frame) {
  send_chunk *before = NULL;
  for (send_chunk *chunk = queue->first; chunk != NULL; before = chunk, chunk = chunk->next) {
    if (chunk->frame != frame || chunk->taken || chunk->written > 0) continue;
    if (before != NULL)
      before->next = chunk->next;
    else
      queue->first = chunk->next;
    if (queue->last == chunk) queue->last = before;
    free_chunk(queue, chunk);
    return true;
  }
  return false;
}

int send_queue_take(send_queue *queue, struct iovec parts[SEND_QUEUE_PARTS]) {
  int count = 0;
  for (send_chunk *chunk = queue->first; chunk != NULL && count < SEND_QUEUE_PARTS; chunk = chunk->next) {
    chunk->taken = true;
    parts[count++] = (struct iovec){.iov_base = chunk->data + chunk->written, .iov_len = chunk->size - chunk->written};
  }
  return count;
}

void send_queue_wrote(send_queue *queue, size_t size) {
  for (send_chunk *chunk = queue->first; chunk != NULL && chunk->taken; chunk = chunk->next) chunk->taken = false;
  while (queue->first != NULL) {
    send_chunk *chunk = queue->first;
    size_t left = chunk->size - chunk->written;
    if (size < left) {
      chunk->written += size;
      return;
    }
    size -= left;
    queue->first = chunk->next;
    if (queue->first == NULL) queue->last = NULL;
    free_chunk(queue, chunk);
    if (size == 0) return;
  }
}

void send_queue_clear(send_queue *queue) {
  while (queue->first != NULL) {
    send_chunk *chunk = queue->first;
    queue->first = chunk->next;
    frame_block_unref(chunk->frame);
    free(chunk);
  }
  free(queue->spare);
  *queue = (send_queue){0};
}
