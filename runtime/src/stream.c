/*
 * stream.c - the streams of the public API.
 *
 * A stream is an asynchronous call (async.h) with something to send and an inbox in addition. It may outlive its pool:
 * what it needs then is its own, or in the pool's memory, to which it holds a reference. Its lock comes after a
 * connection's: no function of a protocol is called with it held.
 */
#include <pthread.h>
#include <stdlib.h>

#include "async.h"
#include "call_setup.h"
#include "error.h"
#include "metadata.h"
#include "request.h"
#include "wire/metadata.h"

/* One direction: at most one thread in it, or one submission. */
typedef struct direction {
  bool is_busy;        /* a thread is in it, or something was submitted and its callback has not begun */
  bool is_outstanding; /* something was submitted and is not yet among the completions */
  bool is_done;        /* sending: the message was taken */
  lot_waiter waiter;
  completion completion;
  pyproc_trampoline *trampoline;
  void (*done)(void); /* for the trampoline */
  void *userdata;
} direction;

struct pyproc_stream {
  async_call base; /* first: it is one block */
  call_stream part;
  const struct codec *codec;
  int64_t frame_limit, idle_ns;
  uint64_t kind; /* PYPROC_RPC_* */

  pthread_mutex_t lock;
  direction sending, receiving;
  stream_message *first, *last; /* came and were not taken, oldest first */
  frame_block *outgoing;        /* the message that waits to be pulled */
  bool is_end_wanted, is_end_pulled;
  bool is_over;           /* its flight has ended: the call's error and body are in place */
  bool is_reply_taken;    /* of a client stream */
  bool is_end_told;       /* to a callback */
  bool is_closed;         /* nobody wants what comes */
  pyproc_error *unusable; /* a message that came is none: that is the end for the program */
  buffer beside;          /* encoded: what came beside the messages that were taken, and beside the end */
  size_t beside_count;    /* entries of it */
  bool is_end_seen;       /* what came beside the end is among it */
  metadata_set *entries;  /* of it, as last asked for; NULL: not since it has changed */

  /* What waiting threads look at; written under the lock. */
  atomic_bool may_receive;  /* something is in the inbox, or it is over */
  atomic_bool may_go_on;    /* the message was taken, or it is over */
  _Atomic int64_t moved_ns; /* when a message last came, went, or was taken */
};

static pyproc_stream *stream_of(struct call *call) {
  return (pyproc_stream *)(void *)call;
}

/* ---- what the protocol tells; the connection's lock is held ---- */

/* The submission is over: its callback may run. The lock is held. */
static void complete(pyproc_stream *self, direction *side) {
  side->is_outstanding = false;
  completions_add(&self->base.pool->async.completions, &side->completion);
}

static void on_received(struct call *call, stream_message *message, uint32_t *ret_bits) {
  pyproc_stream *self = stream_of(call);
  message->next = NULL;
  pthread_mutex_lock(&self->lock);
  atomic_store(&self->moved_ns, platform_now_ns());
  if (self->is_closed || self->unusable != NULL) {
    stream_message_free(message);
  } else {
    if (self->first == NULL)
      self->first = message;
    else
      self->last->next = message;
    self->last = message;
    atomic_store(&self->may_receive, true);
    if (self->receiving.is_outstanding) complete(self, &self->receiving);
    *ret_bits |= lot_waiter_bits(&self->receiving.waiter);
  }
  pthread_mutex_unlock(&self->lock);
}

static stream_next on_pull(struct call *call, bool may_send, frame_block **ret_frame, uint32_t *ret_bits) {
  pyproc_stream *self = stream_of(call);
  stream_next next = STREAM_NOTHING;
  pthread_mutex_lock(&self->lock);
  if (self->outgoing != NULL && may_send) {
    next = STREAM_MESSAGE;
    *ret_frame = self->outgoing;
    self->outgoing = NULL;
    self->sending.is_done = true;
    atomic_store(&self->moved_ns, platform_now_ns());
    atomic_store(&self->may_go_on, true);
    if (self->sending.is_outstanding) complete(self, &self->sending);
    *ret_bits |= lot_waiter_bits(&self->sending.waiter);
  } else if (self->outgoing == NULL && self->is_end_wanted && !self->is_end_pulled) {
    next = STREAM_END;
    self->is_end_pulled = true;
  }
  pthread_mutex_unlock(&self->lock);
  return next;
}

