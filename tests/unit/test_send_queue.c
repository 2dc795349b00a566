/* What waits to be written: order and bytes under every partial write, large frames by reference, removal. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "send_queue.h"

#include <stdlib.h>
#include <string.h>

enum { SMALL = 8 << 10, LARGE = 20000 };

/* A frame of `size` bytes that count up from `first`. */
static frame_block *frame_of(size_t size, unsigned first) {
  frame_block *frame = frame_block_new(CALL_BODY_CODEC);
  assert_non_null(frame);
  assert_true(buffer_reserve(&frame->bytes, size));
  for (size_t i = 0; i < size; i++) frame->bytes.data[i] = (uint8_t)(first + i * 7 + (i >> 8));
  frame->bytes.size = size;
  return frame;
}

static unsigned references(frame_block *frame) {
  return atomic_load(&frame->references);
}

/* Writes at most `step` bytes as a channel would, appending them to `out`. Returns how many. */
static size_t write_step(send_queue *queue, size_t step, buffer *out) {
  struct iovec parts[SEND_QUEUE_PARTS];
  int count = send_queue_take(queue, parts);
  size_t written = 0;
  assert_in_range(count, 0, SEND_QUEUE_PARTS);
  for (int i = 0; i < count && written < step; i++) {
    size_t size = parts[i].iov_len < step - written ? parts[i].iov_len : step - written;
    assert_true(buffer_append(out, parts[i].iov_base, size));
    written += size;
  }
  send_queue_wrote(queue, written);
  return written;
}

static void drain(send_queue *queue, size_t step, buffer *out) {
  while (!send_queue_is_empty(queue)) assert_true(write_step(queue, step, out) > 0);
}

static void small_frames_are_copied_large_ones_referred_to(void **state) {
  (void)state;
  send_queue queue = {0};
  frame_block *small = frame_of(SMALL, 1), *large = frame_of(SMALL + 1, 2);
  assert_true(send_queue_is_empty(&queue));
  assert_true(send_queue_append(&queue, small));
  assert_true(send_queue_append(&queue, large));
  assert_false(send_queue_is_empty(&queue));
  assert_int_equal(references(small), 1);
  assert_int_equal(references(large), 2);
  memset(small->bytes.data, 0xee, SMALL); /* its bytes may change: they were copied */
  struct iovec parts[SEND_QUEUE_PARTS];
  assert_int_equal(send_queue_take(&queue, parts), 2);
  assert_int_equal(((uint8_t *)parts[0].iov_base)[0], 1);
  assert_ptr_equal(parts[1].iov_base, large->bytes.data);
  send_queue_wrote(&queue, 0);
  send_queue_clear(&queue);
  assert_true(send_queue_is_empty(&queue));
  assert_int_equal(references(large), 1);
  frame_block_unref(small);
  frame_block_unref(large);
}

/* The same bytes come out in order, whatever part of them each write takes. */
static void every_partial_write_keeps_the_order(void **state) {
  (void)state;
  static const size_t steps[] = {1, 2, 3, 7, 100, 4095, SMALL, LARGE - 1, LARGE, LARGE + 1, 100000, SIZE_MAX};
  static const size_t sizes[] = {1, 30, SMALL, LARGE, 5, SMALL + 1, 3 * LARGE, 64, SMALL, SMALL, SMALL, SMALL, SMALL};
  enum { COUNT = sizeof sizes / sizeof *sizes };
  for (size_t s = 0; s < sizeof steps / sizeof *steps; s++) {
    send_queue queue = {0};
    buffer expected = {0}, out = {0};
    frame_block *frames[COUNT];
    for (size_t i = 0; i < COUNT; i++) {
      frames[i] = frame_of(sizes[i], (unsigned)i * 31);
      assert_true(buffer_append(&expected, frames[i]->bytes.data, sizes[i]));
      assert_true(send_queue_append(&queue, frames[i]));
    }
    drain(&queue, steps[s], &out);
    assert_int_equal(out.size, expected.size);
    assert_memory_equal(out.data, expected.data, out.size);
    for (size_t i = 0; i < COUNT; i++) {
      assert_int_equal(references(frames[i]), 1);
      frame_block_unref(frames[i]);
    }
    send_queue_clear(&queue);
    buffer_free(&out);
    buffer_free(&expected);
  }
}

