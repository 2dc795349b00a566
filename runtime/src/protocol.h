/*
 * protocol.h - calls to one worker: the vtable that the pool and the supervisor speak to, whatever carries the calls.
 *
 * A connection is one worker's place in the protocol. It exists as long as its pool and is opened anew for each
 * process that takes the place, so that a thread may hold a pointer to it without a reference count.
 *
 * Contract of the vtable:
 *   create    the thread that opens the pool.
 *   destroy   the thread that closes it, when no other is inside any more.
 *   environment  supervisor, before a worker is started for this place: what it finds in its environment besides, as
 *             "NAME=value", NULL-terminated; NULL: nothing. May be NULL itself.
 *   open      supervisor. Takes over a connected socket; the handshake begins. On failure the socket is closed. Without
 *             one (-1) the connection is to a server elsewhere and ready at once.
 *   start     any thread, the pool's lock may be held; never blocks on the worker. CONNECTION_TAKEN: the connection has
 *             the call, and writes it as soon as the worker reads. CONNECTION_REFUSED: the call is done, with an error
 *             (no such method …). CONNECTION_CLOSED: nothing happened, the connection is not open. CONNECTION_FULL: nothing
 *             happened, it has max_streams streams.
 *             A call that `is_put_off` may stay unwritten until its starter calls progress, pump or flush.
 *   flush     any thread, no lock held: writes what was put off. NULL: nothing ever is.
 *   progress  the call's own thread, no lock held. Takes part in reading and writing until the wait is over (see
 *             call_wait_is_over), or past its deadline. The one function that blocks. Of a stream two threads may be here
 *             at once, one that sends and one that receives.
 *   send      any thread, no lock of the connection or the stream held: the stream, which is pulled from (stream_ops)
 *             when it is started and whenever there is room, has something to send now. Does nothing where the connection
 *             does not have the call. Never blocks.
 *   taken     any thread, likewise: the program has taken a message whose body had `size` bytes, so that the worker may
 *             send more.
 *   attend    any thread, likewise, after stream.is_unattended was set: from now on somebody reads for this stream also
 *             while no thread waits for it. Without it a stream that is merely open is read by those who wait in its
 *             connection, be it for it or not, and when the supervisor pumps.
 *   withdraw  any thread, the pool's lock held: the caller gives up, because of `code`. Afterwards the connection knows
 *             nothing of the call, and the worker is told. Returns whether it may have run, or -1 when it is done, or
 *             just being ended by another thread.
 *   ask       the same, but for a call that runs: the worker is told to stop it, once, and the call stays where it is, so
 *             that its owner may hear what the worker says to that before it withdraws: CONNECTION_ASKED, `asked` is set.
 *             NULL: withdraw does it all.
 *   recall    any thread, the pool's lock held: takes back calls that the worker has not started and that were sent
 *             more than `keep_ns` ago, oldest first, and appends them to `calls`, with no connection. Never streams.
 *   pump      supervisor: reads and writes what is possible without blocking. False: a caller is about it.
 *   owes      any thread: whether the worker owes something that no calling thread waits for, and that cannot wait.
 *   fd        supervisor, while open: to be polled for reading, and for writing where *ret_for_write says so.
 *   finish    supervisor: no more requests will follow; an orderly worker ends now.
 *   drain     supervisor: the worker is gone, or is to go. What it sent last is read, then no further call starts.
 *             `reason` tells what it said or did wrong, if anything.
 *   running   supervisor: id and method (cut to `size`) of a call that the worker runs; false where that is unknown.
 *   fail      supervisor, after drain, the pool's lock held. The calls that are left end with a copy of `error`; those
 *             that have not started, streams among them of which only the request was sent, are appended to `unstarted`
 *             instead, with no connection.
 *   close     supervisor, after fail: lets go of the socket. False: a caller is still inside, try again soon.
 *   suspects  supervisor, after drain: the keys (poison.h) of the unary requests whose handlers ran, at most `max`; only the
 *             one of a call that did not end when it was told to, where there is one. NULL: they are not known.
 *   nudge     any thread: whoever blocks in progress looks again.
 *   ping      supervisor, while open: sends a ping of that number, where the worker answers them. Its answer is something
 *             that the worker owes. NULL: there are none.
 *   look      supervisor, while open: what is to be seen of the worker. NULL: nothing.
 *   is_reached  any thread: whether the other side can be reached just now. NULL: as long as the state is open.
 *   overdue   supervisor: answer_due_ns has passed. Whether a call is overdue indeed; else answer_due_ns is set to when the
 *             next one is. NULL: it is.
 * Lock order: the pool's lock, then a connection's, then a stream's; of an owner's functions `ready`, `freed` and
 * `returned` are called with none of them; the others must take no lock.
 *
 * A stream's life in a connection: start (pulls what there is to send), then send, taken, received and pull in any
 * order, and at last call.finished, or withdraw, or fail. The connection bounds what it holds: it delivers no more than
 * the program takes (credit for frames, one message read ahead for gRPC) and pulls no more than the other side lets it
 * send. A client stream's one message is the call's body, like that of a unary call, and so may be no message of its own.
 */
