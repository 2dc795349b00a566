/*
 * pinger.h - answers the pings of a host on a socket that carries no calls, as the one that a gRPC worker inherits.
 */
#ifndef PYPROC_WORKER_PINGER_H
#define PYPROC_WORKER_PINGER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "frame.h"

enum { PINGER_BODY_MAX = 64 };

struct pinger {
  int fd; /* -1: none */
  uint8_t frame[WIRE_LENGTH_SIZE + WIRE_HEADER_SIZE + PINGER_BODY_MAX];
  size_t used;   /* bytes of a frame that has begun */
  uint64_t skip; /* bytes to come of one that is of no interest */
};

/* Reads and answers what is there, without waiting. False: the host has hung up, or what it sends are no frames. */
bool pinger_serve(struct pinger *self);

void pinger_close(struct pinger *self);

#endif
