/* Many threads share a pool: each gets the answers to its own questions. */
#include "quickstart.pyproc.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

enum { THREADS = 16, CALLS = 1000 };

typedef struct caller {
  pthread_t thread;
  pyproc_pool *pool;
  int number;
} caller;

static atomic_int failures;

static void *ask(void *argument) {
  const caller *self = argument;
  for (int i = 0; i < CALLS; i++) {
    Quickstart__PredictRequest request = QUICKSTART__PREDICT_REQUEST__INIT;
    request.value = self->number * CALLS + i;
    Quickstart__PredictReply *reply = NULL;
    pyproc_error *error = NULL;
    if (quickstart_predictor_predict(self->pool, &request, &reply, &error) < 0) {
      fprintf(stderr, "thread %d, call %d: %s\n", self->number, i, pyproc_error_message(error));
      atomic_fetch_add(&failures, 1);
    } else if ((long)reply->result != 2L * (self->number * CALLS + i)) {
      fprintf(stderr, "thread %d, call %d: got %g\n", self->number, i, reply->result);
      atomic_fetch_add(&failures, 1);
    }
    pyproc_reply_free(reply);
    pyproc_error_free(error);
  }
  return NULL;
}

int main(void) {
  pyproc_pool_options options = PYPROC_POOL_OPTIONS_INIT;
  options.script = "gen/worker.py";
  pyproc_pool *pool = NULL;
  if (pyproc_pool_open(&options, &pool, NULL) < 0) return 1;
  caller callers[THREADS];
  int started = 0;
  for (; started < THREADS; started++) {
    callers[started].pool = pool;
    callers[started].number = started;
    if (pthread_create(&callers[started].thread, NULL, ask, &callers[started])) break;
  }
  for (int i = 0; i < started; i++) pthread_join(callers[i].thread, NULL);
  pyproc_pool_close(pool);
  return started < THREADS || atomic_load(&failures) > 0;
}
