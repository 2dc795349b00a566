#include "buffer.h"

#include <stdlib.h>
#include <string.h>

#include "wire/bulk.h"

enum { BUFFER_FIRST = 256 };

bool buffer_reserve(buffer *buf, size_t more) {
  if (more <= buf->capacity - buf->size) return true;
  if (more > PTRDIFF_MAX - buf->size) return false;
  size_t needed = buf->size + more;
  size_t capacity = buf->capacity * 2; /* no capacity is above PTRDIFF_MAX */
  if (capacity < BUFFER_FIRST) capacity = BUFFER_FIRST;
  if (capacity < needed) capacity = needed;
  uint8_t *data = realloc(buf->data, capacity);
  if (data == NULL && capacity > needed) data = realloc(buf->data, capacity = needed);
  if (data == NULL) return false;
  bulk_expect(data + buf->size, capacity - buf->size);
  buf->data = data;
  buf->capacity = capacity;
  return true;
}

bool buffer_append(buffer *buf, const void *data, size_t size) {
  if (size == 0) return true;
  if (!buffer_reserve(buf, size)) return false;
  memcpy(buf->data + buf->size, data, size);
  buf->size += size;
  return true;
}

bool buffer_append_text(buffer *buf, const char *text) {
  return buffer_append(buf, text, strlen(text));
}

void buffer_clear(buffer *buf) {
  buf->size = 0;
}

void buffer_free(buffer *buf) {
  free(buf->data);
  *buf = (buffer){0};
}
