#include "breaker.h"

#include "platform.h"

enum { FIRST_MS = 100, LAST_MS = 30000, DOUBLINGS_MAX = 9 };

static int64_t jitter(int64_t ms) {
  return ms / 2 + (int64_t)(platform_random64() % (uint64_t)ms) / 2;
}

int64_t backoff_next(backoff *self, const backoff_policy *policy, int64_t now_ns, bool *ret_rests) {
  int doublings = self->in_a_row < DOUBLINGS_MAX ? self->in_a_row : DOUBLINGS_MAX;
  int64_t wait_ms = (int64_t)FIRST_MS << doublings;
  if (wait_ms > LAST_MS) wait_ms = LAST_MS;
  if (self->in_window == 0 || now_ns - self->window_ns >= policy->window_ms * 1000000) {
    self->in_window = 0;
    self->window_ns = now_ns;
  }
  self->in_a_row++;
  self->in_window++;
  *ret_rests = policy->max > 0 && self->in_window > policy->max;
  if (!*ret_rests) return jitter(wait_ms);
  self->in_window = 0;
  return policy->window_ms;
}

void backoff_reset(backoff *self) {
  *self = (backoff){0};
}

static bool move(breaker *self, breaker_state state) {
  bool is_new = self->state != state;
  self->state = state;
  return is_new;
}

bool breaker_failed(breaker *self, int64_t now_ns) {
  self->in_a_row++;
  if (self->failures == 0 || (self->state == BREAKER_CLOSED && self->in_a_row < self->failures)) return false;
  self->due_ns = now_ns + self->cooldown_ms * 1000000;
  return move(self, BREAKER_OPEN);
}

bool breaker_answered(breaker *self) {
  self->in_a_row = 0;
  return move(self, BREAKER_CLOSED);
}

bool breaker_wait(breaker *self, int64_t now_ns) {
  return self->state == BREAKER_OPEN && now_ns >= self->due_ns && move(self, BREAKER_HALF_OPEN);
}
