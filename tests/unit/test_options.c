/* The user's options: bounds of each, what 0, PYPROC_OFF and PYPROC_UNLIMITED mean, sizes of other versions. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "options.h"
#include "wire/frame.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static pyproc_pool_options given(void) {
  pyproc_pool_options options = PYPROC_POOL_OPTIONS_INIT;
  options.script = "worker.py";
  return options;
}

/* Checks the failure: its code, its text, and that nothing is left behind. */
static void refuse(const pyproc_pool_options *options, int code, const char *first, const char *second) {
  struct options copy;
  pyproc_error *error = NULL;
  assert_int_equal(options_copy(&copy, options, &error), code);
  assert_int_equal(pyproc_error_code(error), code);
  if (strstr(pyproc_error_message(error), first) == NULL || strstr(pyproc_error_message(error), second) == NULL)
    fail_msg("neither \"%s\" nor \"%s\" in: %s", first, second, pyproc_error_message(error));
  pyproc_error_free(error);
  assert_int_equal(options_copy(&copy, options, NULL), code);
}

static struct options accept(const pyproc_pool_options *options) {
  struct options copy;
  pyproc_error *error = NULL;
  if (options_copy(&copy, options, &error) < 0) fail_msg("%s", pyproc_error_message(error));
  assert_null(error);
  return copy;
}

/* A relative script is the host's, whatever option cwd says. */
static void assert_in_folder_of_host(const char *path, const char *name) {
  char expected[4096];
  assert_non_null(getcwd(expected, sizeof expected - 64));
  strcat(strcat(expected, "/"), name);
  assert_string_equal(path, expected);
}

static void an_absolute_script_stays_as_it_is(void **state) {
  (void)state;
  pyproc_pool_options options = given();
  options.script = "/srv/../srv/worker.py";
  struct options copy = accept(&options);
  assert_string_equal(copy.script, "/srv/../srv/worker.py");
  options_free(&copy);
}

static void defaults(void **state) {
  (void)state;
  unsetenv("PYPROC_PYTHON");
  pyproc_pool_options options = given();
  struct options copy = accept(&options);
  assert_in_folder_of_host(copy.script, "worker.py");
  assert_string_equal(copy.python, "python3");
  assert_null(copy.cwd);
  assert_null(copy.args);
  assert_null(copy.env);
  assert_null(copy.services);
  assert_ptr_equal(copy.codec, &codec_protobuf);
  assert_true(copy.workers >= 1);
  assert_true(copy.call_timeout_ms == 60000); /* every call has a deadline */
  assert_true(copy.frame_limit == WIRE_FRAME_LIMIT_DEFAULT);
  assert_true(copy.queue_limit > 0);
  assert_true(copy.start_timeout_ms > 0);
  assert_true(copy.spin_ns > 0);
  assert_true(copy.log_level == PYPROC_LOG_INFO);
  assert_null(copy.log);
  assert_null(copy.event);
  options_free(&copy);
  assert_null(copy.script);
}

/* One numeric option: its bounds, and what the special values become (-1: refused). */
struct number {
  const char *name;
  size_t from, to;
  int64_t lowest, highest, scale, off, unlimited;
};

#define NUMBER(option, member) #option, offsetof(pyproc_pool_options, option), offsetof(struct options, member)
enum { REFUSED = -99 };

static const struct number numbers[] = {
    {NUMBER(workers, workers), 1, 1024, 1, REFUSED, REFUSED},
    {NUMBER(max_in_flight, max_in_flight), 1, 4096, 1, REFUSED, REFUSED},
    {NUMBER(queue_limit, queue_limit), 1, INT32_MAX, 1, 0, INT64_MAX},
    {NUMBER(start_timeout_ms, start_timeout_ms), 1, 86400000, 1, REFUSED, REFUSED},
    {NUMBER(call_timeout_ms, call_timeout_ms), 1, INT64_MAX, 1, REFUSED, REFUSED},
    {NUMBER(cancel_grace_ms, cancel_grace_ms), 1, 86400000, 1, REFUSED, REFUSED},
    {NUMBER(drain_timeout_ms, drain_timeout_ms), 1, 86400000, 1, 0, REFUSED},
    {NUMBER(spin_us, spin_ns), 1, 1000000, 1000, 0, REFUSED},
    {NUMBER(frame_limit_bytes, frame_limit), 1024, 0x7fffffff, 1, REFUSED, REFUSED},
    {NUMBER(max_streams, max_streams), 1, 1024, 1, REFUSED, REFUSED},
    {NUMBER(stream_window_bytes, stream_window), 4096, 1 << 30, 1, REFUSED, REFUSED},
    {NUMBER(stream_idle_timeout_ms, stream_idle_timeout_ms), 1, 86400000, 1, INT64_MAX, REFUSED},
    {NUMBER(shm_ring_bytes, ring_bytes), 4096, 1 << 30, 1, REFUSED, REFUSED},
    {NUMBER(log_level, log_level), PYPROC_LOG_DEBUG, PYPROC_LOG_ERROR, 1, PYPROC_OFF, REFUSED},
};

