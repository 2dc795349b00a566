/* The gate: who counts as inside, who is let in, and that what it guards may be freed once nobody is inside. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "gate.h"

#include <stdlib.h>

enum { THREADS = 4, ROUNDS = 300 };

static void closing_lets_in_and_shut_does_not(void **state) {
  (void)state;
  gate door;
  gate_init(&door);
  assert_true(gate_enter(&door));
  assert_false(gate_is_closing(&door));
  gate_close(&door);
  assert_true(gate_is_closing(&door));
  assert_false(gate_wait(&door, platform_now_ns() + 1000000));
  assert_true(gate_enter(&door));
  gate_leave(&door);
  gate_leave(&door);
  assert_true(gate_wait(&door, 0));
  gate_shut(&door);
  assert_false(gate_enter(&door));
  assert_true(gate_wait(&door, 0));
  gate_destroy(&door);
}

/* What a gate guards. The last one out finds it freed, should the gate let the closing thread go too early. */
struct house {
  gate gate;
  pthread_barrier_t begin;
  atomic_int *lamp;
  _Atomic int entered;
};

static void *visit(void *argument) {
  struct house *self = argument;
  pthread_barrier_wait(&self->begin);
  for (int i = 0; i < 50 && gate_enter(&self->gate); i++) {
    atomic_fetch_add(self->lamp, 1);
    atomic_fetch_add(&self->entered, 1);
    gate_leave(&self->gate);
  }
  return NULL;
}

static void nobody_is_inside_once_it_is_shut(void **state) {
  (void)state;
  for (int round = 0; round < ROUNDS; round++) {
    struct house house = {.lamp = calloc(1, sizeof(atomic_int))};
    pthread_t threads[THREADS];
    gate_init(&house.gate);
    pthread_barrier_init(&house.begin, NULL, THREADS + 1);
    for (int i = 0; i < THREADS; i++) assert_int_equal(pthread_create(&threads[i], NULL, visit, &house), 0);
    pthread_barrier_wait(&house.begin);
    gate_close(&house.gate);
    gate_shut(&house.gate);
    int entered = atomic_load(&house.entered);
    assert_int_equal(atomic_load(house.lamp), entered);
    free(house.lamp);
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    assert_int_equal(atomic_load(&house.entered), entered);
    pthread_barrier_destroy(&house.begin);
    gate_destroy(&house.gate);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(closing_lets_in_and_shut_does_not),
      cmocka_unit_test(nobody_is_inside_once_it_is_shut),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
