/* Options from files and from the environment: values, precedence, and that what is wrong is named with its place. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "option_table.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char path[] = "options_load.XXXXXX";

static int make_file(void **state) {
  (void)state;
  for (size_t i = 0; i < option_table_size; i++) { /* whoever runs the tests may have set some */
    char variable[OPTION_VARIABLE_SIZE];
    if (option_variable(&option_table[i], variable, sizeof variable)) unsetenv(variable);
  }
  int fd = mkstemp(path);
  return fd < 0 ? -1 : close(fd);
}

static int remove_file(void **state) {
  (void)state;
  return unlink(path);
}

/* Loads a file with that text. */
static int load(pyproc_pool_options *options, const char *text, pyproc_error **reterr) {
  FILE *file = fopen(path, "w");
  assert_non_null(file);
  assert_int_equal(fwrite(text, 1, strlen(text), file), strlen(text));
  assert_int_equal(fclose(file), 0);
  return pyproc_options_load(options, path, reterr);
}

static void take(pyproc_pool_options *options, const char *text) {
  pyproc_error *error = NULL;
  *options = (pyproc_pool_options)PYPROC_POOL_OPTIONS_INIT;
  if (load(options, text, &error) < 0) fail_msg("%s", pyproc_error_message(error));
  assert_null(error);
}

/* The message is "PATH:" and `expected`; nothing has changed. */
static void refuse(const char *text, const char *expected) {
  pyproc_pool_options options = PYPROC_POOL_OPTIONS_INIT, before = options;
  pyproc_error *error = NULL;
  char message[2048];
  snprintf(message, sizeof message, "%s:%s", path, expected);
  assert_int_equal(load(&options, text, &error), PYPROC_E_INVALID_ARGUMENT);
  assert_string_equal(pyproc_error_message(error), message);
  assert_memory_equal(&options, &before, sizeof options);
  pyproc_error_free(error);
}

static void a_file_sets_all_types(void **state) {
  (void)state;
  pyproc_pool_options options;
  take(&options,
       "# what we run\nscript: worker.py\nworkers: 3\nqueue_limit: unlimited\nspin_us: off\ncall_timeout_ms: default\n"
       "log_level: warning\nargs: [--model, \"a b\", 7]\nenv: {A: 1, B: \"x=y\"}\nprotocol: 'json'\n");
  assert_string_equal(options.script, "worker.py");
  assert_string_equal(options.protocol, "json");
  assert_int_equal(options.workers, 3);
  assert_int_equal(options.queue_limit, PYPROC_UNLIMITED);
  assert_int_equal(options.spin_us, PYPROC_OFF);
  assert_int_equal(options.call_timeout_ms, 0);
  assert_int_equal(options.log_level, PYPROC_LOG_WARNING);
  assert_string_equal(options.args[0], "--model");
  assert_string_equal(options.args[1], "a b");
  assert_string_equal(options.args[2], "7");
  assert_null(options.args[3]);
  assert_string_equal(options.env[0], "A=1");
  assert_string_equal(options.env[1], "B=x=y");
  assert_null(options.env[2]);
  pyproc_options_clear(&options);
  assert_null(options.script);
  assert_null(options.args);
  assert_null(options.loaded);
  assert_int_equal(options.workers, 3);
}

static void an_empty_file_sets_nothing(void **state) {
  (void)state;
  pyproc_pool_options options, before = PYPROC_POOL_OPTIONS_INIT;
  take(&options, "");
  assert_memory_equal(&options, &before, sizeof options);
  take(&options, "# nothing\n---\n");
  assert_memory_equal(&options, &before, sizeof options);
}

static void a_mode_is_octal(void **state) {
  (void)state;
  pyproc_pool_options options;
  static const char *const texts[] = {"umask: 027\n", "umask: 27\n", "umask: 0o27\n", "umask: \"027\"\n"};
  for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
    take(&options, texts[i]);
    assert_int_equal(options.umask, 027);
  }
  refuse("umask: 028\n", "1: umask: is \"028\"; allowed are octal digits, 001 to 777, default");
  refuse("umask: 1000\n", "1: umask: is \"1000\"; allowed are octal digits, 001 to 777, default");
  refuse("umask: 0o-7\n", "1: umask: is \"0o-7\"; allowed are octal digits, 001 to 777, default");
}

static void a_switch_has_words(void **state) {
  (void)state;
  pyproc_pool_options options;
  take(&options, "no_new_privs: yes\nclear_env: true\n");
  assert_int_equal(options.no_new_privs + options.clear_env, 2);
  take(&options, "no_new_privs: off\nclear_env: default\n");
  assert_int_equal(options.no_new_privs + options.clear_env, 0);
  take(&options, "no_new_privs: 1\nclear_env: 0\n");
  assert_int_equal(options.no_new_privs - options.clear_env, 1);
  refuse("clear_env: 2\n", "1: clear_env: is \"2\"; allowed are yes, no, default");
  refuse("clear_env: unlimited\n", "1: clear_env: is \"unlimited\"; allowed are yes, no, default");
}

