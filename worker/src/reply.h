/*
 * reply.h - answers to calls, put on the connection's send queue in the form of their request.
 */
#ifndef PYPROC_WORKER_REPLY_H
#define PYPROC_WORKER_REPLY_H

#include "call.h"

/* Each ends what control_begin() began, and returns 0, or -1 with a Python exception of a signal handler. */

/* A result: `body` is the message or the JSON text. One above the frame limit becomes RESOURCE_EXHAUSTED. */
int reply_body(struct loop *self, const struct call *of, const char *body, size_t size);

/* An error of our own: `format` as for PyUnicode_FromFormat(). */
int reply_error(struct loop *self, const struct call *of, unsigned code, const char *format, ...);

/* The handler's own exception, which is cleared, with type and traceback; code 0: the one that it carries.
 * `interrupted`: it was raised in the handler to end it. */
int reply_raised(struct loop *self, const struct call *of, unsigned code, bool interrupted);

/* The current Python exception, which is cleared; `format` says what failed. */
int reply_exception(struct loop *self, const struct call *of, unsigned code, const char *format, ...);

/* What answers a payload that is no envelope. */
int reply_bad_envelope(struct loop *self, struct connection *connection, const char *wrong);

#endif
