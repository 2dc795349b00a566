#define _GNU_SOURCE
#include "control.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
  TICK_MS = 5,        /* how often it looks whether a handler runs for long */
  WATCH_MS = 20,      /* how often it looks whether that handler still runs */
  IDLE_TICKS = 40,    /* without a call, before it sleeps until it is poked */
  KILL_AFTER_MS = 500 /* from the host's death */
};
static const uint64_t long_ns = 5 * 1000000;

#ifndef POLLRDHUP
#define POLLRDHUP 0
#endif

static void control_free(struct control *self) {
  control_abandon(self);
  (void)pthread_mutex_destroy(&self->lock);
  free(self);
}

struct control *control_new(int host_fd) {
  struct control *self = calloc(1, sizeof *self);
  if (self == NULL) return NULL;
  self->host_fd = host_fd;
  self->poke = self->turn = self->events = (wake)WAKE_INIT;
  const int failed = pthread_mutex_init(&self->lock, NULL);
  if (failed != 0) {
    free(self);
    errno = failed;
    return NULL;
  }
  if (wake_open(&self->poke) == 0 && wake_open(&self->turn) == 0 && wake_open(&self->events) == 0) return self;
  const int saved = errno;
  self->host_fd = -1; /* stays the caller's */
  control_free(self);
  errno = saved;
  return NULL;
}

void control_abandon(struct control *self) {
  if (self->host_fd >= 0) (void)close(self->host_fd);
  self->host_fd = -1;
  wake_close(&self->poke);
  wake_close(&self->turn);
  wake_close(&self->events);
}

void control_stop(struct control *self) {
  atomic_store(&self->stop, true);
  wake_signal(&self->turn);
}

void control_begin(struct control *self, struct connection *connection, struct context *context, uint64_t id,
                   uint64_t now_ns) {
  self->running = connection;
  self->running_context = context;
  self->running_id = id;
  atomic_store(&self->since_ns, now_ns);
}

void control_end(struct control *self) {
  atomic_store_explicit(&self->since_ns, 0, memory_order_relaxed);
  self->running = NULL;
  self->running_context = NULL;
}

bool control_cancel(void *userdata, struct connection *connection, uint64_t id, uint16_t code, const char *reason,
                    size_t size) {
  struct control *self = userdata;
  if (self->running != connection || self->running_id != id) return false;
  context_cancel(self->running_context, code, reason, size, &self->events);
  return true;
}

static void cancel_running(struct control *self, const char *reason) {
  if (self->running != NULL) context_cancel(self->running_context, 1, reason, strlen(reason), &self->events);
}

/* Reads and writes for a handler that runs for long. `hung_up` is a descriptor whose peer has gone, or -1. Returns the
 * descriptor to poll, or -1, and for what. */
static int serve_running(struct control *self, uint64_t now_ns, int hung_up, short *ret_events) {
  int fd = -1;
  (void)pthread_mutex_lock(&self->lock);
  const uint64_t since_ns = atomic_load(&self->since_ns);
  struct connection *running = self->running;
  if (running != NULL && since_ns != 0 && now_ns - since_ns >= long_ns && !running->ended && running->fault == NULL) {
    while (connection_receive(running) > 0) connection_scan(running);
    const int sent = connection_send(running, NULL, NULL);
    if (sent < 0 || (hung_up == running->fd && !connection_has_room(running))) running->ended = true;
    if (running->ended) {
      cancel_running(self, "connection closed");
    } else if (running->fault == NULL) {
      fd = running->fd;
      *ret_events = (short)(POLLRDHUP | (connection_has_room(running) ? POLLIN : 0) | (sent == 0 ? POLLOUT : 0));
    }
  }
  (void)pthread_mutex_unlock(&self->lock);
  return fd;
}

static void host_has_died(struct control *self) {
  atomic_store(&self->host_dead, true);
  (void)pthread_mutex_lock(&self->lock);
  cancel_running(self, "the host died");
  (void)pthread_mutex_unlock(&self->lock);
  control_stop(self);
}

/* What a handler started goes too: the group is this worker's own where it leads one. */
static void kill_process(void) {
  (void)kill(getpgrp() == getpid() ? -getpid() : getpid(), SIGKILL);
}

/* How long to sleep; with nothing to do for a while, until it is poked. */
static int sleep_ms(struct control *self, bool watching, int *idle_ticks) {
  if (watching) return WATCH_MS;
  *idle_ticks = atomic_load(&self->since_ns) != 0 ? 0 : *idle_ticks + 1;
  if (*idle_ticks < IDLE_TICKS) return TICK_MS;
  atomic_store(&self->asleep, true);
  if (atomic_load(&self->since_ns) == 0) return -1;
  atomic_store(&self->asleep, false);
  *idle_ticks = 0;
  return TICK_MS;
}

static void *control_main(void *argument) {
  struct control *self = argument;
  int idle_ticks = 0;
  int hung_up = -1;
  while (!atomic_load(&self->quit)) {
    short events = 0;
    const int fd = serve_running(self, clock_ns(), hung_up, &events);
    struct pollfd wanted[] = {
        {.fd = self->poke.read_fd, .events = POLLIN},
        {.fd = self->host_fd, .events = POLLIN},
        {.fd = fd, .events = events},
    };
    const int ready = poll(wanted, 3, sleep_ms(self, fd >= 0, &idle_ticks));
    atomic_store(&self->asleep, false);
    hung_up = ready > 0 && (wanted[2].revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0 ? fd : -1;
    if (ready <= 0) continue;
    if (wanted[0].revents != 0) {
      wake_drain(&self->poke);
      idle_ticks = 0;
    }
    if (wanted[1].revents == 0) continue;
    host_has_died(self);
    (void)poll(NULL, 0, KILL_AFTER_MS);
    kill_process();
  }
  return NULL;
}

int control_start(struct control *self) {
  sigset_t all, old;
  (void)sigfillset(&all);
  (void)pthread_sigmask(SIG_SETMASK, &all, &old);
  const int failed = pthread_create(&self->thread, NULL, control_main, self);
  (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
  self->started = failed == 0;
  return failed;
}

void control_release(struct control *self) {
  if (self->started && self->host_fd >= 0) {
    (void)pthread_detach(self->thread);
    return;
  }
  if (self->started) {
    atomic_store(&self->quit, true);
    wake_signal(&self->poke);
    (void)pthread_join(self->thread, NULL);
  }
  control_free(self);
}