static void check_number(const struct number *number, int64_t value, int64_t expected) {
  pyproc_pool_options options = given();
  char text[32];
  int64_t got;
  memcpy((char *)&options + number->from, &value, sizeof value);
  snprintf(text, sizeof text, "%lld", (long long)value);
  if (expected == REFUSED) {
    refuse(&options, PYPROC_E_INVALID_ARGUMENT, number->name, text);
    return;
  }
  struct options copy = accept(&options);
  memcpy(&got, (char *)&copy + number->to, sizeof got);
  if (got != expected) fail_msg("%s %s became %lld", number->name, text, (long long)got);
  options_free(&copy);
}

static void bounds(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
    const struct number *number = &numbers[i];
    check_number(number, number->lowest, number->lowest * number->scale);
    check_number(number, number->highest, number->highest * number->scale);
    if (number->lowest > 1) check_number(number, number->lowest - 1, REFUSED);
    if (number->highest < INT64_MAX) check_number(number, number->highest + 1, REFUSED);
    if (number->highest < INT64_MAX) check_number(number, INT64_MAX, REFUSED);
    check_number(number, PYPROC_OFF, number->off);
    check_number(number, PYPROC_UNLIMITED, number->unlimited);
    check_number(number, -3, REFUSED);
    check_number(number, INT64_MIN, REFUSED);
  }
}

static void modules_to_preload(void **state) {
  (void)state;
  static const char *const bad[] = {"", " ", ",", "a,", ",a", "a,,b", "a b", "a;b", "a, ", "a\n", "-c", "a/b"};
  static char longest[4097];
  pyproc_pool_options options = given();
  options.preload = " numpy,\tsklearn.svm , _x9 ";
  struct options copy = accept(&options);
  assert_string_equal(copy.preload, "numpy,sklearn.svm,_x9");
  options_free(&copy);
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    options.preload = bad[i];
    refuse(&options, PYPROC_E_INVALID_ARGUMENT, "option preload", "numpy,pandas");
  }
  memset(longest, 'm', 4096);
  options.preload = longest;
  refuse(&options, PYPROC_E_INVALID_ARGUMENT, "option preload", "4095");
  longest[4095] = '\0';
  copy = accept(&options);
  assert_string_equal(copy.preload, longest);
  options_free(&copy);
  options.preload = "numpy";
  options.handshake = "none";
  refuse(&options, PYPROC_E_INVALID_ARGUMENT, "preload", "handshake");
  options = (pyproc_pool_options){.size = sizeof options, .target = "unix:/x", .preload = "numpy"};
  refuse(&options, PYPROC_E_INVALID_ARGUMENT, "preload", "target");
}

static void handshakes(void **state) {
  (void)state;
  static const pyproc_service *const services[] = {NULL};
  pyproc_pool_options options = given();
  options.handshake = "auto";
  struct options copy = accept(&options);
  assert_false(copy.bare_workers);
  assert_ptr_equal(copy.codec, &codec_protobuf);
  options_free(&copy);
  options.handshake = "none";
  copy = accept(&options);
  assert_true(copy.bare_workers);
  assert_ptr_equal(copy.codec, &codec_json_bare);
  options_free(&copy);
  options.protocol = "json";
  copy = accept(&options);
  assert_ptr_equal(copy.codec, &codec_json_bare);
  options_free(&copy);
  options.protocol = "protobuf";
  refuse(&options, PYPROC_E_INVALID_ARGUMENT, "option protocol is \"protobuf\"", "option handshake is \"none\"");
  options.protocol = NULL;
  options.services = services;
  refuse(&options, PYPROC_E_INVALID_ARGUMENT, "option services", "option handshake is \"none\"");
  options.services = NULL;
  options.handshake = "secret";
  refuse(&options, PYPROC_E_INVALID_ARGUMENT, "option handshake", "secret");
}

