/*
 * roster.h - the places for workers of a pool, and how one process gives way to another: recycling, reload, resize.
 *
 * A worker is replaced by a successor with the same index, which is started in a spare place. As soon as it is ready
 * the old one gets no more calls, ends those that it has, and leaves. One replacement at a time, so that no more
 * processes run than one beside those that are wanted.
 *
 * Supervisor's thread only, but where noted.
 */
#ifndef PYPROC_ROSTER_H
#define PYPROC_ROSTER_H

#include "worker.h"

enum { ROSTER_MAX = 2048 }; /* places: the most workers, and a successor of each */

typedef enum change_kind { CHANGE_RELOAD, CHANGE_RESIZE } change_kind;

/* What a caller of the public API wants done, and what became of it. */
struct change {
  change_kind kind;
  worker_edition *edition; /* of a reload; the roster's from then on */
  int workers;             /* that shall be there afterwards */
  pyproc_error *error;     /* NULL: done as asked */
  atomic_bool is_done;     /* set last, by the supervisor */
};
typedef struct change change;

typedef struct roster_entry {
  struct worker worker;
  struct roster_entry *successor, *predecessor; /* while one is about to replace the other */
  uint64_t recycle_calls;                       /* of the process that runs, with jitter; 0: never */
  int64_t recycle_ns, recycle_rss_bytes;        /* likewise */
} roster_entry;

typedef struct roster {
  worker_shop *shop;
  const protocol *protocol;
  connection_settings settings;
  roster_entry *entries[ROSTER_MAX];
  struct connection *connections[ROSTER_MAX];
  int count; /* places that exist: they only get more */
  worker_edition first;
  worker_edition *editions; /* that came by reloads */
  worker_edition *current,
      *previous;                   /* what new processes are started with; and what it was before a reload under way */
  int revision, previous_revision; /* the highest that was given; and that of `previous` */
  change *change;                  /* under way, or NULL */
  int replaced;                    /* since it began */
  roster_entry *added;             /* by it, and not ready yet */
  int64_t looked_ns;               /* when calls and memory were last compared */
} roster;

/* Employs `options.workers` workers. */
int roster_open(roster *self, worker_shop *shop, const protocol *spoken, const connection_settings *settings,
                const char *python, pyproc_error **reterr);

/* Frees all places; none has a process. */
void roster_close(roster *self);

/* Does what is due beyond each worker's own steps. Returns when to look again. */
int64_t roster_step(roster *self, int64_t now_ns);

/* Begins a change; it is over when `is_done` is set by a step. */
void roster_begin(roster *self, change *wanted);

/* Ends a change that is under way. */
void roster_abandon(roster *self, int code, const char *why);

#endif