static void env_may_be_a_list(void **state) {
  (void)state;
  pyproc_pool_options options;
  take(&options, "env:\n- A=1\n- B=\n");
  assert_string_equal(options.env[0], "A=1");
  assert_string_equal(options.env[1], "B=");
  pyproc_options_clear(&options);
}

static void what_is_wrong_is_named_with_its_line(void **state) {
  (void)state;
  refuse("workers: 4\nwrokers: 5\n", "2: wrokers: no such option; docs/options.md lists them");
  refuse("\n\nworkers: four\n", "3: workers: is \"four\"; allowed are 1 to 1024, default");
  refuse("workers: 1025\n", "1: workers: is \"1025\"; allowed are 1 to 1024, default");
  refuse("workers: 99999999999999999999\n", "1: workers: is \"99999999999999999999\"; allowed are 1 to 1024, default");
  refuse("workers: 4.5\n", "1: workers: is \"4.5\"; allowed are 1 to 1024, default");
  refuse("workers: ' 4'\n", "1: workers: is the text \" 4\"; write a number, without quotes");
  refuse("workers: off\n", "1: workers: is \"off\"; allowed are 1 to 1024, default");
  refuse("queue_limit: -3\n", "1: queue_limit: is \"-3\"; allowed are 1 to 2147483647, default, off, unlimited");
  refuse("log_level: loud\n", "1: log_level: is \"loud\"; allowed are debug, info, warning, error, off");
  refuse("workers: 1\nworkers: 2\n", "2: workers: stands there twice");
  refuse("workers:\n", "1: workers: has no value; leave the key out for its default");
  refuse("workers: [1]\n", "1: workers: is a list; write a number");
  refuse("script: {a: b}\n", "1: script: is a mapping; write a text");
  refuse("args: x\n", "1: args: is a text; write a list");
  refuse("args:\n- a\n- [b]\n", "3: args: has a list in it; write plain texts");
  refuse("args: {a: b}\n", "1: args: is a mapping; write a list");
  refuse("env:\n- A\n", "2: env: has \"A\"; write NAME=value, or a mapping");
  refuse("env:\n  A=B: c\n", "2: env: has the name \"A=B\"; it must not be empty or hold a =");
  refuse("script: \"a\\0b\"\n", "1: script: holds a NUL byte; write plain text");
  refuse("- workers\n", "1: this is a list; write lines `option: value`");
  refuse("? [a]\n: b\n", "1: a key is a list; write an option's name");
  refuse("workers: 1\n---\nworkers: 2\n", "3: a second document begins here; one is allowed");
  refuse("a: b\n c: d\n", "2: this is no YAML: mapping values are not allowed in this context");
}

static void a_missing_file_is_not_found(void **state) {
  (void)state;
  pyproc_pool_options options = PYPROC_POOL_OPTIONS_INIT;
  pyproc_error *error = NULL;
  assert_int_equal(pyproc_options_load(&options, "/no/such/file.yaml", &error), PYPROC_E_NOT_FOUND);
  assert_string_equal(pyproc_error_message(error), "/no/such/file.yaml: No such file or directory");
  pyproc_error_free(error);
  assert_int_equal(pyproc_options_load(&options, ".", &error), PYPROC_E_INVALID_ARGUMENT);
  assert_string_equal(pyproc_error_message(error), ".: Is a directory");
  pyproc_error_free(error);
}

static void a_large_file_is_refused(void **state) {
  (void)state;
  pyproc_pool_options options = PYPROC_POOL_OPTIONS_INIT;
  pyproc_error *error = NULL;
  FILE *file = fopen(path, "w");
  assert_non_null(file);
  for (int i = 0; i < 1 << 17; i++) fputs("# 345678\n", file);
  assert_int_equal(fclose(file), 0);
  assert_int_equal(pyproc_options_load(&options, path, &error), PYPROC_E_INVALID_ARGUMENT);
  assert_non_null(strstr(pyproc_error_message(error), "a configuration file takes at most 1048576 bytes"));
  pyproc_error_free(error);
}

static void the_environment_beats_the_file_and_that_the_program(void **state) {
  (void)state;
  pyproc_pool_options options = PYPROC_POOL_OPTIONS_INIT;
  options.script = "code.py";
  options.workers = 1;
  options.spin_us = 1;
  assert_int_equal(setenv("PYPROC_WORKERS", "3", 1), 0);
  assert_int_equal(setenv("PYPROC_POOL_WORKERS", "9", 1), 0);
  assert_int_equal(setenv("PYPROC_POOL_MAX_IN_FLIGHT", "5", 1), 0);
  assert_int_equal(setenv("PYPROC_ARGS", "[a, 'b c']", 1), 0);
  assert_int_equal(setenv("PYPROC_CWD", "", 1), 0);
  assert_int_equal(load(&options, "workers: 2\nspin_us: 2\n", NULL), PYPROC_OK);
  assert_string_equal(options.script, "code.py");
  assert_int_equal(options.workers, 3);
  assert_int_equal(options.spin_us, 2);
  assert_int_equal(options.max_in_flight, 5);
  assert_string_equal(options.args[1], "b c");
  assert_null(options.cwd);
  assert_int_equal(unsetenv("PYPROC_WORKERS"), 0);
  assert_int_equal(pyproc_options_load(&options, NULL, NULL), PYPROC_OK); /* again, on what was loaded */
  assert_int_equal(options.workers, 9);
  assert_string_equal(options.args[0], "a");
  pyproc_options_clear(&options);
  assert_string_equal(options.script, "code.py");
  assert_null(options.args);
  for (const char *const *name =
           (const char *const[]){"PYPROC_POOL_WORKERS", "PYPROC_POOL_MAX_IN_FLIGHT", "PYPROC_ARGS", "PYPROC_CWD", NULL};
       *name != NULL; name++)
    assert_int_equal(unsetenv(*name), 0);
}

