/*
 * Workers without a handshake, as those of the Go library are: spawned with a path to listen on, ready when their health
 * answers, one call at a time, and a call that was given up can only be ended by killing them.
 */
#include "support.h"

#include <dirent.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static char sockets[200]; /* the folder in which private folders are made */

static int bare_setup(void **state) {
  int result = support_setup(state);
  snprintf(sockets, sizeof sockets, "%s", temporary_path(""));
  sockets[strlen(sockets) - 1] = '\0';
  setenv("TMPDIR", sockets, 1);
  return result;
}

static int count_folders(void) {
  int count = 0;
  DIR *folder = opendir(sockets);
  assert_non_null(folder);
  for (const struct dirent *entry; (entry = readdir(folder)) != NULL;)
    count += strncmp(entry->d_name, "pyproc-", 7) == 0;
  closedir(folder);
  return count;
}

static int bare_teardown(void **state) {
  int left = count_folders();
  unsetenv("TMPDIR");
  if (left > 0) print_error("%d private folders are left\n", left);
  int result = support_teardown(state);
  return left > 0 ? -1 : result;
}

#define BARE_TEST(function) cmocka_unit_test_setup_teardown(function, bare_setup, bare_teardown)

static pyproc_pool_options bare_options(const char *const *args) {
  pyproc_pool_options options = options_for("bare_worker.py");
  options.handshake = "none";
  options.args = args;
  return options;
}

static pyproc_pool *open_bare(void) {
  pyproc_pool_options options = bare_options(NULL);
  return open_pool(&options);
}

/* ---- calls ---- */

static void test_calls(void **state) {
  (void)state;
  pyproc_pool *pool = open_bare();
  assert_answer(pool, "double", "{\"value\": 21}", "{\"result\": 42}");
  assert_answer(pool, "echo", "[1, \"\\u00fc\", null, {}]", "[1, \"\\u00fc\", null, {}]");
  assert_answer(pool, "package.Service/Rpc", "\"any name goes\"", "\"any name goes\"");
  assert_answer(pool, "null", "{}", "null");
  Quickstart__PredictRequest request = QUICKSTART__PREDICT_REQUEST__INIT;
  Quickstart__PredictReply *reply = NULL;
  request.value = 21;
  assert_int_equal(quickstart_predictor_predict(pool, &request, &reply, NULL), 0);
  assert_true(reply->result == 42);
  pyproc_reply_free(reply);
  pyproc_health health = PYPROC_HEALTH_INIT;
  assert_int_equal(pyproc_pool_health(pool, &health), 0);
  assert_int_equal(health.workers_ready, 1);
  assert_int_equal(health.in_flight, 0);
  assert_int_equal(health.restarts, 0);
  assert_int_equal(health.calls, 5); /* the library's own question is none */
  pyproc_pool_close(pool);
}

static void test_large_messages(void **state) {
  (void)state;
  const size_t size = 8 * MIB;
  pyproc_pool *pool = open_bare();
  char *body = malloc(size + 3);
  assert_non_null(body);
  memset(body, 'x', size + 2);
  body[0] = body[size + 1] = '"';
  body[size + 2] = '\0';
  assert_answer(pool, "echo", body, body);
  free(body);
  pyproc_pool_close(pool);
}

static void test_errors_have_only_a_message(void **state) {
  (void)state;
  pyproc_pool *pool = open_bare();
  pyproc_error *error = call_failure(pool, "fail", "\"no such thing\"", 0);
  assert_null(pyproc_error_type(error));
  assert_null(pyproc_error_traceback(error));
  assert_true(pyproc_error_worker_pid(error) > 0);
  assert_error(error, PYPROC_E_UNKNOWN, "no such thing", RAN);
  assert_error(call_failure(pool, "nobody", "{}", 0), PYPROC_E_UNKNOWN, "Method 'nobody' not found", RAN);
  error = call_failure(pool, "coded", "{}", 0); /* members of its own */
  assert_null(pyproc_error_type(error));
  assert_null(pyproc_error_traceback(error));
  assert_error(error, PYPROC_E_UNKNOWN, "no", RAN);
  assert_answer(pool, "echo", "1", "1");
  pyproc_pool_close(pool);
}

