#include "trial.h"

enum {
  SETTLE_NS = 1000000, /* from a change of ways until only the new one shows */
  STALE_NS = 50000000, /* a period that took so long was idle */
  PAUSE_MIN = 20,
  PAUSE_MAX = 160,
  AVERAGE_OVER = 4 /* periods */
};

void trial_init(trial *self) {
  *self = (trial){.since_answers = -1, .pause = PAUSE_MIN};
}

static void begin_period(trial *self, bool way, int64_t now_ns) {
  self->since_ns = way != self->way ? now_ns + SETTLE_NS : now_ns;
  self->since_answers = -1;
  self->way = way;
}

/* What is known of a way; the second one has to be better by a seventh. */
static int64_t worth(const trial *self, bool way) {
  return way ? self->rates[1] - self->rates[1] / 8 : self->rates[0];
}

/* The end of a period that showed what the other way is worth. Returns whether to keep to it. */
static bool judge(trial *self, int64_t rate) {
  self->rates[self->way] = rate;
  const bool is_better = worth(self, self->way) > worth(self, !self->way);
  self->pause = is_better ? PAUSE_MIN : self->pause < PAUSE_MAX ? 2 * self->pause : PAUSE_MAX;
  self->left = self->pause;
  return is_better;
}

/* The end of any other. Returns whether it is time to try. */
static bool learn(trial *self, int64_t rate) {
  int64_t *average = &self->rates[self->way];
  *average = *average == 0 ? rate : *average + (rate - *average) / AVERAGE_OVER;
  return --self->left <= 0 || worth(self, self->way) < worth(self, !self->way);
}

void trial_tell(trial *self, int64_t answers, int64_t now_ns) {
  const int64_t took_ns = now_ns - self->since_ns;
  if (took_ns > STALE_NS) begin_period(self, self->way, now_ns);
  if (self->since_answers < 0) {
    self->since_ns = now_ns;
    self->since_answers = answers;
    return;
  }
  const int64_t rate = (answers - self->since_answers) * 1000000000 / took_ns;
  const bool changes = self->is_trying ? !judge(self, rate) : learn(self, rate);
  self->is_trying = changes && !self->is_trying;
  begin_period(self, changes != self->way, now_ns);
}
