#include "meter.h"

#include <dirent.h>
#include <stdio.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

static double clock_us(clockid_t clock) {
  struct timespec time;
  return clock_gettime(clock, &time) < 0 ? 0 : (double)time.tv_sec * 1e6 + (double)time.tv_nsec / 1e3;
}

double meter_cpu_us(pid_t pid) {
  clockid_t clock;
  return clock_getcpuclockid(pid, &clock) != 0 ? 0 : clock_us(clock);
}

static double thread_sleeps(pid_t pid, const char *thread) {
  char path[300], line[128];
  long count = 0;
  snprintf(path, sizeof path, "/proc/%ld/task/%s/status", (long)pid, thread);
  FILE *file = fopen(path, "r");
  if (file == NULL) return 0;
  while (fgets(line, sizeof line, file) != NULL)
    if (sscanf(line, "voluntary_ctxt_switches: %ld", &count) == 1) break;
  fclose(file);
  return (double)count;
}

/* Each voluntary switch is a sleep that a wake-up ended. */
static double process_sleeps(pid_t pid) {
  char path[64];
  double sum = 0;
  snprintf(path, sizeof path, "/proc/%ld/task", (long)pid);
  DIR *threads = opendir(path);
  if (threads == NULL) return 0;
  for (struct dirent *entry; (entry = readdir(threads)) != NULL;)
    if (entry->d_name[0] != '.') sum += thread_sleeps(pid, entry->d_name);
  closedir(threads);
  return sum;
}

static meter_state state(const meter *self) {
  struct rusage own;
  getrusage(RUSAGE_SELF, &own); /* with the threads that have ended */
  meter_state now = {.host_cpu_us = clock_us(CLOCK_PROCESS_CPUTIME_ID), .sleeps = (double)own.ru_nvcsw};
  for (int i = 0; i < self->count; i++) {
    now.servers_cpu_us += meter_cpu_us(self->pids[i]);
    now.sleeps += process_sleeps(self->pids[i]);
  }
  return now;
}

void meter_begin(meter *self, const pid_t *pids, int count) {
  *self = (meter){.pids = pids, .count = count};
  self->before = state(self);
}

void meter_end(const meter *self, double calls, figures *to) {
  meter_state now = state(self);
  if (calls <= 0) return;
  double host = now.host_cpu_us - self->before.host_cpu_us;
  double servers = now.servers_cpu_us - self->before.servers_cpu_us;
  to->of[METRIC_HOST_CPU] = host / calls;
  to->of[METRIC_CPU] = (host + servers) / calls;
  to->of[METRIC_SLEEPS] = (now.sleeps - self->before.sleeps) / calls;
}
