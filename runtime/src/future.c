/*
 * future.c - calls that are waited for later. A future may outlive its pool: what it needs then is its own, or in the
 * pool's memory, to which it holds a reference.
 */
#include <limits.h>
#include <pthread.h>

#include "async.h"
#include "call_setup.h"
#include "error.h"

struct pyproc_future {
  async_call base; /* first: it is one block */
  const struct codec *codec;
  int64_t frame_limit;
  atomic_bool over;
  _Atomic uint32_t bits; /* of those who sleep until it is over */
  bool is_taken;         /* its result was handed out */
};

/* One for all futures, since those of several pools may be waited for at once. */
static struct lot lot;
static pthread_once_t lot_once = PTHREAD_ONCE_INIT;

static void init_lot(void) {
  lot_init(&lot);
}

/* The waiter sets its bit and then looks whether the future is over; here it is the other way round. */
static void on_ended(async_call *base) {
  pyproc_future *self = (pyproc_future *)(void *)base;
  atomic_store(&self->over, true);
  lot_wake(&lot, atomic_load(&self->bits));
}

int pyproc_call_start(pyproc_pool *pool, const pyproc_method *method, const ProtobufCMessage *request,
                      const pyproc_call_options *given, pyproc_future **ret_future, pyproc_error **reterr) {
  pyproc_call_options options;
  frame_block *frame = NULL;
  pyproc_future *self = NULL;
  int result = pool_enter(pool, reterr);
  if (result < 0) return result;
  pthread_once(&lot_once, init_lot);
  if (ret_future == NULL) result = error_set(reterr, PYPROC_E_INVALID_ARGUMENT, "ret_future is NULL");
  if (result >= 0) result = call_setup_message(pool, method, request, given, &options, &frame, reterr);
  if (result >= 0) {
    call_method target = {.name = method->name, .typed = method};
    self = async_call_new(sizeof *self, pool, target, frame, &options, reterr);
    if (self == NULL) result = PYPROC_E_RESOURCE_EXHAUSTED;
  }
  if (result >= 0) {
    self->base.ended = on_ended;
    self->codec = pool->options.codec;
    self->frame_limit = pool->options.frame_limit;
    result = async_call_start(&self->base, reterr);
  }
  if (result >= 0) {
    pool_ref(pool);
    *ret_future = self;
  } else {
    pool_count(pool, result);
  }
  pool_leave(pool);
  return result;
}

/* ---- waiting ---- */

typedef struct waiting {
  pyproc_future *const *futures;
  size_t count, at; /* `at`: the first that is over, or the first that is not */
} waiting;

static bool is_open(const pyproc_future *future) {
  return future != NULL && !atomic_load(&future->over);
}

/* Goes to the next future that is over; false: there is none. */
static bool find_over(void *argument) {
  waiting *self = argument;
  for (self->at = 0; self->at < self->count; self->at++)
    if (self->futures[self->at] != NULL && atomic_load(&self->futures[self->at]->over)) return true;
  return false;
}

static bool is_at_over(void *argument) {
  const waiting *self = argument;
  return !is_open(self->futures[self->at]);
}

static int check_wait(pyproc_future *const *futures, size_t count) {
  if ((futures == NULL && count > 0) || count > INT_MAX) return PYPROC_E_INVALID_ARGUMENT;
  for (size_t i = 0; i < count; i++)
    if (is_open(futures[i]) && pool_is_forked(futures[i]->base.pool)) return PYPROC_E_FAILED_PRECONDITION;
  pthread_once(&lot_once, init_lot);
  return PYPROC_OK;
}

static int64_t deadline_of(int64_t timeout_ms) {
  return timeout_ms < 0 ? PLATFORM_NO_DEADLINE : call_setup_deadline(timeout_ms, platform_now_ns());
}

