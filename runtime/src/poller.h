/*
 * poller.h - waits for many descriptors. Implemented in platform_linux.c (epoll) and platform_posix.c (poll), and what
 * both share in poller.c.
 *
 * Belongs to one thread. Level-triggered. A descriptor is taken out before it is closed.
 */
#ifndef PYPROC_POLLER_H
#define PYPROC_POLLER_H

#include <stddef.h>
#include <stdint.h>

#define POLLER_IN 1u     /* readable, or at its end */
#define POLLER_OUT 2u    /* writable */
#define POLLER_HANGUP 4u /* hung up or broken: reported whatever was asked for, together with POLLER_IN */

/* What the tags of the supervisor's poller point to: a descriptor that is watched, or may be. The first member of who
 * wants to hear of its events. */
typedef struct poller_watch {
  void (*handle)(struct poller_watch *self, uint32_t events);
  int fd;          /* -1: not watched */
  uint32_t events; /* POLLER_* */
} poller_watch;

typedef struct poller_event {
  void *tag;
  uint32_t events; /* POLLER_* */
} poller_event;

typedef struct poller {
  int fd;             /* epoll */
  struct pollfd *fds; /* poll, with the tags beside it */
  void **tags;
  size_t count, capacity, next;
} poller;

/* All return 0 or more, or -1 with errno. */
int poller_open(poller *self);

/* Watches `fd` for `events` (POLLER_IN, POLLER_OUT; POLLER_HANGUP alone: its end and nothing else), replacing what was asked before; 0 takes it out, which never
   fails for a descriptor that is not in. */
int poller_set(poller *self, int fd, uint32_t events, void *tag);

/* The watch is for that descriptor and these events from now on; 0 events: for none. */
void poller_change(poller *self, poller_watch *watch, int fd, uint32_t events);

/* Waits until something happens, or for `timeout_ns` (0: looks only; negative: no limit), rounded up to milliseconds.
   Returns how many of `events` were written, 0 after the timeout or a signal. */
int poller_wait(poller *self, poller_event *events, int max, int64_t timeout_ns);

/* Takes a zeroed or closed poller. */
void poller_close(poller *self);

#endif
