#include "pools.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpus.h"

enum { POOLS_MAX = 48, FRAME_LIMIT = 0x7fffffff };

static bench_pool *pools[POOLS_MAX];
static int pool_count;

static const char *running;

void bench_running(const char *name) {
  running = name;
}

void bench_die(const char *what, pyproc_error *error) {
  fprintf(stderr, "bench: %s: %s: %s\n", running != NULL ? running : "start", what,
          error != NULL ? pyproc_error_message(error) : "failed, or a wrong answer");
  if (pyproc_error_log(error) != NULL) fprintf(stderr, "%s\n", pyproc_error_log(error));
  exit(1);
}

static pthread_mutex_t pids_lock = PTHREAD_MUTEX_INITIALIZER;

static void on_event(const pyproc_event *event, void *userdata) {
  bench_pool *self = userdata;
  if (event->kind != PYPROC_EVENT_WORKER_READY) return;
  pthread_mutex_lock(&pids_lock);
  if (self->pid_count < POOL_PIDS_MAX) self->pids[self->pid_count++] = event->worker_pid;
  pthread_mutex_unlock(&pids_lock);
}

pyproc_pool *pool_open(const pool_spec *spec, bench_pool *ret_pids, pyproc_error **reterr) {
  pyproc_pool_options options = PYPROC_POOL_OPTIONS_INIT;
  pyproc_pool *pool = NULL;
  options.log = spec->quiet ? NULL : pyproc_log_to_stderr;
  options.log_level = PYPROC_LOG_ERROR;
  options.spin_us = spec->spin_us;
  if (spec->target != NULL) {
    options.target = spec->target;
  } else {
    options.script = BENCH_WORKER;
    options.workers = spec->workers > 0 ? spec->workers : 1;
    options.protocol = spec->protocol;
    options.channel = spec->channel;
    options.preload = spec->preload;
    options.frame_limit_bytes = FRAME_LIMIT;
    options.event = on_event;
    options.event_userdata = ret_pids;
  }
  return pyproc_pool_open(&options, &pool, reterr) < 0 ? NULL : pool;
}

static int same(const char *a, const char *b) {
  return a == b || (a != NULL && b != NULL && strcmp(a, b) == 0);
}

static int fits(const pool_spec *a, const pool_spec *b) {
  return same(a->protocol, b->protocol) && same(a->channel, b->channel) && same(a->target, b->target) &&
         same(a->preload, b->preload) && a->spin_us == b->spin_us && a->workers == b->workers &&
         a->placement == b->placement;
}

/* A channel that this version does not have is no failure. */
static const char *why_not(const pool_spec *spec, pyproc_error *error) {
  int code = pyproc_error_code(error);
  if (same(spec->channel, "shm") && (code == PYPROC_E_INVALID_ARGUMENT || code == PYPROC_E_UNIMPLEMENTED)) {
    pyproc_error_free(error);
    return "no shm";
  }
  bench_die("open", error);
}

bench_pool *pools_get(const pool_spec *spec, const char **ret_why) {
  for (int i = 0; i < pool_count; i++)
    if (fits(&pools[i]->spec, spec)) return pools[i];
  bench_pool *self = calloc(1, sizeof *self);
  if (self == NULL || pool_count == POOLS_MAX) bench_die("too many pools", NULL);
  self->spec = *spec;
  if (spec->placement == PLACE_ONE_CPU) cpus_pin(0, 0);
  pyproc_error *error = NULL;
  self->pool = pool_open(spec, self, &error);
  if (spec->placement == PLACE_ONE_CPU) cpus_free(0);
  if (self->pool == NULL) {
    free(self);
    *ret_why = why_not(spec, error);
    return NULL;
  }
  if (spec->placement == PLACE_SAME_CPU || spec->placement == PLACE_APART)
    for (int i = 0; i < self->pid_count; i++) cpus_pin(self->pids[i], spec->placement == PLACE_APART);
  return pools[pool_count++] = self;
}

void pools_enter(const bench_pool *pool) {
  if (pool->spec.placement != PLACE_FREE) cpus_pin(0, 0);
}

void pools_leave(const bench_pool *pool) {
  if (pool->spec.placement != PLACE_FREE) cpus_free(0);
}

void pools_close(void) {
  while (pool_count > 0) {
    bench_pool *last = pools[--pool_count];
    pyproc_pool_close(last->pool);
    free(last);
  }
}
