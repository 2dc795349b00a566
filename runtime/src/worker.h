/*
 * worker.h - one worker's place in a pool: the state machine of the process that fills it. All functions run on the
 * supervisor's thread, but for those of the connection's owner, which only raise flags.
 *
 *   DOWN      nothing runs; the next start is due at `due_ns`
 *   WAITING   to be forked by the zygote, which has yet to answer
 *   STARTING  spawned; has to be reached, and ready, until `start_due_ns`
 *   READY     gets calls
 *   RETIRING  gets no more calls, and ends those that it has, at most until `due_ns`
 *   LEAVING   told to end, the next step at `due_ns`: by the end of its input, or, where it hangs, asked for its stacks; then
 *             SIGTERM, then SIGKILL
 *   GONE      ended and reaped; a calling thread is still inside the connection
 */
#ifndef PYPROC_WORKER_H
#define PYPROC_WORKER_H

#include "admission.h"
#include "breaker.h"
#include "health.h"
#include "launch.h"
#include "log.h"
#include "options.h"
#include "platform.h"
#include "poller.h"
#include "zygote.h"

typedef enum worker_state {
  WORKER_DOWN,
  WORKER_WAITING,
  WORKER_STARTING,
  WORKER_READY,
  WORKER_RETIRING,
  WORKER_LEAVING,
  WORKER_GONE
} worker_state;

/* What the poller's events point to. */
typedef enum worker_source {
  WORKER_PROCESS,
  WORKER_SOCKET,
  WORKER_STDOUT,
  WORKER_STDERR,
  WORKER_SOURCES
} worker_source;

/* How far a process that is to end has been made to, `leaving_step`. */
enum { STEP_STACKS, STEP_ASKED, STEP_TERMINATED, STEP_KILLED };

/* Why a process is thought to hang. */
typedef enum worker_hang {
  HANG_NONE,
  HANG_SILENT, /* it does not answer pings */
  HANG_STILL,  /* requests wait, and it begins none */
  HANG_CALL    /* a handler went on past its deadline and the grace; the process has killed itself for it */
} worker_hang;

/* What processes are started with. The pool's first one lives as long as the pool, later ones as long as places refer to
 * them. */
typedef struct worker_edition {
  struct worker_edition *next; /* the roster's */
  const struct options *options;
  const char *python;    /* absolute */
  struct options *owned; /* freed with it; NULL: nothing is */
  int revision;          /* of the options and of what lies where they point to: each reload gives a higher one */
} worker_edition;

struct worker;
typedef struct worker_watch {
  poller_watch base; /* first: the poller's tag */
  struct worker *worker;
  worker_source source;
} worker_watch;

/* What the workers of a pool share; the supervisor owns it. */
typedef struct worker_shop {
  const struct options *options; /* what holds for all editions */
  const struct launch *launch;
  const char *bootstrap; /* absolute; where `launch` has one */
  struct admission *admission;
  poller *poller;
  log_queue *log;
  const wake *wake; /* to the supervisor */
  int host_fd;      /* inherited by workers: readable once this process is dead */
  bool has_pidfds;  /* the system has */
  zygote *zygotes;
  atomic_bool busy;     /* the supervisor is in a callback */
  atomic_bool lopsided; /* the supervisor should look at the balance of calls */
  atomic_bool closing;
  breaker breaker; /* the supervisor's */
  _Atomic int64_t restarts;
} worker_shop;

/* The ends of a worker's output: [0] reads, [1] writes. */
typedef struct worker_pipes {
  int out[2], err[2];
} worker_pipes;

struct worker {
  worker_shop *shop;
  const worker_edition *edition;
  int index;
  int revision;   /* of the edition when the process was started */
  bool is_wanted; /* is started anew when it has ended, or has failed to start */
  struct connection *connection;
  worker_state state;
  int64_t due_ns;     /* INT64_MAX: nothing is due */
  int64_t restart_ns; /* when the place is to be used again */
  int64_t start_due_ns;
  launch_site site;
  bool is_reached;        /* the connection was opened */
  int64_t reach_pause_ms; /* before the next try */
  int leaving_step;
  pid_t pid;
  int process_fd;     /* see spawn_process; of a forked one, that of `child` */
  zygote_child child; /* WAITING, and while a forked process is there; else zeroed */
  worker_pipes pipes; /* WAITING: ours */
  worker_watch watches[WORKER_SOURCES];
  log_stream *streams[2];
  log_tail *tail;
  int stacks_fd;           /* of the process, stacks.h; -1: none */
  size_t stacks_logged;    /* bytes of them that the log has */
  platform_oom oom_before; /* when it was started */
  health health;
  worker_hang hang;
  bool hang_told;
  backoff backoff;                /* after starts that failed, and processes that died before a good call */
  bool has_failed;                /* that happened just now: for the guard, who takes it back */
  bool is_probe;                  /* may be started also while the breaker is half open */
  bool is_held;                   /* its start is due, and the breaker does not allow it */
  pyproc_error *verdict;          /* why the supervisor ends it; NULL: it does not */
  pyproc_error *last_error;       /* of the last process in this place */
  bool may_have_ended;            /* its watch said so */
  _Atomic uint32_t socket_events; /* POLLER_* that its socket is watched for; at least these */
  atomic_bool is_retiring, became_ready, became_broken, became_idle, wants_watch, wants_pump;
};

/* Somebody else runs it: there is a connection and no process. */
static inline bool worker_is_attached(const struct worker *self) {
  return self->shop->launch->is_attached;
}

/* For people to read. Of an attached worker it is what that says of itself; `pid`, which is signalled, is 0 then. */
static inline pid_t worker_pid(const struct worker *self) {
  return worker_is_attached(self) ? self->connection->peer_pid : self->pid;
}

/* Nobody needs to be told that it has ended. */
static inline bool worker_is_expected(const struct worker *self) {
  return atomic_load(&self->shop->closing) || !self->is_wanted;
}

/* In place. The connection must be created by the caller with worker_connection_owner and the worker as owner. */
void worker_init(struct worker *self, worker_shop *shop);

/* A process shall run in the place from now on. The state is WORKER_DOWN. */
void worker_employ(struct worker *self, const worker_edition *edition, int index);

/* Starts it now, where the breaker has held it back. */
void worker_release(struct worker *self);

/* No process shall run there any more: one that is ready first ends the calls that it has, at most for `drain_ms`, all
 * others end at once. */
void worker_dismiss(struct worker *self, int64_t drain_ms);
extern const connection_owner worker_connection_owner;

/* Does what is due and returns when to call again (CLOCK_MONOTONIC ns). */
int64_t worker_step(struct worker *self, int64_t now_ns);

/* Tells a running worker to end; `grace_ms` until it is made to. */
void worker_leave(struct worker *self, int64_t grace_ms);

/* Runs the event callback, if there is one. */
void worker_tell(worker_shop *shop, pid_t pid, int kind, const char *text, const pyproc_crash *crash);

/* An edition with a copy of `python`, which takes over the options and their memory, from malloc; NULL: out of memory. */
worker_edition *worker_edition_new(struct options *options, const char *python);
void worker_edition_free(worker_edition *edition);

/* Frees what the place holds. The state is WORKER_DOWN, but in a forked child of the host. */
void worker_clear(struct worker *self);

#endif
