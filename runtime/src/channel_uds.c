#include "channel.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "platform.h"
#include "wire/blocking.h"

typedef struct channel_uds {
  struct channel base;
  int socket;
} channel_uds;

static channel_uds *uds_of(struct channel *self) {
  return (channel_uds *)self;
}

static ssize_t uds_result(ssize_t count) {
  if (count >= 0) return count;
  if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) return CHANNEL_AGAIN;
  return errno == EPIPE || errno == ECONNRESET ? CHANNEL_END : CHANNEL_FAILED;
}

static ssize_t receive(struct channel *self, void *to, size_t size, int flags) {
  ssize_t count = recv(uds_of(self)->socket, to, size, flags);
  return count == 0 ? CHANNEL_END : uds_result(count);
}

static ssize_t uds_read(struct channel *self, void *to, size_t size) {
  return receive(self, to, size, MSG_DONTWAIT);
}

static ssize_t uds_read_blocking(struct channel *self, void *to, size_t size) {
  return receive(self, to, size, 0);
}

static ssize_t uds_write(struct channel *self, const struct iovec *parts, int count) {
  if (count == 1) /* is cheaper */
    return uds_result(
        send(uds_of(self)->socket, parts->iov_base, parts->iov_len, MSG_DONTWAIT | PLATFORM_MSG_NOSIGNAL));
  /* msg_iov is not const in POSIX; sendmsg does not write to it */
  struct msghdr message = {.msg_iov = (struct iovec *)(uintptr_t)parts, .msg_iovlen = (size_t)count};
  return uds_result(sendmsg(uds_of(self)->socket, &message, MSG_DONTWAIT | PLATFORM_MSG_NOSIGNAL));
}

static ssize_t uds_send_fds(struct channel *self, const void *data, size_t size, const int *fds, int count) {
  return uds_result(platform_send_fds(uds_of(self)->socket, data, size, fds, count));
}

static void uds_wait(struct channel *self, bool for_write, const int *also, int also_count, int64_t deadline_ns) {
  struct pollfd polled[1 + CHANNEL_ALSO_MAX] = {
      {.fd = uds_of(self)->socket, .events = (short)(for_write ? POLLIN | POLLOUT : POLLIN)}};
  for (int i = 0; i < also_count; i++) polled[1 + i] = (struct pollfd){.fd = also[i], .events = POLLIN};
  platform_poll(polled, 1 + (unsigned)also_count, deadline_ns);
}

static int uds_fd(const struct channel *self) {
  return ((const channel_uds *)self)->socket;
}

static bool uds_arm(struct channel *self, bool for_write) {
  (void)self;
  (void)for_write;
  return false;
}

static void uds_shut(struct channel *self, bool both) {
  shutdown(uds_of(self)->socket, both ? SHUT_RDWR : SHUT_WR);
}

static void uds_close(struct channel *self) {
  close(uds_of(self)->socket);
  free(self);
}

static const channel_ops channel_uds_ops = {.name = "uds",
                                            .polls_room = true,
                                            .read = uds_read,
                                            .read_blocking = uds_read_blocking,
                                            .write = uds_write,
                                            .send_fds = uds_send_fds,
                                            .wait = uds_wait,
                                            .fd = uds_fd,
                                            .arm = uds_arm,
                                            .shut = uds_shut,
                                            .close = uds_close};

struct channel *channel_uds_new(int socket) {
  channel_uds *self = malloc(sizeof *self);
  if (self == NULL) return NULL;
  self->base.ops = &channel_uds_ops;
  self->socket = socket;
  blocking_begin(socket); /* else read_blocking returns at once */
  return &self->base;
}

int channel_uds_release(struct channel *self) {
  int socket = uds_of(self)->socket;
  free(self);
  return socket;
}
