#include "report.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "goals.h"
#include "machine.h"

enum { NAME_WIDTH = 58 };

static json_t *machine, *versions; /* as they were before the cases ran */

static void print_object(const char *title, const json_t *object) {
  const char *key, *separator = "";
  const json_t *value;
  printf("%s: ", title);
  json_object_foreach((json_t *)object, key, value) {
    if (json_is_string(value))
      printf("%s%s %s", separator, key, json_string_value(value));
    else
      printf("%s%s %.3g", separator, key, json_number_value(value));
    separator = ", ";
  }
  putchar('\n');
}

void report_machine(void) {
  machine = machine_describe();
  versions = machine_versions();
  print_object("machine", machine);
  print_object("versions", versions);
  putchar('\n');
}

/* ---- as a table ---- */

static void print_value(double value, int width) {
  if (isnan(value))
    printf(" %*s", width, "");
  else if (value >= 1000 || value == 0)
    printf(" %*.0f", width, value);
  else if (value >= 100)
    printf(" %*.1f", width, value);
  else
    printf(" %*.*f", width, value < 1 ? 3 : 2, value);
}

/* In terms of another case's; of calls it is the p50, or the rate where one of the two has no p50. */
static void print_ratio(results *in, const result *own, const char *other, metric which) {
  double ratio = results_ratio(in, own, other, which);
  if (isnan(ratio) && which == METRIC_P50) ratio = results_ratio(in, own, other, which = METRIC_RATE);
  if (isnan(ratio)) {
    printf(" %9s", "");
    return;
  }
  char text[32];
  snprintf(text, sizeof text, ratio < 0.1 ? "%.4f%s" : "%.2f%s", ratio, which == METRIC_RATE ? "r" : "");
  printf(" %9s", text);
}

static void print_calls(results *in, const result *one) {
  static const metric columns[] = {METRIC_P50,        METRIC_P95,      METRIC_P99,      METRIC_P999, METRIC_RATE,
                                   METRIC_BYTES_RATE, METRIC_FAIRNESS, METRIC_HOST_CPU, METRIC_CPU,  METRIC_SLEEPS};
  static const int widths[] = {8, 8, 8, 9, 9, 8, 6, 8, 8, 7};
  printf("%-*s", NAME_WIDTH, one->of->name);
  for (size_t i = 0; i < sizeof columns / sizeof *columns; i++) print_value(one->median.of[columns[i]], widths[i]);
  print_ratio(in, one, one->of->limit, METRIC_P50);
  print_ratio(in, one, one->of->peer, METRIC_P50);
  putchar('\n');
}

static void print_other(results *in, const result *one, metric which) {
  char what[32];
  snprintf(what, sizeof what, "%s (%s)", metric_unit(which), metric_name(which));
  printf("%-*s %8.3f %-82s", NAME_WIDTH, one->of->name, one->median.of[which], what);
  print_ratio(in, one, one->of->limit, which);
  print_ratio(in, one, one->of->peer, which);
  putchar('\n');
}

static void print_figures(results *of) {
  printf("%-*s %8s %8s %8s %9s %9s %8s %6s %8s %8s %7s %9s %9s\n", NAME_WIDTH, "us, but where it says otherwise", "p50",
         "p95", "p99", "p99.9", "calls/s", "MiB/s", "fair", "host CPU", "all CPU", "wakes", "x limit", "x peer");
  for (int i = 0; i < of->count; i++) {
    const result *one = &of->all[i];
    if (!one->wanted || (one->rounds == 0 && one->skipped == NULL)) continue;
    if (one->skipped != NULL)
      printf("%-*s skipped: %s\n", NAME_WIDTH, one->of->name, one->skipped);
    else if (!isnan(one->median.of[METRIC_P50]) || !isnan(one->median.of[METRIC_RATE]))
      print_calls(of, one);
    for (metric which = METRIC_SYSCALLS; which < METRICS && one->skipped == NULL; which++)
      if (!isnan(one->median.of[which])) print_other(of, one, which);
  }
  puts("\nMedians over the rounds. fair: calls of the slowest thread / those of the fastest. host CPU, all CPU: us of "
       "one\n"
       "processor for each call, of the calling process and of all. wakes: sleeps and wake-ups for each call, of all.\n"
       "x limit, x peer: p50 as a multiple of theirs, the median of the rounds' ratios; with an r: calls/s.");
}

