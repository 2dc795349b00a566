#include "framed.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "prefetch.h"
#include "wire/envelope.h"
#include "wire/frame.h"
#include "wire/metadata.h"

enum { FILLS_MAX = 16 };

/* What one turn of the reader found out. */
struct turn {
  const struct call *mine; /* for which the reading thread waits itself, or NULL */
  uint32_t wake_bits;
  int frames, replies; /* replies to unary calls */
  int good;            /* replies of any kind, and messages */
  bool room;           /* a slot became free */
  int64_t now_ns;      /* CLOCK_MONOTONIC; 0: nobody has looked */
};

/* A reply, from either kind of frame. */
typedef struct reply_view {
  uint64_t id;
  int code; /* PYPROC_*; 0: the body is the reply */
  const uint8_t *body;
  size_t body_size, metadata_size; /* the metadata lies right before the body */
  pyproc_error *error;
  bool is_envelope, is_json;
} reply_view;

static void break_with(framed *self, int code, const char *what) {
  self->receiving = false;
  framed_break(self, error_new(code, "worker %ld sent %s", (long)self->base.peer_pid, what));
}

/* Lets the call have the body and the metadata: its own copy, or the whole block. */
static bool give_body(struct call *call, const reply_view *reply, struct payload *payload) {
  size_t size = reply->metadata_size + reply->body_size;
  if (payload->block != NULL) {
    call->block = payload->block;
    call->body = reply->body;
    payload->block = NULL;
  } else {
    call->block = size <= sizeof call->small ? call->small : malloc(size);
    if (call->block == NULL) return false;
    if (size > 0) memcpy(call->block, reply->body - reply->metadata_size, size);
    call->body = call->block + reply->metadata_size;
  }
  call->body_size = reply->body_size;
  call->metadata_size = reply->metadata_size;
  call->is_checked = reply->is_envelope;
  return true;
}

/* A worker that sends metadata along answers an envelope by a frame. */
static bool fits_request(const reply_view *reply, call_encoding encoding) {
  return reply->is_envelope == (encoding == CALL_BODY_ENVELOPE) || (encoding == CALL_BODY_ENVELOPE && reply->is_json);
}

static void complete(framed *self, struct turn *turn, const reply_view *reply, struct payload *payload) {
  framed_slot slot = {0};
  pthread_mutex_lock(&self->lock);
  bool may_have_run = reply->error == NULL || framed_may_have_run(self, reply->id);
  bool found = framed_release(self, reply->id, &slot);
  pthread_mutex_unlock(&self->lock);
  struct call *call = slot.call;
  pyproc_error *error = reply->error;
  turn->room |= found;
  turn->good += found;
  turn->replies += found && !slot.is_stream;
  if (call == NULL) {
    pyproc_error_free(error); /* late, or none of ours */
    return;
  }
  if (error == NULL && !fits_request(reply, call->frame->encoding))
    error =
        error_new(PYPROC_E_DATA_LOSS, "the worker's reply to %s has another form than the request", call->method.name);
  if (error == NULL && !give_body(call, reply, payload))
    error = error_new(PYPROC_E_RESOURCE_EXHAUSTED, "out of memory");
  if (atomic_load(&self->finished) && pyproc_error_code(error) == PYPROC_E_CANCELLED) { /* by nobody's token */
    pyproc_error_free(error);
    error = error_new(PYPROC_E_UNAVAILABLE, "the pool was closed while %s ran", call->method.name);
  }
  bool is_pinned = call->asked != 0 || (call->stream != NULL && call->stream->is_pinned);
  if (!may_have_run && !is_pinned &&
      pyproc_error_code(error) == PYPROC_E_UNAVAILABLE) { /* it stops, and gives back what it had not begun */
    pyproc_error_free(error);
    atomic_store(&self->base.capacity, 0);
    self->base.owner_ops->returned(self->base.owner, call);
    return;
  }
  if (error != NULL) error_set_worker(error, self->base.peer_pid);
  call->error = error;
  call->may_have_run = may_have_run;
  bool is_elsewhere = call != turn->mine; /* whoever waits for it has yet to run */
  if (is_elsewhere && call->finished == NULL) {
    call->resuming = &self->resuming;
    atomic_fetch_add_explicit(&self->resuming, 1, memory_order_relaxed);
  }
  uint32_t bits = call_finish(call);
  if (is_elsewhere) turn->wake_bits |= bits;
}

