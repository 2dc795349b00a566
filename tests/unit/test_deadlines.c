/* The heap of deadlines against a plain list of the same. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "deadlines.h"

enum { ITEMS = 300, STEPS = 20000 };

static uint32_t next_random(uint32_t *seed) {
  *seed = *seed * 1664525u + 1013904223u;
  return *seed >> 8;
}

static int64_t least(const deadline *items) {
  int64_t found = INT64_MAX;
  for (int i = 0; i < ITEMS; i++)
    if (items[i].position != 0 && items[i].at_ns < found) found = items[i].at_ns;
  return found;
}

static void empty_one_has_no_first(void **state) {
  (void)state;
  deadlines heap = {0};
  deadline item = {.at_ns = 1};
  assert_null(deadlines_first(&heap));
  deadlines_remove(&heap, &item); /* is not in */
  assert_true(deadlines_add(&heap, &item));
  assert_ptr_equal(deadlines_first(&heap), &item);
  deadlines_remove(&heap, &item);
  deadlines_remove(&heap, &item);
  assert_null(deadlines_first(&heap));
  deadlines_free(&heap);
}

static void first_is_the_least_whatever_comes_and_goes(void **state) {
  (void)state;
  static deadline items[ITEMS];
  deadlines heap = {0};
  uint32_t seed = 7;
  size_t count = 0;
  for (int step = 0; step < STEPS; step++) {
    deadline *item = &items[next_random(&seed) % ITEMS];
    if (item->position == 0) {
      item->at_ns = next_random(&seed) % 1000; /* equal ones among them */
      assert_true(deadlines_add(&heap, item));
      count++;
    } else if (next_random(&seed) % 3 == 0) {
      deadlines_move(&heap, item, next_random(&seed) % 1000);
    } else {
      deadlines_remove(&heap, item);
      assert_int_equal(item->position, 0);
      count--;
    }
    assert_int_equal(heap.count, count);
    const deadline *first = deadlines_first(&heap);
    assert_int_equal(first != NULL ? first->at_ns : INT64_MAX, least(items));
  }
  deadlines_free(&heap);
}

static void they_come_out_in_order(void **state) {
  (void)state;
  static deadline items[ITEMS];
  deadlines heap = {0};
  uint32_t seed = 11;
  for (int i = 0; i < ITEMS; i++) {
    items[i].at_ns = next_random(&seed);
    assert_true(deadlines_add(&heap, &items[i]));
  }
  int64_t before = -1;
  int count = 0;
  for (deadline *first; (first = deadlines_first(&heap)) != NULL; count++) {
    assert_true(first->at_ns >= before);
    before = first->at_ns;
    deadlines_remove(&heap, first);
  }
  assert_int_equal(count, ITEMS);
  deadlines_free(&heap);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(empty_one_has_no_first),
      cmocka_unit_test(first_is_the_least_whatever_comes_and_goes),
      cmocka_unit_test(they_come_out_in_order),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
