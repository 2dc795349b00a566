#define _GNU_SOURCE
#include "loop.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <sys/socket.h>
#include <unistd.h>

#include "call.h"
#include "exception.h"
#include "greeting.h"
#include "module.h"
#include "page.h"
#include "peer.h"
#include "rings.h"
#include "stream_job.h"
#include "wake.h"

enum {
  PATIENCE_MS = 1000, /* for a peer that does not read, once the worker stops */
  SPIN_SCORE_MAX = 8,
  SPIN_PROBE = 16, /* every so many waits it tries whether spinning pays again */
  YIELD_FROM_NS = 3000,
  SPIN_LOOKS_PER_CLOCK = 4,
  YIELD_EVERY = 8 /* frames */
};

static void set_ended(struct loop *self, struct connection *connection) {
  loop_lock(self);
  connection->ended = true;
  loop_unlock(self);
}

static bool is_stopped(const struct loop *self) {
  return atomic_load_explicit(&self->control->stop, memory_order_relaxed);
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
    if (ready == 0 && is_stopped(self) && (atomic_load(&self->control->host_dead) || ++waited >= 10)) break;
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
  while (handled < LOOP_BATCH && !self->more && !self->drained && (self->stopping || !is_stopped(self)) &&
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

/* Something has come. The lock is held. */
static void note_received(struct loop *self, struct connection *connection) {
  connection_scan(connection);
  self->received_ns = connection->received_ns;
}

/* Returns as connection_receive(). Needs no GIL. The lock is held. */
static ptrdiff_t receive_locked(struct loop *self, struct connection *connection) {
  const ptrdiff_t got = connection_receive(connection);
  if (got > 0) note_received(self, connection);
  return got;
}

/* The same, of who does not hold it. */
static ptrdiff_t receive(struct loop *self, struct connection *connection) {
  loop_lock(self);
  const ptrdiff_t got = receive_locked(self, connection);
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
  const ptrdiff_t got = looks ? receive(self, connection) : 0;
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

/* --- Connections --- */

static int add_connection(struct loop *self, int fd, connection_stage stage) {
  struct connection *added = connection_new(fd, stage, control_cancel, control_wake_stream, self->control);
  if (added == NULL) return -1;
  added->streams.methods = &self->methods;
  loop_lock(self);
  self->ready[self->connection_count] = true;
  self->connections[self->connection_count++] = added;
  self->control->connection_count = self->connection_count;
  loop_unlock(self);
  return 0;
}

/* Returns 0, or -1 with a Python exception: the host of an inherited socket broke the protocol. */
static int remove_connection(struct loop *self, size_t index) {
  control_stall(self->control, NULL); /* it may be the one that is read elsewhere */
  struct connection *const removed = self->connections[index];
  loop_lock(self);
  self->connections[index] = self->connections[--self->connection_count];
  self->control->connection_count = self->connection_count;
  loop_unlock(self);
  self->ready[index] = self->ready[self->connection_count];
  const char *fault = removed->fault;
  connection_free(removed);
  if (fault == NULL) return 0;
  if (self->inherited) {
    PyErr_Format(PyExc_ConnectionError, "the host broke the protocol: %s", fault);
    return -1;
  }
  PySys_FormatStderr("pyproc_worker: a client was disconnected: %s\n", fault);
  return 0;
}

/* Serves a client, unless it may not connect, or there are too many. */
static void take_client(struct loop *self, int fd) {
  char why[160];
  long long uid;
  if (!peer_is_allowed(fd, self->peer_uid, &uid)) {
    (void)snprintf(why, sizeof why,
                   "user %lld may not connect to this worker, which serves user %lld and root: see PYPROC_PEER_UID",
                   uid, self->peer_uid);
    PySys_FormatStderr("pyproc_worker: a client was refused: %s\n", why);
    peer_refuse(fd, why);
  } else if (self->connection_count == LOOP_CONNECTIONS_MAX) {
    (void)snprintf(why, sizeof why, "the worker is busy: it has %d connections, as many as it serves",
                   (int)LOOP_CONNECTIONS_MAX);
    PySys_FormatStderr("pyproc_worker: a client was refused: %s\n", why);
    peer_refuse(fd, why);
  } else if (add_connection(self, fd, CONNECTION_GREETING) < 0) {
    (void)close(fd);
  }
}

static void accept_clients(struct loop *self) {
  for (int taken = 0; taken < LOOP_CONNECTIONS_MAX; taken++) {
#ifdef __linux__
    const int fd = accept4(self->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
#else
    const int fd = accept(self->listen_fd, NULL, NULL);
#endif
    if (fd < 0) return;
    take_client(self, fd);
  }
}

/* --- Wait --- */

static bool spinning_pays(struct loop *self) {
  if (self->spin_ns == 0 || self->connection_count != 1 || self->connections[0]->told) return false;
  return self->spin_score > 0 || ++self->waits % SPIN_PROBE == 0;
}

/* Whether no other thread uses the only connection, nor will before a handler runs. */
static bool is_sole_user(struct loop *self) {
  return !self->shared && self->connection_count == 1 && atomic_load(&self->jobs) == 0;
}

/* As receive(), of whoever is the sole user: only that something has come needs the lock. */
static ptrdiff_t receive_alone(struct loop *self, struct connection *connection) {
  const ptrdiff_t got = connection_receive(connection);
  if (got <= 0) return got;
  loop_lock(self);
  note_received(self, connection);
  loop_unlock(self);
  return got;
}

/* Looks for more until so long after `start_ns`. Needs no GIL. */
static bool look(struct loop *self, uint64_t start_ns, uint64_t limit_ns) {
  struct connection *const connection = self->connections[0];
  const bool alone = is_sole_user(self);
  const uint64_t yield_from_ns = page_shares_cpu(connection->page) ? 0 : YIELD_FROM_NS;
  uint64_t spent_ns = clock_ns() - start_ns;
  unsigned looks = 0;
  while (spent_ns < limit_ns && !is_stopped(self)) {
    if ((alone ? receive_alone(self, connection) : receive(self, connection)) != 0) {
      if (self->spin_score < SPIN_SCORE_MAX) self->spin_score++;
      return true;
    }
    const bool yields = spent_ns >= yield_from_ns;
    if (yields) {
      (void)sched_yield();
      self->unyielded = 0;
    }
    /* The clock takes as long as a look into shared memory. */
    if (yields || ++looks % SPIN_LOOKS_PER_CLOCK == 0) spent_ns = clock_ns() - start_ns;
  }
  return false;
}

/* For a while before it blocks: waking up costs more than that. Needs no GIL. */
static bool spin(struct loop *self, uint64_t start_ns) {
  if (look(self, start_ns, self->spin_ns)) return true;
  if (self->spin_score > -SPIN_SCORE_MAX) self->spin_score--;
  return false;
}

/* Whether nobody else wants the GIL, which takes a while to let go of and to take again. */
static bool is_only_thread(void) {
#ifdef Py_GIL_DISABLED
  return false; /* others may be just ending */
#else
  return PyThreadState_Next(PyInterpreterState_ThreadHead(PyInterpreterState_Get())) == NULL;
#endif
}

/* The first moments of spinning, with the GIL: the next request of a lone caller comes that soon. */
static bool spin_with_gil(struct loop *self, uint64_t start_ns) {
  if (self->spin_score <= 0 || self->spin_ns <= YIELD_FROM_NS || self->stalled || !is_sole_user(self)) return false;
  if (self->connections[0]->told || page_shares_cpu(self->connections[0]->page) || !is_only_thread()) return false;
  return look(self, start_ns, YIELD_FROM_NS);
}

/* Jobs may hold an ended connection, keep it from being read, and leave what is to be sent. */
static struct pollfd poll_of(const struct connection *connection) {
  const bool over = connection->ended || connection->fault != NULL;
  return (struct pollfd){.fd = over ? -1 : connection->fd, .events = connection_events(connection)};
}

/* Clears `*ret_waits` where a sender has found out that the peer has gone: nothing else would tell. */
static nfds_t fill_poll(struct loop *self, struct pollfd *wanted, bool *ret_waits) {
  wanted[0] = (struct pollfd){.fd = self->control->turn.read_fd, .events = POLLIN};
  wanted[1] = (struct pollfd){.fd = self->listen_fd, .events = POLLIN};
  loop_lock(self);
  for (size_t i = 0; i < self->connection_count; i++) {
    wanted[2 + i] = poll_of(self->connections[i]);
    if (wanted[2 + i].fd >= 0 || self->connections[i]->told) continue;
    self->ready[i] = true;
    *ret_waits = false;
  }
  loop_unlock(self);
  return 2 + self->connection_count;
}

/* Whether other threads run handlers, and may keep the GIL. */
static bool may_stall(const struct loop *self) {
  return self->connection_count == 1 && (self->shared || self->connections[0]->writers > 0);
}

/* The control thread reads no more. Returns whether it has read a frame that has been seen by nobody. */
static bool end_stall(struct loop *self) {
  control_stall(self->control, NULL);
  if (self->connection_count != 1 || atomic_load(&self->jobs) >= LOOP_JOBS_MAX) return false;
  loop_lock(self);
  const bool found = connection_has_frame(self->connections[0]);
  loop_unlock(self);
  return found;
}

/* Of connections with rings. Returns whether one needs no wait. */
static bool arm_rings(struct loop *self) {
  bool found = false;
  loop_lock(self);
  for (size_t i = 0; i < self->connection_count; i++) {
    if (self->connections[i]->ended || self->connections[i]->fault != NULL || !rings_arm(self->connections[i]))
      continue;
    self->ready[i] = true;
    found = true;
  }
  loop_unlock(self);
  return found;
}

static void disarm_rings(struct loop *self) {
  loop_lock(self);
  for (size_t i = 0; i < self->connection_count; i++) rings_disarm(self->connections[i]);
  loop_unlock(self);
}

/* Whether what was received is dealt with, without Python: pings, which are answered. The rest is left for the turn that
 * comes. The lock is held. */
static bool was_pings(struct loop *self, struct connection *connection) {
  const bool clear = connection_is_clear(connection) && self->control->due.first == NULL &&
                     connection_send(connection, NULL, NULL) > 0;
  if (clear) self->received_ns = 0;
  return clear;
}

/* Deals with pings, so that Python goes on sleeping. Needs no GIL. Returns whether that was all. */
static bool answer_pings(struct loop *self, const struct pollfd *wanted) {
  if (self->connection_count != 1 || self->connections[0]->rings != NULL || wanted[0].revents != 0 ||
      wanted[1].revents != 0 || wanted[2].revents != POLLIN)
    return false;
  struct connection *const connection = self->connections[0];
  bool clear = false;
  loop_lock(self);
  if (connection->stage == CONNECTION_OPEN && connection_is_clear(connection) && receive_locked(self, connection) > 0)
    clear = was_pings(self, connection);
  loop_unlock(self);
  return clear;
}

/* Whether only the peer, and signals, bring something in the moments that come, or what can wait for so long; and no other
 * thread uses the connection. */
static bool may_receive_blocking(struct loop *self) {
  struct connection *const connection = self->connections[0];
  if (!is_sole_user(self)) return false;
  (void)page_shares_cpu(connection->page); /* the host wants to know */
  loop_lock(self);
  const bool may = connection->stage == CONNECTION_OPEN && !connection->ended && connection->fault == NULL &&
                   connection->jobs == 0 && connection_has_room(connection) && !connection_unsent(connection);
  loop_unlock(self);
  return may;
}

/* Waking up from a receive is cheaper than from poll(). Needs no GIL. Returns 0 when it was in vain, else as
 * poll_wire(). */
static int receive_blocking(struct loop *self) {
  struct connection *const connection = self->connections[0];
  for (;;) {
    const ptrdiff_t got = connection_receive_blocking(connection);
    if (got == 0) return 0;
    if (got == CONNECTION_INTERRUPTED) {
      errno = EINTR;
      return -1;
    }
    if (got < 0) return -2;
    loop_lock(self);
    note_received(self, connection);
    const bool clear = was_pings(self, connection);
    loop_unlock(self);
    if (!clear) return -2;
  }
}

/* Needs no GIL. Returns as poll_wire(). */
static int poll_armed(struct loop *self, struct pollfd *wanted, nfds_t count) {
  int ready = arm_rings(self) ? -2 : poll(wanted, count, -1);
  while (ready == 1 && answer_pings(self, wanted)) ready = poll(wanted, count, -1);
  const int problem = errno;
  disarm_rings(self);
  errno = problem;
  return ready;
}

/* Needs no GIL. Returns as poll(), or -2 where there is something on the only connection already. */
static int poll_wire(struct loop *self, struct pollfd *wanted, nfds_t count, bool stalls, uint64_t start_ns) {
  const bool sleeps = !(self->stalled && end_stall(self)) && !(spinning_pays(self) && spin(self, start_ns));
  self->stalled = stalls;
  int ready = !sleeps ? -2 : may_receive_blocking(self) ? receive_blocking(self) : 0;
  if (ready == 0) ready = poll_armed(self, wanted, count);
  const int problem = errno;
  if (self->stalled) control_stall(self->control, self->connections[0]);
  errno = problem;
  return ready;
}

static void mark_all_ready(struct loop *self) {
  for (size_t i = 0; i < self->connection_count; i++) self->ready[i] = true;
}

/* Nothing tells of them but a look. */
static void mark_rings_ready(struct loop *self) {
  for (size_t i = 0; i < self->connection_count; i++) self->ready[i] |= self->connections[i]->rings != NULL;
}

/* Looks what there is to do; waits for it unless a stream goes on meanwhile. Returns 0, or -1 with a Python exception of
 * a signal handler. */
static int wait_for_work(struct loop *self, bool waits) {
  struct pollfd wanted[2 + LOOP_CONNECTIONS_MAX];
  if (atomic_exchange(&self->control->read_others, false)) {
    mark_all_ready(self);
    waits = false;
  }
  const nfds_t count = fill_poll(self, wanted, &waits);
  const uint64_t start_ns = waits ? clock_ns() : 0;
  int ready, problem;
  if (!waits) {
    ready = poll(wanted, count, 0);
    problem = errno;
    mark_rings_ready(self);
  } else if (spin_with_gil(self, start_ns)) {
    ready = -2;
    problem = 0;
  } else {
    const bool stalls = may_stall(self);
    Py_BEGIN_ALLOW_THREADS;
    ready = poll_wire(self, wanted, count, stalls, start_ns);
    problem = errno;
    Py_END_ALLOW_THREADS;
  }
  if (ready == -2) {
    self->ready[0] = true;
    return 0;
  }
  if (ready < 0 && problem != EINTR) {
    errno = problem;
    (void)PyErr_SetFromErrno(PyExc_OSError);
    return -1;
  }
  if (ready > 0 && wanted[0].revents != 0) {
    control_take_turn(self->control);
    mark_all_ready(self); /* a job may have let go of one */
  }
  if (ready < 0 || wanted[0].revents != 0) return PyErr_CheckSignals();
  for (size_t i = 0; i < self->connection_count; i++)
    if (wanted[2 + i].revents != 0) self->ready[i] = true;
  if (wanted[1].revents != 0) accept_clients(self);
  return 0;
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
        remove_connection(self, i) < 0)
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
    (void)receive(self, self->connections[i]); /* once: who goes on sending shall not keep the worker */
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
    if (stepped == 0 && atomic_load(&self->jobs) > 0 && wait_for_work(self, true) < 0) PyErr_Clear();
  }
  for (size_t i = 0; i < self->connection_count && !self->abandoned; i++) /* their replies */
    if (loop_flush(self, self->connections[i]) < 0) PyErr_Clear();
}

static bool is_done(const struct loop *self) {
  return is_stopped(self) || (self->listen_fd < 0 && self->connection_count == 0);
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
    } else if ((done == 0 || stepped > 0) && !is_done(self) && wait_for_work(self, stepped == 0) < 0) {
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

static PyObject *run(struct loop *self, PyObject *unused) {
  (void)unused;
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
    if (remove_connection(self, self->connection_count - 1) < 0) PyErr_Clear();
  if (exception == NULL) Py_RETURN_NONE;
  exception_restore(exception);
  return NULL;
}

static PyObject *stop(struct loop *self, PyObject *unused) {
  (void)unused;
  if (!self->abandoned) control_stop(self->control);
  Py_RETURN_NONE;
}

static PyObject *use_signal(struct loop *self, PyObject *arguments) {
  int interrupt_signal;
  if (!PyArg_ParseTuple(arguments, "i:use_signal", &interrupt_signal)) return NULL;
  if (!self->abandoned) control_use_signal(self->control, interrupt_signal);
  Py_RETURN_NONE;
}

static PyObject *use_stop_signals(struct loop *self, PyObject *bits) {
  const unsigned long long stop_signals = PyLong_AsUnsignedLongLong(bits);
  if (PyErr_Occurred()) return NULL;
  control_use_stop_signals(self->control, stop_signals);
  Py_RETURN_NONE;
}

static PyObject *use_stacks(struct loop *self, PyObject *arguments) {
  int dump_signal, fd;
  if (!PyArg_ParseTuple(arguments, "ii:use_stacks", &dump_signal, &fd)) return NULL;
  if (!self->abandoned) control_use_stacks(self->control, dump_signal, fd);
  Py_RETURN_NONE;
}

static PyObject *interrupt(struct loop *self, PyObject *unused) {
  (void)unused;
  if (self->abandoned) Py_RETURN_NONE;
  return control_interrupt(self->control, self->hooks.cancelled);
}

static PyObject *interrupt_threads(struct loop *self, PyObject *unused) {
  (void)unused;
  if (!self->abandoned) control_interrupt_threads(self->control, self->hooks.cancelled);
  Py_RETURN_NONE;
}

static PyObject *abandon(struct loop *self, PyObject *unused) {
  (void)unused;
  self->abandoned = true;
  for (size_t i = 0; i < self->connection_count; i++) connection_abandon(self->connections[i]);
  if (self->listen_fd >= 0) (void)close(self->listen_fd);
  self->listen_fd = -1;
  control_abandon(self->control);
  Py_RETURN_NONE;
}

/* --- Type --- */

static int make_keywords(struct loop *self) {
  static const char *const names[] = {"context", "cancel_event"};
  self->keywords[1] = Py_BuildValue("(s)", names[0]);
  self->keywords[2] = Py_BuildValue("(s)", names[1]);
  self->keywords[3] = Py_BuildValue("(ss)", names[0], names[1]);
  self->serialize = PyUnicode_InternFromString("SerializeToString");
  return self->keywords[1] == NULL || self->keywords[2] == NULL || self->keywords[3] == NULL || self->serialize == NULL
             ? -1
             : 0;
}

/* Takes the descriptors over once nothing can fail any more. */
static int open_wire(struct loop *self, int fd, int listen_fd, int host_fd) {
  self->control = control_new(host_fd);
  if (self->control == NULL) {
    (void)PyErr_SetFromErrno(PyExc_OSError);
    return -1;
  }
  self->control->connections = self->connections;
  self->inherited = fd >= 0;
  if (fd >= 0 && add_connection(self, fd, CONNECTION_WELCOMING) < 0) {
    self->control->host_fd = -1;
    (void)PyErr_SetFromErrno(PyExc_OSError);
    return -1;
  }
  self->listen_fd = listen_fd;
  return 0;
}

static int set_hooks(struct loop *self, PyObject *hooks) {
  loop_hooks *const to = &self->hooks;
  PyObject **const all[] = {&to->describe, &to->welcome,      &to->codec,      &to->decode,       &to->encode,
                            &to->parse,    &to->print,        &to->make_event, &to->forget_event, &to->cancelled,
                            &to->submit,   &to->start_stream, &to->bad_message};
  static const char *const names[] = {"describe", "welcome",      "codec",      "decode",       "encode",
                                      "parse",    "print",        "make_event", "forget_event", "cancelled",
                                      "submit",   "start_stream", "bad_message"};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
    *all[i] = PyObject_GetAttrString(hooks, names[i]);
    if (*all[i] == NULL) return -1;
  }
  return 0;
}

static PyObject *loop_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords) {
  static char *names[] = {"methods",      "hello",   "hooks",  "fd",       "listen_fd", "host_fd",
                          "worker_index", "spin_us", "shared", "peer_uid", NULL};
  PyObject *method_list, *hello, *hooks;
  int fd = -1, listen_fd = -1, host_fd = -1;
  long worker_index = 0;
  unsigned spin_us = 0;
  int shared = 0;
  long long peer_uid = PEER_ANY;
  if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "OSO|$iiilIpL:Loop", names, &method_list, &hello, &hooks, &fd,
                                   &listen_fd, &host_fd, &worker_index, &spin_us, &shared, &peer_uid))
    return NULL;
  if ((fd < 0) == (listen_fd < 0)) {
    PyErr_SetString(PyExc_ValueError, "a loop needs either fd or listen_fd");
    return NULL;
  }
  struct loop *self = (struct loop *)type->tp_alloc(type, 0);
  if (self == NULL) return NULL;
  self->listen_fd = -1;
  self->worker_index = worker_index;
  self->shared = shared != 0;
  self->peer_uid = peer_uid;
  self->spin_ns = (uint64_t)spin_us * 1000u;
  Py_INCREF(hello);
  self->hello = hello;
  module_state *state = PyType_GetModuleState(type);
  if (state == NULL || make_keywords(self) < 0 || set_hooks(self, hooks) < 0 ||
      methods_init(&self->methods, method_list) < 0)
    goto fail;
  Py_INCREF(state->context_type);
  self->context_type = state->context_type;
  Py_INCREF(state->job_type);
  self->job_type = state->job_type;
  Py_INCREF(state->stream_job_type);
  self->stream_job_type = state->stream_job_type;
  Py_INCREF(state->requests_type);
  self->requests_type = state->requests_type;
  if (open_wire(self, fd, listen_fd, host_fd) < 0) goto fail;
  return (PyObject *)self;
