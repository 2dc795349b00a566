/*
 * rpc.h - inside of protocol_grpc: calls as gRPC's, over a channel of libgrpc.
 *
 *   protocol_grpc.c   the vtable: life of a connection, and calls coming and going
 *   rpc_handshake.c   the hello of a worker that we started, over the socket that it inherited
 *   rpc_channel.c     the channel: address, credentials, load balancing
 *   rpc_flight.c      one call of libgrpc: its batches, and what came back
 *   rpc_unary.c       how a unary call ends
 *   rpc_stream.c      streams
 *   rpc_message.c     messages in and out, and those of the method that calls by name
 *   rpc_metadata.c    metadata in and out
 *   engine.c          the process's use of libgrpc, and its one thread
 *
 * A connection has a `call_list` of all calls that are its own. Each has a flight as long as libgrpc has something to do
 * for it; a flight may outlive its call, where its caller has given up. A call without a flight waits for what will end
 * it: the supervisor, which knows how the worker died, or its own deadline.
 */
#ifndef PYPROC_GRPC_RPC_H
#define PYPROC_GRPC_RPC_H

#include <grpc/byte_buffer.h>
#include <grpc/grpc.h>
#include <grpc/slice.h>

#include "channel.h"
#include "engine.h"
#include "method_table.h"
#include "platform.h"
#include "private_dir.h"
#include "protocol.h"
#include "receiver.h"
#include "wire/metadata.h"

enum { RPC_METADATA_MAX = 64 << 10 }; /* bytes of metadata that are taken: tracebacks travel there */

typedef struct rpc {
  struct connection base;
  connection_settings settings;
  struct rpc *next;                    /* among the forgotten ones */
  char socket_path[PRIVATE_PATH_SIZE]; /* where the worker serves; "": a server elsewhere */
  char socket_variable[PRIVATE_PATH_SIZE + 32];
  const char *environment[3];

  pthread_mutex_t lock;
  grpc_channel *grpc;           /* set from open, or hello, to close; under the lock */
  call_list calls;              /* all that are ours */
  method_table *methods;        /* NULL: a server elsewhere */
  int flights;                  /* of libgrpc, whose callers may have left */
  _Atomic int64_t cancelled_ns; /* when a call was last cancelled */
  atomic_bool finished;         /* the worker was told to end */

  struct channel *control; /* the inherited socket; the supervisor's */
  struct receiver receiver;
  bool receiving;
} rpc;

static inline rpc *rpc_of(struct connection *self) {
  return (rpc *)self;
}

static inline bool rpc_is_remote(const rpc *self) {
  return self->settings.target != NULL;
}

/* Any thread, no lock held: the connection is of no more use. Takes the error over. */
void rpc_break(rpc *self, pyproc_error *reason);

/* rpc_handshake.c. Supervisor: reads the inherited socket. */
void rpc_read_control(rpc *self);
void rpc_ping(struct connection *base, uint64_t number);
void rpc_look(struct connection *base, struct health_facts *ret_facts);

/* rpc_channel.c. Makes the channel to the worker, or to the target. */
grpc_channel *rpc_channel_new(const rpc *self, pyproc_error **reterr);

/* ---- one call of libgrpc ---- */

typedef struct rpc_flight rpc_flight;

/* What libgrpc was asked to do. */
typedef struct rpc_tag {
  engine_task task; /* first */
  rpc_flight *flight;
} rpc_tag;

struct rpc_flight {
  rpc *owner;
  struct call *call; /* under the lock; NULL: its caller has left */
  grpc_call *grpc;
  grpc_completion_queue *queue; /* the poller's, or one of its own for the thread that waits */
  pyproc_error *failure;        /* why we cancelled it; under the lock */
  bool is_dynamic;              /* it is called by its name */

  grpc_metadata *sent; /* with slices of their own */
  size_t sent_count;
  grpc_metadata_array initial, trailing;
  grpc_byte_buffer *message;
  grpc_status_code status;
  grpc_slice details;

  bool is_stream;
  rpc_tag unary;                                 /* all of a unary call; of a stream there are the rest */
  rpc_tag begin, headers, reading, writing, end; /* no more than one of each is outstanding */
  int outstanding;                               /* of a stream; under the lock, as what follows */
  grpc_byte_buffer *incoming;                    /* the message that is being received */
  bool has_one_reply;                            /* a client stream */
  bool is_reading, is_writing;
  bool has_headers, gave_headers; /* the initial metadata has come, has been passed on */
  bool has_read;                  /* no more messages come */
  bool has_closed;                /* libgrpc was told that no more messages follow */
  bool has_ended;                 /* the status has come */
};