static const stream_ops ops = {.received = on_received, .pull = on_pull};

/* The end of its flight. */
static void on_ended(async_call *base) {
  pyproc_stream *self = stream_of(&base->call);
  pyproc_pool *pool = base->pool;
  if (base->call.error != NULL) {
    error_set_may_have_run(base->call.error, base->call.may_have_run);
    error_set_attempts(base->call.error, base->call.attempts);
  }
  pthread_mutex_lock(&self->lock);
  self->is_over = true;
  frame_block_unref(self->outgoing);
  self->outgoing = NULL;
  atomic_store(&self->may_receive, true);
  atomic_store(&self->may_go_on, true);
  if (self->sending.is_outstanding) complete(self, &self->sending);
  if (self->receiving.is_outstanding) complete(self, &self->receiving);
  uint32_t bits = lot_waiter_bits(&self->sending.waiter) | lot_waiter_bits(&self->receiving.waiter);
  pthread_mutex_unlock(&self->lock);
  admission_leave_stream(&pool->admission);
  lot_wake(&pool->lot, bits);
}

/* Whether it has been idle for too long, or its deadline has passed. The supervisor; no lock is held. */
static int64_t on_due(async_call *base, int64_t now_ns) {
  pyproc_stream *self = stream_of(&base->call);
  int64_t deadline_ns = base->call.deadline_ns;
  struct connection *connection = atomic_load(&base->call.connection);
  if (deadline_ns <= now_ns) return now_ns;
  bool is_idle = self->idle_ns < INT64_MAX && now_ns - atomic_load(&self->moved_ns) >= self->idle_ns;
  if (is_idle && connection != NULL) connection->protocol->pump(connection); /* what has come may not have been read */
  int64_t moved_ns = atomic_load(&self->moved_ns);
  pthread_mutex_lock(&self->lock);
  if (self->first != NULL) moved_ns = now_ns; /* it is the program that is idle */
  pthread_mutex_unlock(&self->lock);
  int64_t idle_until_ns = self->idle_ns < INT64_MAX - moved_ns ? moved_ns + self->idle_ns : INT64_MAX;
  if (idle_until_ns <= now_ns) atomic_store(&base->reason, ASYNC_IDLE);
  return idle_until_ns < deadline_ns ? idle_until_ns : deadline_ns;
}

/* ---- waiting ---- */

static bool may_receive(const call_wait *wait) {
  return atomic_load(&((const pyproc_stream *)(const void *)wait->call)->may_receive);
}

static bool may_go_on(const call_wait *wait) {
  return atomic_load(&((const pyproc_stream *)(const void *)wait->call)->may_go_on);
}

static bool is_placed(void *argument) {
  const call_wait *wait = argument;
  return wait->ready(wait) || atomic_load(&wait->call->connection) != NULL;
}

static void wait_for(pyproc_stream *self, direction *side, bool (*ready)(const call_wait *wait)) {
  struct call *call = &self->base.call;
  call_wait wait = {.call = call, .ready = ready, .waiter = &side->waiter, .deadline_ns = call->deadline_ns};
  if (ready(&wait)) return;
  atomic_fetch_add(&self->base.threads, 1);
  while (!ready(&wait)) {
    struct connection *connection = atomic_load(&call->connection);
    if (platform_now_ns() >= call->deadline_ns) {
      if (!async_call_expire(&self->base)) platform_yield();
    } else if (connection != NULL) {
      connection->protocol->progress(connection, &wait);
    } else {
      lot_sleep(&self->base.pool->lot, &side->waiter, is_placed, &wait, call->deadline_ns);
    }
  }
  atomic_store(&self->base.left_ns, platform_now_ns());
  atomic_fetch_sub(&self->base.threads, 1);
}

