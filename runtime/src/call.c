#include "call.h"

#include <stdlib.h>
#include <string.h>

#include "poison.h"

frame_block *frame_block_new(call_encoding encoding) {
  frame_block *frame = malloc(sizeof *frame);
  if (frame == NULL) return NULL;
  memset(frame, 0, offsetof(frame_block, small)); /* `small` is written before it is read */
  atomic_init(&frame->references, 1);
  frame->encoding = encoding;
  buffer_lend(&frame->bytes, frame->small, sizeof frame->small);
  return frame;
}

frame_block *frame_block_copy(const frame_block *frame) {
  frame_block *copy = frame_block_new(frame->encoding);
  if (copy == NULL) return NULL;
  copy->id_offset = frame->id_offset;
  copy->body_offset = frame->body_offset;
  if (buffer_append(&copy->bytes, frame->bytes.data, frame->bytes.size)) return copy;
  frame_block_unref(copy);
  return NULL;
}

frame_block *frame_block_ref(frame_block *frame) {
  atomic_fetch_add_explicit(&frame->references, 1, memory_order_relaxed);
  return frame;
}

void frame_block_unref(frame_block *frame) {
  if (frame == NULL) return;
  /* The last one needs no read-modify-write: nobody else can refer to it once more. */
  if (atomic_load_explicit(&frame->references, memory_order_acquire) > 1 &&
      atomic_fetch_sub_explicit(&frame->references, 1, memory_order_acq_rel) > 1)
    return;
  buffer_free(&frame->bytes);
  free(frame);
}

static stream_message *message_at(stream_message *self, uint8_t *block, const uint8_t *metadata, size_t metadata_size,
                                  const uint8_t *body, size_t size) {
  *self = (stream_message){
      .block = block, .metadata = metadata, .metadata_size = metadata_size, .body = body, .size = size};
  return self;
}

stream_message *stream_message_new(const uint8_t *metadata, size_t metadata_size, const uint8_t *body, size_t size) {
  if (size > SIZE_MAX - sizeof(stream_message) - metadata_size) return NULL;
  stream_message *self = malloc(sizeof *self + metadata_size + size);
  if (self == NULL) return NULL;
  uint8_t *copy = (uint8_t *)(self + 1);
  if (metadata_size > 0) memcpy(copy, metadata, metadata_size);
  if (size > 0) memcpy(copy + metadata_size, body, size);
  return message_at(self, NULL, copy, metadata_size, copy + metadata_size, size);
}

stream_message *stream_message_adopt(uint8_t *block, const uint8_t *metadata, size_t metadata_size, const uint8_t *body,
                                     size_t size) {
  stream_message *self = malloc(sizeof *self);
  return self != NULL ? message_at(self, block, metadata, metadata_size, body, size) : NULL;
}

void stream_message_free(stream_message *message) {
  if (message == NULL) return;
  free(message->block);
  free(message);
}

void call_init(struct call *self, struct lot *lot, call_method method, frame_block *frame, int64_t deadline_ns) {
  memset(self, 0, offsetof(struct call, small)); /* `small` is written before it is read */
  self->method = method;
  self->frame = frame;
  self->deadline_ns = deadline_ns;
  lot_waiter_init(lot, &self->waiter);
}

uint64_t call_poison_key(struct call *self, const poison *table) {
  const frame_block *frame = self->frame;
  if (self->poison_key == 0)
    self->poison_key = poison_key(table, self->method.name, frame->bytes.data + frame->body_offset,
                                  frame->bytes.size - frame->body_offset);
  return self->poison_key;
}

void call_clear(struct call *self) {
  frame_block_unref(self->frame);
  if (self->block != self->small) free(self->block);
  pyproc_error_free(self->error);
}

uint32_t call_finish(struct call *self) {
  uint32_t bit = self->waiter.bit;
  if (self->finished != NULL) {
    self->finished(self);
    return 0;
  }
  atomic_store_explicit(&self->done, true, memory_order_release);
  return bit;
}

void call_resume(struct call *self) {
  if (!atomic_load(&self->done) || self->resuming == NULL) return;
  atomic_fetch_sub_explicit(self->resuming, 1, memory_order_relaxed);
  self->resuming = NULL;
}

uint32_t call_fail(struct call *self, pyproc_error *error, bool may_have_run) {
  self->error = error;
  self->may_have_run = may_have_run;
  return call_finish(self);
}

void call_list_append(call_list *list, struct call *item) {
  item->previous = list->last;
  item->next = NULL;
  if (list->last != NULL)
    list->last->next = item;
  else
    list->first = item;
  list->last = item;
}

void call_list_prepend(call_list *list, struct call *item) {
  item->previous = NULL;
  item->next = list->first;
  if (list->first != NULL)
    list->first->previous = item;
  else
    list->last = item;
  list->first = item;
}

void call_list_remove(call_list *list, struct call *item) {
  if (item->previous != NULL)
    item->previous->next = item->next;
  else
    list->first = item->next;
  if (item->next != NULL)
    item->next->previous = item->previous;
  else
    list->last = item->previous;
  item->previous = item->next = NULL;
}
