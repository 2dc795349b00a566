/* Requests that kill workers: which are refused, and for how long. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "poison.h"

#define MS INT64_C(1000000)

static poison self;

static int begin(void **state) {
  (void)state;
  poison_init(&self, 3, 1000, 42);
  return 0;
}

static int end(void **state) {
  (void)state;
  poison_destroy(&self);
  return 0;
}

static uint64_t key_of(const char *method, const char *body) {
  return poison_key(&self, method, body, strlen(body));
}

static bool is_refused(uint64_t key, int64_t now_ns) {
  poison_refusal refusal;
  return poison_refuses(&self, key, now_ns, &refusal);
}

static void test_keys(void **state) {
  (void)state;
  uint64_t key = key_of("predict", "{\"value\":1}");
  assert_true(key != 0 && key == key_of("predict", "{\"value\":1}"));
  assert_true(key != key_of("predict", "{\"value\":2}"));
  assert_true(key != key_of("predicts", "{\"value\":1}"));
  assert_true(key_of("ab", "c") != key_of("a", "bc"));
  assert_true(key_of("a", "") != key_of("", "a"));
  assert_true(poison_key(&self, "m", "\0\0\0", 3) != poison_key(&self, "m", "\0\0\0\0", 4));
  assert_true(poison_key(&self, "m", "12345678\0", 9) != poison_key(&self, "m", "12345678", 8));
  assert_true(poison_key(&self, "m", NULL, 0) != 0);
  poison other;
  poison_init(&other, 3, 1000, 43);
  assert_true(poison_key(&other, "predict", "{\"value\":1}", 11) != key); /* nobody can foresee it */
  poison_destroy(&other);
}

static void test_third_kill_refuses(void **state) {
  (void)state;
  uint64_t key = key_of("a", "1"), other = key_of("a", "2");
  poison_refusal refusal;
  assert_false(poison_is_armed(&self));
  assert_false(poison_is_armed(NULL));
  assert_false(poison_blame(&self, key, "first", 0));
  assert_true(poison_is_armed(&self));
  assert_false(poison_blame(&self, key, "second", 1 * MS));
  assert_false(is_refused(key, 1 * MS));
  assert_true(poison_blame(&self, key, "third", 2 * MS));
  assert_true(poison_refuses(&self, key, 3 * MS, &refusal));
  assert_int_equal(refusal.kills, 3);
  assert_int_equal(refusal.left_ns, 999 * MS);
  assert_string_equal(refusal.why, "third");
  assert_false(is_refused(other, 3 * MS));
}

static void test_one_more_kill_is_enough_after_the_rest(void **state) {
  (void)state;
  uint64_t key = key_of("a", "1");
  for (int i = 0; i < 3; i++) poison_blame(&self, key, "", 0);
  assert_true(is_refused(key, 1000 * MS - 1));
  assert_false(is_refused(key, 1000 * MS));
  assert_true(poison_blame(&self, key, "", 1500 * MS));
  assert_true(is_refused(key, 2499 * MS));
}

static void test_a_success_absolves(void **state) {
  (void)state;
  uint64_t key = key_of("a", "1"), other = key_of("b", "1");
  poison_blame(&self, key, "", 0);
  poison_blame(&self, key, "", 0);
  poison_blame(&self, other, "", 0);
  poison_absolve(&self, key);
  assert_true(poison_is_armed(&self));
  assert_false(poison_blame(&self, key, "", 0));
  assert_false(poison_blame(&self, key, "", 0));
  assert_true(poison_blame(&self, key, "", 0));
  poison_absolve(&self, key);
  poison_absolve(&self, other);
  poison_absolve(&self, other);
  assert_false(poison_is_armed(&self));
  assert_false(is_refused(key, 0));
}

static void test_kills_far_apart_do_not_add_up(void **state) {
  (void)state;
  uint64_t key = key_of("a", "1");
  for (int i = 0; i < 10; i++) assert_false(poison_blame(&self, key, "", i * (10000 * MS + 1)));
  assert_false(is_refused(key, 1000000 * MS)); /* by which it is forgotten */
  assert_false(poison_is_armed(&self));
}

/* A flood of other requests pushes out the oldest, never the latest. */
static void test_the_table_is_bounded(void **state) {
  (void)state;
  uint64_t first = key_of("first", ""), last = key_of("last", "");
  char body[32];
  poison_blame(&self, first, "", 0);
  for (int i = 0; i < 3 * POISON_ENTRIES; i++) {
    snprintf(body, sizeof body, "%d", i);
    poison_blame(&self, key_of("flood", body), "", 1 + i);
  }
  for (int i = 0; i < 2; i++) {
    assert_false(poison_blame(&self, last, "", 10000));
    assert_false(poison_blame(&self, first, "", 10000));
  }
  assert_true(poison_blame(&self, last, "", 10000));
  assert_int_equal(atomic_load(&self.count), POISON_ENTRIES);
}

static void test_can_be_off(void **state) {
  (void)state;
  poison off;
  poison_init(&off, 0, 1000, 1);
  for (int i = 0; i < 100; i++) assert_false(poison_blame(&off, 7, "", 0));
  assert_false(poison_is_armed(&off));
  poison_destroy(&off);
}

int main(void) {
#define TEST(function) cmocka_unit_test_setup_teardown(function, begin, end)
  const struct CMUnitTest tests[] = {
      TEST(test_keys),
      TEST(test_third_kill_refuses),
      TEST(test_one_more_kill_is_enough_after_the_rest),
      TEST(test_a_success_absolves),
      TEST(test_kills_far_apart_do_not_add_up),
      TEST(test_the_table_is_bounded),
      TEST(test_can_be_off),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