/* Between take and wrote others append: what was taken neither moves nor grows. */
static void appending_while_bytes_are_taken(void **state) {
  (void)state;
  send_queue queue = {0};
  buffer out = {0};
  struct iovec parts[SEND_QUEUE_PARTS];
  assert_true(send_queue_append_bytes(&queue, "abc", 3));
  assert_int_equal(send_queue_take(&queue, parts), 1);
  assert_int_equal(parts[0].iov_len, 3);
  for (int i = 0; i < 100; i++) assert_true(send_queue_append_bytes(&queue, "0123456789", 10));
  assert_memory_equal(parts[0].iov_base, "abc", 3);
  send_queue_wrote(&queue, 3);
  assert_false(send_queue_is_empty(&queue));
  drain(&queue, 9, &out);
  assert_int_equal(out.size, 1000);
  for (size_t i = 0; i < out.size; i++) assert_int_equal(out.data[i], '0' + i % 10);
  buffer_free(&out);
  send_queue_clear(&queue);
}

static void nothing_written_changes_nothing(void **state) {
  (void)state;
  send_queue queue = {0};
  buffer out = {0};
  frame_block *large = frame_of(LARGE, 9);
  assert_true(send_queue_append(&queue, large));
  for (int i = 0; i < 3; i++) assert_int_equal(write_step(&queue, 0, &out), 0);
  drain(&queue, SIZE_MAX, &out);
  assert_int_equal(out.size, LARGE);
  assert_memory_equal(out.data, large->bytes.data, LARGE);
  frame_block_unref(large);
  buffer_free(&out);
  send_queue_clear(&queue);
}

/* A large frame can be taken out at the beginning, in the middle and at the end, and only once. */
static void unsent_large_frames_can_be_removed(void **state) {
  (void)state;
  for (int removed = 0; removed < 3; removed++) {
    send_queue queue = {0};
    buffer expected = {0}, out = {0};
    frame_block *frames[3];
    for (int i = 0; i < 3; i++) {
      frames[i] = frame_of(LARGE + (size_t)i, (unsigned)i);
      assert_true(send_queue_append(&queue, frames[i]));
      if (i != removed) assert_true(buffer_append(&expected, frames[i]->bytes.data, frames[i]->bytes.size));
    }
    assert_true(send_queue_remove(&queue, frames[removed]));
    assert_int_equal(references(frames[removed]), 1);
    assert_false(send_queue_remove(&queue, frames[removed]));
    assert_true(send_queue_append_bytes(&queue, "end", 3)); /* the list's end is still right */
    assert_true(buffer_append(&expected, "end", 3));
    drain(&queue, 12345, &out);
    assert_int_equal(out.size, expected.size);
    assert_memory_equal(out.data, expected.data, out.size);
    for (int i = 0; i < 3; i++) frame_block_unref(frames[i]);
    buffer_free(&out);
    buffer_free(&expected);
    send_queue_clear(&queue);
  }
}

static void frames_that_may_have_been_written_stay(void **state) {
  (void)state;
  send_queue queue = {0};
  buffer out = {0};
  struct iovec parts[SEND_QUEUE_PARTS];
  frame_block *small = frame_of(100, 3), *first = frame_of(LARGE, 4), *second = frame_of(LARGE, 5),
              *never = frame_of(LARGE, 6);
  assert_true(send_queue_append(&queue, small));
  assert_false(send_queue_remove(&queue, small)); /* copied: it cannot be told from its neighbours */
  assert_true(send_queue_append(&queue, first));
  assert_true(send_queue_append(&queue, second));
  assert_false(send_queue_remove(&queue, never));
  assert_int_equal(send_queue_take(&queue, parts), 3);
  assert_false(send_queue_remove(&queue, first)); /* somebody may be writing it */
  assert_false(send_queue_remove(&queue, second));
  send_queue_wrote(&queue, 101);
  assert_false(send_queue_remove(&queue, first)); /* its first byte is out */
  assert_true(send_queue_remove(&queue, second));
  drain(&queue, SIZE_MAX, &out);
  assert_int_equal(out.size, LARGE - 1);
  assert_memory_equal(out.data, first->bytes.data + 1, LARGE - 1);
  frame_block_unref(small);
  frame_block_unref(first);
  frame_block_unref(second);
  frame_block_unref(never);
  buffer_free(&out);
  send_queue_clear(&queue);
}