/* ---- entering ---- */

/* Checks the stream and keeps its pool open: *ret_inside false means that the pool is closed, and the stream over. */
static int enter(pyproc_stream *self, const pyproc_method *method, bool *ret_inside, pyproc_error **reterr) {
  if (self == NULL) return error_set(reterr, PYPROC_E_INVALID_ARGUMENT, "stream is NULL: was it opened with success?");
  const call_method *own = &self->base.call.method;
  if (method != NULL && own->typed != method)
    return error_set(reterr, PYPROC_E_INVALID_ARGUMENT, "the stream is of %s, not of %s", own->name, method->name);
  if (pool_is_forked(self->base.pool))
    return error_set(reterr, PYPROC_E_FAILED_PRECONDITION, "the stream of %s was opened before this process was forked",
                     own->name);
  *ret_inside = gate_enter(&self->base.pool->gate);
  return PYPROC_OK;
}

static void leave(pyproc_stream *self, bool is_inside) {
  if (is_inside) gate_leave(&self->base.pool->gate);
}

/* Takes a direction for a thread, or for a submission. The lock is held. */
static int claim(pyproc_stream *self, direction *side, pyproc_error **reterr) {
  if (side->is_busy)
    return error_set(reterr, PYPROC_E_FAILED_PRECONDITION,
                     "another thread, or a submitted operation, is %s the stream of %s already",
                     side == &self->sending ? "sending on" : "receiving from", self->base.call.method.name);
  side->is_busy = true;
  return PYPROC_OK;
}

/* Makes the direction's callback ready to be told. The lock is held, the direction claimed. */
static void submit(pyproc_stream *self, direction *side, const direction *like) {
  side->trampoline = like->trampoline;
  side->done = like->done;
  side->userdata = like->userdata;
  side->completion = like->completion;
  side->is_outstanding = true;
  async_call_ref(&self->base);
}

/* Nobody waits for what was submitted: somebody else has to read. */
static void attend(pyproc_stream *self) {
  atomic_store(&self->part.is_unattended, true);
  struct connection *connection = atomic_load(&self->base.call.connection);
  if (connection != NULL) connection->protocol->attend(connection, &self->base.call);
}

/* ---- sending ---- */

static int encode(pyproc_stream *self, const ProtobufCMessage *message, frame_block **ret_frame,
                  pyproc_error **reterr) {
  const pyproc_method *method = self->base.call.method.typed;
  if (self->kind == PYPROC_RPC_SERVER_STREAM)
    return error_set(reterr, PYPROC_E_INVALID_ARGUMENT, "%s takes one request, which was sent when it was opened",
                     method->name);
  int result = call_setup_check_message(method, message, reterr);
  if (result >= 0) result = request_encode_stream_message(self->codec, method, message, ret_frame, reterr);
  if (result >= 0) result = call_setup_check_size(*ret_frame, self->frame_limit, "message", method->name, reterr);
  return result;
}

/* Claims the sending direction and puts the frame, which it takes over, where it is pulled from. `like` NULL: for this
 * thread. Returns 1: there it is; 0: the stream is over. */
static int put_out(pyproc_stream *self, frame_block *frame, const direction *like, pyproc_error **reterr) {
  direction *side = &self->sending;
  int result = claim(self, side, reterr);
  if (result >= 0 && self->is_end_wanted) {
    side->is_busy = false;
    result = error_set(reterr, PYPROC_E_FAILED_PRECONDITION, "sending on the stream of %s was said to be done",
                       self->base.call.method.name);
  }
  if (result < 0) {
    frame_block_unref(frame);
    return result;
  }
  side->is_done = false;
  if (like != NULL) submit(self, side, like);
  if (self->is_over) {
    frame_block_unref(frame);
    if (like != NULL) complete(self, side);
    return 0;
  }
  self->outgoing = frame;
  atomic_store(&self->may_go_on, false);
  return 1;
}

