#include "retry.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "call_setup.h"
#include "cancel.h"
#include "error.h"

enum { ATTEMPTS_MAX = 10, NS_PER_MS = 1000000 };

/* For calls whose schema has no policy, but whose caller wants attempts; the same as schema/pyproc/options.proto says. */
static const pyproc_retry default_policy = {
    .size = sizeof(pyproc_retry),
    .max_attempts = 3,
    .initial_backoff_ms = 100,
    .max_backoff_ms = 5000,
    .backoff_multiplier_permille = 2000,
    .codes = UINT64_C(1) << -PYPROC_E_UNAVAILABLE,
};

int retry_check(int64_t max_attempts, pyproc_error **reterr) {
  if (max_attempts >= 0 && max_attempts <= ATTEMPTS_MAX) return PYPROC_OK;
  return error_set(reterr, PYPROC_E_INVALID_ARGUMENT, "option max_attempts is %" PRId64 "; allowed are 0 to %d",
                   max_attempts, ATTEMPTS_MAX);
}

void retry_init(retry *self, const struct call *call, int64_t max_attempts) {
  const pyproc_method *method = call->method.typed;
  *self = (retry){.deadline_ns = call->deadline_ns};
  if (method != NULL && method->kind != PYPROC_RPC_UNARY) return;
  const pyproc_retry *policy = method != NULL ? method->retry : NULL;
  if (max_attempts == 0) max_attempts = policy != NULL ? policy->max_attempts : 1;
  if (max_attempts <= 1) return;
  self->policy = policy != NULL ? policy : &default_policy;
  self->left = max_attempts - 1;
  self->bound_ms = self->policy->initial_backoff_ms;
  self->is_idempotent = method != NULL && (method->flags & PYPROC_METHOD_IDEMPOTENT) != 0;
}

void retry_clear(retry *self) {
  pyproc_error_free(self->last);
  self->last = NULL;
}

/* Full jitter: any time up to the bound, which grows. */
static int64_t next_pause_ns(retry *self) {
  const pyproc_retry *policy = self->policy;
  uint64_t bound_ns = (uint64_t)self->bound_ms * NS_PER_MS;
  int64_t grown = self->bound_ms * policy->backoff_multiplier_permille / 1000; /* a day, by ten, in ms: no overflow */
  self->bound_ms = grown < policy->max_backoff_ms ? grown : policy->max_backoff_ms;
  return (int64_t)(platform_random64() % (bound_ns + 1));
}

bool retry_plan(retry *self, pyproc_error **error, int64_t *ret_at_ns) {
  if (self->left <= 0) return false;
  uint64_t code = UINT64_C(1) << -pyproc_error_code(*error);
  bool may_have_run = pyproc_error_may_have_run(*error);
  if ((self->policy->codes & code) == 0 || (may_have_run && !self->is_idempotent)) return false;
  int64_t at_ns = platform_now_ns() + next_pause_ns(self);
  if (at_ns >= self->deadline_ns) return false;
  self->left--;
  self->may_have_run |= may_have_run;
  pyproc_error_free(self->last);
  self->last = *error;
  *error = NULL;
  *ret_at_ns = at_ns;
  return true;
}

pyproc_error *retry_take_last(retry *self) {
  pyproc_error *last = self->last;
  self->last = NULL;
  return last;
}

/* A connection may still be about to write the old bytes. */
static bool renew_frame(struct call *call) {
  if (atomic_load(&call->frame->references) == 1) return true;
  frame_block *frame = frame_block_copy(call->frame);
  if (frame == NULL) return false;
  frame_block_unref(call->frame);
  call->frame = frame;
  return true;
}

bool retry_renew(const retry *self, struct call *call) {
  if (!renew_frame(call)) return false;
  if (call->block != call->small) free(call->block);
  call->block = NULL;
  call->body = NULL;
  call->body_size = call->metadata_size = 0;
  call->is_checked = false;
  call->asked = 0;
  call->may_have_run = false;
  call->attempts_before = call->attempts;
  call->now_ns = 0; /* it has waited */
  call->deadline_ns = self->deadline_ns;
  atomic_store(&call->connection, NULL);
  atomic_store(&call->done, false);
  return true;
}

/* ---- the pause of a blocking call ---- */

typedef struct pausing {
  pyproc_pool *pool;
  struct call *call;
  atomic_bool cancelled;
} pausing;

static void on_cancel(void *argument) {
  pausing *self = argument;
  atomic_store(&self->cancelled, true);
  lot_wake(&self->pool->lot, self->call->waiter.bit);
}

static bool is_ended(void *argument) {
  pausing *self = argument;
  return atomic_load(&self->cancelled) || gate_is_closing(&self->pool->gate);
}

/* Returns whether the token was fired. */
static bool pause_until(pyproc_pool *pool, struct call *call, pyproc_cancel *token, int64_t at_ns) {
  pausing self = {.pool = pool, .call = call};
  cancel_entry entry = {.fired = on_cancel, .argument = &self};
  if (token != NULL && !cancel_attach(token, &entry)) return true;
  while (!is_ended(&self) && lot_sleep(&pool->lot, &call->waiter, is_ended, &self, at_ns)) {}
  if (token != NULL) cancel_detach(token, &entry);
  return atomic_load(&self.cancelled);
}

bool retry_wait(retry *self, pyproc_pool *pool, struct call *call, pyproc_cancel *token, int64_t timeout_ms,
                pyproc_error **error) {
  int64_t at_ns;
  if (pyproc_cancel_fired(token) || gate_is_closing(&pool->gate) || !retry_plan(self, error, &at_ns)) return false;
  if (pause_until(pool, call, token, at_ns)) {
    *error = call_setup_given_up(pool, call, PYPROC_E_CANCELLED, NULL, timeout_ms, false);
    return false;
  }
  if (!gate_is_closing(&pool->gate) && retry_renew(self, call)) return true;
  *error = retry_take_last(self);
  return false;
}

void retry_sum_up(const retry *self, struct call *call, pyproc_error *error) {
  int code = pyproc_error_code(error);
  bool is_given_up = code == PYPROC_E_CANCELLED || code == PYPROC_E_DEADLINE_EXCEEDED;
  if (self->may_have_run) {
    call->may_have_run = true;
    error_set_may_have_run(error, true);
  }
  error_set_attempts(error, call->attempts);
  if (is_given_up && self->last != NULL)
    error_append(error, "; the attempt before failed: %s", pyproc_error_message(self->last));
}
