/*
 * A pool with handshake "none" over library_worker.py; prints one line for each case.
 *
 * Usage: interop_bare_worker PYTHON SCRIPT own|other
 */
#include <pthread.h>
#include <pyproc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WORKERS = 4, THREADS = 8, CALLS = 100 };

static int failed;

static void check(int good, const char *name) {
  printf("%s %s\n", good ? "ok" : "not ok", name);
  failed |= !good;
}

/* The texts here have no blanks that mean something. */
static int is_same_json(const char *a, const char *b) {
  for (;; a++, b++) {
    while (*a == ' ') a++;
    while (*b == ' ') b++;
    if (*a != *b || *a == '\0') return *a == *b;
  }
}

/* Whether the call ends with that code and, where it is an error, a message that has `part` in it, or with that body. */
static int ends_with(pyproc_pool *pool, const char *method, const char *body, int64_t timeout_ms, int code,
                     const char *part) {
  pyproc_call_options options = PYPROC_CALL_OPTIONS_INIT;
  char *reply = NULL;
  pyproc_error *error = NULL;
  options.timeout_ms = timeout_ms;
  int result = pyproc_call_json(pool, method, body, &options, &reply, &error);
  int good =
      result == code && (code == 0 ? is_same_json(reply, part) : strstr(pyproc_error_message(error), part) != NULL);
  if (!good) fprintf(stderr, "%s: %d %s\n", method, result, result == 0 ? reply : pyproc_error_message(error));
  pyproc_reply_free(reply);
  pyproc_error_free(error);
  return good;
}

static long pid_of(pyproc_pool *pool, const char *body) {
  char *reply = NULL;
  if (pyproc_call_json(pool, "pid", body, NULL, &reply, NULL) < 0) return -1;
  long pid = strtol(reply, NULL, 10);
  pyproc_reply_free(reply);
  return pid;
}

typedef struct caller {
  pthread_t thread;
  pyproc_pool *pool;
  int number, wrong;
  long pid;
} caller;

static void *call_many(void *argument) {
  caller *self = argument;
  self->pid = pid_of(self->pool, "{\"ms\": 200}");
  for (int i = 0; i < CALLS; i++) {
    char body[64];
    snprintf(body, sizeof body, "{\"value\": [%d, %d]}", self->number, i);
    self->wrong += !ends_with(self->pool, "echo", body, 0, 0, body);
  }
  return NULL;
}

static void call_from_threads(pyproc_pool *pool) {
  caller callers[THREADS];
  int wrong = 0, workers = 0;
  for (int i = 0; i < THREADS; i++) {
    callers[i] = (caller){.pool = pool, .number = i};
    pthread_create(&callers[i].thread, NULL, call_many, &callers[i]);
  }
  for (int i = 0; i < THREADS; i++) {
    pthread_join(callers[i].thread, NULL);
    wrong += callers[i].wrong;
    int is_new = 1;
    for (int j = 0; j < i; j++) is_new &= callers[j].pid != callers[i].pid;
    workers += is_new;
  }
  check(wrong == 0, "calls of several threads");
  check(workers == WORKERS, "on all four workers");
}

static void call_large(pyproc_pool *pool) {
  enum { SIZE = 4 << 20 };
  char *body = malloc(SIZE + 3);
  if (body == NULL) abort();
  memset(body, 'x', SIZE + 2);
  body[0] = body[SIZE + 1] = '"';
  body[SIZE + 2] = '\0';
  check(ends_with(pool, "echo", body, 0, 0, body), "4 MiB");
  free(body);
}

static void call_and_fail(pyproc_pool *pool) {
  check(ends_with(pool, "fail", "{\"message\": \"no such thing\"}", 0, PYPROC_E_UNKNOWN, "no such thing"), "an error");
  check(ends_with(pool, "nobody", "{}", 0, PYPROC_E_UNKNOWN, "nobody"), "no such method");
  check(ends_with(pool, "double", "{\"value\": 21}", 0, 0, "{\"result\": 42}"), "a call afterwards");
}

/* Each of these costs a worker. */
static void lose_workers(pyproc_pool *pool, int is_own) {
  pyproc_health health = PYPROC_HEALTH_INIT;
  check(ends_with(pool, "die", "{\"status\": 3}", 0, PYPROC_E_UNAVAILABLE, "exited with status 3"),
        "a worker that dies");
  check(ends_with(pool, "pid", "{\"ms\": 600000}", 50, PYPROC_E_DEADLINE_EXCEEDED, "50 ms"), "a call that hangs");
  if (!is_own)
    check(ends_with(pool, "unsendable", "{}", 0, PYPROC_E_INTERNAL, "not JSON serializable"), "what is no JSON");
  int wrong = 0;
  for (int i = 0; i < CALLS; i++) wrong += pid_of(pool, "{}") <= 0;
  check(wrong == 0, "calls go on");
  for (int i = 0; i < 600; i++) { /* until the hanging one is replaced */
    if (pyproc_pool_health(pool, &health) < 0) break;
    if (health.restarts >= 2 && health.workers_ready == WORKERS) break;
    pid_of(pool, "{\"ms\": 50}");
  }
  check(health.restarts >= 2 && health.workers_ready == WORKERS, "all workers are back");
}

int main(int argc, char **argv) {
  if (argc != 4) return 2;
  pyproc_pool_options options = PYPROC_POOL_OPTIONS_INIT;
  options.python = argv[1];
  options.script = argv[2];
  options.handshake = "none";
  options.workers = WORKERS;
  options.cancel_grace_ms = 100;
  options.log = pyproc_log_to_stderr;
  options.log_level = PYPROC_LOG_ERROR;
  pyproc_pool *pool = NULL;
  pyproc_error *error = NULL;
  int result = pyproc_pool_open(&options, &pool, &error);
  check(result >= 0, "a pool of four workers");
  if (result < 0) {
    fprintf(stderr, "%s\n%s\n", pyproc_error_message(error), pyproc_error_log(error));
    pyproc_error_free(error);
    return 1;
  }
  call_and_fail(pool);
  call_large(pool);
  call_from_threads(pool);
  lose_workers(pool, strcmp(argv[3], "own") == 0);
  pyproc_pool_close(pool);
  check(1, "closed");
  return failed;
}