/* Tells the connection, if it has one, that there is something to be pulled; else that is done when it gets one. The
 * thread is inside the pool. */
static void offer(pyproc_stream *self) {
  struct connection *connection = atomic_load(&self->base.call.connection);
  if (connection != NULL) connection->protocol->send(connection, &self->base.call);
}

static int send_one(pyproc_stream *self, const ProtobufCMessage *message, pyproc_error **reterr) {
  frame_block *frame = NULL;
  int result = encode(self, message, &frame, reterr);
  if (result < 0) {
    frame_block_unref(frame);
    return result;
  }
  pthread_mutex_lock(&self->lock);
  result = put_out(self, frame, NULL, reterr);
  pthread_mutex_unlock(&self->lock);
  if (result < 0) return result;
  if (result == 1) {
    offer(self);
    wait_for(self, &self->sending, may_go_on);
  }
  pthread_mutex_lock(&self->lock);
  self->sending.is_busy = false;
  result = self->sending.is_done;
  pthread_mutex_unlock(&self->lock);
  return result;
}

int pyproc_stream_send_generated(pyproc_stream *stream, const pyproc_method *method, const ProtobufCMessage *message,
                                 pyproc_error **reterr) {
  bool is_inside;
  int result = enter(stream, method, &is_inside, reterr);
  if (result < 0) return result;
  result = send_one(stream, message, reterr);
  leave(stream, is_inside);
  return result;
}

int pyproc_stream_send(pyproc_stream *stream, const ProtobufCMessage *message, pyproc_error **reterr) {
  return pyproc_stream_send_generated(stream, NULL, message, reterr);
}

static int say_end(pyproc_stream *self, bool is_inside, pyproc_error **reterr) {
  if (self->kind == PYPROC_RPC_SERVER_STREAM)
    return error_set(reterr, PYPROC_E_INVALID_ARGUMENT, "%s takes one request, which was sent when it was opened",
                     self->base.call.method.name);
  pthread_mutex_lock(&self->lock);
  bool is_thread = self->sending.is_busy && !self->sending.is_outstanding && !self->sending.is_done;
  int result = PYPROC_OK;
  if (is_thread && !self->is_over)
    result = error_set(reterr, PYPROC_E_FAILED_PRECONDITION, "another thread is sending on the stream of %s",
                       self->base.call.method.name);
  else
    self->is_end_wanted = true;
  pthread_mutex_unlock(&self->lock);
  if (result >= 0 && is_inside) offer(self);
  return result;
}

int pyproc_stream_done_sending_generated(pyproc_stream *stream, const pyproc_method *method, pyproc_error **reterr) {
  bool is_inside;
  int result = enter(stream, method, &is_inside, reterr);
  if (result < 0) return result;
  result = say_end(stream, is_inside, reterr);
  leave(stream, is_inside);
  return result;
}

int pyproc_stream_done_sending(pyproc_stream *stream, pyproc_error **reterr) {
  return pyproc_stream_done_sending_generated(stream, NULL, reterr);
}

/* ---- metadata ---- */

/* Adds encoded entries, which have been checked, as far as the bounds of one frame's metadata go. The lock is held. */
static void add_beside(pyproc_stream *self, const uint8_t *data, size_t size) {
  size_t count = 0;
  if (size == 0 || size > WIRE_METADATA_SIZE_MAX - self->beside.size) return;
  wire_metadata_check(data, size, &count);
  if (count > WIRE_METADATA_ENTRIES_MAX - self->beside_count || !buffer_append(&self->beside, data, size)) return;
  self->beside_count += count;
}

/* Adds what came with the end: once. The lock is held. */
static void add_beside_end(pyproc_stream *self) {
  const struct call *call = &self->base.call;
  buffer encoded = {0};
  size_t count = 0;
  if (self->is_end_seen) return;
  self->is_end_seen = true;
  if (call->error == NULL) {
    if (call->metadata_size > 0) add_beside(self, call->body - call->metadata_size, call->metadata_size);
    return;
  }
  const pyproc_metadata *entries = pyproc_error_metadata(call->error, &count);
  if (metadata_encode(entries, count, &encoded, NULL) >= 0) add_beside(self, encoded.data, encoded.size);
  buffer_free(&encoded);
}