int pyproc_future_wait_any(pyproc_future *const *futures, size_t count, int64_t timeout_ms) {
  waiting self = {.futures = futures, .count = count};
  lot_waiter waiter;
  bool is_any = false;
  int result = check_wait(futures, count);
  if (result < 0) return result;
  lot_waiter_init(&lot, &waiter);
  for (size_t i = 0; i < count; i++) {
    is_any = is_any || futures[i] != NULL;
    if (is_open(futures[i])) atomic_fetch_or(&futures[i]->bits, waiter.bit);
  }
  if (!is_any) return PYPROC_E_INVALID_ARGUMENT;
  int64_t deadline_ns = deadline_of(timeout_ms);
  for (bool in_time = true; !find_over(&self);) {
    if (!in_time) return PYPROC_E_DEADLINE_EXCEEDED;
    in_time = lot_sleep(&lot, &waiter, find_over, &self, deadline_ns);
  }
  return (int)self.at;
}

int pyproc_future_wait_all(pyproc_future *const *futures, size_t count, int64_t timeout_ms) {
  waiting self = {.futures = futures, .count = count};
  lot_waiter waiter;
  int result = check_wait(futures, count);
  if (result < 0) return result;
  lot_waiter_init(&lot, &waiter);
  int64_t deadline_ns = deadline_of(timeout_ms);
  for (; self.at < count; self.at++) {
    if (!is_open(futures[self.at])) continue;
    atomic_fetch_or(&futures[self.at]->bits, waiter.bit);
    for (bool in_time = true; is_open(futures[self.at]);) {
      if (!in_time) return PYPROC_E_DEADLINE_EXCEEDED;
      in_time = lot_sleep(&lot, &waiter, is_at_over, &self, deadline_ns);
    }
  }
  return PYPROC_OK;
}

/* ---- results ---- */

static int finish(pyproc_future *self, ProtobufCMessage **ret_reply, pyproc_error **reterr) {
  if (ret_reply == NULL) return error_set(reterr, PYPROC_E_INVALID_ARGUMENT, "ret_reply is NULL");
  if (self->is_taken)
    return error_set(reterr, PYPROC_E_FAILED_PRECONDITION, "the result of this call of %s was taken before",
                     self->base.call.method.name);
  int result = pyproc_future_wait_all(&self, 1, -1);
  if (result < 0)
    return error_set(reterr, result, "the call of %s was started before this process was forked",
                     self->base.call.method.name);
  self->is_taken = true;
  async_call_detach(&self->base);
  result = call_setup_result(&self->base.call, reterr);
  return result >= 0 ? call_setup_take_message(&self->base.call, self->codec, self->frame_limit, ret_reply, reterr)
                     : result;
}

int pyproc_future_finish(pyproc_future *future, ProtobufCMessage **ret_reply, pyproc_error **reterr) {
  if (future == NULL) return error_set(reterr, PYPROC_E_INVALID_ARGUMENT, "future is NULL");
  return finish(future, ret_reply, reterr);
}

int pyproc_future_finish_generated(pyproc_future *future, const pyproc_method *method, ProtobufCMessage **ret_reply,
                                   pyproc_error **reterr) {
  if (future == NULL || method == NULL)
    return error_set(reterr, PYPROC_E_INVALID_ARGUMENT, "%s is NULL", future == NULL ? "future" : "method");
  if (future->base.call.method.typed != method)
    return error_set(reterr, PYPROC_E_INVALID_ARGUMENT, "the future is of %s, not of %s", future->base.call.method.name,
                     method->name);
  return finish(future, ret_reply, reterr);
}

void pyproc_future_free(pyproc_future *future) {
  if (future == NULL) return;
  pyproc_pool *pool = future->base.pool;
  if (!atomic_load(&future->over)) {
    if (pool_is_forked(pool)) return; /* the parent's, where it goes on */
    async_call_cancel(&future->base, true);
  }
  async_call_detach(&future->base);
  async_call_unref(&future->base);
  pool_unref(pool);
}
