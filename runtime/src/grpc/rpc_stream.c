/*
 * rpc_stream.c - the three kinds of streams, which differ in who says first that no more messages follow.
 *
 * The receiving of the status is asked for at the start and comes back last but for what was cut off by it. One message
 * is being sent at a time, and one being received, the next one only while the program has not left more than the window
 * untaken. All tags are the poller's.
 */
#include "rpc.h"

#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "wire/frame.h"

/* Something goes wrong on our side: it ends with that. The lock is held. */
static void give_up(rpc_flight *self, pyproc_error *error) {
  if (self->failure == NULL)
    self->failure = error;
  else
    pyproc_error_free(error);
  rpc_flight_cancel(self);
}

/* The lock is held. */
static bool start(rpc_flight *self, const grpc_op *ops, size_t count, rpc_tag *tag) {
  if (grpc_call_start_batch(self->grpc, ops, count, tag, NULL) != GRPC_CALL_OK) return false;
  self->outstanding++;
  return true;
}

/* Lets go of the lock, and ends the stream where nothing is outstanding any more. */
static void leave(rpc_flight *self, uint32_t bits) {
  rpc *owner = self->owner;
  bool is_over = self->has_ended && self->outstanding == 0;
  struct lot *lot = owner->settings.lot;
  pthread_mutex_unlock(&owner->lock);
  lot_wake(lot, bits);
  if (is_over) rpc_flight_end(self);
}

/* A tag has come back. Takes the lock. */
static rpc_flight *enter(engine_task *task) {
  rpc_flight *self = ((rpc_tag *)(void *)task)->flight;
  pthread_mutex_lock(&self->owner->lock);
  self->outstanding--;
  return self;
}

/* ---- receiving ---- */

void rpc_stream_read(rpc_flight *self) {
  struct call *call = self->call;
  if (call == NULL || self->is_reading || self->has_ended || self->has_read || call->stream->receive_credit <= 0)
    return;
  grpc_op op;
  memset(&op, 0, sizeof op);
  op.op = GRPC_OP_RECV_MESSAGE;
  op.data.recv_message.recv_message = &self->incoming;
  self->is_reading = start(self, &op, 1, &self->reading);
}

/* The bytes of what came, as a message of the stream, the first one with the initial metadata; NULL: out of memory. */
static stream_message *unwrap(rpc_flight *self) {
  rpc_metadata metadata;
  size_t size;
  rpc_metadata_collect(self, false, &metadata);
  uint8_t *block = rpc_message_bytes(self->incoming, metadata.size, NULL, 0, &size);
  if (block == NULL) return NULL;
  rpc_metadata_put(&metadata, block);
  stream_message *message = stream_message_adopt(block, block, metadata.size, block + metadata.size, size);
  if (message == NULL) free(block);
  return message;
}

/* A client stream's one message is its reply, and stays until the end. The lock is held. */
static void keep_reply(rpc_flight *self) {
  if (self->message != NULL) grpc_byte_buffer_destroy(self->message);
  self->message = self->incoming;
  self->incoming = NULL;
}

/* The lock is held. */
static void deliver(rpc_flight *self, stream_message *message, uint32_t *ret_bits) {
  struct call *call = self->call;
  if (call == NULL) {
    if (message != NULL) stream_message_free(message);
  } else if (message == NULL) {
    give_up(self, error_new(PYPROC_E_RESOURCE_EXHAUSTED, "no memory for a message of %s", call->method.name));
  } else {
    call->stream->receive_credit -= (int64_t)message->size + WIRE_STREAM_MESSAGE_COST;
    call->stream->is_pinned = true;
    call->stream->ops->received(call, message, ret_bits);
  }
}

void rpc_stream_got_message(engine_task *task, bool ok) {
  rpc_flight *self = ((rpc_tag *)(void *)task)->flight;
  uint32_t bits = 0;
  bool came = ok && self->incoming != NULL;
  stream_message *message = came && !self->has_one_reply ? unwrap(self) : NULL; /* copied without the lock */
  enter(task);
  self->is_reading = false;
  self->has_read = !came;
  if (came && self->has_one_reply)
    keep_reply(self);
  else if (came)
    deliver(self, message, &bits);
  if (self->incoming != NULL) grpc_byte_buffer_destroy(self->incoming);
  self->incoming = NULL;
  rpc_stream_read(self);
  leave(self, bits);
}