static const pyproc_metadata *entries_so_far(pyproc_stream *self, size_t *ret_count) {
  size_t size = self->beside.size;
  if (size > 0 && (self->entries == NULL || self->entries->count != self->beside_count)) {
    free(self->entries);
    self->entries = malloc(metadata_set_size(self->beside.data, size));
    if (self->entries != NULL) metadata_set_init(self->entries, self->beside.data, size);
  }
  return metadata_set_entries(self->entries, ret_count);
}

const pyproc_metadata *pyproc_stream_metadata(pyproc_stream *stream, size_t *ret_count) {
  if (stream == NULL || pool_is_forked(stream->base.pool)) return metadata_set_entries(NULL, ret_count);
  pthread_mutex_lock(&stream->lock);
  const pyproc_metadata *entries = entries_so_far(stream, ret_count);
  pthread_mutex_unlock(&stream->lock);
  return entries;
}

/* ---- receiving ---- */

enum { NOTHING_YET = 2 };

static stream_message *pop(pyproc_stream *self) {
  stream_message *message = self->first;
  self->first = message->next;
  atomic_store(&self->moved_ns, platform_now_ns());
  if (self->first == NULL && !self->is_over) atomic_store(&self->may_receive, false);
  return message;
}

/* What comes next: 1 and a message, or 1 and none, which means the reply of a client stream; 0: the end; an error; or
 * NOTHING_YET. The lock is held. */
static int next_result(pyproc_stream *self, stream_message **ret_message, pyproc_error **reterr) {
  const pyproc_error *error = self->unusable;
  *ret_message = NULL;
  if (error == NULL && self->first != NULL) {
    *ret_message = pop(self);
    add_beside(self, (*ret_message)->metadata, (*ret_message)->metadata_size);
    return 1;
  }
  if (error == NULL && !self->is_over) return NOTHING_YET;
  if (error == NULL) add_beside_end(self);
  if (error == NULL) error = self->base.call.error;
  if (error != NULL) return error_give(reterr, error_copy(error));
  if (self->kind != PYPROC_RPC_CLIENT_STREAM || self->is_reply_taken) return 0;
  self->is_reply_taken = true;
  return 1;
}

static void drop_inbox(pyproc_stream *self) {
  while (self->first != NULL) stream_message_free(pop(self));
}

/* What came is no message: nothing more will be received. Takes the error over. */
static int become_unusable(pyproc_stream *self, pyproc_error *error, pyproc_error **reterr) {
  pthread_mutex_lock(&self->lock);
  drop_inbox(self);
  self->unusable = error_copy(error);
  atomic_store(&self->may_receive, true);
  pthread_mutex_unlock(&self->lock);
  async_call_cancel(&self->base, true);
  return error_give(reterr, error);
}

/* Makes the program's message of what next_result has found, which it takes over. */
static int unpack(pyproc_stream *self, bool is_inside, stream_message *message, ProtobufCMessage **ret_message,
                  pyproc_error **reterr) {
  struct call *call = &self->base.call;
  struct connection *connection = is_inside ? atomic_load(&call->connection) : NULL;
  pyproc_error *error = NULL;
  int result;
  if (message != NULL) {
    if (connection != NULL) connection->protocol->taken(connection, call, message->size);
    result = call_setup_unpack_message(call, self->codec, self->frame_limit, message, ret_message, &error);
  } else {
    result = call_setup_take_message(call, self->codec, self->frame_limit, ret_message, &error);
  }
  stream_message_free(message);
  return result < 0 ? become_unusable(self, error, reterr) : 1;
}

