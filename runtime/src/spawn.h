/*
 * spawn.h - starts a program in a process of its own, from within a host with threads and settings of its own.
 *
 * Nothing of the host is touched: not its signal handlers, not its environment, not its directory; the calling
 * thread's signal mask is as before when the call returns.
 */
#ifndef PYPROC_SPAWN_H
#define PYPROC_SPAWN_H

#include "pyproc.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "process_limits.h"

#define SPAWN_FD_MAX 16

typedef struct spawn_request {
  const char *program; /* path; or a name, which is looked up on PATH of `envp` (without one there, the host's) */
  char *const *argv;   /* NULL-terminated, argv[0] included */
  char *const *envp;   /* NULL-terminated; NULL: the host's */
  const char *cwd;     /* NULL: the host's. A relative `program` is relative to the host's all the same */
  const int *fds;      /* fds[i] becomes descriptor i of the child; -1: /dev/null. They may repeat and overlap */
  size_t fd_count;     /* at most SPAWN_FD_MAX */
  bool dies_with_host; /* it is killed when the calling thread ends, where the system can do that */
  const process_limits *limits; /* NULL: none. `cwd` and `program` are looked at as their user */
} spawn_request;

/*
 * Starts the program as leader of a new process group, with default signal handlers, an empty signal mask, and no
 * descriptor but those of `fds`. Returns when the program has been executed, or has failed to.
 *
 * *ret_watch_fd polls readable or hung up when the process ends; the caller closes it, and takes the exit status
 * with platform_reap(*ret_pid, *ret_watch_fd, …). Where the system has no pidfd it is the end of a pipe that the
 * child inherits as descriptor `fd_count`, which a child of the child may keep open: look with platform_reap now and
 * then, too.
 *
 * Errors: NOT_FOUND (program, its interpreter or cwd), PERMISSION_DENIED, INVALID_ARGUMENT, FAILED_PRECONDITION (not
 * a program), RESOURCE_EXHAUSTED (processes, descriptors, memory), and those of process_limits_error. No process is left
 * then.
 */
int spawn_process(const spawn_request *request, pid_t *ret_pid, int *ret_watch_fd, pyproc_error **reterr);

/* Writes the path of an executable file to `path`: `name` itself where it contains a slash, else the first on the
   host's PATH. Errors: NOT_FOUND, PERMISSION_DENIED (there, but not executable), INVALID_ARGUMENT (empty, or longer
   than `size`). */
int spawn_find_program(const char *name, char *path, size_t size, pyproc_error **reterr);

/* The library's defaults, then the host's environment, unless `is_clear`, then `added`, then `own`, each a NULL-terminated
   list of "NAME=value" or NULL; of a name that stands in several the last value counts. One block, freed with free(); NULL
   when out of memory. As with getenv, the host must not change its environment meanwhile. */
char **spawn_environment(bool is_clear, const char *const *added, const char *const *own);

#endif
