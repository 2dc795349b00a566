/*
 * call.h - one call on its way: the encoded request, where it is, and what came back.
 *
 * A call belongs to the thread that makes it and lives on that thread's stack until call_clear. Other threads see it
 * only through the pool's queue and a connection's table of calls in flight; each of the two is left under its lock
 * before `done` is set, and nobody but the owner touches the call after that.
 *
 * A stream is a call too, one with a `stream` part and, since no thread waits for it all the time, with `finished`. It
 * is in the table until its end like any other; what comes and goes meanwhile passes through the functions of
 * stream_ops.
 */
#ifndef PYPROC_CALL_H
#define PYPROC_CALL_H

#include <pyproc_generated.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "codec.h"
#include "lot.h"

struct call;
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

/* An encoded frame: a request, or a message of a stream. Shared by the call and a connection's send queue. */
typedef struct frame_block {
  _Atomic uint32_t references;
  call_encoding encoding;
  size_t id_offset;   /* of the digits in an envelope */
  bool has_timeout;   /* the envelope has digits for it behind those of the id */
  size_t body_offset; /* where the encoded message begins; it goes to the end, but in an envelope */
  buffer bytes;       /* length, then the payload; they begin in `small` */
  uint8_t small[192];
} frame_block;

/* ---- streams ---- */

/* One message that the worker has sent, in a block of its own, freed by stream_message_free. */
typedef struct stream_message {
  struct stream_message *next; /* for whoever has it */
  uint8_t *block;              /* malloc'd, holds what follows; NULL: it lies behind this struct */
  const uint8_t *metadata;     /* as in schema/wire.md */
  size_t metadata_size;
  const uint8_t *body; /* in the codec's encoding */
  size_t size;         /* of the body */
} stream_message;

/* A copy of metadata and body. NULL: out of memory. */
stream_message *stream_message_new(const uint8_t *metadata, size_t metadata_size, const uint8_t *body, size_t size);

/* Takes over the malloc'd `block` in which metadata and body lie. NULL: out of memory, the block is still the caller's. */
stream_message *stream_message_adopt(uint8_t *block, const uint8_t *metadata, size_t metadata_size, const uint8_t *body,
                                     size_t size);
void stream_message_free(stream_message *message);

/* What a stream has to send next. */
typedef enum stream_next { STREAM_NOTHING, STREAM_MESSAGE, STREAM_END } stream_next;

/* What a protocol tells a stream, or asks it. Any thread, with the connection's lock held, so that the call is still
 * in its table; they take the stream's own lock, which comes after that, and never block. Both add to *ret_bits what
 * lot_wake is to be called with once the lock is let go of. The end is told by call.finished, as for every call that no
 * thread waits for: nothing is told afterwards. */
typedef struct stream_ops {
  /* A message has come; it is the stream's now. */
  void (*received)(struct call *self, stream_message *message, uint32_t *ret_bits);

  /* The protocol can send something now, a message only where `may_send` says so. STREAM_MESSAGE: *ret_frame is the
   * next message, a reference of the protocol's; whoever waits for its being taken is told. STREAM_END: there will be no
   * more messages, told once. STREAM_NOTHING: nothing now; protocol->send is called when there is. */
  stream_next (*pull)(struct call *self, bool may_send, frame_block **ret_frame, uint32_t *ret_bits);
} stream_ops;

/* The part of a call that is a stream. But for `ops` and `is_unattended` it is the protocol's, under the connection's
 * lock, and zero whenever a connection takes the call. */
typedef struct call_stream {
  const stream_ops *ops;
  atomic_bool is_unattended; /* something was submitted that no thread waits for; see protocol.h, attend. Stays set */
  bool is_pinned;            /* more than the request has gone or come: no other worker can have it */
  bool is_attended;          /* counted in the connection's `attended` */
  int64_t send_credit;       /* bytes that may still be sent; may be overdrawn by one message */
  int64_t receive_credit;    /* bytes that the worker may still send; likewise */
  int64_t ungranted;         /* bytes of messages that were taken, not yet granted again */
} call_stream;

struct call {
  call_method method;
  frame_block *frame;
  int64_t deadline_ns; /* CLOCK_MONOTONIC */
  int64_t now_ns;      /* likewise, where its owner has just looked and it has not waited since; 0: look again */
  int64_t sent_ns;     /* when a connection took it */
  uint64_t id;         /* on its connection */
  uint64_t poison_key; /* of its request; 0: nobody has asked for it */
  int asked;           /* its worker was told to stop it, because of this code; 0: not. Under the connection's lock */
  int attempts;        /* connections that took it, and were not made to give it back */
  int attempts_before; /* of these, the ones before it was made again, see retry.h */
  pid_t worker_pid;    /* of the last one's worker */
  call_stream *stream; /* NULL: a unary call */

  struct call *previous, *next;            /* in the queue, or among the connection's calls in flight */
  _Atomic(struct connection *) connection; /* the connection that has it; NULL: queued, or nowhere */
  bool queued;                             /* under the pool's lock */
  atomic_int *resuming; /* counts the thread that waits for it, from the call's end until it runs; NULL: not counted */
  bool is_put_off;      /* whoever starts it sees to its being written soon, by progress, pump or flush */
  void *flight;         /* the connection's own, under its lock */

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
  size_t body_size, metadata_size; /* the metadata, which has been checked, lies right before the body */
  bool is_checked;                 /* the body is known to be JSON */
  uint8_t small[256];
};

/* One thread that waits in a connection for something that reading brings about: a unary call's end, or whatever
 * `ready` looks for. It belongs to that thread. */
typedef struct call_wait {
  struct call *call;
  bool (*ready)(const struct call_wait *self); /* NULL: the call is done, or cancelled. Any thread; takes no lock */
  lot_waiter *waiter;
  int64_t deadline_ns;               /* CLOCK_MONOTONIC */
  struct call_wait *previous, *next; /* the connection's, under its lock */
} call_wait;

/* Whether the wait is over; `connection` is where it waits, and has the call no more when that is so, too. */
static inline bool call_wait_is_over(const call_wait *self, const struct connection *connection) {
  const struct call *call = self->call;
  if (atomic_load(&call->connection) != connection) return true;
  return self->ready != NULL ? self->ready(self) : atomic_load(&call->done) || atomic_load(&call->cancelled);
}

/* Refers to the frame once more, or once less. */
frame_block *frame_block_new(call_encoding encoding);
frame_block *frame_block_ref(frame_block *frame);
void frame_block_unref(frame_block *frame);

/* Another one with the same bytes; NULL: out of memory. */
frame_block *frame_block_copy(const frame_block *frame);

/* Initialises the call; `frame` passes to it. */
void call_init(struct call *self, struct lot *lot, call_method method, frame_block *frame, int64_t deadline_ns);

/* The key of its request, see poison.h. */
struct poison;
uint64_t call_poison_key(struct call *self, const struct poison *table);

/* Frees what the call holds. */
void call_clear(struct call *self);

/* Tells the call's owner that it is over: what came back is in place, and it is in no table or queue any more.
 * Returns the bits for lot_wake. The call may be gone afterwards. */
uint32_t call_finish(struct call *self);

/* The thread that waited for the call runs, and has seen its end, if there was one: nobody expects it any more. */
void call_resume(struct call *self);

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