fail:
  Py_DECREF(self);
  return NULL;
}

static int traverse(struct loop *self, visitproc visit, void *arg) {
  Py_VISIT(Py_TYPE(self));
  Py_VISIT(self->hooks.describe);
  Py_VISIT(self->hooks.welcome);
  Py_VISIT(self->hooks.decode);
  Py_VISIT(self->hooks.encode);
  Py_VISIT(self->hooks.parse);
  Py_VISIT(self->hooks.print);
  Py_VISIT(self->hooks.codec);
  Py_VISIT(self->hooks.make_event);
  Py_VISIT(self->hooks.forget_event);
  Py_VISIT(self->hooks.cancelled);
  Py_VISIT(self->hooks.submit);
  Py_VISIT(self->hooks.start_stream);
  Py_VISIT(self->hooks.bad_message);
  Py_VISIT(self->context_type);
  Py_VISIT(self->job_type);
  Py_VISIT(self->stream_job_type);
  Py_VISIT(self->requests_type);
  Py_VISIT(self->spare);
  return methods_traverse(&self->methods, visit, arg);
}

static int clear(struct loop *self) {
  Py_CLEAR(self->hooks.describe);
  Py_CLEAR(self->hooks.welcome);
  Py_CLEAR(self->hooks.decode);
  Py_CLEAR(self->hooks.encode);
  Py_CLEAR(self->hooks.parse);
  Py_CLEAR(self->hooks.print);
  Py_CLEAR(self->hooks.codec);
  Py_CLEAR(self->hooks.make_event);
  Py_CLEAR(self->hooks.forget_event);
  Py_CLEAR(self->hooks.cancelled);
  Py_CLEAR(self->hooks.submit);
  Py_CLEAR(self->hooks.start_stream);
  Py_CLEAR(self->hooks.bad_message);
  Py_CLEAR(self->context_type);
  Py_CLEAR(self->job_type);
  Py_CLEAR(self->stream_job_type);
  Py_CLEAR(self->requests_type);
  Py_CLEAR(self->spare);
  methods_clear(&self->methods);
  return 0;
}

