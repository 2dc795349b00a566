#include "report.h"

#include <jansson.h>
#include <pyproc.h>
#include <stdio.h>
#include <sys/utsname.h>
#include <unistd.h>

typedef struct figures {
  double p50, p99, per_second, fairness;
} figures;

static figures figures_of(const measure *to) {
  measure copy = *to; /* sorting in place is fine: the order is of no interest */
  double rounds = to->rounds > 0 ? to->rounds : 1;
  return (figures){.p50 = samples_quantile_us(&copy.samples, 0.5),
                   .p99 = samples_quantile_us(&copy.samples, 0.99),
                   .per_second = to->seconds > 0 ? to->calls / to->seconds : 0,
                   .fairness = to->fairness / rounds};
}

static void add(json_t *rows, const report_row *row, const char *metric, double value, const char *unit, double limit,
                double goal) {
  json_t *entry = json_pack("{s:s, s:s, s:f, s:s}", "case", row->name, "metric", metric, "value", value, "unit", unit);
  if (row->limit != NULL && limit > 0) {
    json_object_set_new(entry, "limit", json_string(row->limit_name));
    json_object_set_new(entry, "limit_ratio", json_real(value / limit));
  }
  if (goal > 0) {
    json_object_set_new(entry, "goal", json_real(goal));
    json_object_set_new(entry, "met", json_boolean(value <= goal));
  }
  json_array_append_new(rows, entry);
}

static void print_machine(json_t *results) {
  struct utsname system;
  uname(&system);
  long cpus = sysconf(_SC_NPROCESSORS_ONLN);
  printf("pyproc %s, %s %s %s, %ld processors\n\n", pyproc_version(), system.sysname, system.release, system.machine,
         cpus);
  json_object_set_new(results, "machine",
                      json_pack("{s:s, s:s, s:s, s:i}", "system", system.sysname, "release", system.release, "machine",
                                system.machine, "processors", (int)cpus));
  json_object_set_new(results, "versions", json_pack("{s:s}", "pyproc", pyproc_version()));
}

int report(const report_row *rows, int count, const char *path) {
  json_t *results = json_object(), *list = json_array();
  print_machine(results);
  printf("%-36s %10s %10s %12s %9s   %s\n", "", "p50 us", "p99 us", "calls/s", "fairness",
         "p50 as a ratio to its limit");
  for (int i = 0; i < count; i++) {
    if (rows[i].measure->rounds == 0) continue; /* there is nothing to compare with here */
    figures own = figures_of(rows[i].measure), limit = {0};
    if (rows[i].limit != NULL) limit = figures_of(rows[i].limit);
    printf("%-36s %10.2f %10.2f %12.0f %9.2f", rows[i].name, own.p50, own.p99, own.per_second, own.fairness);
    if (limit.p50 > 0) printf("   %.2f x %s", own.p50 / limit.p50, rows[i].limit_name);
    double goal = rows[i].goal_p99_us;
    if (goal > 0) printf("   goal: p99 <= %.0f us, %s", goal, own.p99 <= goal ? "met" : "missed");
    double most = limit.p50 * rows[i].goal_ratio;
    double least = rows[i].goal_ratio > 0 ? limit.per_second / rows[i].goal_ratio : 0;
    if (most > 0)
      printf(", calls/s %.2f x; goal: within %.0f %%, %s", own.per_second / limit.per_second,
             rows[i].goal_ratio * 100 - 100, own.p50 <= most && own.per_second >= least ? "met" : "missed");
    putchar('\n');
    add(list, &rows[i], "p50", own.p50, "us", limit.p50, most);
    add(list, &rows[i], "p99", own.p99, "us", limit.p99, goal);
    add(list, &rows[i], "throughput", own.per_second, "1/s", limit.per_second, 0);
    add(list, &rows[i], "fairness", own.fairness, "ratio", 0, 0);
  }
  json_object_set_new(results, "rows", list);
  int result = json_dump_file(results, path, JSON_INDENT(1));
  json_decref(results);
  if (result == 0) printf("\nwritten to %s\n", path);
  return result;
}
