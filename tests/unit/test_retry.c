/* When a failed call is made again, and what becomes of it then. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "error.h"
#include "platform.h"
#include "retry.h"

#define CODE(code) (UINT64_C(1) << -(code))
enum { RUNS = 200, NS_PER_MS = 1000000 };

static const pyproc_retry policy = {
    sizeof(pyproc_retry), 5, 10, 70, 3000, CODE(PYPROC_E_UNAVAILABLE) | CODE(PYPROC_E_ABORTED)};
static const pyproc_method safe = {sizeof(pyproc_method),    "p.S/Safe", NULL,   NULL, "", PYPROC_RPC_UNARY,
                                   PYPROC_METHOD_IDEMPOTENT, 0,          &policy};
static const pyproc_method unsafe = {
    sizeof(pyproc_method), "p.S/Unsafe", NULL, NULL, "", PYPROC_RPC_UNARY, 0, 0, &policy};
static const pyproc_method plain = {sizeof(pyproc_method),    "p.S/Plain", NULL, NULL, "", PYPROC_RPC_UNARY,
                                    PYPROC_METHOD_IDEMPOTENT, 0,           NULL};
static const pyproc_method stream = {
    sizeof(pyproc_method), "p.S/Stream", NULL, NULL, "", PYPROC_RPC_BIDI, PYPROC_METHOD_IDEMPOTENT, 0, &policy};

static struct lot lot;

static retry retry_of(const pyproc_method *method, int64_t max_attempts) {
  struct call call;
  retry self;
  call_init(&call, &lot, (call_method){.name = "m", .typed = method}, NULL, INT64_MAX);
  retry_init(&self, &call, max_attempts);
  call_clear(&call);
  return self;
}

static bool plan(retry *self, int code, bool may_have_run, int64_t *ret_at_ns) {
  pyproc_error *error = error_new(code, "it failed");
  error_set_may_have_run(error, may_have_run);
  bool planned = retry_plan(self, &error, ret_at_ns);
  assert_true(planned == (error == NULL));
  pyproc_error_free(error);
  return planned;
}

/* How many more attempts there are when all fail. */
static int repeats(const pyproc_method *method, int64_t max_attempts, int code, bool may_have_run) {
  retry self = retry_of(method, max_attempts);
  int64_t at_ns;
  int count = 0;
  while (plan(&self, code, may_have_run, &at_ns)) count++;
  retry_clear(&self);
  return count;
}

static void attempts_are_those_of_options_or_schema(void **state) {
  (void)state;
  assert_int_equal(repeats(&safe, 0, PYPROC_E_UNAVAILABLE, true), 4);
  assert_int_equal(repeats(&safe, 1, PYPROC_E_UNAVAILABLE, true), 0);
  assert_int_equal(repeats(&safe, 9, PYPROC_E_UNAVAILABLE, true), 8);
  assert_int_equal(repeats(&plain, 0, PYPROC_E_UNAVAILABLE, true), 0);
  assert_int_equal(repeats(&plain, 3, PYPROC_E_UNAVAILABLE, true), 2);
  assert_int_equal(repeats(NULL, 0, PYPROC_E_UNAVAILABLE, false), 0);
  assert_int_equal(repeats(NULL, 3, PYPROC_E_UNAVAILABLE, false), 2);
  assert_int_equal(repeats(&stream, 0, PYPROC_E_UNAVAILABLE, false), 0);
  assert_int_equal(repeats(&stream, 5, PYPROC_E_UNAVAILABLE, false), 0);
}

static void only_what_did_not_run_or_is_idempotent(void **state) {
  (void)state;
  assert_int_equal(repeats(&unsafe, 0, PYPROC_E_UNAVAILABLE, true), 0);
  assert_int_equal(repeats(&unsafe, 0, PYPROC_E_UNAVAILABLE, false), 4);
  assert_int_equal(repeats(NULL, 3, PYPROC_E_UNAVAILABLE, true), 0);
}

static void only_retryable_codes(void **state) {
  (void)state;
  for (int code = PYPROC_E_UNAUTHENTICATED; code < 0; code++) {
    bool is_in = code == PYPROC_E_UNAVAILABLE || code == PYPROC_E_ABORTED;
    assert_int_equal(repeats(&safe, 0, code, true), is_in ? 4 : 0);
    assert_int_equal(repeats(&plain, 3, code, true), code == PYPROC_E_UNAVAILABLE ? 2 : 0);
  }
}

static void pauses_are_random_below_a_bound(void **state) {
  (void)state;
  static const int64_t bounds_ms[] = {10, 30, 70, 70};
  int short_ones[4] = {0};
  for (int run = 0; run < RUNS; run++) {
    retry self = retry_of(&safe, 0);
    for (int i = 0; i < 4; i++) {
      int64_t at_ns, before = platform_now_ns();
      assert_true(plan(&self, PYPROC_E_ABORTED, true, &at_ns));
      assert_true(at_ns >= before);
      assert_true(at_ns - platform_now_ns() <= bounds_ms[i] * NS_PER_MS);
      short_ones[i] += at_ns - platform_now_ns() <= bounds_ms[i] * NS_PER_MS / 2;
    }
    retry_clear(&self);
  }
  assert_true(short_ones[0] > 0 && short_ones[1] > 0 && short_ones[2] > 0 && short_ones[3] > 0);
}

