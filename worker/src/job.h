/*
 * job.h - the Job type: a call that another thread than the dispatching one runs.
 *
 * A loop that is shared hands each call to Python as a Job (hooks.submit), which must run it or serve it as a task:
 * begin(), then finish() or fail(). Each job is answered once, whatever happens.
 */
#ifndef PYPROC_WORKER_JOB_H
#define PYPROC_WORKER_JOB_H

#include "call.h"

extern PyType_Spec job_spec;

/* Makes a job of the call and submits it. `bytes` holds the body. Returns 0, or -1 with a Python exception. */
int job_submit(struct loop *loop, const struct call *call, PyObject *bytes, bool whole);

/* Parts of it, for streams (stream_job.h). */

/* Makes `run` the call's and lists it, so that it can be cancelled; it holds the connection. `stream` may be NULL.
 * Returns 0, or -1 with a Python exception. */
int job_list_run(struct loop *loop, struct call *call, struct run *run, struct stream *stream);

/* Undoes that, where it was done, once the call has been answered. */
void job_end_run(struct loop *loop, struct call *call);

#endif
