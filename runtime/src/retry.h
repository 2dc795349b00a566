/*
 * retry.h - whether, and when, a call that has failed is made again.
 *
 * What is made again is the call with its frame; deadline and token are those of all attempts. A blocking call pauses
 * in retry_wait, on its own thread; one that nobody waits for pauses in the pool's heap of deadlines, see async.c.
 */
#ifndef PYPROC_RETRY_H
#define PYPROC_RETRY_H

#include "call.h"

/* Part of one call. Zeroed: it is never made again. */
typedef struct retry {
  const pyproc_retry *policy;
  int64_t left;        /* attempts that may follow */
  int64_t bound_ms;    /* of the next pause */
  int64_t deadline_ns; /* the call's */
  bool is_idempotent;
  bool may_have_run;  /* in an attempt before */
  pyproc_error *last; /* of the attempt before */
} retry;

/* The range of pyproc_call_options.max_attempts; INVALID_ARGUMENT. */
int retry_check(int64_t max_attempts, pyproc_error **reterr);

/* By the method's policy, with `max_attempts` attempts where that is not 0; streams never. The call is initialised. */
void retry_init(retry *self, const struct call *call, int64_t max_attempts);
void retry_clear(retry *self);

/* The call has failed with *error, which knows whether it may have run. True: it is to be made again at *ret_at_ns,
 * which is before its deadline, and *error was taken over and is NULL. */
bool retry_plan(retry *self, pyproc_error **error, int64_t *ret_at_ns);

/* Hands the error of the attempt before back: there will be no other attempt. Never NULL after retry_plan. */
pyproc_error *retry_take_last(retry *self);

/* Makes a call that has failed, and is in no table or queue, ready to enter once more. False: out of memory. */
bool retry_renew(const retry *self, struct call *call);

/* Plans and pauses, on the call's own thread. True: the call is renewed, to be made again at once. False: *error is its
 * last word, CANCELLED where the token was fired in the pause. */
bool retry_wait(retry *self, pyproc_pool *pool, struct call *call, pyproc_cancel *token, int64_t timeout_ms,
                pyproc_error **error);

/* Tells an error, which is a call's last, what all attempts come to. */
void retry_sum_up(const retry *self, struct call *call, pyproc_error *error);

#endif