static void dealloc(struct loop *self) {
  PyTypeObject *const type = Py_TYPE(self);
  PyObject_GC_UnTrack(self);
  (void)clear(self);
  Py_CLEAR(self->hello);
  Py_CLEAR(self->serialize);
  for (size_t i = 0; i < sizeof self->keywords / sizeof *self->keywords; i++) Py_CLEAR(self->keywords[i]);
  if (!self->abandoned) { /* a forked child leaves be what its parent's other thread may have been changing */
    for (size_t i = 0; i < self->connection_count; i++) connection_free(self->connections[i]);
    if (self->listen_fd >= 0) (void)close(self->listen_fd);
    if (self->control != NULL) control_release(self->control);
  }
  type->tp_free(self);
  Py_DECREF(type);
}

static PyObject *take_woken(struct loop *self, PyObject *unused) {
  (void)unused;
  return stream_take_woken(self);
}

static PyObject *get_stream_fd(struct loop *self, void *closure) {
  (void)closure;
  return PyLong_FromLong(self->control->tasks.read_fd);
}

static PyObject *get_event_fd(struct loop *self, void *closure) {
  (void)closure;
  return PyLong_FromLong(self->control->events.read_fd);
}

static PyObject *get_wakeup_fd(struct loop *self, void *closure) {
  (void)closure;
  return PyLong_FromLong(self->control->turn.write_fd);
}

