#include "figures.h"

#include <math.h>
#include <stdlib.h>

static const struct {
  const char *name, *unit;
} texts[METRICS] = {
    [METRIC_P50] = {"p50", "us"},
    [METRIC_P95] = {"p95", "us"},
    [METRIC_P99] = {"p99", "us"},
    [METRIC_P999] = {"p99.9", "us"},
    [METRIC_RATE] = {"throughput", "1/s"},
    [METRIC_BYTES_RATE] = {"bandwidth", "MiB/s"},
    [METRIC_FAIRNESS] = {"fairness", "ratio"},
    [METRIC_HOST_CPU] = {"host CPU per call", "us"},
    [METRIC_CPU] = {"CPU per call", "us"},
    [METRIC_SLEEPS] = {"wake-ups per call", "count"},
    [METRIC_SYSCALLS] = {"syscalls per call", "count"},
    [METRIC_TIME] = {"time", "ms"},
    [METRIC_IDLE_CPU] = {"idle CPU", "%"},
    [METRIC_MEMORY] = {"memory per worker", "MiB"},
};

const char *metric_name(metric which) {
  return texts[which].name;
}

const char *metric_unit(metric which) {
  return texts[which].unit;
}

void figures_clear(figures *self) {
  for (int i = 0; i < METRICS; i++) self->of[i] = NAN;
}

void figures_set_times(figures *self, samples *times) {
  if (times->count == 0) return;
  samples_sort(times);
  self->of[METRIC_P50] = samples_quantile_us(times, 0.5);
  self->of[METRIC_P95] = samples_quantile_us(times, 0.95);
  self->of[METRIC_P99] = samples_quantile_us(times, 0.99);
  self->of[METRIC_P999] = samples_quantile_us(times, 0.999);
}

void figures_set_bytes(figures *self, size_t bytes) {
  self->of[METRIC_BYTES_RATE] = self->of[METRIC_RATE] * (double)bytes / (1 << 20);
}

static int compare(const void *a, const void *b) {
  double left = *(const double *)a, right = *(const double *)b;
  return (left > right) - (left < right);
}

double median(double *values, int count) {
  if (count == 0) return NAN;
  qsort(values, (size_t)count, sizeof *values, compare);
  return count % 2 == 1 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

figures figures_median(const figures *rounds, int count) {
  figures result;
  for (int i = 0; i < METRICS; i++) {
    double values[ROUNDS_MAX];
    int found = 0;
    for (int j = 0; j < count; j++)
      if (!isnan(rounds[j].of[i])) values[found++] = rounds[j].of[i];
    result.of[i] = median(values, found);
  }
  return result;
}
