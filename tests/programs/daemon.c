#define _POSIX_C_SOURCE 200809L
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include "quickstart.pyproc.h"

/* predictd CONFIG SOCKET: answers the numbers that are sent to a Unix datagram socket. SIGHUP: new configuration and new code,
 * no request is lost for it. SIGTERM: answers what it has, and ends. */
struct daemon {
  const char *config;
  pyproc_pool *pool;
  int socket, reloads[2]; /* a pipe: a byte for each reload that is asked for */
};

struct request {
  int socket;
  socklen_t size;
  struct sockaddr_un from;
};

static void complain(const char *what, pyproc_error *error) {
  fprintf(stderr, "predictd: %s: %s\n", what, pyproc_error_message(error));
  pyproc_error_free(error);
}

static void on_event(const pyproc_event *event, void *userdata) { /* where you count, and alert */
  (void)userdata;
  fprintf(stderr, "predictd: worker %ld: %s\n", (long)event->worker_pid, event->text);
}

static int configure(const char *config, pyproc_pool_options *options, pyproc_error **reterr) {
  const pyproc_pool_options defaults = PYPROC_POOL_OPTIONS_INIT;
  *options = defaults;
  options->log = pyproc_log_to_stderr;
  options->event = on_event;
  return pyproc_options_load(options, config, reterr); /* then PYPROC_… of the environment */
}

static void answer(struct request *request, const char *text) {
  sendto(request->socket, text, strlen(text), MSG_NOSIGNAL, (struct sockaddr *)&request->from, request->size);
  free(request);
}

static void predicted(int result, Quickstart__PredictReply *reply, pyproc_error *error, void *userdata) {
  char text[128];
  if (result >= 0)
    snprintf(text, sizeof text, "%g", reply->result);
  else
    snprintf(text, sizeof text, "error: %.100s", pyproc_error_message(error));
  answer((struct request *)userdata, text);
  pyproc_reply_free(reply);
  pyproc_error_free(error);
}

static void take_request(struct daemon *self) {
  char text[64];
  struct request *request = (struct request *)calloc(1, sizeof *request);
  if (request == NULL) return;
  request->socket = self->socket;
  request->size = sizeof request->from;
  ssize_t size = recvfrom(self->socket, text, sizeof text - 1, 0, (struct sockaddr *)&request->from, &request->size);
  text[size > 0 ? size : 0] = '\0';
  Quickstart__PredictRequest message = QUICKSTART__PREDICT_REQUEST__INIT;
  message.value = strtod(text, NULL);
  if (quickstart_predictor_predict_submit(self->pool, &message, NULL, predicted, request, NULL) < 0)
    answer(request, "error: busy"); /* the queue is full */
}

static void *reload(void *argument) { /* takes as long as workers take to start: not in the loop's thread */
  struct daemon *self = (struct daemon *)argument;
  char asked[64];
  while (read(self->reloads[0], asked, sizeof asked) > 0) {
    pyproc_pool_options options;
    pyproc_error *error = NULL;
    if (configure(self->config, &options, &error) < 0) {
      complain("the old configuration is kept", error);
      continue;
    }
    if (pyproc_pool_reload(self->pool, &options, &error) < 0) complain("the old workers are kept", error);
    pyproc_options_clear(&options);
  }
  return NULL;
}

static void serve(struct daemon *self, int signals) {
  struct pollfd polled[] = {{signals, POLLIN, 0}, {pyproc_pool_fd(self->pool), POLLIN, 0}, {self->socket, POLLIN, 0}};
  for (;;) {
    if (poll(polled, 3, -1) < 0) continue;
    if (polled[1].revents) pyproc_pool_dispatch(self->pool, 0);
    if (polled[2].revents) take_request(self);
    struct signalfd_siginfo info;
    if (!polled[0].revents || read(signals, &info, sizeof info) != (ssize_t)sizeof info) continue;
    if (info.ssi_signo == SIGTERM) return;
    if (write(self->reloads[1], "", 1) < 0) perror("predictd: reload");
  }
}

int main(int argc, char **argv) {
  if (argc != 3) return fprintf(stderr, "usage: %s CONFIG SOCKET\n", argv[0]), 2;
  struct daemon self = {argv[1], NULL, socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0), {-1, -1}};
  struct sockaddr_un address = {AF_UNIX, ""};
  snprintf(address.sun_path, sizeof address.sun_path, "%s", argv[2]);
  sigset_t handled;
  sigemptyset(&handled);
  sigaddset(&handled, SIGHUP);
  sigaddset(&handled, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &handled, NULL); /* before any thread starts */
  int signals = signalfd(-1, &handled, SFD_CLOEXEC);

  pyproc_pool_options options;
  pyproc_error *error = NULL;
  if (configure(self.config, &options, &error) < 0) return complain("configuration", error), 1;
  int result = pyproc_pool_open(&options, &self.pool, &error);
  pyproc_options_clear(&options);
  if (result < 0) return complain("open", error), 1;

  pthread_t reloader;
  if (bind(self.socket, (struct sockaddr *)&address, sizeof address) < 0 || signals < 0 || pipe(self.reloads) < 0 ||
      pthread_create(&reloader, NULL, reload, &self) != 0) {
    perror("predictd");
    pyproc_pool_close(self.pool);
    return 1;
  }
  serve(&self, signals);
  close(self.reloads[1]);
  pthread_join(reloader, NULL);
  if (pyproc_pool_drain(self.pool, 10000, &error) < 0) complain("drain", error);
  pyproc_pool_close(self.pool); /* runs the callbacks that are left: all requests are answered */
  unlink(argv[2]);
  return 0;
}
