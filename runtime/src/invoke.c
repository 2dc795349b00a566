/*
 * invoke.c - the unary calls of the public API: encode, enter, wait, decode.
 */
#include <inttypes.h>
#include <string.h>

#include "call_setup.h"
#include "cancel.h"
#include "error.h"

/* ---- waiting ---- */

static bool is_placed(void *argument) {
  const struct call *call = argument;
  return atomic_load(&call->done) || atomic_load(&call->cancelled) || atomic_load(&call->connection) != NULL;
}

static void wait_for(pyproc_pool *pool, struct call *call) {
  call_wait wait = {.call = call, .waiter = &call->waiter, .deadline_ns = call->deadline_ns};
  while (!atomic_load(&call->done) && !atomic_load(&call->cancelled) && platform_now_ns() < call->deadline_ns) {
    struct connection *connection = atomic_load(&call->connection);
    if (connection != NULL)
      connection->protocol->progress(connection, &wait);
    else
      lot_sleep(&pool->lot, &call->waiter, is_placed, call, call->deadline_ns);
  }
}

/* The deadline has passed, or the token has fired. */
static int give_up(pyproc_pool *pool, struct call *call, int64_t timeout_ms, pyproc_error **reterr) {
  int code = atomic_load(&call->cancelled) ? PYPROC_E_CANCELLED : PYPROC_E_DEADLINE_EXCEEDED;
  const struct connection *last = atomic_load(&call->connection);
  while (!atomic_load(&call->done)) {
    int may_have_run = admission_withdraw(&pool->admission, call, code);
    if (may_have_run >= 0)
      return error_give(reterr, call_setup_given_up(pool, call, code, last, timeout_ms, may_have_run));
    platform_yield(); /* somebody is just ending it, or giving it back */
  }
  return PYPROC_OK;
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
  int result = admission_enter(&pool->admission, call, reterr);
  if (result >= 0) {
    wait_for(pool, call);
    if (!atomic_load(&call->done)) result = give_up(pool, call, timeout_ms, reterr);
    if (result >= 0) result = call_setup_result(call, reterr);
  }
  if (token != NULL) cancel_detach(token, &entry);
  return result;
}

/* Everything between an encoded frame, which it takes over, and the reply's body. */
static int invoke(pyproc_pool *pool, struct call *call, call_method method, frame_block *frame,
                  const pyproc_call_options *options, pyproc_error **reterr) {
  int64_t timeout_ms = call_setup_timeout(pool, method.typed, options);
  call_init(call, &pool->lot, method, frame, call_setup_deadline(timeout_ms));
  int result = call_setup_check(pool, call, timeout_ms, reterr);
  return result >= 0 ? run(pool, call, timeout_ms, options->cancel, reterr) : result;
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
  if (result >= 0) result = call_setup_take_json(&call, ret_body, reterr);
  call_clear(&call);
  return count(pool, result);
}