static void a_wrong_variable_is_named(void **state) {
  (void)state;
  const struct {
    const char *name, *value, *message;
  } wrong[] = {
      {"PYPROC_WORKERS", "many", "environment: PYPROC_WORKERS: is \"many\"; allowed are 1 to 1024, default"},
      {"PYPROC_POOL_WORKERS", "0x4", "environment: PYPROC_POOL_WORKERS: is \"0x4\"; allowed are 1 to 1024, default"},
      {"PYPROC_ARGS", "plain", "environment: PYPROC_ARGS: is a text; write a list"},
      {"PYPROC_ARGS", "[a", "environment: PYPROC_ARGS: this is no YAML: did not find expected ',' or ']'"},
  };
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    pyproc_pool_options options = PYPROC_POOL_OPTIONS_INIT;
    pyproc_error *error = NULL;
    assert_int_equal(setenv(wrong[i].name, wrong[i].value, 1), 0);
    assert_int_equal(pyproc_options_load(&options, NULL, &error), PYPROC_E_INVALID_ARGUMENT);
    assert_string_equal(pyproc_error_message(error), wrong[i].message);
    pyproc_error_free(error);
    assert_int_equal(unsetenv(wrong[i].name), 0);
  }
}

/* A program whose header ends before an option cannot set it. */
static void a_shorter_struct_is_left_alone_beyond_its_end(void **state) {
  (void)state;
  pyproc_pool_options options = PYPROC_POOL_OPTIONS_INIT;
  pyproc_error *error = NULL;
  options.size = offsetof(pyproc_pool_options, workers);
  options.workers = 77; /* not the library's to touch */
  assert_int_equal(load(&options, "script: a.py\n", NULL), PYPROC_OK);
  assert_string_equal(options.script, "a.py");
  assert_int_equal(options.workers, 77);
  pyproc_options_clear(&options);
  assert_int_equal(load(&options, "workers: 2\n", &error), PYPROC_E_INVALID_ARGUMENT);
  assert_non_null(strstr(pyproc_error_message(error), ":1: workers: the program was compiled with a header"));
  pyproc_error_free(error);
}

static void nothing_to_load_into(void **state) {
  (void)state;
  pyproc_pool_options options = {0};
  assert_int_equal(pyproc_options_load(NULL, NULL, NULL), PYPROC_E_INVALID_ARGUMENT);
  assert_int_equal(pyproc_options_load(&options, NULL, NULL), PYPROC_E_INVALID_ARGUMENT);
  pyproc_options_clear(NULL);
  pyproc_options_clear(&options);
}

/* Each number and text of the struct has its row, and the variables have the names that are documented. */
static void the_table_is_whole(void **state) {
  (void)state;
  for (size_t i = 0; i < option_table_size; i++) {
    char variable[OPTION_VARIABLE_SIZE];
    assert_true(option_variable(&option_table[i], variable, sizeof variable));
    assert_ptr_equal(option_find(option_table[i].name), &option_table[i]);
    assert_true(option_allows(&option_table[i], 0));
  }
  char variable[OPTION_VARIABLE_SIZE];
  assert_true(option_variable(option_find("call_timeout_ms"), variable, sizeof variable));
  assert_string_equal(variable, "PYPROC_CALL_TIMEOUT_MS");
  assert_null(option_find("size"));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_file_sets_all_types),
      cmocka_unit_test(an_empty_file_sets_nothing),
      cmocka_unit_test(a_mode_is_octal),
      cmocka_unit_test(a_switch_has_words),
      cmocka_unit_test(env_may_be_a_list),
      cmocka_unit_test(what_is_wrong_is_named_with_its_line),
      cmocka_unit_test(a_missing_file_is_not_found),
      cmocka_unit_test(a_large_file_is_refused),
      cmocka_unit_test(the_environment_beats_the_file_and_that_the_program),
      cmocka_unit_test(a_wrong_variable_is_named),
      cmocka_unit_test(a_shorter_struct_is_left_alone_beyond_its_end),
      cmocka_unit_test(nothing_to_load_into),
      cmocka_unit_test(the_table_is_whole),
  };
  return cmocka_run_group_tests(tests, make_file, remove_file);
}
