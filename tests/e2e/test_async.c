/* Submitted calls end in one callback and started ones in a future, whatever ends them: an answer, an error, a deadline, a token,
 * the worker's death, the pool's end. Every test runs with both protocols. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "async_calls.pyproc.h"

#define LENGTH(array) (sizeof(array) / sizeof *(array))
enum { LONG_MS = 30000, PIPELINED = 10000, SUBMITTERS = 6, EACH = 400, CHAIN = 500, RACES = 1500 };

/* ---- support ---- */

/* Counts are for plain builds; PYPROC_TEST_SCALE is in percent. */
static int scaled(int count) {
  const char *scale = getenv("PYPROC_TEST_SCALE");
  int result = scale != NULL ? (int)((int64_t)count * atoi(scale) / 100) : count;
  return result > 0 ? result : 1;
}

static pyproc_pool *open_pool(void **state, int workers, int64_t drain_timeout_ms) {
  static char script[4096];
  const char *gen = getenv("PYPROC_TEST_GEN");
  snprintf(script, sizeof script, "%s/async_worker.py", gen != NULL ? gen : "gen");
  pyproc_pool_options options = PYPROC_POOL_OPTIONS_INIT;
  options.script = script;
  options.workers = workers;
  options.protocol = *state;
  options.drain_timeout_ms = drain_timeout_ms;
  options.queue_limit = 2 * PIPELINED;
  if (getenv("PYPROC_TEST_VERBOSE") != NULL) options.log = pyproc_log_to_stderr;
  pyproc_pool *pool = NULL;
  pyproc_error *error = NULL;
  if (pyproc_pool_open(&options, &pool, &error) < 0) fail_msg("open: %s", pyproc_error_message(error));
  return pool;
}

/* How a call ended. */
struct outcome {
  pyproc_pool *pool;
  atomic_int count; /* callbacks */
  int result;
  int64_t number, pid;
  size_t load_size;
  char message[128];
  int may_have_run;
  bool is_consistent; /* either a reply or an error */
  pthread_t thread;
};

static void note(struct outcome *self, int result, bool has_reply, const pyproc_error *error) {
  self->result = result;
  self->is_consistent = has_reply == (result == 0) && (error == NULL) == (result == 0) && result <= 0 &&
                        pyproc_error_code(error) == result;
  self->may_have_run = pyproc_error_may_have_run(error);
  snprintf(self->message, sizeof self->message, "%s", pyproc_error_message(error));
  self->thread = pthread_self();
  atomic_fetch_add(&self->count, 1);
}

static async_calls_asker_ask_done on_asked;
static void on_asked(int result, AsyncCalls__AskReply *reply, pyproc_error *error, void *userdata) {
  struct outcome *self = userdata;
  self->number = reply != NULL ? reply->number : -1;
  self->pid = reply != NULL ? reply->pid : -1;
  self->load_size = reply != NULL ? reply->load.len : 0;
  note(self, result, reply != NULL, error);
  pyproc_reply_free(reply);
  pyproc_error_free(error);
}

static void on_asked_json(int result, char *body, pyproc_error *error, void *userdata) {
  struct outcome *self = userdata;
  long long number = -1;
  if (body != NULL) sscanf(body, "{\"number\": %lld", &number);
  self->number = number;
  note(self, result, body != NULL, error);
  pyproc_reply_free(body);
  pyproc_error_free(error);
}

struct question {
  int64_t number, wait_ms, timeout_ms;
  const char *raises;
  pyproc_cancel *token;
};

static AsyncCalls__AskRequest request_of(const struct question *question) {
  AsyncCalls__AskRequest request = ASYNC_CALLS__ASK_REQUEST__INIT;
  request.number = question->number;
  request.wait_ms = question->wait_ms;
  if (question->raises != NULL) request.raises = question->raises;
  return request;
}

static pyproc_call_options options_of(const struct question *question) {
  pyproc_call_options options = PYPROC_CALL_OPTIONS_INIT;
  options.timeout_ms = question->timeout_ms;
  options.cancel = question->token;
  return options;
}

/* Whatever is passed in is gone, or changed, once the call was submitted. */
static int submit(pyproc_pool *pool, struct question question, struct outcome *outcome) {
  AsyncCalls__AskRequest request = request_of(&question);
  pyproc_call_options options = options_of(&question);
  outcome->pool = pool;
  int result = async_calls_asker_ask_submit(pool, &request, &options, on_asked, outcome, NULL);
  memset(&request, 0xff, sizeof request);
  memset(&options, 0xff, sizeof options);
  return result;
}

static int submit_json(pyproc_pool *pool, struct question question, struct outcome *outcome) {
  char body[128], name[] = "ask";
  pyproc_call_options options = options_of(&question);
  snprintf(body, sizeof body, "{\"number\":%lld,\"wait_ms\":%lld}", (long long)question.number,
           (long long)question.wait_ms);
  outcome->pool = pool;
  int result = pyproc_call_json_submit(pool, name, body, &options, on_asked_json, outcome, NULL);
  memset(body, 0, sizeof body);
  memset(name, 0, sizeof name);
  return result;
}

