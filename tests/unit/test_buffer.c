#include "vectors.h"

#include "buffer.h"

static void test_append(void **state) {
  (void)state;
  buffer buf = {0};
  for (unsigned i = 0; i < 10000; i++) {
    uint8_t byte = (uint8_t)i;
    assert_true(buffer_append(&buf, &byte, 1));
  }
  assert_int_equal(buf.size, 10000);
  for (unsigned i = 0; i < 10000; i++) assert_int_equal(buf.data[i], (uint8_t)i);
  buffer_free(&buf);
  assert_null(buf.data);
  assert_int_equal(buf.size, 0);
  assert_int_equal(buf.capacity, 0);
}

static void test_nothing(void **state) {
  (void)state;
  buffer buf = {0};
  assert_true(buffer_append(&buf, NULL, 0));
  assert_true(buffer_append_text(&buf, ""));
  assert_true(buffer_reserve(&buf, 0));
  assert_int_equal(buf.size, 0);
  buffer_free(&buf);
}

static void test_clear_keeps(void **state) {
  (void)state;
  buffer buf = {0};
  assert_true(buffer_append_text(&buf, "some text"));
  const uint8_t *data = buf.data;
  size_t capacity = buf.capacity;
  buffer_clear(&buf);
  assert_int_equal(buf.size, 0);
  assert_true(buffer_append_text(&buf, "more"));
  assert_ptr_equal(buf.data, data);
  assert_int_equal(buf.capacity, capacity);
  assert_memory_equal(buf.data, "more", 4);
  buffer_free(&buf);
}

static void test_reserve(void **state) {
  (void)state;
  buffer buf = {0};
  assert_true(buffer_reserve(&buf, 100000));
  const uint8_t *data = buf.data;
  memset(buf.data, 7, 100000);
  buf.size = 100000;
  assert_true(buf.capacity >= 100000);
  assert_ptr_equal(buf.data, data);
  buffer_free(&buf);
}

/* What was lent is used as long as it suffices, and neither freed nor written to afterwards. */
static void test_lent(void **state) {
  (void)state;
  uint8_t memory[8];
  buffer buf;
  buffer_lend(&buf, memory, sizeof memory);
  assert_true(buffer_append_text(&buf, "12345678"));
  assert_ptr_equal(buf.data, memory);
  assert_true(buffer_append_text(&buf, "9"));
  assert_ptr_not_equal(buf.data, memory);
  assert_memory_equal(buf.data, "123456789", buf.size);
  memset(memory, 0, sizeof memory);
  assert_true(buffer_reserve(&buf, 100000));
  assert_memory_equal(buf.data, "123456789", 9);
  buffer_free(&buf);
  assert_null(buf.data);
  buffer_lend(&buf, memory, sizeof memory);
  assert_false(buffer_reserve(&buf, SIZE_MAX));
  assert_ptr_equal(buf.data, memory);
  buffer_free(&buf);
  assert_int_equal(buf.capacity, 0);
}

static void test_overflow(void **state) {
  (void)state;
  buffer buf = {0};
  assert_true(buffer_append_text(&buf, "kept"));
  assert_false(buffer_reserve(&buf, SIZE_MAX));
  assert_false(buffer_reserve(&buf, SIZE_MAX - 4));
  assert_false(buffer_reserve(&buf, SIZE_MAX / 2));
  assert_int_equal(buf.size, 4);
  assert_memory_equal(buf.data, "kept", 4);
  buffer_free(&buf);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_append),      cmocka_unit_test(test_nothing),
                                     cmocka_unit_test(test_clear_keeps), cmocka_unit_test(test_reserve),
                                     cmocka_unit_test(test_lent),        cmocka_unit_test(test_overflow)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
