#include "options.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "error.h"
#include "platform.h"
#include "wire/frame.h"
#include "wire/status_page.h"

enum { SIZE_MAX_SANE = 64 << 10, LIST_MAX = 65536, SPIN_US_DEFAULT = 50, DAY_MS = 86400000 };

/* One numeric option: its place on both sides, what 0 means, and what is allowed. */
typedef struct number_option {
  const char *name;
  size_t from, to;
  int64_t fallback, lowest, highest;
  bool can_be_off, can_be_unlimited;
  int64_t off, unlimited; /* what these become */
} number_option;

#define NUMBER(option, member) \
  .name = #option, .from = offsetof(pyproc_pool_options, option), .to = offsetof(struct options, member)

static const number_option numbers[] = {
    {NUMBER(workers, workers), .fallback = 0, .lowest = 1, .highest = 1024},
    {NUMBER(max_in_flight, max_in_flight), .fallback = 1024, .lowest = 1, .highest = STATUS_PAGE_SLOTS},
    {NUMBER(queue_limit, queue_limit), .fallback = 10000, .lowest = 1, .highest = INT32_MAX, .can_be_off = true,
     .off = 0, .can_be_unlimited = true, .unlimited = INT64_MAX},
    {NUMBER(start_timeout_ms, start_timeout_ms), .fallback = 30000, .lowest = 1, .highest = DAY_MS},
    {NUMBER(call_timeout_ms, call_timeout_ms), .fallback = 60000, .lowest = 1, .highest = INT64_MAX},
    {NUMBER(cancel_grace_ms, cancel_grace_ms), .fallback = 1000, .lowest = 1, .highest = DAY_MS},
    {NUMBER(drain_timeout_ms, drain_timeout_ms), .fallback = 5000, .lowest = 1, .highest = DAY_MS, .can_be_off = true,
     .off = 0},
    {NUMBER(spin_us, spin_ns), .fallback = SPIN_US_DEFAULT, .lowest = 1, .highest = 1000000, .can_be_off = true,
     .off = 0},
    {NUMBER(frame_limit_bytes, frame_limit), .fallback = WIRE_FRAME_LIMIT_DEFAULT, .lowest = WIRE_FRAME_LIMIT_MIN,
     .highest = WIRE_FRAME_LIMIT_MAX},
    {NUMBER(max_streams, max_streams), .fallback = 64, .lowest = 1, .highest = 1024},
    {NUMBER(stream_window_bytes, stream_window), .fallback = WIRE_STREAM_WINDOW_DEFAULT,
     .lowest = WIRE_STREAM_WINDOW_MIN, .highest = WIRE_STREAM_WINDOW_MAX},
    {NUMBER(stream_idle_timeout_ms, stream_idle_timeout_ms), .fallback = 300000, .lowest = 1, .highest = DAY_MS,
     .can_be_off = true, .off = INT64_MAX},
    {NUMBER(log_level, log_level), .fallback = PYPROC_LOG_INFO, .lowest = PYPROC_LOG_DEBUG, .highest = PYPROC_LOG_ERROR,
     .can_be_off = true, .off = PYPROC_OFF},
};

static int copy_number(struct options *to, const pyproc_pool_options *from, const number_option *option,
                       pyproc_error **reterr) {
  int64_t value, *place = (int64_t *)(void *)((char *)to + option->to);
  memcpy(&value, (const char *)from + option->from, sizeof value);
  if (value == 0)
    *place = option->fallback;
  else if (value == PYPROC_OFF && option->can_be_off)
    *place = option->off;
  else if (value == PYPROC_UNLIMITED && option->can_be_unlimited)
    *place = option->unlimited;
  else if (value >= option->lowest && value <= option->highest)
    *place = value;
  else
    return error_set(reterr, PYPROC_E_INVALID_ARGUMENT,
                     "option %s is %" PRId64 "; allowed are %" PRId64 " to %" PRId64 ", 0 (default %" PRId64 ")%s%s",
                     option->name, value, option->lowest, option->highest, option->fallback,
                     option->can_be_off ? ", PYPROC_OFF" : "", option->can_be_unlimited ? ", PYPROC_UNLIMITED" : "");
  return PYPROC_OK;
}

