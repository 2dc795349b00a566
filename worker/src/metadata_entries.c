#include "metadata_entries.h"

#include <stdlib.h>
#include <string.h>

enum { FIRST_CAPACITY = 256 };

const char *metadata_check_bytes(PyObject *bytes) {
  if (bytes == NULL) return NULL;
  return wire_metadata_check((const uint8_t *)PyBytes_AS_STRING(bytes), (size_t)PyBytes_GET_SIZE(bytes), NULL);
}

static PyObject *pair_of(const wire_metadata *entry) {
  PyObject *key = PyUnicode_FromStringAndSize(entry->key, (Py_ssize_t)entry->key_size);
  if (key == NULL) return NULL;
  PyObject *value = wire_metadata_is_binary(entry->key, entry->key_size)
                        ? PyBytes_FromStringAndSize(entry->value, (Py_ssize_t)entry->value_size)
                        : PyUnicode_FromStringAndSize(entry->value, (Py_ssize_t)entry->value_size);
  PyObject *pair = value == NULL ? NULL : PyTuple_Pack(2, key, value);
  Py_XDECREF(value);
  Py_DECREF(key);
  return pair;
}

PyObject *metadata_to_tuple(const uint8_t *data, size_t size) {
  PyObject *list = PyList_New(0);
  wire_metadata entry;
  for (const uint8_t *at = data, *end = data + size; list != NULL && wire_metadata_next(&at, end, &entry);) {
    PyObject *pair = pair_of(&entry);
    if (pair == NULL || PyList_Append(list, pair) < 0) Py_CLEAR(list);
    Py_XDECREF(pair);
  }
  PyObject *tuple = list == NULL ? NULL : PyList_AsTuple(list);
  Py_XDECREF(list);
  return tuple;
}

/* Points the entry at the objects' memory and checks it. Returns 0, or -1 with a Python exception. */
static int look_at(PyObject *key, PyObject *value, wire_metadata *ret_entry) {
  Py_ssize_t size;
  if (!PyUnicode_Check(key)) {
    PyErr_Format(PyExc_TypeError, "a metadata key must be a str, not %.200s", Py_TYPE(key)->tp_name);
    return -1;
  }
  ret_entry->key = PyUnicode_AsUTF8AndSize(key, &size);
  if (ret_entry->key == NULL) return -1;
  ret_entry->key_size = (size_t)size;
  const char *wrong = wire_metadata_check_key(ret_entry->key, ret_entry->key_size);
  if (wrong != NULL) {
    PyErr_Format(PyExc_ValueError, "the metadata key %R %s", key, wrong);
    return -1;
  }
  const bool binary = wire_metadata_is_binary(ret_entry->key, ret_entry->key_size);
  if (!(binary ? PyBytes_Check(value) : PyUnicode_Check(value))) {
    PyErr_Format(PyExc_TypeError, "the metadata key %R must have a value of type %s, not %.200s", key,
                 binary ? "bytes" : "str: only keys that end in \"-bin\" have bytes", Py_TYPE(value)->tp_name);
    return -1;
  }
  ret_entry->value = binary ? PyBytes_AS_STRING(value) : PyUnicode_AsUTF8AndSize(value, &size);
  if (ret_entry->value == NULL) return -1;
  ret_entry->value_size = binary ? (size_t)PyBytes_GET_SIZE(value) : (size_t)size;
  wrong = wire_metadata_check_value(ret_entry);
  if (wrong == NULL) return 0;
  PyErr_Format(PyExc_ValueError, "the metadata key %R %s", key, wrong);
  return -1;
}

/* Whether there is room; false also where memory is short, with `*ret_no_memory`. */
static bool reserve(metadata_queue *self, size_t more, bool *ret_no_memory) {
  *ret_no_memory = false;
  if (self->count == WIRE_METADATA_ENTRIES_MAX || self->size + more > WIRE_METADATA_SIZE_MAX) return false;
  if (self->size + more <= self->capacity) return true;
  size_t capacity = self->capacity == 0 ? FIRST_CAPACITY : self->capacity;
  while (capacity < self->size + more) capacity *= 2;
  uint8_t *data = realloc(self->data, capacity);
  *ret_no_memory = data == NULL;
  if (data == NULL) return false;
  self->data = data;
  self->capacity = capacity;
  return true;
}