static void test_what_it_cannot_do_is_said(void **state) {
  (void)state;
  const pyproc_metadata metadata = {.key = "x-tenant", .value = "acme"};
  pyproc_call_options call = PYPROC_CALL_OPTIONS_INIT;
  pyproc_pool *pool = open_bare();
  char *reply = NULL;
  pyproc_error *error = NULL;
  Conformance__Task task = CONFORMANCE__TASK__INIT;
  pyproc_stream *stream = NULL;
  call.metadata = &metadata;
  call.metadata_count = 1;
  assert_int_equal(pyproc_call_json(pool, "echo", "1", &call, &reply, &error), PYPROC_E_UNIMPLEMENTED);
  assert_error(error, PYPROC_E_UNIMPLEMENTED, "a worker without a handshake", NOT_RUN);
  error = NULL;
  assert_int_equal(conformance_streams_produce_open(pool, &task, NULL, &stream, &error), PYPROC_E_UNIMPLEMENTED);
  assert_error(error, PYPROC_E_UNIMPLEMENTED, "a worker without a handshake", NOT_RUN);
  assert_answer(pool, "echo", "1", "1");
  pyproc_pool_close(pool);
}

static void test_surroundings(void **state) {
  (void)state;
  const char *const args[] = {"good", "--flag", NULL};
  pyproc_pool_options options = bare_options(args);
  pyproc_pool *pool = open_pool(&options);
  char *text = call_json(pool, "surroundings", "null");
  assert_contains(text, "\"args\": [\"good\", \"--flag\"]");
  assert_contains(text, "\"PYPROC_SOCKET_PATH\"");
  assert_contains(text, "\"index\": \"0\"");
  assert_null(strstr(text, "PYPROC_WORKER_FD"));
  assert_null(strstr(text, "PYPROC_HOST_FD"));
  pyproc_reply_free(text);
  pyproc_pool_close(pool);
}

static void test_its_folder_is_private_and_gone_when_it_is_reached(void **state) {
  (void)state;
  pyproc_pool_options options = bare_options(NULL);
  options.workers = 3;
  pyproc_pool *pool = open_pool(&options);
  assert_int_equal(count_folders(), 0);
  char *text = call_json(pool, "where", "null");
  assert_contains(text, sockets);
  assert_contains(text, "\"mode\": \"0o700\", \"owner\": true");
  assert_contains(text, "\"left\": false");
  pyproc_reply_free(text);
  pyproc_pool_close(pool);
}

typedef struct crowd {
  pyproc_pool *pool;
  atomic_int wrong;
} crowd;

static void call_many(int number, void *argument) {
  crowd *self = argument;
  for (int i = 0; i < scaled(200); i++) {
    char body[64], *reply = NULL;
    snprintf(body, sizeof body, "[%d, %d]", number, i);
    if (pyproc_call_json(self->pool, "echo", body, NULL, &reply, NULL) < 0 || strcmp(reply, body) != 0)
      atomic_fetch_add(&self->wrong, 1);
    pyproc_reply_free(reply);
  }
}

static void test_many_callers(void **state) {
  (void)state;
  pyproc_pool_options options = bare_options(NULL);
  options.workers = 4;
  crowd self = {.pool = open_pool(&options)};
  run_threads(8, call_many, &self);
  assert_int_equal(self.wrong, 0);
  pyproc_pool_close(self.pool);
}

static void test_futures(void **state) {
  (void)state;
  pyproc_future *futures[8] = {NULL};
  pyproc_pool *pool = open_bare();
  for (int i = 0; i < 8; i++) {
    Quickstart__PredictRequest request = QUICKSTART__PREDICT_REQUEST__INIT;
    request.value = i;
    assert_int_equal(quickstart_predictor_predict_start(pool, &request, NULL, &futures[i], NULL), 0);
  }
  assert_int_equal(pyproc_future_wait_all(futures, 8, 60000), 0);
  for (int i = 0; i < 8; i++) {
    Quickstart__PredictReply *reply = NULL;
    assert_int_equal(quickstart_predictor_predict_finish(futures[i], &reply, NULL), 0);
    assert_true(reply->result == 2 * i);
    pyproc_reply_free(reply);
    pyproc_future_free(futures[i]);
  }
  pyproc_pool_close(pool);
}

/* ---- start ---- */

typedef struct failure {
  const char *mode;
  int code;
  const char *part;
} failure;

static const failure starts[] = {
    {"raise", PYPROC_E_UNAVAILABLE, "exited with status 1 before it was ready: does "},
    {"never", PYPROC_E_DEADLINE_EXCEEDED, "listen on PYPROC_SOCKET_PATH"},
    {"deaf", PYPROC_E_DEADLINE_EXCEEDED, "start_timeout_ms"},
    {"mute", PYPROC_E_DEADLINE_EXCEEDED, "answer the method health"},
    {"sick", PYPROC_E_FAILED_PRECONDITION, "its method health failed: the model is missing"},
    {"garbage", PYPROC_E_DATA_LOSS, "health"},
    {"empty", PYPROC_E_DATA_LOSS, "no bytes or above the frame limit"},
    {"huge", PYPROC_E_DATA_LOSS, "above the frame limit"},
    {"reply_frame", PYPROC_E_DATA_LOSS, "health"},
    {"hello_frame", PYPROC_E_DATA_LOSS, "health"},
    {"bad_json", PYPROC_E_DATA_LOSS, "health"},
    {"no_reply", PYPROC_E_DATA_LOSS, "health"},
    {"other_id", PYPROC_E_DATA_LOSS, "health"},
};

