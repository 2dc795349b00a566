/* What the tests that read tests/conformance/vectors share. */
#ifndef PYPROC_TEST_VECTORS_H
#define PYPROC_TEST_VECTORS_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A file of vectors; give it back with json_decref. */
static inline json_t *vectors_load(const char *name) {
  char path[1024];
  json_error_t error;
  snprintf(path, sizeof path, "%s/tests/conformance/vectors/%s", PYPROC_TEST_SOURCE, name);
  json_t *root = json_load_file(path, 0, &error);
  if (root == NULL) fail_msg("%s:%d: %s", path, error.line, error.text);
  return root;
}

/* The string member, or NULL. */
static inline const char *vector_text(const json_t *vector, const char *member) {
  return json_string_value(json_object_get(vector, member));
}

/* The bytes of a text in hex; free them. Never NULL. */
static inline uint8_t *vector_bytes(const char *hex, size_t *ret_size) {
  size_t size = strlen(hex) / 2;
  uint8_t *bytes = malloc(size + 1);
  assert_non_null(bytes);
  for (size_t i = 0; i < size; i++) {
    unsigned byte;
    assert_int_equal(sscanf(hex + 2 * i, "%2x", &byte), 1);
    bytes[i] = (uint8_t)byte;
  }
  *ret_size = size;
  return bytes;
}

/* A copy that ends where the memory ends, so that a sanitizer sees reading beyond it; free it. */
static inline char *exact_copy(const void *bytes, size_t size) {
  char *copy = malloc(size > 0 ? size : 1);
  assert_non_null(copy);
  if (size > 0) memcpy(copy, bytes, size);
  return copy;
}

#endif
