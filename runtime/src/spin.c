#include "spin.h"

#include "platform.h"

enum { PURE_SPIN_NS = 4000, AVERAGE_SHIFT = 3, PROBE_EVERY = 32 };

void spin_init(spin_gauge *self, int64_t limit_ns) {
  self->limit_ns = limit_ns > 0 && platform_cpu_count() > 1 ? limit_ns : 0;
  atomic_init(&self->probes, 0);
  spin_reset(self);
}

void spin_reset(spin_gauge *self) {
  atomic_store(&self->waited_ns, 0);
}

bool spin_pays(spin_gauge *self) {
  if (self->limit_ns == 0) return false;
  if (atomic_load_explicit(&self->waited_ns, memory_order_relaxed) < self->limit_ns) return true;
  return atomic_fetch_add_explicit(&self->probes, 1, memory_order_relaxed) % PROBE_EVERY == 0;
}

void spin_learn(spin_gauge *self, int64_t waited_ns) {
  int64_t average = atomic_load_explicit(&self->waited_ns, memory_order_relaxed);
  atomic_store_explicit(&self->waited_ns, average + ((waited_ns - average) >> AVERAGE_SHIFT), memory_order_relaxed);
}

void spin_paid(spin_gauge *self) {
  /* Most of the time nothing is to be learnt from it, and nothing is written. */
  if (atomic_load_explicit(&self->waited_ns, memory_order_relaxed) > self->limit_ns / 2) spin_learn(self, 0);
}

bool spin_pause(int64_t spent_ns, bool shared) {
  bool is_short = spent_ns < PURE_SPIN_NS && !shared;
  if (is_short)
    platform_cpu_relax();
  else
    platform_yield();
  return is_short;
}