static void test_starts_that_fail(void **state) {
  (void)state;
  for (size_t i = 0; i < LENGTH(starts); i++) {
    const char *const args[] = {starts[i].mode, NULL};
    pyproc_pool_options options = bare_options(args);
    if (starts[i].code == PYPROC_E_DEADLINE_EXCEEDED) options.start_timeout_ms = 400;
    print_message("  %s\n", starts[i].mode);
    pyproc_error *error = open_failure(&options);
    if (strcmp(starts[i].mode, "raise") == 0) assert_contains(pyproc_error_log(error), "the script is broken");
    assert_error(error, starts[i].code, starts[i].part, NOT_RUN);
    assert_int_equal(count_folders(), 0);
  }
}

static void test_start_is_slow(void **state) {
  (void)state;
  const char *const args[] = {"slow", NULL};
  pyproc_pool_options options = bare_options(args);
  options.workers = 2;
  pyproc_pool *pool = open_pool(&options);
  assert_answer(pool, "echo", "1", "1");
  pyproc_pool_close(pool);
}

static void test_no_place_for_the_folder(void **state) {
  (void)state;
  pyproc_pool_options options = bare_options(NULL);
  options.python = "/bin/false"; /* is started, and ends before anybody listens */
  assert_error(open_failure(&options), PYPROC_E_UNAVAILABLE, "exited with status 1", NOT_RUN);
  options.python = "/nowhere/python3";
  assert_error(open_failure(&options), PYPROC_E_NOT_FOUND, "/nowhere/python3", NOT_RUN);
}

static void test_options_that_do_not_fit(void **state) {
  (void)state;
  const pyproc_service *const services[] = {&quickstart_predictor_service, NULL};
  pyproc_pool_options options = bare_options(NULL);
  options.protocol = "protobuf";
  assert_error(open_failure(&options), PYPROC_E_INVALID_ARGUMENT,
               "option protocol is \"protobuf\" and option handshake is \"none\"", NOT_RUN);
  options.protocol = "json";
  options.services = services;
  assert_error(open_failure(&options), PYPROC_E_INVALID_ARGUMENT, "option services", NOT_RUN);
  options.handshake = "firm";
  assert_error(open_failure(&options), PYPROC_E_INVALID_ARGUMENT, "option handshake is \"firm\"", NOT_RUN);
}

/* ---- workers that die, or break the rules ---- */

static const failure answers[] = {
    {"garbage", PYPROC_E_DATA_LOSS, "no JSON envelope"},
    {"empty", PYPROC_E_DATA_LOSS, "no bytes or above the frame limit"},
    {"huge", PYPROC_E_DATA_LOSS, "above the frame limit"},
    {"reply_frame", PYPROC_E_DATA_LOSS, "no JSON envelope"},
    {"hello_frame", PYPROC_E_DATA_LOSS, "no JSON envelope"},
    {"bad_json", PYPROC_E_DATA_LOSS, "no reply"},
    {"nan", PYPROC_E_DATA_LOSS, "no reply"},
    {"no_reply", PYPROC_E_DATA_LOSS, "no reply"},
    {"truncated", PYPROC_E_UNAVAILABLE, "exited with status 0"},
    {"set", PYPROC_E_INTERNAL, "not JSON serializable"},
    {"close", PYPROC_E_UNKNOWN, "not found"}, /* and is gone at the next call */
    {"other_id", 0, NULL},
    {"twice", 0, NULL},
};

static bool can_be_called(pyproc_pool *pool) {
  char *reply = NULL;
  int result = pyproc_call_json(pool, "echo", "1", NULL, &reply, NULL);
  pyproc_reply_free(reply);
  return result >= 0;
}

