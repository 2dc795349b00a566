/* Payloads out of bytes: cut at every place, large ones in blocks of their own, lengths that cannot be. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "buffer.h"
#include "receiver.h"
#include "wire/frame.h"

#include <stdlib.h>
#include <string.h>

enum { CAPACITY = 64 << 10, LIMIT = 1 << 20 };

/* A channel that gives `bytes`, at most `step` at a time, and then `end`. */
struct script {
  struct channel base;
  const uint8_t *bytes;
  size_t size, at, step;
  ssize_t end;
  bool asked_for_nothing; /* a read of 0 bytes would look like the end */
};

static ssize_t script_read(struct channel *channel, void *to, size_t size) {
  struct script *self = (struct script *)channel;
  if (size == 0) self->asked_for_nothing = true;
  size_t count = self->size - self->at;
  if (count == 0) return self->end;
  if (count > self->step) count = self->step;
  if (count > size) count = size;
  memcpy(to, self->bytes + self->at, count);
  self->at += count;
  return (ssize_t)count;
}

static const channel_ops script_ops = {.name = "script", .read = script_read};

static struct script script_of(const buffer *bytes, size_t step) {
  return (struct script){
      .base.ops = &script_ops, .bytes = bytes->data, .size = bytes->size, .step = step, .end = CHANNEL_AGAIN};
}

static uint8_t byte_at(size_t frame, size_t at) {
  return (uint8_t)(frame * 13 + at * 3 + (at >> 7));
}

static void append_frame(buffer *bytes, size_t frame, size_t size) {
  assert_true(buffer_reserve(bytes, WIRE_LENGTH_SIZE + size));
  wire_put32(bytes->data + bytes->size, (uint32_t)size);
  bytes->size += WIRE_LENGTH_SIZE;
  for (size_t i = 0; i < size; i++) bytes->data[bytes->size++] = byte_at(frame, i);
}

static void append_length(buffer *bytes, uint32_t length) {
  uint8_t text[WIRE_LENGTH_SIZE];
  wire_put32(text, length);
  assert_true(buffer_append(bytes, text, sizeof text));
}

static void check_payload(const struct payload *payload, size_t frame, size_t size) {
  assert_int_equal(payload->size, size);
  for (size_t i = 0; i < size; i++)
    if (payload->data[i] != byte_at(frame, i)) fail_msg("frame %zu differs at byte %zu", frame, i);
  if (payload->block != NULL) assert_ptr_equal(payload->block, payload->data);
  free(payload->block);
}

/* Receives the frames of the given sizes and nothing else. */
static void receive_all(struct receiver *receiver, struct script *script, const size_t *sizes, size_t count) {
  size_t frame = 0;
  for (;;) {
    struct payload payload;
    int more;
    while ((more = receiver_next(receiver, LIMIT, &payload)) > 0) {
      assert_true(frame < count);
      check_payload(&payload, frame, sizes[frame]);
      frame++;
    }
    assert_int_equal(more, 0);
    ssize_t got = receiver_fill(receiver, &script->base);
    if (got < 0) {
      assert_int_equal(got, CHANNEL_AGAIN);
      break;
    }
  }
  assert_int_equal(frame, count);
  assert_int_equal(script->at, script->size);
  assert_false(script->asked_for_nothing);
}

static void frames_cut_everywhere(void **state) {
  (void)state;
  static const size_t sizes[] = {1, 2, 24, 1, 300, 5};
  enum { COUNT = sizeof sizes / sizeof *sizes };
  buffer bytes = {0};
  struct receiver receiver;
  for (size_t i = 0; i < COUNT; i++) append_frame(&bytes, i, sizes[i]);
  assert_true(receiver_init(&receiver));
  for (size_t step = 1; step <= bytes.size; step++) {
    struct script script = script_of(&bytes, step);
    receive_all(&receiver, &script, sizes, COUNT);
  }
  receiver_free(&receiver);
  buffer_free(&bytes);
}

