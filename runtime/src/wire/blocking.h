/*
 * blocking.h - how long a side that waits blocks in its socket's receive, where only the other side can wake it, before it
 * blocks in poll.
 */
#ifndef PYPROC_WIRE_BLOCKING_H
#define PYPROC_WIRE_BLOCKING_H

enum { BLOCKING_MS = 2 };

/* From now on recv(2) blocks, for BLOCKING_MS or a little longer at most; MSG_DONTWAIT as ever. Returns 0, or -1 with errno
 * and the socket as it was. */
int blocking_begin(int socket);

#endif