static pyproc_future *start(pyproc_pool *pool, struct question question) {
  AsyncCalls__AskRequest request = request_of(&question);
  pyproc_call_options options = options_of(&question);
  pyproc_future *future = NULL;
  pyproc_error *error = NULL;
  if (async_calls_asker_ask_start(pool, &request, &options, &future, &error) < 0)
    fail_msg("start: %s", pyproc_error_message(error));
  return future;
}

/* The result, and the number in the reply. */
static int finish(pyproc_future *future, int64_t *ret_number) {
  AsyncCalls__AskReply *reply = NULL;
  pyproc_error *error = NULL;
  int result = async_calls_asker_ask_finish(future, &reply, &error);
  if (ret_number != NULL) *ret_number = reply != NULL ? reply->number : -1;
  assert_int_equal(pyproc_error_code(error), result);
  assert_true((reply != NULL) == (result == 0));
  pyproc_reply_free(reply);
  pyproc_error_free(error);
  return result;
}

static bool is_readable(pyproc_pool *pool, int timeout_ms) {
  struct pollfd readable = {.fd = pyproc_pool_fd(pool), .events = POLLIN};
  return poll(&readable, 1, timeout_ms) == 1;
}

/* Runs callbacks until all outcomes are there. */
static void collect(pyproc_pool *pool, struct outcome *outcomes, int count) {
  for (int i = 0; i < count; i++)
    while (atomic_load(&outcomes[i].count) == 0) assert_true(pyproc_pool_dispatch(pool, -1) > 0);
}

static void assert_ended(const struct outcome *outcome, int result) {
  if (atomic_load(&outcome->count) != 1 || !outcome->is_consistent || outcome->result != result)
    fail_msg("%d callbacks, result %d instead of %d: %s", atomic_load(&outcome->count), outcome->result, result,
             outcome->message);
}

static void assert_answered(const struct outcome *outcome, int64_t number) {
  assert_ended(outcome, PYPROC_OK);
  assert_int_equal(outcome->number, number);
}

/* Waits until a worker runs, or holds, `count` calls. */
static void wait_for_load(pyproc_pool *pool, int64_t in_flight, int64_t queued) {
  pyproc_health health = PYPROC_HEALTH_INIT;
  for (int i = 0; i < 30000; i++) {
    assert_int_equal(pyproc_pool_health(pool, &health), PYPROC_OK);
    if (health.in_flight >= in_flight && health.queued >= queued) return;
    poll(NULL, 0, 1);
  }
  fail_msg("%lld calls in flight and %lld queued", (long long)health.in_flight, (long long)health.queued);
}

/* ---- answers and errors ---- */

static void answers_and_errors_reach_the_callback(void **state) {
  pyproc_pool *pool = open_pool(state, 1, 0);
  struct outcome outcomes[4] = {0};
  assert_false(is_readable(pool, 0));
  assert_int_equal(pyproc_pool_dispatch(pool, 0), 0);
  assert_int_equal(submit(pool, (struct question){.number = 7}, &outcomes[0]), PYPROC_OK);
  assert_int_equal(submit(pool, (struct question){.raises = "no such luck"}, &outcomes[1]), PYPROC_OK);
  assert_int_equal(submit_json(pool, (struct question){.number = 8}, &outcomes[2]), PYPROC_OK);
  assert_int_equal(pyproc_call_json_submit(pool, "nothing", "{}", NULL, on_asked_json, &outcomes[3], NULL), PYPROC_OK);
  collect(pool, outcomes, 4);
  assert_answered(&outcomes[0], 7);
  assert_ended(&outcomes[1], PYPROC_E_UNKNOWN);
  assert_non_null(strstr(outcomes[1].message, "no such luck"));
  assert_answered(&outcomes[2], 8);
  assert_ended(&outcomes[3], PYPROC_E_UNIMPLEMENTED);
  assert_false(is_readable(pool, 0));
  pyproc_health health = PYPROC_HEALTH_INIT;
  assert_int_equal(pyproc_pool_health(pool, &health), PYPROC_OK);
  assert_int_equal(health.calls, 4);
  assert_int_equal(health.failures, 2);
  pyproc_pool_close(pool);
  for (int i = 0; i < 4; i++) assert_int_equal(outcomes[i].count, 1);
}

static pyproc_done on_generic;
static void on_generic(int result, ProtobufCMessage *reply, pyproc_error *error, void *userdata) {
  on_asked(result, (AsyncCalls__AskReply *)(void *)reply, error, userdata);
}

static void generic_functions_do_the_same(void **state) {
  pyproc_pool *pool = open_pool(state, 1, 0);
  AsyncCalls__AskRequest request = ASYNC_CALLS__ASK_REQUEST__INIT;
  struct outcome outcome = {0};
  pyproc_future *future = NULL;
  ProtobufCMessage *reply = NULL;
  request.number = 12;
  assert_int_equal(
      pyproc_call_submit(pool, &async_calls_asker_ask_method, &request.base, NULL, on_generic, &outcome, NULL), 0);
  collect(pool, &outcome, 1);
  assert_answered(&outcome, 12);
  assert_int_equal(pyproc_call_start(pool, &async_calls_asker_ask_method, &request.base, NULL, &future, NULL), 0);
  assert_int_equal(pyproc_future_finish(future, &reply, NULL), 0);
  assert_int_equal(((AsyncCalls__AskReply *)(void *)reply)->number, 12);
  pyproc_reply_free(reply);
  pyproc_future_free(future);
  pyproc_pool_close(pool);
}

