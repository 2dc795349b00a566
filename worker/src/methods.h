/*
 * methods.h - the table of what a worker serves, in the order of its hello.
 *
 * Built once from Python, read by the dispatching thread only, under the GIL.
 */
#ifndef PYPROC_WORKER_METHODS_H
#define PYPROC_WORKER_METHODS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>
#include <stdint.h>

struct method {
  PyObject *name;         /* str, interned */
  const char *text;       /* the same in UTF-8 */
  PyObject *handler;      /* callable, or None: `missing` says why */
  PyObject *missing;      /* str, or None */
  PyObject *request_type; /* message class of a typed method; None: a dynamic one, JSON values */
  PyObject *reply_type;   /* PyTypeObject of a typed method; None */
  PyObject *from_string;  /* request_type.FromString; NULL */
  PyObject *to_string;    /* what makes bytes of a reply_type; NULL */
  bool pass_context;      /* the context is the second positional argument */
  bool pass_context_keyword;
  bool pass_event; /* the keyword cancel_event is given */
  bool is_async;   /* the handler returns a coroutine, or an asynchronous generator */
  bool sends;      /* it answers with a stream of messages */
  bool receives;   /* it is given a stream of messages */
};

struct methods {
  struct method *items;
  uint32_t count;
  PyObject *by_name; /* dict: str to index */
};

/* Takes over a sequence of (name, handler, missing, request_type, reply_type, flags) with flags of METHOD_*. Returns
 * 0, or -1 with a Python exception; to be cleared in either case. */
int methods_init(struct methods *self, PyObject *sequence);
int methods_traverse(struct methods *self, visitproc visit, void *arg);
void methods_clear(struct methods *self);

enum {
  METHOD_CONTEXT = 1,
  METHOD_CONTEXT_KEYWORD = 2,
  METHOD_EVENT_KEYWORD = 4,
  METHOD_ASYNC = 8,
  METHOD_SENDS = 16,
  METHOD_RECEIVES = 32,
  METHOD_COMPLETE = 64 /* no reply lacks a field that it must have, which need not be looked for */
};

/* Each returns NULL where there is no such method; by_name also with a Python exception. */
const struct method *methods_by_index(const struct methods *self, uint32_t index);
const struct method *methods_by_name(const struct methods *self, PyObject *name);

static inline bool method_is_stream(const struct method *self) {
  return self->sends || self->receives;
}

static inline bool method_is_typed(const struct method *self) {
  return self->request_type != Py_None;
}

#endif
