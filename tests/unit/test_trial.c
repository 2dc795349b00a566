/* Which of two ways brings more answers: with a clock of the test's own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "trial.h"

enum { STEP_NS = 100000, FIRST = 1000, MUCH_BETTER = 2000, HARDLY_BETTER = 1100, WORSE = 900 };

struct world {
  trial trial;
  int64_t now_ns, answers;
  int periods[2]; /* that ended, of each way */
};

static struct world world_new(void) {
  struct world self = {.now_ns = 1};
  trial_init(&self.trial);
  return self;
}

/* So many periods, in which each way brings so many answers in a step. */
static void pass(struct world *self, int periods, int first, int second) {
  for (int ended = 0; ended < periods;) {
    const bool way = self->trial.way, was_measured = self->trial.since_answers >= 0;
    self->now_ns += STEP_NS;
    self->answers += way ? second : first;
    if (!trial_is_due(&self->trial, self->now_ns)) continue;
    trial_tell(&self->trial, self->answers, self->now_ns);
    if (!was_measured) continue;
    self->periods[way]++;
    ended++;
  }
}

static void the_first_way_is_first(void **state) {
  (void)state;
  struct world self = world_new();
  assert_false(self.trial.way);
  pass(&self, 1, FIRST, FIRST);
  assert_int_equal(self.periods[0], 1);
  assert_true(self.trial.way); /* of the other nothing is known */
}

static void the_better_way_is_taken(void **state) {
  (void)state;
  struct world self = world_new();
  pass(&self, 200, FIRST, MUCH_BETTER);
  assert_true(self.trial.way);
  assert_in_range(self.periods[0], 2, 12); /* it is tried now and then */
  self = world_new();
  pass(&self, 200, FIRST, WORSE);
  assert_false(self.trial.way);
  assert_in_range(self.periods[1], 2, 5); /* more and more rarely */
}

static void a_little_better_is_not_enough(void **state) {
  (void)state;
  struct world self = world_new();
  pass(&self, 200, FIRST, HARDLY_BETTER);
  assert_in_range(self.periods[1], 1, 5);
}

static void times_change(void **state) {
  (void)state;
  struct world self = world_new();
  pass(&self, 50, FIRST, MUCH_BETTER);
  const int before = self.periods[1];
  pass(&self, 50, FIRST, WORSE / 2); /* noticed at once: it is worse than the other was */
  assert_in_range(self.periods[1] - before, 1, 10);
  pass(&self, 400, FIRST, MUCH_BETTER);
  assert_true(self.trial.way);
}

static void idle_times_teach_nothing(void **state) {
  (void)state;
  struct world self = world_new();
  pass(&self, 30, FIRST, MUCH_BETTER);
  assert_true(self.trial.way);
  const int64_t known = self.trial.rates[1];
  for (int i = 0; i < 100; i++) {
    self.now_ns += 1000000000;
    self.answers++;
    if (trial_is_due(&self.trial, self.now_ns)) trial_tell(&self.trial, self.answers, self.now_ns);
  }
  assert_true(self.trial.way);
  assert_true(self.trial.rates[1] == known);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(the_first_way_is_first),        cmocka_unit_test(the_better_way_is_taken),
      cmocka_unit_test(a_little_better_is_not_enough), cmocka_unit_test(times_change),
      cmocka_unit_test(idle_times_teach_nothing),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