static void print_goal(results *of, const goal *one) {
  goal_state state = goal_look(one, of);
  const char *unit = metric_unit(one->metric);
  printf("%-44s", one->text);
  if (!isnan(state.value)) {
    print_value(state.value, 9);
    printf(" %-5s", unit);
  } else {
    printf(" %9s %-5s", "-", "");
  }
  char wanted[80];
  const char *sign = one->at_least ? ">=" : "<=";
  if (one->against_text == NULL)
    snprintf(wanted, sizeof wanted, "%s %g %s", sign, one->factor, unit);
  else if (one->factor < 0.1 || (one->factor < 0.2 && one->peer))
    snprintf(wanted, sizeof wanted, "%s 1/%.0f x %s", sign, 1 / one->factor, one->against_text);
  else
    snprintf(wanted, sizeof wanted, "%s %g x %s", sign, one->factor, one->against_text);
  printf("  %-38s", wanted);
  if (state.skipped != NULL) {
    printf(" skipped: %s\n", state.skipped);
    return;
  }
  print_value(state.threshold, 9);
  if (one->against_text == NULL)
    printf(" %10s", "");
  else
    printf("  is %7.3g", state.ratio);
  printf("  %s\n", state.met ? "met" : state.limit_met ? "MISSED" : "MISSED, as its limit does");
}

static bool goal_wanted(results *of, const goal *one) {
  return results_find(of, one->name)->wanted;
}

static void print_goals(results *of) {
  int met = 0, missed = 0, beyond = 0;
  printf("\n%-44s %9s %-5s  %-38s %9s\n", "goals", "figure", "", "to reach", "that is");
  for (int i = 0; i < goal_count; i++) {
    if (!goal_wanted(of, &goals[i])) continue;
    print_goal(of, &goals[i]);
    goal_state state = goal_look(&goals[i], of);
    if (state.skipped != NULL) continue;
    *(state.met ? &met : &missed) += 1;
    if (!state.met && !state.limit_met) beyond++;
  }
  printf("%d met, %d missed", met, missed);
  if (beyond > 0) printf(", %d of these by what bounds them (x limit), too", beyond);
  putchar('\n');
}

void report_print(results *of) {
  print_figures(of);
  print_goals(of);
}

/* ---- as JSON ---- */

static json_t *number(double value) {
  return isfinite(value) ? json_real(value) : json_null();
}

static json_t *text(const char *value) {
  return value != NULL ? json_string(value) : json_null();
}

/* All members but those of the comparison, which are null. */
static json_t *make_row(const char *name, metric which, double value) {
  return json_pack("{s:s, s:s, s:o, s:s, s:n, s:n, s:n, s:n, s:n, s:n}", "case", name, "metric", metric_name(which),
                   "value", number(value), "unit", metric_unit(which), "peer", "peer_ratio", "limit", "limit_ratio",
                   "goal", "met");
}

static void compare(json_t *row, bool peer, const char *name, double ratio) {
  if (name == NULL || !isfinite(ratio)) return;
  json_object_set_new(row, peer ? "peer" : "limit", text(name));
  json_object_set_new(row, peer ? "peer_ratio" : "limit_ratio", number(ratio));
}

static void add_figures(json_t *rows, results *of, const result *one) {
  for (metric which = 0; which < METRICS; which++) {
    double value = one->median.of[which];
    if (isnan(value)) continue;
    json_t *row = make_row(one->of->name, which, value);
    compare(row, false, one->of->limit, results_ratio(of, one, one->of->limit, which));
    compare(row, true, one->of->peer, results_ratio(of, one, one->of->peer, which));
    json_array_append_new(rows, row);
  }
}

/* `goal` is in the unit of `value`. */
static void add_goal(json_t *rows, results *of, const goal *one) {
  goal_state state = goal_look(one, of);
  json_t *row = make_row(one->name, one->metric, state.value);
  if (state.skipped == NULL) {
    compare(row, one->peer, one->against_text, state.ratio);
    json_object_set_new(row, "goal", number(state.threshold));
    json_object_set_new(row, "met", json_boolean(state.met));
  }
  json_array_append_new(rows, row);
}

int report_write(results *of, const char *path) {
  json_t *rows = json_array();
  for (int i = 0; i < goal_count; i++)
    if (goal_wanted(of, &goals[i])) add_goal(rows, of, &goals[i]);
  for (int i = 0; i < of->count; i++)
    if (of->all[i].rounds > 0) add_figures(rows, of, &of->all[i]);
  json_t *all = json_pack("{s:o, s:o, s:o}", "machine", machine, "versions", versions, "rows", rows);
  int written = json_dump_file(all, path, JSON_INDENT(1));
  json_decref(all);
  if (written == 0) printf("\nwritten to %s\n", path);
  return written;
}
