/*
 * Streams: messages and credit in both directions (schema/wire.md, Streams).
 */
#include "error.h"
#include "framed.h"
#include "wire/metadata.h"

enum { GRANTS_PER_WINDOW = 4 };

static int64_t cost_of(size_t body_size) {
  return (int64_t)body_size + WIRE_STREAM_MESSAGE_COST;
}

/* Whether the call is in our table. The lock is held, so that a call that says it is here does not leave. */
static bool has(const framed *self, const struct call *call) {
  if (atomic_load(&call->connection) != &self->base) return false;
  const framed_slot *slot = &self->slots[call->id % STATUS_PAGE_SLOTS];
  return slot->id == call->id && slot->call == call;
}

/* Takes the stream out of the table for a reason of our own, and ends it. The lock is held. */
static void end_stream(framed *self, struct call *call, pyproc_error *error) {
  bool may_have_run = framed_may_have_run(self, call->id);
  framed_orphan(self, call);
  framed_send_control(self, WIRE_CANCEL, (uint16_t)-PYPROC_E_CANCELLED, call->id, NULL, 0);
  error_set_worker(error, self->base.peer_pid);
  call_fail(call, error, may_have_run);
  framed_nudge(&self->base); /* its other thread may be blocked here */
}

/* ---- sending ---- */

static bool append_message(framed *self, struct call *call, frame_block *frame) {
  wire_put64(frame->bytes.data + WIRE_LENGTH_SIZE + 8, call->id);
  call->stream->send_credit -= cost_of(frame->bytes.size - frame->body_offset);
  bool is_appended = send_queue_append(&self->queue, frame);
  frame_block_unref(frame);
  return is_appended;
}

/* Queues what the stream has to send, as far as its credit goes. It may be over, and gone, afterwards. */
static void pull(framed *self, struct call *call, uint32_t *ret_bits) {
  call_stream *stream = call->stream;
  bool is_appended = true;
  while (is_appended) {
    frame_block *frame = NULL;
    stream_next next = stream->ops->pull(call, stream->send_credit > 0, &frame, ret_bits);
    if (next == STREAM_NOTHING) return;
    stream->is_pinned = true;
    is_appended = next == STREAM_END ? framed_send_control(self, WIRE_END, 0, call->id, NULL, 0)
                                     : append_message(self, call, frame);
  }
  end_stream(self, call, error_new(PYPROC_E_RESOURCE_EXHAUSTED, "out of memory"));
}

void framed_begin_stream(framed *self, struct call *call, uint32_t *ret_bits) {
  call_stream *stream = call->stream;
  stream->is_pinned = false;
  stream->send_credit = stream->receive_credit = self->settings.stream_window;
  stream->ungranted = 0;
  stream->is_attended = atomic_load(&stream->is_unattended);
  if (!stream->is_attended) self->idle_streams++;
  pull(self, call, ret_bits);
}

/* After something was queued: where it could not be written, somebody has to wait until it can. No lock is held. */
static void see_to_writing(framed *self) {
  if (!atomic_load(&self->write_blocked)) return;
  framed_nudge(&self->base);
  framed_hand_over(self, NULL);
}

void framed_send(struct connection *base, struct call *call) {
  framed *self = framed_of(base);
  uint32_t bits = 0;
  pthread_mutex_lock(&self->lock);
  if (has(self, call)) {
    pull(self, call, &bits);
    framed_flush(self);
  }
  pthread_mutex_unlock(&self->lock);
  lot_wake(self->settings.lot, bits);
  see_to_writing(self);
}

/* ---- receiving ---- */

void framed_taken(struct connection *base, struct call *call, size_t size) {
  framed *self = framed_of(base);
  uint8_t credit[WIRE_CREDIT_SIZE];
  pthread_mutex_lock(&self->lock);
  if (has(self, call)) {
    call_stream *stream = call->stream;
    stream->ungranted += cost_of(size);
    wire_put32(credit, (uint32_t)stream->ungranted);
    if (stream->ungranted >= self->settings.stream_window / GRANTS_PER_WINDOW &&
        framed_send_control(self, WIRE_CREDIT, 0, call->id, credit, sizeof credit)) {
      stream->receive_credit += stream->ungranted;
      stream->ungranted = 0;
      framed_flush(self);
    }
  }
  pthread_mutex_unlock(&self->lock);
  see_to_writing(self);
}

