/* Cancel tokens: told once, before and after, from many threads, and freed while something hangs on them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cancel.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

static void count(void *argument) {
  atomic_fetch_add((atomic_int *)argument, 1);
}

static pyproc_cancel *token_new(void) {
  pyproc_cancel *token = NULL;
  assert_int_equal(pyproc_cancel_new(&token), PYPROC_OK);
  assert_non_null(token);
  assert_int_equal(pyproc_cancel_fired(token), 0);
  return token;
}

static void null_is_no_token(void **state) {
  (void)state;
  pyproc_cancel_fire(NULL);
  assert_int_equal(pyproc_cancel_fired(NULL), 0);
  pyproc_cancel_free(NULL);
}

static void told_once(void **state) {
  (void)state;
  pyproc_cancel *token = token_new();
  atomic_int told = 0;
  cancel_entry entry = {.fired = count, .argument = &told};
  assert_true(cancel_attach(token, &entry));
  assert_int_equal(told, 0);
  pyproc_cancel_fire(token);
  assert_int_equal(told, 1);
  assert_int_equal(pyproc_cancel_fired(token), 1);
  pyproc_cancel_fire(token);
  assert_int_equal(told, 1);
  cancel_detach(token, &entry);
  assert_int_equal(pyproc_cancel_fired(token), 1); /* it stays so */
  pyproc_cancel_free(token);
}

static void fired_before_it_is_attached(void **state) {
  (void)state;
  pyproc_cancel *token = token_new();
  atomic_int told = 0;
  cancel_entry entry = {.fired = count, .argument = &told};
  pyproc_cancel_fire(token);
  assert_false(cancel_attach(token, &entry));
  assert_int_equal(told, 0);
  pyproc_cancel_free(token); /* the last reference: attaching took none */
}

static void detached_entries_are_not_told(void **state) {
  (void)state;
  /* each of three in turn is taken off, so first, middle and last of the list */
  for (int left = 0; left < 3; left++) {
    pyproc_cancel *token = token_new();
    atomic_int told[3] = {0};
    cancel_entry entries[3];
    for (int i = 0; i < 3; i++) {
      entries[i] = (cancel_entry){.fired = count, .argument = &told[i]};
      assert_true(cancel_attach(token, &entries[i]));
    }
    cancel_detach(token, &entries[left]);
    pyproc_cancel_fire(token);
    for (int i = 0; i < 3; i++) assert_int_equal(told[i], i == left ? 0 : 1);
    for (int i = 0; i < 3; i++)
      if (i != left) cancel_detach(token, &entries[i]);
    pyproc_cancel_free(token);
  }
}

static void freed_while_attached(void **state) {
  (void)state;
  pyproc_cancel *token = token_new();
  atomic_int told = 0;
  cancel_entry first = {.fired = count, .argument = &told}, second = {.fired = count, .argument = &told};
  assert_true(cancel_attach(token, &first));
  assert_true(cancel_attach(token, &second));
  pyproc_cancel_free(token);
  assert_int_equal(pyproc_cancel_fired(token), 0); /* the calls hold it still */
  cancel_detach(token, &first);
  cancel_detach(token, &second); /* a leak or a use after this is the sanitizer's to see */
  assert_int_equal(told, 0);
}

enum { THREADS = 8, ROUNDS = 300 };

struct crowd {
  pyproc_cancel *token;
  pthread_barrier_t start;
  atomic_int attached, told;
};

/* Attaches and detaches until the token has fired. Counts itself as told or as refused. */
static void *come_and_go(void *argument) {
  struct crowd *crowd = argument;
  pthread_barrier_wait(&crowd->start);
  for (;;) {
    atomic_int told = 0;
    cancel_entry entry = {.fired = count, .argument = &told};
    if (!cancel_attach(crowd->token, &entry)) return NULL;
    cancel_detach(crowd->token, &entry);
    atomic_fetch_add(&crowd->attached, 1);
    atomic_fetch_add(&crowd->told, atomic_load(&told));
  }
}

static void *fire(void *argument) {
  struct crowd *crowd = argument;
  pthread_barrier_wait(&crowd->start);
  pyproc_cancel_fire(crowd->token);
  return NULL;
}