static int copy_text(char **to, const char *from, pyproc_error **reterr) {
  if (from == NULL) return PYPROC_OK;
  *to = strdup(from);
  return *to != NULL ? PYPROC_OK : error_set(reterr, PYPROC_E_RESOURCE_EXHAUSTED, "out of memory");
}

static void free_list(char **list) {
  for (size_t i = 0; list != NULL && list[i] != NULL; i++) free(list[i]);
  free(list);
}

static int copy_list(char ***to, const char *const *from, const char *name, pyproc_error **reterr) {
  size_t count = 0;
  if (from == NULL) return PYPROC_OK;
  while (count <= LIST_MAX && from[count] != NULL) count++;
  if (count > LIST_MAX)
    return error_set(reterr, PYPROC_E_INVALID_ARGUMENT,
                     "option %s has more than %d entries, or no NULL behind the last", name, LIST_MAX);
  char **list = calloc(count + 1, sizeof *list);
  if (list == NULL) return error_set(reterr, PYPROC_E_RESOURCE_EXHAUSTED, "out of memory");
  for (size_t i = 0; i < count; i++) {
    int result = copy_text(&list[i], from[i], reterr);
    if (result >= 0) continue;
    free_list(list);
    return result;
  }
  *to = list;
  return PYPROC_OK;
}

static int check_env(const struct options *self, pyproc_error **reterr) {
  for (size_t i = 0; self->env != NULL && self->env[i] != NULL; i++)
    if (strchr(self->env[i], '=') == NULL || self->env[i][0] == '=')
      return error_set(reterr, PYPROC_E_INVALID_ARGUMENT, "option env has \"%s\"; write NAME=value", self->env[i]);
  return PYPROC_OK;
}

static bool is_number_set(int64_t value) {
  return value != 0 && value != PYPROC_OFF;
}

static int refuse_later(const pyproc_pool_options *from, pyproc_error **reterr) {
  const struct {
    const char *name;
    bool is_set;
  } later[] = {
      {"handshake", from->handshake != NULL},
      {"target", from->target != NULL},
      {"socket_path", from->socket_path != NULL},
      {"preload", from->preload != NULL},
      {"loaded", from->loaded != NULL},
      {"recycle_calls", is_number_set(from->recycle_calls)},
      {"recycle_rss_bytes", is_number_set(from->recycle_rss_bytes)},
      {"recycle_age_ms", is_number_set(from->recycle_age_ms)},
  };
  for (size_t i = 0; i < sizeof later / sizeof *later; i++)
    if (later[i].is_set)
      return error_set(reterr, PYPROC_E_UNIMPLEMENTED, "option %s is not part of this version; leave it 0",
                       later[i].name);
  if (from->channel != NULL && strcmp(from->channel, "uds") != 0 && strcmp(from->channel, "auto") != 0)
    return error_set(reterr, PYPROC_E_INVALID_ARGUMENT, "option channel is \"%s\"; allowed are \"auto\" and \"uds\"",
                     from->channel);
  return PYPROC_OK;
}

static int choose_codec(struct options *to, const char *protocol, pyproc_error **reterr) {
  to->codec = protocol == NULL ? &codec_protobuf : codec_find(protocol);
  if (to->codec != NULL) return PYPROC_OK;
  return error_set(reterr, PYPROC_E_INVALID_ARGUMENT,
                   "option protocol is \"%s\"; allowed are \"protobuf\" (default) and \"json\"", protocol);
}

/* The default follows the machine: a worker runs one handler at a time. */
static int64_t default_workers(void) {
  return platform_cpu_count();
}

