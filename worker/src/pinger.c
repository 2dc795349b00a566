#define _GNU_SOURCE
#include "pinger.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0
#endif

enum { HEAD = WIRE_LENGTH_SIZE + WIRE_HEADER_SIZE };

/* Looks at the head of a frame. False: it is none. */
static bool take_head(struct pinger *self) {
  const uint32_t size = wire_get32(self->frame);
  if (size < WIRE_HEADER_SIZE || size > WIRE_FRAME_LIMIT_MAX) return false;
  if (self->frame[WIRE_LENGTH_SIZE] == WIRE_PING && size <= WIRE_HEADER_SIZE + PINGER_BODY_MAX) return true;
  self->skip = size - WIRE_HEADER_SIZE;
  self->used = 0;
  return true;
}

static void answer(struct pinger *self) {
  self->frame[WIRE_LENGTH_SIZE] = WIRE_PONG;
  (void)send(self->fd, self->frame, self->used, MSG_DONTWAIT | MSG_NOSIGNAL); /* a host that reads has room */
  self->used = 0;
}

static size_t wanted_size(const struct pinger *self) {
  return self->used < HEAD ? HEAD : WIRE_LENGTH_SIZE + wire_get32(self->frame);
}

bool pinger_serve(struct pinger *self) {
  for (;;) {
    uint8_t dropped[1024];
    const size_t skip = self->skip < sizeof dropped ? (size_t)self->skip : sizeof dropped;
    uint8_t *const to = skip > 0 ? dropped : self->frame + self->used;
    const ssize_t got = recv(self->fd, to, skip > 0 ? skip : wanted_size(self) - self->used, MSG_DONTWAIT);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
    if (skip > 0) {
      self->skip -= (size_t)got;
      continue;
    }
    self->used += (size_t)got;
    if (self->used == HEAD && !take_head(self)) return false;
    if (self->used >= HEAD && self->used == wanted_size(self)) answer(self);
  }
}

void pinger_close(struct pinger *self) {
  if (self->fd >= 0) (void)close(self->fd);
  self->fd = -1;
}
