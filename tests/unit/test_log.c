/* Log queue, tail and stream: what is bounded, what is dropped and said to be, how output becomes lines. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "log.h"
#include "platform.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FFFD "\xEF\xBF\xBD"

enum { SEEN_MAX = 6000 };

/* What a callback saw. */
struct seen {
  size_t count;
  struct {
    int level;
    pid_t pid;
    char source[16];
    char *text;
  } lines[SEEN_MAX];
  log_queue *queue;
  bool said_in_callback;
};

static void see(const pyproc_log_record *record, void *userdata) {
  struct seen *self = userdata;
  assert_int_equal(record->size, sizeof *record);
  assert_true(self->count < SEEN_MAX);
  self->lines[self->count].level = record->level;
  self->lines[self->count].pid = record->worker_pid;
  snprintf(self->lines[self->count].source, sizeof self->lines[0].source, "%s", record->source);
  self->lines[self->count].text = strdup(record->text);
  self->count++;
  if (self->queue != NULL) self->said_in_callback = log_in_callback(self->queue);
}

static void clear(struct seen *self) {
  for (size_t i = 0; i < self->count; i++) free(self->lines[i].text);
  self->count = 0;
}

static int set_up(void **state) {
  *state = calloc(1, sizeof(struct seen));
  return *state == NULL ? -1 : 0;
}

static int tear_down(void **state) {
  clear(*state);
  free(*state);
  return 0;
}

static log_queue *queue_of(struct seen *seen, int64_t level, size_t records, size_t text) {
  log_queue_options options = {
      .level = level, .record_limit = records, .text_limit = text, .callback = see, .userdata = seen};
  log_queue *queue = log_queue_new(&options);
  assert_non_null(queue);
  seen->queue = queue;
  return queue;
}

static void deliver_all(log_queue *queue) {
  while (log_deliver(queue, 100)) {}
}

/* ---- queue ---- */

static void test_records_arrive_in_order_and_outside_the_callback_flag_is_down(void **state) {
  struct seen *seen = *state;
  log_queue *queue = queue_of(seen, PYPROC_LOG_DEBUG, 0, 0);
  log_put(queue, PYPROC_LOG_INFO, 7, "stdout", "one, not all", 3);
  log_write(queue, PYPROC_LOG_DEBUG, 0, "two %d", 2);
  assert_false(log_in_callback(queue));
  assert_true(log_deliver(queue, 1));
  assert_int_equal(seen->count, 1);
  assert_true(seen->said_in_callback);
  assert_false(log_in_callback(queue));
  assert_false(log_deliver(queue, 100));
  assert_int_equal(seen->count, 2);
  assert_string_equal(seen->lines[0].text, "one");
  assert_string_equal(seen->lines[0].source, "stdout");
  assert_int_equal(seen->lines[0].pid, 7);
  assert_int_equal(seen->lines[0].level, PYPROC_LOG_INFO);
  assert_string_equal(seen->lines[1].text, "two 2");
  assert_string_equal(seen->lines[1].source, "pyproc");
  assert_int_equal(log_dropped(queue), 0);
  log_queue_free(queue);
}

static void test_level_leaves_records_out(void **state) {
  struct seen *seen = *state;
  log_queue *queue = queue_of(seen, 0, 0, 0); /* INFO */
  assert_false(log_wanted(queue, PYPROC_LOG_DEBUG));
  assert_true(log_wanted(queue, PYPROC_LOG_INFO));
  log_write(queue, PYPROC_LOG_DEBUG, 0, "no");
  log_write(queue, PYPROC_LOG_INFO, 0, "yes");
  deliver_all(queue);
  assert_int_equal(seen->count, 1);
  assert_int_equal(log_dropped(queue), 0);
  log_queue_free(queue);
}

