#include "metadata.h"

#include <string.h>

#include "frame.h"

static bool begins_with(const char *key, size_t size, const char *prefix) {
  const size_t length = strlen(prefix);
  return size >= length && memcmp(key, prefix, length) == 0;
}

bool wire_metadata_is_binary(const char *key, size_t key_size) {
  return key_size >= 4 && memcmp(key + key_size - 4, "-bin", 4) == 0;
}

static bool is_key_character(char c) {
  return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.';
}

const char *wire_metadata_check_key(const char *key, size_t key_size) {
  if (key_size == 0) return "is empty: a key has 1 to 128 characters";
  if (key_size > WIRE_METADATA_KEY_MAX) return "is longer than 128 bytes";
  for (size_t i = 0; i < key_size; i++)
    if (!is_key_character(key[i])) return "may hold lower-case letters, digits, '-', '_' and '.' only";
  if (begins_with(key, key_size, "grpc-") || begins_with(key, key_size, "pyproc-"))
    return "begins with \"grpc-\" or \"pyproc-\", which are reserved";
  return NULL;
}

const char *wire_metadata_check_value(const wire_metadata *entry) {
  const char *const value = entry->value;
  const size_t size = entry->value_size;
  if (size > WIRE_METADATA_SIZE_MAX) return "has a value of more than 16 KiB";
  if (size == 0 || wire_metadata_is_binary(entry->key, entry->key_size)) return NULL;
  for (size_t i = 0; i < size; i++)
    if (value[i] < 0x20 || value[i] > 0x7e)
      return "has a value that is not printable ASCII: only keys that end in \"-bin\" may have others";
  if (value[0] == ' ' || value[size - 1] == ' ') return "has a value that begins or ends with a blank";
  return NULL;
}

uint8_t *wire_metadata_put(uint8_t *to, const wire_metadata *entry) {
  wire_put16(to, (uint16_t)entry->key_size);
  wire_put32(to + 2, (uint32_t)entry->value_size);
  memcpy(to + WIRE_METADATA_HEAD, entry->key, entry->key_size);
  to += WIRE_METADATA_HEAD + entry->key_size;
  if (entry->value_size > 0) memcpy(to, entry->value, entry->value_size);
  return to + entry->value_size;
}

/* False: the sizes do not fit what is there. */
static bool take(const uint8_t **at, const uint8_t *end, wire_metadata *ret_entry) {
  const size_t left = (size_t)(end - *at);
  if (left < WIRE_METADATA_HEAD) return false;
  ret_entry->key_size = wire_get16(*at);
  ret_entry->value_size = wire_get32(*at + 2);
  if (ret_entry->key_size > left - WIRE_METADATA_HEAD) return false;
  if (ret_entry->value_size > left - WIRE_METADATA_HEAD - ret_entry->key_size) return false;
  ret_entry->key = (const char *)*at + WIRE_METADATA_HEAD;
  ret_entry->value = ret_entry->key + ret_entry->key_size;
  *at += wire_metadata_size(ret_entry);
  return true;
}

const char *wire_metadata_check(const uint8_t *data, size_t size, size_t *ret_count) {
  size_t count = 0;
  if (size > WIRE_METADATA_SIZE_MAX) return "more than 16 KiB";
  for (const uint8_t *at = data, *end = data + size; at < end; count++) {
    wire_metadata entry;
    if (count == WIRE_METADATA_ENTRIES_MAX) return "more than 64 entries";
    if (!take(&at, end, &entry)) return "an entry that reaches beyond its end";
    if (wire_metadata_check_key(entry.key, entry.key_size) != NULL) return "a key that is not allowed";
    if (wire_metadata_check_value(&entry) != NULL) return "a value that is not allowed";
  }
  if (ret_count != NULL) *ret_count = count;
  return NULL;
}

bool wire_metadata_next(const uint8_t **at, const uint8_t *end, wire_metadata *ret_entry) {
  return *at < end && take(at, end, ret_entry);
}
