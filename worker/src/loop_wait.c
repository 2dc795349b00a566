#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <sched.h>

#include "loop_parts.h"
#include "page.h"
#include "rings.h"
#include "wake.h"

enum {
  SPIN_SCORE_MAX = 8,
  SPIN_PROBE = 16, /* every so many waits it tries whether spinning pays again */
  YIELD_FROM_NS = 3000,
  SPIN_LOOKS_PER_CLOCK = 4
};

static bool may_spin(const struct loop *self) {
  return self->spin_ns > 0 && self->connection_count == 1 && !self->connections[0]->told;
}

static bool spinning_pays(struct loop *self) {
  return may_spin(self) && (self->spin_score > 0 || ++self->waits % SPIN_PROBE == 0);
}

/* Whether no other thread uses the only connection, nor will before a handler runs. */
static bool is_sole_user(struct loop *self) {
  return !self->shared && self->connection_count == 1 && atomic_load(&self->jobs) == 0;
}

/* As loop_receive(), of whoever is the sole user: only that something has come needs the lock. */
static ptrdiff_t receive_alone(struct loop *self, struct connection *connection) {
  const ptrdiff_t got = connection_receive(connection);
  if (got <= 0) return got;
  loop_lock(self);
  loop_note_received(self, connection);
  loop_unlock(self);
  return got;
}

/* Looks for more until so long after `*start_ns`; 0: from now on, which it is set to. Needs no GIL. */
static bool look(struct loop *self, uint64_t *start_ns, uint64_t limit_ns) {
  struct connection *const connection = self->connections[0];
  const bool alone = is_sole_user(self);
  const uint64_t yield_from_ns = page_shares_cpu(connection->page) ? 0 : YIELD_FROM_NS;
  const uint64_t now_ns = clock_ns();
  if (*start_ns == 0) *start_ns = now_ns;
  uint64_t spent_ns = now_ns - *start_ns;
  unsigned looks = 0;
  while (spent_ns < limit_ns && !loop_is_stopped(self)) {
    if ((alone ? receive_alone(self, connection) : loop_receive(self, connection)) != 0) {
      if (self->spin_score < SPIN_SCORE_MAX) self->spin_score++;
      return true;
    }
    const bool yields = spent_ns >= yield_from_ns;
    if (yields) {
      (void)sched_yield();
      self->unyielded = 0;
    }
    /* The clock takes as long as a look into shared memory. */
    if (yields || ++looks % SPIN_LOOKS_PER_CLOCK == 0) spent_ns = clock_ns() - *start_ns;
  }
  return false;
}

/* For a while before it blocks: waking up costs more than that. Needs no GIL. */
static bool spin(struct loop *self, uint64_t *start_ns) {
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
static bool spin_with_gil(struct loop *self, uint64_t *start_ns) {
  if (!may_spin(self) || self->spin_score <= 0 || self->spin_ns <= YIELD_FROM_NS) return false;
  if (self->stalled || !is_sole_user(self) || !is_only_thread()) return false;
  return !page_shares_cpu(self->connections[0]->page) && look(self, start_ns, YIELD_FROM_NS);
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
  if (connection->stage == CONNECTION_OPEN && connection_is_clear(connection) &&
      loop_receive_locked(self, connection) > 0)
    clear = was_pings(self, connection);
  loop_unlock(self);
  return clear;
}

/* Whether only the peer, and signals, bring something in the moments that come, or what can wait for so long; and no other
 * thread uses the connection. */
static bool may_receive_blocking(struct loop *self) {
  struct connection *const connection = self->connections[0];
  if (!is_sole_user(self)) return false;
  loop_lock(self);
  const bool may = connection->stage == CONNECTION_OPEN && !connection->ended && connection->fault == NULL &&
                   connection->jobs == 0 && connection_has_room(connection) && !connection_unsent(connection);
  loop_unlock(self);
  return may;
}

/* Waking up from a receive is cheaper than from poll(). The host is told where we are; if it needs this processor for its
 * next request it gets it first, so that there is no sleep before that. Needs no GIL. Returns 0 when it was in vain, else
 * as poll_wire(). */
static int receive_blocking(struct loop *self) {
  struct connection *const connection = self->connections[0];
  if (page_shares_cpu(connection->page)) (void)sched_yield();
  for (;;) {
    const ptrdiff_t got = connection_receive_blocking(connection);
    if (got == 0) return 0;
    if (got == CONNECTION_INTERRUPTED) {
      errno = EINTR;
      return -1;
    }
    if (got < 0) return -2;
    loop_lock(self);
    loop_note_received(self, connection);
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
static int poll_wire(struct loop *self, struct pollfd *wanted, nfds_t count, bool stalls, uint64_t *start_ns) {
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

int loop_wait(struct loop *self, bool waits) {
  struct pollfd wanted[2 + LOOP_CONNECTIONS_MAX];
  if (atomic_exchange(&self->control->read_others, false)) {
    mark_all_ready(self);
    waits = false;
  }
  const nfds_t count = fill_poll(self, wanted, &waits);
  uint64_t start_ns = 0; /* of spinning */
  int ready, problem;
  if (!waits) {
    ready = poll(wanted, count, 0);
    problem = errno;
    mark_rings_ready(self);
  } else if (spin_with_gil(self, &start_ns)) {
    ready = -2;
    problem = 0;
  } else {
    const bool stalls = may_stall(self);
    Py_BEGIN_ALLOW_THREADS;
    ready = poll_wire(self, wanted, count, stalls, &start_ns);
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
  if (wanted[1].revents != 0) loop_accept(self);
  return 0;
}
