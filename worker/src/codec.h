/*
 * codec.h - the bodies of a connection: protobuf's encoding, JSON, or a codec that the script registered.
 *
 * Any thread that has the GIL. A registered codec is Python code of the user's: it may raise anything, return anything
 * and run for long, and it runs outside of a handler, so that it is not interrupted.
 */
#ifndef PYPROC_WORKER_CODEC_H
#define PYPROC_WORKER_CODEC_H

#include "loop.h"

/* A body as it came. */
typedef struct codec_body {
  const char *data;
  size_t size;
  PyObject *bytes; /* borrowed: a bytes object that is the body, NULL where there is none yet */
  bool json;       /* flag JSON */
  bool checked;    /* to be JSON, with its envelope */
} codec_body;

/* What is wrong with a body or with a value. */
typedef struct codec_problem {
  unsigned code;     /* for the reply */
  const char *wrong; /* static text, "is not valid JSON"; NULL: there is a Python exception */
} codec_problem;

/* Sets the codec that the host's welcome chose. Returns 0, or -1 with a Python exception that says why there is none.
 */
int codec_choose(struct loop *self, struct connection *connection, PyObject *welcome);

/* What a handler of `method` is given for a body: a message of its request type, or a JSON value. A new reference, or
 * NULL and *ret_problem. */
PyObject *codec_read(struct loop *self, const struct connection *from, const struct method *method,
                     const codec_body *body, codec_problem *ret_problem);

/* What a handler returned or yielded, as a body; `json` as in the request's flags. A new reference to the owner of
 * *ret_data, or NULL and *ret_problem. The caller has checked the type of a message. */
PyObject *codec_write(struct loop *self, const struct connection *to, const struct method *method, bool json,
                      PyObject *value, const char **ret_data, size_t *ret_size, codec_problem *ret_problem);

#endif
