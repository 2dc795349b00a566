#define _GNU_SOURCE
#include "wake.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#ifndef __linux__
static int prepare(int fd) {
  const int flags = fcntl(fd, F_GETFL);
  if (flags < 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) < 0) return -1;
  return fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ? -1 : 0;
}
#endif

int wake_open(wake *self) {
  int fds[2];
#ifdef __linux__
  if (pipe2(fds, O_CLOEXEC | O_NONBLOCK) < 0) return -1;
#else
  if (pipe(fds) < 0) return -1;
  if (prepare(fds[0]) < 0 || prepare(fds[1]) < 0) {
    (void)close(fds[0]);
    (void)close(fds[1]);
    return -1;
  }
#endif
  self->read_fd = fds[0];
  self->write_fd = fds[1];
  return 0;
}

void wake_close(wake *self) {
  if (self->read_fd >= 0) (void)close(self->read_fd);
  if (self->write_fd >= 0) (void)close(self->write_fd);
  self->read_fd = self->write_fd = -1;
}

void wake_signal(const wake *self) {
  const int saved = errno;
  ssize_t written;
  do written = write(self->write_fd, "", 1);
  while (written < 0 && errno == EINTR); /* a full pipe wakes just as well */
  errno = saved;
}

void wake_drain(const wake *self) {
  (void)wake_take(self);
}

uint64_t wake_take(const wake *self) {
  unsigned char bytes[64];
  ssize_t got;
  uint64_t found = 0;
  do {
    got = read(self->read_fd, bytes, sizeof bytes);
    for (ssize_t i = 0; i < got; i++)
      if (bytes[i] < 64) found |= UINT64_C(1) << bytes[i];
  } while (got == (ssize_t)sizeof bytes || (got < 0 && errno == EINTR));
  return found;
}
