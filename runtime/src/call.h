/*
 * call.h - one unary call on its way: the encoded request, where it is, and what came back.
 *
 * A call belongs to the thread that makes it and lives on that thread's stack until call_clear. Other threads see it
 * only through the pool's queue and a connection's table of calls in flight; each of the two is left under its lock
 * before `done` is set, and nobody but the owner touches the call after that.
 */
#ifndef PYPROC_CALL_H
#define PYPROC_CALL_H

#include <pyproc_generated.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "codec.h"
#include "lot.h"

struct connection;
struct cancel_entry;

/* What is called. `typed` NULL: by its name, with a JSON body. */
typedef struct call_method {
  const char *name;
  const pyproc_method *typed;
} call_method;

typedef enum call_encoding {
  CALL_BODY_CODEC,   /* header, then the message in the pool's codec */
  CALL_BODY_JSON,    /* header with the JSON flag, then JSON text */
  CALL_BODY_ENVELOPE /* a JSON envelope */
} call_encoding;

/* An encoded frame. Shared by the call and a connection's send queue. */
typedef struct frame_block {
  _Atomic uint32_t references;
  call_encoding encoding;
  size_t id_offset; /* of the digits in an envelope */
  bool has_timeout; /* the envelope has digits for it behind those of the id */
  buffer bytes;     /* length, then the payload */
} frame_block;

struct call {
  call_method method;
  frame_block *frame;
  int64_t deadline_ns; /* CLOCK_MONOTONIC */
  int64_t sent_ns;     /* when a connection took it */
  uint64_t id;         /* on its connection */
  int attempts;        /* connections that took it, and were not made to give it back */
  pid_t worker_pid;    /* of the last one's worker */

  struct call *previous, *next;            /* in the queue, or among the connection's calls in flight */
  _Atomic(struct connection *) connection; /* the connection that has it; NULL: queued, or nowhere */
  bool queued;                             /* under the pool's lock */

  /* NULL: a thread waits for the call. Else it is told here instead of by `done`: any thread, locks of the pool and
   * of connections may be held; the call is the function's from then on. */
  void (*finished)(struct call *self);
  lot_waiter waiter;
  atomic_bool done;
  atomic_bool cancelled;

  /* What came back, valid once done. An error, or a body in `block`. */
  pyproc_error *error;
  bool may_have_run;
  uint8_t *block; /* malloc'd, or `small` */
  const uint8_t *body;
  size_t body_size;
  uint8_t small[256];
};

/* Refers to the frame once more, or once less. */
frame_block *frame_block_new(call_encoding encoding);
frame_block *frame_block_ref(frame_block *frame);
void frame_block_unref(frame_block *frame);

/* Initialises the call; `frame` passes to it. */
void call_init(struct call *self, struct lot *lot, call_method method, frame_block *frame, int64_t deadline_ns);

/* Frees what the call holds. */
void call_clear(struct call *self);

/* Tells the call's owner that it is over: what came back is in place, and it is in no table or queue any more.
 * Returns the bits for lot_wake. The call may be gone afterwards. */
uint32_t call_finish(struct call *self);

/* Ends the call with an error, which it takes over. The caller has just taken the call out of the table or queue.
 * Returns the bits for lot_wake. */
uint32_t call_fail(struct call *self, pyproc_error *error, bool may_have_run);

/* A list of calls, threaded through previous/next. */
typedef struct call_list {
  struct call *first, *last;
} call_list;

void call_list_append(call_list *list, struct call *item);
void call_list_prepend(call_list *list, struct call *item);
void call_list_remove(call_list *list, struct call *item);

#endif
