#include "health.h"

enum { NS_PER_MS = 1000000 };

void health_begin(health *self, int64_t interval_ms, int64_t timeout_ms, uint64_t chance, int64_t now_ns) {
  *self = (health){.interval_ns = interval_ms * NS_PER_MS,
                   .timeout_ns = timeout_ms * NS_PER_MS,
                   .ping = self->ping,
                   .due_ns = INT64_MAX};
  if (interval_ms <= 0) return;
  self->due_ns = now_ns + self->interval_ns / 2 + (int64_t)(chance % (uint64_t)(self->interval_ns / 2 + 1));
}

/* Whatever was asked for is waited for from now on. */
static void wait_from(health *self, const health_facts *facts, int64_t now_ns) {
  self->seen = *facts;
  self->due_ns = now_ns + self->timeout_ns;
}

static bool is_stuck(const health_facts *facts) {
  return facts->has_page && facts->waits && !facts->runs;
}

health_verdict health_look(health *self, const health_facts *facts, int64_t now_ns) {
  if (now_ns < self->due_ns) return HEALTH_FINE;
  if (!self->is_asked) {
    self->is_asked = true;
    self->ping++;
    wait_from(self, facts, now_ns);
    return HEALTH_ASK;
  }
  if (now_ns - self->due_ns > self->timeout_ns / 2) {
    wait_from(self, facts, now_ns);
    return HEALTH_FINE;
  }
  if (facts->answers_pings && facts->pong != self->ping) {
    if (!facts->has_page || facts->beats == self->seen.beats) return HEALTH_SILENT;
    wait_from(self, facts, now_ns);
    return HEALTH_FINE;
  }
  if (is_stuck(&self->seen) && is_stuck(facts) && facts->turns == self->seen.turns &&
      facts->replies == self->seen.replies)
    return HEALTH_STILL;
  self->is_asked = false;
  self->due_ns =
      now_ns + (self->interval_ns > self->timeout_ns ? self->interval_ns - self->timeout_ns : self->interval_ns);
  return HEALTH_FINE;
}
