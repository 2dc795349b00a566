/*
 * run.h - a handler that runs, and how it is stopped: asked, interrupted, killed.
 *
 * A cancelled handler is interrupted at once, by Cancelled that is raised inside it, and again after each quarter of the
 * grace in case it goes on; one that looks for a cancel itself, by its cancel_event or by context.cancelled, gets a whole
 * grace first to end by itself. Where it still runs a grace after it was first to be interrupted, the process is killed.
 *
 * The control's lock guards a run. `armed` is set by the thread of the handler around the handler's code and nothing
 * else: an exception is raised only while it is, so that none lands outside the handler of its own call.
 */
#ifndef PYPROC_WORKER_RUN_H
#define PYPROC_WORKER_RUN_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "connection.h"
#include "context.h"

typedef enum run_kind {
  RUN_MAIN,   /* on the thread that takes signals: a signal interrupts it, whatever it waits for */
  RUN_THREAD, /* on another one: an asynchronous exception, seen between two bytecodes */
  RUN_TASK    /* on the event loop: its task is cancelled */
} run_kind;

struct run {
  struct run *previous, *next;
  struct connection *connection;
  struct context *context; /* borrowed */
  uint64_t id;
  const char *method;    /* its name */
  struct stream *stream; /* whose handler it is, NULL: a call's */
  run_kind kind;
  bool listed;
  bool dispatching; /* it keeps the dispatching thread from reading */
  bool started;     /* else it waits for its thread */
  atomic_bool armed;
  uint64_t cancelled_ns; /* CLOCK_MONOTONIC; 0: it is not */
  unsigned raised;       /* how often it was interrupted */
  unsigned long thread;  /* RUN_THREAD: Python's number of the thread */
};

enum { RUN_NEVER_NS = -1 }; /* as uint64_t: the end of time */

/* Marks the call as cancelled, with a code and a reason as for context_cancel(); only the first time counts. */
void run_cancel(struct run *self, unsigned code, const char *reason, size_t size, const wake *events);

/* When it is to be interrupted next, and when killed; RUN_NEVER_NS where it is not cancelled. */
uint64_t run_interrupt_ns(const struct run *self, uint64_t grace_ns);
uint64_t run_kill_ns(const struct run *self, uint64_t grace_ns);

/* When its own deadline, which the host is expected to tell first, is over. */
uint64_t run_deadline_ns(const struct run *self);

/* Whether it is to be interrupted now, by the caller; counts it. */
bool run_take_interrupt(struct run *self, uint64_t grace_ns);

#endif
