/* One thread, an epoll loop, callbacks that submit again, and a stream; then futures. */
#include "chat.pyproc.h"
#include "quickstart.pyproc.h"
#include <stdio.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { AT_FIRST = 8, LINES = 5 };

struct app {
  pyproc_pool *pool;
  pyproc_stream *history;
  int open, answers, late, lines, wrong;
};

static quickstart_predictor_predict_done predicted;

static void submit(struct app *app, double value, int64_t timeout_ms) {
  Quickstart__PredictRequest request = QUICKSTART__PREDICT_REQUEST__INIT;
  pyproc_call_options options = PYPROC_CALL_OPTIONS_INIT;
  pyproc_error *error = NULL;
  request.value = value;
  options.timeout_ms = timeout_ms;
  if (quickstart_predictor_predict_submit(app->pool, &request, &options, predicted, app, &error) < 0) {
    fprintf(stderr, "not submitted: %s\n", pyproc_error_message(error));
    pyproc_error_free(error);
    app->wrong++;
    return;
  }
  app->open++;
}

static void predicted(int result, Quickstart__PredictReply *reply, pyproc_error *error, void *userdata) {
  struct app *app = userdata;
  app->open--;
  app->late += result == PYPROC_E_DEADLINE_EXCEEDED;
  app->answers += result == 0;
  if (result == 0 && reply->result < 1e6) submit(app, reply->result, 0);
  pyproc_reply_free(reply);
  pyproc_error_free(error);
}

static void on_history(int result, Acme__Chat__V1__SayReply *line, pyproc_error *error, void *userdata) {
  struct app *app = userdata;
  app->lines += result == 1;
  app->wrong += result < 0;
  if (result != 1 || acme_chat_v1_chat_room_history_recv_submit(app->history, on_history, app, NULL) < 0) {
    acme_chat_v1_chat_room_history_close(app->history);
    app->open--;
  }
  pyproc_reply_free(line);
  pyproc_error_free(error);
}

static void read_history(struct app *app) {
  Acme__Chat__V1__SayRequest request = ACME__CHAT__V1__SAY_REQUEST__INIT;
  if (acme_chat_v1_chat_room_history_open(app->pool, &request, NULL, &app->history, NULL) < 0 ||
      acme_chat_v1_chat_room_history_recv_submit(app->history, on_history, app, NULL) < 0)
    app->wrong++;
  else
    app->open++;
}

/* Doubling 1 … 8 takes 20, 19, 19, 18, 18, 18, 18 and 17 answers to get to a million. */
static int run_loop(struct app *app) {
  struct epoll_event event = {.events = EPOLLIN};
  int loop = epoll_create1(EPOLL_CLOEXEC);
  if (loop < 0 || epoll_ctl(loop, EPOLL_CTL_ADD, pyproc_pool_fd(app->pool), &event) < 0) return 1;
  for (int i = 1; i <= AT_FIRST; i++) submit(app, i, 0);
  submit(app, -0.5, 20); /* sleeps for longer than it may */
  read_history(app);
  while (app->open > 0)
    if (epoll_wait(loop, &event, 1, -1) < 0 || pyproc_pool_dispatch(app->pool, 0) < 0) break;
  close(loop);
  printf("%d answers, %d late, %d lines\n", app->answers, app->late, app->lines);
  return app->open != 0 || app->wrong != 0 || app->answers != 147 || app->late != 1 || app->lines != LINES;
}

static int run_futures(pyproc_pool *pool) {
  pyproc_future *futures[4] = {NULL};
  int wrong = 0;
  for (int i = 0; i < 4; i++) {
    Quickstart__PredictRequest request = QUICKSTART__PREDICT_REQUEST__INIT;
    request.value = i;
    if (quickstart_predictor_predict_start(pool, &request, NULL, &futures[i], NULL) < 0) return 1;
  }
  wrong += pyproc_future_wait_all(futures, 4, 60000) != 0;
  for (int i = 0; i < 4; i++) {
    Quickstart__PredictReply *reply = NULL;
    if (quickstart_predictor_predict_finish(futures[i], &reply, NULL) < 0 || (int)reply->result != 2 * i) wrong++;
    pyproc_reply_free(reply);
    pyproc_future_free(futures[i]);
  }
  return wrong;
}

int main(void) {
  pyproc_pool_options options = PYPROC_POOL_OPTIONS_INIT;
  options.script = "gen/worker.py";
  options.workers = 2;
  struct app app = {NULL, NULL, 0, 0, 0, 0, 0};
  if (pyproc_pool_open(&options, &app.pool, NULL) < 0) return 1;
  int failed = run_loop(&app) + run_futures(app.pool);
  pyproc_pool_close(app.pool);
  return failed != 0;
}
