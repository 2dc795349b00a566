/*
 * remote.h - a server elsewhere in the place of a pool's workers: nothing is started, watched or replaced, the protocol
 * alone sees to the connection. All functions run on the supervisor's thread.
 */
#ifndef PYPROC_REMOTE_H
#define PYPROC_REMOTE_H

#include "admission.h"
#include "platform.h"

typedef struct remote {
  struct admission *admission;
  struct connection *connection;
  const wake *wake;         /* to the supervisor */
  int64_t due_ns;           /* INT64_MAX: nothing is due */
  bool is_open, is_leaving; /* is_open: from the first step until it is closed */
  pyproc_error *failure;    /* why it could not be opened */
  atomic_bool became_ready;
} remote;

/* In place; admission gets the connection. */
int remote_create(remote *self, struct admission *admission, const wake *waker, const protocol *spoken,
                  const connection_settings *settings, pyproc_error **reterr);

/* Frees what it holds; nothing where it was never created. */
void remote_destroy(remote *self);

/* Does what is due and returns when to call again (CLOCK_MONOTONIC ns). */
int64_t remote_step(remote *self, int64_t now_ns);

/* No more calls: those that are left end now. */
void remote_leave(remote *self);

#endif
