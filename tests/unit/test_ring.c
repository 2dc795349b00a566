/* One ring: wrapping, full and empty, longer messages than it holds, and the other side's lies. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "platform.h"
#include "wire/ring.h"

#include <stdlib.h>
#include <string.h>

enum { BYTES = 4096 };

typedef struct pair {
  void *memory;
  ring_end in, out;
} pair;

static pair pair_new(void) {
  pair self;
  self.memory = aligned_alloc(128, ring_memory_size(BYTES));
  assert_non_null(self.memory);
  memset(self.memory, 0, ring_memory_size(BYTES));
  ring_format(self.memory, BYTES);
  assert_true(ring_is_formatted(self.memory, BYTES));
  assert_false(ring_is_formatted(self.memory, 2 * BYTES));
  ring_end_init(&self.in, self.memory, BYTES, RING_WORKER);
  ring_end_init(&self.out, self.memory, BYTES, RING_WORKER);
  return self;
}

/* As if so much had gone through it. */
static pair pair_at(uint32_t index) {
  pair self = pair_new();
  atomic_store(&self.in.own, index);
  atomic_store(&self.out.own, index);
  self.in.seen = self.out.seen = index;
  atomic_store(&self.in.lane->head, index);
  atomic_store(&self.in.lane->tail, index);
  return self;
}

static ptrdiff_t put(pair *self, const void *from, size_t size) {
  ptrdiff_t count = ring_put(&self->out, from, size);
  ring_publish(&self->out);
  return count;
}

static void what_is_put_is_read(void **state) {
  (void)state;
  pair ring = pair_new();
  char text[8] = "";
  assert_int_equal(ring_read(&ring.in, text, sizeof text), 0);
  assert_int_equal(ring_put(&ring.out, "abc", 3), 3);
  assert_int_equal(ring_read(&ring.in, text, sizeof text), 0); /* not published */
  ring_publish(&ring.out);
  assert_int_equal(ring_read(&ring.in, text, 2), 2);
  assert_int_equal(ring_read(&ring.in, text + 2, 6), 1);
  assert_string_equal(text, "abc");
  assert_int_equal(ring_read(&ring.in, text, sizeof text), 0);
  free(ring.memory);
}

/* Across the end of the ring, and across that of the 32 bits. */
static void indices_wrap(void **state) {
  (void)state;
  pair ring = pair_at(UINT32_MAX - 5000);
  uint8_t out[700], in[700];
  for (int turn = 0; turn < 100; turn++) {
    for (size_t i = 0; i < sizeof out; i++) out[i] = (uint8_t)(turn + (int)i);
    assert_int_equal(put(&ring, out, sizeof out), sizeof out);
    memset(in, 0, sizeof in);
    assert_int_equal(ring_read(&ring.in, in, sizeof in), sizeof in);
    assert_memory_equal(in, out, sizeof in);
  }
  free(ring.memory);
}

static void a_full_ring_takes_no_more(void **state) {
  (void)state;
  pair ring = pair_at(UINT32_MAX - 100);
  static uint8_t block[BYTES];
  ptrdiff_t total = 0, count;
  while ((count = put(&ring, block, sizeof block)) > 0) total += count;
  assert_int_equal(count, 0);
  assert_int_equal(total, BYTES);
  assert_int_equal(ring_read(&ring.in, block, 1), 1);
  assert_int_equal(put(&ring, block, sizeof block), 1);
  assert_int_equal(put(&ring, block, sizeof block), 0);
  free(ring.memory);
}

/* A flag is told once, and only to who has raised it. */
static void sleepers_are_woken_once(void **state) {
  (void)state;
  pair ring = pair_new();
  char text[8];
  put(&ring, "a", 1);
  assert_false(ring_wake_due(&ring.out));
  assert_true(ring_sleep(&ring.in)); /* there is something */
  ring_awake(&ring.in);
  assert_int_equal(ring_read(&ring.in, text, sizeof text), 1);
  assert_false(ring_sleep(&ring.in));
  put(&ring, "b", 1);
  assert_true(ring_wake_due(&ring.out));
  put(&ring, "c", 1);
  assert_false(ring_wake_due(&ring.out));
  assert_int_equal(ring_read(&ring.in, text, sizeof text), 2);
  ring_close(&ring.out);
  assert_true(ring_sleep(&ring.in)); /* no more will come */
  assert_true(ring_is_closed(&ring.in));
  free(ring.memory);
}

/* Room is worth a wake once it is a quarter of the ring. */
static void waiting_for_room(void **state) {
  (void)state;
  pair ring = pair_new();
  static uint8_t block[BYTES];
  assert_true(ring_await_room(&ring.out));
  ring_await_no_room(&ring.out);
  while (put(&ring, block, sizeof block) > 0) {}
  assert_false(ring_await_room(&ring.out));
  assert_int_equal(ring_read(&ring.in, block, BYTES / 4 - 1), BYTES / 4 - 1);
  assert_false(ring_room_due(&ring.in));
  assert_int_equal(ring_read(&ring.in, block, 1), 1);
  assert_true(ring_room_due(&ring.in));
  assert_false(ring_room_due(&ring.in));
  assert_int_equal(put(&ring, block, BYTES), BYTES / 4);
  free(ring.memory);
}

