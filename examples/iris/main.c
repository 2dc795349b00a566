/* Classifies the iris flowers that a scikit-learn model has not seen, one by one and all at once, and checks how many it gets
 * right. */
#include <stdio.h>

#include "iris.pyproc.h"

enum { PERCENT_WANTED = 90 };

static int report(const char *what, pyproc_error *error) {
  fprintf(stderr, "%s: %s: %s\n", what, pyproc_strerror(pyproc_error_code(error)), pyproc_error_message(error));
  const char *traceback = pyproc_error_traceback(error);
  if (traceback) fputs(traceback, stderr);
  pyproc_error_free(error);
  return -1;
}

/* Predicts each flower by a call of its own; returns how many are right, or -1. */
static int predict_each(pyproc_pool *pool, const Iris__HeldOut *held_out) {
  int right = 0;
  for (size_t i = 0; i < held_out->n_flowers; i++) {
    Iris__Species *species = NULL;
    pyproc_error *error = NULL;
    if (iris_classifier_predict(pool, held_out->flowers[i], &species, &error) < 0) return report("predict", error);
    if (species->label == held_out->labels[i]) right++;
    if (i == 0) printf("the first one is %s (%.0f %%)\n", species->name, 100 * species->probability);
    pyproc_reply_free(species);
  }
  return right;
}

/* Predicts all flowers by one call; returns how many are right, or -1. */
static int predict_batch(pyproc_pool *pool, const Iris__HeldOut *held_out) {
  Iris__Batch batch = IRIS__BATCH__INIT;
  batch.n_flowers = held_out->n_flowers;
  batch.flowers = held_out->flowers;
  Iris__BatchReply *reply = NULL;
  pyproc_error *error = NULL;
  if (iris_classifier_batch_predict(pool, &batch, &reply, &error) < 0) return report("batch_predict", error);
  int right = 0;
  for (size_t i = 0; i < reply->n_species && i < held_out->n_labels; i++)
    right += reply->species[i]->label == held_out->labels[i];
  pyproc_reply_free(reply);
  return right;
}

static int check(pyproc_pool *pool) {
  Iris__Empty empty = IRIS__EMPTY__INIT;
  Iris__HeldOut *held_out = NULL;
  pyproc_error *error = NULL;
  if (iris_classifier_held_out_flowers(pool, &empty, &held_out, &error) < 0) return report("held_out_flowers", error);
  int total = (int)held_out->n_flowers;
  int by_one = predict_each(pool, held_out), at_once = predict_batch(pool, held_out);
  pyproc_reply_free(held_out);
  if (by_one < 0 || at_once < 0) return -1;
  printf("%d of %d right one by one, %d at once\n", by_one, total, at_once);
  return total > 0 && by_one == at_once && by_one * 100 >= total * PERCENT_WANTED ? 0 : -1;
}

int main(void) {
  pyproc_pool_options options = PYPROC_POOL_OPTIONS_INIT;
  options.script = "gen/worker.py";
  options.workers = 1;
  options.start_timeout_ms = 120000; /* scikit-learn takes seconds to import on a cold machine */
  options.log = pyproc_log_to_stderr;
  pyproc_pool *pool = NULL;
  pyproc_error *error = NULL;
  if (pyproc_pool_open(&options, &pool, &error) < 0) return report("open", error) < 0;
  int result = check(pool);
  pyproc_pool_close(pool);
  return result < 0;
}
