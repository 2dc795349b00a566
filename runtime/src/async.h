/*
 * async.h - calls that no thread waits for: their deadlines, their tokens, and who owns them.
 *
 * submit.c makes those with a callback, future.c those that are waited for later. Lock order: a token's, the pool's
 * (admission), a connection's, then those of this file and of completions.h. A token's lock is therefore never taken
 * in what runs when a call ends; its entry is taken off by the call's owner afterwards.
 */
#ifndef PYPROC_ASYNC_H
#define PYPROC_ASYNC_H

#include "call.h"
#include "cancel.h"
#include "completions.h"
#include "deadlines.h"
#include "retry.h"

/* A pool's. */
typedef struct async_state {
  pthread_mutex_t lock;
  deadlines deadlines;      /* of all calls in flight; under the lock */
  _Atomic int64_t armed_ns; /* when the supervisor looks at them; never later than the first */
  spin_gauge spin;          /* of the thread that dispatches */
  completions completions;  /* calls that are over, with a callback to run */
} async_state;

/* Why a call is ended here. */
typedef enum async_reason { ASYNC_LATE, ASYNC_CANCELLED, ASYNC_IDLE, ASYNC_POOL_CLOSED } async_reason;

/* One call. Referred to by its owner (the queue of completions, a future, or a stream), by its flight, which ends with the
 * call, and by whoever just starts or ends it. While it is in flight it is counted in the pool's gate. */
typedef struct async_call {
  struct call call; /* first: its `finished` gets a pointer to it */
  pyproc_pool *pool;
  void (*ended)(struct async_call *self); /* any thread, with locks held; its owner may take it from here on */
  /* The supervisor, no lock held, at the deadline in the heap: when the call is really due; until then it goes on. It
   * may change the reason. NULL: now. */
  int64_t (*due)(struct async_call *self, int64_t now_ns);
  void (*destroy)(struct async_call *self); /* frees what else is in the block; NULL: nothing */
  int64_t timeout_ms;
  char *name; /* a copy, of a dynamic method */
  pyproc_cancel *token;
  cancel_entry entry;
  deadline deadline; /* in the heap as long as the call is in flight; under the lock */
  retry retry;
  bool paused; /* until it is made again, at `deadline`; under the lock */
  atomic_int references;
  atomic_bool asked;       /* its worker was told to stop it, and the deadline is that of its word */
  atomic_int reason;       /* async_reason */
  atomic_int threads;      /* that wait in a stream */
  _Atomic int64_t left_ns; /* when the last one left, or the call was made */
} async_call;

int async_init(async_state *self, int64_t spin_ns, pyproc_error **reterr);
void async_destroy(async_state *self);

/* Supervisor: ends the calls of a pool whose deadlines have passed. Returns when to look again. */
int64_t async_expire(void *pool, int64_t now_ns);

/* Ends the calls that pause before they are made again, and lets no other one pause; the pool's gate is closing. */
void async_end_pauses(pyproc_pool *pool);

/* Initialises the call in a block of `size` zeroed bytes that begins with it, or returns NULL (out of memory). Takes
 * the frame over in any case. */
void *async_call_new(size_t size, pyproc_pool *pool, call_method method, frame_block *frame,
                     const pyproc_call_options *options, pyproc_error **reterr);

/* Sends the call; from then on it ends by `ended`, exactly once and possibly before this returns. On failure it has
 * been freed. The calling thread is inside the pool's gate. */
int async_call_start(async_call *self, pyproc_error **reterr);

/* Ends the call, unless it is over: at once, or as soon as it is known how its handler ended, or a moment has passed.
 * The caller has a reference, and the pool's memory exists. */
void async_call_cancel(async_call *self, bool at_once);

/* Ends a call whose deadline has passed. False: it is just being ended, or moved; look again. Likewise. */
bool async_call_expire(async_call *self);

/* Ends the streams of a pool that is being closed in which no thread waits, nor has since `since_ns`. */
void async_end_streams(struct pyproc_pool *pool, int64_t since_ns);

/* Owner: takes the call off its token. Afterwards nobody cancels it. */
void async_call_detach(async_call *self);

/* Refers to the call once more, or once less. */
void async_call_ref(async_call *self);
void async_call_unref(async_call *self);

#endif
