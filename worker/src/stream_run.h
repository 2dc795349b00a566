/*
 * stream_run.h - runs the handler of a stream, and sends what it yields.
 */
#ifndef PYPROC_WORKER_STREAM_RUN_H
#define PYPROC_WORKER_STREAM_RUN_H

#include "stream_job.h"

/* Runs a plain handler on this thread, the worker's of that number: a step, or, on a thread of its own, the whole.
 * Returns 0, or -1 with a Python exception that ends the loop. */
int stream_run(struct stream_job *self, unsigned thread);

/* Whether a connection has so much unsent that streams which the dispatching thread serves are to wait. With the lock. */
bool stream_is_clogged(const struct connection *connection);

/* The rest is for tasks, too. */

/* Claims the stream and calls its handler. `requests` may be NULL. Returns what the handler returned, or NULL: the
 * stream has been answered, with `*ret_result`. */
PyObject *stream_call(struct stream_job *self, PyObject *requests, int *ret_result);

/* Whether the handler returned what it must, and the answer where it did not. */
bool stream_is_iterator(PyObject *value, bool is_async);
int stream_refuse_result(struct stream_job *self, const PyObject *value);

/* Queues a message, and sends it where `at_once`. Returns whether that is done; else there is a failure. */
bool stream_send(struct stream_job *self, PyObject *value, bool at_once);

/* The answers to a failure, and to a handler that has ended by itself, by an exception where one is set. */
int stream_answer_failure(struct stream_job *self);
int stream_answer_end(struct stream_job *self);

#endif