pyproc_error *framed_envelope_error(const framed *self, const struct envelope *envelope) {
  size_t size = envelope->error.size + envelope->error_type.size + envelope->traceback.size + 3;
  char *text = malloc(size), *end = text;
  if (text == NULL) return error_new(PYPROC_E_RESOURCE_EXHAUSTED, "out of memory");
  size_t message_size = envelope_unescape(envelope->error, end);
  char *type = (end += message_size + 1);
  size_t type_size = envelope_unescape(envelope->error_type, type);
  char *traceback = (end += type_size + 1);
  size_t traceback_size = envelope_unescape(envelope->traceback, traceback);
  bool is_bare = !self->handshake->has_frames; /* knows nothing but the message */
  pyproc_error *error =
      error_new(envelope->code == 0 || is_bare ? PYPROC_E_UNKNOWN : error_from_wire(envelope->code), "%s", text);
  if (!is_bare) {
    error_set_python(error, type_size > 0 ? type : NULL, type_size, traceback_size > 0 ? traceback : NULL,
                     traceback_size);
    error_set_stop(error, envelope->interrupted ? PYPROC_STOP_INTERRUPTED : PYPROC_STOP_NONE);
  }
  free(text);
  return error;
}

static void take_envelope(framed *self, struct turn *turn, struct payload *payload) {
  struct envelope envelope;
  const char *wrong = envelope_parse((const char *)payload->data, payload->size, &envelope);
  if (wrong != NULL || envelope.type != ENVELOPE_REPLY) {
    char what[128];
    snprintf(what, sizeof what, "a JSON envelope that is no reply: %s", wrong != NULL ? wrong : "unexpected members");
    break_with(self, PYPROC_E_DATA_LOSS, what);
    return;
  }
  if (!self->handshake->has_frames && envelope.id == 0 && !envelope.ok) {
    framed_gave_up(self, &envelope);
    return;
  }
  reply_view reply = {.id = envelope.id, .is_envelope = true};
  if (envelope.ok) {
    reply.body = (const uint8_t *)(envelope.body.data != NULL ? envelope.body.data : "null");
    reply.body_size = envelope.body.data != NULL ? envelope.body.size : 4;
  } else {
    reply.error = framed_envelope_error(self, &envelope);
  }
  complete(self, turn, &reply, payload);
}

static void take_reply(framed *self, struct turn *turn, const wire_header *header, struct payload *payload) {
  reply_view reply = {.id = header->id, .metadata_size = header->metadata_size};
  reply.body = payload->data + WIRE_HEADER_SIZE + header->metadata_size;
  reply.body_size = payload->size - WIRE_HEADER_SIZE - header->metadata_size;
  reply.is_json = (header->flags & WIRE_FLAG_JSON) != 0;
  const uint8_t *metadata = reply.body - reply.metadata_size;
  const char *wrong = wire_metadata_check(metadata, reply.metadata_size, NULL);
  if (wrong != NULL) {
    reply.error = error_new(PYPROC_E_DATA_LOSS, "the metadata of the worker's reply has %s", wrong);
  } else if (header->code != 0) {
    reply.error = error_from_object(error_from_wire(header->code), (const char *)reply.body, reply.body_size);
    error_set_metadata(reply.error, metadata, reply.metadata_size);
  }
  complete(self, turn, &reply, payload);
}

/* Frames of streams. */
static void take_stream(framed *self, struct turn *turn, const wire_header *header, struct payload *payload) {
  bool is_message = header->kind == WIRE_STREAM_DATA;
  const char *wrong = is_message ? framed_take_message(self, header, payload, &turn->wake_bits)
                                 : framed_take_credit(self, header, payload, &turn->wake_bits);
  turn->good += is_message;
  if (wrong != NULL) break_with(self, PYPROC_E_DATA_LOSS, wrong);
}