static int refusal(int result, pyproc_error **error) {
  assert_int_equal(pyproc_error_code(*error), result);
  pyproc_error_free(*error);
  *error = NULL;
  return result;
}

static void what_is_wrong_from_the_outset_has_no_callback(void **state) {
  pyproc_pool *pool = open_pool(state, 1, 0);
  AsyncCalls__AskRequest request = ASYNC_CALLS__ASK_REQUEST__INIT, broken = request;
  pyproc_call_options late = PYPROC_CALL_OPTIONS_INIT;
  pyproc_error *error = NULL;
  pyproc_future *future = NULL;
  struct outcome outcome = {0};
  late.timeout_ms = -1;
  broken.raises = "\xff";
  assert_int_equal(refusal(async_calls_asker_ask_submit(NULL, &request, NULL, on_asked, &outcome, &error), &error),
                   PYPROC_E_INVALID_ARGUMENT);
  assert_int_equal(refusal(async_calls_asker_ask_submit(pool, NULL, NULL, on_asked, &outcome, &error), &error),
                   PYPROC_E_INVALID_ARGUMENT);
  assert_int_equal(refusal(async_calls_asker_ask_submit(pool, &request, NULL, NULL, &outcome, &error), &error),
                   PYPROC_E_INVALID_ARGUMENT);
  assert_int_equal(refusal(async_calls_asker_ask_submit(pool, &broken, NULL, on_asked, &outcome, &error), &error),
                   PYPROC_E_INVALID_ARGUMENT);
  assert_int_equal(refusal(async_calls_asker_ask_submit(pool, &request, &late, on_asked, &outcome, &error), &error),
                   PYPROC_E_DEADLINE_EXCEEDED);
  assert_int_equal(refusal(pyproc_call_json_submit(pool, "ask", "{", NULL, on_asked_json, &outcome, &error), &error),
                   PYPROC_E_INVALID_ARGUMENT);
  assert_int_equal(refusal(async_calls_asker_ask_start(pool, &request, NULL, NULL, &error), &error),
                   PYPROC_E_INVALID_ARGUMENT);
  assert_int_equal(refusal(async_calls_asker_ask_start(pool, &request, &late, &future, &error), &error),
                   PYPROC_E_DEADLINE_EXCEEDED);
  assert_null(future);
  assert_int_equal(pyproc_pool_fd(NULL), PYPROC_E_INVALID_ARGUMENT);
  assert_int_equal(pyproc_pool_dispatch(NULL, 0), PYPROC_E_INVALID_ARGUMENT);
  assert_int_equal(pyproc_pool_dispatch(pool, 1), 0);
  pyproc_pool_close(pool);
  assert_int_equal(outcome.count, 0);
}

/* Requests and replies that no socket takes at once are written and read although nobody waits. */
static void large_messages_need_no_thread_either(void **state) {
  pyproc_pool *pool = open_pool(state, 1, 0);
  AsyncCalls__AskRequest request = ASYNC_CALLS__ASK_REQUEST__INIT;
  struct outcome outcomes[3] = {0};
  request.load.len = 3 << 20;
  request.load.data = calloc(1, request.load.len);
  assert_non_null(request.load.data);
  for (int i = 0; i < 3; i++)
    assert_int_equal(async_calls_asker_ask_submit(pool, &request, NULL, on_asked, &outcomes[i], NULL), PYPROC_OK);
  free(request.load.data);
  assert_true(is_readable(pool, -1));
  collect(pool, outcomes, 3);
  for (int i = 0; i < 3; i++) {
    assert_answered(&outcomes[i], 0);
    assert_int_equal(outcomes[i].load_size, 3 << 20);
  }
  pyproc_pool_close(pool);
}

/* ---- deadlines ---- */

static void deadline_makes_the_fd_readable(void **state) {
  pyproc_pool *pool = open_pool(state, 1, 1000);
  int fd = pyproc_pool_fd(pool);
  struct outcome outcomes[3] = {0};
  struct question question = {.wait_ms = LONG_MS, .timeout_ms = LONG_MS};
  assert_int_equal(submit(pool, question, &outcomes[0]), PYPROC_OK); /* not the nearest one */
  wait_for_load(pool, 1, 0);
  question.timeout_ms = 150;
  assert_int_equal(submit(pool, question, &outcomes[1]), PYPROC_OK); /* has not begun then */
  question.timeout_ms = 50;
  assert_int_equal(submit_json(pool, question, &outcomes[2]), PYPROC_OK);
  for (int i = 2; i > 0; i--) {
    assert_true(is_readable(pool, LONG_MS));
    assert_int_equal(pyproc_pool_dispatch(pool, 0), 1);
    assert_ended(&outcomes[i], PYPROC_E_DEADLINE_EXCEEDED);
    assert_int_equal(outcomes[i].may_have_run, 0);
    assert_false(is_readable(pool, 0));
  }
  assert_int_equal(pyproc_pool_fd(pool), fd);
  assert_int_equal(outcomes[0].count, 0);
  pyproc_pool_close(pool);
  assert_ended(&outcomes[0], PYPROC_E_UNAVAILABLE);
}

