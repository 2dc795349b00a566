/*
 * control.h - the worker's second thread, in C, which never takes the GIL.
 *
 * It watches the host's death. When a handler has run for longer than a few milliseconds it reads the handler's
 * connection in place of the dispatching thread: cancels, pings and the end of the connection are seen under any
 * handler, and replies that wait to be sent are sent. All signals are blocked in it.
 *
 * The lock guards the buffers of the connections and `running`. It is held for non-blocking work only; the
 * dispatching thread may hold the GIL while it takes it.
 */
#ifndef PYPROC_WORKER_CONTROL_H
#define PYPROC_WORKER_CONTROL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "connection.h"
#include "context.h"
#include "wake.h"

struct control {
  pthread_mutex_t lock;
  pthread_t thread;
  bool started;
  int host_fd;      /* polls readable or hung up once the host is dead; -1 where there is none */
  wake poke;        /* ends the control thread's poll */
  wake turn;        /* ends the dispatching thread's poll */
  wake events;      /* tells Python's watcher that a context with an event was cancelled */
  atomic_bool stop; /* the dispatching thread is to end */
  atomic_bool quit; /* the control thread is to end */
  atomic_bool host_dead;
  atomic_bool asleep;              /* the control thread sleeps until it is poked: nothing has run for a while */
  _Atomic uint64_t since_ns;       /* CLOCK_MONOTONIC when the running handler started; 0: none runs */
  struct connection *running;      /* the connection whose call runs, NULL: none */
  struct context *running_context; /* borrowed */
  uint64_t running_id;
};

/* Takes over `host_fd` (or -1). Returns NULL with errno set. */
struct control *control_new(int host_fd);

/* Returns 0, or an errno. */
int control_start(struct control *self);

/* The dispatching thread is done; nothing may run. The thread is ended and joined, and everything freed, but where it
 * watches a host: it then lives as long as the process, which it kills when that does not end soon after its host. */
void control_release(struct control *self);

/* Closes the descriptors only: in a forked child. */
void control_abandon(struct control *self);

/* Asks the dispatching thread to end. Safe in signal handlers and any thread. */
void control_stop(struct control *self);

/* Around each handler. begin: the caller holds the lock. */
void control_begin(struct control *self, struct connection *connection, struct context *context, uint64_t id,
                   uint64_t now_ns);
void control_end(struct control *self); /* the caller holds the lock */

/* To be called after control_begin(), without the lock: wakes the control thread where it sleeps. */
static inline void control_rouse(struct control *self) {
  if (atomic_load(&self->asleep)) wake_signal(&self->poke);
}

/* A connection_cancel_callback with the control as userdata. */
bool control_cancel(void *userdata, struct connection *connection, uint64_t id, uint16_t code, const char *reason,
                    size_t size);

#endif
