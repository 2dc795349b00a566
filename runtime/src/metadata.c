#include "metadata.h"

#include <string.h>

#include "error.h"
#include "wire/metadata.h"

static int check_entry(const wire_metadata *entry, pyproc_error **reterr) {
  const char *wrong = wire_metadata_check_key(entry->key, entry->key_size);
  if (wrong == NULL) wrong = wire_metadata_check_value(entry);
  if (wrong == NULL) return PYPROC_OK;
  return error_set(reterr, PYPROC_E_INVALID_ARGUMENT, "metadata: the key \"%.*s\" %s",
                   entry->key_size > WIRE_METADATA_KEY_MAX ? WIRE_METADATA_KEY_MAX : (int)entry->key_size, entry->key,
                   wrong);
}

static int encode_entry(const pyproc_metadata *given, size_t begin, buffer *out, pyproc_error **reterr) {
  wire_metadata entry = {given->key, given->value, 0, given->value_size};
  if (given->key == NULL) return error_set(reterr, PYPROC_E_INVALID_ARGUMENT, "metadata: a key is NULL");
  if (given->value == NULL && given->value_size > 0)
    return error_set(reterr, PYPROC_E_INVALID_ARGUMENT, "metadata: the key \"%s\" has %zu bytes of value at NULL",
                     given->key, given->value_size);
  entry.key_size = strlen(given->key);
  if (given->value_size == 0 && given->value != NULL) entry.value_size = strlen(given->value);
  int result = check_entry(&entry, reterr);
  if (result < 0) return result;
  size_t more = wire_metadata_size(&entry);
  if (out->size - begin + more > WIRE_METADATA_SIZE_MAX)
    return error_set(reterr, PYPROC_E_INVALID_ARGUMENT,
                     "metadata: with the key \"%s\" it takes more than %d bytes, of which each entry takes %d",
                     given->key, WIRE_METADATA_SIZE_MAX, WIRE_METADATA_HEAD);
  if (!buffer_reserve(out, more)) return error_set(reterr, PYPROC_E_RESOURCE_EXHAUSTED, "out of memory");
  out->size = (size_t)(wire_metadata_put(out->data + out->size, &entry) - out->data);
  return PYPROC_OK;
}

int metadata_encode(const pyproc_metadata *entries, size_t count, buffer *out, pyproc_error **reterr) {
  size_t begin = out->size;
  if (count > WIRE_METADATA_ENTRIES_MAX)
    return error_set(reterr, PYPROC_E_INVALID_ARGUMENT, "metadata: %zu entries; allowed are %d", count,
                     WIRE_METADATA_ENTRIES_MAX);
  if (entries == NULL && count > 0)
    return error_set(reterr, PYPROC_E_INVALID_ARGUMENT, "metadata: %zu entries at NULL", count);
  int result = PYPROC_OK;
  for (size_t i = 0; i < count && result >= 0; i++) result = encode_entry(&entries[i], begin, out, reterr);
  return result;
}

static size_t entry_count(const uint8_t *data, size_t size) {
  wire_metadata entry;
  size_t count = 0;
  for (const uint8_t *at = data, *end = data + size; wire_metadata_next(&at, end, &entry);) count++;
  return count;
}

/* Each entry's head makes room for two NULs in the texts. */
_Static_assert(WIRE_METADATA_HEAD >= 2, "the texts fit");

size_t metadata_set_size(const uint8_t *data, size_t size) {
  return sizeof(metadata_set) + entry_count(data, size) * sizeof(pyproc_metadata) + size;
}

static char *put_text(char **at, const char *from, size_t size) {
  char *text = *at;
  if (size > 0) memcpy(text, from, size);
  text[size] = '\0';
  *at += size + 1;
  return text;
}

void metadata_set_init(metadata_set *self, const uint8_t *data, size_t size) {
  self->size = metadata_set_size(data, size);
  self->count = entry_count(data, size);
  char *text = (char *)(self->entries + self->count);
  const uint8_t *at = data;
  wire_metadata entry;
  for (size_t i = 0; i < self->count && wire_metadata_next(&at, data + size, &entry); i++) {
    self->entries[i].key = put_text(&text, entry.key, entry.key_size);
    self->entries[i].value = put_text(&text, entry.value, entry.value_size);
    self->entries[i].value_size = entry.value_size;
  }
}

void metadata_set_copy(metadata_set *self, const metadata_set *from) {
  memcpy(self, from, from->size);
  for (size_t i = 0; i < self->count; i++) {
    self->entries[i].key = (char *)self + (from->entries[i].key - (const char *)from);
    self->entries[i].value = (char *)self + (from->entries[i].value - (const char *)from);
  }
}

const pyproc_metadata *metadata_set_entries(const metadata_set *self, size_t *ret_count) {
  if (ret_count != NULL) *ret_count = self == NULL ? 0 : self->count;
  return self == NULL || self->count == 0 ? NULL : self->entries;
}

const char *pyproc_metadata_get(const pyproc_metadata *metadata, size_t count, const char *key) {
  if (metadata == NULL || key == NULL) return NULL;
  for (size_t i = 0; i < count; i++)
    if (metadata[i].key != NULL && strcmp(metadata[i].key, key) == 0) return metadata[i].value;
  return NULL;
}
