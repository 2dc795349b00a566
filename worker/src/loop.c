#include <errno.h>
#include <sched.h>

#include "call.h"
#include "exception.h"
#include "greeting.h"
#include "loop_parts.h"
#include "rings.h"
#include "stream_job.h"

enum {
  PATIENCE_MS = 1000, /* for a peer that does not read, once the worker stops */
  YIELD_EVERY = 8     /* frames */
};

static void set_ended(struct loop *self, struct connection *connection) {
  loop_lock(self);
  connection->ended = true;
  loop_unlock(self);
}

/* --- Flush --- */

int loop_push(struct loop *self, struct connection *connection, const void *rest, size_t size) {
  const uint8_t *at = rest;
  int waited = 0;
  for (;;) {
    int sent, ready = 0, problem = 0;
    Py_BEGIN_ALLOW_THREADS;
    loop_lock(self);
    rings_settle(connection);
    sent = connection_send(connection, &at, &size);
    loop_unlock(self);
    if (sent == 0) {
      ready = connection_wait_writable(connection, PATIENCE_MS / 10);
      problem = errno;
    }
    Py_END_ALLOW_THREADS;
    if (sent > 0) return 0;
    if (sent < 0 || (ready < 0 && problem != EINTR)) break;
    if (ready < 0 && PyErr_CheckSignals() < 0) return -1;
    if (ready == 0 && loop_is_stopped(self) && (atomic_load(&self->control->host_dead) || ++waited >= 10)) break;
  }
  set_ended(self, connection);
  return 0;
}

int loop_flush(struct loop *self, struct connection *connection) {
  self->unflushed = 0;
  self->unflushed_since_ns = 0;
  loop_lock(self);
  const int sent = connection_unsent(connection) ? connection_send(connection, NULL, NULL) : 1;
  if (sent < 0) connection->ended = true;
  loop_unlock(self);
  return sent == 0 ? loop_push(self, connection, NULL, 0) : 0;
}

/* Sends what the socket takes. What is left goes once it takes more: who reads it may wait for something else. */
static void send_some(struct loop *self, struct connection *connection) {
  loop_lock(self);
  if (connection_unsent(connection) && connection_send(connection, NULL, NULL) < 0) connection->ended = true;
  loop_unlock(self);
}

/* --- Dispatch --- */

static int dispatch_frame(struct loop *self, struct connection *connection, const connection_frame *frame) {
  if (connection->stage != CONNECTION_OPEN) {
    const int result = greeting_take(self, connection, frame);
    loop_lock(self);
    connection->greeted = false;
    loop_unlock(self);
    return result;
  }
  switch (frame->header.kind) {
  case 0:
    return call_envelope(self, connection, frame);
  case WIRE_REQUEST:
    return call_frame(self, connection, frame);
  case WIRE_HELLO:
  case WIRE_WELCOME:
  case WIRE_REPLY:
  case WIRE_PONG:
  case WIRE_STARTED:
  case WIRE_FAILED:
    loop_set_fault(self, connection, "it sent a frame that a host must not send");
    break;
  default:
    break; /* CANCEL and PING are seen by connection_scan(), others are of later versions */
  }
  return 0;
}

/* Returns how many frames were handled, -1 with a Python exception. */
static int dispatch(struct loop *self, struct connection *connection) {
  int handled = 0;
  self->more = self->drained = false;
  while (handled < LOOP_BATCH && !self->more && !self->drained && (self->stopping || !loop_is_stopped(self)) &&
         atomic_load(&self->jobs) < LOOP_JOBS_MAX) {
    connection_frame frame;
    loop_lock(self);
    const int taken = connection->ended ? 0 : connection_take(connection, &frame);
    self->more = taken > 0 && !self->stopping && self->control->due.first != NULL;
    loop_unlock(self);
    if (taken < 0) return -1;
    if (taken == 0) break;
    handled++;
    frame.now_ns = self->received_ns;
    self->received_ns = 0;
    const int result = dispatch_frame(self, connection, &frame);
    Py_DECREF(frame.body);
    Py_XDECREF(frame.metadata);
    if (result < 0) return -1;
    if (self->abandoned) return 0;
    if (self->unflushed >= LOOP_FLUSH_REPLIES && loop_flush(self, connection) < 0) return -1;
  }
  return handled;
}

/* --- Receive --- */

void loop_note_received(struct loop *self, struct connection *connection) {
  connection_scan(connection);
  self->received_ns = connection->received_ns;
}

ptrdiff_t loop_receive_locked(struct loop *self, struct connection *connection) {
  const ptrdiff_t got = connection_receive(connection);
  if (got > 0) loop_note_received(self, connection);
  return got;
}

ptrdiff_t loop_receive(struct loop *self, struct connection *connection) {
  loop_lock(self);
  const ptrdiff_t got = loop_receive_locked(self, connection);
  loop_unlock(self);
  return got;
}

static void count_turn(struct connection *connection) {
  if (connection->page == NULL) return;
  _Atomic uint64_t *counter = &connection->page->loop_counter;
  atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + 1, memory_order_relaxed);
}

/* Replies are waited for, since somebody waits for them; what streams have to send is not. */
static int flush_turn(struct loop *self, struct connection *connection) {
  if (self->unflushed > 0) return loop_flush(self, connection);
  send_some(self, connection);
  return 0;
}

