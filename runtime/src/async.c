#include "async.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "call_setup.h"
#include "error.h"

enum { REFERENCES_AT_START = 3, RETRY_NS = 1000000 }; /* its owner's, its flight's, and that of async_call_start */

int async_init(async_state *self, int64_t spin_ns, pyproc_error **reterr) {
  if (completions_init(&self->completions) < 0)
    return error_set(reterr, PYPROC_E_RESOURCE_EXHAUSTED,
                     "no descriptor left for the pool: raise the limit of open files (ulimit -n)");
  pthread_mutex_init(&self->lock, NULL);
  self->deadlines = (deadlines){0};
  spin_init(&self->spin, spin_ns);
  atomic_init(&self->armed_ns, INT64_MAX);
  return PYPROC_OK;
}

void async_destroy(async_state *self) {
  deadlines_free(&self->deadlines);
  pthread_mutex_destroy(&self->lock);
  completions_destroy(&self->completions);
}

/* ---- the end of a call ---- */

void async_call_ref(async_call *self) {
  atomic_fetch_add(&self->references, 1);
}

void async_call_unref(async_call *self) {
  if (atomic_fetch_sub(&self->references, 1) > 1) return;
  retry_clear(&self->retry);
  if (self->destroy != NULL) self->destroy(self);
  call_clear(&self->call);
  free(self->name);
  free(self);
}

void async_call_detach(async_call *self) {
  if (self->token != NULL) cancel_detach(self->token, &self->entry);
  self->token = NULL;
}

static void forget_deadline(async_call *self) {
  async_state *state = &self->pool->async;
  pthread_mutex_lock(&state->lock);
  deadlines_remove(&state->deadlines, &self->deadline);
  pthread_mutex_unlock(&state->lock);
}

/* Its result is in place. Any thread, with locks of the pool and of connections held. */
static void end(async_call *self) {
  pyproc_pool *pool = self->pool;
  forget_deadline(self);
  if (self->call.error != NULL) retry_sum_up(&self->retry, &self->call, self->call.error);
  pool_count(pool, pyproc_error_code(self->call.error));
  self->ended(self);
  pool_leave(pool);
  async_call_unref(self);
}

static pyproc_error *error_of(const async_call *self, async_reason reason, const struct connection *last,
                              int may_have_run) {
  const struct call *call = &self->call;
  pyproc_error *error;
  switch (reason) {
  case ASYNC_IDLE:
    error = error_new(PYPROC_E_DEADLINE_EXCEEDED,
                      "no message of %s went either way for %" PRId64 " ms (option stream_idle_timeout_ms)",
                      call->method.name, self->pool->options.stream_idle_timeout_ms);
    break;
  case ASYNC_POOL_CLOSED:
    error = error_new(PYPROC_E_UNAVAILABLE, "the pool was closed before the stream of %s was over", call->method.name);
    break;
  default:
    return call_setup_given_up(self->pool, call, reason == ASYNC_LATE ? PYPROC_E_DEADLINE_EXCEEDED : PYPROC_E_CANCELLED,
                               last, self->timeout_ms, may_have_run);
  }
  if (last != NULL) error_set_worker(error, call->worker_pid);
  error_set_may_have_run(error, may_have_run);
  error_set_attempts(error, call->attempts);
  return error;
}

/* Has the supervisor look at `at_ns`, or before. The lock is held. Returns whether it must be told. */
static bool arm(async_state *state, int64_t at_ns) {
  if (at_ns >= atomic_load(&state->armed_ns)) return false;
  atomic_store(&state->armed_ns, at_ns);
  return true;
}

