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
  uint64_t now_ns; /* CLOCK_MONOTONIC when it was last looked at; 0: look again */
  uint64_t deadline_ns;
  uint32_t number; /* what a frame asked for */
  bool envelope;   /* the reply has the form of its request */
  bool json;       /* the body is JSON text */
  bool elsewhere;  /* another thread than the dispatching one runs it, though the loop is not shared */
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

/* Parts of these, for streams (stream_job.h). */

/* Whether the call must not run any more: it has then been answered, and `*ret_result` is as above. */
bool call_is_over(struct loop *self, struct call *call, int *ret_result);

/* What the handler is given: a new reference, or NULL: the call has been answered, with `*ret_result`, or a Python
 * exception is set. */
PyObject *call_parse(struct loop *self, const struct call *call, PyObject *bytes, bool whole, int *ret_result);

/* The handler's run begins, or goes on, on the calling thread. */
void call_begin(struct loop *self, const struct call *call);
void call_record_thread(const struct call *call, uint64_t id, uint64_t now_ns);

/* Takes the call out of it, where it is there. */
void call_forget_thread(const struct call *call);

/* Calls the handler: what it returned, or NULL with a Python exception. */
PyObject *call_handler(struct loop *self, const struct method *method, PyObject *request, struct run *run);

/* To be called once code that ran armed has returned. */
void call_disarm(struct loop *self, struct run *run);

/* Each returns as above. `value` is what the handler returned, NULL: it raised the current exception. */
int call_answer_outcome(struct loop *self, const struct call *call, PyObject *value);
int call_answer_cancelled(struct loop *self, const struct call *call, unsigned code, const char *reason);

/* Answers a call that nobody will run any more. */
void call_drop(struct loop *self, struct call *call);

/* A context of its own for the call: a new reference, or NULL with a Python exception. */
struct context *call_context(struct loop *self, const struct call *call);
void call_forget_context(struct loop *self, struct context *context);

#endif
