#include "greeting.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "call.h"
#include "codec.h"
#include "exception.h"
#include "page.h"
#include "rings.h"

static void put_json(struct loop *self, struct connection *connection, uint8_t kind, const char *body, size_t size) {
  uint8_t head[WIRE_LENGTH_SIZE + WIRE_HEADER_SIZE];
  const wire_header header = {.kind = kind, .flags = WIRE_FLAG_JSON};
  wire_put32(head, (uint32_t)(WIRE_HEADER_SIZE + size));
  wire_header_put(head + WIRE_LENGTH_SIZE, &header);
  loop_lock(self);
  if (connection_put(connection, head, sizeof head) == 0) (void)connection_put(connection, body, size);
  loop_unlock(self);
}

void greeting_send_hello(struct loop *self, struct connection *connection) {
  put_json(self, connection, WIRE_HELLO, PyBytes_AS_STRING(self->hello), (size_t)PyBytes_GET_SIZE(self->hello));
  loop_lock(self);
  connection->stage = CONNECTION_WELCOMING;
  loop_unlock(self);
}

/* Tells the host of the current exception, which stays. */
static void put_failed(struct loop *self, struct connection *connection) {
  PyObject *exception = exception_take();
  PyObject *described = PyObject_CallFunction(self->hooks.describe, "OsIIOO", exception, "", 0,
                                              WIRE_FRAME_LIMIT_MIN - WIRE_HEADER_SIZE, Py_False, Py_False);
  unsigned code;
  const char *object, *metadata;
  Py_ssize_t size, metadata_size;
  if (described != NULL &&
      PyArg_ParseTuple(described, "Iy#y#:described", &code, &object, &size, &metadata, &metadata_size))
    put_json(self, connection, WIRE_FAILED, object, (size_t)size);
  Py_XDECREF(described);
  PyErr_Clear();
  exception_restore(exception);
}

/* What a welcome says of a connection. */
typedef struct welcome_facts {
  unsigned frame_limit, stream_window, max_streams;
} welcome_facts;

static void open_connection(struct loop *self, struct connection *connection, const welcome_facts *facts) {
  status_page *page = connection->fd_count == 0 ? NULL : page_map(connection->fds[0]);
  loop_lock(self);
  connection->page = page;
  connection->frame_limit = facts->frame_limit;
  connection->streams.window = facts->stream_window;
  connection->streams.max = facts->max_streams;
  connection->stage = CONNECTION_OPEN;
  connection->greeted = false;
  while (connection->fd_count > 0) (void)close(connection->fds[--connection->fd_count]);
  loop_unlock(self);
}

/* A worker that listens has nobody who would replace it: it is never killed for a handler. */
static void set_grace(struct loop *self, uint64_t grace_ns) {
  loop_lock(self);
  self->control->grace_ns = grace_ns;
  self->control->kills = self->inherited;
  loop_unlock(self);
}

/* Returns 0, or -1 with a Python exception. */
static int open_rings(struct loop *self, struct connection *connection, unsigned ring_bytes) {
  loop_lock(self);
  const int result = rings_open(connection, ring_bytes);
  const int problem = errno;
  loop_unlock(self);
  if (result == 0) return 0;
  PyErr_Format(PyExc_OSError, "the host's shared memory cannot be used: %s: set the option channel to \"uds\"",
               strerror(problem));
  return -1;
}

/* Returns 0, or -1 with a Python exception: what is wrong with the host's welcome. */
static int welcome(struct loop *self, struct connection *connection, PyObject *body) {
  PyObject *facts = PyObject_CallOneArg(self->hooks.welcome, body);
  if (facts == NULL) return -1;
  welcome_facts its;
  long worker_index, spin_us, grace_ms;
  unsigned ring_bytes;
  const int parsed = PyArg_ParseTuple(facts, "IlllIII:welcome", &its.frame_limit, &worker_index, &spin_us, &grace_ms,
                                      &its.stream_window, &its.max_streams, &ring_bytes);
  Py_DECREF(facts);
  if (parsed && ring_bytes > 0 && open_rings(self, connection, ring_bytes) < 0) return -1;
  if (!parsed || codec_choose(self, connection, body) < 0) return -1;
  if (worker_index >= 0 && self->inherited) self->worker_index = worker_index; /* of several hosts none's */
  if (spin_us >= 0) self->spin_ns = (uint64_t)spin_us * 1000u;
  if (grace_ms > 0) set_grace(self, (uint64_t)grace_ms * 1000000u);
  open_connection(self, connection, &its);
  return 0;
}

static const char *too_early(uint8_t kind) {
  switch (kind) {
  case WIRE_HELLO:
    return "it said hello twice";
  case WIRE_WELCOME:
    return "it sent a welcome before its hello";
  default:
    return "it sent a frame before the handshake was over";
  }
}

int greeting_take(struct loop *self, struct connection *connection, const connection_frame *frame) {
  if (frame->header.kind == 0) {
    connection->original = true;
    open_connection(self, connection,
                    &(welcome_facts){WIRE_FRAME_LIMIT_DEFAULT, STREAM_WINDOW_DEFAULT, STREAM_MAX_DEFAULT});
    return call_envelope(self, connection, frame);
  }
  if (frame->header.kind == WIRE_HELLO && connection->stage == CONNECTION_GREETING) {
    greeting_send_hello(self, connection);
  } else if (frame->header.kind == WIRE_WELCOME && connection->stage == CONNECTION_WELCOMING) {
    if (welcome(self, connection, frame->body) == 0) return 0;
    if (self->inherited) {
      put_failed(self, connection);
      return -1;
    }
    PyErr_Clear();
    loop_set_fault(self, connection, "it sent a welcome that does not fit this worker");
  } else if (frame->header.kind < WIRE_STREAM_DATA && frame->header.kind != WIRE_CANCEL &&
             frame->header.kind != WIRE_PING) {
    loop_set_fault(self, connection, too_early(frame->header.kind));
  }
  return 0;
}
