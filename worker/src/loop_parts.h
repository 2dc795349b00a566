/*
 * loop_parts.h - inside of the loop.
 *
 *   loop.c               dispatches what has come, flushes replies, and runs until it is stopped
 *   loop_wait.c          waits for more: spins, blocks, answers pings meanwhile
 *   loop_connections.c   connections that come and go
 *   loop_type.c          the Python type
 */
#ifndef PYPROC_WORKER_LOOP_PARTS_H
#define PYPROC_WORKER_LOOP_PARTS_H

#include "loop.h"

static inline bool loop_is_stopped(const struct loop *self) {
  return atomic_load_explicit(&self->control->stop, memory_order_relaxed);
}

/* Serves until it is to stop. Returns None, or NULL with a Python exception. */
PyObject *loop_run(struct loop *self);

/* Something has come. The lock is held. */
void loop_note_received(struct loop *self, struct connection *connection);

/* Returns as connection_receive(). Needs no GIL. The lock is held; loop_receive: is not. */
ptrdiff_t loop_receive_locked(struct loop *self, struct connection *connection);
ptrdiff_t loop_receive(struct loop *self, struct connection *connection);

/* Looks what there is to do; waits for it unless a stream goes on meanwhile. Returns 0, or -1 with a Python exception of
 * a signal handler. */
int loop_wait(struct loop *self, bool waits);

/* Takes the descriptor over. Returns 0, or -1 with errno set. */
int loop_add_connection(struct loop *self, int fd, connection_stage stage);

/* Returns 0, or -1 with a Python exception: the host of an inherited socket broke the protocol. */
int loop_remove_connection(struct loop *self, size_t index);

/* Serves the clients that wait, unless they may not connect, or there are too many. */
void loop_accept(struct loop *self);

#endif