static int receive_one(pyproc_stream *self, bool is_inside, ProtobufCMessage **ret_message, pyproc_error **reterr) {
  stream_message *message;
  if (ret_message == NULL) return error_set(reterr, PYPROC_E_INVALID_ARGUMENT, "ret_message is NULL");
  pthread_mutex_lock(&self->lock);
  int result = claim(self, &self->receiving, reterr);
  if (result < 0) {
    pthread_mutex_unlock(&self->lock);
    return result;
  }
  while ((result = next_result(self, &message, reterr)) == NOTHING_YET) {
    pthread_mutex_unlock(&self->lock);
    wait_for(self, &self->receiving, may_receive);
    pthread_mutex_lock(&self->lock);
  }
  pthread_mutex_unlock(&self->lock);
  if (result == 1) result = unpack(self, is_inside, message, ret_message, reterr);
  pthread_mutex_lock(&self->lock);
  self->receiving.is_busy = false;
  pthread_mutex_unlock(&self->lock);
  return result;
}

int pyproc_stream_recv_generated(pyproc_stream *stream, const pyproc_method *method, ProtobufCMessage **ret_message,
                                 pyproc_error **reterr) {
  bool is_inside;
  int result = enter(stream, method, &is_inside, reterr);
  if (result < 0) return result;
  result = receive_one(stream, is_inside, ret_message, reterr);
  leave(stream, is_inside);
  return result;
}

int pyproc_stream_recv(pyproc_stream *stream, ProtobufCMessage **ret_message, pyproc_error **reterr) {
  return pyproc_stream_recv_generated(stream, NULL, ret_message, reterr);
}

/* ---- submitted operations ---- */

/* Back to the type that it had. */
static void call_done(void (*done)(void), int result, ProtobufCMessage *reply, pyproc_error *error, void *userdata) {
  ((pyproc_done *)done)(result, reply, error, userdata);
}

static int pool_closed(const pyproc_stream *self, pyproc_error **reterr) {
  return error_set(reterr, PYPROC_E_UNAVAILABLE,
                   "the pool was closed, and nothing of the stream of %s can be dispatched",
                   self->base.call.method.name);
}

static int closed_error(const pyproc_stream *self, pyproc_error **reterr) {
  return error_set(reterr, PYPROC_E_CANCELLED, "the stream of %s was closed", self->base.call.method.name);
}

/* The callbacks run on the dispatching thread, which is inside the pool. Each may close the stream: what it needs is
 * taken before, and its direction is free again. */

static void deliver_sent(completion *item) {
  direction *side = (direction *)(void *)((char *)item - offsetof(direction, completion));
  pyproc_stream *self = (pyproc_stream *)(void *)((char *)side - offsetof(pyproc_stream, sending));
  pyproc_error *error = NULL;
  pthread_mutex_lock(&self->lock);
  direction told = *side;
  side->is_busy = false;
  int result = told.is_done;
  if (result == 0 && self->is_closed) result = closed_error(self, &error);
  pthread_mutex_unlock(&self->lock);
  async_call_unref(&self->base);
  told.trampoline(told.done, result, NULL, error, told.userdata);
}

static void deliver_received(completion *item) {
  direction *side = (direction *)(void *)((char *)item - offsetof(direction, completion));
  pyproc_stream *self = (pyproc_stream *)(void *)((char *)side - offsetof(pyproc_stream, receiving));
  pyproc_error *error = NULL;
  stream_message *message = NULL;
  ProtobufCMessage *reply = NULL;
  pthread_mutex_lock(&self->lock);
  direction told = *side;
  int result = self->is_closed ? closed_error(self, &error) : next_result(self, &message, &error);
  pthread_mutex_unlock(&self->lock);
  if (result == 1) result = unpack(self, true, message, &reply, &error);
  pthread_mutex_lock(&self->lock);
  side->is_busy = false;
  self->is_end_told = result != 1;
  pthread_mutex_unlock(&self->lock);
  async_call_unref(&self->base);
  told.trampoline(told.done, result, reply, error, told.userdata);
}

