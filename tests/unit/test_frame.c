/* The headers of frames, byte for byte. */
#include "vectors.h"

#include "wire/frame.h"
#include "wire/status_page.h"

static uint64_t number(const json_t *vector, const char *member) {
  const json_t *value = json_object_get(json_object_get(vector, "header"), member);
  assert_true(json_is_integer(value));
  return (uint64_t)json_integer_value(value);
}

static wire_header header_of(const json_t *vector) {
  return (wire_header){.kind = (uint8_t)number(vector, "kind"),
                       .flags = (uint8_t)number(vector, "flags"),
                       .code = (uint16_t)number(vector, "code"),
                       .method = (uint32_t)number(vector, "method"),
                       .id = number(vector, "id"),
                       .timeout_ms = (uint32_t)number(vector, "timeout_ms"),
                       .metadata_size = (uint32_t)number(vector, "metadata_size")};
}

static void check_frame(const json_t *vector) {
  size_t size, metadata_size, body_size;
  uint8_t *frame = vector_bytes(vector_text(vector, "frame"), &size);
  uint8_t *metadata = vector_bytes(vector_text(vector, "metadata"), &metadata_size);
  uint8_t *body = vector_bytes(vector_text(vector, "body"), &body_size);
  wire_header wanted = header_of(vector), got;

  assert_int_equal(wire_get32(frame), size - WIRE_LENGTH_SIZE);
  const uint8_t *payload = frame + WIRE_LENGTH_SIZE;
  assert_int_equal(wire_header_get(payload, size - WIRE_LENGTH_SIZE, &got), 0);
  assert_int_equal(got.kind, wanted.kind);
  assert_int_equal(got.flags, wanted.flags);
  assert_int_equal(got.code, wanted.code);
  assert_int_equal(got.method, wanted.method);
  assert_true(got.id == wanted.id);
  assert_int_equal(got.timeout_ms, wanted.timeout_ms);
  assert_int_equal(got.metadata_size, wanted.metadata_size);

  uint8_t again[WIRE_HEADER_SIZE];
  wire_header_put(again, &wanted);
  assert_memory_equal(again, payload, sizeof again);
  assert_int_equal(metadata_size, wanted.metadata_size);
  assert_int_equal(size, WIRE_LENGTH_SIZE + WIRE_HEADER_SIZE + metadata_size + body_size);
  assert_memory_equal(payload + WIRE_HEADER_SIZE, metadata, metadata_size);
  assert_memory_equal(payload + WIRE_HEADER_SIZE + metadata_size, body, body_size);
  free(body);
  free(metadata);
  free(frame);
}

static void test_frames(void **state) {
  (void)state;
  json_t *root = vectors_load("frames.json"), *frames = json_object_get(root, "frames"), *vector;
  size_t i;
  assert_true(json_array_size(frames) >= 10);
  json_array_foreach(frames, i, vector) check_frame(vector);
  json_decref(root);
}

static void test_refused(void **state) {
  (void)state;
  json_t *root = vectors_load("frames.json"), *refused = json_object_get(root, "refused"), *vector;
  size_t i;
  assert_true(json_array_size(refused) >= 5);
  json_array_foreach(refused, i, vector) {
    size_t size;
    uint8_t *bytes = vector_bytes(vector_text(vector, "payload"), &size);
    char *payload = exact_copy(bytes, size);
    wire_header header;
    if (wire_header_get((const uint8_t *)payload, size, &header) == 0)
      fail_msg("%s: taken", vector_text(vector, "name"));
    free(payload);
    free(bytes);
  }
  json_decref(root);
}

static void test_status_page(void **state) {
  (void)state;
  status_page *page = calloc(1, sizeof *page);
  assert_non_null(page);
  uint64_t id = 5 * STATUS_PAGE_SLOTS + 17, later = id + STATUS_PAGE_SLOTS;

  assert_false(status_page_started(page, id));
  assert_true(status_page_start(page, id));
  assert_true(status_page_started(page, id));
  assert_false(status_page_revoke(page, id)); /* too late */
  assert_true(status_page_revoke(page, later));
  assert_false(status_page_started(page, later));
  assert_false(status_page_start(page, later)); /* it must not run */
  assert_true(status_page_start(page, later + STATUS_PAGE_SLOTS));
  free(page);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_frames), cmocka_unit_test(test_refused),
                                     cmocka_unit_test(test_status_page)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