static void test_off_and_no_callback_take_nothing(void **state) {
  struct seen *seen = *state;
  log_queue *off = queue_of(seen, PYPROC_OFF, 0, 0);
  log_write(off, PYPROC_LOG_ERROR, 0, "no");
  assert_false(log_deliver(off, 10));
  assert_int_equal(seen->count, 0);
  log_queue_free(off);
  log_queue_options options = {.level = PYPROC_LOG_DEBUG};
  log_queue *silent = log_queue_new(&options);
  assert_false(log_wanted(silent, PYPROC_LOG_ERROR));
  log_write(silent, PYPROC_LOG_ERROR, 0, "no");
  assert_false(log_deliver(silent, 10));
  log_queue_free(silent);
}

static void test_full_queue_drops_counts_and_says_so(void **state) {
  struct seen *seen = *state;
  log_queue *queue = queue_of(seen, 0, 3, 0);
  for (int i = 0; i < 10; i++) log_write(queue, PYPROC_LOG_INFO, 0, "line %d", i);
  assert_int_equal(log_dropped(queue), 7);
  deliver_all(queue);
  assert_int_equal(seen->count, 4);
  assert_string_equal(seen->lines[2].text, "line 2");
  assert_string_equal(seen->lines[3].text, "7 log lines dropped");
  assert_string_equal(seen->lines[3].source, "pyproc");
  assert_int_equal(seen->lines[3].level, PYPROC_LOG_WARNING);
  deliver_all(queue);
  assert_int_equal(seen->count, 4);
  log_queue_free(queue);
}

static void test_notice_stands_where_the_lines_are_missing(void **state) {
  struct seen *seen = *state;
  log_queue *queue = queue_of(seen, 0, 3, 0);
  for (int i = 0; i < 5; i++) log_write(queue, PYPROC_LOG_INFO, 0, "line %d", i);
  log_deliver(queue, 2);
  log_write(queue, PYPROC_LOG_INFO, 0, "after");
  deliver_all(queue);
  assert_int_equal(seen->count, 5);
  assert_string_equal(seen->lines[2].text, "line 2");
  assert_string_equal(seen->lines[3].text, "2 log lines dropped");
  assert_string_equal(seen->lines[4].text, "after");
  log_queue_free(queue);
}

static void test_text_is_bounded(void **state) {
  struct seen *seen = *state;
  log_queue *queue = queue_of(seen, 0, 0, 10);
  log_put(queue, PYPROC_LOG_INFO, 0, "stdout", "12345678", 8);
  log_put(queue, PYPROC_LOG_INFO, 0, "stdout", "123", 3);
  log_put(queue, PYPROC_LOG_INFO, 0, "stdout", "12345678901", 11);
  assert_int_equal(log_dropped(queue), 2);
  deliver_all(queue);
  log_put(queue, PYPROC_LOG_INFO, 0, "stdout", "1234567890", 10);
  deliver_all(queue);
  assert_int_equal(seen->count, 3);
  assert_string_equal(seen->lines[1].text, "2 log lines dropped");
  assert_string_equal(seen->lines[2].text, "1234567890");
  log_queue_free(queue);
}

static void test_default_bounds_hold(void **state) {
  struct seen *seen = *state;
  log_queue *queue = queue_of(seen, 0, 0, 0);
  for (unsigned i = 0; i < LOG_RECORD_LIMIT + 5; i++) log_put(queue, PYPROC_LOG_INFO, 0, "stdout", "x", 1);
  assert_int_equal(log_dropped(queue), 5);
  deliver_all(queue);
  assert_int_equal(seen->count, LOG_RECORD_LIMIT + 1);
  log_queue_free(queue);
}

static void test_notice_is_not_below_the_level(void **state) {
  struct seen *seen = *state;
  log_queue *queue = queue_of(seen, PYPROC_LOG_ERROR, 1, 0);
  log_write(queue, PYPROC_LOG_ERROR, 0, "a");
  log_write(queue, PYPROC_LOG_ERROR, 0, "b");
  deliver_all(queue);
  assert_int_equal(seen->count, 2);
  assert_int_equal(seen->lines[1].level, PYPROC_LOG_ERROR);
  log_queue_free(queue);
}

