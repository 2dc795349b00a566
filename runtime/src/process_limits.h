/*
 * process_limits.h - what a worker's process may take, and as whom it runs: the options of that kind, and their application
 * in a child between fork and exec.
 */
#ifndef PYPROC_PROCESS_LIMITS_H
#define PYPROC_PROCESS_LIMITS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "pyproc.h"

/* All zero: everything is as the host's. All of it is kept by children and over exec, so that a process which only forks
 * workers can have it in their place; but for the processor, which is one worker's. */
typedef struct process_limits {
  int64_t memory_bytes; /* RLIMIT_AS */
  int64_t cpu_seconds;  /* RLIMIT_CPU: SIGXCPU, and SIGKILL a second later */
  int64_t files;        /* RLIMIT_NOFILE */
  int64_t core_bytes;   /* RLIMIT_CORE; PYPROC_OFF: none, INT64_MAX: unlimited */
  int64_t nice;         /* added to the host's */
  int64_t uid, gid;     /* with gid goes the list of groups */
  int64_t umask;        /* the host's where 0 */
  int64_t no_new_privs; /* 0 or 1 */
  bool is_spread;       /* each worker has a processor of its own, by process_limits_spread */
  bool has_processor;   /* `processor` is the one */
  int processor;
} process_limits;

/* One of the above, in the order in which they are applied. */
typedef enum process_limit {
  LIMIT_MEMORY,
  LIMIT_CPU,
  LIMIT_FILES,
  LIMIT_CORE,
  LIMIT_NICE,
  LIMIT_AFFINITY,
  LIMIT_UMASK,
  LIMIT_GID,
  LIMIT_UID,
  LIMIT_NO_NEW_PRIVS,
  LIMIT_COUNT
} process_limit;

/* Whether these can be had together. INVALID_ARGUMENT names the options. */
int process_limits_check(const process_limits *self, pyproc_error **reterr);

/* Chooses the processor of worker `index`: the index-th, round and round, of those that the calling thread may use. Nothing
 * where affinity is not "spread", or the system has no such thing. */
void process_limits_spread(process_limits *self, int index);

/* Makes an inherited descriptor, a pipe or a socket, the user's that the child becomes, which can then open it by its
 * name too (/dev/stderr). A failure is left to who needs that. */
void process_limits_give(const process_limits *self, int fd);

/* The same for a folder in which the child has to make a socket. PERMISSION_DENIED where that cannot be. */
int process_limits_give_folder(const process_limits *self, const char *path, pyproc_error **reterr);

/* Applies all that is set to the calling process, which is a child between fork and exec, or one with a single thread:
 * async-signal-safe. -1 with errno; *ret_failed is what failed, what comes after it was not tried. */
int process_limits_apply(const process_limits *self, process_limit *ret_failed);

/* The error for that: it names the option, its value and what `errnum` says. `who` is what could not be started. */
int process_limits_error(const process_limits *self, process_limit failed, int errnum, const char *who,
                         pyproc_error **reterr);

#endif