/* The call has failed: it pauses, where it is to be made again. */
static bool begin_pause(async_call *self) {
  async_state *state = &self->pool->async;
  struct call *call = &self->call;
  int64_t at_ns;
  bool is_next = false;
  if (call->error == NULL) return false;
  error_set_may_have_run(call->error, call->may_have_run);
  pthread_mutex_lock(&state->lock); /* whoever cancels the call, or closes the gate, then looks for it here */
  bool pauses = atomic_load(&self->reason) == ASYNC_LATE && !gate_is_closing(&self->pool->gate) &&
                retry_plan(&self->retry, &call->error, &at_ns);
  if (pauses) {
    self->paused = true;
    deadlines_move(&state->deadlines, &self->deadline, at_ns);
    is_next = arm(state, at_ns);
  }
  pthread_mutex_unlock(&state->lock);
  if (is_next) supervisor_wake(self->pool->supervisor);
  return pauses;
}

/* call.finished */
static void on_finished(struct call *call) {
  async_call *self = (async_call *)(void *)call;
  if (call->error == NULL || pyproc_error_type(call->error) != NULL) admission_absolve(&self->pool->admission, call);
  if (!call_setup_stopped(call, self->timeout_ms) && begin_pause(self)) return;
  end(self);
}

/* Ends the call: 0. -1: it is over or is just being ended, or on its way from one place to another, where it cannot be
 * had. CONNECTION_ASKED: its handler runs, and the worker was asked; not with `at_once`, and no
 * stream. A reference is held. */
static int give_up(async_call *self, bool at_once) {
  struct call *call = &self->call;
  async_reason reason = (async_reason)atomic_load(&self->reason);
  bool is_late = reason == ASYNC_LATE || reason == ASYNC_IDLE;
  const struct connection *last = atomic_load(&call->connection);
  int code = is_late ? PYPROC_E_DEADLINE_EXCEEDED : PYPROC_E_CANCELLED;
  struct admission *admission = &self->pool->admission;
  at_once = at_once || call->stream != NULL;
  int may_have_run = at_once ? admission_withdraw(admission, call, code) : admission_ask(admission, call, code);
  if (may_have_run < 0 || may_have_run == CONNECTION_ASKED) return may_have_run;
  call->error = error_of(self, reason, last, may_have_run);
  call->may_have_run = may_have_run;
  end(self);
  return 0;
}

/* The supervisor looks at the call then. */
static void look_again(async_call *self, int64_t at_ns) {
  async_state *state = &self->pool->async;
  bool is_next = false;
  pthread_mutex_lock(&state->lock);
  if (self->deadline.position != 0) { /* it is in flight */
    deadlines_move(&state->deadlines, &self->deadline, at_ns);
    is_next = arm(state, at_ns);
  }
  pthread_mutex_unlock(&state->lock);
  if (is_next) supervisor_wake(self->pool->supervisor);
}

/* Gives the call up now, or sees to it that it is. */
static void begin_to_give_up(async_call *self, bool at_once) {
  int result = give_up(self, at_once);
  if (result < 0) look_again(self, platform_now_ns() + RETRY_NS);
  if (result == CONNECTION_ASKED && !atomic_exchange(&self->asked, true))
    look_again(self, platform_now_ns() + CALL_SETUP_WORD_NS);
}

void async_call_cancel(async_call *self, bool at_once) {
  pyproc_pool *pool = self->pool;
  if (!gate_enter(&pool->gate)) return; /* closed: all its calls are over */
  atomic_store(&self->reason, ASYNC_CANCELLED);
  begin_to_give_up(self, at_once);
  gate_leave(&pool->gate);
}

bool async_call_expire(async_call *self) {
  return give_up(self, true) >= 0;
}

/* A token has fired, whose lock is held: the entry is on it, so the owner still has its reference. */
static void on_cancel(void *argument) {
  async_call_cancel(argument, false);
}

/* The first call whose deadline has passed, with a reference; it is due again soon, should it not end now. Else the
 * next time to look is set, and NULL returned. */