static void test_own_lines_are_one_line_cut_and_clean(void **state) {
  struct seen *seen = *state;
  log_queue *queue = queue_of(seen, 0, 0, 0);
  char *long_text = malloc(5000);
  memset(long_text, 'x', 4999);
  long_text[4999] = '\0';
  log_write(queue, PYPROC_LOG_INFO, 0, "%s", long_text);
  log_write(queue, PYPROC_LOG_INFO, 0, "a\nb\xff");
  free(long_text);
  deliver_all(queue);
  assert_int_equal(strlen(seen->lines[0].text), 2047);
  assert_string_equal(seen->lines[1].text, "a b" FFFD);
  log_queue_free(queue);
}

static void count_wake(void *argument) {
  ++*(int *)argument;
}

static void test_wake_is_called_for_an_empty_queue_only(void **state) {
  struct seen *seen = *state;
  int wakes = 0;
  log_queue_options options = {.callback = see, .userdata = seen, .wake = count_wake, .wake_argument = &wakes};
  log_queue *queue = log_queue_new(&options);
  log_write(queue, PYPROC_LOG_INFO, 0, "a");
  log_write(queue, PYPROC_LOG_INFO, 0, "b");
  assert_int_equal(wakes, 1);
  deliver_all(queue);
  log_write(queue, PYPROC_LOG_DEBUG, 0, "left out");
  assert_int_equal(wakes, 1);
  log_write(queue, PYPROC_LOG_INFO, 0, "c");
  assert_int_equal(wakes, 2);
  log_queue_free(queue); /* with a record in it */
}

static void *write_many(void *argument) {
  for (int i = 0; i < 1000; i++) log_write(argument, PYPROC_LOG_INFO, 0, "line %d", i);
  return NULL;
}

static void test_many_threads_write_one_delivers(void **state) {
  struct seen *seen = *state;
  log_queue *queue = queue_of(seen, 0, 100, 0);
  pthread_t threads[4];
  for (int i = 0; i < 4; i++) assert_int_equal(pthread_create(&threads[i], NULL, write_many, queue), 0);
  for (int i = 0; i < 1000; i++) log_deliver(queue, 5);
  for (int i = 0; i < 4; i++) assert_int_equal(pthread_join(threads[i], NULL), 0);
  deliver_all(queue);
  uint64_t lines = 0;
  uint64_t said = 0;
  for (size_t i = 0; i < seen->count; i++) {
    unsigned long long dropped = 0;
    if (strncmp(seen->lines[i].text, "line ", 5) == 0)
      lines++;
    else if (sscanf(seen->lines[i].text, "%llu log lines dropped", &dropped) == 1)
      said += dropped;
  }
  assert_int_equal(lines + said, 4000);
  assert_int_equal(said, log_dropped(queue));
  log_queue_free(queue);
}

/* ---- stream ---- */

struct captured {
  int write_fd;
  log_tail *tail;
  log_stream *stream;
  log_queue *queue;
};

static struct captured capture(struct seen *seen) {
  struct captured made;
  int fds[2];
  assert_int_equal(platform_pipe(fds), 0);
  made.write_fd = fds[1];
  made.tail = log_tail_new();
  made.stream = log_stream_new(fds[0], PYPROC_LOG_INFO, "stdout", made.tail);
  made.queue = queue_of(seen, 0, 0, 0);
  log_stream_set_pid(made.stream, 42);
  return made;
}

static void release(struct captured *self) {
  platform_close_fd(self->write_fd);
  log_stream_free(self->stream);
  log_tail_free(self->tail);
  log_queue_free(self->queue);
}

static void send_text(struct captured *self, const char *text, size_t size) {
  assert_int_equal(write(self->write_fd, text, size), size);
}

static void read_all(struct captured *self) {
  while (log_stream_read(self->stream, self->queue) > 0) {}
  deliver_all(self->queue);
}