/* Two reads, split at every byte. */
static void one_split_at_every_byte(void **state) {
  (void)state;
  static const size_t sizes[] = {40, 1, 90};
  buffer bytes = {0};
  struct receiver receiver;
  for (size_t i = 0; i < 3; i++) append_frame(&bytes, i, sizes[i]);
  assert_true(receiver_init(&receiver));
  for (size_t split = 1; split < bytes.size; split++) {
    struct script script = script_of(&bytes, split);
    size_t frame = 0;
    for (int reads = 0; reads < 2; reads++) {
      struct payload payload;
      assert_true(receiver_fill(&receiver, &script.base) > 0);
      script.step = bytes.size;
      while (receiver_next(&receiver, LIMIT, &payload) == 1) {
        check_payload(&payload, frame, sizes[frame]);
        frame++;
      }
    }
    assert_int_equal(frame, 3);
  }
  receiver_free(&receiver);
  buffer_free(&bytes);
}

/* Sizes around those where a frame no longer fits, at many offsets. */
static void frames_around_the_capacity(void **state) {
  (void)state;
  static const size_t steps[] = {1000, 4093, CAPACITY / 2, CAPACITY, SIZE_MAX};
  static const size_t sizes[] = {CAPACITY - 5,
                                 CAPACITY - 4,
                                 CAPACITY - 3,
                                 CAPACITY,
                                 CAPACITY + 1,
                                 1,
                                 CAPACITY / 2,
                                 3,
                                 CAPACITY / 2,
                                 CAPACITY * 3,
                                 7,
                                 CAPACITY / 2 - 4,
                                 CAPACITY / 2,
                                 CAPACITY - 4,
                                 CAPACITY - 4,
                                 2,
                                 LIMIT,
                                 1};
  enum { COUNT = sizeof sizes / sizeof *sizes };
  buffer bytes = {0};
  struct receiver receiver;
  for (size_t i = 0; i < COUNT; i++) append_frame(&bytes, i, sizes[i]);
  assert_true(receiver_init(&receiver));
  for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
    struct script script = script_of(&bytes, steps[i]);
    receive_all(&receiver, &script, sizes, COUNT);
  }
  receiver_free(&receiver);
  buffer_free(&bytes);
}

/* The length itself lies across the end of the memory, for each of its bytes. */
static void a_length_across_the_end(void **state) {
  (void)state;
  for (size_t left = 0; left <= WIRE_LENGTH_SIZE; left++) {
    const size_t sizes[] = {CAPACITY / 2 + 100, CAPACITY / 2 - 100 - 2 * WIRE_LENGTH_SIZE + WIRE_LENGTH_SIZE - left,
                            77};
    buffer bytes = {0};
    struct receiver receiver;
    for (size_t i = 0; i < 3; i++) append_frame(&bytes, i, sizes[i]);
    assert_true(receiver_init(&receiver));
    struct script script = script_of(&bytes, SIZE_MAX);
    receive_all(&receiver, &script, sizes, 3);
    receiver_free(&receiver);
    buffer_free(&bytes);
  }
}

static void a_block_of_its_own_is_the_callers(void **state) {
  (void)state;
  buffer bytes = {0};
  struct receiver receiver;
  struct payload payload;
  append_frame(&bytes, 0, CAPACITY * 2);
  append_frame(&bytes, 1, 10);
  assert_true(receiver_init(&receiver));
  struct script script = script_of(&bytes, SIZE_MAX);
  while (receiver_next(&receiver, LIMIT, &payload) == 0) assert_true(receiver_fill(&receiver, &script.base) > 0);
  assert_non_null(payload.block);
  assert_true(script.at < script.size); /* it did not read beyond its frame */
  receiver_free(&receiver);
  check_payload(&payload, 0, CAPACITY * 2); /* outlives the receiver */
  buffer_free(&bytes);
}

/* Refused as soon as the length is there, before anything is allocated for it. */
static void lengths_that_cannot_be(void **state) {
  (void)state;
  static const struct {
    uint32_t length;
    size_t limit;
    int result;
  } cases[] = {{0, LIMIT, RECEIVER_OVERSIZED},
               {LIMIT + 1, LIMIT, RECEIVER_OVERSIZED},
               {UINT32_MAX, LIMIT, RECEIVER_OVERSIZED},
               {0x80000000u, WIRE_FRAME_LIMIT_MAX, RECEIVER_OVERSIZED},
               {1025, 1024, RECEIVER_OVERSIZED},
               {1024, 1024, 0},
               {LIMIT, LIMIT, 0}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    buffer bytes = {0};
    struct receiver receiver;
    struct payload payload;
    append_length(&bytes, cases[i].length);
    assert_true(receiver_init(&receiver));
    struct script script = script_of(&bytes, 3);
    assert_int_equal(receiver_fill(&receiver, &script.base), 3);
    assert_int_equal(receiver_next(&receiver, cases[i].limit, &payload), 0);
    assert_int_equal(receiver_fill(&receiver, &script.base), 1);
    assert_int_equal(receiver_next(&receiver, cases[i].limit, &payload), cases[i].result);
    if (cases[i].result < 0) assert_null(receiver.block);
    receiver_free(&receiver);
    buffer_free(&bytes);
  }
}

