/*
 * rings.h - the host's shared memory, where a connection has some, in place of its socket (schema/wire.md, "Rings").
 *
 * Rings are asked for what there is; nobody is woken by them who has not said that he sleeps. So before the socket of a
 * connection is polled, rings_arm() says so, and looks once more.
 */
#ifndef PYPROC_WORKER_RINGS_H
#define PYPROC_WORKER_RINGS_H

#include "connection.h"

/* Maps the memory that came with the welcome: from now on it carries the frames. Returns 0, or -1 with errno. */
int rings_open(struct connection *connection, uint32_t ring_bytes);
void rings_close(struct connection *connection);

/* Whether this system has what rings need. */
bool rings_are_possible(void);

/* The host is to wake us by the socket once there is what the connection waits for, as connection_events(). Returns
 * whether it is there already. The caller holds the control's lock; nothing happens where there are no rings. */
bool rings_arm(struct connection *connection);
void rings_disarm(struct connection *connection);

/* Takes what the host has sent to wake this thread, or another one that looks at the socket later: so only the thread that
 * reads does that. The caller holds the control's lock. */
void rings_settle(struct connection *connection);

/* Waits until the ring takes more; as connection_wait_writable(). */
int rings_wait_writable(const struct connection *connection, int timeout_ms);

#endif
