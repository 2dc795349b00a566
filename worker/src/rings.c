#define _GNU_SOURCE
#include "rings.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

enum { RECHECK_MS = 2 };

bool rings_are_possible(void) {
#ifdef F_GET_SEALS
  return true;
#else
  return false;
#endif
}

int rings_open(struct connection *connection, uint32_t ring_bytes) {
  if (connection->fd_count == 0) {
    errno = EBADF;
    return -1;
  }
  ring_link *rings = malloc(sizeof *rings);
  if (rings == NULL) return -1;
  const int fd = connection->fds[--connection->fd_count]; /* the last one */
  const int result = ring_link_open(rings, connection->fd, fd, ring_bytes, RING_WORKER);
  const int problem = errno;
  (void)close(fd);
  if (result == 0)
    connection->rings = rings;
  else
    free(rings);
  errno = problem;
  return result;
}

void rings_close(struct connection *connection) {
  if (connection->rings == NULL) return;
  ring_link_close(connection->rings);
  free(connection->rings);
  connection->rings = NULL;
}

bool rings_arm(struct connection *connection) {
  if (connection->rings == NULL) return false;
  return ring_link_arm(connection->rings, connection_has_room(connection), connection_unsent(connection));
}

void rings_disarm(struct connection *connection) {
  if (connection->rings != NULL) ring_link_disarm(connection->rings);
}

void rings_settle(struct connection *connection) {
  if (connection->rings != NULL) ring_link_settle(connection->rings);
}

/* Other threads poll the socket too, and may take the byte that is meant for us: so it looks again now and then. */
int rings_wait_writable(const struct connection *connection, int timeout_ms) {
  const uint64_t end_ns = clock_ns() + (uint64_t)timeout_ms * 1000000u;
  do {
    struct pollfd wanted = {.fd = connection->fd, .events = POLLIN};
    if (ring_link_arm(connection->rings, false, true)) return 1;
    const int ready = poll(&wanted, 1, RECHECK_MS);
    if (ready < 0) return -1;
    if ((wanted.revents & (POLLHUP | POLLERR | POLLNVAL)) != 0) {
      errno = EPIPE;
      return -1;
    }
    if (ready > 0) return 1; /* the caller settles and tries */
  } while (clock_ns() < end_ns);
  return 0;
}