/* One connection's turn. Returns how much was done, 0: nothing, -1 with a Python exception. */
static int turn(struct loop *self, struct connection *connection) {
  const bool looks = self->received_ns == 0 || self->crowded; /* a lone caller sends nothing behind what was received */
  const ptrdiff_t got = looks ? loop_receive(self, connection) : 0;
  count_turn(connection);
  const int handled = dispatch(self, connection);
  self->received_ns = 0;
  if (self->abandoned) return 0;
  if (handled > 0) self->crowded = handled > 1;
  if (handled < 0) {
    PyObject *exception = exception_take();
    if (loop_flush(self, connection) < 0) PyErr_Clear();
    exception_restore(exception);
    return -1;
  }
  if (!self->drained && flush_turn(self, connection) < 0) return -1;
  return handled + (got > 0);
}

/* --- Run --- */

/* Whether nothing more can come of a connection, and nobody holds it; jobs are told of its end. */
static bool is_over(struct loop *self, struct connection *connection) {
  loop_lock(self);
  const bool over = connection->ended || connection->fault != NULL;
  if (over && !connection->told) {
    connection->told = true;
    control_cancel_all(self->control, connection, "connection closed");
  }
  const bool held = connection->jobs > 0;
  loop_unlock(self);
  return over && !held;
}

/* A turn for each connection that may have something. Returns how much was done, -1 with a Python exception. */
static int turn_all(struct loop *self) {
  int done = 0;
  for (size_t i = self->connection_count; i-- > 0;) {
    if (!self->ready[i]) continue;
    const int handled = turn(self, self->connections[i]);
    if (handled < 0) return -1;
    if (self->abandoned) return 0;
    done += handled;
    self->ready[i] = handled > 0;
    if (handled < LOOP_BATCH && !self->more && !self->drained && is_over(self, self->connections[i]) &&
        loop_remove_connection(self, i) < 0)
      return -1;
  }
  return done;
}

/* Answers what was not started, so that every request has its reply. Streams, which may go on for ever, end. */
static void finish(struct loop *self) {
  self->stopping = true;
  atomic_store(&self->control->stop, true); /* from now on a peer that does not read is not waited for long */
  loop_lock(self);
  control_cancel_streams(self->control, 14, "the worker stops");
  loop_unlock(self);
  for (size_t i = 0; i < self->connection_count; i++) {
    int handled;
    (void)loop_receive(self, self->connections[i]); /* once: who goes on sending shall not keep the worker */
    do handled = dispatch(self, self->connections[i]);
    while (handled >= LOOP_BATCH);
    if (handled < 0 || loop_flush(self, self->connections[i]) < 0) PyErr_Clear();
  }
}

/* Reads on until the jobs are done, so that cancels reach them; what is new is not started. */
static void wait_for_jobs(struct loop *self) {
  while (atomic_load(&self->jobs) > 0 && !self->abandoned) {
    if (turn_all(self) < 0) PyErr_Clear();
    const int stepped = stream_step(self);
    if (stepped < 0) PyErr_Clear();
    if (stepped == 0 && atomic_load(&self->jobs) > 0 && loop_wait(self, true) < 0) PyErr_Clear();
  }
  for (size_t i = 0; i < self->connection_count && !self->abandoned; i++) /* their replies */
    if (loop_flush(self, self->connections[i]) < 0) PyErr_Clear();
}

static bool is_done(const struct loop *self) {
  return loop_is_stopped(self) || (self->listen_fd < 0 && self->connection_count == 0);
}

static int run_until_stopped(struct loop *self) {
  while (!is_done(self)) {
    const int done = turn_all(self);
    if (done < 0) return -1;
    const int stepped = self->abandoned ? 0 : stream_step(self);
    if (stepped < 0) return -1;
    if (self->abandoned) return 0;
    self->unyielded += done;
    if (self->unyielded >= YIELD_EVERY) { /* let callers on this core in, they hold the next requests */
      self->unyielded = 0;
      Py_BEGIN_ALLOW_THREADS;
      (void)sched_yield();
      Py_END_ALLOW_THREADS;
    } else if ((done == 0 || stepped > 0) && !is_done(self) && loop_wait(self, stepped == 0) < 0) {
      return -1;
    }
  }
  return 0;
}

static void cancel_jobs(struct loop *self) {
  loop_lock(self);
  control_cancel_all(self->control, NULL, "the worker ends");
  loop_unlock(self);
}

PyObject *loop_run(struct loop *self) {
  if (self->ran) {
    PyErr_SetString(PyExc_RuntimeError, "a loop runs once");
    return NULL;
  }
  self->ran = true;
  self->control->dispatcher = pthread_self();
  const int failed = control_start(self->control);
  if (failed != 0) {
    errno = failed;
    return PyErr_SetFromErrno(PyExc_OSError);
  }
  if (self->inherited) greeting_send_hello(self, self->connections[0]);
  int result = self->inherited ? loop_flush(self, self->connections[0]) : 0;
  self->stalled = self->shared && self->inherited;
  if (self->stalled) control_stall(self->control, self->connections[0]);
  if (result == 0) result = run_until_stopped(self);
  if (self->abandoned) Py_RETURN_NONE;
  PyObject *exception = result < 0 ? exception_take() : NULL;
  if (exception != NULL) cancel_jobs(self);
  finish(self);
  wait_for_jobs(self);
  control_stall(self->control, NULL);
  while (self->connection_count > 0)
    if (loop_remove_connection(self, self->connection_count - 1) < 0) PyErr_Clear();
  if (exception == NULL) Py_RETURN_NONE;
  exception_restore(exception);
  return NULL;
}
