#include "reply.h"

#include <stdio.h>
#include <string.h>

#include "envelope.h"
#include "exception.h"

enum { HEAD_MAX = 96 }; /* a frame's length and header, or an envelope's beginning */

static const char undescribed[] = "{\"error\":\"the error could not be described: memory is short\"}";

/* What goes along with a reply. */
typedef struct extras {
  metadata_queue metadata;
  bool interrupted; /* of an error */
} extras;

static const metadata_queue no_metadata = {0};

/* Clients of the Go library get no metadata. */
static extras begin_extras(const struct call *of) {
  extras with = {.metadata = no_metadata};
  if (of->run == NULL || of->run->context == NULL) return with;
  with.metadata = context_take_metadata(of->run->context, SIZE_MAX, true);
  if (of->connection->original) metadata_queue_clear(&with.metadata);
  return with;
}

/* An envelope has no place for metadata: a frame takes its place then. */
static bool is_envelope(const struct call *of, const extras *with) {
  return of->envelope && with->metadata.size == 0;
}

/* What stands before the metadata and the body. `body_size` counts what follows the metadata, `code` is 0 for a
 * result. */
static size_t put_head(char *to, const struct call *of, const extras *with, unsigned code, size_t body_size) {
  if (!is_envelope(of, with)) {
    const wire_header header = {
        .kind = WIRE_REPLY,
        .flags = of->json || code != 0 ? WIRE_FLAG_JSON : 0,
        .code = (uint16_t)code,
        .id = of->id,
        .metadata_size = (uint32_t)with->metadata.size,
    };
    wire_put32((uint8_t *)to, (uint32_t)(WIRE_HEADER_SIZE + with->metadata.size + body_size));
    wire_header_put((uint8_t *)to + WIRE_LENGTH_SIZE, &header);
    return WIRE_LENGTH_SIZE + WIRE_HEADER_SIZE;
  }
  char *const text = to + WIRE_LENGTH_SIZE;
  const unsigned long long id = of->id;
  int size;
  if (code == 0)
    size = snprintf(text, HEAD_MAX - WIRE_LENGTH_SIZE, "{\"id\":%llu,\"ok\":true,\"body\":", id);
  else if (of->connection->original)
    size = snprintf(text, HEAD_MAX - WIRE_LENGTH_SIZE, "{\"id\":%llu,\"ok\":false,", id);
  else
    size = snprintf(text, HEAD_MAX - WIRE_LENGTH_SIZE, "{\"id\":%llu,\"ok\":false,\"code\":%u,", id, code);
  wire_put32((uint8_t *)to, (uint32_t)((size_t)size + body_size));
  return WIRE_LENGTH_SIZE + (size_t)size;
}

/* A reply as it is sent, in parts. */
typedef struct parts {
  char head[HEAD_MAX];
  size_t head_size;
  const metadata_queue *metadata;
  const char *body;
  size_t size, tail; /* of the body, and of the envelope's closing brace */
} parts;

/* The caller holds the control's lock. */
static int queue_parts(struct connection *to, const parts *all) {
  if (connection_put(to, all->head, all->head_size) != 0) return -1;
  if (connection_put(to, all->metadata->data, all->metadata->size) != 0) return -1;
  return connection_put(to, all->body, all->size) != 0 ? -1 : connection_put(to, "}", all->tail);
}

/* Before the host hears of its end. The caller holds the control's lock. */
static void end_run(struct control *control, const struct call *of) {
  control_end(control, of->run);
  call_forget_thread(of);
}

/* Long ones are sent from where they are; the socket is waited for. */
static int push_body(struct loop *self, const struct call *of, const parts *all) {
  struct control *const control = self->control;
  struct connection *const connection = of->connection;
  parts front = *all;
  front.size = front.tail = 0;
  (void)pthread_mutex_lock(&control->lock);
  end_run(control, of);
  const int failed = queue_parts(connection, &front);
  (void)pthread_mutex_unlock(&control->lock);
  return failed != 0 ? 0 : loop_push(self, connection, all->body, all->size);
}

/* Another thread than the dispatching one sends at once and never waits: the dispatching one sends the rest. */
static int send_reply(struct loop *self, const struct call *of, const parts *all) {
  struct control *const control = self->control;
  struct connection *const to = of->connection;
  (void)pthread_mutex_lock(&control->lock);
  end_run(control, of);
  (void)queue_parts(to, all);
  const int sent = connection_send(to, NULL, NULL);
  if (sent < 0) to->ended = true;
  (void)pthread_mutex_unlock(&control->lock);
  if (sent <= 0) wake_signal(&control->turn);
  return 0;
}

/* Sends it at once, with all that is queued, where no other request waits. Returns whether all went. */
static bool queue_reply(struct control *control, const struct call *of, const parts *all) {
  struct connection *const to = of->connection;
  (void)pthread_mutex_lock(&control->lock);
  end_run(control, of);
  (void)queue_parts(to, all);
  const bool sends = connection_is_clear(to) && connection_unsent(to);
  const int sent = sends ? connection_send(to, NULL, NULL) : 0;
  if (sent < 0) to->ended = true;
  (void)pthread_mutex_unlock(&control->lock);
  return sent > 0;
}