static void put(metadata_queue *self, const wire_metadata *entry) {
  self->size = (size_t)(wire_metadata_put(self->data + self->size, entry) - self->data);
  self->count++;
}

int metadata_queue_add(metadata_queue *self, PyObject *key, PyObject *value) {
  wire_metadata entry;
  bool no_memory;
  if (look_at(key, value, &entry) < 0) return -1;
  if (reserve(self, wire_metadata_size(&entry), &no_memory)) {
    put(self, &entry);
    return 0;
  }
  if (no_memory)
    (void)PyErr_NoMemory();
  else
    PyErr_Format(PyExc_ValueError,
                 "the metadata key %R finds no room: allowed are %d entries and %d bytes, of which each entry takes %d",
                 key, WIRE_METADATA_ENTRIES_MAX, WIRE_METADATA_SIZE_MAX, WIRE_METADATA_HEAD);
  return -1;
}

void metadata_queue_append(metadata_queue *self, const uint8_t *data, size_t size) {
  wire_metadata entry;
  bool no_memory;
  if (size == 0) return;
  for (const uint8_t *at = data, *end = data + size; wire_metadata_next(&at, end, &entry);)
    if (reserve(self, wire_metadata_size(&entry), &no_memory)) put(self, &entry);
}

void metadata_queue_free(metadata_queue *self) {
  free(self->data);
  *self = (metadata_queue){0};
}

/* --- For Python --- */

static int add_pair(metadata_queue *queue, PyObject *pair) {
  PyObject *items = PySequence_Tuple(pair);
  if (items == NULL) return -1;
  int result = -1;
  if (PyTuple_GET_SIZE(items) == 2)
    result = metadata_queue_add(queue, PyTuple_GET_ITEM(items, 0), PyTuple_GET_ITEM(items, 1));
  else
    PyErr_SetString(PyExc_ValueError, "metadata must be pairs of a key and a value");
  Py_DECREF(items);
  return result;
}

static PyObject *encode_metadata(PyObject *module, PyObject *entries) {
  (void)module;
  metadata_queue queue = {0};
  PyObject *result = NULL;
  PyObject *pairs = PySequence_Tuple(entries);
  if (pairs == NULL) return NULL;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(pairs); i++)
    if (add_pair(&queue, PyTuple_GET_ITEM(pairs, i)) < 0) goto end;
  result = PyBytes_FromStringAndSize((const char *)queue.data, (Py_ssize_t)queue.size);
end:
  metadata_queue_free(&queue);
  Py_DECREF(pairs);
  return result;
}

static PyObject *decode_metadata(PyObject *module, PyObject *bytes) {
  (void)module;
  if (!PyBytes_Check(bytes)) {
    PyErr_Format(PyExc_TypeError, "metadata is decoded from bytes, not %.200s", Py_TYPE(bytes)->tp_name);
    return NULL;
  }
  const char *wrong = metadata_check_bytes(bytes);
  if (wrong == NULL)
    return metadata_to_tuple((const uint8_t *)PyBytes_AS_STRING(bytes), (size_t)PyBytes_GET_SIZE(bytes));
  PyErr_Format(PyExc_ValueError, "the metadata has %s", wrong);
  return NULL;
}

PyMethodDef metadata_functions[] = {
    {"encode_metadata", encode_metadata, METH_O,
     "The bytes of a frame for (key, value) pairs; ValueError or TypeError names the key that may not be sent."},
    {"decode_metadata", decode_metadata, METH_O, "The (key, value) pairs of a frame's bytes; ValueError."},
    {NULL, NULL, 0, NULL},
};
