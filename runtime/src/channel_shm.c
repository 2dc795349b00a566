#include "channel.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "platform.h"
#include "wire/ring_link.h"

_Static_assert((int)RING_AGAIN == (int)CHANNEL_AGAIN && (int)RING_END == (int)CHANNEL_END &&
                   (int)RING_CORRUPT == (int)CHANNEL_CORRUPT,
               "what a link returns is what a channel returns");

typedef struct channel_shm {
  struct channel base;
  ring_link link;
} channel_shm;

static channel_shm *shm_of(struct channel *self) {
  return (channel_shm *)self;
}

static ssize_t shm_read(struct channel *self, void *to, size_t size) {
  return ring_link_read(&shm_of(self)->link, to, size);
}

static ssize_t shm_read_blocking(struct channel *self, void *to, size_t size) {
  ring_link_await(&shm_of(self)->link);
  return shm_read(self, to, size);
}

static ssize_t shm_write(struct channel *self, const struct iovec *parts, int count) {
  return ring_link_write(&shm_of(self)->link, parts, count);
}

static ssize_t shm_send_fds(struct channel *self, const void *data, size_t size, const int *fds, int count) {
  (void)self;
  (void)data;
  (void)size;
  (void)fds;
  (void)count;
  return CHANNEL_FAILED; /* the handshake, which sends them, is over */
}

static void shm_wait(struct channel *self, bool for_write, const int *also, int also_count, int64_t deadline_ns) {
  ring_link *link = &shm_of(self)->link;
  struct pollfd polled[1 + CHANNEL_ALSO_MAX] = {{.fd = link->socket, .events = POLLIN}};
  for (int i = 0; i < also_count; i++) polled[1 + i] = (struct pollfd){.fd = also[i], .events = POLLIN};
  if (!ring_link_arm(link, true, for_write)) platform_poll(polled, 1 + (unsigned)also_count, deadline_ns);
  ring_link_disarm(link);
}

static int shm_fd(const struct channel *self) {
  return ((const channel_shm *)self)->link.socket;
}

static bool shm_arm(struct channel *self, bool for_write) {
  return ring_link_arm(&shm_of(self)->link, true, for_write);
}

static void shm_shut(struct channel *self, bool both) {
  ring_link *link = &shm_of(self)->link;
  ring_link_finish(link);
  if (!both) return;
  shutdown(link->socket, SHUT_RDWR);
  atomic_store(&link->armed, true); /* who reads finds the socket's end */
}

static void shm_close(struct channel *self) {
  ring_link_close(&shm_of(self)->link);
  platform_close_fd(shm_of(self)->link.socket);
  free(self);
}

static const channel_ops channel_shm_ops = {.name = "shm",
                                            .read = shm_read,
                                            .read_blocking = shm_read_blocking,
                                            .write = shm_write,
                                            .send_fds = shm_send_fds,
                                            .wait = shm_wait,
                                            .fd = shm_fd,
                                            .arm = shm_arm,
                                            .shut = shm_shut,
                                            .close = shm_close};

struct channel *channel_shm_new(uint32_t ring_bytes, int *ret_fd) {
  channel_shm *self = calloc(1, sizeof *self);
  int fd = platform_shared_memory(ring_memory_size(ring_bytes));
  if (self != NULL && fd >= 0 && ring_link_open(&self->link, -1, fd, ring_bytes, RING_HOST) == 0) {
    self->base.ops = &channel_shm_ops;
    *ret_fd = fd;
    return &self->base;
  }
  platform_close_fd(fd);
  free(self);
  return NULL;
}

void channel_shm_begin(struct channel *self, struct channel *uds) {
  shm_of(self)->link.socket = channel_uds_release(uds);
}