static void take_started(framed *self, uint64_t id) {
  pthread_mutex_lock(&self->lock);
  framed_slot *slot = &self->slots[id % STATUS_PAGE_SLOTS];
  if (slot->id == id) slot->started = true;
  pthread_mutex_unlock(&self->lock);
}

/* What goes along with WELCOME: memory that the worker is to map. */
typedef struct welcome_memory {
  int fds[2]; /* the status page's first */
  int count;
  bool has_rings;
} welcome_memory;

/* Sends WELCOME. The reader's role is held and nothing was written before. */
static bool send_welcome(framed *self, const welcome_memory *memory) {
  char body[512], rings[64] = "";
  uint8_t frame[WIRE_LENGTH_SIZE + WIRE_HEADER_SIZE + sizeof body];
  if (memory->has_rings)
    snprintf(rings, sizeof rings, ",\"shm\":{\"ring_bytes\":%lu}", (unsigned long)self->settings.ring_bytes);
  int size =
      snprintf(body, sizeof body,
               "{\"version\":%d,\"codec\":\"%s\",\"frame_limit\":%lld,\"worker_index\":%d,\"cancel_grace_ms\":%lld,"
               "\"spin_us\":%lld,\"max_streams\":%d,\"stream_window\":%lld%s}",
               WIRE_VERSION, self->settings.codec->name, (long long)self->settings.frame_limit, self->base.index,
               (long long)self->settings.cancel_grace_ms, (long long)self->spin.limit_ns / 1000,
               self->settings.max_streams, (long long)self->settings.stream_window, rings);
  wire_header header = {.kind = WIRE_WELCOME, .flags = WIRE_FLAG_JSON};
  wire_put32(frame, (uint32_t)(WIRE_HEADER_SIZE + size));
  wire_header_put(frame + WIRE_LENGTH_SIZE, &header);
  memcpy(frame + WIRE_LENGTH_SIZE + WIRE_HEADER_SIZE, body, (size_t)size);
  size_t total = WIRE_LENGTH_SIZE + WIRE_HEADER_SIZE + (size_t)size;
  ssize_t sent = self->channel->ops->send_fds(self->channel, frame, total, memory->fds, memory->count);
  return sent == (ssize_t)total; /* the socket was empty: it takes a few hundred bytes at once */
}

/* Makes the rings that the worker can use and the options allow; NULL in *ret_channel: none, the socket carries all. */
static int make_rings(framed *self, const method_table *methods, welcome_memory *memory, struct channel **ret_channel,
                      pyproc_error **reterr) {
  char text[128];
  int fd = -1;
  bool is_required = self->settings.channel == CHANNEL_CHOICE_SHM;
  bool has_feature = method_table_has_feature(methods, "shm");
  *ret_channel = NULL;
  if (self->settings.channel == CHANNEL_CHOICE_UDS || (!has_feature && !is_required)) return PYPROC_OK;
  if (!has_feature)
    return error_set(reterr, PYPROC_E_FAILED_PRECONDITION,
                     "option channel is \"shm\", but the worker's pyproc_worker has no shared memory: install the one "
                     "that belongs to the library, or leave channel \"auto\"");
  *ret_channel = channel_shm_new(self->settings.ring_bytes, &fd);
  if (*ret_channel == NULL && is_required)
    return error_set(reterr, PYPROC_E_RESOURCE_EXHAUSTED,
                     "option channel is \"shm\", but there is no shared memory of 2 * %lu bytes (option "
                     "shm_ring_bytes): %s",
                     (unsigned long)self->settings.ring_bytes, platform_error_text(errno, text, sizeof text));
  if (*ret_channel == NULL) return PYPROC_OK;
  memory->fds[memory->count++] = fd;
  memory->has_rings = true;
  return PYPROC_OK;
}

/* From now on the rings carry the frames. Nothing was written into them, and nobody reads but us. */
static void begin_rings(framed *self, struct channel *rings) {
  pthread_mutex_lock(&self->lock);
  channel_shm_begin(rings, self->channel);
  self->channel = rings;
  pthread_mutex_unlock(&self->lock);
}

