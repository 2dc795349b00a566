/* When a worker is thought to hang. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "health.h"

#define MS INT64_C(1000000)

/* Asked just now, with these facts; returns when it is to be looked at. */
static int64_t asked(health *self, const health_facts *facts) {
  *self = (health){0};
  health_begin(self, 1000, 100, 0, 0);
  assert_int_equal(self->due_ns, 500 * MS);
  assert_int_equal(health_look(self, facts, 499 * MS), HEALTH_FINE);
  assert_int_equal(health_look(self, facts, 500 * MS), HEALTH_ASK);
  assert_int_equal(self->due_ns, 600 * MS);
  return self->due_ns;
}

static void can_be_off(void **state) {
  (void)state;
  health self = {0};
  health_begin(&self, 0, 100, 7, 0);
  assert_int_equal(self.due_ns, INT64_MAX);
}

static void the_first_look_is_spread(void **state) {
  (void)state;
  health self = {0};
  for (uint64_t chance = 0; chance < 5000 * (uint64_t)MS; chance += 77777777) {
    health_begin(&self, 1000, 100, chance, 7);
    assert_in_range(self.due_ns, 7 + 500 * MS, 7 + 1000 * MS);
  }
}

static void who_answers_is_fine(void **state) {
  (void)state;
  health self;
  health_facts facts = {.answers_pings = true};
  int64_t now = asked(&self, &facts);
  for (int i = 0; i < 10; i++) {
    facts.pong = self.ping;
    assert_int_equal(health_look(&self, &facts, now), HEALTH_FINE);
    assert_int_equal(self.due_ns, now + 900 * MS);
    now = self.due_ns;
    assert_int_equal(health_look(&self, &facts, now), HEALTH_ASK);
    now = self.due_ns;
  }
}

static void who_does_not_is_silent(void **state) {
  (void)state;
  health self;
  health_facts facts = {.answers_pings = true};
  int64_t now = asked(&self, &facts);
  assert_int_equal(health_look(&self, &facts, now - 1), HEALTH_FINE);
  assert_int_equal(health_look(&self, &facts, now), HEALTH_SILENT);
  facts = (health_facts){.answers_pings = true, .has_page = true, .runs = true, .turns = 3};
  now = asked(&self, &facts);
  facts.turns = 4; /* the loop turns, but no control thread */
  assert_int_equal(health_look(&self, &facts, now), HEALTH_SILENT);
}

static void a_number_of_before_is_no_answer(void **state) {
  (void)state;
  health self;
  health_facts facts = {.answers_pings = true};
  int64_t now = asked(&self, &facts);
  facts.pong = self.ping - 1;
  assert_int_equal(health_look(&self, &facts, now), HEALTH_SILENT);
  uint64_t ping = self.ping;
  health_begin(&self, 1000, 100, 0, now); /* the next process */
  health_look(&self, &facts, self.due_ns);
  assert_true(self.ping > ping);
}

/* A ping may wait behind megabytes of requests; the control thread turns all the same. */
static void a_handler_may_run_for_ever(void **state) {
  (void)state;
  health self;
  health_facts facts = {.answers_pings = true, .has_page = true, .waits = true, .runs = true};
  int64_t now = asked(&self, &facts);
  for (int i = 0; i < 100; i++) {
    facts.beats++;
    assert_int_equal(health_look(&self, &facts, now), HEALTH_FINE);
    now += 100 * MS;
    assert_int_equal(self.due_ns, now);
  }
  assert_int_equal(health_look(&self, &facts, now), HEALTH_SILENT); /* it has stopped */
}

static void who_begins_nothing_is_still(void **state) {
  (void)state;
  health self;
  const health_facts idle = {.has_page = true, .turns = 9, .replies = 5}, stuck = {
                                                                              .has_page = true,
                                                                              .turns = 9,
                                                                              .replies = 5,
                                                                              .waits = true,
                                                                          };
  assert_int_equal(health_look(&self, &stuck, asked(&self, &stuck)), HEALTH_STILL);
  assert_int_equal(health_look(&self, &stuck, asked(&self, &idle)), HEALTH_FINE); /* they may just have come */
  assert_int_equal(health_look(&self, &idle, asked(&self, &stuck)), HEALTH_FINE);
  health_facts other = stuck;
  other.turns++;
  assert_int_equal(health_look(&self, &other, asked(&self, &stuck)), HEALTH_FINE);
  other = stuck;
  other.replies++;
  assert_int_equal(health_look(&self, &other, asked(&self, &stuck)), HEALTH_FINE);
  other = stuck;
  other.runs = true;
  assert_int_equal(health_look(&self, &other, asked(&self, &stuck)), HEALTH_FINE);
  assert_int_equal(health_look(&self, &stuck, asked(&self, &other)), HEALTH_FINE);
  other = stuck;
  other.has_page = false;
  assert_int_equal(health_look(&self, &other, asked(&self, &other)), HEALTH_FINE);
}

/* Who looks was stopped for a minute: the answer may lie there unread. */
static void a_late_look_judges_nothing(void **state) {
  (void)state;
  health self;
  health_facts facts = {.answers_pings = true};
  int64_t now = asked(&self, &facts) + 60000 * MS;
  assert_int_equal(health_look(&self, &facts, now), HEALTH_FINE);
  assert_int_equal(self.due_ns, now + 100 * MS);
  assert_int_equal(health_look(&self, &facts, self.due_ns), HEALTH_SILENT);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(can_be_off),
      cmocka_unit_test(the_first_look_is_spread),
      cmocka_unit_test(who_answers_is_fine),
      cmocka_unit_test(who_does_not_is_silent),
      cmocka_unit_test(a_number_of_before_is_no_answer),
      cmocka_unit_test(a_handler_may_run_for_ever),
      cmocka_unit_test(who_begins_nothing_is_still),
      cmocka_unit_test(a_late_look_judges_nothing),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
