/*
 * greeting.h - a connection's handshake, until its calls are taken.
 */
#ifndef PYPROC_WORKER_GREETING_H
#define PYPROC_WORKER_GREETING_H

#include "loop.h"

/* Says hello, which a host answers with its welcome. Flushes nothing. */
void greeting_send_hello(struct loop *self, struct connection *connection);

/* A frame that comes before the connection is open. Returns 0, or -1 with a Python exception: of an inherited socket's
 * host, which has then been told what does not fit. Others are disconnected for that. Needs the GIL. */
int greeting_take(struct loop *self, struct connection *connection, const connection_frame *frame);

#endif
