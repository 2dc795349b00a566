#define _GNU_SOURCE
#include "control.h"

#include "rings.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
  TICK_MS = 5,        /* how often it looks whether a handler runs for long */
  WATCH_MS = 20,      /* how often it looks whether that handler still runs */
  IDLE_TICKS = 40,    /* without a call, before it sleeps until it is poked */
  PARENT_MS = 250,    /* how often it looks who its parent is, where no descriptor tells of the host's death for sure */
  TURNS_MAX = 64,     /* how often it reads again what has come meanwhile, before it looks at all else */
  KILL_AFTER_MS = 500 /* from the host's death; a shorter grace kills sooner */
};
static const uint64_t long_ns = 5 * 1000000;
static const uint64_t retry_ns = 1000000, retry_max_ns = 50 * 1000000; /* between two tries to interrupt */
static const uint64_t grace_default_ns = 1000000000u;                  /* where the host names none */

#ifndef POLLRDHUP
#define POLLRDHUP 0
#endif

static void control_free(struct control *self) {
  control_abandon(self);
  (void)pthread_mutex_destroy(&self->lock);
  free(self);
}

/* A pipe from the host stays open as long as any process does that the host has forked: then the parent tells more. */
static pid_t parent_to_watch(int host_fd) {
  struct stat about;
  return host_fd >= 0 && fstat(host_fd, &about) == 0 && S_ISFIFO(about.st_mode) ? getppid() : 0;
}

static bool has_lost_parent(const struct control *self) {
  return self->parent != 0 && getppid() != self->parent;
}

struct control *control_new(int host_fd) {
  struct control *self = calloc(1, sizeof *self);
  if (self == NULL) return NULL;
  self->host_fd = host_fd;
  self->parent = parent_to_watch(host_fd);
  self->grace_ns = grace_default_ns;
  self->stacks_fd = STDERR_FILENO;
  self->pinger.fd = -1;
  self->poke = self->turn = self->tasks = self->events = (wake)WAKE_INIT;
  const int failed = pthread_mutex_init(&self->lock, NULL);
  if (failed != 0) {
    free(self);
    errno = failed;
    return NULL;
  }
  if (wake_open(&self->poke) == 0 && wake_open(&self->turn) == 0 && wake_open(&self->tasks) == 0 &&
      wake_open(&self->events) == 0)
    return self;
  const int saved = errno;
  self->host_fd = -1; /* stays the caller's */
  control_free(self);
  errno = saved;
  return NULL;
}

void control_abandon(struct control *self) {
  if (self->host_fd >= 0) (void)close(self->host_fd);
  self->host_fd = -1;
  pinger_close(&self->pinger);
  wake_close(&self->poke);
  wake_close(&self->turn);
  wake_close(&self->tasks);
  wake_close(&self->events);
}

void control_stop(struct control *self) {
  atomic_store(&self->stop, true);
  wake_signal(&self->turn);
}

void control_take_turn(struct control *self) {
  if ((wake_take(&self->turn) & atomic_load(&self->stop_signals)) != 0) atomic_store(&self->stop, true);
}

void control_use_stop_signals(struct control *self, uint64_t stop) {
  atomic_store(&self->stop_signals, stop & ~UINT64_C(1));
}

int control_take_wire(struct control *self, int fd) {
  const int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
  if (copy < 0) return -1;
  (void)pthread_mutex_lock(&self->lock);
  pinger_close(&self->pinger);
  self->pinger = (struct pinger){.fd = copy};
  (void)pthread_mutex_unlock(&self->lock);
  wake_signal(&self->poke);
  return 0;
}

void control_use_signal(struct control *self, int interrupt) {
  (void)pthread_mutex_lock(&self->lock);
  self->main_thread = pthread_self();
  self->interrupt_signal = interrupt;
  (void)pthread_mutex_unlock(&self->lock);
}

void control_use_stacks(struct control *self, int dump, int fd) {
  (void)pthread_mutex_lock(&self->lock);
  self->dump_signal = dump;
  self->stacks_fd = fd >= 0 ? fd : STDERR_FILENO;
  (void)pthread_mutex_unlock(&self->lock);
}

void control_list(struct control *self, struct run *run, bool is_dispatching) {
  run->previous = NULL;
  run->next = self->runs;
  if (self->runs != NULL) self->runs->previous = run;
  self->runs = run;
  run->listed = true;
  if (!is_dispatching && run->context->deadline_ns != 0) atomic_fetch_add(&self->begun, 1);
}

void control_run(struct control *self, struct run *run, bool dispatching, uint64_t now_ns) {
  if (run->kind == RUN_THREAD && self->interrupt_signal != 0 && pthread_equal(pthread_self(), self->main_thread))
    run->kind = RUN_MAIN;
  run->thread = PyThread_get_thread_ident();
  run->started = true;
  if (run->kind == RUN_MAIN) self->main_run = run;
  run->dispatching = dispatching;
  if (!dispatching) return;
  self->running = run->connection;
  atomic_store(&self->since_ns, now_ns);
}

