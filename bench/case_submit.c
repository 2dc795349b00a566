#include <stdio.h>
#include <stdlib.h>

#include "bench.pyproc.h"
#include "cases.h"

enum { IN_FLIGHT_MAX = 1024 };

struct loop {
  pyproc_pool *pool;
  measure *measure;
  int64_t end_ns;
  int open;
};

/* One place among those in flight; its callback submits the next call. */
typedef struct place {
  struct loop *loop;
  double value;
  int64_t began_ns;
} place;

static bench_predictor_predict_done on_predicted;

static void die(pyproc_error *error) {
  fprintf(stderr, "bench: submit: %s\n", error != NULL ? pyproc_error_message(error) : "wrong answer");
  exit(1);
}

static void submit(place *self) {
  Bench__PredictRequest request = BENCH__PREDICT_REQUEST__INIT;
  pyproc_error *error = NULL;
  request.value = ++self->value;
  self->began_ns = now_ns();
  if (bench_predictor_predict_submit(self->loop->pool, &request, NULL, on_predicted, self, &error) < 0) die(error);
  self->loop->open++;
}

static void on_predicted(int result, Bench__PredictReply *reply, pyproc_error *error, void *userdata) {
  place *self = userdata;
  int64_t now = now_ns();
  if (result < 0 || reply->result < 2 * self->value || reply->result > 2 * self->value) die(error);
  pyproc_reply_free(reply);
  samples_add(&self->loop->measure->samples, now - self->began_ns);
  self->loop->measure->calls++;
  self->loop->open--;
  if (now < self->loop->end_ns) submit(self);
}

void run_submit(unary_pool *pool, int in_flight, double seconds, measure *to) {
  static place places[IN_FLIGHT_MAX];
  int64_t began = now_ns();
  struct loop loop = {.pool = unary_handle(pool), .measure = to, .end_ns = began + (int64_t)(seconds * 1e9)};
  for (int i = 0; i < in_flight && i < IN_FLIGHT_MAX; i++) {
    places[i] = (place){.loop = &loop};
    submit(&places[i]);
  }
  while (loop.open > 0 && pyproc_pool_dispatch(loop.pool, -1) >= 0) {}
  to->seconds += (double)(now_ns() - began) / 1e9;
  to->fairness += 1;
  to->rounds++;
}
