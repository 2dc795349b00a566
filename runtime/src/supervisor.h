/*
 * supervisor.h - the pool's one thread: starts and watches workers, reads their logs, runs the user's callbacks, and
 * reads what workers owe when no caller does.
 */
#ifndef PYPROC_SUPERVISOR_H
#define PYPROC_SUPERVISOR_H

#include "admission.h"
#include "options.h"

struct supervisor;
struct change;

enum { SUPERVISOR_PATH_SIZE = 4096 };

/* What else the thread does: `run` returns when it is due again (CLOCK_MONOTONIC ns; INT64_MAX: never). */
typedef struct supervisor_tick {
  int64_t (*run)(void *argument, int64_t now_ns);
  void *argument;
} supervisor_tick;

/* Starts the thread and the workers, and waits until all of them are ready, or one has failed, which is the error.
 * `options`, `lot` and `admission` must outlive it; the connections are created here and put into `admission`. */
int supervisor_open(const struct options *options, struct lot *lot, struct admission *admission, supervisor_tick tick,
                    struct supervisor **ret_supervisor, pyproc_error **reterr);

/* Ends the workers (asked at first, killed after options.drain_timeout_ms) and the thread, and waits for both. */
void supervisor_stop(struct supervisor *self);

/* Frees everything; no call is inside a connection any more. In a forked child, where the thread does not exist, it
 * may be called without supervisor_stop. */
void supervisor_free(struct supervisor *self);

/* Makes it look again at what is due. Any thread. */
void supervisor_wake(struct supervisor *self);

/* Any thread. */
int supervisor_ready_workers(const struct supervisor *self);
int supervisor_wanted_workers(const struct supervisor *self);
bool supervisor_breaker_is_open(const struct supervisor *self); /* calls fail at once */
int64_t supervisor_restarts(const struct supervisor *self);

/* Looks for script and interpreter of a pool; `path` gets the latter. NOT_FOUND, PERMISSION_DENIED, INVALID_ARGUMENT. */
int supervisor_find_python(const struct options *options, char *path, size_t size, pyproc_error **reterr);

/* Has a change (roster.h) made, and waits until it is over; one after the other. `workers` 0: as many as there are.
 * Any thread. UNAVAILABLE: the pool was closed meanwhile. */
int supervisor_change(struct supervisor *self, struct change *wanted, pyproc_error **reterr);

/* A copy of the last worker's failure, or NULL. Any thread. */
pyproc_error *supervisor_last_error(struct supervisor *self);

#endif
