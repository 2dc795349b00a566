/* The memory that a worker leaves its stacks in. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "platform.h"
#include "stacks.h"

static void nothing_was_written(void **state) {
  (void)state;
  int fd = stacks_open();
  assert_true(fd >= 0);
  assert_null(stacks_read(fd));
  assert_null(stacks_read(-1));
  assert_int_equal(stacks_size(fd), 0);
  platform_close_fd(fd);
}

static void what_was_written_is_read_again_and_again(void **state) {
  (void)state;
  int fd = stacks_open();
  assert_int_equal(write(fd, "one\n", 4), 4);
  for (int i = 0; i < 2; i++) {
    char *text = stacks_read(fd);
    assert_string_equal(text, "one\n");
    free(text);
  }
  assert_int_equal(write(fd, "two\n", 4), 4); /* behind it */
  char *text = stacks_read(fd);
  assert_string_equal(text, "one\ntwo\n");
  free(text);
  assert_int_equal(stacks_size(fd), 8);
  platform_close_fd(fd);
}

static void it_is_bounded(void **state) {
  (void)state;
  static char block[3 * STACKS_SIZE];
  memset(block, 'x', sizeof block);
  int fd = stacks_open();
  for (int i = 0; i < 3; i++) {
    ssize_t written = write(fd, block, sizeof block);
    (void)written; /* fails, or is cut */
  }
  char *text = stacks_read(fd);
  assert_int_equal(strlen(text), STACKS_SIZE);
  free(text);
  platform_close_fd(fd);
}

static void a_stuck_handler_is_told_from_its_remark(void **state) {
  (void)state;
  assert_true(
      stacks_tell_of_stuck("pyproc_worker: hang still runs 100 ms after its call was given up (asked)\nThread"));
  assert_true(stacks_tell_of_stuck("pyproc_worker: hang still runs 1"));
  assert_false(stacks_tell_of_stuck("pyproc_worker: hang\nwho still runs here\n"));
  assert_false(stacks_tell_of_stuck("Fatal Python error: hang still runs\n"));
  assert_false(stacks_tell_of_stuck(""));
  assert_false(stacks_tell_of_stuck(NULL));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(nothing_was_written),
      cmocka_unit_test(what_was_written_is_read_again_and_again),
      cmocka_unit_test(it_is_bounded),
      cmocka_unit_test(a_stuck_handler_is_told_from_its_remark),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