void control_pause(struct control *self, struct run *run) {
  run->started = false;
  if (self->main_run == run) self->main_run = NULL;
  if (run->kind == RUN_MAIN) run->kind = RUN_THREAD;
  if (!run->dispatching) return;
  run->dispatching = false;
  atomic_store_explicit(&self->since_ns, 0, memory_order_relaxed);
  self->running = NULL;
}

void control_end(struct control *self, struct run *run) {
  if (run == NULL || !run->listed) return;
  if (run->stream != NULL) stream_close(run->connection, run->stream);
  run->listed = false;
  if (run->previous != NULL)
    run->previous->next = run->next;
  else
    self->runs = run->next;
  if (run->next != NULL) run->next->previous = run->previous;
  control_pause(self, run);
}

void control_wake_stream(void *userdata, struct stream *stream) {
  struct control *self = userdata;
  stream->wants_message = stream->wants_credit = false;
  switch (stream->server) {
  case STREAM_BY_NOBODY:
    break;
  case STREAM_BY_STEPS:
    stream_enqueue(&self->due, stream);
    if (!pthread_equal(pthread_self(), self->dispatcher)) wake_signal(&self->turn);
    break;
  case STREAM_BY_THREAD:
    (void)pthread_cond_broadcast(&stream->changed);
    break;
  case STREAM_BY_TASK:
    if (self->woken.first == NULL) wake_signal(&self->tasks);
    stream_enqueue(&self->woken, stream);
    break;
  }
}

void control_cancel_run(struct control *self, struct run *run, unsigned code, const char *reason, size_t size) {
  struct stream *const stream = run->stream;
  if (run->cancelled_ns != 0) return;
  run_cancel(run, code, reason, size, &self->events);
  if (stream != NULL && stream->server != STREAM_BY_TASK && (stream->wants_message || stream->wants_credit))
    control_wake_stream(self, stream); /* a task is cancelled itself */
}

void control_cancel_streams(struct control *self, unsigned code, const char *reason) {
  for (struct run *run = self->runs; run != NULL; run = run->next)
    if (run->stream != NULL) control_cancel_run(self, run, code, reason, strlen(reason));
  wake_signal(&self->poke);
}

void control_stall(struct control *self, struct connection *connection) {
  (void)pthread_mutex_lock(&self->lock);
  self->running = connection;
  atomic_store(&self->since_ns, connection == NULL ? 0 : clock_ns());
  (void)pthread_mutex_unlock(&self->lock);
  if (connection != NULL) control_rouse(self);
}

bool control_cancel(void *userdata, struct connection *connection, uint64_t id, uint16_t code, const char *reason,
                    size_t size) {
  struct control *self = userdata;
  for (struct run *run = self->runs; run != NULL; run = run->next) {
    if (run->connection != connection || run->id != id) continue;
    control_cancel_run(self, run, code, reason, size);
    wake_signal(&self->poke);
    return true;
  }
  return false;
}

void control_cancel_all(struct control *self, const struct connection *connection, const char *reason) {
  for (struct run *run = self->runs; run != NULL; run = run->next)
    if (connection == NULL || run->connection == connection) control_cancel_run(self, run, 1, reason, strlen(reason));
  wake_signal(&self->poke);
}

void control_interrupt_threads(struct control *self, PyObject *exception) {
  (void)pthread_mutex_lock(&self->lock);
  for (struct run *run = self->runs; run != NULL; run = run->next)
    if (run->kind == RUN_THREAD && run_take_interrupt(run, self->grace_ns))
      (void)PyThreadState_SetAsyncExc(run->thread, exception);
  (void)pthread_mutex_unlock(&self->lock);
}

PyObject *control_interrupt(struct control *self, PyObject *exception) {
  (void)pthread_mutex_lock(&self->lock);
  struct run *const run = self->main_run;
  struct context *const taken = run != NULL && run_take_interrupt(run, self->grace_ns) ? run->context : NULL;
  (void)pthread_mutex_unlock(&self->lock);
  if (taken == NULL) Py_RETURN_NONE;
  PyObject *text = context_explain(taken);
  if (text == NULL) return NULL;
  PyErr_SetObject(exception, text);
  Py_DECREF(text);
  return NULL;
}

void control_disarm(struct control *self, struct run *run) {
  if (run->kind != RUN_THREAD) {
    atomic_store_explicit(&run->armed, false, memory_order_release);
    return;
  }
  (void)pthread_mutex_lock(&self->lock);
  atomic_store(&run->armed, false);
  const bool raised = run->raised > 0;
  (void)pthread_mutex_unlock(&self->lock);
  if (raised) (void)PyThreadState_SetAsyncExc(run->thread, NULL);
}