static void test_answers_that_break_the_rules(void **state) {
  (void)state;
  pyproc_pool *pool = open_bare();
  for (size_t i = 0; i < LENGTH(answers); i++) {
    print_message("  %s\n", answers[i].mode);
    assert_answer(pool, "echo", "1", "1"); /* a worker that has answered is replaced at once */
    if (answers[i].code == 0)
      assert_answer(pool, answers[i].mode, "{}", "true");
    else
      assert_error(call_failure(pool, answers[i].mode, "{}", 0), answers[i].code, answers[i].part, RAN);
    if (strcmp(answers[i].mode, "close") == 0) /* whether the host has seen it by now is chance */
      can_be_called(pool);
  }
  assert_answer(pool, "echo", "1", "1");
  pyproc_pool_close(pool);
}

static void test_worker_dies(void **state) {
  (void)state;
  pyproc_pool *pool = open_bare();
  long before = worker_pid(pool);
  pyproc_error *error = call_failure(pool, "die", "9", 0);
  assert_int_equal(pyproc_error_crash(error)->signal, SIGKILL);
  assert_int_equal(pyproc_error_crash(error)->pid, before);
  assert_contains(pyproc_error_log(error), "last words");
  assert_error(error, PYPROC_E_UNAVAILABLE, "was killed by signal 9", RAN);
  assert_error(call_failure(pool, "leave", "3", 0), PYPROC_E_UNAVAILABLE, "exited with status 3", RAN);
  assert_true(worker_pid(pool) != before);
  kill((pid_t)worker_pid(pool), SIGKILL); /* while it is idle */
  WAIT_FOR(can_be_called(pool));
  pyproc_pool_close(pool);
}

/* How a submitted call ended. */
typedef struct end {
  int result, ran;
  bool is_over;
} end;

static void on_end(int result, char *body, pyproc_error *error, void *userdata) {
  *(end *)userdata = (end){.result = result, .ran = pyproc_error_may_have_run(error), .is_over = true};
  pyproc_reply_free(body);
  pyproc_error_free(error);
}

static void submit(pyproc_pool *pool, const char *method, const char *body, const pyproc_call_options *options,
                   end *result) {
  *result = (end){0};
  assert_int_equal(pyproc_call_json_submit(pool, method, body, options, on_end, result, NULL), 0);
}

static void wait_for_end(pyproc_pool *pool, const end *result, int code, int ran) {
  while (!result->is_over) assert_true(pyproc_pool_dispatch(pool, 60000) > 0);
  assert_int_equal(result->result, code);
  assert_int_equal(result->ran, ran);
}

static void test_others_wait_for_the_next_worker(void **state) {
  (void)state;
  end dying, others[5];
  pyproc_pool *pool = open_bare();
  submit(pool, "die", "9", NULL, &dying);
  for (size_t i = 0; i < LENGTH(others); i++) submit(pool, "echo", "9", NULL, &others[i]);
  wait_for_end(pool, &dying, PYPROC_E_UNAVAILABLE, RAN);
  for (size_t i = 0; i < LENGTH(others); i++) wait_for_end(pool, &others[i], 0, NOT_RUN); /* had not been sent */
  pyproc_pool_close(pool);
}

/* ---- calls that are given up ---- */

static void test_a_call_that_ends_within_the_grace(void **state) {
  (void)state;
  pyproc_pool_options options = bare_options(NULL);
  options.cancel_grace_ms = 60000;
  pyproc_pool *pool = open_pool(&options);
  long before = worker_pid(pool);
  assert_error(call_failure(pool, "sleep", "300", 30), PYPROC_E_DEADLINE_EXCEEDED, "within 30 ms", RAN);
  assert_int_equal(worker_pid(pool), before); /* waits for the other one to end */
  assert_answer(pool, "echo", "\"mine\"", "\"mine\"");
  pyproc_pool_close(pool);
}

static void test_a_call_that_does_not_is_ended_with_its_worker(void **state) {
  (void)state;
  log_lines lines;
  log_lines_init(&lines);
  pyproc_pool_options options = bare_options(NULL);
  options.cancel_grace_ms = 30;
  options.log = log_lines_callback;
  options.log_userdata = &lines;
  pyproc_pool *pool = open_pool(&options);
  for (int i = 0; i < 3; i++) {
    long before = worker_pid(pool);
    assert_error(call_failure(pool, "sleep", "600000", 30), PYPROC_E_DEADLINE_EXCEEDED, "within 30 ms", RAN);
    assert_true(worker_pid(pool) != before);
    assert_false(process_lives(before));
  }
  assert_true(log_lines_have(&lines, "went on with a call for 30 ms after that was given up (option cancel_grace_ms)"));
  pyproc_pool_close(pool);
}

