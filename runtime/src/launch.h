/*
 * launch.h - how a worker's process is told where to meet its host, and is reached there: by a socket that it
 * inherits, or on a path that it listens on.
 *
 * Called on the supervisor's thread.
 */
#ifndef PYPROC_LAUNCH_H
#define PYPROC_LAUNCH_H

#include <stdbool.h>

#include "options.h"
#include "private_dir.h"

enum { LAUNCH_FDS = 2, LAUNCH_VARIABLES = 2, LAUNCH_VARIABLE_SIZE = PRIVATE_PATH_SIZE + 24 };

/* Where one process is met. */
typedef struct launch_site {
  int ours, theirs;   /* a socketpair; -1: none */
  private_dir folder; /* of the path */
  const struct options *options;
  int errnum; /* of the last try to connect */
} launch_site;

#define LAUNCH_SITE_INIT \
  { .ours = -1, .theirs = -1 }

/* What the process is given beside its standard streams. */
typedef struct launch_terms {
  int fds[LAUNCH_FDS]; /* descriptors 3 and up */
  int fd_count;
  char variables[LAUNCH_VARIABLES][LAUNCH_VARIABLE_SIZE]; /* "NAME=value" */
  int variable_count;
} launch_terms;

typedef struct launch {
  bool is_attached;    /* no process is started: somebody else runs it, and we only connect */
  bool has_bootstrap;  /* the script is run by ours, which finds our package */
  bool dies_with_host; /* the process cannot be expected to watch its host */
  int stop_signal;     /* what asks it to end; 0: the end of its input */
  const char *task;    /* what the script has to do to be ready: "does … <task>?" */

  /* Before the process is started, or reached. `options` lives until the site is cleared. `host_fd` is for the process to watch us. On failure nothing is left. */
  int (*prepare)(launch_site *self, const struct options *options, int host_fd, launch_terms *terms,
                 pyproc_error **reterr);
  /* The connected socket, which is the caller's from then on; -1: not yet, try again, or, with *reterr, there will be
   * none. Never blocks. */
  int (*reach)(launch_site *self, pyproc_error **reterr);
  /* Gives up what is not needed any more once the process was reached, or has ended. Again is fine. */
  void (*clear)(launch_site *self);
} launch;

extern const launch launch_inherited; /* our worker package: a socketpair */
extern const launch launch_listening; /* a worker of the Go library: PYPROC_SOCKET_PATH */
extern const launch launch_attached;  /* option socket_path */

/* Why nobody was reached there, as far as that is known: for the end of a sentence. */
const char *launch_last_reason(const launch_site *self, char *text, size_t size);

#endif