/* Answers the hello. */
static bool welcome(framed *self, const welcome_memory *memory, struct channel *rings) {
  bool sent = send_welcome(self, memory);
  if (memory->has_rings) platform_close_fd(memory->fds[memory->count - 1]);
  if (rings != NULL) begin_rings(self, rings); /* also where it failed: that closes them in the end */
  if (!sent) break_with(self, PYPROC_E_UNAVAILABLE, "its hello and took no answer");
  return sent;
}

static void take_hello(framed *self, const wire_header *header, const struct payload *payload) {
  method_table *methods = NULL;
  pyproc_error *error = NULL;
  struct channel *rings = NULL;
  welcome_memory memory = {.count = 0};
  const char *body = (const char *)payload->data + WIRE_HEADER_SIZE + header->metadata_size;
  int result = method_table_parse(body, payload->size - WIRE_HEADER_SIZE - header->metadata_size, &methods, &error);
  if (result >= 0) result = method_table_check_codec(methods, self->settings.codec, &error);
  if (result >= 0) result = method_table_check(methods, self->settings.services, &error);
  bool with_page = result >= 0 && self->page_fd >= 0 && method_table_has_feature(methods, "status_page");
  if (with_page) memory.fds[memory.count++] = self->page_fd;
  if (result >= 0) result = make_rings(self, methods, &memory, &rings, &error);
  if (result < 0) {
    method_table_free(methods);
    self->receiving = false;
    framed_break(self, error);
    return;
  }
  pthread_mutex_lock(&self->lock);
  self->methods = methods;
  self->has_started_frames = !with_page && method_table_has_feature(methods, "started");
  self->has_streams = method_table_has_feature(methods, "streams");
  self->base.page = with_page ? self->page_memory : NULL;
  self->base.answers_pings = method_table_has_feature(methods, "ping");
  self->base.stacks_signal = method_table_stacks_signal(methods);
  if (self->settings.attached) self->base.peer_pid = method_table_pid(methods);
  pthread_mutex_unlock(&self->lock);
  atomic_store(&self->base.capacity, method_table_concurrency(methods));
  atomic_store(&self->base.prefetch, with_page ? 1 : 0);
  if (!welcome(self, &memory, rings)) return;
  atomic_store(&self->base.state, CONNECTION_OPEN);
  self->base.owner_ops->ready(self->base.owner);
}

static void take_failed(framed *self, const wire_header *header, const struct payload *payload) {
  const char *body = (const char *)payload->data + WIRE_HEADER_SIZE + header->metadata_size;
  pyproc_error *error =
      error_from_object(PYPROC_E_FAILED_PRECONDITION, body, payload->size - WIRE_HEADER_SIZE - header->metadata_size);
  error_set_worker(error, self->base.peer_pid);
  self->receiving = false;
  framed_break(self, error);
}

static void begin_hello(framed *self) {
  (void)self; /* the worker speaks first */
}

static void take_before_hello(framed *self, const struct payload *payload) {
  wire_header header;
  if (wire_header_get(payload->data, payload->size, &header) < 0)
    break_with(self, PYPROC_E_DATA_LOSS, "bytes that are no frame");
  else if (header.kind == WIRE_HELLO)
    take_hello(self, &header, payload);
  else if (header.kind == WIRE_FAILED)
    take_failed(self, &header, payload);
  else
    break_with(self, PYPROC_E_DATA_LOSS, "a frame before its hello");
}

static void send_cancel(framed *self, uint64_t id, int code) {
  framed_send_control(self, WIRE_CANCEL, (uint16_t)-code, id, NULL, 0);
  framed_flush(self);
}

const framed_handshake framed_hello = {
    .has_frames = true, .prefetch_max = 64, .begin = begin_hello, .take = take_before_hello, .give_up = send_cancel};