static int copy_numbers(struct options *to, const pyproc_pool_options *from, pyproc_error **reterr) {
  for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
    int result = copy_number(to, from, &numbers[i], reterr);
    if (result < 0) return result;
  }
  if (to->workers == 0) to->workers = default_workers();
  to->spin_ns *= 1000;
  return PYPROC_OK;
}

/* Absolute: neither option cwd nor a later chdir of the host changes what is meant. */
static int copy_path(char **to, const char *from, pyproc_error **reterr) {
  char folder[PATH_MAX], text[128];
  if (from[0] == '/') return copy_text(to, from, reterr);
  if (getcwd(folder, sizeof folder) == NULL)
    return error_set(reterr, PYPROC_E_FAILED_PRECONDITION,
                     "option script: %s is relative, and the current folder is unknown: %s", from,
                     platform_error_text(errno, text, sizeof text));
  size_t size = strlen(folder) + strlen(from) + 2;
  *to = malloc(size);
  if (*to == NULL) return error_set(reterr, PYPROC_E_RESOURCE_EXHAUSTED, "out of memory");
  snprintf(*to, size, "%s/%s", folder, from);
  return PYPROC_OK;
}

static int copy_texts(struct options *to, const pyproc_pool_options *from, pyproc_error **reterr) {
  const char *python = from->python != NULL ? from->python : getenv("PYPROC_PYTHON");
  if (from->script == NULL || *from->script == '\0')
    return error_set(reterr, PYPROC_E_INVALID_ARGUMENT, "option script is missing: set it to the worker's Python file");
  int result = copy_path(&to->script, from->script, reterr);
  if (result >= 0) result = copy_text(&to->python, python != NULL && *python != '\0' ? python : "python3", reterr);
  if (result >= 0) result = copy_text(&to->cwd, from->cwd, reterr);
  if (result >= 0) result = copy_list(&to->args, from->args, "args", reterr);
  if (result >= 0) result = copy_list(&to->env, from->env, "env", reterr);
  return result >= 0 ? check_env(to, reterr) : result;
}

int options_copy_sized(void *to, size_t size, const void *from, const char *what, pyproc_error **reterr) {
  size_t given;
  memcpy(&given, from, sizeof given);
  if (given < sizeof given || given > SIZE_MAX_SANE)
    return error_set(reterr, PYPROC_E_INVALID_ARGUMENT, "%s.size is %zu; initialise the struct with its _INIT", what,
                     given);
  for (size_t i = size; i < given; i++)
    if (((const unsigned char *)from)[i] != 0)
      return error_set(reterr, PYPROC_E_INVALID_ARGUMENT, "%s has something set that this library (%s) does not know",
                       what, pyproc_version());
  memset(to, 0, size);
  memcpy(to, from, given < size ? given : size);
  return PYPROC_OK;
}

int options_copy(struct options *to, const pyproc_pool_options *from, pyproc_error **reterr) {
  pyproc_pool_options given;
  if (from == NULL) return error_set(reterr, PYPROC_E_INVALID_ARGUMENT, "options is NULL");
  int result = options_copy_sized(&given, sizeof given, from, "pyproc_pool_options", reterr);
  if (result < 0) return result;
  *to = (struct options){.services = given.services,
                         .log = given.log,
                         .log_userdata = given.log_userdata,
                         .event = given.event,
                         .event_userdata = given.event_userdata};
  result = refuse_later(&given, reterr);
  if (result >= 0) result = choose_codec(to, given.protocol, reterr);
  if (result >= 0) result = copy_numbers(to, &given, reterr);
  if (result >= 0) result = copy_texts(to, &given, reterr);
  if (result < 0) options_free(to);
  return result;
}

void options_free(struct options *self) {
  free(self->script);
  free(self->python);
  free(self->cwd);
  free_list(self->args);
  free_list(self->env);
  *self = (struct options){0};
}