#ifndef PYPROC_SRC_PROTOCOL_H
#define PYPROC_SRC_PROTOCOL_H

#include "call.h"
#include "channel.h"
#include "wire/status_page.h"

struct connection;
struct health_facts;
struct poison;
struct private_dir;

typedef enum connection_state {
  CONNECTION_DOWN,
  CONNECTION_HANDSHAKE,
  CONNECTION_OPEN,
  CONNECTION_BROKEN
} connection_state;
enum { CONNECTION_ASKED = 2 };
typedef enum connection_start {
  CONNECTION_TAKEN,
  CONNECTION_REFUSED,
  CONNECTION_CLOSED,
  CONNECTION_FULL
} connection_start;

/* What a connection tells its owner, or asks it. Any thread but where noted. */
typedef struct connection_owner {
  void (*ready)(void *owner); /* supervisor: the handshake is done, calls may start */
  void (*freed)(void *owner); /* there is room for more calls than before */
  /* The worker has given the call back, not started: it stops. The call is in no table; find another place for it. */
  void (*returned)(void *owner, struct call *call);
  void (*broken)(void *owner); /* the connection is of no more use: `reason` says why */
  /* The supervisor should poll fd: something is owed and nobody reads. False: another thread will read by itself. */
  bool (*watch)(void *owner, bool for_write);
  void (*pump)(void *owner);    /* likewise, and there is something to be pumped, which fd does not tell */
  void (*overdue)(void *owner); /* answer_due_ns was set; locks may be held */
  void (*crowded)(void *owner); /* calls wait here while other workers have nothing to do; locks may be held */
  /* While the supervisor is held up in a callback, whoever blocks here also polls these (at most two; returns how many)
   * and calls `drain` when it wakes, so that a worker never waits for its log to be read. */
  int (*logs)(void *owner, int fds[2]);
  void (*drain)(void *owner);
} connection_owner;

typedef struct connection_settings {
  const struct codec *codec;
  struct lot *lot;
  const pyproc_service *const *services; /* checked in the handshake; may be NULL */
  int64_t frame_limit, spin_ns, cancel_grace_ms;
  int cpu_count;                    /* processors that the program may use */
  const _Atomic int *workers_ready; /* of the pool; NULL: nobody counts them */
  int max_in_flight;
  int max_streams;       /* open at once */
  int64_t stream_window; /* bytes on the way, each direction of each stream */
  bool bare;             /* the worker knows no handshake and no frames but JSON envelopes */
  struct poison *poison; /* NULL: nobody asks for suspects */
  channel_choice channel;
  uint32_t ring_bytes; /* of a shared-memory channel, each way */
  bool attached;       /* somebody else runs it: it waits for our hello, and outlives the connection */
  int place;           /* no two connections of a pool have the same */

  /* For gRPC alone. */
  const struct private_dir *folder; /* for the workers' sockets; NULL: there are none */
  const char *target;               /* of a server elsewhere; NULL: a worker of ours */
  const char *tls_ca_file, *tls_cert_file, *tls_key_file, *authorization; /* NULL: none */
} connection_settings;