/* Deadlines that pass at about the time of the answer: one of the two is told, once, and no answer reaches another call. */
static void deadlines_race_with_answers(void **state) {
  pyproc_pool *pool = open_pool(state, 2, 0);
  int count = scaled(RACES);
  struct outcome *outcomes = calloc((size_t)count, sizeof *outcomes);
  assert_non_null(outcomes);
  for (int i = 0; i < count; i++) {
    struct question question = {.number = i, .timeout_ms = 1 + i % 7};
    assert_int_equal(submit(pool, question, &outcomes[i]), PYPROC_OK);
    if (i % 16 == 0) assert_true(pyproc_pool_dispatch(pool, i % 3) >= 0);
  }
  collect(pool, outcomes, count);
  pyproc_pool_close(pool);
  for (int i = 0; i < count; i++) {
    assert_int_equal(outcomes[i].count, 1);
    if (outcomes[i].result == PYPROC_OK)
      assert_answered(&outcomes[i], i);
    else
      assert_ended(&outcomes[i], PYPROC_E_DEADLINE_EXCEEDED);
  }
  free(outcomes);
}

/* ---- tokens ---- */

static void tokens_cancel_at_every_stage(void **state) {
  pyproc_pool *pool = open_pool(state, 1, 0);
  struct outcome running = {0}, queued = {0}, waiting = {0}, before = {0}, over = {0};
  pyproc_cancel *tokens[3];
  for (int i = 0; i < 3; i++) assert_int_equal(pyproc_cancel_new(&tokens[i]), PYPROC_OK);

  assert_int_equal(submit(pool, (struct question){.number = 1, .token = tokens[2]}, &over), PYPROC_OK);
  collect(pool, &over, 1);
  assert_int_equal(submit(pool, (struct question){.wait_ms = LONG_MS, .token = tokens[0]}, &running), PYPROC_OK);
  wait_for_load(pool, 1, 0);
  assert_int_equal(submit(pool, (struct question){.token = tokens[1]}, &queued), PYPROC_OK);
  assert_int_equal(submit_json(pool, (struct question){.token = tokens[1]}, &waiting), PYPROC_OK);
  pyproc_cancel_fire(tokens[1]);
  pyproc_cancel_free(tokens[1]);
  assert_true(is_readable(pool, LONG_MS));
  assert_int_equal(pyproc_pool_dispatch(pool, 0), 2);
  assert_ended(&queued, PYPROC_E_CANCELLED);
  assert_ended(&waiting, PYPROC_E_CANCELLED);
  assert_int_equal(queued.may_have_run, 0);
  assert_int_equal(running.count, 0);

  pyproc_cancel_fire(tokens[0]);
  assert_int_equal(submit(pool, (struct question){.token = tokens[0]}, &before), PYPROC_E_CANCELLED);
  collect(pool, &running, 1);
  assert_ended(&running, PYPROC_E_CANCELLED);
  pyproc_cancel_free(tokens[0]);
  pyproc_cancel_fire(tokens[2]); /* its call has long been told */
  pyproc_cancel_free(tokens[2]);
  pyproc_pool_close(pool);
  assert_int_equal(before.count, 0);
  assert_int_equal(over.count, 1);
}

static void *fire_all(void *argument) {
  pyproc_cancel **tokens = argument;
  for (int i = 0; tokens[i] != NULL; i++) {
    pyproc_cancel_fire(tokens[i]);
    pyproc_cancel_free(tokens[i]);
    if (i % 8 == 0) poll(NULL, 0, 1);
  }
  return NULL;
}

static void tokens_race_with_answers(void **state) {
  pyproc_pool *pool = open_pool(state, 2, 0);
  int count = scaled(RACES);
  struct outcome *outcomes = calloc((size_t)count, sizeof *outcomes);
  pyproc_cancel **tokens = calloc((size_t)count + 1, sizeof *tokens);
  bool *taken = calloc((size_t)count, sizeof *taken);
  pthread_t thread;
  assert_true(outcomes != NULL && tokens != NULL && taken != NULL);
  for (int i = 0; i < count; i++) assert_int_equal(pyproc_cancel_new(&tokens[i]), PYPROC_OK);
  pyproc_cancel **first_half = malloc((size_t)count * sizeof *first_half);
  assert_non_null(first_half);
  for (int i = 0; i < count; i++) {
    struct question question = {.number = i, .token = tokens[i]};
    taken[i] = submit(pool, question, &outcomes[i]) == PYPROC_OK;
    if (i == count / 2) {
      memcpy(first_half, tokens, (size_t)count * sizeof *first_half);
      first_half[count / 2] = NULL; /* fired while the second half is submitted */
      assert_int_equal(pthread_create(&thread, NULL, fire_all, first_half), 0);
    }
  }
  for (int i = count / 2; i < count; i++) {
    pyproc_cancel_fire(tokens[i]);
    pyproc_cancel_free(tokens[i]);
  }
  pthread_join(thread, NULL);
  for (int i = 0; i < count; i++) {
    assert_true(taken[i]);
    collect(pool, &outcomes[i], 1);
    if (outcomes[i].result == PYPROC_OK)
      assert_answered(&outcomes[i], i);
    else
      assert_ended(&outcomes[i], PYPROC_E_CANCELLED);
  }
  pyproc_pool_close(pool);
  free(first_half);
  free(taken);
  free(tokens);
  free(outcomes);
}

