/* pools.h - the pools that are called: opened when they are first asked for, kept until the end. */
#ifndef BENCH_POOLS_H
#define BENCH_POOLS_H

#include <pyproc.h>
#include <stdint.h>
#include <sys/types.h>

typedef enum placement {
  PLACE_FREE,     /* where the kernel likes */
  PLACE_ONE_CPU,  /* the pool is opened by a thread that may use one processor only, as under taskset */
  PLACE_SAME_CPU, /* all are put on one processor once the pool is open, so that it cannot know */
  PLACE_APART     /* caller and workers are put on two processors once the pool is open */
} placement;

/* What kind of pool. All zero: the library's defaults, with one worker. */
typedef struct pool_spec {
  const char *protocol, *channel; /* options; NULL: the default */
  int64_t spin_us;                /* option */
  int workers;                    /* option; 0: one */
  const char *target;             /* option: a gRPC server of a peer */
  const char *preload;            /* option */
  placement placement;
  int quiet; /* no log: workers are to die */
} pool_spec;

enum { POOL_PIDS_MAX = 64 };

/* An open pool. */
typedef struct bench_pool {
  pyproc_pool *pool;
  pool_spec spec;
  int pid_count;
  pid_t pids[POOL_PIDS_MAX]; /* of the workers, as they were started */
} bench_pool;

/* The pool, or NULL and why there is none. What goes wrong otherwise ends the program. */
bench_pool *pools_get(const pool_spec *spec, const char **ret_why);

/* Puts the calling thread, and its threads to come, where the pool's spec wants it; back again when it is done. */
void pools_enter(const bench_pool *pool);
void pools_leave(const bench_pool *pool);

/* Opens one that is not kept; ends the program when it cannot. */
pyproc_pool *pool_open(const pool_spec *spec, bench_pool *ret_pids, pyproc_error **reterr);

void pools_close(void);

/* Which case runs, for bench_die. */
void bench_running(const char *name);

/* Says what went wrong and ends the program. */
void bench_die(const char *what, pyproc_error *error) __attribute__((noreturn));

#endif