/* What came before a bad length is still delivered. */
static void good_frames_before_a_bad_one(void **state) {
  (void)state;
  buffer bytes = {0};
  struct receiver receiver;
  struct payload payload;
  append_frame(&bytes, 0, 12);
  append_length(&bytes, 0);
  assert_true(receiver_init(&receiver));
  struct script script = script_of(&bytes, SIZE_MAX);
  assert_int_equal(receiver_fill(&receiver, &script.base), bytes.size);
  assert_int_equal(receiver_next(&receiver, LIMIT, &payload), 1);
  check_payload(&payload, 0, 12);
  assert_int_equal(receiver_next(&receiver, LIMIT, &payload), RECEIVER_OVERSIZED);
  receiver_free(&receiver);
  buffer_free(&bytes);
}

static void what_the_channel_says_is_passed_on(void **state) {
  (void)state;
  static const ssize_t ends[] = {CHANNEL_AGAIN, CHANNEL_END, CHANNEL_FAILED};
  buffer bytes = {0};
  append_length(&bytes, CAPACITY * 2);
  assert_true(buffer_append(&bytes, "abc", 3));
  for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
    struct receiver receiver;
    struct payload payload;
    assert_true(receiver_init(&receiver));
    struct script script = script_of(&bytes, SIZE_MAX);
    script.end = ends[i];
    script.size = 2; /* in the middle of a length */
    assert_int_equal(receiver_fill(&receiver, &script.base), 2);
    assert_int_equal(receiver_fill(&receiver, &script.base), ends[i]);
    assert_int_equal(receiver_next(&receiver, LIMIT, &payload), 0);
    script.size = bytes.size; /* in the middle of a block */
    assert_int_equal(receiver_fill(&receiver, &script.base), 5);
    assert_int_equal(receiver_next(&receiver, LIMIT, &payload), 0);
    assert_int_equal(receiver_fill(&receiver, &script.base), ends[i]);
    assert_int_equal(receiver_next(&receiver, LIMIT, &payload), 0);
    receiver_free(&receiver);
  }
  buffer_free(&bytes);
}

/* A new connection begins with nothing, whatever half frame the last one left. */
static void reset_forgets(void **state) {
  (void)state;
  static const size_t sizes[] = {100, CAPACITY + 9};
  static const size_t halves[] = {2, 50, 200};
  buffer bytes = {0};
  struct receiver receiver;
  append_frame(&bytes, 0, sizes[0]);
  append_frame(&bytes, 1, sizes[1]);
  assert_true(receiver_init(&receiver));
  for (size_t i = 0; i < sizeof halves / sizeof *halves; i++) {
    struct payload payload;
    struct script script = script_of(&bytes, SIZE_MAX);
    script.size = halves[i];
    assert_int_equal(receiver_fill(&receiver, &script.base), halves[i]);
    while (receiver_next(&receiver, LIMIT, &payload) == 1) free(payload.block);
    receiver_reset(&receiver);
    script = script_of(&bytes, SIZE_MAX);
    receive_all(&receiver, &script, sizes, 2);
  }
  receiver_free(&receiver);
  buffer_free(&bytes);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(frames_cut_everywhere),
      cmocka_unit_test(one_split_at_every_byte),
      cmocka_unit_test(frames_around_the_capacity),
      cmocka_unit_test(a_length_across_the_end),
      cmocka_unit_test(a_block_of_its_own_is_the_callers),
      cmocka_unit_test(lengths_that_cannot_be),
      cmocka_unit_test(good_frames_before_a_bad_one),
      cmocka_unit_test(what_the_channel_says_is_passed_on),
      cmocka_unit_test(reset_forgets),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