static void test_output_becomes_lines(void **state) {
  struct seen *seen = *state;
  struct captured self = capture(seen);
  assert_true(log_stream_read(self.stream, self.queue) < 0);
  send_text(&self, "one\r\n\nthr", 9);
  assert_int_equal(log_stream_read(self.stream, self.queue), 9);
  assert_true(log_stream_read(self.stream, self.queue) < 0);
  send_text(&self, "ee\nunfinished", 13);
  read_all(&self);
  assert_int_equal(seen->count, 3);
  assert_string_equal(seen->lines[0].text, "one");
  assert_string_equal(seen->lines[1].text, "");
  assert_string_equal(seen->lines[2].text, "three");
  assert_int_equal(seen->lines[2].pid, 42);
  assert_string_equal(seen->lines[2].source, "stdout");
  platform_close_fd(self.write_fd);
  self.write_fd = -1;
  assert_int_equal(log_stream_read(self.stream, self.queue), 0);
  assert_int_equal(log_stream_read(self.stream, self.queue), 0);
  deliver_all(self.queue);
  assert_int_equal(seen->count, 4);
  assert_string_equal(seen->lines[3].text, "unfinished");
  release(&self);
}

static void test_the_last_line_may_be_unfinished(void **state) {
  struct seen *seen = *state;
  struct captured self = capture(seen);
  send_text(&self, "half", 4);
  read_all(&self);
  assert_int_equal(seen->count, 0);
  log_stream_take_last(self.stream, self.queue);
  log_stream_take_last(self.stream, self.queue);
  deliver_all(self.queue);
  assert_int_equal(seen->count, 1);
  assert_string_equal(seen->lines[0].text, "half");
  release(&self);
}

static void test_long_lines_are_cut_between_characters(void **state) {
  struct seen *seen = *state;
  struct captured self = capture(seen);
  char *text = malloc(LOG_LINE_LIMIT + 8);
  memset(text, 'a', LOG_LINE_LIMIT - 1);
  memcpy(text + LOG_LINE_LIMIT - 1, "\xE2\x82\xAC!\n", 5); /* a euro sign across the limit */
  send_text(&self, text, LOG_LINE_LIMIT + 4);
  read_all(&self);
  assert_int_equal(seen->count, 2);
  assert_int_equal(strlen(seen->lines[0].text), LOG_LINE_LIMIT - 1);
  assert_string_equal(seen->lines[1].text, "\xE2\x82\xAC!");
  memset(text, 'b', LOG_LINE_LIMIT);
  send_text(&self, text, LOG_LINE_LIMIT);
  read_all(&self);
  send_text(&self, "\nnext\n", 6);
  read_all(&self);
  assert_int_equal(seen->count, 4); /* a line of just the limit makes no empty one */
  assert_int_equal(strlen(seen->lines[2].text), LOG_LINE_LIMIT);
  assert_string_equal(seen->lines[3].text, "next");
  free(text);
  release(&self);
}

static void expect_clean(struct captured *self, struct seen *seen, const char *text, size_t size,
                         const char *expected) {
  send_text(self, text, size);
  send_text(self, "\n", 1);
  read_all(self);
  assert_int_equal(seen->count, 1);
  assert_string_equal(seen->lines[0].text, expected);
  clear(seen);
}

