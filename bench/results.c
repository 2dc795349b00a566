#include "results.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "goals.h"

static const case_table *const tables[] = {&limit_cases,   &turn_cases,   &unary_cases,   &submit_cases,
                                           &payload_cases, &stream_cases, &handler_cases, &deadline_cases,
                                           &syscall_cases, &peer_cases,   &life_cases};

result *results_find(results *self, const char *name) {
  for (int i = 0; name != NULL && i < self->count; i++)
    if (strcmp(self->all[i].of->name, name) == 0) return &self->all[i];
  return NULL;
}

double results_value(results *self, const char *name, metric which) {
  result *found = results_find(self, name);
  return found == NULL || found->rounds == 0 ? NAN : found->median.of[which];
}

double results_round(const result *self, int round, metric which) {
  return round < self->rounds ? self->round[round].of[which] : NAN;
}

double results_divided(const result *self, metric which, const double by[ROUNDS_MAX]) {
  double ratios[ROUNDS_MAX];
  int count = 0;
  for (int i = 0; i < self->rounds; i++) {
    double ratio = self->round[i].of[which] / by[i];
    if (!isnan(ratio)) ratios[count++] = ratio;
  }
  return median(ratios, count);
}

double results_ratio(results *self, const result *own, const char *other, metric which) {
  const result *found = results_find(self, other);
  double by[ROUNDS_MAX];
  for (int i = 0; i < ROUNDS_MAX; i++) by[i] = found != NULL ? results_round(found, i, which) : NAN;
  return results_divided(own, which, by);
}

static bool contains(const char *name, const char *text, size_t size) {
  if (size > 0 && *text == '=') return strlen(name) == size - 1 && strncmp(name, text + 1, size - 1) == 0;
  for (; strlen(name) >= size; name++)
    if (strncasecmp(name, text, size) == 0) return true;
  return false;
}

static bool matches(const char *name, const char *patterns) {
  for (const char *at = patterns; at != NULL;) {
    const char *bar = strchr(at, '|');
    size_t size = bar != NULL ? (size_t)(bar - at) : strlen(at);
    if (size > 0 && contains(name, at, size)) return true;
    at = bar != NULL ? bar + 1 : NULL;
  }
  return patterns == NULL;
}

static bool of_others(const result *self) {
  return self->of >= peer_cases.cases && self->of < peer_cases.cases + peer_cases.count;
}

static void want(results *self, const char *name, const selection *asked) {
  result *found = results_find(self, name);
  if (found != NULL && !(asked->no_peers && of_others(found))) found->wanted = true;
}

static void want_compared(results *self, const bench_case *of, const selection *asked) {
  want(self, of->limit, asked);
  want(self, of->peer, asked);
  for (int i = 0; i < goal_count; i++)
    if (strcmp(goals[i].name, of->name) == 0)
      for (int j = 0; j < GOAL_TERMS; j++) want(self, goals[i].against[j], asked);
}

/* A name that is spelt wrongly somewhere would silently compare with nothing. */
static void check_names(results *self) {
  for (int i = 0; i < self->count; i++)
    if ((self->all[i].of->limit != NULL && results_find(self, self->all[i].of->limit) == NULL) ||
        (self->all[i].of->peer != NULL && results_find(self, self->all[i].of->peer) == NULL))
      bench_die(self->all[i].of->name, NULL);
  for (int i = 0; i < goal_count; i++)
    for (int j = -1; j < GOAL_TERMS; j++) {
      const char *name = j < 0 ? goals[i].name : goals[i].against[j];
      if (name != NULL && results_find(self, name) == NULL) bench_die(name, NULL);
    }
}

static void add_to_order(results *self, const char *name, bool with_others, int *count) {
  result *found = results_find(self, name);
  if (found == NULL || found->in_goal || (of_others(found) && !with_others)) return;
  found->in_goal = true;
  self->order[(*count)++] = found;
}

/* Programs of others, and what calls their servers, mostly sleep: they come after those that need processors that are
 * awake. */
static void set_order(results *self) {
  int count = 0;
  for (int with_others = false; with_others <= true; with_others++)
    for (int i = 0; i < goal_count; i++) {
      add_to_order(self, goals[i].name, with_others, &count);
      for (int j = 0; j < GOAL_TERMS; j++) add_to_order(self, goals[i].against[j], with_others, &count);
    }
  for (int i = 0; i < self->count; i++)
    if (!self->all[i].in_goal) self->order[count++] = &self->all[i];
}

void results_init(results *self, const selection *asked) {
  self->count = 0;
  for (size_t i = 0; i < sizeof tables / sizeof *tables; i++)
    for (int j = 0; j < tables[i]->count; j++) {
      if (self->count == RESULTS_MAX) bench_die("too many cases", NULL);
      self->all[self->count++] = (result){.of = &tables[i]->cases[j]};
    }
  check_names(self);
  set_order(self);
  bool direct[RESULTS_MAX];
  for (int i = 0; i < self->count; i++) {
    result *one = &self->all[i];
    direct[i] =
        matches(one->of->name, asked->only) && !(asked->no_peers && of_others(one)) && (asked->full || !one->of->full);
    if (direct[i]) one->wanted = true;
  }
  for (int i = 0; i < self->count; i++)
    if (direct[i]) want_compared(self, self->all[i].of, asked);
}
