/*
 * zygote.h - a Python that has imported what workers need (option preload) and forks them: the state machine of that
 * process. A pool has one for each revision of what its workers are started with that is in use.
 *
 *   DOWN      nothing runs; the next start is due at `due_ns`
 *   STARTING  spawned; imports, at most until `due_ns`
 *   READY     forks; a request under way is answered by `due_ns`
 *   LEAVING   told to end, or killed; is killed at `due_ns`
 *
 * Nothing here waits: what is asked for is answered later, and seen at the worker's next step. Supervisor's thread only.
 */
#ifndef PYPROC_ZYGOTE_H
#define PYPROC_ZYGOTE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "platform.h"
#include "pyproc.h"
#include "zygote_frame.h"

struct worker_shop;
struct worker_edition;
typedef struct zygote zygote;

typedef enum zygote_child_state {
  CHILD_NONE,    /* not asked for, or refused: `why` */
  CHILD_ASKED,   /* the answer is to come */
  CHILD_RUNS,    /* as far as is known */
  CHILD_REAPING, /* its exit status is asked for */
  CHILD_ENDED
} zygote_child_state;

/* A worker's share in a zygote. Zeroed: none. */
typedef struct zygote_child {
  zygote *zygote; /* NULL: none */
  struct zygote_child *next;
  zygote_child_state state;
  unsigned life;      /* which of the zygote's processes is the parent */
  pid_t pid;          /* from CHILD_RUNS on */
  int process_fd;     /* the end of the process; the worker's, who closes it */
  bool has_pidfd;     /* that tells it for sure; else it is a pipe, which children of the child may keep open */
  bool is_refused;    /* there is no child: `why` */
  int64_t asked_ns;   /* REAPING: since when */
  platform_exit exit; /* ENDED */
  char why[ZYGOTE_TEXT_MAX + 128];
} zygote_child;

typedef enum zygote_offer {
  ZYGOTE_LATER,     /* it imports, or does what another one has asked for: ask again at the next step */
  ZYGOTE_WILL_FORK, /* it was asked */
  ZYGOTE_CANNOT,    /* `why` of the child: start the worker without it */
  ZYGOTE_FAILS      /* a module cannot be imported: `zygote_failure` */
} zygote_offer;

/* Makes the worker one of the zygote's of that edition, which is started if there is none yet. RESOURCE_EXHAUSTED. */
int zygote_join(struct worker_shop *shop, const struct worker_edition *edition, zygote_child *child,
                pyproc_error **reterr);

/* Whether it would fork now: ZYGOTE_WILL_FORK, but nothing was asked yet. */
zygote_offer zygote_ask(zygote_child *child, int64_t now_ns);

/* Asks for a fork; what zygote_ask says must have been ZYGOTE_WILL_FORK. `fds` are the child's standard output, standard
 * error, socket, and where its stacks go (-1: nowhere; else the environment has PYPROC_STACKS_FD), which may be closed when this returns. ZYGOTE_WILL_FORK, ZYGOTE_CANNOT. */
zygote_offer zygote_fork(zygote_child *child, const zygote_request *request, const int fds[4], int64_t now_ns);

/* Why it does not work at all; the zygote's. */
const pyproc_error *zygote_failure(const zygote_child *child);

/* Looks whether the child has ended, and has it waited for: 1 when *ret is written, 0: it runs, or the answer is to come.
 * Once it has ended, what is left of its group is killed. Of a child whose zygote has gone the status is not known. */
int zygote_reap(zygote_child *child, int64_t now_ns, platform_exit *ret);

/* The worker has no more to do with it. Zeroed is fine. */
void zygote_leave(zygote_child *child);

/* Does what is due for all of a pool. `revision` is the one that new workers are started with: zygotes of others end when
 * no worker is theirs any more; all do where `closing`. Returns when to call again. */
int64_t zygote_step_all(struct worker_shop *shop, int revision, bool closing, int64_t now_ns);

/* Frees them all; no process is left, but in a forked child of the host. */
void zygote_free_all(struct worker_shop *shop);

#endif
