/*
 * gate.h - counts who is inside something that is going to be closed.
 *
 * Who has left touches nothing of it any more, so that the closing thread may free what the gate guards. The gate
 * itself lives until gate_destroy: who comes too late is told so.
 */
#ifndef PYPROC_GATE_H
#define PYPROC_GATE_H

#include "platform.h"

typedef struct gate {
  _Atomic uint64_t word; /* how many are inside, and two flags */
  pthread_mutex_t lock;  /* leaving while it is being closed */
  platform_futex emptied;
} gate;

void gate_init(gate *self);
void gate_destroy(gate *self);

/* False: it is shut, nobody went in. Any thread. */
bool gate_enter(gate *self);
void gate_leave(gate *self);

/* It is going to be closed; everybody may still enter. */
void gate_close(gate *self);
bool gate_is_closing(const gate *self);

/* After gate_close: waits until nobody is inside, or until `deadline_ns` (CLOCK_MONOTONIC).
 * Returns whether nobody is. */
bool gate_wait(gate *self, int64_t deadline_ns);

/* After gate_close: waits until nobody is inside, and lets nobody in from then on. */
void gate_shut(gate *self);

#endif
