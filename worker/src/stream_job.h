/*
 * stream_job.h - the StreamJob type: a stream that is served, and the Requests that a plain handler reads from.
 *
 * A generator that answers one request runs in steps (run()) on the thread of plain handlers: it is suspended where its
 * credit is out, and goes on once the control has queued it as due. Other plain handlers run on a thread of their own,
 * which waits without the GIL (hooks.start_stream; one run()). Async ones are served by Python's event loop, as a task:
 * begin(), take() and send(), then finish() or fail(). Each job is answered once, whatever happens.
 */
#ifndef PYPROC_WORKER_STREAM_JOB_H
#define PYPROC_WORKER_STREAM_JOB_H

#include "call.h"

extern PyType_Spec stream_job_spec, requests_spec;

/* Dispatches a REQUEST whose method is a stream. Returns 0, or -1 with a Python exception. */
int stream_submit(struct loop *loop, const struct call *call, PyObject *bytes);

/* Lets the streams that are due go on: one of them makes a step here, or all are handed to other threads where the loop
 * is shared. Returns 1 when a step was made, 0 for none, -1 with a Python exception that ends the loop. */
int stream_step(struct loop *loop);

/* The jobs for which something has come: a new list, or NULL with a Python exception. */
PyObject *stream_take_woken(struct loop *loop);

#endif