static int check_done(pyproc_trampoline *trampoline, void (*done)(void), pyproc_error **reterr) {
  if (trampoline != NULL && done != NULL) return PYPROC_OK;
  return error_set(reterr, PYPROC_E_INVALID_ARGUMENT, "done is NULL");
}

static int submit_send(pyproc_stream *self, const ProtobufCMessage *message, const direction *like,
                       pyproc_error **reterr) {
  frame_block *frame = NULL;
  int result = check_done(like->trampoline, like->done, reterr);
  if (result >= 0) result = encode(self, message, &frame, reterr);
  if (result < 0) {
    frame_block_unref(frame);
    return result;
  }
  pthread_mutex_lock(&self->lock);
  result = put_out(self, frame, like, reterr);
  pthread_mutex_unlock(&self->lock);
  if (result < 1) return result;
  offer(self);
  attend(self);
  return PYPROC_OK;
}

int pyproc_stream_send_submit_generated(pyproc_stream *stream, const pyproc_method *method,
                                        const ProtobufCMessage *message, pyproc_done *done, void *userdata,
                                        pyproc_error **reterr) {
  direction like = {
      .completion.deliver = deliver_sent, .trampoline = call_done, .done = (void (*)(void))done, .userdata = userdata};
  bool is_inside;
  int result = enter(stream, method, &is_inside, reterr);
  if (result < 0) return result;
  result = is_inside ? submit_send(stream, message, &like, reterr) : pool_closed(stream, reterr);
  leave(stream, is_inside);
  return result;
}

int pyproc_stream_send_submit(pyproc_stream *stream, const ProtobufCMessage *message, pyproc_done *done, void *userdata,
                              pyproc_error **reterr) {
  return pyproc_stream_send_submit_generated(stream, NULL, message, done, userdata, reterr);
}

static int submit_receive(pyproc_stream *self, const direction *like, pyproc_error **reterr) {
  int result = check_done(like->trampoline, like->done, reterr);
  if (result < 0) return result;
  pthread_mutex_lock(&self->lock);
  if (self->is_end_told && gate_is_closing(&self->base.pool->gate))
    result = pool_closed(self, reterr); /* so that a callback that always submits does not keep it open */
  else
    result = claim(self, &self->receiving, reterr);
  if (result >= 0) {
    submit(self, &self->receiving, like);
    if (atomic_load(&self->may_receive)) complete(self, &self->receiving);
  }
  pthread_mutex_unlock(&self->lock);
  if (result >= 0) attend(self);
  return result;
}

int pyproc_stream_recv_submit_generated(pyproc_stream *stream, const pyproc_method *method,
                                        pyproc_trampoline *trampoline, void (*done)(void), void *userdata,
                                        pyproc_error **reterr) {
  direction like = {
      .completion.deliver = deliver_received, .trampoline = trampoline, .done = done, .userdata = userdata};
  bool is_inside;
  int result = enter(stream, method, &is_inside, reterr);
  if (result < 0) return result;
  result = is_inside ? submit_receive(stream, &like, reterr) : pool_closed(stream, reterr);
  leave(stream, is_inside);
  return result;
}

int pyproc_stream_recv_submit(pyproc_stream *stream, pyproc_done *done, void *userdata, pyproc_error **reterr) {
  return pyproc_stream_recv_submit_generated(stream, NULL, call_done, (void (*)(void))done, userdata, reterr);
}

/* ---- opening and closing ---- */

/* What async_call_unref does not know of. */
static void on_destroy(async_call *base) {
  pyproc_stream *self = stream_of(&base->call);
  drop_inbox(self);
  frame_block_unref(self->outgoing);
  pyproc_error_free(self->unusable);
  buffer_free(&self->beside);
  free(self->entries);
  if (!pool_is_forked(base->pool)) pthread_mutex_destroy(&self->lock); /* in a child somebody may seem to hold it */
}

