/*
 * requests.h - the messages that a host sends on a stream, as its handler gets them; and the Requests type, the iterator
 * that a plain handler is given.
 */
#ifndef PYPROC_WORKER_REQUESTS_H
#define PYPROC_WORKER_REQUESTS_H

#include "stream_job.h"

extern PyType_Spec requests_spec;

typedef enum taken { TAKEN_MESSAGE, TAKEN_NONE, TAKEN_END, TAKEN_CANCELLED } taken;

/* Takes the next message, which is then the caller's to give to requests_parse(), and grants credit for it. A cancel is
 * told where `tells_cancel`. The caller holds the lock. */
taken requests_take(struct stream_job *job, bool tells_cancel, stream_message **ret_message);

/* Frees the message. Returns what the handler is given, or NULL with a Python exception. */
PyObject *requests_parse(struct stream_job *job, stream_message *message);

/* An iterator over them, which waits, without the GIL: a new reference, or NULL with a Python exception. */
PyObject *requests_new(struct stream_job *job);

#endif