static void protocols_and_channels(void **state) {
  (void)state;
  pyproc_pool_options options = given();
  options.protocol = "json";
  options.channel = "uds";
  struct options copy = accept(&options);
  assert_ptr_equal(copy.codec, &codec_json);
  options_free(&copy);
  options.protocol = "protobuf";
  options.channel = "auto";
  copy = accept(&options);
  assert_ptr_equal(copy.codec, &codec_protobuf);
  options_free(&copy);
  options.protocol = "carrier pigeon";
  refuse(&options, PYPROC_E_INVALID_ARGUMENT, "protocol", "carrier pigeon");
  options.protocol = "";
  refuse(&options, PYPROC_E_INVALID_ARGUMENT, "protocol", "protobuf");
  options.protocol = NULL;
  options.channel = "tcp";
  refuse(&options, PYPROC_E_INVALID_ARGUMENT, "channel", "tcp");
}

static void check_channel(const char *channel, channel_choice expected) {
  pyproc_pool_options options = given();
  options.channel = channel;
  struct options copy = accept(&options);
  assert_int_equal(copy.channel, expected);
  options_free(&copy);
}

static void shared_memory(void **state) {
  (void)state;
  pyproc_pool_options options = given();
#ifdef PYPROC_PLATFORM_LINUX
  const bool has_it = true;
#else
  const bool has_it = false;
#endif
  check_channel(NULL, has_it ? CHANNEL_CHOICE_AUTO : CHANNEL_CHOICE_UDS);
  check_channel("auto", has_it ? CHANNEL_CHOICE_AUTO : CHANNEL_CHOICE_UDS);
  check_channel("uds", CHANNEL_CHOICE_UDS);
  options.channel = "shm";
  if (!has_it) {
    refuse(&options, PYPROC_E_UNIMPLEMENTED, "option channel", "needs Linux");
    return;
  }
  check_channel("shm", CHANNEL_CHOICE_SHM);
  options.protocol = "grpc";
  refuse(&options, PYPROC_E_INVALID_ARGUMENT, "options channel and protocol", "no shared memory");
  options.protocol = NULL;
  options.handshake = "none";
  refuse(&options, PYPROC_E_INVALID_ARGUMENT, "options channel and handshake", "no shared memory");
  options = given();
  options.shm_ring_bytes = 5000;
  refuse(&options, PYPROC_E_INVALID_ARGUMENT, "option shm_ring_bytes is 5000", "power of two");
}

static void texts_are_copied(void **state) {
  (void)state;
  char script[] = "a.py", python[] = "py", cwd[] = "/tmp", arg[] = "--x", env[] = "A=b=c";
  const char *args[] = {arg, "", NULL}, *envs[] = {env, "EMPTY=", NULL};
  const pyproc_service *services[] = {NULL};
  pyproc_pool_options options = given();
  options.script = script;
  options.python = python;
  options.cwd = cwd;
  options.args = args;
  options.env = envs;
  options.services = services;
  struct options copy = accept(&options);
  script[0] = python[0] = cwd[0] = arg[0] = env[0] = '?';
  args[1] = envs[1] = NULL;
  assert_in_folder_of_host(copy.script, "a.py");
  assert_string_equal(copy.python, "py");
  assert_string_equal(copy.cwd, "/tmp");
  assert_string_equal(copy.args[0], "--x");
  assert_string_equal(copy.args[1], "");
  assert_null(copy.args[2]);
  assert_string_equal(copy.env[0], "A=b=c");
  assert_string_equal(copy.env[1], "EMPTY=");
  assert_null(copy.env[2]);
  assert_ptr_equal(copy.services, services);
  options_free(&copy);
}

static void which_python(void **state) {
  (void)state;
  pyproc_pool_options options = given();
  setenv("PYPROC_PYTHON", "/opt/python", 1);
  struct options copy = accept(&options);
  assert_string_equal(copy.python, "/opt/python");
  options_free(&copy);
  options.python = "mine";
  copy = accept(&options);
  assert_string_equal(copy.python, "mine");
  options_free(&copy);
  options.python = NULL;
  setenv("PYPROC_PYTHON", "", 1);
  copy = accept(&options);
  assert_string_equal(copy.python, "python3");
  options_free(&copy);
  unsetenv("PYPROC_PYTHON");
}

static void texts_that_cannot_be(void **state) {
  (void)state;
  static const char *const bad[] = {"NAME", "=value", ""};
  pyproc_pool_options options = given();
  options.script = NULL;
  refuse(&options, PYPROC_E_INVALID_ARGUMENT, "script", "missing");
  options.script = "";
  refuse(&options, PYPROC_E_INVALID_ARGUMENT, "script", "missing");
  refuse(NULL, PYPROC_E_INVALID_ARGUMENT, "options", "NULL");
  for (size_t i = 0; i < 3; i++) {
    const char *env[] = {"GOOD=1", bad[i], NULL};
    options = given();
    options.env = env;
    refuse(&options, PYPROC_E_INVALID_ARGUMENT, "env", "NAME=value");
  }
}