static void take_payload(framed *self, struct turn *turn, struct payload *payload) {
  wire_header header;
  if (atomic_load(&self->base.state) == CONNECTION_HANDSHAKE) {
    self->handshake->take(self, payload);
  } else if (payload->data[0] == '{') {
    take_envelope(self, turn, payload);
  } else if (!self->handshake->has_frames) {
    break_with(self, PYPROC_E_DATA_LOSS, "bytes that are no JSON envelope");
  } else if (wire_header_get(payload->data, payload->size, &header) < 0) {
    break_with(self, PYPROC_E_DATA_LOSS, "bytes that are no frame");
  } else if (header.kind == WIRE_HELLO) {
    break_with(self, PYPROC_E_DATA_LOSS, "a second hello");
  } else if (header.kind == WIRE_FAILED) {
    take_failed(self, &header, payload);
  } else if (header.kind == WIRE_REPLY) {
    take_reply(self, turn, &header, payload);
  } else if (header.kind == WIRE_STARTED) {
    take_started(self, header.id);
  } else if (header.kind == WIRE_PONG) {
    if (header.id == atomic_load(&self->base.ping)) atomic_store(&self->base.pong, header.id);
  } else if (header.kind == WIRE_STREAM_DATA || header.kind == WIRE_CREDIT) {
    take_stream(self, turn, &header, payload);
  } /* kinds of later versions are ignored */
  free(payload->block);
}

static void end_turn(framed *self, const struct turn *turn) {
  if (turn->good > 0) { /* which only the reader counts */
    uint64_t good = atomic_load_explicit(&self->base.good_calls, memory_order_relaxed) + (uint64_t)turn->good;
    atomic_store_explicit(&self->base.good_calls, good, memory_order_relaxed);
  }
  if (turn->replies > 0 && self->handshake->prefetch_max > 0)
    prefetch_adapt(&self->base, turn->replies, self->base.page != NULL,
                   turn->now_ns != 0 ? turn->now_ns : platform_now_ns());
  if (turn->wake_bits != 0) lot_wake(self->settings.lot, turn->wake_bits);
  if (turn->room) self->base.owner_ops->freed(self->base.owner);
}

/* The handshake decides on the limit: a hello may be larger than what it allows. */
static size_t frame_limit_of(framed *self) {
  return atomic_load(&self->base.state) == CONNECTION_HANDSHAKE ? WIRE_FRAME_LIMIT_DEFAULT
                                                                : (size_t)self->settings.frame_limit;
}

/* Dispatches all complete payloads. False: nothing more can be read. */
static bool take_payloads(framed *self, struct turn *turn) {
  struct payload payload;
  int more;
  while ((more = receiver_next(&self->receiver, frame_limit_of(self), &payload)) > 0) {
    turn->frames++;
    take_payload(self, turn, &payload);
    if (!self->receiving) return false;
  }
  if (more == RECEIVER_OVERSIZED) break_with(self, PYPROC_E_DATA_LOSS, "a frame of no bytes or above the frame limit");
  if (more == RECEIVER_NO_MEMORY) break_with(self, PYPROC_E_RESOURCE_EXHAUSTED, "a frame for which there is no memory");
  return more >= 0;
}

/* Dispatches what the first fill has brought, and others until there is no more. */
static int pump(framed *self, ssize_t count, const struct call *mine, int64_t now_ns) {
  struct turn turn = {.mine = mine, .now_ns = now_ns};
  for (int fills = 1; count != CHANNEL_AGAIN; fills++) {
    if (count < 0) {
      self->receiving = false;
      framed_break(self, count == CHANNEL_CORRUPT ? framed_corrupt(self)
                                                  : error_new(PYPROC_E_UNAVAILABLE, "worker %ld closed its connection",
                                                              (long)self->base.peer_pid));
      break;
    }
    if (!take_payloads(self, &turn)) break;
    if (fills == FILLS_MAX || (self->receiver.begin == self->receiver.end && self->receiver.block == NULL))
      break; /* most likely all there was */
    count = receiver_fill(&self->receiver, self->channel);
  }
  end_turn(self, &turn);
  return turn.frames;
}

int framed_pump(framed *self, const struct call *mine, int64_t now_ns) {
  return pump(self, self->receiving ? receiver_fill(&self->receiver, self->channel) : CHANNEL_AGAIN, mine, now_ns);
}

int framed_pump_blocking(framed *self, const struct call *mine, int64_t *ret_now_ns) {
  ssize_t count = self->receiving ? receiver_fill_blocking(&self->receiver, self->channel) : CHANNEL_AGAIN;
  *ret_now_ns = platform_now_ns();
  return pump(self, count, mine, *ret_now_ns);
}
