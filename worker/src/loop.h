/*
 * loop.h - the Loop type: waits for requests, drains sockets, dispatches to handlers, flushes replies.
 *
 * A loop belongs to the thread that calls run(), the dispatching thread; only stop() and the interrupts may be called by
 * others, and abandon() in a forked child. It holds the GIL but while it waits or writes much. It runs the handlers
 * itself, or, where it is shared, hands them to other threads as jobs (job.h), and goes on reading.
 */
#ifndef PYPROC_WORKER_LOOP_H
#define PYPROC_WORKER_LOOP_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>
#include <stdint.h>

#include "connection.h"
#include "context.h"
#include "control.h"
#include "methods.h"

enum {
  LOOP_CONNECTIONS_MAX = 128,
  LOOP_BATCH = 64,       /* requests of one connection before another's turn */
  LOOP_JOBS_MAX = 4096,  /* no more are taken while so many run or wait for their thread */
  LOOP_FLUSH_REPLIES = 8 /* replies that are sent with one write at most */
};

/* What the loop asks Python for, all callables; see pyproc_worker/_ext.pyi. */
typedef struct loop_hooks {
  PyObject *describe, *welcome, *codec, *decode, *encode, *parse, *print, *make_event, *forget_event, *cancelled,
      *submit, *start_stream, *bad_message;
} loop_hooks;

struct loop {
  PyObject_HEAD struct control *control;
  struct methods methods;
  loop_hooks hooks;
  PyObject *hello;       /* bytes: the hello's JSON */
  PyObject *keywords[4]; /* of handlers, by METHOD_* >> 1: tuples of str; the first NULL */
  PyObject *serialize;   /* str: the name of the method that serialises a message */
  PyTypeObject *context_type, *job_type, *stream_job_type, *requests_type;
  struct context *spare; /* kept for the next call where no handler kept it */
  long long peer_uid;    /* who may connect beside root; PEER_ANY */
  struct connection *connections[LOOP_CONNECTIONS_MAX];
  size_t connection_count;
  int listen_fd; /* -1: there is one connection, which is inherited */
  bool inherited;
  bool shared;      /* other threads run the handlers, as jobs */
  atomic_uint jobs; /* that are not done */
  bool ran;
  bool stalled;   /* the control thread may read for it until it has waited again */
  bool abandoned; /* this is a forked child: nothing may be touched */
  bool stopping;  /* what was not started is answered UNAVAILABLE */
  bool more;      /* the connection whose turn it was has more requests, a stream's turn came first */
  bool ready[LOOP_CONNECTIONS_MAX];
  long worker_index;
  uint64_t spin_ns; /* how long to look for more before blocking */
  int spin_score;   /* grows with each success, falls with each failure; above 0 spinning pays */
  unsigned waits;
  uint64_t received_ns; /* for the turn that comes, until its first frame is taken; 0: nothing came */
  bool crowded;         /* the last turn that found a frame found several */
  int unyielded;        /* frames handled since other threads of this processor were let in */
  size_t unflushed;     /* replies of the connection whose turn it is */
  bool drained;         /* its last reply went at once, with all that was to be sent: nothing waited behind it */
  uint64_t unflushed_since_ns;
};

extern PyType_Spec loop_spec;

/* The control's lock, which what the control thread looks at needs, connections above all. */
static inline void loop_lock(struct loop *self) {
  (void)pthread_mutex_lock(&self->control->lock);
}
static inline void loop_unlock(struct loop *self) {
  (void)pthread_mutex_unlock(&self->control->lock);
}

/* The peer broke the protocol: the connection ends. The text is not copied. */
static inline void loop_set_fault(struct loop *self, struct connection *connection, const char *fault) {
  loop_lock(self);
  connection->fault = fault;
  loop_unlock(self);
}

/* Sends what is queued on the connection and then `rest`, waiting as long as the peer reads. Releases the GIL. A peer
 * that is gone is no error: the connection has then ended. Returns 0, or -1 with a Python exception of a signal
 * handler. */
int loop_push(struct loop *self, struct connection *connection, const void *rest, size_t size);

/* Sends what is queued; without waiting where the socket takes it all. Returns as loop_push(). */
int loop_flush(struct loop *self, struct connection *connection);

#endif