/* ---- the end of a worker, the end of a pool ---- */

static void call_under_which_the_worker_dies_is_told(void **state) {
  pyproc_pool *pool = open_pool(state, 1, 0);
  struct outcome outcomes[4] = {0};
  assert_int_equal(submit(pool, (struct question){.number = 1}, &outcomes[0]), PYPROC_OK);
  collect(pool, outcomes, 1);
  assert_int_equal(submit(pool, (struct question){.wait_ms = LONG_MS}, &outcomes[1]), PYPROC_OK);
  assert_int_equal(submit(pool, (struct question){.number = 2}, &outcomes[2]), PYPROC_OK);
  pyproc_future *future = start(pool, (struct question){.number = 3});
  poll(NULL, 0, 50); /* so that the first one has most likely begun */
  assert_int_equal(kill((pid_t)outcomes[0].pid, SIGKILL), 0);
  collect(pool, outcomes, 3);
  /* what had not begun runs on the next worker */
  if (outcomes[1].result != PYPROC_OK) assert_ended(&outcomes[1], PYPROC_E_UNAVAILABLE);
  assert_answered(&outcomes[2], 2);
  assert_int_not_equal(outcomes[2].pid, outcomes[0].pid);
  int64_t number;
  assert_int_equal(finish(future, &number), PYPROC_OK);
  assert_int_equal(number, 3);
  pyproc_future_free(future);
  pyproc_pool_close(pool);
}

static void submit_again(int result, AsyncCalls__AskReply *reply, pyproc_error *error, void *userdata) {
  struct outcome *self = userdata;
  on_asked(result, reply, error, self);
  struct outcome never = {0};
  self->number = submit(self->pool, (struct question){.number = 1}, &never);
}

static void close_runs_what_is_left(void **state) {
  pyproc_pool *pool = open_pool(state, 1, 100);
  AsyncCalls__AskRequest request = ASYNC_CALLS__ASK_REQUEST__INIT;
  struct outcome outcomes[4] = {0};
  assert_int_equal(submit(pool, (struct question){.number = 1}, &outcomes[0]), PYPROC_OK);
  assert_true(is_readable(pool, LONG_MS)); /* over, and not dispatched */
  assert_int_equal(submit(pool, (struct question){.number = 2, .wait_ms = 20}, &outcomes[1]), PYPROC_OK);
  assert_int_equal(submit(pool, (struct question){.wait_ms = LONG_MS, .timeout_ms = LONG_MS}, &outcomes[2]), PYPROC_OK);
  outcomes[3].pool = pool;
  assert_int_equal(async_calls_asker_ask_submit(pool, &request, NULL, submit_again, &outcomes[3], NULL), PYPROC_OK);
  pyproc_pool_close(pool);
  assert_answered(&outcomes[0], 1);
  assert_answered(&outcomes[1], 2); /* it ended within drain_timeout_ms */
  assert_ended(&outcomes[2], PYPROC_E_UNAVAILABLE);
  assert_ended(&outcomes[3], PYPROC_E_UNAVAILABLE);
  assert_int_equal(outcomes[3].number, PYPROC_E_UNAVAILABLE);
  for (int i = 0; i < 4; i++) assert_true(pthread_equal(outcomes[i].thread, pthread_self()));
}

typedef struct dispatcher {
  pyproc_pool *pool;
  atomic_int entered;
  int result;
} dispatcher;

static void *dispatch_until_it_fails(void *argument) {
  dispatcher *self = argument;
  atomic_store(&self->entered, 1);
  do self->result = pyproc_pool_dispatch(self->pool, -1);
  while (self->result >= 0 || self->result == PYPROC_E_FAILED_PRECONDITION); /* another thread is about it just now */
  return NULL;
}

static void close_ends_a_thread_that_dispatches(void **state) {
  dispatcher self = {.pool = open_pool(state, 1, 0)};
  struct outcome outcome = {0};
  pthread_t thread;
  assert_int_equal(pthread_create(&thread, NULL, dispatch_until_it_fails, &self), 0);
  assert_int_equal(submit(self.pool, (struct question){.number = 3}, &outcome), PYPROC_OK);
  while (atomic_load(&outcome.count) == 0) poll(NULL, 0, 1);
  assert_true(pthread_equal(outcome.thread, thread));
  pyproc_pool_close(self.pool);
  pthread_join(thread, NULL);
  assert_int_equal(self.result, PYPROC_E_UNAVAILABLE);
  assert_answered(&outcome, 3);
}

static void one_thread_dispatches_at_a_time(void **state) {
  dispatcher self = {.pool = open_pool(state, 1, 0)};
  pthread_t thread;
  int result;
  assert_int_equal(pthread_create(&thread, NULL, dispatch_until_it_fails, &self), 0);
  while (atomic_load(&self.entered) == 0) poll(NULL, 0, 1);
  while ((result = pyproc_pool_dispatch(self.pool, 0)) == 0) poll(NULL, 0, 1); /* it is about to wait */
  assert_int_equal(result, PYPROC_E_FAILED_PRECONDITION);
  pyproc_pool_close(self.pool);
  pthread_join(thread, NULL);
}

