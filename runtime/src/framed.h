/*
 * framed.h - inside of protocol_framed: calls as length-prefixed frames over a channel, many in flight, matched by
 * id.
 *
 *   protocol_framed.c   the vtable: life of a connection, and calls coming and going
 *   framed_wait.c       how calling threads share the roles (leader/follower), spin, and sleep
 *   framed_reader.c     what the reader's role does: receive, dispatch, hello
 *   framed_writer.c     what the writer's role does
 *   framed_stream.c     streams: messages and credit
 *   framed_bare.c       workers without a handshake
 *   framed_health.c     pings, and what is to be seen of the worker
 *   framed_attached.c   workers that somebody else runs
 *   framed_table.c      the calls in flight, and the end of a connection: what all the others stand on
 *
 * Roles. `reading` is taken by one thread at a time, which may touch `receiver` and wait on the channel. `writing`
 * (under the lock) is held by the thread that is in channel write.
 */
#ifndef PYPROC_FRAMED_H
#define PYPROC_FRAMED_H

#include <pthread.h>

#include "channel.h"
#include "method_table.h"
#include "platform.h"
#include "protocol.h"
#include "receiver.h"
#include "send_queue.h"
#include "spin.h"
#include "wire/envelope.h"
#include "wire/frame.h"

/* One call in flight. */
typedef struct framed_slot {
  uint64_t id;       /* 0: free */
  struct call *call; /* NULL: its caller left, the reply will be dropped */
  uint32_t method;   /* index in the worker's hello */
  bool started;      /* the worker said so (STARTED) */
  bool is_stream;
  uint64_t poison_key; /* once its caller left a call that may run, see poison.h; else 0 */
  int64_t due_ns;      /* when a call that was given up has to have ended, where we mind that; 0: not */
} framed_slot;

struct framed;

/* What is said until calls may start, and what the worker understands afterwards. */
typedef struct framed_handshake {
  bool has_frames;  /* it knows frames beside the JSON envelopes */
  int prefetch_max; /* calls that may wait in the worker */
  /* The connection was opened. Supervisor, no lock held. */
  void (*begin)(struct framed *self);
  /* A payload while the state is CONNECTION_HANDSHAKE. The reader's role is held, no lock. */
  void (*take)(struct framed *self, const struct payload *payload);
  /* The caller of a call that was sent has left. The lock is held. */
  void (*give_up)(struct framed *self, uint64_t id, int code);
} framed_handshake;

extern const framed_handshake framed_hello; /* framed_reader.c */
extern const framed_handshake framed_bare;  /* framed_bare.c */
extern const framed_handshake framed_attached;

typedef struct framed {
  struct connection base;
  const framed_handshake *handshake;
  connection_settings settings;

  pthread_mutex_t lock;
  call_list in_flight; /* calls with a caller, oldest first */
  framed_slot slots[STATUS_PAGE_SLOTS];
  uint16_t free_slots[STATUS_PAGE_SLOTS];
  int thread_count;             /* unary calls in flight that a thread waits for */
  int free_count, orphan_count; /* orphans: slots in use without a caller */
  int idle_streams;             /* streams in flight that need not be read as long as no thread waits for them */
  call_wait *stream_waits;      /* threads in framed_progress for streams */
  uint64_t generation;          /* of ids; never goes back, so that no late reply matches */
  method_table *methods;
  bool has_started_frames, has_streams;
  atomic_bool finished; /* the worker was told to end: it cancels what it still runs */
  send_queue queue;
  bool writing;
  atomic_int unwritten;      /* frames in the queue that wait for others */
  atomic_int resuming;       /* threads whose calls are over and that have not run since: they may bring frames */
  atomic_bool write_blocked; /* the channel took no more: whoever waits polls for writing, too */

  int page_fd; /* of page_memory; -1: none */
  status_page *page_memory;
  struct channel *channel; /* set while the state is not CONNECTION_DOWN */
  atomic_bool reading;
  atomic_int awake;           /* callers in framed_progress that do not sleep in the lot: one of them reads, or will */
  struct receiver receiver;   /* reader's role */
  bool receiving;             /* reader's role: more may come */
  spin_gauge spin;            /* of a waiting reader */
  _Atomic int64_t cleared_ns; /* when a caller last left the worker's processor, or could not */

  wake wake; /* to whoever blocks in the channel's wait */
  atomic_bool blocked, nudged;
} framed;

static inline framed *framed_of(struct connection *self) {
  return (framed *)self;
}

