#include "launch.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

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

static int take_pair(launch_site *self, pyproc_error **reterr) {
  (void)reterr;
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

static int reach_path(launch_site *self, pyproc_error **reterr) {
  char path[PRIVATE_PATH_SIZE];
  (void)reterr;
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

/* ---- a worker that somebody else runs ---- */

static int prepare_attached(launch_site *self, const struct options *options, int host_fd, launch_terms *terms,
                            pyproc_error **reterr) {
  (void)host_fd, (void)terms, (void)reterr;
  self->options = options;
  self->errnum = 0;
  return PYPROC_OK;
}

/* What may be otherwise in a moment: nobody listens yet, or is quick enough. */
static bool is_worth_another_try(int errnum) {
  return errnum == ENOENT || errnum == ECONNREFUSED || errnum == EAGAIN || errnum == EINTR;
}

static int connect_error(const char *path, int errnum, pyproc_error **reterr) {
  char text[128];
  int code = errnum == EACCES || errnum == EPERM ? PYPROC_E_PERMISSION_DENIED
             : errnum == EMFILE || errnum == ENFILE || errnum == ENOMEM || errnum == ENOBUFS
                 ? PYPROC_E_RESOURCE_EXHAUSTED
                 : PYPROC_E_UNAVAILABLE;
  return error_set(reterr, code, "option socket_path: cannot connect to %s: %s", path,
                   platform_error_text(errnum, text, sizeof text));
}

/* Who listens there must be ours, or the administrator's: what it answers is believed. */
static int check_peer(const struct options *options, int socket, pyproc_error **reterr) {
  uid_t uid;
  char text[128];
  if (options->peer_uid == PYPROC_OFF) return PYPROC_OK;
  if (platform_peer_uid(socket, &uid) < 0)
    return error_set(reterr, PYPROC_E_PERMISSION_DENIED, "option socket_path: who listens on %s cannot be told: %s",
                     options->socket_path, platform_error_text(errno, text, sizeof text));
  uid_t wanted = options->peer_uid > 0 ? (uid_t)options->peer_uid : geteuid();
  if (uid == wanted || uid == 0) return PYPROC_OK;
  return error_set(
      reterr, PYPROC_E_PERMISSION_DENIED,
      "option socket_path: user %lu listens on %s, which may be user %lu or root: set option peer_uid where "
      "that is right",
      (unsigned long)uid, options->socket_path, (unsigned long)wanted);
}

static int reach_attached(launch_site *self, pyproc_error **reterr) {
  int socket = platform_connect(self->options->socket_path);
  self->errnum = errno;
  if (socket < 0) {
    if (!is_worth_another_try(self->errnum)) connect_error(self->options->socket_path, self->errnum, reterr);
    return -1;
  }
  self->errnum = 0;
  if (check_peer(self->options, socket, reterr) >= 0) return socket;
  platform_close_fd(socket);
  return -1;
}

static void clear_attached(launch_site *self) {
  (void)self;
}

const launch launch_attached = {
    .is_attached = true, .prepare = prepare_attached, .reach = reach_attached, .clear = clear_attached};

const char *launch_last_reason(const launch_site *self, char *text, size_t size) {
  return self->errnum != 0 ? platform_error_text(self->errnum, text, size) : "it did not say hello";
}
