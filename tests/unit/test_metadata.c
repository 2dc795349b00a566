/* Metadata, from a program's entries to the bytes of a frame and back. */
#include "vectors.h"

#include "error.h"
#include "metadata.h"
#include "reply.h"
#include "wire/metadata.h"

/* The entries of a vector, in memory that a sanitizer watches; free both. */
static pyproc_metadata *entries_of(const json_t *vector, size_t *ret_count, char **ret_texts) {
  const json_t *list = json_object_get(vector, "entries");
  size_t count = json_array_size(list), used = 0;
  pyproc_metadata *entries = calloc(count + 1, sizeof *entries);
  char *texts = calloc(count + 1, 40000);
  assert_non_null(entries);
  assert_non_null(texts);
  for (size_t i = 0; i < count; i++) {
    const json_t *pair = json_array_get(list, i);
    size_t size;
    uint8_t *value = vector_bytes(json_string_value(json_array_get(pair, 1)), &size);
    entries[i].key = json_string_value(json_array_get(pair, 0));
    entries[i].value = memcpy(texts + used, value, size);
    entries[i].value_size = size;
    used += size + 1;
    free(value);
  }
  *ret_count = count;
  *ret_texts = texts;
  return entries;
}

static void assert_same(const pyproc_metadata *got, size_t got_count, const pyproc_metadata *wanted, size_t count) {
  assert_int_equal(got_count, count);
  for (size_t i = 0; i < count; i++) {
    assert_string_equal(got[i].key, wanted[i].key);
    assert_int_equal(got[i].value_size, wanted[i].value_size);
    assert_memory_equal(got[i].value, wanted[i].value, wanted[i].value_size);
    assert_int_equal(got[i].value[got[i].value_size], 0);
  }
}

static void check_good(const json_t *vector) {
  size_t size, count, got_count;
  char *texts;
  uint8_t *given = vector_bytes(vector_text(vector, "bytes"), &size);
  uint8_t *bytes = (uint8_t *)exact_copy(given, size);
  pyproc_metadata *entries = entries_of(vector, &count, &texts);
  buffer encoded = {0};
  assert_true(buffer_append_text(&encoded, "before"));
  assert_int_equal(metadata_encode(entries, count, &encoded, NULL), 0);
  assert_int_equal(encoded.size, 6 + size);
  assert_memory_equal(encoded.data + 6, bytes, size);
  assert_null(wire_metadata_check(bytes, size, &got_count));
  assert_int_equal(got_count, count);

  char *reply = reply_text_new("body", 4);
  assert_non_null(reply);
  assert_null(pyproc_reply_metadata(reply, &got_count));
  assert_int_equal(got_count, 0);
  assert_true(reply_set_metadata(reply, bytes, size));
  const pyproc_metadata *got = pyproc_reply_metadata(reply, &got_count);
  assert_same(got, got_count, entries, count);
  assert_string_equal(reply, "body");

  pyproc_error *error = error_new(PYPROC_E_ABORTED, "no");
  error_set_metadata(error, bytes, size);
  pyproc_error *copy = error_copy(error);
  pyproc_error_free(error);
  got = pyproc_error_metadata(copy, &got_count);
  assert_same(got, got_count, entries, count);
  pyproc_error *other = error_new(PYPROC_E_CANCELLED, "other");
  error_take_details(other, copy);
  assert_null(pyproc_error_metadata(copy, NULL));
  got = pyproc_error_metadata(other, &got_count);
  assert_same(got, got_count, entries, count);

  pyproc_error_free(other);
  pyproc_error_free(copy);
  pyproc_reply_free(reply);
  buffer_free(&encoded);
  free(entries);
  free(texts);
  free(bytes);
  free(given);
}

static void test_good(void **state) {
  (void)state;
  json_t *root = vectors_load("metadata.json"), *list = json_object_get(root, "good"), *vector;
  size_t i;
  assert_true(json_array_size(list) >= 5);
  json_array_foreach(list, i, vector) check_good(vector);
  json_decref(root);
}

static void test_refused(void **state) {
  (void)state;
  json_t *root = vectors_load("metadata.json"), *list = json_object_get(root, "refused"), *vector;
  size_t i;
  assert_true(json_array_size(list) >= 15);
  json_array_foreach(list, i, vector) {
    size_t size;
    uint8_t *given = vector_bytes(vector_text(vector, "bytes"), &size);
    uint8_t *bytes = (uint8_t *)exact_copy(given, size);
    if (wire_metadata_check(bytes, size, NULL) == NULL) fail_msg("accepted: %s", vector_text(vector, "name"));
    free(bytes);
    free(given);
  }
  json_decref(root);
}

/* What a program may not send leaves the buffer's beginning alone. */
static void test_encode_refuses(void **state) {
  (void)state;
  const pyproc_metadata wrong[] = {{NULL, "v", 0},       {"", "v", 0},    {"Key", "v", 0},  {"grpc-x", "v", 0},
                                   {"k", NULL, 1},       {"k", " v", 0},  {"k", "\n", 0},   {"k", "\x7f", 0},
                                   {"pyproc-x", "v", 0}, {"k", "a\0", 2}, {"k\xff", "v", 0}};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    const pyproc_metadata both[] = {{"good", "v", 0}, wrong[i]};
    buffer encoded = {0};
    pyproc_error *error = NULL;
    assert_int_equal(metadata_encode(both, 2, &encoded, &error), PYPROC_E_INVALID_ARGUMENT);
    assert_non_null(strstr(pyproc_error_message(error), "metadata: "));
    pyproc_error_free(error);
    assert_int_equal(metadata_encode(both, 2, &encoded, NULL), PYPROC_E_INVALID_ARGUMENT);
    buffer_free(&encoded);
  }
}

static void test_get(void **state) {
  (void)state;
  const pyproc_metadata entries[] = {{"a", "1", 1}, {"b", "2", 1}, {"a", "3", 1}};
  assert_string_equal(pyproc_metadata_get(entries, 3, "a"), "1");
  assert_string_equal(pyproc_metadata_get(entries, 3, "b"), "2");
  assert_null(pyproc_metadata_get(entries, 1, "b"));
  assert_null(pyproc_metadata_get(entries, 3, "c"));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_good),
      cmocka_unit_test(test_refused),
      cmocka_unit_test(test_encode_refuses),
      cmocka_unit_test(test_get),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