static PyObject *get_abandoned(struct loop *self, void *closure) {
  (void)closure;
  return PyBool_FromLong(self->abandoned);
}

static PyMethodDef loop_methods[] = {
    {"run", (PyCFunction)(void (*)(void))run, METH_NOARGS, "Serves until stop(), or the end of the inherited socket."},
    {"stop", (PyCFunction)(void (*)(void))stop, METH_NOARGS, "Lets run() return once the running handler has."},
    {"use_signal", (PyCFunction)(void (*)(void))use_signal, METH_VARARGS,
     "The calling thread's handlers are interrupted by the signal; 0: by none."},
    {"use_stop_signals", (PyCFunction)(void (*)(void))use_stop_signals, METH_O,
     "The signals of these bits, bit n is number n, do as stop() when they come by wakeup_fd."},
    {"use_stacks", (PyCFunction)(void (*)(void))use_stacks, METH_VARARGS,
     "The signal, 0: none, has all stacks written to the descriptor, -1: to standard error."},
    {"interrupt", (PyCFunction)(void (*)(void))interrupt, METH_VARARGS,
     "The signal's handler: raises Cancelled inside a cancelled handler."},
    {"interrupt_threads", (PyCFunction)(void (*)(void))interrupt_threads, METH_NOARGS,
     "Raises Cancelled inside the cancelled handlers of threads that take no signals."},
    {"take_woken", (PyCFunction)(void (*)(void))take_woken, METH_NOARGS,
     "The streams of the event loop for which something has come."},
    {"abandon", (PyCFunction)(void (*)(void))abandon, METH_NOARGS, "Closes all descriptors: in a forked child."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef loop_getters[] = {
    {"event_fd", (getter)get_event_fd, NULL, "Becomes readable when a context with an event is cancelled.", NULL},
    {"stream_fd", (getter)get_stream_fd, NULL, "Becomes readable when take_woken() has something.", NULL},
    {"wakeup_fd", (getter)get_wakeup_fd, NULL, "A byte written to it ends run()'s wait.", NULL},
    {"abandoned", (getter)get_abandoned, NULL, "Whether this is a forked child.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

__extension__ static PyType_Slot loop_slots[] = {
    {Py_tp_doc, "Waits for requests, drains sockets, dispatches to handlers, flushes replies."},
    {Py_tp_new, loop_new},
    {Py_tp_dealloc, dealloc},
    {Py_tp_traverse, traverse},
    {Py_tp_clear, clear},
    {Py_tp_methods, loop_methods},
    {Py_tp_getset, loop_getters},
    {0, NULL},
};

PyType_Spec loop_spec = {
    .name = "pyproc_worker._ext.Loop",
    .basicsize = sizeof(struct loop),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = loop_slots,
};