void rpc_stream_got_headers(engine_task *task, bool ok) {
  rpc_flight *self = enter(task);
  self->has_headers = ok;
  leave(self, 0);
}

/* ---- sending ---- */

void rpc_stream_send(rpc_flight *self, uint32_t *ret_bits) {
  struct call *call = self->call;
  frame_block *frame = NULL;
  grpc_op op;
  if (call == NULL || self->is_writing || self->has_closed || self->has_ended) return;
  memset(&op, 0, sizeof op);
  switch (call->stream->ops->pull(call, true, &frame, ret_bits)) {
  case STREAM_MESSAGE:
    op.op = GRPC_OP_SEND_MESSAGE;
    op.data.send_message.send_message = rpc_message_new(frame);
    frame_block_unref(frame);
    self->is_writing = start(self, &op, 1, &self->writing);
    grpc_byte_buffer_destroy(op.data.send_message.send_message);
    call->stream->is_pinned = true;
    break;
  case STREAM_END:
    op.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT;
    self->is_writing = self->has_closed = start(self, &op, 1, &self->writing);
    break;
  case STREAM_NOTHING:
    break;
  }
}

void rpc_stream_sent(engine_task *task, bool ok) {
  uint32_t bits = 0;
  rpc_flight *self = enter(task);
  self->is_writing = false;
  if (ok) rpc_stream_send(self, &bits); /* else it is about to end */
  leave(self, bits);
}

/* ---- begin and end ---- */

static bool start_status(rpc_flight *self) {
  grpc_op op;
  memset(&op, 0, sizeof op);
  op.op = GRPC_OP_RECV_STATUS_ON_CLIENT;
  op.data.recv_status_on_client.trailing_metadata = &self->trailing;
  op.data.recv_status_on_client.status = &self->status;
  op.data.recv_status_on_client.status_details = &self->details;
  return start(self, &op, 1, &self->end);
}

/* Metadata, and of a server stream all that is ever sent. */
static bool start_sending(rpc_flight *self, frame_block *frame) {
  grpc_op ops[3];
  memset(ops, 0, sizeof ops);
  ops[0].op = GRPC_OP_SEND_INITIAL_METADATA;
  ops[0].flags = rpc_flight_flags(self);
  ops[0].data.send_initial_metadata.count = self->sent_count;
  ops[0].data.send_initial_metadata.metadata = self->sent;
  if (!self->has_closed) return start(self, ops, 1, &self->begin);
  ops[1].op = GRPC_OP_SEND_MESSAGE;
  ops[1].data.send_message.send_message = rpc_message_new(frame);
  ops[2].op = GRPC_OP_SEND_CLOSE_FROM_CLIENT;
  bool started = start(self, ops, 3, &self->begin);
  grpc_byte_buffer_destroy(ops[1].data.send_message.send_message);
  return started;
}

static bool start_headers(rpc_flight *self) {
  grpc_op op;
  memset(&op, 0, sizeof op);
  op.op = GRPC_OP_RECV_INITIAL_METADATA;
  op.data.recv_initial_metadata.recv_initial_metadata = &self->initial;
  return start(self, &op, 1, &self->headers);
}

bool rpc_stream_begin(rpc_flight *self, frame_block *frame) {
  rpc *owner = self->owner;
  uint32_t bits = 0;
  pthread_mutex_lock(&owner->lock);
  bool started = start_status(self);
  if (started && (!start_sending(self, frame) || !start_headers(self)))
    give_up(self, error_new(PYPROC_E_INTERNAL, "gRPC refused to send a stream's metadata"));
  if (started) {
    rpc_stream_read(self);
    rpc_stream_send(self, &bits);
    leave(self, bits);
  } else {
    pthread_mutex_unlock(&owner->lock);
  }
  return started;
}

void rpc_stream_began(engine_task *task, bool ok) {
  (void)ok; /* the status tells */
  leave(enter(task), 0);
}

void rpc_stream_ended(engine_task *task, bool ok) {
  (void)ok;
  rpc_flight *self = enter(task);
  self->has_ended = true;
  leave(self, 0);
}