static void test_what_is_no_utf8_is_replaced(void **state) {
  struct seen *seen = *state;
  struct captured self = capture(seen);
  expect_clean(&self, seen, "a\0b", 3, "a" FFFD "b");
  expect_clean(&self, seen, "gr\xC3\xBC\xC3\x9F \xF0\x9F\x90\x8D \xED\x9F\xBF \xEF\xBF\xBF \xF4\x8F\xBF\xBF", 24,
               "gr\xC3\xBC\xC3\x9F \xF0\x9F\x90\x8D \xED\x9F\xBF \xEF\xBF\xBF \xF4\x8F\xBF\xBF");
  expect_clean(&self, seen, "\xC0\x80", 2, FFFD FFFD);                   /* overlong */
  expect_clean(&self, seen, "\xE0\x80\x80", 3, FFFD FFFD FFFD);          /* overlong */
  expect_clean(&self, seen, "\xF0\x8F\xBF\xBF", 4, FFFD FFFD FFFD FFFD); /* overlong */
  expect_clean(&self, seen, "\xED\xA0\x80", 3, FFFD FFFD FFFD);          /* surrogate */
  expect_clean(&self, seen, "\xF4\x90\x80\x80", 4, FFFD FFFD FFFD FFFD); /* above U+10FFFF */
  expect_clean(&self, seen, "\xF5z\xFF\x80", 4, FFFD "z" FFFD FFFD);
  expect_clean(&self, seen, "x\xE2\x82", 3, "x" FFFD FFFD); /* cut off */
  expect_clean(&self, seen, "\xE2(\xA1", 3, FFFD "(" FFFD);
  release(&self);
}

static void test_one_read_is_bounded(void **state) {
  struct seen *seen = *state;
  struct captured self = capture(seen);
  char text[1024];
  memset(text, 'x', sizeof text);
  text[1023] = '\n';
  assert_int_equal(platform_set_nonblocking(self.write_fd), 0);
  size_t sent = 0;
  size_t got = 0;
  while (sent < 4 * LOG_READ_LIMIT) {
    ssize_t written = write(self.write_fd, text, sizeof text);
    if (written > 0) {
      sent += (size_t)written;
      continue;
    }
    int taken = log_stream_read(self.stream, self.queue);
    assert_true(taken > 0 && (size_t)taken <= LOG_READ_LIMIT);
    got += (size_t)taken;
  }
  for (int taken; (taken = log_stream_read(self.stream, self.queue)) > 0;) got += (size_t)taken;
  assert_int_equal(got, sent);
  deliver_all(self.queue);
  assert_int_equal(seen->count, sent / sizeof text);
  release(&self);
}

static void test_without_a_queue_the_tail_is_filled(void **state) {
  struct captured self = capture(*state);
  send_text(&self, "last words\n", 11);
  assert_int_equal(log_stream_read(self.stream, NULL), 11);
  char *text = log_tail_text(self.tail);
  assert_string_equal(text, "last words");
  free(text);
  release(&self);
}

struct reader {
  struct captured *captured;
  atomic_bool over;
};

static void *read_until_over(void *argument) {
  struct reader *self = argument;
  while (!atomic_load(&self->over)) {
    log_stream_read(self->captured->stream, self->captured->queue);
    platform_yield();
  }
  return NULL;
}

static void test_several_threads_read_one_stream(void **state) {
  struct seen *seen = *state;
  struct captured self = capture(seen);
  struct reader reader = {.captured = &self};
  pthread_t threads[3];
  for (int i = 0; i < 3; i++) assert_int_equal(pthread_create(&threads[i], NULL, read_until_over, &reader), 0);
  for (int i = 0; i < 500; i++) {
    char text[32];
    send_text(&self, text, (size_t)snprintf(text, sizeof text, "line %d\n", i));
  }
  platform_close_fd(self.write_fd);
  self.write_fd = -1;
  while (log_stream_read(self.stream, self.queue) != 0) platform_yield();
  atomic_store(&reader.over, true);
  for (int i = 0; i < 3; i++) assert_int_equal(pthread_join(threads[i], NULL), 0);
  deliver_all(self.queue);
  assert_int_equal(seen->count, 500);
  for (int i = 0; i < 500; i++) {
    char text[32];
    snprintf(text, sizeof text, "line %d", i);
    assert_string_equal(seen->lines[i].text, text);
  }
  release(&self);
}

/* ---- tail ---- */

