/*
 * gRPC with workers of our own.
 */
#include <dirent.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "grpc_support.h"

static pyproc_pool_options options_for_grpc(void) {
  pyproc_pool_options options = options_for("grpc_worker.py");
  options.protocol = "grpc";
  return options;
}

static pyproc_pool *open_grpc(void) {
  pyproc_pool_options options = options_for_grpc();
  return open_pool(&options);
}

static void test_unary(void **state) {
  (void)state;
  pyproc_pool *pool = open_grpc();
  for (int i = 0; i < scaled(100); i++) {
    Remote__Item *reply = echo(pool, "hello");
    assert_string_equal(reply->text, "hello");
    assert_int_equal(reply->number, 7);
    pyproc_reply_free(reply);
  }
  Remote__Item *reply = echo(pool, "name");
  assert_string_equal(reply->text, "remote.Echo/Call");
  pyproc_reply_free(reply);
  reply = echo(pool, "deadline");
  assert_in_range(reply->number, 1, 61000);
  pyproc_reply_free(reply);
  pyproc_pool_close(pool);
}

static void test_by_name(void **state) {
  (void)state;
  pyproc_pool *pool = open_grpc();
  assert_answer(pool, "twice", "{\"value\": 21}", "42");
  char *reply = call_json(pool, "remote.Echo/Call", "{\"text\": \"hi\", \"number\": \"3\"}");
  assert_contains(reply, "\"hi\"");
  pyproc_reply_free(reply);
  assert_error(call_failure(pool, "absent", "{}", 0), PYPROC_E_UNIMPLEMENTED, "absent", NOT_RUN);
  assert_error(call_failure(pool, "twice", "{", 0), PYPROC_E_INVALID_ARGUMENT, "twice", NOT_RUN);
  pyproc_error *error = call_failure(pool, "twice", "{}", 0);
  assert_string_equal(pyproc_error_type(error), "KeyError");
  assert_error(error, PYPROC_E_UNKNOWN, "value", RAN);
  pyproc_pool_close(pool);
}

static void test_errors(void **state) {
  (void)state;
  pyproc_pool *pool = open_grpc();
  pyproc_error *error = echo_failure(pool, "fail", NULL);
  assert_string_equal(pyproc_error_type(error), "KeyError");
  assert_contains(pyproc_error_traceback(error), "raise KeyError");
  assert_true(pyproc_error_worker_pid(error) > 0);
  assert_int_equal(pyproc_error_attempts(error), 1);
  assert_error(error, PYPROC_E_UNKNOWN, "no good", RAN);
  for (int code = 1; code <= 16; code++) {
    char text[32], expected[32];
    snprintf(text, sizeof text, "refuse %d", code);
    snprintf(expected, sizeof expected, "refused with %d", code);
    assert_error(echo_failure(pool, text, NULL), -code, expected, RAN);
  }
  Remote__Item *reply = echo(pool, "still there"); /* none of these, UNAVAILABLE among them, cost the worker */
  pyproc_reply_free(reply);
  pyproc_health health = PYPROC_HEALTH_INIT;
  assert_int_equal(pyproc_pool_health(pool, &health), 0);
  assert_int_equal(health.restarts, 0);
  pyproc_pool_close(pool);
}

typedef struct cancelled_call {
  pyproc_pool *pool;
  pyproc_cancel *token;
  pyproc_error *error;
  log_lines lines;
} cancelled_call;

static void call_and_fire(int number, void *argument) {
  cancelled_call *self = argument;
  if (number == 1) {
    while (!log_lines_have(&self->lines, "sleeping")) pause_ms(1);
    pyproc_cancel_fire(self->token);
    return;
  }
  pyproc_call_options options = PYPROC_CALL_OPTIONS_INIT;
  Remote__Item request = REMOTE__ITEM__INIT, *reply = NULL;
  options.cancel = self->token;
  request.text = "sleep 60000";
  remote_echo_call_with(self->pool, &request, &options, &reply, &self->error);
}