static async_call *take_late(async_state *state, int64_t now_ns) {
  async_call *late = NULL;
  pthread_mutex_lock(&state->lock);
  deadline *first = deadlines_first(&state->deadlines);
  if (first != NULL && first->at_ns <= now_ns) {
    late = (async_call *)(void *)((char *)first - offsetof(async_call, deadline));
    deadlines_move(&state->deadlines, first, now_ns + RETRY_NS);
    atomic_fetch_add(&late->references, 1); /* it was in the heap, so its flight has one */
  } else {
    atomic_store(&state->armed_ns, first != NULL ? first->at_ns : INT64_MAX);
  }
  pthread_mutex_unlock(&state->lock);
  return late;
}

/* Its pause is over: the call is made again, or ends. A reference is held. */
static void go_on(async_call *self) {
  pyproc_pool *pool = self->pool;
  struct call *call = &self->call;
  pyproc_error *error = NULL;
  if (atomic_load(&self->reason) != ASYNC_LATE) {
    call->error = call_setup_given_up(pool, call, PYPROC_E_CANCELLED, NULL, self->timeout_ms, false);
    end(self);
  } else if (gate_is_closing(&pool->gate) || !retry_renew(&self->retry, call)) {
    call->error = retry_take_last(&self->retry);
    end(self);
  } else if (admission_enter(&pool->admission, call, &error) < 0) {
    call_fail(call, error, false);
  }
}

/* Ends the call's pause; the lock is held. False: it is in none. */
static bool leave_pause(async_state *state, async_call *self) {
  if (!self->paused) return false;
  self->paused = false;
  deadlines_move(&state->deadlines, &self->deadline, self->retry.deadline_ns);
  return true;
}

static bool resume(async_call *self) {
  async_state *state = &self->pool->async;
  pthread_mutex_lock(&state->lock);
  bool paused = leave_pause(state, self);
  pthread_mutex_unlock(&state->lock);
  if (paused) go_on(self);
  return paused;
}

void async_end_pauses(pyproc_pool *pool) {
  async_state *state = &pool->async;
  call_list paused = {0};
  pthread_mutex_lock(&state->lock);
  for (size_t i = 0; i < state->deadlines.count; i++) {
    async_call *one = (async_call *)(void *)((char *)state->deadlines.items[i] - offsetof(async_call, deadline));
    if (!one->paused) continue;
    one->paused = false;
    atomic_fetch_add(&one->references, 1);
    call_list_append(&paused, &one->call);
  }
  pthread_mutex_unlock(&state->lock);
  for (struct call *call; (call = paused.first) != NULL;) {
    call_list_remove(&paused, call);
    go_on((async_call *)(void *)call);
    async_call_unref((async_call *)(void *)call);
  }
}

/* The call's deadline, or an earlier one of its own, has passed. */
static void end_in_time(async_call *late, int64_t now_ns) {
  bool is_asked = late->due != NULL && atomic_load(&late->reason) == ASYNC_LATE;
  int64_t due_ns = is_asked ? late->due(late, now_ns) : now_ns;
  if (due_ns > now_ns)
    look_again(late, due_ns);
  else
    begin_to_give_up(late, atomic_load(&late->asked));
}

int64_t async_expire(void *argument, int64_t now_ns) {
  pyproc_pool *pool = argument;
  async_state *state = &pool->async;
  async_call *late;
  while (atomic_load(&state->armed_ns) <= now_ns && (late = take_late(state, now_ns)) != NULL) {
    if (!resume(late)) end_in_time(late, now_ns);
    async_call_unref(late);
  }
  return atomic_load(&state->armed_ns);
}

/* A stream in flight in which no thread waits, nor has since then, with a reference, or NULL. */
static async_call *find_lonely(async_state *state, int64_t since_ns) {
  async_call *found = NULL;
  pthread_mutex_lock(&state->lock);
  for (size_t i = 0; i < state->deadlines.count && found == NULL; i++) {
    async_call *one = (async_call *)(void *)((char *)state->deadlines.items[i] - offsetof(async_call, deadline));
    if (one->call.stream == NULL || atomic_load(&one->threads) > 0 || atomic_load(&one->left_ns) > since_ns) continue;
    atomic_fetch_add(&one->references, 1);
    found = one;
  }
  pthread_mutex_unlock(&state->lock);
  return found;
}

