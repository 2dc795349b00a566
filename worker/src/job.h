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

#endif