static void test_deadline_and_cancel(void **state) {
  (void)state;
  static cancelled_call call;
  pyproc_pool_options options = options_for_grpc();
  pyproc_call_options with = PYPROC_CALL_OPTIONS_INIT;
  log_lines_init(&call.lines);
  options.log = log_lines_callback;
  options.log_userdata = &call.lines;
  call.pool = open_pool(&options);
  assert_int_equal(pyproc_cancel_new(&call.token), 0);
  run_threads(2, call_and_fire, &call);
  assert_error(call.error, PYPROC_E_CANCELLED, "was cancelled", RAN);
  with.cancel = call.token;
  assert_error(echo_failure(call.pool, "", &with), PYPROC_E_CANCELLED, "before it was sent", NOT_RUN);
  pyproc_cancel_free(call.token);
  with = (pyproc_call_options)PYPROC_CALL_OPTIONS_INIT;
  with.timeout_ms = 50;
  assert_error(echo_failure(call.pool, "sleep 60000", &with), PYPROC_E_DEADLINE_EXCEEDED, "within 50 ms", RAN);
  pyproc_reply_free(echo(call.pool, "")); /* the handlers were interrupted, not the worker */
  pyproc_pool_close(call.pool);
}

static void test_large(void **state) {
  (void)state;
  pyproc_pool *pool = open_grpc();
  Remote__Item request = REMOTE__ITEM__INIT, *reply = NULL;
  request.data.len = 20 * MIB;
  request.data.data = malloc(request.data.len);
  assert_non_null(request.data.data);
  for (size_t i = 0; i < request.data.len; i++) request.data.data[i] = (uint8_t)(i * 7 + i / 256);
  assert_int_equal(remote_echo_call(pool, &request, &reply, NULL), 0);
  assert_int_equal(reply->data.len, request.data.len);
  assert_memory_equal(reply->data.data, request.data.data, request.data.len);
  pyproc_reply_free(reply);
  free(request.data.data);
  pyproc_pool_close(pool);
}

static void test_metadata(void **state) {
  (void)state;
  size_t count = 0;
  pyproc_pool *pool = open_grpc();
  const pyproc_metadata metadata[] = {{"traceparent", "00-abc", 6}, {"some-bin", "\0\1\377", 3}};
  pyproc_call_options options = PYPROC_CALL_OPTIONS_INIT;
  Remote__Item request = REMOTE__ITEM__INIT, *reply = NULL;
  options.metadata = metadata;
  options.metadata_count = LENGTH(metadata);
  request.text = "metadata";
  assert_int_equal(remote_echo_call_with(pool, &request, &options, &reply, NULL), 0);
  const pyproc_metadata *entries = pyproc_reply_metadata(reply, &count);
  assert_int_equal(count, 2);
  assert_string_equal(pyproc_metadata_get(entries, count, "got-traceparent"), "00-abc");
  assert_memory_equal(pyproc_metadata_get(entries, count, "got-some-bin"), "\0\1\377", 3);
  pyproc_reply_free(reply);
  char *body = NULL;
  assert_int_equal(pyproc_call_json(pool, "beside", "null", &options, &body, NULL), 0);
  entries = pyproc_reply_metadata(body, &count);
  assert_string_equal(body, "\"00-abc\"");
  assert_int_equal(count, 1);
  assert_string_equal(pyproc_metadata_get(entries, count, "answer"), "yes");
  pyproc_reply_free(body);
  pyproc_error *error = echo_failure(pool, "metadata-error", NULL);
  entries = pyproc_error_metadata(error, &count);
  assert_int_equal(count, 2);
  assert_string_equal(pyproc_metadata_get(entries, count, "why"), "because");
  assert_memory_equal(pyproc_metadata_get(entries, count, "raw-bin"), "\0\1", 2);
  assert_error(error, PYPROC_E_ABORTED, "with metadata", RAN);
  pyproc_pool_close(pool);
}

/* ---- workers that die ---- */

static void test_killed_under_a_call(void **state) {
  (void)state;
  pyproc_pool *pool = open_grpc();
  for (int i = 0; i < 3; i++) {
    pyproc_error *error = echo_failure(pool, "die", NULL);
    const pyproc_crash *crash = pyproc_error_crash(error);
    assert_non_null(crash);
    assert_int_equal(crash->signal, SIGKILL);
    assert_contains(pyproc_error_log(error), "last words");
    assert_error(error, PYPROC_E_UNAVAILABLE, "killed by signal 9", RAN);
    pyproc_reply_free(echo(pool, "its successor"));
  }
  pyproc_health health = PYPROC_HEALTH_INIT;
  assert_int_equal(pyproc_pool_health(pool, &health), 0);
  assert_int_equal(health.restarts, 3);
  assert_int_equal(health.in_flight, 0);
  pyproc_pool_close(pool);
}

