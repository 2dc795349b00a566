#include "run.h"

enum { INTERRUPTS_MAX = 4 };
static const uint64_t deadline_slack_ns = 20 * 1000000; /* the host's own word for it shall come first */

void run_cancel(struct run *self, unsigned code, const char *reason, size_t size, const wake *events) {
  if (self->cancelled_ns != 0) return;
  context_cancel(self->context, code, reason, size, events);
  self->cancelled_ns = clock_ns();
}

static uint64_t first_interrupt_ns(const struct run *self, uint64_t grace_ns) {
  return self->cancelled_ns + (atomic_load(&self->context->asked) ? grace_ns : 0);
}

uint64_t run_interrupt_ns(const struct run *self, uint64_t grace_ns) {
  if (self->cancelled_ns == 0 || !self->started || self->raised >= INTERRUPTS_MAX) return (uint64_t)RUN_NEVER_NS;
  return first_interrupt_ns(self, grace_ns) + self->raised * (grace_ns / INTERRUPTS_MAX);
}

uint64_t run_kill_ns(const struct run *self, uint64_t grace_ns) {
  return self->cancelled_ns == 0 || !self->started ? (uint64_t)RUN_NEVER_NS
                                                   : first_interrupt_ns(self, grace_ns) + grace_ns;
}

uint64_t run_deadline_ns(const struct run *self) {
  const uint64_t deadline_ns = self->context->deadline_ns;
  return deadline_ns == 0 || self->cancelled_ns != 0 ? (uint64_t)RUN_NEVER_NS : deadline_ns + deadline_slack_ns;
}

bool run_take_interrupt(struct run *self, uint64_t grace_ns) {
  if (!atomic_load(&self->armed) || atomic_load(&self->context->making_event)) return false;
  if (clock_ns() < run_interrupt_ns(self, grace_ns)) return false;
  self->raised++;
  return true;
}
