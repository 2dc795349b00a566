/*
 * buffer.h - a growable array of bytes.
 *
 * Zero-initialised is empty and ready. Not locked: it belongs to whoever holds it. Nothing here aborts: when memory
 * runs out, or a size would overflow, false is returned and the buffer is as it was.
 */
#ifndef PYPROC_BUFFER_H
#define PYPROC_BUFFER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct buffer {
  uint8_t *data;
  size_t size, capacity;
  bool is_lent; /* `data` is what buffer_lend was given */
} buffer;

/* Has the empty buffer begin in `memory`, which is not freed, and has to live as long as it; what does not fit there moves. */
void buffer_lend(buffer *buf, uint8_t *memory, size_t capacity);

/* Makes room for `more` bytes behind those that it has: they may then be written at data + size. */
bool buffer_reserve(buffer *buf, size_t more);

/* Appends `size` bytes; `data` may be NULL when there are none, and must not point into the buffer. */
bool buffer_append(buffer *buf, const void *data, size_t size);

/* Appends the text without its NUL. */
bool buffer_append_text(buffer *buf, const char *text);

/* Forgets the bytes and keeps the memory. */
void buffer_clear(buffer *buf);

/* Frees the memory; the buffer is empty and ready again. */
void buffer_free(buffer *buf);

#endif