static void test_cancelled_by_token(void **state) {
  (void)state;
  end running, waiting;
  pyproc_pool_options options = bare_options(NULL);
  options.cancel_grace_ms = 30;
  pyproc_pool *pool = open_pool(&options);
  long before = worker_pid(pool);
  pyproc_call_options call = PYPROC_CALL_OPTIONS_INIT;
  assert_int_equal(pyproc_cancel_new(&call.cancel), 0);
  submit(pool, "sleep", "600000", &call, &running);
  submit(pool, "sleep", "600000", &call, &waiting);
  pyproc_cancel_fire(call.cancel);
  wait_for_end(pool, &running, PYPROC_E_CANCELLED, RAN);
  wait_for_end(pool, &waiting, PYPROC_E_CANCELLED, NOT_RUN); /* one call at a time: it was not sent */
  pyproc_cancel_free(call.cancel);
  assert_true(worker_pid(pool) != before);
  assert_false(process_lives(before));
  pyproc_pool_close(pool);
}

/* ---- end ---- */

static void test_it_is_told_to_stop(void **state) {
  (void)state;
  log_lines lines;
  pyproc_pool_options options = bare_options(NULL);
  options.drain_timeout_ms = 60000; /* not waited for */
  options.log = log_lines_callback;
  options.log_userdata = &lines;
  for (int i = 0; i < scaled(20); i++) { /* which races with what the worker does to wait for us */
    log_lines_init(&lines);
    pyproc_pool *pool = open_pool(&options);
    if (i % 2 == 1) assert_answer(pool, "null", "{}", "null");
    pyproc_pool_close(pool);
    assert_true(log_lines_have(&lines, "stderr: told to stop"));
  }
}

static void test_it_does_not_stop(void **state) {
  (void)state;
  const char *const args[] = {"stubborn", NULL};
  pyproc_pool_options options = bare_options(args);
  options.drain_timeout_ms = 50;
  pyproc_pool *pool = open_pool(&options);
  long pid = worker_pid(pool);
  pyproc_pool_close(pool);
  assert_false(process_lives(pid));
}

static int be_killed(int report) {
  pyproc_pool_options options = bare_options(NULL);
  pyproc_pool *pool = NULL;
  char *reply = NULL;
  if (pyproc_pool_open(&options, &pool, NULL) < 0) return 1;
  if (pyproc_call_json(pool, "pid", "null", NULL, &reply, NULL) < 0) return 2;
  long pid = strtol(reply, NULL, 10);
  if (write(report, &pid, sizeof pid) != (ssize_t)sizeof pid) return 3;
  pyproc_call_json(pool, "sleep", "600000", NULL, &reply, NULL);
  return 4;
}

static void test_host_is_killed(void **state) {
  (void)state;
#ifdef PYPROC_PLATFORM_POSIX
  skip(); /* nothing there ends a worker that does not look for its host */
#endif
  int report[2];
  long pid = 0;
  assert_int_equal(pipe(report), 0);
  assert_int_equal(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
  fflush(stdout);
  pid_t host = fork();
  assert_true(host >= 0);
  if (host == 0) _exit(be_killed(report[1]));
  assert_int_equal(read(report[0], &pid, sizeof pid), sizeof pid);
  kill(host, SIGKILL);
  WAIT_FOR(!process_lives(pid));
  assert_int_equal(waitpid(host, NULL, 0), host);
  assert_int_equal(waitpid((pid_t)pid, NULL, 0), pid);
  prctl(PR_SET_CHILD_SUBREAPER, 0);
  close(report[0]);
  close(report[1]);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      BARE_TEST(test_calls),
      BARE_TEST(test_large_messages),
      BARE_TEST(test_errors_have_only_a_message),
      BARE_TEST(test_what_it_cannot_do_is_said),
      BARE_TEST(test_surroundings),
      BARE_TEST(test_its_folder_is_private_and_gone_when_it_is_reached),
      BARE_TEST(test_many_callers),
      BARE_TEST(test_futures),
      BARE_TEST(test_starts_that_fail),
      BARE_TEST(test_start_is_slow),
      BARE_TEST(test_no_place_for_the_folder),
      BARE_TEST(test_options_that_do_not_fit),
      BARE_TEST(test_answers_that_break_the_rules),
      BARE_TEST(test_worker_dies),
      BARE_TEST(test_others_wait_for_the_next_worker),
      BARE_TEST(test_a_call_that_ends_within_the_grace),
      BARE_TEST(test_a_call_that_does_not_is_ended_with_its_worker),
      BARE_TEST(test_cancelled_by_token),
      BARE_TEST(test_it_is_told_to_stop),
      BARE_TEST(test_it_does_not_stop),
      BARE_TEST(test_host_is_killed),
  };
  return RUN_TESTS(tests);
}