static int put_reply(struct loop *self, const struct call *of, const extras *with, unsigned code, const char *body,
                     size_t size) {
  struct control *const control = self->control;
  parts all = {.metadata = &with->metadata, .body = body, .size = size};
  all.tail = is_envelope(of, with) && code == 0 ? 1 : 0;
  all.head_size = put_head(all.head, of, with, code, size + all.tail);
  if (self->shared || of->elsewhere) return send_reply(self, of, &all);
  if (size > CONNECTION_LARGE && of->connection->writers == 0) {
    if (push_body(self, of, &all) < 0) return -1;
    all.head_size = all.size = 0;
    all.metadata = &no_metadata;
  }
  const bool sent = queue_reply(control, of, &all);
  self->unflushed = sent ? 0 : self->unflushed + 1;
  if (sent) self->unflushed_since_ns = 0;
  self->drained = sent;
  return 0;
}

static size_t payload_size(const struct call *of, const extras *with, size_t body_size) {
  char head[HEAD_MAX];
  return put_head(head, of, with, 0, 0) - WIRE_LENGTH_SIZE + with->metadata.size + body_size +
         (is_envelope(of, with) ? 1 : 0);
}

/* Sends an error object; an envelope has its members beside its own. */
static int put_error(struct loop *self, const struct call *of, const extras *with, unsigned code, const char *object,
                     size_t size) {
  if (is_envelope(of, with)) {
    object++;
    size--;
  }
  return put_reply(self, of, with, code, object, size);
}

/* Asks Python for the error object. Consumes `exception` (may be NULL), `message` and `with`. */
static int put_described(struct loop *self, const struct call *of, extras *with, unsigned code, PyObject *exception,
                         PyObject *message) {
  const struct connection *const connection = of->connection;
  PyObject *described = NULL;
  if (with->metadata.size > connection->frame_limit / 2) metadata_queue_clear(&with->metadata); /* what failed counts */
  if (message != NULL)
    described =
        PyObject_CallFunction(self->hooks.describe, "OOIIOO", exception == NULL ? Py_None : exception, message, code,
                              connection->frame_limit - HEAD_MAX - (unsigned)with->metadata.size,
                              connection->original ? Py_True : Py_False, with->interrupted ? Py_True : Py_False);
  Py_XDECREF(exception);
  Py_XDECREF(message);
  const char *object = undescribed, *metadata = NULL;
  Py_ssize_t size = (Py_ssize_t)strlen(undescribed), metadata_size = 0;
  if (described != NULL &&
      !PyArg_ParseTuple(described, "Iy#y#:described", &code, &object, &size, &metadata, &metadata_size))
    object = undescribed;
  if (PyErr_Occurred()) PyErr_Clear();
  if (code == 0) code = 2;
  metadata_queue_append(&with->metadata, (const uint8_t *)metadata, (size_t)metadata_size);
  const int result = put_error(self, of, with, code, object, (size_t)size);
  metadata_queue_free(&with->metadata);
  Py_XDECREF(described);
  return result;
}

int reply_body(struct loop *self, const struct call *of, const char *body, size_t size) {
  const uint32_t limit = of->connection->frame_limit;
  extras with = begin_extras(of);
  if (size > limit || payload_size(of, &with, size) > limit)
    return put_described(self, of, &with, 8, NULL,
                         PyUnicode_FromFormat("the reply of %zu bytes is larger than the frame limit of %u bytes: "
                                              "return less, or raise the host's frame_limit_bytes",
                                              size + with.metadata.size, limit));
  const int result = put_reply(self, of, &with, 0, body, size);
  metadata_queue_free(&with.metadata);
  return result;
}

int reply_error(struct loop *self, const struct call *of, unsigned code, const char *format, ...) {
  extras with = begin_extras(of);
  va_list arguments;
  va_start(arguments, format);
  PyObject *message = PyUnicode_FromFormatV(format, arguments);
  va_end(arguments);
  return put_described(self, of, &with, code, NULL, message);
}

int reply_exception(struct loop *self, const struct call *of, unsigned code, const char *format, ...) {
  PyObject *exception = exception_take();
  extras with = begin_extras(of);
  va_list arguments;
  va_start(arguments, format);
  PyObject *message = PyUnicode_FromFormatV(format, arguments);
  va_end(arguments);
  return put_described(self, of, &with, code, exception, message);
}

int reply_raised(struct loop *self, const struct call *of, unsigned code, bool interrupted) {
  PyObject *exception = exception_take();
  extras with = begin_extras(of);
  with.interrupted = interrupted;
  return put_described(self, of, &with, code, exception, PyUnicode_FromString(""));
}

int reply_bad_envelope(struct loop *self, struct connection *connection, const char *wrong) {
  const struct call none = {.connection = connection, .envelope = true};
  return reply_error(self, &none, 3, "the payload is no valid envelope: %s", wrong);
}
