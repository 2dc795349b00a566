/* meter.h - what a case costs beside time: CPU and wake-ups, of the calling process and of those that serve it. */
#ifndef BENCH_METER_H
#define BENCH_METER_H

#include "figures.h"
#include <sys/types.h>

typedef struct meter_state {
  double host_cpu_us, servers_cpu_us, sleeps;
} meter_state;

typedef struct meter {
  const pid_t *pids; /* of the servers */
  int count;
  meter_state before;
} meter;

void meter_begin(meter *self, const pid_t *pids, int count);

/* Sets METRIC_HOST_CPU, METRIC_CPU and METRIC_SLEEPS. */
void meter_end(const meter *self, double calls, figures *to);

/* CPU time of a process so far. */
double meter_cpu_us(pid_t pid);

#endif
