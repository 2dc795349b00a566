/*
 * control.h - the worker's second thread, in C, which never takes the GIL.
 *
 * It watches the host's death. When a handler has run on the dispatching thread for longer than a few milliseconds it
 * reads the handler's connection in place of that thread: cancels, pings and the end of the connection are seen under
 * any handler, and replies that wait to be sent are sent. It watches deadlines, has cancelled handlers interrupted
 * (run.h), and kills the process, whose stacks it has written before, when one does not end. All signals are
 * blocked in it.
 *
 * The lock guards the buffers of the connections and the list of runs. It is held for non-blocking work only; threads
 * may hold the GIL while they take it.
 */
#ifndef PYPROC_WORKER_CONTROL_H
#define PYPROC_WORKER_CONTROL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "connection.h"
#include "pinger.h"
#include "run.h"
#include "wake.h"

struct control {
  pthread_mutex_t lock;
  pthread_t thread;
  bool started;
  int host_fd;          /* polls readable or hung up once the host is dead; -1 where there is none */
  pid_t parent;         /* the host, where only this tells of its death for sure; 0: not watched */
  struct pinger pinger; /* on a socket that carries no calls; the control thread's */
  wake poke;            /* ends the control thread's poll */
  wake turn;            /* ends the dispatching thread's poll */
  wake tasks;           /* tells the event loop that there are streams to wake */
  wake events;          /* tells Python's watcher that there are events to set, threads or tasks to interrupt */
  atomic_bool stop;     /* the dispatching thread is to end */
  _Atomic uint64_t stop_signals; /* which ask for that, a bit each */
  atomic_bool quit;              /* the control thread is to end */
  atomic_bool host_dead;
  atomic_bool asleep;        /* the control thread sleeps until it is poked: nothing has run for a while */
  _Atomic uint64_t since_ns; /* CLOCK_MONOTONIC when the dispatching thread's handler started; 0: none runs */
  atomic_uint begun;         /* grows with each run that has a deadline, and of which `since_ns` does not tell */
  struct connection *const *connections; /* the loop's, which changes them with the lock held; NULL: none */
  size_t connection_count;
  atomic_bool read_others;    /* than `running`: they may have what the dispatching thread does not know of */
  struct connection *running; /* the connection whose call the dispatching thread runs, NULL: none */
  struct run *runs;           /* all that run */
  stream_queue due;           /* streams that are served in steps and can go on */
  stream_queue woken;         /* streams of the event loop for which something has come */
  pthread_t dispatcher;
  struct run *main_run;  /* the one of the main thread */
  pthread_t main_thread; /* where interrupt_signal goes */
  int interrupt_signal;  /* 0: there is none, the main thread's handlers are as those of other threads */
  int dump_signal;       /* has all stacks written to `stacks_fd`; 0: none */
  int stacks_fd;         /* borrowed */
  uint64_t grace_ns;
  bool kills; /* the host named a grace, and will replace this process */
};

/* Takes over `host_fd` (or -1). Returns NULL with errno set. */
struct control *control_new(int host_fd);

/* Returns 0, or an errno. */
int control_start(struct control *self);

/* The dispatching thread is done; nothing may run. The thread is ended and joined, and everything freed, but where it
 * watches a host: it then lives as long as the process, which it kills when that does not end soon after its host. */
void control_release(struct control *self);

/* Closes the descriptors only: in a forked child. */
void control_abandon(struct control *self);

/* Asks the dispatching thread to end. Safe in signal handlers and any thread. */
void control_stop(struct control *self);

/* The control thread reads that socket, of which it has a copy, from now on: it answers pings, and stops the worker at its end.
 * Returns 0, or -1 with errno set. */
int control_take_wire(struct control *self, int fd);

/* Drains the pipe that ends the dispatching thread's wait, and asks it to end where a stopping signal is in it. Those
 * signals' Python handlers do the same; but they need the main thread, which may have been about to wait for work when
 * the signal came, and then does not notice. */
void control_take_turn(struct control *self);

/* The signals that ask the dispatching thread to end: bit n is signal n. */
void control_use_stop_signals(struct control *self, uint64_t stop);

/* The calling thread takes `interrupt` from now on, whose Python handler is Loop.interrupt(); 0: no more. */
void control_use_signal(struct control *self, int interrupt);

/* `dump` has all stacks written to a descriptor, -1: standard error. 0: nothing does. */
void control_use_stacks(struct control *self, int dump, int fd);

/* The caller holds the lock. A run is listed, so that it can be cancelled, then started: its handler is about to run on
 * the calling thread. `dispatching`: that is the dispatching thread, which reads nothing meanwhile; where it is so already
 * when the run is listed (`is_dispatching`), the run is started before the lock is let go of. Ending what has ended is
 * legal. */
void control_list(struct control *self, struct run *run, bool is_dispatching);
void control_run(struct control *self, struct run *run, bool dispatching, uint64_t now_ns);
void control_end(struct control *self, struct run *run);

/* A run that goes on later, by control_run(), which may be on another thread; it is not interrupted meanwhile. */
void control_pause(struct control *self, struct run *run);

/* A connection_stream_callback with the control as userdata: has the stream go on. */
void control_wake_stream(void *userdata, struct stream *stream);

/* Cancels a run; as run_cancel(). */
void control_cancel_run(struct control *self, struct run *run, unsigned code, const char *reason, size_t size);

/* Cancels all streams, with a code and a reason. */
void control_cancel_streams(struct control *self, unsigned code, const char *reason);

/* The handler's code has returned: nothing is raised in its thread any more, also not what has been and has not come up
 * yet, which must come up nowhere else. Needs the GIL, and not the lock. */
void control_disarm(struct control *self, struct run *run);

/* The same, and the run waits to be entered again. */
void control_leave(struct control *self, struct run *run);

/* The dispatching thread of a shared loop wants the GIL, which a handler may keep for long; connection NULL: it is about
 * to wait for the connection itself. */
void control_stall(struct control *self, struct connection *connection);

/* To be called after control_run(), without the lock: wakes the control thread where it sleeps. */
static inline void control_rouse(struct control *self) {
  if (atomic_load(&self->asleep)) wake_signal(&self->poke);
}

/* Cancels all calls of a connection, NULL: of all. The caller holds the lock. */
void control_cancel_all(struct control *self, const struct connection *connection, const char *reason);

/* Has the handlers of other threads that are to be interrupted now raise the exception. Needs the GIL. */
void control_interrupt_threads(struct control *self, PyObject *exception);

/* The interrupting signal's Python handler: NULL with `exception` raised where the main thread's handler is to be
 * interrupted now, which it counts, else None. Needs the GIL. */
PyObject *control_interrupt(struct control *self, PyObject *exception);

/* A connection_cancel_callback with the control as userdata. */
bool control_cancel(void *userdata, struct connection *connection, uint64_t id, uint16_t code, const char *reason,
                    size_t size);

#endif