void framed_attend(struct connection *base, struct call *call) {
  framed *self = framed_of(base);
  pthread_mutex_lock(&self->lock);
  if (has(self, call) && !call->stream->is_attended) {
    call->stream->is_attended = true;
    self->idle_streams--;
  }
  pthread_mutex_unlock(&self->lock);
  framed_hand_over(self, NULL);
}

/* The call in flight with that id; NULL: unknown, ended, or given up. The lock is held. */
static struct call *find(framed *self, uint64_t id) {
  const framed_slot *slot = &self->slots[id % STATUS_PAGE_SLOTS];
  return id != 0 && slot->id == id ? slot->call : NULL;
}

/* What is wrong with a message that has come for the call, or NULL. */
static const char *check_message(const struct call *call, bool is_json) {
  if (call->stream == NULL) return "a stream's message for a call that is none";
  if (call->method.typed->kind == PYPROC_RPC_CLIENT_STREAM) return "a message on a stream of the host's";
  if (is_json != (call->frame->encoding == CALL_BODY_JSON)) return "a message in another form than the stream's";
  if (call->stream->receive_credit <= 0) return "more messages on a stream than it had credit for";
  return NULL;
}

/* Lets the stream have the message, which may be NULL for lack of memory. */
static void give(framed *self, struct call *call, stream_message *message, uint32_t *ret_bits) {
  if (message == NULL) {
    end_stream(self, call, error_new(PYPROC_E_RESOURCE_EXHAUSTED, "no memory for a message of %s", call->method.name));
    return;
  }
  call->stream->receive_credit -= cost_of(message->size);
  call->stream->is_pinned = true;
  self->slots[call->id % STATUS_PAGE_SLOTS].started = true;
  call->stream->ops->received(call, message, ret_bits);
}

const char *framed_take_message(framed *self, const wire_header *header, struct payload *payload, uint32_t *ret_bits) {
  const uint8_t *metadata = payload->data + WIRE_HEADER_SIZE, *body = metadata + header->metadata_size;
  size_t size = payload->size - WIRE_HEADER_SIZE - header->metadata_size;
  stream_message *message = payload->block != NULL
                                ? stream_message_adopt(payload->block, metadata, header->metadata_size, body, size)
                                : stream_message_new(metadata, header->metadata_size, body, size);
  if (message != NULL) payload->block = NULL; /* the message's */
  const char *wrong = NULL;
  pthread_mutex_lock(&self->lock);
  struct call *call = find(self, header->id);
  if (call != NULL) wrong = check_message(call, (header->flags & WIRE_FLAG_JSON) != 0);
  if (call != NULL && wrong == NULL) {
    const char *spoilt = wire_metadata_check(metadata, header->metadata_size, NULL);
    if (spoilt != NULL) {
      end_stream(self, call,
                 error_new(PYPROC_E_DATA_LOSS, "the metadata of a message of %s has %s", call->method.name, spoilt));
    } else {
      give(self, call, message, ret_bits);
      message = NULL;
    }
  }
  pthread_mutex_unlock(&self->lock);
  stream_message_free(message);
  return wrong;
}

/* The stream may send more. The lock is held. */
static const char *add_credit(framed *self, struct call *call, int64_t credit, uint32_t *ret_bits) {
  if (call->stream == NULL) return "credit for a call that is no stream";
  if (credit > self->settings.stream_window - call->stream->send_credit) return "more credit than a stream has used";
  call->stream->send_credit += credit;
  pull(self, call, ret_bits);
  framed_flush(self);
  return NULL;
}

const char *framed_take_credit(framed *self, const wire_header *header, const struct payload *payload,
                               uint32_t *ret_bits) {
  const char *wrong = NULL;
  if (payload->size - WIRE_HEADER_SIZE - header->metadata_size != WIRE_CREDIT_SIZE) return "credit of another size";
  int64_t credit = wire_get32(payload->data + WIRE_HEADER_SIZE + header->metadata_size);
  pthread_mutex_lock(&self->lock);
  struct call *call = find(self, header->id);
  if (call != NULL) wrong = add_credit(self, call, credit, ret_bits);
  pthread_mutex_unlock(&self->lock);
  return wrong;
}
