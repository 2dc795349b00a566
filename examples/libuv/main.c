/* A libuv program whose loop also runs pyproc's callbacks: a timer takes measurements, Python judges them, and Ctrl-C or the last
 * one ends it in order. No thread waits for Python; deadlines need no timer of the program. */
#define _POSIX_C_SOURCE 200809L

#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>

#include <uv.h>

#include "measure.pyproc.h"

enum { MEASUREMENTS = 200, SPOILED_EVERY = 40, INTERVAL_MS = 5 };

typedef struct app {
  uv_loop_t loop;
  uv_poll_t answers;   /* pyproc_pool_fd */
  uv_timer_t interval; /* between measurements */
  uv_signal_t interrupt;
  pyproc_pool *pool;
  uint64_t taken;
  int open_calls, found, mistakes, failures;
  int is_ending;
} app;

static int is_spoiled(uint64_t number) {
  return number % SPOILED_EVERY == 0;
}

/* Nothing new begins. The loop ends with its last handle: that of the answers stays as long as calls are open. */
static void begin_to_end(app *self) {
  if (!self->is_ending) {
    uv_close((uv_handle_t *)&self->interval, NULL);
    uv_close((uv_handle_t *)&self->interrupt, NULL);
  }
  self->is_ending = 1;
  if (self->open_calls == 0 && !uv_is_closing((uv_handle_t *)&self->answers))
    uv_close((uv_handle_t *)&self->answers, NULL);
}

static void report(const char *what, pyproc_error *error) {
  fprintf(stderr, "%s: %s: %s\n", what, pyproc_strerror(pyproc_error_code(error)), pyproc_error_message(error));
}

/* Runs in pyproc_pool_dispatch, so on the loop's thread. */
static void on_verdict(int result, Measure__Verdict *verdict, pyproc_error *error, void *userdata) {
  app *self = userdata;
  self->open_calls--;
  if (result < 0) {
    report("judge", error);
    self->failures++;
  } else {
    if (verdict->unusual) printf("%" PRIu64 " is off by %.1f\n", verdict->number, verdict->deviation);
    self->found += verdict->unusual;
    self->mistakes += !!verdict->unusual != is_spoiled(verdict->number);
  }
  pyproc_reply_free(verdict);
  pyproc_error_free(error);
  if (self->is_ending) begin_to_end(self);
}

static void on_answers(uv_poll_t *handle, int status, int events) {
  app *self = handle->data;
  (void)events;
  if (status < 0 || pyproc_pool_dispatch(self->pool, 0) < 0) begin_to_end(self);
}

static void on_interval(uv_timer_t *handle) {
  app *self = handle->data;
  Measure__Measurement measurement = MEASURE__MEASUREMENT__INIT;
  pyproc_error *error = NULL;
  measurement.number = ++self->taken;
  measurement.value = sin((double)self->taken) + (is_spoiled(self->taken) ? 10 : 0);
  /* The request is copied: it need not outlive this function. */
  if (measure_detector_judge_submit(self->pool, &measurement, NULL, on_verdict, self, &error) < 0) {
    report("submit", error);
    pyproc_error_free(error);
    self->failures++;
  } else {
    self->open_calls++;
  }
  if (self->taken == MEASUREMENTS) begin_to_end(self);
}

static void on_interrupt(uv_signal_t *handle, int number) {
  (void)number;
  begin_to_end(handle->data);
}

static int start(app *self) {
  int result = uv_poll_init(&self->loop, &self->answers, pyproc_pool_fd(self->pool));
  if (result == 0) result = uv_timer_init(&self->loop, &self->interval);
  if (result == 0) result = uv_signal_init(&self->loop, &self->interrupt);
  self->answers.data = self->interval.data = self->interrupt.data = self;
  if (result == 0) result = uv_poll_start(&self->answers, UV_READABLE, on_answers);
  if (result == 0) result = uv_timer_start(&self->interval, on_interval, INTERVAL_MS, INTERVAL_MS);
  if (result == 0) result = uv_signal_start(&self->interrupt, on_interrupt, SIGINT);
  if (result < 0) fprintf(stderr, "libuv: %s\n", uv_strerror(result));
  return result;
}

int main(void) {
  app self = {0};
  pyproc_pool_options options = PYPROC_POOL_OPTIONS_INIT;
  pyproc_error *error = NULL;
  options.script = "gen/worker.py";
  options.workers = 1; /* which remembers what came before */
  options.log = pyproc_log_to_stderr;
  if (uv_loop_init(&self.loop) < 0) return 1;
  if (pyproc_pool_open(&options, &self.pool, &error) < 0) {
    report("open", error);
    pyproc_error_free(error);
    return 1;
  }
  int result = start(&self);
  if (result == 0) uv_run(&self.loop, UV_RUN_DEFAULT);
  pyproc_pool_close(self.pool); /* when the loop does not poll its descriptor any more */
  if (result == 0) result = uv_loop_close(&self.loop);
  printf("%" PRIu64 " measurements, %d of them unusual, %d mistakes\n", self.taken, self.found, self.mistakes);
  return result != 0 || self.failures > 0 || self.mistakes > 0 || self.open_calls > 0;
}
