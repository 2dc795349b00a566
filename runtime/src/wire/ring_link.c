#define _GNU_SOURCE
#include "ring_link.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0
#endif

enum { LOOKS_MAX = 16 };

/* Whether the memory is ours to map: of that size, and for ever. */
static int check_memory(int fd, size_t size) {
  struct stat facts;
  if (fstat(fd, &facts) < 0) return -1;
  if (facts.st_size != (off_t)size) {
    errno = EINVAL;
    return -1;
  }
#ifdef F_GET_SEALS
  const int wanted = F_SEAL_SHRINK | F_SEAL_GROW, seals = fcntl(fd, F_GET_SEALS);
  if (seals >= 0 && (seals & wanted) == wanted) return 0;
#endif
  errno = EPERM;
  return -1;
}

int ring_link_open(ring_link *self, int socket, int fd, uint32_t ring_bytes, ring_side side) {
  const size_t size = ring_memory_size(ring_bytes);
  const ring_side other = side == RING_HOST ? RING_WORKER : RING_HOST;
  if (!ring_bytes_fit(ring_bytes)) {
    errno = EINVAL;
    return -1;
  }
  if (check_memory(fd, size) < 0) return -1;
  void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (memory == MAP_FAILED) return -1;
  if (side == RING_HOST) ring_format(memory, ring_bytes);
  if (!ring_is_formatted(memory, ring_bytes)) {
    (void)munmap(memory, size);
    errno = EINVAL;
    return -1;
  }
  *self = (ring_link){.memory = memory, .mapped = size, .socket = socket};
  ring_end_init(&self->in, memory, ring_bytes, other);
  ring_end_init(&self->out, memory, ring_bytes, side);
  return 0;
}

void ring_link_close(ring_link *self) {
  if (self->memory != NULL) (void)munmap(self->memory, self->mapped);
  self->memory = NULL;
}

/* A full socket holds bytes that wake just as well. */
static void wake_other(ring_link *self) {
  ssize_t sent;
  do sent = send(self->socket, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
  while (sent < 0 && errno == EINTR);
  if (sent >= 0 || errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS) return;
  atomic_store(&self->is_over, true);
  atomic_store(&self->armed, true); /* who reads shall see why */
}

void ring_link_settle(ring_link *self) {
  char bytes[64];
  ssize_t got = 1;
  if (!atomic_load_explicit(&self->armed, memory_order_relaxed)) return;
  atomic_store(&self->armed, false);
  for (int looks = 0; looks < LOOKS_MAX && (got > 0 || (got < 0 && errno == EINTR)); looks++)
    got = recv(self->socket, bytes, sizeof bytes, MSG_DONTWAIT);
  if (got > 0 || (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))) return;
  ring_stop(&self->in);
  atomic_store(&self->is_over, true);
}

/* Nothing could be read. Returns RING_END, or RING_AGAIN; 0: look once more. */
static int look_around(ring_link *self) {
  if (atomic_load_explicit(&self->in.stopped, memory_order_relaxed)) return RING_END;
  if (ring_is_closed(&self->in)) {
    ring_stop(&self->in);
    return 0;
  }
  if (!atomic_load_explicit(&self->armed, memory_order_relaxed)) return RING_AGAIN;
  ring_awake(&self->in);
  ring_link_settle(self);
  return 0;
}

ptrdiff_t ring_link_read(ring_link *self, void *to, size_t size) {
  size_t total = 0;
  while (total < size) {
    const ptrdiff_t count = ring_read(&self->in, (uint8_t *)to + total, size - total);
    if (ring_room_due(&self->in)) wake_other(self);
    if (count > 0) {
      total += (size_t)count;
      continue;
    }
    if (total > 0) break;
    if (count < 0) return RING_CORRUPT;
    const int state = look_around(self);
    if (state != 0) return state;
  }
  return (ptrdiff_t)total;
}

static void publish(ring_link *self) {
  ring_publish(&self->out);
  if (ring_wake_due(&self->out)) wake_other(self);
}

/* Copies one part, and shows what was copied whenever it is a quarter of the ring. Returns as ring_put(), of the last
 * attempt. */
static ptrdiff_t write_part(ring_link *self, const struct iovec *part, size_t *total, size_t *hidden) {
  ptrdiff_t put = 1;
  for (size_t done = 0; done < part->iov_len && put > 0;) {
    put = ring_put(&self->out, (const uint8_t *)part->iov_base + done, part->iov_len - done);
    if (put <= 0) return put;
    done += (size_t)put;
    *total += (size_t)put;
    *hidden += (size_t)put;
    if (*hidden < self->out.size / 4) continue;
    publish(self);
    *hidden = 0;
  }
  return put;
}

ptrdiff_t ring_link_write(ring_link *self, const struct iovec *parts, int count) {
  size_t total = 0, hidden = 0;
  ptrdiff_t put = 1;
  if (atomic_load_explicit(&self->is_over, memory_order_relaxed)) return RING_END;
  for (int i = 0; i < count && put > 0; i++) put = write_part(self, &parts[i], &total, &hidden);
  if (hidden > 0) publish(self);
  if (total > 0) return (ptrdiff_t)total;
  return put < 0 ? RING_CORRUPT : RING_AGAIN;
}

bool ring_link_arm(ring_link *self, bool to_read, bool to_write) {
  bool ready = false;
  atomic_store(&self->armed, true);
  if (to_read) ready |= ring_sleep(&self->in);
  if (to_write) ready |= ring_await_room(&self->out) || atomic_load(&self->is_over);
  return ready;
}

void ring_link_disarm(ring_link *self) {
  ring_awake(&self->in);
  ring_await_no_room(&self->out);
}

bool ring_link_await(ring_link *self) {
  char bytes[64];
  bool is_interrupted = false;
  if (!ring_link_arm(self, true, false)) {
    const ssize_t got = recv(self->socket, bytes, sizeof bytes, 0);
    is_interrupted = got < 0 && errno == EINTR;
    /* One that comes later wakes once too often. The end stays for ring_link_settle(). */
    if (got > 0) atomic_store(&self->armed, false);
  }
  ring_link_disarm(self);
  return !is_interrupted;
}

void ring_link_finish(ring_link *self) {
  ring_close(&self->out);
  atomic_store(&self->is_over, true);
  wake_other(self);
}

bool ring_link_is_ending(const ring_link *self) {
  return atomic_load(&self->in.stopped) || ring_is_closed(&self->in);
}