static void bound_grows_to_its_limit(void **state) {
  (void)state;
  retry self = retry_of(&safe, 0);
  int64_t at_ns;
  assert_int_equal(self.bound_ms, 10);
  for (int i = 0; i < 4; i++) {
    static const int64_t bounds_ms[] = {30, 70, 70, 70};
    assert_true(plan(&self, PYPROC_E_ABORTED, true, &at_ns));
    assert_int_equal(self.bound_ms, bounds_ms[i]);
  }
  retry_clear(&self);
}

static void none_that_could_not_start_before_the_deadline(void **state) {
  (void)state;
  int64_t at_ns;
  for (int run = 0; run < RUNS; run++) {
    retry self = retry_of(&safe, 0);
    self.deadline_ns = platform_now_ns() + 5 * NS_PER_MS;
    if (plan(&self, PYPROC_E_UNAVAILABLE, true, &at_ns)) assert_true(at_ns < self.deadline_ns);
    self.deadline_ns = platform_now_ns();
    assert_false(plan(&self, PYPROC_E_UNAVAILABLE, true, &at_ns));
    retry_clear(&self);
  }
}

static frame_block *new_frame(void) {
  frame_block *frame = frame_block_new(CALL_BODY_ENVELOPE);
  frame->id_offset = 7;
  frame->body_offset = 5;
  assert_true(buffer_append(&frame->bytes, "0123456789", 10));
  return frame;
}

static void renewed_call_has_bytes_of_its_own(void **state) {
  (void)state;
  struct call call;
  frame_block *frame = new_frame();
  call_init(&call, &lot, (call_method){.name = "m"}, frame, 5);
  retry self = {.deadline_ns = 9};
  call.attempts = 3;
  call.may_have_run = true;
  atomic_store(&call.done, true);
  assert_true(retry_renew(&self, &call));
  assert_ptr_equal(call.frame, frame); /* nobody else has it */
  assert_int_equal(call.attempts, 3);
  assert_int_equal(call.attempts_before, 3);
  assert_int_equal(call.deadline_ns, 9);
  assert_false(call.may_have_run);
  assert_false(atomic_load(&call.done));
  frame_block_ref(frame); /* a connection is about to write it */
  assert_true(retry_renew(&self, &call));
  assert_ptr_not_equal(call.frame, frame);
  assert_int_equal(call.frame->encoding, CALL_BODY_ENVELOPE);
  assert_int_equal(call.frame->id_offset, 7);
  assert_int_equal(call.frame->body_offset, 5);
  assert_int_equal(call.frame->bytes.size, 10);
  assert_memory_equal(call.frame->bytes.data, "0123456789", 10);
  assert_int_equal(atomic_load(&frame->references), 1);
  frame_block_unref(frame);
  call_clear(&call);
}

static void last_error_tells_of_all_attempts(void **state) {
  (void)state;
  struct call call;
  int64_t at_ns;
  call_init(&call, &lot, (call_method){.name = "m", .typed = &safe}, NULL, INT64_MAX);
  retry self;
  retry_init(&self, &call, 0);
  assert_true(plan(&self, PYPROC_E_UNAVAILABLE, true, &at_ns));
  assert_true(plan(&self, PYPROC_E_UNAVAILABLE, false, &at_ns));
  call.attempts = 4;
  pyproc_error *error = error_new(PYPROC_E_DEADLINE_EXCEEDED, "too late");
  retry_sum_up(&self, &call, error);
  assert_int_equal(pyproc_error_attempts(error), 4);
  assert_int_equal(pyproc_error_may_have_run(error), 1);
  assert_string_equal(pyproc_error_message(error), "too late; the attempt before failed: it failed");
  pyproc_error_free(error);
  error = retry_take_last(&self);
  assert_int_equal(pyproc_error_code(error), PYPROC_E_UNAVAILABLE);
  pyproc_error_free(error);
  retry_clear(&self);
  call_clear(&call);
}

static void range_of_the_option(void **state) {
  (void)state;
  pyproc_error *error = NULL;
  assert_int_equal(retry_check(0, NULL), 0);
  assert_int_equal(retry_check(10, NULL), 0);
  assert_int_equal(retry_check(11, NULL), PYPROC_E_INVALID_ARGUMENT);
  assert_int_equal(retry_check(-1, &error), PYPROC_E_INVALID_ARGUMENT);
  assert_string_equal(pyproc_error_message(error), "option max_attempts is -1; allowed are 0 to 10");
  pyproc_error_free(error);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(attempts_are_those_of_options_or_schema),
      cmocka_unit_test(only_what_did_not_run_or_is_idempotent),
      cmocka_unit_test(only_retryable_codes),
      cmocka_unit_test(pauses_are_random_below_a_bound),
      cmocka_unit_test(bound_grows_to_its_limit),
      cmocka_unit_test(none_that_could_not_start_before_the_deadline),
      cmocka_unit_test(renewed_call_has_bytes_of_its_own),
      cmocka_unit_test(last_error_tells_of_all_attempts),
      cmocka_unit_test(range_of_the_option),
  };
  lot_init(&lot);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