static inline bool framed_is_open(const framed *self) {
  int state = atomic_load_explicit(&self->base.state, memory_order_acquire);
  return state == CONNECTION_OPEN || state == CONNECTION_HANDSHAKE;
}

/* A ping was sent that is not answered. */
static inline bool framed_awaits_pong(const framed *self) {
  return atomic_load_explicit(&self->base.ping, memory_order_relaxed) !=
         atomic_load_explicit(&self->base.pong, memory_order_relaxed);
}

/* framed_reader.c. The reader's role is held, no lock. Reads what is there, dispatches it, and returns the number of
 * frames. `mine`: the call for which this thread waits, or NULL. `now_ns`: CLOCK_MONOTONIC, where the caller has just
 * looked; 0: it has not. */
int framed_pump(framed *self, const struct call *mine, int64_t now_ns);

/* The same; where nothing is there it waits, as the channel's read_blocking. Sets *ret_now_ns. */
int framed_pump_blocking(framed *self, const struct call *mine, int64_t *ret_now_ns);

/* The error of a JSON envelope that is a reply and not ok. */
pyproc_error *framed_envelope_error(const framed *self, const struct envelope *envelope);

/* framed_bare.c. The worker answered that it cannot go on, and to which call it does not say. */
void framed_gave_up(framed *self, const struct envelope *envelope);

/* framed_attached.c: of the vtable. */
bool framed_overdue(struct connection *base, int64_t now_ns);

/* framed_writer.c. The lock is held (and let go of meanwhile). Writes what the channel takes, unless somebody is
 * writing. */
void framed_flush(framed *self);
/* One more frame may wait in the queue for others, to be written with them; false: enough have come together. The lock is
 * held. */
bool framed_put_off(framed *self);
/* No lock held: writes what was put off, at once, or unless others are about to bring more. */
void framed_flush_all(struct connection *base);
/* Appends a control frame. The lock is held. */
bool framed_send_control(framed *self, uint8_t kind, uint16_t code, uint64_t id, const void *body, size_t size);

/* framed_wait.c */
void framed_progress(struct connection *base, call_wait *wait);
bool framed_take_reading(framed *self);
/* Lets go of the reader's role and sees to it that somebody reads as long as the worker owes something. `mine` is the
 * caller's own call. */
void framed_leave_reading(framed *self, const struct call *mine);
/* The same for a thread that does not have the role, but may have been the only one awake. */
void framed_hand_over(framed *self, const struct call *mine);
void framed_nudge(struct connection *base);

/* framed_health.c: of the vtable. */
void framed_ping(struct connection *base, uint64_t number);
void framed_look(struct connection *base, struct health_facts *ret_facts);
int framed_suspects(struct connection *base, uint64_t *keys, int max);

/* framed_stream.c: of the vtable. */
void framed_send(struct connection *base, struct call *call);
void framed_taken(struct connection *base, struct call *call, size_t size);
void framed_attend(struct connection *base, struct call *call);
/* The lock is held: the call, which is in the table, is a stream that begins here. It may be over afterwards. */
void framed_begin_stream(framed *self, struct call *call, uint32_t *ret_bits);
/* The reader's role is held, no lock: frames of streams. Return what is wrong with them, or NULL. */
const char *framed_take_message(framed *self, const wire_header *header, struct payload *payload, uint32_t *ret_bits);
const char *framed_take_credit(framed *self, const wire_header *header, const struct payload *payload,
                               uint32_t *ret_bits);

/* framed_table.c. Any thread, no lock held: the connection is of no more use. Takes the error over. */
void framed_break(framed *self, pyproc_error *reason);
/* The error of memory that the worker has spoilt (CHANNEL_CORRUPT). */
pyproc_error *framed_corrupt(const framed *self);
/* The rest is called with the lock held. */
/* Whether the worker owes something that cannot wait and that no calling thread waits for. */
bool framed_owes_others(const framed *self);
void framed_reset_slots(framed *self);
void framed_add(framed *self, struct call *call); /* to the calls in flight that have an owner */
void framed_remove(framed *self, struct call *call);
void framed_orphan(framed *self, struct call *call);       /* the same, and its slot waits for the late reply */
bool framed_may_have_run(const framed *self, uint64_t id); /* of a call in the table */
/* Takes the call with that id out of the table: its slot is free again, and *ret_slot what it was. False: there is none
 * with that id. Its call may be NULL: its caller has left. */
bool framed_release(framed *self, uint64_t id, framed_slot *ret_slot);

#endif