static void test_tail_keeps_the_last_lines(void **state) {
  (void)state;
  log_tail *tail = log_tail_new();
  char *text = log_tail_text(tail);
  assert_string_equal(text, "");
  free(text);
  for (int i = 0; i < 40; i++) {
    char line[16];
    log_tail_add(tail, line, (size_t)snprintf(line, sizeof line, "line %d", i));
  }
  text = log_tail_text(tail);
  assert_int_equal(strncmp(text, "line 8\nline 9\n", 14), 0);
  assert_string_equal(text + strlen(text) - 8, "\nline 39");
  free(text);
  log_tail_free(tail);
  log_tail_free(NULL);
}

static void test_tail_is_bounded_in_bytes(void **state) {
  (void)state;
  log_tail *tail = log_tail_new();
  char *line = malloc(3 * LOG_TAIL_BYTES);
  memset(line, 'a', 3000);
  for (int i = 0; i < 5; i++) {
    line[0] = (char)('0' + i);
    log_tail_add(tail, line, 3000);
  }
  char *text = log_tail_text(tail);
  assert_int_equal(strlen(text), 6001);
  assert_int_equal(text[0], '3');
  free(text);
  for (size_t i = 0; i < LOG_TAIL_BYTES; i++) memcpy(line + 3 * i, FFFD, 3);
  log_tail_add(tail, line, 3 * LOG_TAIL_BYTES);
  text = log_tail_text(tail);
  assert_in_range(strlen(text), LOG_TAIL_BYTES - 3, LOG_TAIL_BYTES - 1);
  assert_int_equal(strncmp(text, FFFD, 3), 0);
  log_tail_add(tail, "end", 3);
  free(text);
  text = log_tail_text(tail);
  assert_string_equal(text, "end");
  free(text);
  free(line);
  log_tail_free(tail);
}

/* ---- the ready callback ---- */

static void test_to_stderr_writes_one_line(void **state) {
  (void)state;
  int fds[2];
  char text[256] = {0};
  assert_int_equal(platform_pipe(fds), 0);
  int saved = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
  fflush(stderr);
  dup2(fds[1], STDERR_FILENO);
  pyproc_log_record record = {
      .size = sizeof record, .level = PYPROC_LOG_WARNING, .worker_pid = 12, .source = "stderr", .text = "oh no"};
  pyproc_log_to_stderr(&record, NULL);
  record.worker_pid = 0;
  record.level = PYPROC_LOG_ERROR;
  record.source = "pyproc";
  pyproc_log_to_stderr(&record, NULL);
  dup2(saved, STDERR_FILENO);
  close(saved);
  close(fds[1]);
  assert_true(read(fds[0], text, sizeof text - 1) > 0);
  close(fds[0]);
  assert_string_equal(text, "pyproc: [12] warning stderr: oh no\npyproc: error pyproc: oh no\n");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(test_records_arrive_in_order_and_outside_the_callback_flag_is_down),
      TEST(test_level_leaves_records_out),
      TEST(test_off_and_no_callback_take_nothing),
      TEST(test_full_queue_drops_counts_and_says_so),
      TEST(test_notice_stands_where_the_lines_are_missing),
      TEST(test_text_is_bounded),
      TEST(test_default_bounds_hold),
      TEST(test_notice_is_not_below_the_level),
      TEST(test_own_lines_are_one_line_cut_and_clean),
      TEST(test_wake_is_called_for_an_empty_queue_only),
      TEST(test_many_threads_write_one_delivers),
      TEST(test_output_becomes_lines),
      TEST(test_the_last_line_may_be_unfinished),
      TEST(test_long_lines_are_cut_between_characters),
      TEST(test_what_is_no_utf8_is_replaced),
      TEST(test_one_read_is_bounded),
      TEST(test_without_a_queue_the_tail_is_filled),
      TEST(test_several_threads_read_one_stream),
      TEST(test_tail_keeps_the_last_lines),
      TEST(test_tail_is_bounded_in_bytes),
      TEST(test_to_stderr_writes_one_line),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
