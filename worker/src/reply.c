#include "reply.h"

#include <stdio.h>
#include <string.h>

#include "envelope.h"
#include "exception.h"

enum { HEAD_MAX = 96 }; /* a frame's length and header, or an envelope's beginning */

static const char undescribed[] = "{\"error\":\"the error could not be described: memory is short\"}";

/* What stands before the body. `body_size` counts what follows, `code` is 0 for a result. */
static size_t put_head(char *to, const struct call *of, unsigned code, size_t body_size) {
  if (!of->envelope) {
    const wire_header header = {
        .kind = WIRE_REPLY,
        .flags = of->json || code != 0 ? WIRE_FLAG_JSON : 0,
        .code = (uint16_t)code,
        .id = of->id,
    };
    wire_put32((uint8_t *)to, (uint32_t)(WIRE_HEADER_SIZE + body_size));
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

/* Long ones are sent from where they are; the socket is waited for. */
static int push_body(struct loop *self, const struct call *of, const char *head, size_t head_size, const char *body,
                     size_t size) {
  struct control *const control = self->control;
  struct connection *const connection = of->connection;
  (void)pthread_mutex_lock(&control->lock);
  control_end(control, of->run);
  const int failed = connection_put(connection, head, head_size);
  (void)pthread_mutex_unlock(&control->lock);
  return failed != 0 ? 0 : loop_push(self, connection, body, size);
}

/* Another thread than the dispatching one sends at once and never waits: the dispatching one sends the rest. */
static int send_reply(struct loop *self, const struct call *of, const char *head, size_t head_size, const char *body,
                      size_t size, size_t tail) {
  struct control *const control = self->control;
  struct connection *const to = of->connection;
  (void)pthread_mutex_lock(&control->lock);
  control_end(control, of->run);
  if (connection_put(to, head, head_size) == 0 && connection_put(to, body, size) == 0)
    (void)connection_put(to, "}", tail);
  const int sent = connection_send(to, NULL, NULL);
  if (sent < 0) to->ended = true;
  (void)pthread_mutex_unlock(&control->lock);
  if (sent <= 0) wake_signal(&control->turn);
  return 0;
}

static int put_reply(struct loop *self, const struct call *of, unsigned code, const char *body, size_t size) {
  struct control *const control = self->control;
  struct connection *const to = of->connection;
  const size_t tail = of->envelope && code == 0 ? 1 : 0; /* the envelope's closing brace */
  char head[HEAD_MAX];
  size_t head_size = put_head(head, of, code, size + tail);
  if (self->shared || of->elsewhere) return send_reply(self, of, head, head_size, body, size, tail);
  if (size > CONNECTION_LARGE && to->writers == 0) {
    if (push_body(self, of, head, head_size, body, size) < 0) return -1;
    head_size = size = 0;
  }
  (void)pthread_mutex_lock(&control->lock);
  control_end(control, of->run);
  if (connection_put(to, head, head_size) == 0 && connection_put(to, body, size) == 0)
    (void)connection_put(to, "}", tail);
  (void)pthread_mutex_unlock(&control->lock);
  self->unflushed++;
  return 0;
}

static size_t payload_size(const struct call *of, unsigned code, size_t body_size) {
  char head[HEAD_MAX];
  return put_head(head, of, code, 0) - WIRE_LENGTH_SIZE + body_size + (of->envelope && code == 0 ? 1 : 0);
}

int reply_body(struct loop *self, const struct call *of, const char *body, size_t size) {
  const uint32_t limit = of->connection->frame_limit;
  if (size > limit || payload_size(of, 0, size) > limit)
    return reply_error(self, of, 8,
                       "the reply of %zu bytes is larger than the frame limit of %u bytes: return less, "
                       "or raise the host's frame_limit_bytes",
                       size, limit);
  return put_reply(self, of, 0, body, size);
}

/* Sends an error object; an envelope has its members beside its own. */
static int put_error(struct loop *self, const struct call *of, unsigned code, const char *object, size_t size) {
  if (of->envelope) {
    object++;
    size--;
  }
  return put_reply(self, of, code, object, size);
}

/* Asks Python for the error object. Consumes `exception` (may be NULL) and `message`. */
static int put_described(struct loop *self, const struct call *of, unsigned code, PyObject *exception,
                         PyObject *message) {
  const struct connection *const connection = of->connection;
  PyObject *described = NULL;
  if (message != NULL)
    described =
        PyObject_CallFunction(self->hooks.describe, "OOIIO", exception == NULL ? Py_None : exception, message, code,
                              connection->frame_limit - HEAD_MAX, connection->original ? Py_True : Py_False);
  Py_XDECREF(exception);
  Py_XDECREF(message);
  const char *object = undescribed;
  Py_ssize_t size = (Py_ssize_t)strlen(undescribed);
  if (described != NULL && !PyArg_ParseTuple(described, "Iy#:described", &code, &object, &size)) object = undescribed;
  if (PyErr_Occurred()) PyErr_Clear();
  if (code == 0) code = 2;
  const int result = put_error(self, of, code, object, (size_t)size);
  Py_XDECREF(described);
  return result;
}

int reply_error(struct loop *self, const struct call *of, unsigned code, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  PyObject *message = PyUnicode_FromFormatV(format, arguments);
  va_end(arguments);
  return put_described(self, of, code, NULL, message);
}

int reply_exception(struct loop *self, const struct call *of, unsigned code, const char *format, ...) {
  PyObject *exception = exception_take();
  va_list arguments;
  va_start(arguments, format);
  PyObject *message = PyUnicode_FromFormatV(format, arguments);
  va_end(arguments);
  return put_described(self, of, code, exception, message);
}

int reply_bad_envelope(struct loop *self, struct connection *connection, const char *wrong) {
  const struct call none = {.connection = connection, .envelope = true};
  return reply_error(self, &none, 3, "the payload is no valid envelope: %s", wrong);
}
