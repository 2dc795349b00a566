/*
 * metadata_entries.h - metadata as Python has it, pairs of a key and a value, to and from the bytes of a frame.
 */
#ifndef PYPROC_WORKER_METADATA_ENTRIES_H
#define PYPROC_WORKER_METADATA_ENTRIES_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "metadata.h"

/* Entries that wait to be sent, encoded. Zeroed: none. */
typedef struct metadata_queue {
  uint8_t *data;
  size_t size, capacity;
  unsigned count;
} metadata_queue;

/* What is wrong with the metadata of a frame (bytes, or NULL: none), or NULL. */
const char *metadata_check_bytes(PyObject *bytes);

/* Metadata that has been checked as a tuple of pairs: a new reference, or NULL with a Python exception. */
PyObject *metadata_to_tuple(const uint8_t *data, size_t size);

/* Appends one entry: a str, and a str or, where the key ends in "-bin", bytes. Returns 0, or -1 with a TypeError or a
 * ValueError that names the key. */
int metadata_queue_add(metadata_queue *self, PyObject *key, PyObject *value);

/* Appends encoded entries, which have been checked, as many as fit. Without memory, none. */
void metadata_queue_append(metadata_queue *self, const uint8_t *data, size_t size);

/* Forgets the entries and keeps the memory; frees it. */
static inline void metadata_queue_clear(metadata_queue *self) {
  self->size = self->count = 0;
}
void metadata_queue_free(metadata_queue *self);

/* Functions of the module: encode_metadata(entries) and decode_metadata(bytes). */
extern PyMethodDef metadata_functions[];

#endif