/* Takes the frame over. */
static pyproc_stream *stream_new(pyproc_pool *pool, const pyproc_method *method, frame_block *frame,
                                 const pyproc_call_options *options, pyproc_error **reterr) {
  call_method target = {.name = method->name, .typed = method};
  pyproc_stream *self = async_call_new(sizeof *self, pool, target, frame, options, reterr);
  if (self == NULL) return NULL;
  int64_t idle_ms = pool->options.stream_idle_timeout_ms;
  self->base.ended = on_ended;
  self->base.due = on_due;
  self->base.destroy = on_destroy;
  self->base.call.stream = &self->part;
  self->part.ops = &ops;
  self->codec = pool->options.codec;
  self->frame_limit = pool->options.frame_limit;
  self->idle_ns = idle_ms < INT64_MAX / 1000000 ? idle_ms * 1000000 : INT64_MAX;
  self->kind = method->kind;
  pthread_mutex_init(&self->lock, NULL);
  direction *both[] = {&self->sending, &self->receiving};
  for (int i = 0; i < 2; i++) both[i]->waiter.bit = self->base.call.waiter.bit; /* woken when the call finds a place */
  atomic_store(&self->moved_ns, platform_now_ns());
  self->base.deadline.at_ns = on_due(&self->base, platform_now_ns());
  pool_ref(pool);
  return self;
}

/* In a forked child no lock is to be trusted. What is still in flight is so in the parent, and the connection's, or the
 * token's, which the child may free; a token may have to do with the stream's memory for ever. */
static void close_in_child(pyproc_stream *self) {
  pyproc_pool *pool = self->base.pool;
  if (self->base.token == NULL) {
    on_destroy(&self->base);
    call_clear(&self->base.call);
    free(self);
  }
  pool_unref(pool);
}

void pyproc_stream_close(pyproc_stream *self) {
  if (self == NULL) return;
  pyproc_pool *pool = self->base.pool;
  if (pool_is_forked(pool)) {
    close_in_child(self);
    return;
  }
  pthread_mutex_lock(&self->lock);
  self->is_closed = true;
  bool is_over = self->is_over;
  drop_inbox(self);
  pthread_mutex_unlock(&self->lock);
  if (!is_over) async_call_cancel(&self->base, true);
  async_call_detach(&self->base);
  async_call_unref(&self->base);
  pool_unref(pool);
}

/* What has ended it before it was open. */
static int failed_at_once(pyproc_stream *self, pyproc_error **reterr) {
  pthread_mutex_lock(&self->lock);
  const pyproc_error *error = self->is_over && self->first == NULL ? self->base.call.error : NULL;
  int result = error != NULL ? error_give(reterr, error_copy(error)) : PYPROC_OK;
  pthread_mutex_unlock(&self->lock);
  return result;
}

static int start(pyproc_pool *pool, const pyproc_method *method, frame_block *frame, const pyproc_call_options *options,
                 pyproc_stream **ret_stream, pyproc_error **reterr) {
  pyproc_stream *self = stream_new(pool, method, frame, options, reterr);
  if (self == NULL) return PYPROC_E_RESOURCE_EXHAUSTED;
  int result = async_call_start(&self->base, reterr);
  if (result < 0) { /* it is gone */
    pool_count(pool, result);
    pool_unref(pool);
    return result;
  }
  result = failed_at_once(self, reterr);
  if (result < 0)
    pyproc_stream_close(self);
  else
    *ret_stream = self;
  return result;
}

int pyproc_stream_open(pyproc_pool *pool, const pyproc_method *method, const ProtobufCMessage *request,
                       const pyproc_call_options *given, pyproc_stream **ret_stream, pyproc_error **reterr) {
  pyproc_call_options options;
  frame_block *frame = NULL;
  int result = pool_enter(pool, reterr);
  if (result < 0) return result;
  if (ret_stream == NULL) result = error_set(reterr, PYPROC_E_INVALID_ARGUMENT, "ret_stream is NULL");
  if (result >= 0) result = call_setup_stream(pool, method, request, given, &options, &frame, reterr);
  if (result < 0)
    pool_count(pool, result);
  else
    result = start(pool, method, frame, &options, ret_stream, reterr);
  pool_leave(pool);
  return result;
}
