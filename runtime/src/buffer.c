#include "buffer.h"

#include <stdlib.h>
#include <string.h>

#include "wire/bulk.h"

enum { BUFFER_FIRST = 256 };

void buffer_lend(buffer *buf, uint8_t *memory, size_t capacity) {
  *buf = (buffer){.data = memory, .capacity = capacity, .is_lent = true};
}

/* Memory of its own with the bytes in it; NULL: there is none, and the buffer is as it was. */
static uint8_t *grow(const buffer *buf, size_t capacity) {
  uint8_t *data = realloc(buf->is_lent ? NULL : buf->data, capacity);
  if (data != NULL && buf->is_lent) memcpy(data, buf->data, buf->size);
  return data;
}

bool buffer_reserve(buffer *buf, size_t more) {
  if (more <= buf->capacity - buf->size) return true;
  if (more > PTRDIFF_MAX - buf->size) return false;
  size_t needed = buf->size + more;
  size_t capacity = buf->capacity * 2; /* no capacity is above PTRDIFF_MAX */
  if (capacity < BUFFER_FIRST) capacity = BUFFER_FIRST;
  if (capacity < needed) capacity = needed;
  uint8_t *data = grow(buf, capacity);
  if (data == NULL && capacity > needed) data = grow(buf, capacity = needed);
  if (data == NULL) return false;
  bulk_expect(data + buf->size, capacity - buf->size);
  buf->data = data;
  buf->capacity = capacity;
  buf->is_lent = false;
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
  if (!buf->is_lent) free(buf->data);
  *buf = (buffer){0};
}
