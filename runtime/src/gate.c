#include "gate.h"

#include <limits.h>

#define SHUT (UINT64_C(1) << 63)
#define CLOSING (UINT64_C(1) << 62)
#define COUNT (CLOSING - 1)

void gate_init(gate *self) {
  atomic_init(&self->word, 0);
  pthread_mutex_init(&self->lock, NULL);
  platform_futex_init(&self->emptied);
}

void gate_destroy(gate *self) {
  platform_futex_destroy(&self->emptied);
  pthread_mutex_destroy(&self->lock);
}

bool gate_enter(gate *self) {
  if ((atomic_fetch_add(&self->word, 1) & SHUT) == 0) return true;
  gate_leave(self);
  return false;
}

/* One step takes the count down and makes sure that nobody waits for that; otherwise it happens under the lock, which
 * the closing thread takes before it believes the count. */
void gate_leave(gate *self) {
  uint64_t word = atomic_load_explicit(&self->word, memory_order_relaxed);
  while ((word & CLOSING) == 0)
    if (atomic_compare_exchange_weak(&self->word, &word, word - 1)) return;
  pthread_mutex_lock(&self->lock);
  if ((atomic_fetch_sub(&self->word, 1) & COUNT) == 1) {
    atomic_fetch_add(&self->emptied.word, 1);
    platform_futex_wake(&self->emptied, INT_MAX, UINT32_MAX);
  }
  pthread_mutex_unlock(&self->lock);
}

void gate_close(gate *self) {
  atomic_fetch_or(&self->word, CLOSING);
}

bool gate_is_closing(const gate *self) {
  return (atomic_load(&self->word) & CLOSING) != 0;
}

bool gate_wait(gate *self, int64_t deadline_ns) {
  for (bool in_time = true;;) {
    pthread_mutex_lock(&self->lock);
    uint32_t generation = atomic_load(&self->emptied.word);
    bool is_empty = (atomic_load(&self->word) & COUNT) == 0;
    pthread_mutex_unlock(&self->lock);
    if (is_empty || !in_time) return is_empty;
    in_time = platform_futex_wait(&self->emptied, generation, UINT32_MAX, deadline_ns);
  }
}

void gate_shut(gate *self) {
  uint64_t empty;
  do {
    gate_wait(self, PLATFORM_NO_DEADLINE);
    empty = CLOSING;
  } while (!atomic_compare_exchange_strong(&self->word, &empty, CLOSING | SHUT));
}
