/*
 * support.h - what the end-to-end tests share: pools over the worker scripts of this folder, calls and errors that are checked in one
 * line, collected logs, and the check after every test that no descriptor and no process is left.
 *
 * Tests are run by ctest, which sets PYPROC_PYTHON, PYPROC_TEST_GEN (the scripts and the generated Python modules) and
 * PYPROC_TEST_SOURCE. PYPROC_TEST_SCALE scales counts, in percent. PYPROC_TEST_VERBOSE shows the pools' logs.
 * PYPROC_TEST_CHANNEL is their option channel.
 * Only the main thread may assert; other threads count.
 */
#ifndef E2E_SUPPORT_H
#define E2E_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <pyproc.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "conformance.pyproc.h"
#include "kinds.pyproc.h"
#include "legacy.pyproc.h"
#include "quickstart.pyproc.h"

#define LENGTH(array) (sizeof(array) / sizeof *(array))
#define MIB ((size_t)1 << 20)

/* Whether a sanitizer watches: memory is then not only ours, addresses are scarce, and all takes longer. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { IS_SANITIZED = true };
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
enum { IS_SANITIZED = true };
#else
enum { IS_SANITIZED = false };
#endif
#else
enum { IS_SANITIZED = false };
#endif

/* One test, with the checks before and after it. */
#define E2E_TEST(function) cmocka_unit_test_setup_teardown(function, support_setup, support_teardown)
int support_setup(void **state);
int support_teardown(void **state);

/* main's end. PYPROC_TEST_FILTER chooses tests by name, with * and ?. */
#define RUN_TESTS(tests) RUN_TESTS_WITH(tests, NULL, NULL)
/* With a set-up and a teardown of the program. */
#define RUN_TESTS_WITH(tests, setup, teardown) \
  (cmocka_set_test_filter(getenv("PYPROC_TEST_FILTER")), cmocka_run_group_tests((tests), (setup), (teardown)))

/* The count, scaled; at least 1. */
int scaled(int count);

/* Sleeps; for things that have no event to wait for. */
void pause_ms(int ms);
int64_t now_ms(void);

/* Waits, at most a minute, until the condition holds; the test fails with its text if it never does. */
#define WAIT_FOR(condition) \
  do { \
    int64_t wait_until_ = now_ms() + 60000; \
    bool wait_held_; /* once: it may not hold for long */ \
    while (!(wait_held_ = (condition)) && now_ms() < wait_until_) pause_ms(2); \
    if (!wait_held_) fail_msg("not within a minute: %s", #condition); \
  } while (0)

/* A path in the folder of the scripts, or in the source tree; valid until the process ends. */
const char *gen_path(const char *name);
const char *source_path(const char *name);
/* The Python to test with. Start it by this name: one called just "python3" looks for its modules where PATH's lies. */
const char *test_python(void);

/* A new file name in a temporary folder of this test, which the teardown removes. */
const char *temporary_path(const char *name);
bool touch(const char *path);      /* makes an empty file; any thread */
char *read_file(const char *path); /* to free; NULL: there is none */

/* ---- pools ---- */

/* Options for a script of this folder: one worker. */
pyproc_pool_options options_for(const char *script);
pyproc_pool *open_pool(const pyproc_pool_options *options);

/* Opens, which must fail. */
pyproc_error *open_failure(const pyproc_pool_options *options);

/* ---- calls ---- */

/* The reply's body, to be freed with pyproc_reply_free; the test fails if the call does. */
char *call_json(pyproc_pool *pool, const char *method, const char *body);

/* Calls, and compares the body. */
void assert_answer(pyproc_pool *pool, const char *method, const char *body, const char *expected);

/* Calls, which must fail. `timeout_ms` 0: the default. */
pyproc_error *call_failure(pyproc_pool *pool, const char *method, const char *body, int64_t timeout_ms);

/* The number that a method answers. */
long call_number(pyproc_pool *pool, const char *method, const char *body);

/* ---- errors ---- */

enum { RAN = 1, NOT_RUN = 0 };

/* Checks code, part of the message, and may_have_run; frees the error. */
#define assert_error(error, code, part, may_have_run) \
  assert_error_at((error), (code), (part), (may_have_run), __FILE__, __LINE__)
void assert_error_at(pyproc_error *error, int code, const char *part, int may_have_run, const char *file, int line);

#define assert_contains(text, part) assert_contains_at((text), (part), __FILE__, __LINE__)
void assert_contains_at(const char *text, const char *part, const char *file, int line);

/* ---- logs ---- */

typedef struct log_lines {
  pthread_mutex_t lock;
  size_t count, size;
  char text[1 << 16]; /* "level source: text\n" …, what did not fit is only counted */
} log_lines;

void log_lines_init(log_lines *self);
pyproc_log_callback log_lines_callback; /* userdata: a log_lines */
bool log_lines_have(log_lines *self, const char *part);

/* ---- threads and processes ---- */

/* Runs the function on so many threads at once, each with its number and the argument, and waits for them. */
void run_threads(int count, void (*function)(int number, void *argument), void *argument);

/* Whether there is such a process that is no zombie. */
bool process_lives(long pid);

/* Whether valgrind runs this process. */
bool is_under_valgrind(void);

/* Whether it is a child of this process, also one that has ended and was not waited for. */
bool is_child(long pid);

/* A number of /proc/PID/status, "VmRSS:" in KiB or "Threads:"; -1: there is none. */
long status_of(long pid, const char *what);

/* Children of this process, ended ones that were not waited for among them; one of them. NULL is fine. */
int count_children(long *ret_one);

/* Descriptors that this process has open. */
int count_fds(void);
/* Whether this is root, and that user can run the script: a checkout in somebody's home may be closed to others. */
enum { NOBODY = 65534 };
bool nobody_can_run(const char *script);

/* The pid of the one worker of a pool over fault_worker.py. */
long worker_pid(pyproc_pool *pool);

#endif
