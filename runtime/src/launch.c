#include "launch.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "error.h"
#include "platform.h"

enum { FD_WORKER = 3, FD_HOST };

/* ---- a socket that is inherited ---- */

static int prepare_pair(launch_site *self, const struct options *options, int host_fd, launch_terms *terms,
                        pyproc_error **reterr) {
  char text[128];
  int pair[2];
  (void)options;
  if (platform_socketpair(pair) < 0)
    return error_set(reterr, PYPROC_E_RESOURCE_EXHAUSTED, "no socket for a worker: %s (limit of open files: ulimit -n)",
                     platform_error_text(errno, text, sizeof text));
  self->ours = pair[0];
  self->theirs = pair[1];
  *terms = (launch_terms){.fds = {self->theirs, host_fd}, .fd_count = 2, .variable_count = 2};
  snprintf(terms->variables[0], LAUNCH_VARIABLE_SIZE, "PYPROC_WORKER_FD=%d", FD_WORKER);
  snprintf(terms->variables[1], LAUNCH_VARIABLE_SIZE, "PYPROC_HOST_FD=%d", FD_HOST);
  return PYPROC_OK;
}

static int take_pair(launch_site *self) {
  int socket = self->ours;
  self->ours = -1;
  return socket;
}

static void clear_pair(launch_site *self) {
  platform_close_fd(self->ours);
  platform_close_fd(self->theirs);
  self->ours = self->theirs = -1;
}

const launch launch_inherited = {
    .has_bootstrap = true, .task = "call serve()", .prepare = prepare_pair, .reach = take_pair, .clear = clear_pair};

/* ---- a path that is listened on ---- */

static void path_of(const launch_site *self, char path[PRIVATE_PATH_SIZE]) {
  private_dir_name(&self->folder, "worker.sock", path);
}

static int prepare_path(launch_site *self, const struct options *options, int host_fd, launch_terms *terms,
                        pyproc_error **reterr) {
  char path[PRIVATE_PATH_SIZE];
  (void)host_fd; /* it knows nothing of it */
  int result = private_dir_open(&self->folder, reterr);
  if (result >= 0) result = process_limits_give_folder(&options->limits, self->folder.path, reterr);
  if (result < 0) {
    private_dir_remove(&self->folder);
    return result;
  }
  path_of(self, path);
  *terms = (launch_terms){.variable_count = 1};
  snprintf(terms->variables[0], LAUNCH_VARIABLE_SIZE, "PYPROC_SOCKET_PATH=%s", path);
  return PYPROC_OK;
}

static int reach_path(launch_site *self) {
  char path[PRIVATE_PATH_SIZE];
  path_of(self, path);
  return platform_connect(path);
}

/* Nobody else is to connect: the path is of no more use once we have. */
static void clear_path(launch_site *self) {
  private_dir_remove(&self->folder);
}

const launch launch_listening = {.dies_with_host = true,
                                 .stop_signal = SIGINT, /* as the Go library does */
                                 .task = "listen on PYPROC_SOCKET_PATH and answer the method health",
                                 .prepare = prepare_path,
                                 .reach = reach_path,
                                 .clear = clear_path};
