/* When a pool stops trying: pauses, rests, and the states of the breaker. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "breaker.h"

#define MS INT64_C(1000000)

static void pauses_double_up_to_half_a_minute(void **state) {
  (void)state;
  const backoff_policy policy = {.max = 0, .window_ms = 60000};
  backoff self = {0};
  bool rests;
  int64_t expected = 100;
  for (int i = 0; i < 20; i++) {
    int64_t wait = backoff_next(&self, &policy, i * 60000 * MS, &rests);
    assert_false(rests);
    assert_in_range(wait, expected / 2, expected);
    expected = expected * 2 < 30000 ? expected * 2 : 30000;
  }
  backoff_reset(&self);
  assert_in_range(backoff_next(&self, &policy, 0, &rests), 50, 100);
}

static void a_place_rests_after_too_many_in_a_window(void **state) {
  (void)state;
  const backoff_policy policy = {.max = 2, .window_ms = 1000};
  backoff self = {0};
  bool rests;
  for (int round = 0; round < 3; round++) {
    int64_t now = round * 10000 * MS;
    backoff_next(&self, &policy, now, &rests);
    assert_false(rests);
    backoff_next(&self, &policy, now + 500 * MS, &rests);
    assert_false(rests);
    assert_int_equal(backoff_next(&self, &policy, now + 999 * MS, &rests), 1000);
    assert_true(rests);
  }
}

static void failures_that_are_far_apart_do_not_add_up(void **state) {
  (void)state;
  const backoff_policy policy = {.max = 1, .window_ms = 1000};
  backoff self = {0};
  bool rests = false;
  for (int i = 0; i < 10; i++) {
    backoff_next(&self, &policy, i * 1000 * MS, &rests);
    assert_false(rests);
  }
}

static void opens_half_opens_and_closes(void **state) {
  (void)state;
  breaker self = {.failures = 3, .cooldown_ms = 10};
  assert_false(breaker_failed(&self, 0));
  assert_false(breaker_failed(&self, 0));
  assert_false(breaker_answered(&self)); /* was closed */
  assert_false(breaker_failed(&self, 0));
  assert_false(breaker_failed(&self, 0));
  assert_true(breaker_failed(&self, 0));
  assert_int_equal(self.state, BREAKER_OPEN);
  assert_false(breaker_wait(&self, 10 * MS - 1));
  assert_true(breaker_wait(&self, 10 * MS));
  assert_int_equal(self.state, BREAKER_HALF_OPEN);
  assert_false(breaker_wait(&self, 100 * MS));
  assert_true(breaker_failed(&self, 100 * MS)); /* one is enough now */
  assert_int_equal(self.due_ns, 110 * MS);
  assert_true(breaker_wait(&self, 110 * MS));
  assert_true(breaker_answered(&self));
  assert_int_equal(self.state, BREAKER_CLOSED);
  assert_false(breaker_failed(&self, 0));
}

static void can_be_off(void **state) {
  (void)state;
  breaker self = {.failures = 0, .cooldown_ms = 10};
  for (int i = 0; i < 1000; i++) assert_false(breaker_failed(&self, 0));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(pauses_double_up_to_half_a_minute),
      cmocka_unit_test(a_place_rests_after_too_many_in_a_window),
      cmocka_unit_test(failures_that_are_far_apart_do_not_add_up),
      cmocka_unit_test(opens_half_opens_and_closes),
      cmocka_unit_test(can_be_off),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
