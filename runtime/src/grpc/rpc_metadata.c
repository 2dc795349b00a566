#include <stdlib.h>
#include <string.h>

#include "rpc.h"
#include "wire/frame.h"
#include "wire/metadata.h"

static void add(rpc_flight *self, const char *key, size_t key_size, const char *value, size_t value_size) {
  self->sent[self->sent_count++] = (grpc_metadata){.key = grpc_slice_from_copied_buffer(key, key_size),
                                                   .value = grpc_slice_from_copied_buffer(value, value_size)};
}

bool rpc_metadata_take(rpc_flight *self, const frame_block *frame, const char *authorization) {
  const uint8_t *payload = frame->bytes.data + WIRE_LENGTH_SIZE;
  const uint8_t *at = payload + WIRE_HEADER_SIZE, *end = frame->bytes.data + frame->body_offset;
  size_t count = 0;
  if (at == end && authorization == NULL) return true;
  if (wire_metadata_check(at, (size_t)(end - at), &count) != NULL)
    return false; /* it was checked when it was encoded */
  self->sent = calloc(count + 1, sizeof *self->sent);
  if (self->sent == NULL) return false;
  for (wire_metadata entry; wire_metadata_next(&at, end, &entry);)
    add(self, entry.key, entry.key_size, entry.value, entry.value_size);
  if (authorization != NULL) add(self, "authorization", strlen("authorization"), authorization, strlen(authorization));
  return true;
}

void rpc_metadata_free(rpc_flight *self) {
  for (size_t i = 0; i < self->sent_count; i++) {
    grpc_slice_unref(self->sent[i].key);
    grpc_slice_unref(self->sent[i].value);
  }
  free(self->sent);
}

const grpc_slice *rpc_metadata_find(const grpc_metadata_array *array, const char *key) {
  for (size_t i = 0; i < array->count; i++)
    if (grpc_slice_str_cmp(array->metadata[i].key, key) == 0) return &array->metadata[i].value;
  return NULL;
}

/* ---- what came ---- */

static wire_metadata entry_of(const grpc_metadata *from) {
  return (wire_metadata){.key = (const char *)GRPC_SLICE_START_PTR(from->key),
                         .key_size = GRPC_SLICE_LENGTH(from->key),
                         .value = (const char *)GRPC_SLICE_START_PTR(from->value),
                         .value_size = GRPC_SLICE_LENGTH(from->value)};
}

/* Appends what may go along with a reply; what may not, a server elsewhere may send all the same: it is left out. */
static void collect(const grpc_metadata_array *from, rpc_metadata *to) {
  for (size_t i = 0; i < from->count && to->count < WIRE_METADATA_ENTRIES_MAX; i++) {
    wire_metadata entry = entry_of(&from->metadata[i]);
    if (wire_metadata_check_key(entry.key, entry.key_size) != NULL || wire_metadata_check_value(&entry) != NULL)
      continue;
    if (to->size + wire_metadata_size(&entry) > WIRE_METADATA_SIZE_MAX) continue;
    to->entries[to->count++] = &from->metadata[i];
    to->size += wire_metadata_size(&entry);
  }
}

void rpc_metadata_collect(rpc_flight *self, bool is_end, rpc_metadata *to) {
  to->count = to->size = 0;
  if (self->has_headers && !self->gave_headers) {
    collect(&self->initial, to);
    self->gave_headers = true;
  }
  if (is_end) collect(&self->trailing, to);
}

void rpc_metadata_put(const rpc_metadata *self, uint8_t *to) {
  for (size_t i = 0; i < self->count; i++) {
    wire_metadata entry = entry_of(self->entries[i]);
    to = wire_metadata_put(to, &entry);
  }
}
