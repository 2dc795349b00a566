/*
 * wake.h - a pipe that ends another thread's poll().
 *
 * A pipe and not an eventfd, because Python's signal.set_wakeup_fd() writes single bytes. Any thread and any signal
 * handler may signal, with a byte 0; one thread waits and drains.
 */
#ifndef PYPROC_WORKER_WAKE_H
#define PYPROC_WORKER_WAKE_H

#include <stdint.h>

typedef struct wake {
  int read_fd, write_fd; /* -1 while closed; both non-blocking and close-on-exec */
} wake;

#define WAKE_INIT \
  { -1, -1 }

/* Returns 0, or -1 with errno set. */
int wake_open(wake *self);
void wake_close(wake *self);
void wake_signal(const wake *self);
void wake_drain(const wake *self);

/* Drains. Returns which bytes came, as a set of bits, of those that are less than 64: the numbers of signals. */
uint64_t wake_take(const wake *self);

#endif
