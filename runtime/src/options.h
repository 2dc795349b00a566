/*
 * options.h - a checked copy of the user's options, defaults filled in.
 */
#ifndef PYPROC_OPTIONS_H
#define PYPROC_OPTIONS_H

#include <pyproc_generated.h>
#include <stdbool.h>

#include "channel.h"
#include "codec.h"
#include "process_limits.h"

struct options {
  char *script, *python, *cwd; /* python: as given, or PYPROC_PYTHON, or "python3" */
  char *preload;               /* "numpy,pandas", without blanks; NULL: nothing */
  char **args, **env;          /* NULL-terminated copies, or NULL */
  const pyproc_service *const *services;
  const struct codec *codec;
  bool bare_workers;                                                /* handshake "none": those of the Go library */
  bool grpc;                                                        /* protocol is "grpc" */
  char *target;                                                     /* NULL: workers */
  char *socket_path;                                                /* absolute; NULL: workers of our own */
  int64_t peer_uid;                                                 /* with that; 0: our own, PYPROC_OFF: any */
  char *tls_ca_file, *tls_cert_file, *tls_key_file, *authorization; /* NULL: none */
  channel_choice channel;
  int64_t ring_bytes;
  int64_t workers, max_in_flight, queue_limit, start_timeout_ms, call_timeout_ms, cancel_grace_ms, drain_timeout_ms;
  int64_t spin_ns; /* 0: never */
  int64_t frame_limit, log_level;
  int64_t restart_max, restart_window_ms;                     /* restart_max 0: without bound */
  int64_t breaker_failures, breaker_cooldown_ms;              /* breaker_failures 0: never */
  int64_t health_interval_ms, health_timeout_ms;              /* health_interval_ms 0: never */
  int64_t poison_limit, poison_rest_ms;                       /* poison_limit 0: never */
  int64_t recycle_calls, recycle_rss_bytes, recycle_age_ms;   /* 0: never */
  int64_t max_streams, stream_window, stream_idle_timeout_ms; /* INT64_MAX: off */
  process_limits limits;
  int64_t clear_env; /* 1: workers do not get the host's */
  pyproc_log_callback *log;
  void *log_userdata;
  pyproc_event_callback *event;
  void *event_userdata;
};

/* Checks and copies. INVALID_ARGUMENT names option and value, UNIMPLEMENTED an option of a later version. On failure
 * nothing is left. */
int options_copy(struct options *to, const pyproc_pool_options *from, pyproc_error **reterr);
void options_free(struct options *self);

/* Whether a pool that is open with `now` can go on with `wanted`. INVALID_ARGUMENT names what cannot change. */
int options_check_change(const struct options *now, const struct options *wanted, pyproc_error **reterr);

/* A sized struct of the user's: copies what this library knows of it into `to` (of `size` bytes, zeroed).
 * INVALID_ARGUMENT when its size is 0 or its unknown tail is not all zero. `what` names it. */
int options_copy_sized(void *to, size_t size, const void *from, const char *what, pyproc_error **reterr);

#endif
