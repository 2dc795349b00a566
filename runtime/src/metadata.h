/*
 * metadata.h - metadata as programs have it: from their entries to the bytes of a frame (wire/metadata.h), and back.
 */
#ifndef PYPROC_METADATA_H
#define PYPROC_METADATA_H

#include <pyproc.h>

#include "buffer.h"

/* Appends a program's entries, encoded. INVALID_ARGUMENT names the key and what is allowed. */
int metadata_encode(const pyproc_metadata *entries, size_t count, buffer *out, pyproc_error **reterr);

/* Entries with all their texts, in one block of memory. Keys and values end with a NUL that no size counts. */
typedef struct metadata_set {
  size_t size, count; /* bytes of the block, entries */
  pyproc_metadata entries[];
} metadata_set;

/* The bytes that a set of this encoded metadata, which has been checked, takes, and the making of it in such a block. */
size_t metadata_set_size(const uint8_t *data, size_t size);
void metadata_set_init(metadata_set *self, const uint8_t *data, size_t size);

/* Makes a copy in a block of from->size bytes. */
void metadata_set_copy(metadata_set *self, const metadata_set *from);

/* The entries for a program; NULL and 0 for NULL. `ret_count` may be NULL. */
const pyproc_metadata *metadata_set_entries(const metadata_set *self, size_t *ret_count);

#endif
