#include "cpus.h"

#include <sched.h>
#include <stdio.h>

/* Those of the program when it started: the first call must come before any pinning, which it does by itself. */
static const cpu_set_t *all(void) {
  static cpu_set_t cpus;
  if (CPU_COUNT(&cpus) == 0) sched_getaffinity(0, sizeof cpus, &cpus);
  return &cpus;
}

static void set(pid_t who, const cpu_set_t *cpus) {
  if (sched_setaffinity(who, sizeof *cpus, cpus) < 0) perror("bench: sched_setaffinity");
}

void cpus_pin(pid_t who, int place) {
  cpu_set_t one;
  CPU_ZERO(&one);
  for (size_t cpu = 0; cpu < CPU_SETSIZE; cpu++) {
    if (!CPU_ISSET(cpu, all()) || place-- > 0) continue;
    CPU_SET(cpu, &one);
    set(who, &one);
    return;
  }
}

void cpus_free(pid_t who) {
  set(who, all());
}