/* ---- many ---- */

typedef struct chain {
  struct outcome outcome;
  int left, failures, nested;
  pyproc_cancel *token;
} chain;

static void next_in_chain(int result, AsyncCalls__AskReply *reply, pyproc_error *error, void *userdata) {
  chain *self = userdata;
  self->failures += result != PYPROC_OK || reply->number != self->left;
  pyproc_reply_free(reply);
  pyproc_error_free(error);
  if (self->left % 50 == 0) self->nested += pyproc_pool_dispatch(self->outcome.pool, 0) == PYPROC_E_FAILED_PRECONDITION;
  if (--self->left == 0) {
    pyproc_cancel_fire(self->token); /* fires at a call that is in flight */
    return;
  }
  AsyncCalls__AskRequest request = ASYNC_CALLS__ASK_REQUEST__INIT;
  request.number = self->left;
  if (async_calls_asker_ask_submit(self->outcome.pool, &request, NULL, next_in_chain, self, NULL) < 0) abort();
}

static void callbacks_may_submit_and_cancel(void **state) {
  chain self = {.outcome.pool = open_pool(state, 2, 0), .left = CHAIN};
  struct outcome bystander = {0};
  AsyncCalls__AskRequest request = ASYNC_CALLS__ASK_REQUEST__INIT;
  request.number = CHAIN;
  assert_int_equal(pyproc_cancel_new(&self.token), PYPROC_OK);
  struct question question = {.wait_ms = LONG_MS, .timeout_ms = 2 * LONG_MS, .token = self.token};
  assert_int_equal(submit(self.outcome.pool, question, &bystander), PYPROC_OK);
  assert_int_equal(async_calls_asker_ask_submit(self.outcome.pool, &request, NULL, next_in_chain, &self, NULL),
                   PYPROC_OK);
  collect(self.outcome.pool, &bystander, 1);
  assert_int_equal(self.left, 0);
  assert_int_equal(self.failures, 0);
  assert_int_equal(self.nested, CHAIN / 50);
  assert_ended(&bystander, PYPROC_E_CANCELLED);
  pyproc_cancel_free(self.token);
  pyproc_pool_close(self.outcome.pool);
}

static void thousands_in_flight_get_their_own_answers(void **state) {
  pyproc_pool *pool = open_pool(state, 2, 0);
  int count = scaled(PIPELINED);
  struct outcome *outcomes = calloc((size_t)count, sizeof *outcomes);
  assert_non_null(outcomes);
  for (int i = 0; i < count; i++)
    assert_int_equal((i % 4 == 3 ? submit_json : submit)(pool, (struct question){.number = i}, &outcomes[i]),
                     PYPROC_OK);
  collect(pool, outcomes, count);
  assert_false(is_readable(pool, 0));
  pyproc_pool_close(pool);
  for (int i = 0; i < count; i++) assert_answered(&outcomes[i], i);
  free(outcomes);
}

typedef struct submitter {
  pyproc_pool *pool;
  pthread_t thread;
  struct outcome outcomes[EACH];
  int refused, wrong;
} submitter;

/* Every fifth call is made the blocking way, in between. */
static void *submit_many(void *argument) {
  submitter *self = argument;
  for (int i = 0; i < EACH; i++) {
    struct question question = {.number = i, .timeout_ms = i % 11 == 0 ? 2 : 0};
    if (i % 5 != 0) {
      self->refused += submit(self->pool, question, &self->outcomes[i]) < 0;
      continue;
    }
    AsyncCalls__AskRequest request = ASYNC_CALLS__ASK_REQUEST__INIT;
    AsyncCalls__AskReply *reply = NULL;
    request.number = i;
    if (async_calls_asker_ask(self->pool, &request, &reply, NULL) < 0 || reply->number != i) self->wrong++;
    pyproc_reply_free(reply);
  }
  return NULL;
}

static void many_threads_submit_while_one_dispatches(void **state) {
  dispatcher one = {.pool = open_pool(state, 2, LONG_MS)};
  submitter *submitters = calloc(SUBMITTERS, sizeof *submitters);
  pthread_t thread;
  assert_non_null(submitters);
  assert_int_equal(pthread_create(&thread, NULL, dispatch_until_it_fails, &one), 0);
  for (int i = 0; i < SUBMITTERS; i++) {
    submitters[i].pool = one.pool;
    assert_int_equal(pthread_create(&submitters[i].thread, NULL, submit_many, &submitters[i]), 0);
  }
  for (int i = 0; i < SUBMITTERS; i++) pthread_join(submitters[i].thread, NULL);
  pyproc_pool_close(one.pool);
  pthread_join(thread, NULL);
  assert_int_equal(one.result, PYPROC_E_UNAVAILABLE);
  for (int i = 0; i < SUBMITTERS; i++) {
    assert_int_equal(submitters[i].refused, 0);
    assert_int_equal(submitters[i].wrong, 0);
    for (int j = 0; j < EACH; j++) {
      const struct outcome *outcome = &submitters[i].outcomes[j];
      if (j % 5 == 0)
        assert_int_equal(outcome->count, 0);
      else if (j % 11 == 0 && outcome->result == PYPROC_E_DEADLINE_EXCEEDED)
        assert_ended(outcome, PYPROC_E_DEADLINE_EXCEEDED);
      else
        assert_answered(outcome, j);
    }
  }
  free(submitters);
}

