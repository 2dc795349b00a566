/*
 * metadata.h - the metadata of a frame, between its header and its body: entries of a key and a value (schema/wire.md,
 * "Metadata").
 *
 * Compiled into the library and into the worker's extension; knows neither pools nor Python. Nothing here allocates.
 */
#ifndef PYPROC_WIRE_METADATA_H
#define PYPROC_WIRE_METADATA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
  WIRE_METADATA_ENTRIES_MAX = 64,
  WIRE_METADATA_SIZE_MAX = 16 << 10, /* of all entries as they are encoded */
  WIRE_METADATA_KEY_MAX = 128,
  WIRE_METADATA_HEAD = 6 /* bytes of an entry before its key: u16 size of the key, u32 size of the value */
};

/* One entry. Neither text ends with a NUL. */
typedef struct wire_metadata {
  const char *key, *value;
  size_t key_size, value_size;
} wire_metadata;

/* Whether values of that key may hold any byte: it ends in "-bin". */
bool wire_metadata_is_binary(const char *key, size_t key_size);

/* Whether an entry may be sent. Each returns NULL, or what is wrong and what is allowed, to be put behind the key: "is
 * longer than 128 bytes". The key must have been found right before its value is checked. */
const char *wire_metadata_check_key(const char *key, size_t key_size);
const char *wire_metadata_check_value(const wire_metadata *entry);

/* Bytes of the entry as it is encoded. */
static inline size_t wire_metadata_size(const wire_metadata *entry) {
  return WIRE_METADATA_HEAD + entry->key_size + entry->value_size;
}

/* Writes the entry, which has been checked, at `to`: wire_metadata_size() bytes. Returns their end. */
uint8_t *wire_metadata_put(uint8_t *to, const wire_metadata *entry);

/* Checks all of it. Untrusted. Returns NULL and the number of entries, or what is wrong with it ("more than 64
 * entries"). `ret_count` may be NULL. */
const char *wire_metadata_check(const uint8_t *data, size_t size, size_t *ret_count);

/* Takes the entry at `*at` and moves on; false at the end. Of metadata that has been checked. */
bool wire_metadata_next(const uint8_t **at, const uint8_t *end, wire_metadata *ret_entry);

#endif
