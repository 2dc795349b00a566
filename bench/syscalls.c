/*
 * System calls for each call, counted by the kernel: its tracepoint raw_syscalls:sys_enter, one counter for each thread of
 * caller and worker. That needs tracefs and the right to use it; elsewhere strace counts, in a full run only, since it slows
 * each system call so much that what spins has given up before anything comes.
 */
#include <dirent.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.pyproc.h"
#include "case.h"
#include "child.h"

enum { KIND_TRACEPOINT, KIND_STRACE };
enum { COUNTERS_MAX = 256, CALLS = 2000, STRACE_CALLS = 300 };

typedef struct counters {
  int fds[COUNTERS_MAX];
  int count;
} counters;

static long tracepoint(void) {
  static const char *const paths[] = {"/sys/kernel/tracing/events/raw_syscalls/sys_enter/id",
                                      "/sys/kernel/debug/tracing/events/raw_syscalls/sys_enter/id"};
  long id = -1;
  for (size_t i = 0; i < sizeof paths / sizeof *paths && id < 0; i++) {
    FILE *file = fopen(paths[i], "r");
    if (file == NULL) continue;
    if (fscanf(file, "%ld", &id) != 1) id = -1;
    fclose(file);
  }
  return id;
}

static void add_threads(counters *self, long id, pid_t pid) {
  struct perf_event_attr what = {
      .type = PERF_TYPE_TRACEPOINT, .size = sizeof what, .config = (uint64_t)id, .inherit = 1};
  char path[64];
  snprintf(path, sizeof path, "/proc/%ld/task", (long)pid);
  DIR *threads = opendir(path);
  if (threads == NULL) return;
  for (struct dirent *entry; (entry = readdir(threads)) != NULL && self->count < COUNTERS_MAX;) {
    if (entry->d_name[0] == '.') continue;
    int fd = (int)syscall(SYS_perf_event_open, &what, (pid_t)atol(entry->d_name), -1, -1, PERF_FLAG_FD_CLOEXEC);
    if (fd >= 0) self->fds[self->count++] = fd;
  }
  closedir(threads);
}

static double total(const counters *self) {
  double sum = 0;
  for (int i = 0; i < self->count; i++) {
    uint64_t value = 0;
    if (read(self->fds[i], &value, sizeof value) == (ssize_t)sizeof value) sum += (double)value;
  }
  return sum;
}

static void call(pyproc_pool *pool, int count) {
  for (int i = 0; i < count; i++) {
    Bench__PredictRequest request = BENCH__PREDICT_REQUEST__INIT;
    Bench__PredictReply *reply = NULL;
    pyproc_error *error = NULL;
    if (bench_predictor_predict(pool, &request, &reply, &error) < 0) bench_die("call", error);
    pyproc_reply_free(reply);
  }
}

static const char *run_tracepoint(const bench_case *self, double seconds, figures *to) {
  const char *why = NULL;
  long id = tracepoint();
  (void)seconds;
  if (id < 0) return "no tracepoint raw_syscalls:sys_enter (tracefs); see the rows of a full run, by strace";
  bench_pool *pool = pools_get(&self->pool, &why);
  if (pool == NULL) return why;
  counters all = {.count = 0};
  call(pool->pool, CALLS);
  add_threads(&all, id, getpid());
  for (int i = 0; i < pool->pid_count; i++) add_threads(&all, id, pool->pids[i]);
  if (all.count == 0) return "perf_event_open is not permitted";
  double before = total(&all);
  call(pool->pool, CALLS);
  to->of[METRIC_SYSCALLS] = (total(&all) - before) / CALLS;
  for (int i = 0; i < all.count; i++) close(all.fds[i]);
  return NULL;
}

/* The last line of `strace -c`: seconds, usecs/call, calls. */
static double read_total(const char *path) {
  char line[256], last[256] = "";
  double calls = 0;
  FILE *file = fopen(path, "r");
  if (file == NULL) return 0;
  while (fgets(line, sizeof line, file) != NULL)
    if (strstr(line, "total") != NULL) memcpy(last, line, sizeof last);
  fclose(file);
  return sscanf(last, "%*s %*s %*s %lf", &calls) == 1 ? calls : 0;
}

static void wait_for_tracer(void) {
  char line[128];
  for (int tries = 0, tracer = 0; tries < 200 && tracer == 0; tries++) {
    FILE *file = fopen("/proc/self/status", "r");
    while (file != NULL && fgets(line, sizeof line, file) != NULL)
      if (sscanf(line, "TracerPid: %d", &tracer) == 1) break;
    if (file != NULL) fclose(file);
    usleep(10000);
  }
}

static double strace(const bench_pool *pool, int calls) {
  char path[] = "/tmp/pyproc-bench-XXXXXX", own[16], worker[16];
  child tracer;
  close(mkstemp(path));
  snprintf(own, sizeof own, "%ld", (long)getpid());
  snprintf(worker, sizeof worker, "%ld", (long)pool->pids[pool->pid_count - 1]);
  const char *const argv[] = {"strace", "-qq", "-f", "-c", "-o", path, "-p", own, "-p", worker, NULL};
  if (!child_start(&tracer, argv, -1)) return -1;
  wait_for_tracer();
  call(pool->pool, calls);
  kill(tracer.pid, SIGINT);
  child_stop(&tracer);
  double counted = read_total(path);
  unlink(path);
  return counted;
}

/* Two runs of different lengths, so that what begins and ends them falls out. */
static const char *run_strace(const bench_case *self, double seconds, figures *to) {
  const char *why = NULL;
  bench_pool *pool = pools_get(&self->pool, &why);
  (void)seconds;
  if (pool == NULL) return why;
  call(pool->pool, CALLS);
  double few = strace(pool, STRACE_CALLS), many = strace(pool, 2 * STRACE_CALLS);
  if (few <= 0 || many <= few) return "strace is not there, or not permitted";
  to->of[METRIC_SYSCALLS] = (many - few) / STRACE_CALLS;
  return NULL;
}

#define KERNEL .run = run_tracepoint
#define STRACE .run = run_strace, .full = true, .once = true

static const bench_case cases[] = {
    {.name = "system calls, uds, 1 thread", KERNEL, .pool.channel = "uds"},
    {.name = "system calls, uds, 1 thread, spin off", KERNEL, .pool.channel = "uds", .pool.spin_us = PYPROC_OFF},
    {.name = "system calls, shm, 1 thread", KERNEL, .pool.channel = "shm"},
    {.name = "system calls by strace, uds, 1 thread", STRACE, .pool.channel = "uds"},
    {.name = "system calls by strace, uds, 1 thread, spin off",
     STRACE,
     .pool.channel = "uds",
     .pool.spin_us = PYPROC_OFF},
    {.name = "system calls by strace, shm, 1 thread", STRACE, .pool.channel = "shm"},
};

CASE_TABLE(syscall_cases, cases);
