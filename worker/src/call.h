/*
 * call.h - one request: found its method, run, answered.
 */
#ifndef PYPROC_WORKER_CALL_H
#define PYPROC_WORKER_CALL_H

#include "loop.h"
#include "run.h"

struct call {
  struct connection *connection;
  const struct method *method; /* NULL: there is none of that name or number */
  struct run *run;             /* of a job, or while its handler runs; NULL */
  unsigned thread;             /* number of the worker's thread that runs it */
  PyObject *name;              /* borrowed str or NULL: what an envelope asked for */
  PyObject *metadata;          /* borrowed bytes or NULL: of the request; its context has a reference of its own */
  uint64_t id;
  uint64_t deadline_ns;
  uint32_t number; /* what a frame asked for */
  bool envelope;   /* the reply has the form of its request */
  bool json;       /* the body is JSON text */
  const char *body;
  size_t body_size;
};

/* Runs a REQUEST frame or an envelope; each gets exactly one reply. Returns 0, or -1 with a Python exception that
 * ends the loop: SystemExit, KeyboardInterrupt. */
int call_frame(struct loop *self, struct connection *connection, const connection_frame *frame);
int call_envelope(struct loop *self, struct connection *connection, const connection_frame *frame);

/* Parts of it, for jobs, whose calls have a run that is listed. `bytes` holds the body; `whole`: it is the body. */

/* Runs the handler on this thread and answers. Returns as above. */
int call_run(struct loop *self, struct call *call, PyObject *bytes, bool whole);

/* Calls an async handler, and gives its coroutine, or NULL where the call has been answered. Returns as above. */
int call_begin_task(struct loop *self, struct call *call, PyObject *bytes, bool whole, PyObject **ret_coroutine);

/* Answers with what the coroutine returned, NULL: the current exception. Returns as above. */
int call_end_task(struct loop *self, struct call *call, PyObject *value);

/* Answers a call that nobody will run any more. */
void call_drop(struct loop *self, struct call *call);

/* A context of its own for the call: a new reference, or NULL with a Python exception. */
struct context *call_context(struct loop *self, const struct call *call);
void call_forget_context(struct loop *self, struct context *context);

#endif
