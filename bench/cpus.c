#include "cpus.h"

#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>

#include "samples.h"

enum { WORKING_MAX = 64 };

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

static void *work(void *argument) {
  const double *seconds = argument;
  for (int64_t end = now_ns() + (int64_t)(*seconds * 1e9); now_ns() < end;) continue;
  return NULL;
}

void cpus_work(double seconds) {
  pthread_t threads[WORKING_MAX];
  int count = CPU_COUNT(all()) < WORKING_MAX ? CPU_COUNT(all()) : WORKING_MAX, started = 0;
  while (started < count && pthread_create(&threads[started], NULL, work, &seconds) == 0) started++;
  while (started > 0) pthread_join(threads[--started], NULL);
}

void cpus_free(pid_t who) {
  set(who, all());
}