void control_leave(struct control *self, struct run *run) {
  control_disarm(self, run);
  (void)pthread_mutex_lock(&self->lock);
  control_pause(self, run);
  (void)pthread_mutex_unlock(&self->lock);
}

/* What a handler started goes too: the group is this worker's own where it leads one. */
static void kill_process(void) {
  (void)kill(getpgrp() == getpid() ? -getpid() : getpid(), SIGKILL);
}

/* The signal's handler, which is faulthandler's, runs on this thread and needs neither the GIL nor memory. */
static void dump_stacks(int number) {
  sigset_t wanted;
  if (number == 0) return;
  (void)sigemptyset(&wanted);
  (void)sigaddset(&wanted, number);
  (void)pthread_sigmask(SIG_UNBLOCK, &wanted, NULL);
  (void)pthread_kill(pthread_self(), number);
}

static void kill_stuck(const struct control *self, const struct run *run, uint64_t now_ns) {
  status_page *const page = run->connection == NULL ? NULL : run->connection->page;
  if (page != NULL) atomic_store(&page->stuck_id, run->id);
  (void)dprintf(self->stacks_fd,
                "pyproc_worker: %s still runs %llu ms after its call was given up (asked, interrupted %u times); "
                "the worker is killed; its threads:\n",
                run->method, (unsigned long long)((now_ns - run->cancelled_ns) / 1000000u), run->raised);
  dump_stacks(self->dump_signal);
  kill_process();
}

static void interrupt_run(const struct control *self, const struct run *run) {
  if (run->kind != RUN_MAIN)
    wake_signal(&self->events);
  else if (self->interrupt_signal != 0)
    (void)pthread_kill(self->main_thread, self->interrupt_signal);
}

static uint64_t earlier(uint64_t one, uint64_t other) {
  return one < other ? one : other;
}

/* Does what is due for one run. Returns when to look again. */
static uint64_t watch_run(struct control *self, struct run *run, uint64_t now_ns) {
  if (now_ns >= run_deadline_ns(run)) control_cancel_run(self, run, 4, "", 0);
  if (run->cancelled_ns == 0) return run_deadline_ns(run);
  const uint64_t kill_ns = self->kills ? run_kill_ns(run, self->grace_ns) : (uint64_t)RUN_NEVER_NS;
  if (now_ns >= kill_ns) kill_stuck(self, run, now_ns);
  const uint64_t interrupt_ns = run_interrupt_ns(run, self->grace_ns);
  if (now_ns < interrupt_ns) return earlier(interrupt_ns, kill_ns);
  interrupt_run(self, run); /* which may come just before the handler blocks, and so be missed */
  const uint64_t overdue_ns = (now_ns - interrupt_ns) / 4;
  const uint64_t pause_ns = overdue_ns < retry_ns ? retry_ns : earlier(overdue_ns, retry_max_ns);
  return earlier(now_ns + pause_ns, kill_ns);
}

/* Also tells which descriptor of the pinger's is to be polled, or -1. */
static uint64_t watch_runs(struct control *self, uint64_t now_ns, int *ret_pinged_fd) {
  uint64_t again_ns = (uint64_t)RUN_NEVER_NS;
  (void)pthread_mutex_lock(&self->lock);
  for (struct run *run = self->runs; run != NULL; run = run->next)
    again_ns = earlier(again_ns, watch_run(self, run, now_ns));
  *ret_pinged_fd = self->pinger.fd;
  (void)pthread_mutex_unlock(&self->lock);
  return again_ns;
}

/* The host sees that this thread lives also where a ping waits behind what is not read yet. */
static void beat(const struct connection *connection) {
  if (connection->page != NULL) atomic_fetch_add_explicit(&connection->page->beats, 1, memory_order_relaxed);
}

/* The other connections of a worker that listens: their hosts want to see that it lives. The lock is held. */
static void serve_others(struct control *self, const struct connection *running) {
  for (size_t i = 0; i < self->connection_count; i++) {
    struct connection *const other = self->connections[i];
    if (other == running || other->ended || other->fault != NULL) continue;
    beat(other);
    while (connection_receive(other) > 0) {
      connection_scan(other);
      atomic_store(&self->read_others, true);
    }
    if (other->ended || connection_send(other, NULL, NULL) < 0) {
      other->ended = true;
      atomic_store(&self->read_others, true);
    }
  }
}

/* Whether the dispatching thread has been in one handler for so long. */
static bool runs_long(const struct control *self, uint64_t now_ns) {
  const uint64_t since_ns = atomic_load(&self->since_ns);
  return since_ns != 0 && now_ns > since_ns && now_ns - since_ns >= long_ns;
}

/* Reads and writes for a handler that runs for long. `hung_up` is a descriptor whose peer has gone, or -1. Returns the
 * descriptor to poll, or -1, and for what. */