/* A list without an end is not followed for ever. */
static void lists_are_bounded(void **state) {
  (void)state;
  enum { MANY = 65538 };
  const char **list = calloc(MANY, sizeof *list);
  assert_non_null(list);
  for (size_t i = 0; i < MANY; i++) list[i] = "A=1";
  pyproc_pool_options options = given();
  options.args = list;
  refuse(&options, PYPROC_E_INVALID_ARGUMENT, "args", "65536");
  options.args = NULL;
  options.env = list;
  refuse(&options, PYPROC_E_INVALID_ARGUMENT, "env", "65536");
  free(list);
}

static void sizes_that_cannot_be(void **state) {
  (void)state;
  static const size_t sizes[] = {0, 1, sizeof(size_t) - 1, (64 << 10) + 1, SIZE_MAX};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    pyproc_pool_options options = given();
    options.size = sizes[i];
    refuse(&options, PYPROC_E_INVALID_ARGUMENT, "pyproc_pool_options.size", "_INIT");
  }
}

/* A program that was built against an older header: what it does not have is 0, and not read. */
static void smaller_structs(void **state) {
  (void)state;
  size_t size = offsetof(pyproc_pool_options, workers);
  pyproc_pool_options *older = malloc(size); /* so that reading beyond is seen by the sanitizer */
  pyproc_pool_options whole = given();
  assert_non_null(older);
  whole.size = size;
  memcpy(older, &whole, size);
  struct options copy = accept(older);
  assert_true(copy.call_timeout_ms == 60000);
  assert_null(copy.log);
  options_free(&copy);
  free(older);
}

/* A program that was built against a newer header, as long as it uses nothing of what is new. */
static void larger_structs(void **state) {
  (void)state;
  struct newer {
    pyproc_pool_options known;
    unsigned char tail[16];
  } newer = {.known = given()};
  newer.known.size = sizeof newer;
  struct options copy = accept(&newer.known);
  options_free(&copy);
  for (size_t i = 0; i < sizeof newer.tail; i++) {
    memset(newer.tail, 0, sizeof newer.tail);
    newer.tail[i] = 1;
    refuse(&newer.known, PYPROC_E_INVALID_ARGUMENT, "pyproc_pool_options", pyproc_version());
  }
  newer.known.size = offsetof(struct newer, tail); /* what is behind the size is not looked at */
  copy = accept(&newer.known);
  options_free(&copy);
}

static void any_sized_struct(void **state) {
  (void)state;
  struct sized {
    size_t size;
    int64_t first, second;
  } from = {.size = sizeof from, .first = 1, .second = 2}, to;
  assert_int_equal(options_copy_sized(&to, sizeof to, &from, "sized", NULL), PYPROC_OK);
  assert_true(to.first == 1 && to.second == 2);
  from.size = offsetof(struct sized, second);
  memset(&to, 0xee, sizeof to);
  assert_int_equal(options_copy_sized(&to, sizeof to, &from, "sized", NULL), PYPROC_OK);
  assert_true(to.first == 1 && to.second == 0);
  from.size = sizeof from; /* to a library that knows the first only */
  pyproc_error *error = NULL;
  assert_int_equal(options_copy_sized(&to, offsetof(struct sized, second), &from, "sized", &error),
                   PYPROC_E_INVALID_ARGUMENT);
  assert_non_null(strstr(pyproc_error_message(error), "sized"));
  pyproc_error_free(error);
  from.second = 0;
  assert_int_equal(options_copy_sized(&to, offsetof(struct sized, second), &from, "sized", NULL), PYPROC_OK);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(defaults),
      cmocka_unit_test(an_absolute_script_stays_as_it_is),
      cmocka_unit_test(bounds),
      cmocka_unit_test(modules_to_preload),
      cmocka_unit_test(handshakes),
      cmocka_unit_test(protocols_and_channels),
      cmocka_unit_test(shared_memory),
      cmocka_unit_test(texts_are_copied),
      cmocka_unit_test(which_python),
      cmocka_unit_test(texts_that_cannot_be),
      cmocka_unit_test(lists_are_bounded),
      cmocka_unit_test(sizes_that_cannot_be),
      cmocka_unit_test(smaller_structs),
      cmocka_unit_test(larger_structs),
      cmocka_unit_test(any_sized_struct),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
