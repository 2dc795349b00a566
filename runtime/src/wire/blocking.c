#include "blocking.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/time.h>

int blocking_begin(int socket) {
  const struct timeval timeout = {.tv_usec = BLOCKING_MS * 1000};
  const int flags = fcntl(socket, F_GETFL);
  if (flags < 0 || setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout) < 0) return -1;
  return fcntl(socket, F_SETFL, flags & ~O_NONBLOCK);
}
