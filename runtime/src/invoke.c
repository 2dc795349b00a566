/*
 * invoke.c - the unary calls of the public API: encode, enter, wait, decode.
 */
#include <inttypes.h>
#include <string.h>

#include "call_setup.h"
#include "cancel.h"
#include "error.h"
#include "retry.h"

/* ---- waiting ---- */

static bool is_placed(void *argument) {
  const struct call *call = argument;
  return atomic_load(&call->done) || atomic_load(&call->cancelled) || atomic_load(&call->connection) != NULL;
}

static void wait_for(pyproc_pool *pool, struct call *call) {
  call_wait wait = {.call = call, .waiter = &call->waiter, .deadline_ns = call->deadline_ns};
  while (!atomic_load(&call->done) && !atomic_load(&call->cancelled)) {
    struct connection *connection = atomic_load(&call->connection);
    if (connection != NULL)
      connection->protocol->progress(connection, &wait);
    else
      lot_sleep(&pool->lot, &call->waiter, is_placed, call, call->deadline_ns);
    if (!atomic_load(&call->done) && platform_now_ns() >= call->deadline_ns) break;
  }
}

/* Withdraws the call, or asks its worker to stop it. -1: it is done. */
static int leave(pyproc_pool *pool, struct call *call, int code, int (*how)(struct admission *, struct call *, int)) {
  int result = -1;
  while (result < 0 && !atomic_load(&call->done)) {
    result = how(&pool->admission, call, code);
    if (result < 0) platform_yield(); /* somebody is just ending it, or giving it back */
  }
  return result;
}

/* The deadline has passed, or the token, of which the call was taken off, has fired. Where the handler runs the call
 * stays a moment to hear how it ends. */
static int give_up(pyproc_pool *pool, struct call *call, int64_t timeout_ms, pyproc_error **reterr) {
  int code = atomic_load(&call->cancelled) ? PYPROC_E_CANCELLED : PYPROC_E_DEADLINE_EXCEEDED;
  const struct connection *last = atomic_load(&call->connection);
  int result = leave(pool, call, code, admission_ask);
  if (result == CONNECTION_ASKED) {
    int64_t deadline_ns = call->deadline_ns;
    atomic_store(&call->cancelled, false);
    call->deadline_ns = platform_now_ns() + CALL_SETUP_WORD_NS;
    wait_for(pool, call);
    call->deadline_ns = deadline_ns;
    result = leave(pool, call, code, admission_withdraw);
  }
  return result < 0 ? PYPROC_OK : error_give(reterr, call_setup_given_up(pool, call, code, last, timeout_ms, result));
}

typedef struct cancel_target {
  pyproc_pool *pool;
  struct call *call;
} cancel_target;

static void on_cancel(void *argument) {
  const cancel_target *target = argument;
  atomic_store(&target->call->cancelled, true);
  struct connection *connection = atomic_load(&target->call->connection);
  if (connection != NULL) connection->protocol->nudge(connection);
  lot_wake(&target->pool->lot, target->call->waiter.bit);
}

/* Runs the call to its end. Afterwards it is done, with a body, or an error was returned. */
static int run(pyproc_pool *pool, struct call *call, int64_t timeout_ms, pyproc_cancel *token, pyproc_error **reterr) {
  cancel_target target = {.pool = pool, .call = call};
  cancel_entry entry = {.fired = on_cancel, .argument = &target};
  if (token != NULL && !cancel_attach(token, &entry))
    return error_set(reterr, PYPROC_E_CANCELLED, "%s was cancelled before it was sent", call->method.name);
  call->is_put_off = true; /* written in wait_for */
  int result = admission_enter(&pool->admission, call, reterr);
  if (result >= 0) wait_for(pool, call);
  if (token != NULL) cancel_detach(token, &entry);
  if (result >= 0 && !atomic_load(&call->done)) result = give_up(pool, call, timeout_ms, reterr);
  call_resume(call);
  if (result < 0) return result;
  if (call->error == NULL || pyproc_error_type(call->error) != NULL) admission_absolve(&pool->admission, call);
  call_setup_stopped(call, timeout_ms);
  return call_setup_result(call, reterr);
}

/* Everything between an encoded frame, which it takes over, and the reply's body. */
static int invoke(pyproc_pool *pool, struct call *call, call_method method, frame_block *frame,
                  const pyproc_call_options *options, pyproc_error **reterr) {
  int64_t timeout_ms = call_setup_timeout(pool, method.typed, options);
  int64_t now = platform_now_ns();
  call_init(call, &pool->lot, method, frame, call_setup_deadline(timeout_ms, now));
  call->now_ns = now;
  int result = call_setup_check(pool, call, timeout_ms, reterr);
  if (result < 0) return result;
  retry again;
  pyproc_error *error = NULL;
  pyproc_cancel *token = cancel_ref(options->cancel); /* its owner may free it at any time */
  retry_init(&again, call, options->max_attempts);
  do result = run(pool, call, timeout_ms, token, &error);
  while (result < 0 && retry_wait(&again, pool, call, token, timeout_ms, &error));
  pyproc_cancel_free(token);
  if (result < 0) retry_sum_up(&again, call, error);
  retry_clear(&again);
  return result < 0 ? error_give(reterr, error) : result;
}

static int count(pyproc_pool *pool, int result) {
  pool_count(pool, result);
  pool_leave(pool);
  return result;
}

int pyproc_call(pyproc_pool *pool, const pyproc_method *method, const ProtobufCMessage *request,
                const pyproc_call_options *given, ProtobufCMessage **ret_reply, pyproc_error **reterr) {
  pyproc_call_options options;
  frame_block *frame = NULL;
  struct call call;
  int result = pool_enter(pool, reterr);
  if (result < 0) return result;
  if (ret_reply == NULL) result = error_set(reterr, PYPROC_E_INVALID_ARGUMENT, "ret_reply is NULL");
  if (result >= 0) result = call_setup_message(pool, method, request, given, &options, &frame, reterr);
  if (result < 0) return count(pool, result);
  result = invoke(pool, &call, (call_method){.name = method->name, .typed = method}, frame, &options, reterr);
  if (result >= 0)
    result = call_setup_take_message(&call, pool->options.codec, pool->options.frame_limit, ret_reply, reterr);
  call_clear(&call);
  return count(pool, result);
}

int pyproc_call_json(pyproc_pool *pool, const char *method, const char *body, const pyproc_call_options *given,
                     char **ret_body, pyproc_error **reterr) {
  pyproc_call_options options;
  frame_block *frame = NULL;
  struct call call;
  int result = pool_enter(pool, reterr);
  if (result < 0) return result;
  if (ret_body == NULL) result = error_set(reterr, PYPROC_E_INVALID_ARGUMENT, "ret_body is NULL");
  if (result >= 0) result = call_setup_json(pool, method, body, given, &options, &frame, reterr);
  if (result < 0) return count(pool, result);
  result = invoke(pool, &call, (call_method){.name = method}, frame, &options, reterr);
  if (result >= 0)
    result = call_setup_take_json(&call, pool->options.codec, pool->options.frame_limit, ret_body, reterr);
  call_clear(&call);
  return count(pool, result);
}