typedef struct protocol {
  const char *name;
  struct connection *(*create)(const connection_settings *settings, const connection_owner *owner_ops, void *owner,
                               pyproc_error **reterr);
  void (*destroy)(struct connection *self);
  const char *const *(*environment)(struct connection *self);
  int (*open)(struct connection *self, int socket, pyproc_error **reterr);
  connection_start (*start)(struct connection *self, struct call *call);
  void (*flush)(struct connection *self);
  void (*progress)(struct connection *self, call_wait *wait);
  void (*send)(struct connection *self, struct call *call);
  void (*taken)(struct connection *self, struct call *call, size_t size);
  void (*attend)(struct connection *self, struct call *call);
  int (*withdraw)(struct connection *self, struct call *call, int code);
  int (*ask)(struct connection *self, struct call *call, int code);
  void (*recall)(struct connection *self, int64_t keep_ns, call_list *calls);
  bool (*pump)(struct connection *self);
  bool (*owes)(struct connection *self);
  int (*fd)(struct connection *self, bool *ret_for_write);
  void (*finish)(struct connection *self);
  void (*drain)(struct connection *self);
  bool (*running)(struct connection *self, uint64_t *ret_id, char *name, size_t size);
  void (*fail)(struct connection *self, const pyproc_error *error, call_list *unstarted);
  bool (*close)(struct connection *self);
  void (*nudge)(struct connection *self);
  bool (*is_reached)(struct connection *self);
  int (*suspects)(struct connection *self, uint64_t *keys, int max);
  void (*ping)(struct connection *self, uint64_t number);
  void (*look)(struct connection *self, struct health_facts *ret_facts);
  bool (*overdue)(struct connection *self, int64_t now_ns);
} protocol;

struct connection {
  const protocol *protocol;
  const connection_owner *owner_ops;
  void *owner;
  _Atomic int state;           /* connection_state */
  _Atomic int load;            /* unary calls in flight, late replies among them */
  _Atomic int streams;         /* streams in flight, given-up ones among them until the worker has ended them */
  _Atomic int capacity;        /* calls that the worker runs at once; 0: it stops */
  _Atomic int prefetch;        /* calls that may wait in the worker beyond these; adapts */
  _Atomic int64_t progress_ns; /* when the worker last answered, or began to have something to do */
  _Atomic int64_t service_ns;  /* moving average of the time between its answers while it is busy; 0: unknown */
  _Atomic int64_t quick_ns;    /* the same when nothing gets in its way: short times weigh more than long ones */
  _Atomic uint64_t good_calls; /* replies since open */
  _Atomic uint64_t ping, pong; /* numbers of the last ping that was sent, and of the last one answered */
  bool answers_pings;          /* its hello says so; set before the state is CONNECTION_OPEN, as the next */
  int stacks_signal;           /* has the process write its stacks (stacks.h); 0: none */
  /* When a worker that cannot be told to stop a call has to have answered the one that was given up, or is to be killed;
   * INT64_MAX: there is none. It is set back before the call is out of `load`. */
  _Atomic int64_t answer_due_ns;
  pid_t peer_pid;       /* of the process behind it; set by the owner */
  int index;            /* of the worker in its pool, likewise */
  pyproc_error *reason; /* why it broke or was refused; set once before the state is CONNECTION_BROKEN */
  status_page *page;    /* NULL: none */
};

extern const protocol protocol_framed;

#endif
