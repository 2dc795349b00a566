/* The parking lot: no wake is lost, nobody is woken when nobody sleeps, deadlines end a sleep. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "lot.h"
#include "platform.h"

#include <pthread.h>

enum { THREADS = 24, ROUNDS = 400, BATCH = 8 };

struct place {
  struct lot *lot;
  lot_waiter waiter;
  _Atomic uint32_t given, asked; /* replies that were given to, and asked for by, this thread */
};

static bool place_ready(void *argument) {
  struct place *self = argument;
  return atomic_load_explicit(&self->given, memory_order_acquire) ==
         atomic_load_explicit(&self->asked, memory_order_relaxed);
}

static bool never(void *argument) {
  (void)argument;
  return false;
}

static bool always(void *argument) {
  (void)argument;
  return true;
}

static void *asking(void *argument) {
  struct place *self = argument;
  for (int i = 0; i < ROUNDS; i++) {
    atomic_fetch_add_explicit(&self->asked, 1, memory_order_release);
    while (!place_ready(self)) lot_sleep(self->lot, &self->waiter, place_ready, self, PLATFORM_NO_DEADLINE);
  }
  return NULL;
}

struct answerer {
  struct lot *lot;
  struct place *places;
  bool precise; /* wakes those only that sleep */
};

/* Answers what was asked, in batches with one wake, until all rounds are over. */
static void *answering(void *argument) {
  const struct answerer *self = argument;
  for (uint32_t left = THREADS * ROUNDS; left > 0;) {
    uint32_t bits = 0;
    int batch = 0;
    for (int i = 0; i < THREADS; i++) {
      struct place *at = &self->places[i];
      if (atomic_load_explicit(&at->asked, memory_order_acquire) == atomic_load(&at->given)) continue;
      atomic_fetch_add_explicit(&at->given, 1, memory_order_release);
      bits |= self->precise ? lot_waiter_bits(&at->waiter) : at->waiter.bit;
      left--;
      if (++batch < BATCH) continue;
      lot_wake(self->lot, bits);
      bits = 0;
      batch = 0;
    }
    lot_wake(self->lot, bits);
    platform_yield();
  }
  return NULL;
}

static void exchange(bool precise) {
  static struct place places[THREADS];
  pthread_t threads[THREADS + 1];
  struct lot lot;
  lot_init(&lot);
  struct answerer answerer = {.lot = &lot, .places = places, .precise = precise};
  for (int i = 0; i < THREADS; i++) {
    places[i].lot = &lot;
    atomic_store(&places[i].given, 0);
    atomic_store(&places[i].asked, 0);
    lot_waiter_init(&lot, &places[i].waiter);
    assert_int_equal(pthread_create(&threads[i], NULL, asking, &places[i]), 0);
  }
  assert_int_equal(pthread_create(&threads[THREADS], NULL, answering, &answerer), 0);
  for (int i = 0; i <= THREADS; i++) assert_int_equal(pthread_join(threads[i], NULL), 0);
  for (int i = 0; i < THREADS; i++) assert_int_equal(atomic_load(&places[i].given), ROUNDS);
  assert_int_equal(atomic_load(&lot.sleepers), 0);
  lot_destroy(&lot);
}

static void test_no_wake_is_lost(void **state) {
  (void)state;
  exchange(false);
}

static void test_no_wake_is_lost_when_only_sleepers_are_woken(void **state) {
  (void)state;
  exchange(true);
}

static void test_deadline_ends_a_sleep(void **state) {
  (void)state;
  struct lot lot;
  lot_waiter waiter;
  lot_init(&lot);
  lot_waiter_init(&lot, &waiter);
  assert_false(lot_sleep(&lot, &waiter, never, NULL, platform_now_ns() - 1));
  assert_false(lot_sleep(&lot, &waiter, never, NULL, -5));
  int64_t deadline = platform_now_ns() + 2000000;
  while (lot_sleep(&lot, &waiter, never, NULL, deadline)) {}
  assert_true(platform_now_ns() >= deadline);
  assert_int_equal(atomic_load(&waiter.asleep), 0);
  assert_int_equal(atomic_load(&lot.sleepers), 0);
  lot_destroy(&lot);
}

static void test_ready_needs_no_sleep(void **state) {
  (void)state;
  struct lot lot;
  lot_waiter waiter;
  lot_init(&lot);
  lot_waiter_init(&lot, &waiter);
  assert_true(lot_sleep(&lot, &waiter, always, NULL, PLATFORM_NO_DEADLINE));
  lot_destroy(&lot);
}

static void test_wake_without_sleepers_does_nothing(void **state) {
  (void)state;
  struct lot lot;
  lot_waiter waiter;
  lot_init(&lot);
  lot_waiter_init(&lot, &waiter);
  assert_int_equal(lot_waiter_bits(&waiter), 0);
  lot_wake(&lot, UINT32_MAX);
  assert_int_equal(atomic_load(&lot.generation.word), 0);
  lot_destroy(&lot);
}

static void test_waiters_are_spread_over_all_bits(void **state) {
  (void)state;
  struct lot lot;
  uint32_t seen = 0;
  lot_init(&lot);
  for (int i = 0; i < 32; i++) {
    lot_waiter waiter;
    lot_waiter_init(&lot, &waiter);
    seen |= waiter.bit;
  }
  assert_int_equal(seen, UINT32_MAX);
  lot_destroy(&lot);
}

struct sleeper {
  struct lot *lot;
  lot_waiter waiter;
  atomic_bool go, gone;
};

static bool sleeper_ready(void *argument) {
  return atomic_load(&((struct sleeper *)argument)->go);
}

static void *sleeping(void *argument) {
  struct sleeper *self = argument;
  while (!sleeper_ready(self)) lot_sleep(self->lot, &self->waiter, sleeper_ready, self, PLATFORM_NO_DEADLINE);
  atomic_store(&self->gone, true);
  return NULL;
}

/* A wake for others leaves a sleeper where it is, and one for it alone suffices. */
static void test_a_sleeper_is_woken_by_its_own_bit(void **state) {
  (void)state;
  struct lot lot;
  lot_init(&lot);
  struct sleeper self = {.lot = &lot};
  lot_waiter_init(&lot, &self.waiter);
  pthread_t thread;
  assert_int_equal(pthread_create(&thread, NULL, sleeping, &self), 0);
  while (lot_waiter_bits(&self.waiter) == 0) platform_yield();
  assert_int_equal(lot_waiter_bits(&self.waiter), self.waiter.bit);
  lot_wake(&lot, ~self.waiter.bit);
  assert_false(atomic_load(&self.gone));
  atomic_store(&self.go, true);
  lot_wake(&lot, self.waiter.bit);
  assert_int_equal(pthread_join(thread, NULL), 0);
  assert_true(atomic_load(&self.gone));
  lot_destroy(&lot);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_no_wake_is_lost),
      cmocka_unit_test(test_no_wake_is_lost_when_only_sleepers_are_woken),
      cmocka_unit_test(test_deadline_ends_a_sleep),
      cmocka_unit_test(test_ready_needs_no_sleep),
      cmocka_unit_test(test_wake_without_sleepers_does_nothing),
      cmocka_unit_test(test_waiters_are_spread_over_all_bits),
      cmocka_unit_test(test_a_sleeper_is_woken_by_its_own_bit),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