void async_end_streams(pyproc_pool *pool, int64_t since_ns) {
  for (async_call *one; (one = find_lonely(&pool->async, since_ns)) != NULL;) {
    atomic_store(&one->reason, ASYNC_POOL_CLOSED);
    if (give_up(one, true) < 0) platform_yield();
    async_call_unref(one);
  }
}

/* ---- its start ---- */

void *async_call_new(size_t size, pyproc_pool *pool, call_method method, frame_block *frame,
                     const pyproc_call_options *options, pyproc_error **reterr) {
  async_call *self = calloc(1, size);
  char *name = method.typed == NULL ? strdup(method.name) : NULL; /* the caller's may be gone before the call is */
  if (self == NULL || (name == NULL && method.typed == NULL)) {
    free(self);
    free(name);
    frame_block_unref(frame);
    error_set(reterr, PYPROC_E_RESOURCE_EXHAUSTED, "out of memory");
    return NULL;
  }
  int64_t now = platform_now_ns();
  self->timeout_ms = call_setup_timeout(pool, method.typed, options);
  if (name != NULL) method.name = name;
  call_init(&self->call, &pool->lot, method, frame, call_setup_deadline(self->timeout_ms, now));
  self->call.now_ns = now;
  self->call.finished = on_finished;
  self->call.is_put_off = completions_is_dispatcher(&pool->async.completions);
  self->name = name;
  self->pool = pool;
  self->token = options->cancel;
  self->entry = (cancel_entry){.fired = on_cancel, .argument = self};
  self->deadline = (deadline){.at_ns = self->call.deadline_ns};
  retry_init(&self->retry, &self->call, options->max_attempts);
  atomic_init(&self->left_ns, now);
  atomic_init(&self->references, REFERENCES_AT_START);
  return self;
}

/* *ret_is_next: the supervisor does not know of a deadline that is as near. */
static int remember_deadline(async_call *self, bool *ret_is_next, pyproc_error **reterr) {
  async_state *state = &self->pool->async;
  pthread_mutex_lock(&state->lock);
  bool is_in = deadlines_add(&state->deadlines, &self->deadline);
  *ret_is_next = is_in && arm(state, self->deadline.at_ns);
  pthread_mutex_unlock(&state->lock);
  return is_in ? PYPROC_OK : error_set(reterr, PYPROC_E_RESOURCE_EXHAUSTED, "out of memory");
}

/* A token may fire as soon as the call hangs on it: what look_again needs is in place by then. */
static int attach(async_call *self, pyproc_error **reterr) {
  pyproc_cancel *token = self->token;
  if (token == NULL || cancel_attach(token, &self->entry)) return PYPROC_OK;
  self->token = NULL;
  return error_set(reterr, PYPROC_E_CANCELLED, "%s was cancelled before it was sent", self->call.method.name);
}

static int launch(async_call *self, pyproc_error **reterr) {
  pyproc_pool *pool = self->pool;
  bool is_next;
  int result = remember_deadline(self, &is_next, reterr);
  if (result < 0) return result;
  result = attach(self, reterr);
  if (result >= 0) {
    if (is_next) supervisor_wake(pool->supervisor);
    result = admission_enter(&pool->admission, &self->call, reterr);
    if (result < 0) async_call_detach(self);
  }
  if (result < 0) forget_deadline(self);
  return result;
}

int async_call_start(async_call *self, pyproc_error **reterr) {
  pyproc_pool *pool = self->pool;
  int result = call_setup_check(pool, &self->call, self->timeout_ms, reterr);
  if (result >= 0) {
    gate_enter(&pool->gate); /* its flight; the calling thread is inside, so that it is not shut */
    result = launch(self, reterr);
    if (result < 0) gate_leave(&pool->gate);
  }
  if (result < 0) atomic_fetch_sub(&self->references, REFERENCES_AT_START - 1);
  async_call_unref(self);
  return result;
}