static void nothing_counts_after_a_stop(void **state) {
  (void)state;
  pair ring = pair_new();
  char text[8];
  put(&ring, "abc", 3);
  ring_stop(&ring.in);
  put(&ring, "def", 3);
  assert_true(ring_sleep(&ring.in));
  assert_int_equal(ring_read(&ring.in, text, sizeof text), 3);
  assert_int_equal(ring_read(&ring.in, text, sizeof text), 0);
  ring_stop(&ring.in); /* not a second time */
  assert_int_equal(ring_read(&ring.in, text, sizeof text), 0);
  free(ring.memory);
}

/* Whatever the other side stores as its index: it is one that can be, or it is found out. */
static void a_consumer_believes_no_impossible_index(void **state) {
  (void)state;
  static const int64_t lies[] = {-1, -BYTES, BYTES + 1, INT32_MAX, INT32_MIN};
  static uint8_t block[BYTES];
  for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
    pair ring = pair_at(1000);
    atomic_store(&ring.in.lane->tail, (uint32_t)(1000 + lies[i]));
    assert_true(ring_sleep(&ring.in));
    assert_int_equal(ring_read(&ring.in, block, sizeof block), RING_CORRUPT);
    assert_int_equal(ring_read(&ring.in, block, sizeof block), RING_CORRUPT);
    assert_false(ring_room_due(&ring.in));
    ring_stop(&ring.in); /* ends where it was right last */
    assert_int_equal(ring_read(&ring.in, block, sizeof block), 0);
    free(ring.memory);
  }
  pair ring = pair_new(); /* back, but not behind what was read */
  put(&ring, "abcdef", 6);
  assert_int_equal(ring_read(&ring.in, block, 1), 1);
  atomic_store(&ring.in.lane->tail, 3);
  assert_int_equal(ring_read(&ring.in, block, 1), RING_CORRUPT);
  free(ring.memory);
}

static void a_producer_believes_no_impossible_index(void **state) {
  (void)state;
  static const int64_t lies[] = {-1, 1, BYTES, INT32_MAX, INT32_MIN};
  static uint8_t block[BYTES];
  for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
    pair ring = pair_at(1000);
    while (put(&ring, block, sizeof block) > 0) {}
    uint32_t head = (uint32_t)(lies[i] < 0 ? 1000 + lies[i] : 1000 + BYTES + lies[i]);
    atomic_store(&ring.out.lane->head, head);
    assert_int_equal(ring_put(&ring.out, block, 1), RING_CORRUPT);
    assert_true(ring_await_room(&ring.out)); /* to find out */
    free(ring.memory);
  }
  pair ring = pair_new(); /* back */
  while (put(&ring, block, sizeof block) > 0) {}
  atomic_store(&ring.out.lane->head, 100);
  assert_int_equal(ring_put(&ring.out, block, 50), 50);
  atomic_store(&ring.out.lane->head, 99);
  assert_int_equal(ring_put(&ring.out, block, BYTES), RING_CORRUPT);
  free(ring.memory);
}

/* The other side's words changed at random, before each step: no byte beyond the ring is touched (sanitizers, valgrind),
 * and no more than a ring's worth comes out at once. */
static void random_words(void **state) {
  (void)state;
  static uint8_t block[2 * BYTES];
  for (int round = 0; round < 20000; round++) {
    pair ring = pair_at((uint32_t)platform_random64());
    for (int step = 0; step < 8; step++) {
      uint64_t dice = platform_random64();
      size_t size = dice % sizeof block;
      int64_t by = (int64_t)(dice >> 16) % (3 * BYTES) - BYTES;
      _Atomic uint32_t *word = dice & 0x8000 ? &ring.in.lane->head : &ring.in.lane->tail;
      if (dice & 0x4000) atomic_fetch_add(word, (uint32_t)by);
      if (dice & 0x2000) {
        assert_in_range(ring_read(&ring.in, block, size) - RING_CORRUPT, 0, BYTES - RING_CORRUPT);
        ring_room_due(&ring.in);
      } else {
        assert_in_range(put(&ring, block, size) - RING_CORRUPT, 0, BYTES - RING_CORRUPT);
        ring_wake_due(&ring.out);
      }
    }
    free(ring.memory);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(what_is_put_is_read),
      cmocka_unit_test(indices_wrap),
      cmocka_unit_test(a_full_ring_takes_no_more),
      cmocka_unit_test(sleepers_are_woken_once),
      cmocka_unit_test(waiting_for_room),
      cmocka_unit_test(nothing_counts_after_a_stop),
      cmocka_unit_test(a_consumer_believes_no_impossible_index),
      cmocka_unit_test(a_producer_believes_no_impossible_index),
      cmocka_unit_test(random_words),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