static void test_killed_while_idle(void **state) {
  (void)state;
  pyproc_pool_options options = options_for_grpc();
  options.workers = 2;
  pyproc_pool *pool = open_pool(&options);
  for (int i = 0; i < 4; i++) {
    kill((pid_t)call_number(pool, "pid", "null"), SIGKILL);
    for (int j = 0; j < 4; j++) { /* what goes to the dead one before its death is seen may fail */
      char *reply = NULL;
      pyproc_error *error = NULL;
      int result = pyproc_call_json(pool, "pid", "null", NULL, &reply, &error);
      assert_true(result == 0 || result == PYPROC_E_UNAVAILABLE);
      pyproc_reply_free(reply);
      pyproc_error_free(error);
    }
  }
  WAIT_FOR(call_number(pool, "pid", "null") > 0);
  pyproc_pool_close(pool);
}

/* ---- asynchronous calls ---- */

static void count_reply(int result, Remote__Item *reply, pyproc_error *error, void *userdata) {
  int *counts = userdata;
  counts[result == 0 ? 0 : result == PYPROC_E_UNAVAILABLE ? 1 : 2]++;
  pyproc_reply_free(reply);
  pyproc_error_free(error);
}

static void test_submit(void **state) {
  (void)state;
  int counts[3] = {0}, calls = scaled(200), ended = 0;
  pyproc_pool *pool = open_grpc();
  Remote__Item request = REMOTE__ITEM__INIT, *reply = NULL;
  for (int i = 0; i < calls; i++) {
    assert_int_equal(remote_echo_call_submit(pool, &request, NULL, count_reply, counts, NULL), 0);
    while (i - ended >= 64) ended += pyproc_pool_dispatch(pool, -1);
  }
  while (ended < calls) ended += pyproc_pool_dispatch(pool, -1);
  assert_int_equal(counts[0], calls);
  request.text = "die";
  assert_int_equal(remote_echo_call_submit(pool, &request, NULL, count_reply, counts, NULL), 0);
  while (pyproc_pool_dispatch(pool, -1) == 0) {}
  assert_int_equal(counts[1], 1);
  pyproc_future *futures[8];
  request.text = "hi";
  for (size_t i = 0; i < LENGTH(futures); i++)
    assert_int_equal(remote_echo_call_start(pool, &request, NULL, &futures[i], NULL), 0);
  assert_int_equal(pyproc_future_wait_all(futures, LENGTH(futures), 60000), 0);
  for (size_t i = 0; i < LENGTH(futures); i++) {
    assert_int_equal(remote_echo_call_finish(futures[i], &reply, NULL), 0);
    pyproc_reply_free(reply);
    pyproc_future_free(futures[i]);
  }
  pyproc_pool_close(pool);
}

static void call_many(int number, void *argument) {
  for (int i = 0; i < scaled(60); i++) {
    Remote__Item request = REMOTE__ITEM__INIT, *reply = NULL;
    request.number = number * 1000 + i;
    if (remote_echo_call(argument, &request, &reply, NULL) < 0 || reply->number != request.number) abort();
    pyproc_reply_free(reply);
  }
}

static void test_threads(void **state) {
  (void)state;
  pyproc_pool_options options = options_for_grpc();
  options.workers = 2;
  pyproc_pool *pool = open_pool(&options);
  run_threads(8, call_many, pool);
  pyproc_pool_close(pool);
}

/* ---- the private folder ---- */

static int entries_of(const char *path) {
  int count = 0;
  DIR *folder = opendir(path);
  for (const struct dirent *entry; folder != NULL && (entry = readdir(folder)) != NULL;) count += *entry->d_name != '.';
  if (folder != NULL) closedir(folder);
  return count;
}

/* A folder of its own as TMPDIR: whatever is left is ours. */
static const char *use_temporary_folder(void) {
  static char path[256];
  char *slash;
  snprintf(path, sizeof path, "%s", temporary_path("x"));
  if ((slash = strrchr(path, '/')) != NULL) *slash = '\0';
  setenv("TMPDIR", path, 1);
  return path;
}

static void check_folder(const char *parent) {
  struct stat about;
  char path[512] = "";
  DIR *folder = opendir(parent);
  assert_non_null(folder);
  for (const struct dirent *entry; (entry = readdir(folder)) != NULL;)
    if (*entry->d_name != '.') snprintf(path, sizeof path, "%s/%s", parent, entry->d_name);
  closedir(folder);
  assert_int_equal(stat(path, &about), 0);
  assert_true(S_ISDIR(about.st_mode));
  assert_int_equal(about.st_mode & 0777, 0700);
}