static void from_many_threads(void **state) {
  (void)state;
  for (int round = 0; round < ROUNDS / 10; round++) {
    struct crowd crowd = {.token = token_new()};
    pthread_t threads[THREADS];
    assert_int_equal(pthread_barrier_init(&crowd.start, NULL, THREADS), 0);
    for (int i = 0; i < THREADS; i++)
      assert_int_equal(pthread_create(&threads[i], NULL, i < 2 ? fire : come_and_go, &crowd), 0);
    for (int i = 0; i < THREADS; i++) assert_int_equal(pthread_join(threads[i], NULL), 0);
    assert_in_range(crowd.told, 0, THREADS - 2); /* at most once for each */
    assert_int_equal(pyproc_cancel_fired(crowd.token), 1);
    pthread_barrier_destroy(&crowd.start);
    pyproc_cancel_free(crowd.token);
  }
}

/* Once detach has returned, the entry may be gone: nobody looks at it any more. */
static void *detach_at_once(void *argument) {
  struct crowd *crowd = argument;
  atomic_int *told = malloc(sizeof *told);
  cancel_entry *entry = malloc(sizeof *entry);
  if (told == NULL || entry == NULL) abort();
  atomic_init(told, 0);
  *entry = (cancel_entry){.fired = count, .argument = told};
  bool attached = cancel_attach(crowd->token, entry);
  pthread_barrier_wait(&crowd->start);
  if (attached) cancel_detach(crowd->token, entry);
  free(entry);
  free(told);
  return NULL;
}

static void nobody_looks_after_detach(void **state) {
  (void)state;
  for (int round = 0; round < ROUNDS / 10; round++) {
    struct crowd crowd = {.token = token_new()};
    pthread_t threads[THREADS];
    assert_int_equal(pthread_barrier_init(&crowd.start, NULL, THREADS), 0);
    for (int i = 0; i < THREADS; i++)
      assert_int_equal(pthread_create(&threads[i], NULL, i == 0 ? fire : detach_at_once, &crowd), 0);
    for (int i = 0; i < THREADS; i++) assert_int_equal(pthread_join(threads[i], NULL), 0);
    pthread_barrier_destroy(&crowd.start);
    pyproc_cancel_free(crowd.token);
  }
}

/* The last of several to let go frees it, whoever that is. */
static void *let_go(void *argument) {
  struct crowd *crowd = argument;
  cancel_entry entry = {.fired = count, .argument = &crowd->told};
  pyproc_cancel *token = crowd->token;
  bool attached = cancel_attach(token, &entry);
  pthread_barrier_wait(&crowd->start);
  if (attached) cancel_detach(token, &entry);
  return NULL;
}

static void *let_go_of_the_first(void *argument) {
  struct crowd *crowd = argument;
  pyproc_cancel *token = crowd->token;
  pthread_barrier_wait(&crowd->start);
  pyproc_cancel_free(token);
  return NULL;
}

static void the_last_one_frees(void **state) {
  (void)state;
  for (int round = 0; round < ROUNDS / 10; round++) {
    struct crowd crowd = {.token = token_new()};
    pthread_t threads[THREADS];
    assert_int_equal(pthread_barrier_init(&crowd.start, NULL, THREADS), 0);
    for (int i = 0; i < THREADS; i++)
      assert_int_equal(pthread_create(&threads[i], NULL, i == 0 ? let_go_of_the_first : let_go, &crowd), 0);
    for (int i = 0; i < THREADS; i++) assert_int_equal(pthread_join(threads[i], NULL), 0);
    assert_int_equal(crowd.told, 0);
    pthread_barrier_destroy(&crowd.start);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(null_is_no_token),
      cmocka_unit_test(told_once),
      cmocka_unit_test(fired_before_it_is_attached),
      cmocka_unit_test(detached_entries_are_not_told),
      cmocka_unit_test(freed_while_attached),
      cmocka_unit_test(from_many_threads),
      cmocka_unit_test(nobody_looks_after_detach),
      cmocka_unit_test(the_last_one_frees),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
