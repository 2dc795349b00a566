#include "lot.h"

#include <limits.h>

/*
 * Why no wake is lost. A sleeper adds itself to `sleepers`, reads the generation, then looks at `ready`. A waker
 * stores what the sleeper waits for, then looks at `sleepers` by a read-modify-write. One of the two comes first in
 * the order of that word: either the sleeper, then the waker counts it and changes the generation before it wakes,
 * so that the sleep ends or never begins; or the waker, then the sleeper's addition synchronises with it and `ready`
 * sees the store.
 */

void lot_init(struct lot *self) {
  platform_futex_init(&self->generation);
  atomic_init(&self->sleepers, 0);
  atomic_init(&self->next_bit, 0);
}

void lot_destroy(struct lot *self) {
  platform_futex_destroy(&self->generation);
}

void lot_waiter_init(struct lot *self, lot_waiter *waiter) {
  atomic_init(&waiter->asleep, 0);
  /* Two that come at the same time may get the same bit, as every 32nd does. */
  uint32_t next = atomic_load_explicit(&self->next_bit, memory_order_relaxed);
  atomic_store_explicit(&self->next_bit, next + 1, memory_order_relaxed);
  waiter->bit = UINT32_C(1) << (next % 32);
}

bool lot_sleep(struct lot *self, lot_waiter *waiter, bool (*ready)(void *argument), void *argument,
               int64_t deadline_ns) {
  bool in_time = true;
  atomic_exchange(&waiter->asleep, 1);
  atomic_fetch_add(&self->sleepers, 1);
  uint32_t generation = atomic_load(&self->generation.word);
  if (!ready(argument)) in_time = platform_futex_wait(&self->generation, generation, waiter->bit, deadline_ns);
  atomic_fetch_sub(&self->sleepers, 1);
  atomic_store(&waiter->asleep, 0);
  return in_time;
}

uint32_t lot_waiter_bits(lot_waiter *waiter) {
  /* a read-modify-write for the reason above */
  return atomic_fetch_or(&waiter->asleep, 0) != 0 ? waiter->bit : 0;
}

void lot_wake(struct lot *self, uint32_t bits) {
  if (bits == 0 || atomic_fetch_add(&self->sleepers, 0) == 0) return;
  atomic_fetch_add(&self->generation.word, 1);
  platform_futex_wake(&self->generation, INT_MAX, bits);
}