/* ---- futures ---- */

static void futures_are_waited_for(void **state) {
  pyproc_pool *pool = open_pool(state, 2, 0), *other = open_pool(state, 1, 0);
  pyproc_future *futures[6] = {NULL};
  int64_t number;
  assert_int_equal(pyproc_future_wait_all(NULL, 0, 0), 0);
  assert_int_equal(pyproc_future_wait_all(futures, 6, -1), 0);
  assert_int_equal(pyproc_future_wait_any(futures, 6, -1), PYPROC_E_INVALID_ARGUMENT);
  assert_int_equal(pyproc_future_wait_any(NULL, 1, -1), PYPROC_E_INVALID_ARGUMENT);

  for (int i = 0; i < 6; i++) futures[i] = start(i < 4 ? pool : other, (struct question){.number = i});
  assert_int_equal(pyproc_future_wait_all(futures, 6, -1), 0);
  assert_int_equal(pyproc_future_wait_all(futures, 6, 0), 0);
  assert_int_equal(pyproc_future_wait_any(futures, 6, 0), 0);
  assert_false(is_readable(pool, 0)); /* futures have no callbacks */
  for (int i = 0; i < 6; i++) {
    assert_int_equal(finish(futures[i], &number), PYPROC_OK);
    assert_int_equal(number, i);
    assert_int_equal(finish(futures[i], NULL), PYPROC_E_FAILED_PRECONDITION);
    pyproc_future_free(futures[i]);
    futures[i] = NULL;
  }

  futures[1] = start(pool, (struct question){.number = 1, .wait_ms = LONG_MS});
  futures[3] = start(other, (struct question){.number = 3, .wait_ms = 30});
  assert_int_equal(pyproc_future_wait_any(futures, 6, 1), PYPROC_E_DEADLINE_EXCEEDED);
  assert_int_equal(pyproc_future_wait_all(futures, 6, 1), PYPROC_E_DEADLINE_EXCEEDED);
  assert_int_equal(pyproc_future_wait_all(futures, 6, 0), PYPROC_E_DEADLINE_EXCEEDED);
  assert_int_equal(pyproc_future_wait_any(futures, 6, -1), 3);
  assert_int_equal(finish(futures[3], &number), PYPROC_OK);
  assert_int_equal(number, 3);
  pyproc_future_free(futures[3]);
  pyproc_future_free(futures[1]); /* cancels it */
  futures[0] = start(pool, (struct question){.number = 9});
  assert_int_equal(finish(futures[0], &number), PYPROC_OK); /* waits by itself */
  assert_int_equal(number, 9);
  pyproc_future_free(futures[0]);
  pyproc_future_free(NULL);
  pyproc_pool_close(pool);
  pyproc_pool_close(other);
}

static void futures_end_in_every_way(void **state) {
  pyproc_pool *pool = open_pool(state, 1, 50);
  pyproc_cancel *token = NULL;
  pyproc_error *error = NULL;
  AsyncCalls__AskReply *reply = NULL;
  assert_int_equal(pyproc_cancel_new(&token), PYPROC_OK);
  pyproc_future *cancelled = start(pool, (struct question){.wait_ms = LONG_MS, .token = token});
  pyproc_future *late = start(pool, (struct question){.timeout_ms = 40});
  pyproc_future *raising = start(pool, (struct question){.raises = "oh"});
  pyproc_future *after = start(pool, (struct question){.number = 5, .token = token});
  wait_for_load(pool, 1, 0);
  assert_int_equal(finish(late, NULL), PYPROC_E_DEADLINE_EXCEEDED);
  pyproc_cancel_fire(token);
  assert_int_equal(finish(cancelled, NULL), PYPROC_E_CANCELLED);
  assert_int_equal(finish(after, NULL), PYPROC_E_CANCELLED);
  assert_int_equal(finish(raising, NULL), PYPROC_E_UNKNOWN);
  pyproc_cancel_free(token);
  pyproc_future_free(cancelled);
  pyproc_future_free(after);
  pyproc_future_free(raising);
  pyproc_future_free(late);

  pyproc_future *wrong = start(pool, (struct question){.number = 6});
  assert_int_equal(refusal(async_calls_asker_ask_again_finish(wrong, &reply, &error), &error),
                   PYPROC_E_INVALID_ARGUMENT);
  assert_int_equal(refusal(async_calls_asker_ask_finish(wrong, NULL, &error), &error), PYPROC_E_INVALID_ARGUMENT);
  assert_int_equal(refusal(async_calls_asker_ask_finish(NULL, &reply, &error), &error), PYPROC_E_INVALID_ARGUMENT);
  assert_int_equal(finish(wrong, NULL), PYPROC_OK);
  pyproc_future_free(wrong);
  pyproc_pool_close(pool);
}

