/*
 * stream_job.h - the StreamJob type: a stream that is served.
 *
 * A generator that answers one request runs in steps (run()) on the thread of plain handlers: it is suspended where its
 * credit is out, and goes on once the control has queued it as due. Other plain handlers run on a thread of their own,
 * which waits without the GIL (hooks.start_stream; one run()). Async ones are served by Python's event loop, as a task:
 * begin(), take() and send(), then finish() or fail(). Each job is answered once, whatever happens.
 *
 * stream_run.h runs the handlers and sends what they yield, requests.h gives them what the host sends.
 */
#ifndef PYPROC_WORKER_STREAM_JOB_H
#define PYPROC_WORKER_STREAM_JOB_H

#include "call.h"

/* Why a stream ends that its handler did not end. */
struct failure {
  unsigned code; /* 0: there is none */
  PyObject *message;
  PyObject *exception; /* NULL: what was yielded is wrong, nothing was raised */
};

struct stream_job {
  PyObject_HEAD struct loop *loop;
  struct call call;
  struct run run;
  struct stream *stream;
  PyObject *bytes;    /* the request */
  PyObject *producer; /* the iterator that the handler returned; NULL */
  struct failure failure;
  bool begun, done;
};

extern PyType_Spec stream_job_spec;

/* Dispatches a REQUEST whose method is a stream. Returns 0, or -1 with a Python exception. */
int stream_submit(struct loop *loop, const struct call *call, PyObject *bytes);

/* Lets the streams that are due go on: one of them makes a step here, or all are handed to other threads where the loop
 * is shared. Returns 1 when a step was made, 0 for none, -1 with a Python exception that ends the loop. */
int stream_step(struct loop *loop);

/* The jobs for which something has come: a new list, or NULL with a Python exception. */
PyObject *stream_take_woken(struct loop *loop);

/* To be called once the stream has been answered, and again without effect. */
void stream_job_end(struct stream_job *self);

/* Calls `hook` with the job and `more` (NULL: nothing). Returns 0, or -1 with a Python exception. */
int stream_job_call_hook(PyObject *hook, struct stream_job *self, PyObject *more);

/* Sends what is queued, as far as the socket takes it; the dispatching thread sends the rest. With the lock. */
void stream_job_flush(const struct stream_job *self);

static inline void stream_job_lock(const struct stream_job *self) {
  (void)pthread_mutex_lock(&self->loop->control->lock);
}

static inline void stream_job_unlock(const struct stream_job *self) {
  (void)pthread_mutex_unlock(&self->loop->control->lock);
}

#endif
