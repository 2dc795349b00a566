/* Calls and their frames: who frees what, and the lists they hang in. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "call.h"
#include "error.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static const call_method a_method = {.name = "predict"};

static void a_frame_lives_as_long_as_its_last_reference(void **state) {
  (void)state;
  frame_block *frame = frame_block_new(CALL_BODY_JSON);
  assert_non_null(frame);
  assert_int_equal(frame->encoding, CALL_BODY_JSON);
  assert_int_equal(frame->bytes.size, 0);
  assert_true(buffer_append(&frame->bytes, "bytes", 5));
  assert_ptr_equal(frame_block_ref(frame), frame);
  frame_block_unref(frame);
  assert_memory_equal(frame->bytes.data, "bytes", 5);
  frame_block_unref(frame);
  frame_block_unref(NULL);
}

enum { THREADS = 8, ROUNDS = 2000 };

static void *refer_and_let_go(void *argument) {
  frame_block *frame = argument;
  for (int i = 0; i < ROUNDS; i++) frame_block_unref(frame_block_ref(frame));
  frame_block_unref(frame);
  return NULL;
}

static void references_from_many_threads(void **state) {
  (void)state;
  pthread_t threads[THREADS];
  frame_block *frame = frame_block_new(CALL_BODY_CODEC);
  assert_non_null(frame);
  for (int i = 0; i < THREADS; i++)
    assert_int_equal(pthread_create(&threads[i], NULL, refer_and_let_go, frame_block_ref(frame)), 0);
  for (int i = 0; i < THREADS; i++) assert_int_equal(pthread_join(threads[i], NULL), 0);
  assert_int_equal(atomic_load(&frame->references), 1);
  frame_block_unref(frame);
}

static void a_new_call_is_nowhere(void **state) {
  (void)state;
  struct lot lot;
  struct call call;
  lot_init(&lot);
  memset(&call, 0xee, sizeof call);
  frame_block *frame = frame_block_new(CALL_BODY_CODEC);
  call_init(&call, &lot, a_method, frame, 12345);
  assert_string_equal(call.method.name, "predict");
  assert_ptr_equal(call.frame, frame);
  assert_int_equal(call.deadline_ns, 12345);
  assert_int_equal(call.attempts, 0);
  assert_null(atomic_load(&call.connection));
  assert_false(call.queued);
  assert_false(atomic_load(&call.done));
  assert_false(atomic_load(&call.cancelled));
  assert_null(call.error);
  assert_null(call.body);
  assert_int_not_equal(call.waiter.bit, 0);
  call_clear(&call); /* the frame was the call's */
  lot_destroy(&lot);
}

/* A body in the call itself is not freed, one of its own is. */
static void clearing_frees_the_body(void **state) {
  (void)state;
  struct lot lot;
  struct call call;
  lot_init(&lot);
  call_init(&call, &lot, a_method, frame_block_new(CALL_BODY_CODEC), 0);
  call.block = call.small;
  call_clear(&call);
  call_init(&call, &lot, a_method, NULL, 0);
  call.block = malloc(100);
  assert_non_null(call.block);
  call_clear(&call);
  lot_destroy(&lot);
}

static void a_failed_call_is_done(void **state) {
  (void)state;
  struct lot lot;
  struct call call;
  lot_init(&lot);
  call_init(&call, &lot, a_method, NULL, 0);
  pyproc_error *error = error_new(PYPROC_E_UNAVAILABLE, "gone");
  assert_int_equal(call_fail(&call, error, true), call.waiter.bit);
  assert_true(atomic_load(&call.done));
  assert_true(call.may_have_run);
  assert_ptr_equal(call.error, error);
  call_clear(&call); /* and the error with it */
  lot_destroy(&lot);
}

static struct call *told;

static void remember_the_call(struct call *self) {
  assert_null(told); /* once */
  told = self;
}

/* Without a thread that waits, the owner is told instead: there is nobody to wake. */
static void a_call_without_a_thread_tells_its_owner(void **state) {
  (void)state;
  struct lot lot;
  struct call call;
  lot_init(&lot);
  call_init(&call, &lot, a_method, NULL, 0);
  assert_null(call.finished);
  call.finished = remember_the_call;
  told = NULL;
  assert_int_equal(call_fail(&call, error_new(PYPROC_E_UNAVAILABLE, "gone"), false), 0);
  assert_ptr_equal(told, &call);
  assert_int_equal(pyproc_error_code(call.error), PYPROC_E_UNAVAILABLE); /* in place before */
  call_clear(&call);
  call_init(&call, &lot, a_method, NULL, 0);
  assert_int_equal(call_finish(&call), call.waiter.bit);
  assert_true(atomic_load(&call.done));
  call_clear(&call);
  lot_destroy(&lot);
}

/* What is in the list, forwards and backwards. */
static void check_list(const call_list *list, const struct call *calls, const char *order) {
  const struct call *item = list->first, *before = NULL;
  for (const char *at = order; *at != '\0'; at++) {
    assert_ptr_equal(item, &calls[*at - '0']);
    assert_ptr_equal(item->previous, before);
    before = item;
    item = item->next;
  }
  assert_null(item);
  assert_ptr_equal(list->last, before);
}

static void lists(void **state) {
  (void)state;
  static struct call calls[4];
  call_list list = {0};
  check_list(&list, calls, "");
  call_list_append(&list, &calls[1]);
  call_list_append(&list, &calls[2]);
  call_list_prepend(&list, &calls[0]);
  call_list_append(&list, &calls[3]);
  check_list(&list, calls, "0123");
  call_list_remove(&list, &calls[1]);
  check_list(&list, calls, "023");
  assert_null(calls[1].previous);
  assert_null(calls[1].next);
  call_list_remove(&list, &calls[0]);
  check_list(&list, calls, "23");
  call_list_remove(&list, &calls[3]);
  check_list(&list, calls, "2");
  call_list_remove(&list, &calls[2]);
  check_list(&list, calls, "");
  call_list_prepend(&list, &calls[3]);
  check_list(&list, calls, "3");
  call_list_append(&list, &calls[2]);
  check_list(&list, calls, "32");
  call_list_remove(&list, &calls[2]);
  call_list_remove(&list, &calls[3]);
  check_list(&list, calls, "");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_frame_lives_as_long_as_its_last_reference),
      cmocka_unit_test(references_from_many_threads),
      cmocka_unit_test(a_new_call_is_nowhere),
      cmocka_unit_test(clearing_frees_the_body),
      cmocka_unit_test(a_failed_call_is_done),
      cmocka_unit_test(a_call_without_a_thread_tells_its_owner),
      cmocka_unit_test(lists),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
