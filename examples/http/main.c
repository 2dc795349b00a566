/* An HTTP service that answers from the iris model: its start, its loop, its end. */
#define _POSIX_C_SOURCE 200809L

#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "request.h"

enum {
  CLIENTS_MAX = 1000,
  IDLE_SECONDS = 30, /* after which a client that sends nothing is sent away */
  STOP_LOOKS = 500,  /* of 20 ms each: how long clients may take to send and receive the rest when the service stops */
  STOP_LOOK_MS = 20
};

struct settings {
  uint16_t port;
  int64_t workers, timeout_ms, queue;
};

static int read_settings(int argc, char **argv, struct settings *self) {
  *self = (struct settings){.port = 8080, .workers = 2, .timeout_ms = 5000, .queue = 1000};
  for (int option; (option = getopt(argc, argv, "p:w:t:q:")) != -1;) {
    long value = optarg != NULL ? strtol(optarg, NULL, 10) : -1;
    if (option == 'p' && value >= 0 && value <= 65535)
      self->port = (uint16_t)value;
    else if (option == 'w' && value > 0)
      self->workers = value;
    else if (option == 't' && value > 0)
      self->timeout_ms = value;
    else if (option == 'q' && value > 0)
      self->queue = value;
    else {
      fprintf(stderr, "usage: %s [-p PORT] [-w WORKERS] [-t TIMEOUT_MS] [-q QUEUE]\n", argv[0]);
      return -1;
    }
  }
  return 0;
}

static int open_pool(const struct settings *settings, pyproc_pool **ret_pool) {
  pyproc_pool_options options = PYPROC_POOL_OPTIONS_INIT;
  pyproc_error *error = NULL;
  options.script = "gen/worker.py";
  options.workers = settings->workers;
  options.queue_limit = settings->queue;
  options.start_timeout_ms = 120000; /* scikit-learn takes seconds to import on a cold machine */
  options.log = pyproc_log_to_stderr;
  int result = pyproc_pool_open(&options, ret_pool, &error);
  if (result < 0) fprintf(stderr, "open: %s\n", pyproc_error_message(error));
  pyproc_error_free(error);
  return result;
}

/* This machine only: who wants more puts a proxy in front, which speaks TLS and knows who may ask. */
static struct MHD_Daemon *listen_on(uint16_t port, struct service *service) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  struct MHD_Daemon *daemon = MHD_start_daemon(
      MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, port, NULL, NULL, request_handle,
      service, MHD_OPTION_SOCK_ADDR, &address, MHD_OPTION_NOTIFY_COMPLETED, request_completed, service,
      MHD_OPTION_CONNECTION_LIMIT, (unsigned)CLIENTS_MAX, MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)IDLE_SECONDS,
      MHD_OPTION_LISTENING_ADDRESS_REUSE, 1u, MHD_OPTION_END);
  if (daemon == NULL) {
    fprintf(stderr, "cannot listen on port %u\n", (unsigned)port);
    return NULL;
  }
  const union MHD_DaemonInfo *bound = MHD_get_daemon_info(daemon, MHD_DAEMON_INFO_BIND_PORT);
  printf("listening on http://127.0.0.1:%u\n", bound != NULL ? (unsigned)bound->port : (unsigned)port);
  fflush(stdout);
  return daemon;
}

/* Runs callbacks until a signal comes. */
static void serve(struct service *service, int signals) {
  struct pollfd fds[] = {{pyproc_pool_fd(service->pool), POLLIN, 0}, {signals, POLLIN, 0}};
  while ((fds[1].revents & POLLIN) == 0) {
    if (poll(fds, 2, -1) > 0 && fds[0].revents != 0 && pyproc_pool_dispatch(service->pool, 0) < 0) return;
  }
}

/* Answers what has begun. Every call has a deadline, so that no connection stays suspended, which MHD could not stop. */
static void stop(struct service *service, struct MHD_Daemon *daemon) {
  atomic_store(&service->is_stopping, true);
  MHD_socket listener = MHD_quiesce_daemon(daemon);
  if (listener != MHD_INVALID_SOCKET) close(listener);
  for (int i = 0; i < STOP_LOOKS && atomic_load(&service->open_requests) > 0; i++)
    pyproc_pool_dispatch(service->pool, STOP_LOOK_MS);
  MHD_stop_daemon(daemon);
}

int main(int argc, char **argv) {
  struct settings settings;
  struct service service = {0};
  sigset_t set;
  if (read_settings(argc, argv, &settings) < 0) return 2;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  sigprocmask(SIG_BLOCK, &set, NULL); /* before there are other threads */
  int signals = signalfd(-1, &set, SFD_CLOEXEC);
  service.timeout_ms = settings.timeout_ms;
  if (signals < 0 || open_pool(&settings, &service.pool) < 0) return 1;
  struct MHD_Daemon *daemon = listen_on(settings.port, &service);
  if (daemon != NULL) {
    serve(&service, signals);
    stop(&service, daemon);
  }
  pyproc_pool_close(service.pool);
  close(signals);
  puts("stopped");
  return daemon == NULL;
}