/* More chunks than one write takes: those beyond it are not taken. */
static void a_write_takes_a_bounded_number_of_parts(void **state) {
  (void)state;
  enum { COUNT = SEND_QUEUE_PARTS + 3 };
  send_queue queue = {0};
  struct iovec parts[SEND_QUEUE_PARTS];
  frame_block *frames[COUNT];
  for (int i = 0; i < COUNT; i++) {
    frames[i] = frame_of(SMALL + 1, (unsigned)i);
    assert_true(send_queue_append(&queue, frames[i]));
  }
  assert_int_equal(send_queue_take(&queue, parts), SEND_QUEUE_PARTS);
  assert_true(send_queue_remove(&queue, frames[COUNT - 1]));
  assert_true(send_queue_remove(&queue, frames[SEND_QUEUE_PARTS]));
  assert_false(send_queue_remove(&queue, frames[SEND_QUEUE_PARTS - 1]));
  send_queue_wrote(&queue, (size_t)SEND_QUEUE_PARTS * (SMALL + 1));
  assert_int_equal(send_queue_take(&queue, parts), 1);
  assert_ptr_equal(parts[0].iov_base, frames[SEND_QUEUE_PARTS + 1]->bytes.data);
  send_queue_clear(&queue);
  for (int i = 0; i < COUNT; i++) frame_block_unref(frames[i]);
}

/* The frame outlives its call: whoever made it may let go while it waits. */
static void the_queue_keeps_a_large_frame_alive(void **state) {
  (void)state;
  send_queue queue = {0};
  buffer out = {0};
  frame_block *large = frame_of(LARGE, 11), *copy = frame_of(LARGE, 11);
  assert_true(send_queue_append(&queue, large));
  assert_int_equal(write_step(&queue, 10, &out), 10);
  frame_block_unref(large);
  drain(&queue, 999, &out);
  assert_memory_equal(out.data, copy->bytes.data, LARGE);
  frame_block_unref(copy);
  buffer_free(&out);
  send_queue_clear(&queue);
}

static void emptied_memory_is_used_again(void **state) {
  (void)state;
  send_queue queue = {0};
  buffer out = {0};
  assert_true(send_queue_append_bytes(&queue, "x", 1));
  const void *chunk = queue.first;
  for (int i = 0; i < 50; i++) {
    drain(&queue, 1, &out);
    assert_true(send_queue_append_bytes(&queue, "y", 1));
    assert_ptr_equal(queue.first, chunk);
    assert_int_equal(queue.first->size, 1);
    assert_false(queue.first->taken);
  }
  assert_int_equal(out.size, 50);
  buffer_free(&out);
  send_queue_clear(&queue);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(small_frames_are_copied_large_ones_referred_to),
      cmocka_unit_test(every_partial_write_keeps_the_order),
      cmocka_unit_test(appending_while_bytes_are_taken),
      cmocka_unit_test(nothing_written_changes_nothing),
      cmocka_unit_test(unsent_large_frames_can_be_removed),
      cmocka_unit_test(frames_that_may_have_been_written_stay),
      cmocka_unit_test(a_write_takes_a_bounded_number_of_parts),
      cmocka_unit_test(the_queue_keeps_a_large_frame_alive),
      cmocka_unit_test(emptied_memory_is_used_again),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
