/*
 * lot.h - the parking lot where calling threads sleep; each pool has one.
 *
 * All sleepers wait on one generation word, each with one of 32 bits, so that whoever has dispatched a batch of
 * replies wakes their callers by one system call, and by none when nobody sleeps.
 */
#ifndef PYPROC_LOT_H
#define PYPROC_LOT_H

#include "platform.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct lot {
  platform_futex generation;
  _Atomic uint32_t sleepers; /* on their way to sleep, asleep, or woken and not yet gone on */
  _Atomic uint32_t next_bit;
};

/* One caller's place. Lives as long as its owner sleeps or others may look at it. */
typedef struct lot_waiter {
  _Atomic uint32_t asleep; /* 1 from before the last look at `ready` until it goes on */
  uint32_t bit;
} lot_waiter;

void lot_init(struct lot *self);
void lot_destroy(struct lot *self); /* nobody sleeps in it any more */

/* Spreads waiters over the 32 bits. */
void lot_waiter_init(struct lot *self, lot_waiter *waiter);

/*
 * Sleeps until woken, or until `deadline_ns` (CLOCK_MONOTONIC; INT64_MAX: none). `ready(argument)` is looked at once
 * more after the waiter has marked itself asleep, so that no wake is lost; it must not block. May return for no
 * reason: look again. Returns false when the deadline has passed.
 */
bool lot_sleep(struct lot *self, lot_waiter *waiter, bool (*ready)(void *argument), void *argument,
               int64_t deadline_ns);

/* For a batch: the waiter's bit when it is, or is about to be, asleep, else 0. Look after what it waits for has been
   stored and may be seen by its `ready`. The waiter may be gone once that is so: hold what keeps it alive. */
uint32_t lot_waiter_bits(lot_waiter *waiter);

/* Wakes all that sleep with one of `bits`. Call it after what they wait for has been stored. */
void lot_wake(struct lot *self, uint32_t bits);

#endif
