#define _GNU_SOURCE
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "loop_parts.h"
#include "peer.h"

int loop_add_connection(struct loop *self, int fd, connection_stage stage) {
  struct connection *added = connection_new(fd, stage, control_cancel, control_wake_stream, self->control);
  if (added == NULL) return -1;
  added->streams.methods = &self->methods;
  loop_lock(self);
  self->ready[self->connection_count] = true;
  self->connections[self->connection_count++] = added;
  self->control->connection_count = self->connection_count;
  loop_unlock(self);
  return 0;
}

int loop_remove_connection(struct loop *self, size_t index) {
  control_stall(self->control, NULL); /* it may be the one that is read elsewhere */
  struct connection *const removed = self->connections[index];
  loop_lock(self);
  self->connections[index] = self->connections[--self->connection_count];
  self->control->connection_count = self->connection_count;
  loop_unlock(self);
  self->ready[index] = self->ready[self->connection_count];
  const char *fault = removed->fault;
  connection_free(removed);
  if (fault == NULL) return 0;
  if (self->inherited) {
    PyErr_Format(PyExc_ConnectionError, "the host broke the protocol: %s", fault);
    return -1;
  }
  PySys_FormatStderr("pyproc_worker: a client was disconnected: %s\n", fault);
  return 0;
}

/* Serves a client, unless it may not connect, or there are too many. */
static void take_client(struct loop *self, int fd) {
  char why[160];
  long long uid;
  if (!peer_is_allowed(fd, self->peer_uid, &uid)) {
    (void)snprintf(why, sizeof why,
                   "user %lld may not connect to this worker, which serves user %lld and root: see PYPROC_PEER_UID",
                   uid, self->peer_uid);
    PySys_FormatStderr("pyproc_worker: a client was refused: %s\n", why);
    peer_refuse(fd, why);
  } else if (self->connection_count == LOOP_CONNECTIONS_MAX) {
    (void)snprintf(why, sizeof why, "the worker is busy: it has %d connections, as many as it serves",
                   (int)LOOP_CONNECTIONS_MAX);
    PySys_FormatStderr("pyproc_worker: a client was refused: %s\n", why);
    peer_refuse(fd, why);
  } else if (loop_add_connection(self, fd, CONNECTION_GREETING) < 0) {
    (void)close(fd);
  }
}

void loop_accept(struct loop *self) {
  for (int taken = 0; taken < LOOP_CONNECTIONS_MAX; taken++) {
#ifdef __linux__
    const int fd = accept4(self->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
#else
    const int fd = accept(self->listen_fd, NULL, NULL);
#endif
    if (fd < 0) return;
    take_client(self, fd);
  }
}