static void futures_outlive_their_pool(void **state) {
  pyproc_pool *pool = open_pool(state, 1, 50);
  pyproc_cancel *token = NULL;
  int64_t number;
  assert_int_equal(pyproc_cancel_new(&token), PYPROC_OK);
  pyproc_future *done = start(pool, (struct question){.number = 4, .token = token});
  assert_int_equal(pyproc_future_wait_any(&done, 1, -1), 0);
  pyproc_future *unfinished = start(pool, (struct question){.wait_ms = LONG_MS, .timeout_ms = LONG_MS, .token = token});
  pyproc_future *dropped = start(pool, (struct question){.wait_ms = LONG_MS, .timeout_ms = LONG_MS});
  pyproc_pool_close(pool);
  pyproc_cancel_fire(token); /* both are still on it, and over */
  assert_int_equal(pyproc_future_wait_all(&unfinished, 1, 0), 0);
  assert_int_equal(finish(done, &number), PYPROC_OK);
  assert_int_equal(number, 4);
  assert_int_equal(finish(unfinished, NULL), PYPROC_E_UNAVAILABLE);
  pyproc_future_free(done);
  pyproc_future_free(unfinished);
  pyproc_future_free(dropped);
  pyproc_cancel_free(token);
}

static void *close_it(void *argument) {
  pyproc_pool_close(argument);
  return NULL;
}

/* Futures are freed, and tokens fired, while the pool is being closed. */
static void freeing_races_with_closing(void **state) {
  for (int round = 0; round < scaled(6); round++) {
    pyproc_pool *pool = open_pool(state, 1, 1);
    pyproc_future *futures[20];
    pyproc_cancel *token = NULL;
    pthread_t thread;
    assert_int_equal(pyproc_cancel_new(&token), PYPROC_OK);
    for (size_t i = 0; i < LENGTH(futures); i++)
      futures[i] = start(pool, (struct question){.wait_ms = (int64_t)i % 3, .token = i % 2 == 0 ? token : NULL});
    assert_int_equal(pthread_create(&thread, NULL, close_it, pool), 0);
    for (size_t i = 0; i < LENGTH(futures); i++) {
      if (i == LENGTH(futures) / 2) pyproc_cancel_fire(token);
      pyproc_future_free(futures[i]);
    }
    pthread_join(thread, NULL);
    pyproc_cancel_free(token);
  }
}

/* ---- fork ---- */

static void forked_child_has_no_use_for_it(void **state) {
  pyproc_pool *pool = open_pool(state, 1, 50);
  struct outcome outcome = {0};
  pyproc_future *future = start(pool, (struct question){.wait_ms = 100, .number = 2});
  fflush(NULL);
  pid_t child = fork();
  assert_true(child >= 0);
  if (child == 0) {
    int wrong = (pyproc_pool_fd(pool) != PYPROC_E_FAILED_PRECONDITION) +
                (pyproc_pool_dispatch(pool, -1) != PYPROC_E_FAILED_PRECONDITION) +
                (submit(pool, (struct question){.number = 1}, &outcome) != PYPROC_E_FAILED_PRECONDITION) +
                (pyproc_future_wait_all(&future, 1, -1) != PYPROC_E_FAILED_PRECONDITION) +
                (pyproc_future_finish(future, &(ProtobufCMessage *){NULL}, NULL) != PYPROC_E_FAILED_PRECONDITION);
    pyproc_future_free(future);
    pyproc_pool_close(pool);
    _exit(wrong);
  }
  int status = -1;
  int64_t number;
  assert_int_equal(waitpid(child, &status, 0), child);
  assert_int_equal(status, 0);
  assert_int_equal(finish(future, &number), PYPROC_OK);
  assert_int_equal(number, 2);
  pyproc_future_free(future);
  pyproc_pool_close(pool);
}

#define BOTH(function) \
  {#function " (protobuf)", function, NULL, NULL, (void *)(uintptr_t) "protobuf"}, { \
#function " (json)", function, NULL, NULL, (void *)(uintptr_t) "json" \
  }

int main(void) {
  const struct CMUnitTest tests[] = {
      BOTH(answers_and_errors_reach_the_callback),
      BOTH(generic_functions_do_the_same),
      BOTH(what_is_wrong_from_the_outset_has_no_callback),
      BOTH(large_messages_need_no_thread_either),
      BOTH(deadline_makes_the_fd_readable),
      BOTH(deadlines_race_with_answers),
      BOTH(tokens_cancel_at_every_stage),
      BOTH(tokens_race_with_answers),
      BOTH(call_under_which_the_worker_dies_is_told),
      BOTH(close_runs_what_is_left),
      BOTH(close_ends_a_thread_that_dispatches),
      BOTH(one_thread_dispatches_at_a_time),
      BOTH(callbacks_may_submit_and_cancel),
      BOTH(thousands_in_flight_get_their_own_answers),
      BOTH(many_threads_submit_while_one_dispatches),
      BOTH(futures_are_waited_for),
      BOTH(futures_end_in_every_way),
      BOTH(futures_outlive_their_pool),
      BOTH(freeing_races_with_closing),
      BOTH(forked_child_has_no_use_for_it),
  };
  cmocka_set_test_filter(getenv("PYPROC_TEST_FILTER"));
  return cmocka_run_group_tests(tests, NULL, NULL);
}