static void test_folder(void **state) {
  (void)state;
  const char *folder = use_temporary_folder();
  pyproc_pool_options options = options_for_grpc();
  options.workers = 2;
  pyproc_pool *pool = open_pool(&options);
  assert_int_equal(entries_of(folder), 1);
  check_folder(folder);
  assert_error(echo_failure(pool, "die", NULL), PYPROC_E_UNAVAILABLE, "", RAN);
  pyproc_reply_free(echo(pool, ""));
  pyproc_pool_close(pool);
  assert_int_equal(entries_of(folder), 0);

  const char *const env[] = {"E2E_RAISE=1", NULL};
  options.env = env;
  pyproc_error *error = open_failure(&options);
  assert_string_equal(pyproc_error_type(error), "RuntimeError");
  assert_error(error, PYPROC_E_FAILED_PRECONDITION, "not today", NOT_RUN);
  assert_int_equal(entries_of(folder), 0);
  unsetenv("TMPDIR");
}

/* ---- the module ---- */

static const char *program;

/* In a copy of this program, which has no module beside it. */
static int check_missing(void) {
  pyproc_pool *pool = NULL;
  pyproc_error *error = NULL;
  pyproc_pool_options options = PYPROC_POOL_OPTIONS_INIT;
  options.target = "unix:/nowhere";
  int result = pyproc_pool_open(&options, &pool, &error);
  const char *message = pyproc_error_message(error);
  bool right = result == PYPROC_E_NOT_FOUND && strstr(message, "libpyproc-grpc.so") != NULL &&
               strstr(message, "libgrpc-dev") != NULL;
  if (!right) fprintf(stderr, "%d %s\n", result, message);
  pyproc_error_free(error);
  if (result >= 0) pyproc_pool_close(pool);
  return right ? 0 : 1;
}

static void test_missing_module(void **state) {
  (void)state;
  char command[2048];
  const char *copy = temporary_path("copy");
  if (access("/usr/local/lib/libpyproc-grpc.so", R_OK) == 0) return; /* one is installed, which it would find */
  snprintf(command, sizeof command, "cp '%s' %s && %s --missing", program, copy, copy);
  run_command(command);
}

/* ---- fork ---- */

static void test_fork(void **state) {
  (void)state;
  pyproc_pool *pool = open_grpc();
  pyproc_reply_free(echo(pool, ""));
  pid_t child = fork();
  if (child == 0) {
    pyproc_pool *other = NULL;
    pyproc_error *error = NULL;
    pyproc_pool_options options = options_for_grpc();
    Remote__Item request = REMOTE__ITEM__INIT, *reply = NULL;
    bool right = remote_echo_call(pool, &request, &reply, NULL) == PYPROC_E_FAILED_PRECONDITION;
    pyproc_pool_close(pool);
    right = right && pyproc_pool_open(&options, &other, &error) == PYPROC_E_FAILED_PRECONDITION &&
            strstr(pyproc_error_message(error), "forked") != NULL;
    pyproc_error_free(error);
    execl("/bin/sh", "sh", "-c", right ? "exit 0" : "exit 1",
          (char *)NULL); /* what the threads of libgrpc had is lost */
    _exit(127);
  }
  int status = -1;
  assert_int_equal(waitpid(child, &status, 0), child);
  assert_int_equal(status, 0);
  pyproc_reply_free(echo(pool, "")); /* it harmed nothing: neither the socket nor its folder */
  assert_error(echo_failure(pool, "die", NULL), PYPROC_E_UNAVAILABLE, "", RAN);
  pyproc_reply_free(echo(pool, ""));
  pyproc_pool_close(pool);
}

/* Who is not the host makes a socket in its private folder. */
static void test_another_user(void **state) {
  (void)state;
  pyproc_pool_options options = options_for_grpc();
  if (!nobody_can_run(options.script)) skip();
  options.uid = NOBODY;
  options.gid = NOBODY;
  pyproc_pool *pool = open_pool(&options);
  pyproc_reply_free(echo(pool, ""));
  pyproc_pool_close(pool);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      E2E_TEST(test_unary),
      E2E_TEST(test_by_name),
      E2E_TEST(test_errors),
      E2E_TEST(test_deadline_and_cancel),
      E2E_TEST(test_large),
      E2E_TEST(test_metadata),
      E2E_TEST(test_killed_under_a_call),
      E2E_TEST(test_killed_while_idle),
      E2E_TEST(test_submit),
      E2E_TEST(test_threads),
      E2E_TEST(test_folder),
      E2E_TEST(test_missing_module),
      E2E_TEST(test_fork),
      E2E_TEST(test_another_user),
  };
  program = argv[0];
  if (argc > 1 && strcmp(argv[1], "--missing") == 0) return check_missing();
  return RUN_GRPC_TESTS(tests);
}
