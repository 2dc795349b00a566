/*
 * peer.h - who has connected to a socket that this worker listens on.
 */
#ifndef PYPROC_WORKER_PEER_H
#define PYPROC_WORKER_PEER_H

#include <stdbool.h>

enum { PEER_ANY = -1 };

/* Whether the peer of the socket is that user, or root; PEER_ANY: nobody is asked. *ret_uid is who it is, -1: unknown. */
bool peer_is_allowed(int fd, long long uid, long long *ret_uid);

/* Sends a FAILED frame that says why, where the socket takes one at once, and closes it. `why` is plain ASCII without
 * quotes and backslashes. */
void peer_refuse(int fd, const char *why);

#endif