static int serve_running(struct control *self, uint64_t now_ns, int hung_up, short *ret_events) {
  int fd = -1;
  if (!runs_long(self, now_ns)) return fd; /* whoever waits for the lock slows the thread that has it */
  (void)pthread_mutex_lock(&self->lock);
  struct connection *running = self->running;
  if (running != NULL && runs_long(self, now_ns) && !running->ended && running->fault == NULL) {
    beat(running);
    serve_others(self, running);
    int sent, turns = 0;
    do {
      while (connection_receive(running) > 0) connection_scan(running);
      sent = connection_send(running, NULL, NULL);
    } while (sent >= 0 && !running->ended && running->fault == NULL && ++turns < TURNS_MAX && rings_arm(running));
    const bool ends = hung_up == running->fd || (running->rings != NULL && ring_link_is_ending(running->rings));
    if (sent < 0 || (ends && !connection_has_room(running))) running->ended = true;
    if (running->ended) {
      control_cancel_all(self, running, "connection closed");
    } else if (running->fault == NULL) {
      fd = running->fd;
      *ret_events = (short)(POLLRDHUP | connection_events(running));
    }
  }
  (void)pthread_mutex_unlock(&self->lock);
  return fd;
}

static void host_has_died(struct control *self) {
  atomic_store(&self->host_dead, true);
  (void)pthread_mutex_lock(&self->lock);
  control_cancel_all(self, NULL, "the host died");
  (void)pthread_mutex_unlock(&self->lock);
  control_stop(self);
}

static void serve_pings(struct control *self) {
  (void)pthread_mutex_lock(&self->lock);
  const bool ended = !pinger_serve(&self->pinger);
  if (ended) pinger_close(&self->pinger);
  (void)pthread_mutex_unlock(&self->lock);
  if (ended) control_stop(self);
}

static int milliseconds_until(uint64_t when_ns, uint64_t now_ns) {
  if (when_ns == (uint64_t)RUN_NEVER_NS) return -1;
  if (when_ns <= now_ns) return 0;
  const uint64_t left = (when_ns - now_ns + 999999) / 1000000;
  return left > 60000 ? 60000 : (int)left;
}

/* How long to sleep; with nothing to do for a while, until it is poked. */
static int sleep_ms(struct control *self, bool watching, unsigned seen, int until_due, int *idle_ticks) {
  *idle_ticks = watching || atomic_load(&self->since_ns) != 0 ? 0 : *idle_ticks + 1;
  int result = watching ? WATCH_MS : TICK_MS;
  if (*idle_ticks >= IDLE_TICKS) {
    result = -1;
    atomic_store(&self->asleep, true);
    if (atomic_load(&self->since_ns) != 0 || atomic_load(&self->begun) != seen) {
      atomic_store(&self->asleep, false);
      *idle_ticks = 0;
      result = TICK_MS;
    }
  }
  if (result < 0 && self->parent != 0) result = PARENT_MS;
  return until_due >= 0 && (result < 0 || until_due < result) ? until_due : result;
}

static void *control_main(void *argument) {
  struct control *self = argument;
  int idle_ticks = 0;
  int hung_up = -1;
  uint64_t end_ns = (uint64_t)RUN_NEVER_NS;
  while (!atomic_load(&self->quit)) {
    short events = 0;
    const uint64_t now_ns = clock_ns();
    const unsigned seen = atomic_load(&self->begun);
    const int fd = serve_running(self, now_ns, hung_up, &events);
    int pinged_fd;
    const uint64_t due_ns = earlier(watch_runs(self, now_ns, &pinged_fd), end_ns);
    if (now_ns >= end_ns) kill_process();
    struct pollfd wanted[] = {
        {.fd = self->poke.read_fd, .events = POLLIN},
        {.fd = end_ns == (uint64_t)RUN_NEVER_NS ? self->host_fd : -1, .events = POLLIN},
        {.fd = fd, .events = events},
        {.fd = pinged_fd, .events = POLLIN},
    };
    const int ready = poll(wanted, 4, sleep_ms(self, fd >= 0, seen, milliseconds_until(due_ns, now_ns), &idle_ticks));
    atomic_store(&self->asleep, false);
    hung_up = ready > 0 && (wanted[2].revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0 ? fd : -1;
    if (ready > 0 && wanted[0].revents != 0) {
      wake_drain(&self->poke);
      idle_ticks = 0;
    }
    if (ready > 0 && wanted[3].revents != 0) serve_pings(self);
    const bool hung = ready > 0 && wanted[1].revents != 0;
    if (end_ns != (uint64_t)RUN_NEVER_NS || !(hung || has_lost_parent(self))) continue;
    host_has_died(self);
    end_ns = clock_ns() + KILL_AFTER_MS * UINT64_C(1000000);
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
