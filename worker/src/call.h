/*
 * call.h - one request: found its method, run, answered.
 */
#ifndef PYPROC_WORKER_CALL_H
#define PYPROC_WORKER_CALL_H

#include "loop.h"

struct call {
  struct connection *connection;
  const struct method *method; /* NULL: there is none of that name or number */
  struct run *run;             /* while its handler runs; NULL */
  PyObject *name;              /* borrowed str or NULL: what an envelope asked for */
  uint64_t id;
  uint64_t deadline_ns;
  uint32_t number; /* what a frame asked for */
  bool envelope;   /* the reply has the form of its request */
  bool json;       /* the body is JSON text */
  const char *body;
  size_t body_size;
};

/* Runs a REQUEST frame or an envelope; each gets exactly one reply. Returns 0, or -1 with a Python exception that
 * ends the loop: SystemExit, KeyboardInterrupt. */
int call_frame(struct loop *self, struct connection *connection, const connection_frame *frame);
int call_envelope(struct loop *self, struct connection *connection, const connection_frame *frame);

#endif
