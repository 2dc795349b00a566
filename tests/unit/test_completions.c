/* The queue of what is over: its descriptor tells whether it is empty, all is delivered once and in order, by one thread at a
 * time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "completions.h"

#include <poll.h>
#include <pyproc.h>

enum { ITEMS = 20000, THREADS = 4 };

/* What is over; `queue` is where it adds `next`, or tries to dispatch. */
typedef struct thing {
  completion completion; /* first */
  completions *queue;
  struct thing *next;
  int delivered, order, nested;
} thing;

static int deliveries;

static void deliver(completion *item) {
  thing *self = (thing *)(void *)item;
  self->delivered++;
  self->order = deliveries++;
  if (self->next != NULL) completions_add(self->queue, &self->next->completion);
  self->nested = self->queue != NULL ? completions_dispatch(self->queue, NULL, 0) : 0;
}

static void thing_add(thing *self, completions *queue) {
  self->completion.deliver = deliver;
  completions_add(queue, &self->completion);
}

static bool is_readable(const completions *queue) {
  struct pollfd readable = {.fd = completions_fd(queue), .events = POLLIN};
  return poll(&readable, 1, 0) == 1;
}

static void fd_is_readable_while_something_is_there(void **state) {
  (void)state;
  completions queue;
  thing things[3] = {0};
  assert_int_equal(completions_init(&queue), 0);
  assert_false(is_readable(&queue));
  assert_int_equal(completions_dispatch(&queue, NULL, 0), 0);
  deliveries = 0;
  for (int i = 0; i < 3; i++) thing_add(&things[i], &queue);
  assert_true(is_readable(&queue));
  assert_true(is_readable(&queue)); /* it is level-triggered */
  assert_int_equal(completions_dispatch(&queue, NULL, 0), 3);
  assert_false(is_readable(&queue));
  for (int i = 0; i < 3; i++) {
    assert_int_equal(things[i].delivered, 1);
    assert_int_equal(things[i].order, i);
  }
  completions_destroy(&queue);
}

static void what_a_callback_adds_is_for_the_next_time(void **state) {
  (void)state;
  completions queue;
  thing second = {.completion.deliver = deliver};
  thing first = {.queue = &queue, .next = &second};
  assert_int_equal(completions_init(&queue), 0);
  thing_add(&first, &queue);
  assert_int_equal(completions_dispatch(&queue, NULL, 0), 1);
  assert_int_equal(first.nested, PYPROC_E_FAILED_PRECONDITION); /* not from a callback */
  assert_int_equal(second.delivered, 0);
  assert_true(is_readable(&queue));
  assert_int_equal(completions_dispatch(&queue, NULL, 0), 1);
  assert_int_equal(second.delivered, 1);
  completions_destroy(&queue);
}

static void *close_it(void *argument) {
  completions_close(argument);
  return NULL;
}

static void close_ends_the_wait(void **state) {
  (void)state;
  completions queue;
  thing left = {0};
  pthread_t thread;
  assert_int_equal(completions_init(&queue), 0);
  assert_int_equal(pthread_create(&thread, NULL, close_it, &queue), 0);
  assert_int_equal(completions_dispatch(&queue, NULL, PLATFORM_NO_DEADLINE), PYPROC_E_UNAVAILABLE);
  pthread_join(thread, NULL);
  thing_add(&left, &queue); /* what is over then is delivered all the same */
  assert_int_equal(completions_dispatch(&queue, NULL, 0), 1);
  assert_int_equal(left.delivered, 1);
  completions_destroy(&queue);
}

typedef struct adder {
  completions *queue;
  thing *things;
} adder;

static void *add_many(void *argument) {
  const adder *self = argument;
  for (int i = 0; i < ITEMS; i++) thing_add(&self->things[i], self->queue);
  return NULL;
}

static void all_is_delivered_once_and_in_order(void **state) {
  (void)state;
  static thing things[THREADS][ITEMS];
  completions queue;
  adder adders[THREADS];
  pthread_t threads[THREADS];
  assert_int_equal(completions_init(&queue), 0);
  deliveries = 0;
  for (int i = 0; i < THREADS; i++) {
    adders[i] = (adder){.queue = &queue, .things = things[i]};
    assert_int_equal(pthread_create(&threads[i], NULL, add_many, &adders[i]), 0);
  }
  while (deliveries < THREADS * ITEMS) assert_true(completions_dispatch(&queue, NULL, PLATFORM_NO_DEADLINE) > 0);
  for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
  assert_false(is_readable(&queue));
  for (int i = 0; i < THREADS; i++)
    for (int j = 0; j < ITEMS; j++) {
      assert_int_equal(things[i][j].delivered, 1);
      assert_true(j == 0 || things[i][j].order > things[i][j - 1].order);
    }
  completions_destroy(&queue);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(fd_is_readable_while_something_is_there),
      cmocka_unit_test(what_a_callback_adds_is_for_the_next_time),
      cmocka_unit_test(close_ends_the_wait),
      cmocka_unit_test(all_is_delivered_once_and_in_order),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
