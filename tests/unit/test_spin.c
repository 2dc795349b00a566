/* The gauge that says whether to look again before blocking. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "spin.h"

enum { LIMIT_NS = 50000, LONG_NS = 1000000, MANY = 100 };

/* Of so many times that it is asked, how often it advises to spin. */
static int count_advice(spin_gauge *gauge) {
  int count = 0;
  for (int i = 0; i < MANY; i++) count += spin_pays(gauge);
  return count;
}

static spin_gauge fresh(void) {
  spin_gauge gauge;
  spin_init(&gauge, LIMIT_NS);
  gauge.limit_ns = LIMIT_NS; /* on one processor, too */
  return gauge;
}

static spin_gauge discouraged(void) {
  spin_gauge gauge = fresh();
  for (int i = 0; i < MANY; i++) spin_learn(&gauge, LONG_NS);
  return gauge;
}

static void long_waits_advise_against_it(void **state) {
  (void)state;
  spin_gauge gauge = fresh();
  assert_int_equal(count_advice(&gauge), MANY);
  for (int i = 0; i < MANY; i++) spin_learn(&gauge, LIMIT_NS / 2);
  assert_int_equal(count_advice(&gauge), MANY);
  gauge = discouraged();
  assert_in_range(count_advice(&gauge), 1, MANY / 10); /* it is tried now and then */
  for (int i = 0; i < MANY; i++) spin_learn(&gauge, LIMIT_NS / 2);
  assert_int_equal(count_advice(&gauge), MANY);
}

static void what_has_paid_is_done_again(void **state) {
  (void)state;
  spin_gauge gauge = discouraged();
  for (int i = 0; i < MANY; i++) spin_paid(&gauge);
  assert_int_equal(count_advice(&gauge), MANY);
  for (int i = 0; i < MANY; i++) { /* as often as not, it has not */
    spin_learn(&gauge, LONG_NS);
    spin_paid(&gauge);
  }
  assert_in_range(count_advice(&gauge), 1, MANY / 10);
}

static void reset_forgets(void **state) {
  (void)state;
  spin_gauge gauge = discouraged();
  spin_reset(&gauge);
  assert_int_equal(count_advice(&gauge), MANY);
}

static void no_limit_no_spinning(void **state) {
  (void)state;
  spin_gauge gauge;
  spin_init(&gauge, 0);
  spin_paid(&gauge);
  assert_int_equal(count_advice(&gauge), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(long_waits_advise_against_it),
      cmocka_unit_test(what_has_paid_is_done_again),
      cmocka_unit_test(reset_forgets),
      cmocka_unit_test(no_limit_no_spinning),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