/* Makes the call of libgrpc; nothing is sent yet. The lock is held. NULL: out of memory. */
rpc_flight *rpc_flight_new(rpc *self, struct call *call, bool is_polled);

/* Frees it, with the call of libgrpc, once no tag is outstanding. No lock held. */
void rpc_flight_free(rpc_flight *self);

/* Ends it as soon as can be: its tags come back. Any thread. */
void rpc_flight_cancel(rpc_flight *self);

/* The error that the status tells of; has_object: the handler, or our worker, has sent an error object. NULL: OK. */
pyproc_error *rpc_flight_error(const rpc_flight *self, bool *ret_has_object);

/* The flag of a call that waits until a worker that restarts is reached. */
uint32_t rpc_flight_flags(const rpc_flight *self);

/* A flight is over: it is counted out, and others are told of its place where `tells`. Nothing of the connection is
 * touched afterwards. No lock but, where it does not tell, the pool's. */
void rpc_flight_land(rpc_flight *self, bool tells);

/* rpc_end.c. All that libgrpc did for it has come back: ends the call, if it can be ended, and the flight. No lock. */
void rpc_flight_end(rpc_flight *self);

/* rpc_unary.c. Sends all of it; afterwards the flight may be gone. False: libgrpc refused. */
bool rpc_unary_send(rpc_flight *self, const char *method, frame_block *frame);
void rpc_unary_done(engine_task *task, bool ok);

/* rpc_stream.c */

/* Sends the first of it; afterwards the flight may be gone. False: libgrpc refused. No lock. */
bool rpc_stream_begin(rpc_flight *self, frame_block *frame);
/* Sends the next message, where there is one and libgrpc takes one. The lock is held. */
void rpc_stream_send(rpc_flight *self, uint32_t *ret_bits);
/* Asks for the next message, where there is room for one. The lock is held. */
void rpc_stream_read(rpc_flight *self);
void rpc_stream_began(engine_task *task, bool ok);
void rpc_stream_got_headers(engine_task *task, bool ok);
void rpc_stream_got_message(engine_task *task, bool ok);
void rpc_stream_sent(engine_task *task, bool ok);
void rpc_stream_ended(engine_task *task, bool ok);

/* rpc_message.c. The body of a frame, for libgrpc; refers to large ones. */
grpc_byte_buffer *rpc_message_new(frame_block *frame);
/* The same for a call by name. */
grpc_byte_buffer *rpc_message_new_dynamic(const char *method, frame_block *frame);
/* The bytes of a message behind `front` free ones, in `small` where both fit, else malloc'd. NULL: out of memory, or it
 * cannot be decompressed. */
uint8_t *rpc_message_bytes(grpc_byte_buffer *message, size_t front, uint8_t *small, size_t small_size,
                           size_t *ret_size);
/* Finds the body in the reply of a call by name. Untrusted. */
bool rpc_message_dynamic_body(const uint8_t *bytes, size_t size, const uint8_t **ret_body, size_t *ret_body_size);

#define RPC_DYNAMIC_PATH "/pyproc.Dynamic/Call"

/* rpc_metadata.c. What is sent with the frame: false: out of memory. */
bool rpc_metadata_take(rpc_flight *self, const frame_block *frame, const char *authorization);
void rpc_metadata_free(rpc_flight *self);
/* What came and may be passed on, as entries of the flight. */
typedef struct rpc_metadata {
  const grpc_metadata *entries[WIRE_METADATA_ENTRIES_MAX];
  size_t count, size; /* size: encoded as in a frame */
} rpc_metadata;

/* What came and was not passed on yet: once, what came first; at the end what came last. */
void rpc_metadata_collect(rpc_flight *self, bool is_end, rpc_metadata *to);
/* Encodes it: `size` bytes. */
void rpc_metadata_put(const rpc_metadata *self, uint8_t *to);

/* The value of a key, or NULL. */
const grpc_slice *rpc_metadata_find(const grpc_metadata_array *array, const char *key);

#endif
