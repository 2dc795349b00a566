/* What a pool costs beside calls: its start, a crash, memory, and nothing at all. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "bench.pyproc.h"
#include "case.h"
#include "child.h"
#include "meter.h"

enum { IDLE_SECONDS = 10, CRASHES = 5, SAMPLES_MAX = 64 };

static pyproc_pool *open_pool(const pool_spec *spec, bench_pool *pids) {
  pyproc_error *error = NULL;
  pyproc_pool *pool = pool_open(spec, pids, &error);
  if (pool == NULL) bench_die("open", error);
  return pool;
}

static int predict(pyproc_pool *pool) {
  Bench__PredictRequest request = BENCH__PREDICT_REQUEST__INIT;
  Bench__PredictReply *reply = NULL;
  int result = bench_predictor_predict(pool, &request, &reply, NULL);
  pyproc_reply_free(reply);
  return result;
}

/* From nothing until all workers can be called. */
static const char *run_start(const bench_case *self, double seconds, figures *to) {
  bench_pool pids = {0};
  (void)seconds;
  int64_t began = now_ns();
  pyproc_pool *pool = open_pool(&self->pool, &pids);
  to->of[METRIC_TIME] = (double)(now_ns() - began) / 1e6;
  pyproc_pool_close(pool);
  return NULL;
}

/* From the moment in which the one worker is killed until a call has its reply: the median of some. */
static const char *run_crash(const bench_case *self, double seconds, figures *to) {
  bench_pool pids = {0};
  samples times;
  pyproc_error *error = NULL;
  pyproc_pool *pool = pool_open(&self->pool, &pids, &error);
  (void)seconds;
  if (pool == NULL && self->pool.preload == NULL) bench_die("open", error);
  pyproc_error_free(error);
  if (pool == NULL) return "the module to preload is not installed";
  samples_init(&times, SAMPLES_MAX);
  for (int i = 0; i < CRASHES; i++) {
    if (predict(pool) < 0) bench_die("crash", NULL);
    pid_t victim = pids.pids[pids.pid_count - 1];
    int64_t began = now_ns();
    kill(victim, SIGKILL);
    while (predict(pool) < 0) {}
    samples_add(&times, now_ns() - began);
  }
  samples_sort(&times);
  to->of[METRIC_TIME] = samples_quantile_us(&times, 0.5) / 1000;
  samples_free(&times);
  pyproc_pool_close(pool);
  return NULL;
}

/* All processes of a pool that has been called, together, over 10 s; in a run of less than 0.1 s for each case, less. */
static const char *run_idle(const bench_case *self, double seconds, figures *to) {
  bench_pool pids = {0};
  pyproc_pool *pool = open_pool(&self->pool, &pids);
  meter cost;
  double over = seconds * 100 < IDLE_SECONDS ? seconds * 100 : IDLE_SECONDS;
  for (int i = 0; i < 100; i++)
    if (predict(pool) < 0) bench_die("idle", NULL);
  sleep_seconds(0.1);
  meter_begin(&cost, pids.pids, pids.pid_count);
  sleep_seconds(over);
  meter_end(&cost, over * 1e6, to); /* us of CPU for each us */
  to->of[METRIC_IDLE_CPU] = to->of[METRIC_CPU] * 100;
  figures kept;
  figures_clear(&kept);
  kept.of[METRIC_IDLE_CPU] = to->of[METRIC_IDLE_CPU];
  *to = kept;
  pyproc_pool_close(pool);
  return NULL;
}

/* Proportional set size in MiB, or 0: pages that several processes share count for each by its part. */
static double memory_of(pid_t pid) {
  char path[64], line[128];
  long kib = 0;
  snprintf(path, sizeof path, "/proc/%ld/smaps_rollup", (long)pid);
  FILE *file = fopen(path, "r");
  if (file == NULL) return 0;
  while (fgets(line, sizeof line, file) != NULL)
    if (sscanf(line, "Pss: %ld", &kib) == 1) break;
  fclose(file);
  return (double)kib / 1024;
}

/* A Python that has imported the messages: its start, and its memory, are what each worker has at the least. */
static const char *run_python(const bench_case *self, double seconds, figures *to) {
  static const char program[] = "import sys; sys.path[:0] = ['" BENCH_GEN "']; import bench_pb2, os; "
                                "os.write(1, b'ready'); sys.stdin.read()";
  const char *const argv[] = {child_python(), "-c", program, NULL};
  child python;
  (void)self, (void)seconds;
  int64_t began = now_ns();
  if (!child_start(&python, argv, -1)) bench_die("no Python", NULL);
  bool is_ready = child_is_ready(&python);
  to->of[METRIC_TIME] = (double)(now_ns() - began) / 1e6;
  double memory = memory_of(python.pid);
  if (memory > 0) to->of[METRIC_MEMORY] = memory;
  child_stop(&python);
  return is_ready ? NULL : "Python cannot import the messages";
}

static const char *run_memory(const bench_case *self, double seconds, figures *to) {
  bench_pool pids = {0};
  pyproc_pool *pool = open_pool(&self->pool, &pids);
  double sum = 0;
  (void)seconds;
  for (int i = 0; i < 100; i++)
    if (predict(pool) < 0) bench_die("memory", NULL);
  for (int i = 0; i < pids.pid_count; i++) sum += memory_of(pids.pids[i]);
  pyproc_pool_close(pool);
  if (sum <= 0) return "no /proc/PID/smaps_rollup";
  to->of[METRIC_MEMORY] = sum / pids.pid_count;
  return NULL;
}

#define CRASH "crash to next good call"
#define PYTHON "limit: Python with the messages"

static const bench_case cases[] = {
    {.name = PYTHON, .run = run_python},
    {.name = "start of a pool, 1 worker", .run = run_start, .limit = PYTHON},
    {.name = "start of a pool, 8 workers", .run = run_start, .limit = PYTHON, .pool.workers = 8},
    {.name = CRASH, .run = run_crash, .limit = PYTHON, .pool.quiet = 1, .once = true},
    {.name = CRASH ", zygote with numpy",
     .run = run_crash,
     .limit = PYTHON,
     .peer = CRASH,
     .pool = {.quiet = 1, .preload = "numpy"},
     .once = true},
    {.name = "memory, pool of 8 workers", .run = run_memory, .limit = PYTHON, .pool.workers = 8, .once = true},
    {.name = "idle pool of 8 workers", .run = run_idle, .pool.workers = 8, .once = true},
};

CASE_TABLE(life_cases, cases);
