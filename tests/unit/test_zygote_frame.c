/* What host and zygote say to each other; the answers are untrusted. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "wire/frame.h"
#include "zygote_frame.h"

static void a_fork_is_asked_for(void **state) {
  (void)state;
  static const uint8_t expected[] = {0,    0,    0,    52, /* length */
                                     1,    0,    0,    0,    0,   0,   0, 0,   0,   0, 0,   0,   0,   0,   0,   9,
                                     0,    0,    0,    0,    0,   0,   0, 0,                   /* header */
                                     0xff, 0xff, 0xff, 0xff, 0,   0,   0, 2,   0,   0, 0,   1, /* processor, counts */
                                     '/',  0,    's',  '.',  'p', 'y', 0, '-', 'x', 0, 'A', '=', '1', ' ', '2', 0};
  char *argv[] = {"s.py", "-x", NULL}, *envp[] = {"A=1 2", NULL};
  const zygote_request request = {.processor = -1, .cwd = "/", .argv = argv, .envp = envp};
  buffer out = {0};
  assert_true(zygote_frame_fork(&out, 9, &request));
  assert_int_equal(out.size, sizeof expected);
  assert_memory_equal(out.data, expected, sizeof expected);
  buffer_free(&out);
}

static void too_large_a_request_leaves_nothing(void **state) {
  (void)state;
  char *large = malloc(ZYGOTE_REQUEST_MAX);
  assert_non_null(large);
  memset(large, 'x', ZYGOTE_REQUEST_MAX - 1);
  large[ZYGOTE_REQUEST_MAX - 1] = '\0';
  char *argv[] = {"s.py", large, NULL}, *envp[] = {NULL};
  const zygote_request request = {.processor = 3, .cwd = "", .argv = argv, .envp = envp};
  buffer out = {0};
  assert_true(zygote_frame_reap(&out, 77));
  assert_int_equal(out.size, 28);
  assert_int_equal(out.data[4], ZYGOTE_REAP);
  assert_int_equal(wire_get64(out.data + 12), 77);
  assert_false(zygote_frame_fork(&out, 9, &request));
  assert_int_equal(out.size, 28);
  buffer_free(&out);
  free(large);
}

/* A frame with that body. Returns its size. */
static size_t make(uint8_t *to, int kind, uint16_t code, uint64_t id, const void *body, size_t size) {
  const wire_header header = {.kind = (uint8_t)kind, .code = code, .id = id};
  wire_put32(to, (uint32_t)(WIRE_HEADER_SIZE + size));
  wire_header_put(to + 4, &header);
  if (size > 0) memcpy(to + 28, body, size);
  return 28 + size;
}

static zygote_answer read_one(int kind, uint16_t code, const void *body, size_t size) {
  uint8_t frame[2048];
  zygote_answer answer;
  size_t whole = make(frame, kind, code, 5, body, size);
  for (size_t part = 0; part < whole; part++) assert_int_equal(zygote_frame_read(frame, part, &answer), 0);
  assert_int_equal(zygote_frame_read(frame, whole + 3, &answer), whole);
  assert_int_equal(answer.kind, kind);
  assert_int_equal(answer.id, 5);
  return answer;
}

static void assert_nonsense(int kind, const void *body, size_t size) {
  uint8_t frame[2048];
  zygote_answer answer;
  size_t whole = make(frame, kind, 0, 5, body, size);
  assert_int_equal(zygote_frame_read(frame, whole, &answer), -1);
}

static void answers_are_read(void **state) {
  (void)state;
  assert_true(read_one(ZYGOTE_READY, 1, NULL, 0).has_pidfds);
  assert_false(read_one(ZYGOTE_READY, 0, NULL, 0).has_pidfds);
  assert_int_equal(read_one(ZYGOTE_FORKED, 0, "\0\1\0\2", 4).pid, 65538);
  zygote_answer answer = read_one(ZYGOTE_NOT_FORKED, 11, "no\nprocess\0!", 12);
  assert_int_equal(answer.errnum, 11);
  assert_string_equal(answer.text, "no process !");
  assert_string_equal(read_one(ZYGOTE_UNFIT, 0, "threads", 7).text, "threads");
  answer = read_one(ZYGOTE_FAILED, 0, "{}", 2);
  assert_int_equal(answer.object_size, 2);
  read_one(ZYGOTE_RUNS, 0, NULL, 0);
}

static void a_long_reason_is_cut(void **state) {
  (void)state;
  char text[1500];
  memset(text, 'x', sizeof text);
  assert_int_equal(strlen(read_one(ZYGOTE_UNFIT, 0, text, sizeof text).text), ZYGOTE_TEXT_MAX - 1);
}

static void ends_are_read(void **state) {
  (void)state;
  uint8_t body[20] = {0};
  wire_put32(body, SIGSEGV);
  wire_put64(body + 4, 4096);
  wire_put64(body + 12, 12);
  zygote_answer answer = read_one(ZYGOTE_ENDED, 0, body, sizeof body);
  assert_true(answer.exit.known);
  assert_int_equal(answer.exit.signal, SIGSEGV);
  assert_int_equal(answer.exit.rss_bytes, 4096);
  assert_int_equal(answer.exit.cpu_ms, 12);
  wire_put32(body, 7 << 8);
  memset(body + 4, 0xff, 16); /* cannot be: it does not become negative */
  answer = read_one(ZYGOTE_ENDED, 0, body, sizeof body);
  assert_int_equal(answer.exit.signal, 0);
  assert_int_equal(answer.exit.exit_status, 7);
  assert_true(answer.exit.rss_bytes > 0 && answer.exit.cpu_ms > 0);
  wire_put32(body, 0xffffffff);
  answer = read_one(ZYGOTE_ENDED, 0, body, sizeof body);
  assert_false(answer.exit.known);
  assert_int_equal(answer.exit.rss_bytes, 0);
}

static void nonsense_is_refused(void **state) {
  (void)state;
  uint8_t frame[64] = {0};
  zygote_answer answer;
  assert_nonsense(ZYGOTE_FORK, NULL, 0);
  assert_nonsense(ZYGOTE_REAP, NULL, 0);
  assert_nonsense(10, NULL, 0);
  assert_nonsense(0, NULL, 0);
  assert_nonsense(ZYGOTE_FORKED, NULL, 0);
  assert_nonsense(ZYGOTE_FORKED, "\0\0\0\0", 4);
  assert_nonsense(ZYGOTE_FORKED, "\0\0\0\1", 4); /* its group would be everybody's */
  assert_nonsense(ZYGOTE_FORKED, "\xff\xff\xff\xff", 4);
  assert_nonsense(ZYGOTE_FORKED, "\0\0\0\2x", 5);
  assert_nonsense(ZYGOTE_ENDED, frame, 19);
  assert_nonsense(ZYGOTE_ENDED, frame, 21);
  wire_put32(frame, WIRE_HEADER_SIZE - 1);
  assert_int_equal(zygote_frame_read(frame, 4, &answer), -1);
  wire_put32(frame, ZYGOTE_ANSWER_MAX + 1);
  assert_int_equal(zygote_frame_read(frame, 4, &answer), -1);
  wire_put32(frame, ZYGOTE_ANSWER_MAX);
  assert_int_equal(zygote_frame_read(frame, 4, &answer), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_fork_is_asked_for), cmocka_unit_test(too_large_a_request_leaves_nothing),
      cmocka_unit_test(answers_are_read),    cmocka_unit_test(a_long_reason_is_cut),
      cmocka_unit_test(ends_are_read),       cmocka_unit_test(nonsense_is_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
