/*
 * context.h - the Context type: what a handler may ask about the call that it runs.
 *
 * A context belongs to the dispatching thread, but the control thread may cancel it, without the GIL, while its call
 * runs. It stays readable after the call, with the state that the call ended in.
 */
#ifndef PYPROC_WORKER_CONTEXT_H
#define PYPROC_WORKER_CONTEXT_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "metadata_entries.h"
#include "wake.h"

enum { CONTEXT_REASON_MAX = 256 };

struct context {
  PyObject_HEAD PyObject *method; /* str: the method's name */
  PyObject *event;                /* threading.Event, made when asked for; NULL before */
  PyObject *metadata;             /* of the request: its bytes, once asked for a tuple of pairs; NULL: none */
  PyObject *make_event; /* callable: the context to a threading.Event that is set once the context is cancelled */
  uint64_t id;
  uint64_t deadline_ns; /* CLOCK_MONOTONIC; 0: none */
  long worker_index;
  metadata_queue added; /* metadata that waits to be sent */
  size_t initial;       /* bytes of it that go ahead of the reply, where the protocol can */
  bool answered;        /* no more can be added */
  atomic_bool event_wanted;
  atomic_bool asked;               /* the handler looks for a cancel itself, by the event or by `cancelled` */
  atomic_bool making_event;        /* Python code of ours runs for it: not to be interrupted */
  atomic_uint cancelled;           /* 0, or the code: 1 cancelled, 4 deadline exceeded */
  char reason[CONTEXT_REASON_MAX]; /* UTF-8, complete before `cancelled` is set */
};

extern PyType_Spec context_spec;

/* Returns a new reference, or NULL with a Python exception. */
struct context *context_new(PyTypeObject *type, PyObject *make_event, long worker_index);

/* Readies a context for its next call; nobody else may hold it. `metadata`: the request's bytes, which have been checked,
 * or NULL. */
void context_begin(struct context *self, PyObject *method, uint64_t id, uint64_t deadline_ns, PyObject *metadata);

/* Takes the metadata that the handler has added since the last time, where it is no more than `room` bytes; the caller
 * frees it. `last`: it can add no more. */
metadata_queue context_take_metadata(struct context *self, size_t room, bool last);

/* The part of the added metadata that goes ahead of the reply, as a tuple of pairs, which is taken: a new reference, or
 * NULL with a Python exception. */
PyObject *context_take_initial(struct context *self);

/* Marks the call as cancelled; only the first time counts. Needs no GIL. */
void context_cancel(struct context *self, unsigned code, const char *reason, size_t reason_size, const wake *events);

/* Why it was cancelled, as errors say it: a new str, or NULL with a Python exception. */
PyObject *context_explain(const struct context *self);

/* The threading.Event that is set once the call is cancelled: a new reference, or NULL with a Python exception. */
PyObject *context_event(struct context *self);

#endif
