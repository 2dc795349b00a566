#include "options.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "error.h"
#include "option_table.h"
#include "platform.h"

enum { PRELOAD_SIZE = 4096, SIZE_MAX_SANE = 64 << 10, SOCKET_PATH_SIZE = sizeof((struct sockaddr_un *)0)->sun_path };

/* Where the checked copy has a number of the user's, and what PYPROC_OFF and PYPROC_UNLIMITED become there. */
typedef struct number_place {
  const char *name;
  size_t to;
  int64_t off, unlimited;
  bool can_change; /* while the pool is open */
} number_place;

#define PLACE(option, member) .name = #option, .to = offsetof(struct options, member)

static const number_place places[] = {
    {PLACE(workers, workers), .can_change = true},
    {PLACE(max_in_flight, max_in_flight)},
    {PLACE(queue_limit, queue_limit), .unlimited = INT64_MAX},
    {PLACE(start_timeout_ms, start_timeout_ms), .can_change = true},
    {PLACE(call_timeout_ms, call_timeout_ms)},
    {PLACE(cancel_grace_ms, cancel_grace_ms)},
    {PLACE(drain_timeout_ms, drain_timeout_ms)},
    {PLACE(spin_us, spin_ns)},
    {PLACE(frame_limit_bytes, frame_limit)},
    {PLACE(max_streams, max_streams)},
    {PLACE(stream_window_bytes, stream_window)},
    {PLACE(stream_idle_timeout_ms, stream_idle_timeout_ms), .off = INT64_MAX},
    {PLACE(recycle_calls, recycle_calls), .can_change = true},
    {PLACE(recycle_rss_bytes, recycle_rss_bytes), .can_change = true},
    {PLACE(recycle_age_ms, recycle_age_ms), .can_change = true},
    {PLACE(restart_max, restart_max)},
    {PLACE(restart_window_ms, restart_window_ms)},
    {PLACE(breaker_failures, breaker_failures)},
    {PLACE(breaker_cooldown_ms, breaker_cooldown_ms)},
    {PLACE(health_interval_ms, health_interval_ms)},
    {PLACE(health_timeout_ms, health_timeout_ms)},
    {PLACE(poison_limit, poison_limit)},
    {PLACE(poison_rest_ms, poison_rest_ms)},
    {PLACE(log_level, log_level), .off = PYPROC_OFF},
    {PLACE(shm_ring_bytes, ring_bytes)},
    {PLACE(memory_limit_bytes, limits.memory_bytes), .can_change = true},
    {PLACE(cpu_limit_seconds, limits.cpu_seconds), .can_change = true},
    {PLACE(files_limit, limits.files), .can_change = true},
    {PLACE(core_limit_bytes, limits.core_bytes), .off = PYPROC_OFF, .unlimited = INT64_MAX, .can_change = true},
    {PLACE(nice, limits.nice), .can_change = true},
    {PLACE(uid, limits.uid)}, /* the folder for sockets is theirs */
    {PLACE(gid, limits.gid)},
    {PLACE(umask, limits.umask), .can_change = true},
    {PLACE(no_new_privs, limits.no_new_privs), .can_change = true},
    {PLACE(clear_env, clear_env), .can_change = true},
    {PLACE(peer_uid, peer_uid), .off = PYPROC_OFF, .can_change = true},
};

static int copy_number(struct options *to, const pyproc_pool_options *from, const number_place *place,
                       pyproc_error **reterr) {
  const option_row *row = option_find(place->name);
  int64_t value, *at = (int64_t *)(void *)((char *)to + place->to);
  memcpy(&value, (const char *)from + row->offset, sizeof value);
  if (!option_allows(row, value)) {
    char allowed[OPTION_DESCRIPTION_SIZE];
    option_describe(row, allowed, sizeof allowed);
    return error_set(reterr, PYPROC_E_INVALID_ARGUMENT, "option %s is %" PRId64 "; %s", row->name, value, allowed);
  }
  if (value == 0)
    *at = row->fallback;
  else if (value == PYPROC_OFF)
    *at = place->off;
  else
    *at = value == PYPROC_UNLIMITED ? place->unlimited : value;
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
  while (count <= OPTION_LIST_MAX && from[count] != NULL) count++;
  if (count > OPTION_LIST_MAX)
    return error_set(reterr, PYPROC_E_INVALID_ARGUMENT,
                     "option %s has more than %d entries, or no NULL behind the last", name, OPTION_LIST_MAX);
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

/* Shared memory belongs to our own workers and our own frames. */
static int choose_channel(struct options *to, const pyproc_pool_options *from, pyproc_error **reterr) {
  const char *channel = from->channel != NULL ? from->channel : "auto";
  bool is_shm = strcmp(channel, "shm") == 0;
  const char *against = NULL; /* the option with which there is none */
  if (to->grpc)
    against = "protocol: workers with gRPC";
  else if (to->bare_workers)
    against = "handshake: workers with handshake \"none\"";
  else if (to->socket_path != NULL)
    against = "socket_path: attached workers";
  if (!is_shm && strcmp(channel, "uds") != 0 && strcmp(channel, "auto") != 0)
    return error_set(reterr, PYPROC_E_INVALID_ARGUMENT,
                     "option channel is \"%s\"; allowed are \"auto\" (default), \"uds\" and \"shm\"", channel);
  if (is_shm && against != NULL)
    return error_set(reterr, PYPROC_E_INVALID_ARGUMENT, "options channel and %s have no shared memory", against);
  if (is_shm && !platform_can_seal())
    return error_set(reterr, PYPROC_E_UNIMPLEMENTED,
                     "option channel is \"shm\", which this library was built without (it needs Linux); leave it "
                     "\"auto\"");
  if ((to->ring_bytes & (to->ring_bytes - 1)) != 0)
    return error_set(reterr, PYPROC_E_INVALID_ARGUMENT, "option shm_ring_bytes is %" PRId64 "; give a power of two",
                     to->ring_bytes);
  if (is_shm)
    to->channel = CHANNEL_CHOICE_SHM;
  else if (strcmp(channel, "auto") == 0 && against == NULL && platform_can_seal())
    to->channel = CHANNEL_CHOICE_AUTO;
  return PYPROC_OK;
}

static int choose_affinity(struct options *to, const pyproc_pool_options *from, pyproc_error **reterr) {
  to->limits.is_spread = from->affinity != NULL && strcmp(from->affinity, "spread") == 0;
  if (from->affinity == NULL || to->limits.is_spread || strcmp(from->affinity, "none") == 0) return PYPROC_OK;
  return error_set(reterr, PYPROC_E_INVALID_ARGUMENT,
                   "option affinity is \"%s\"; allowed are \"none\" (default) and \"spread\"", from->affinity);
}

static int choose_protocol(struct options *to, const pyproc_pool_options *from, pyproc_error **reterr) {
  const char *protocol = from->protocol;
  to->grpc = protocol != NULL ? strcmp(protocol, "grpc") == 0 : from->target != NULL;
  to->codec = protocol == NULL || to->grpc ? &codec_protobuf : codec_find(protocol);
  if (to->codec == NULL)
    return error_set(reterr, PYPROC_E_INVALID_ARGUMENT,
                     "option protocol is \"%s\"; allowed are \"protobuf\" (default), \"json\", \"grpc\", and what was "
                     "registered with pyproc_protocol_register",
                     protocol);
  if (from->target != NULL && !to->grpc)
    return error_set(reterr, PYPROC_E_INVALID_ARGUMENT,
                     "options target and protocol: a target speaks gRPC, but protocol is \"%s\"", protocol);
  return PYPROC_OK;
}

static int choose_handshake(struct options *to, const pyproc_pool_options *from, pyproc_error **reterr) {
  if (from->handshake == NULL || strcmp(from->handshake, "auto") == 0) return PYPROC_OK;
  if (strcmp(from->handshake, "none") != 0)
    return error_set(reterr, PYPROC_E_INVALID_ARGUMENT,
                     "option handshake is \"%s\"; allowed are \"auto\" (default) and \"none\"", from->handshake);
  if (from->protocol != NULL && strcmp(from->protocol, "json") != 0)
    return error_set(reterr, PYPROC_E_INVALID_ARGUMENT,
                     "option protocol is \"%s\" and option handshake is \"none\": such workers speak \"json\" only",
                     from->protocol);
  if (from->services != NULL)
    return error_set(
        reterr, PYPROC_E_INVALID_ARGUMENT,
        "option services is set and option handshake is \"none\": such workers do not tell their methods, so "
        "that there is nothing to check; leave services NULL");
  to->codec = &codec_json_bare;
  to->bare_workers = true;
  return PYPROC_OK;
}

/* ---- a server elsewhere ---- */

/* Options that are about processes, which there are none of. */
static int refuse_processes(const pyproc_pool_options *from, const char *instead, pyproc_error **reterr) {
  for (size_t i = 0; i < option_table_size; i++)
    if (option_table[i].is_for_processes && option_is_set(&option_table[i], from))
      return error_set(reterr, PYPROC_E_INVALID_ARGUMENT,
                       "options %s and %s: with a %s no worker is started, so leave %s 0", instead,
                       option_table[i].name, instead, option_table[i].name);
  return PYPROC_OK;
}

static int refuse_with_target(const pyproc_pool_options *from, pyproc_error **reterr) {
  const struct {
    const char *name;
    bool is_set;
  } ours[] = {
      {"channel", from->channel != NULL},         {"handshake", from->handshake != NULL},
      {"services", from->services != NULL},       {"workers", from->workers != 0},
      {"socket_path", from->socket_path != NULL},
  };
  int result = refuse_processes(from, "target", reterr);
  if (result < 0) return result;
  for (size_t i = 0; i < sizeof ours / sizeof *ours; i++)
    if (ours[i].is_set)
      return error_set(reterr, PYPROC_E_INVALID_ARGUMENT,
                       "options target and %s: with a target no worker is started, so leave %s 0", ours[i].name,
                       ours[i].name);
  if (*from->target == '\0') return error_set(reterr, PYPROC_E_INVALID_ARGUMENT, "option target is empty");
  return PYPROC_OK;
}

static int check_authorization(const pyproc_pool_options *from, pyproc_error **reterr) {
  const char *text = from->authorization;
  if (text == NULL) return PYPROC_OK;
  for (const char *at = text; *at != '\0'; at++)
    if (*at < ' ' || *at > '~')
      return error_set(reterr, PYPROC_E_INVALID_ARGUMENT,
                       "option authorization has a byte that is not printable ASCII");
  if (*text == '\0' || *text == ' ' || text[strlen(text) - 1] == ' ')
    return error_set(reterr, PYPROC_E_INVALID_ARGUMENT,
                     "option authorization is empty, or begins or ends with a blank");
  if (from->tls_ca_file == NULL && strncmp(from->target, "unix:", 5) != 0)
    return error_set(reterr, PYPROC_E_INVALID_ARGUMENT,
                     "options authorization and target: without tls_ca_file anybody on the way could read it");
  return PYPROC_OK;
}

static int check_remote(const pyproc_pool_options *from, pyproc_error **reterr) {
  const struct {
    const char *name, *text;
  } theirs[] = {
      {"tls_ca_file", from->tls_ca_file},
      {"tls_cert_file", from->tls_cert_file},
      {"tls_key_file", from->tls_key_file},
      {"authorization", from->authorization},
  };
  for (size_t i = 0; from->target == NULL && i < sizeof theirs / sizeof *theirs; i++)
    if (theirs[i].text != NULL)
      return error_set(reterr, PYPROC_E_INVALID_ARGUMENT, "options %s and target: %s is only for a target",
                       theirs[i].name, theirs[i].name);
  if (from->target == NULL) return PYPROC_OK;
  int result = refuse_with_target(from, reterr);
  if (result < 0) return result;
  if ((from->tls_cert_file == NULL) != (from->tls_key_file == NULL) ||
      (from->tls_cert_file != NULL && from->tls_ca_file == NULL))
    return error_set(
        reterr, PYPROC_E_INVALID_ARGUMENT,
        "options tls_cert_file, tls_key_file and tls_ca_file: the first two go together, and need the third");
  return check_authorization(from, reterr);
}

static int copy_remote(struct options *to, const pyproc_pool_options *from, pyproc_error **reterr) {
  int result = check_remote(from, reterr);
  if (result >= 0) result = copy_text(&to->target, from->target, reterr);
  if (result >= 0) result = copy_text(&to->tls_ca_file, from->tls_ca_file, reterr);
  if (result >= 0) result = copy_text(&to->tls_cert_file, from->tls_cert_file, reterr);
  if (result >= 0) result = copy_text(&to->tls_key_file, from->tls_key_file, reterr);
  if (result >= 0) result = copy_text(&to->authorization, from->authorization, reterr);
  return result;
}

/* ---- a worker that somebody else runs ---- */

static int check_attached(const pyproc_pool_options *from, pyproc_error **reterr) {
  if (from->socket_path == NULL && from->peer_uid != 0)
    return error_set(reterr, PYPROC_E_INVALID_ARGUMENT,
                     "options peer_uid and socket_path: peer_uid is only for a socket_path");
  if (from->socket_path == NULL) return PYPROC_OK;
  if (*from->socket_path == '\0') return error_set(reterr, PYPROC_E_INVALID_ARGUMENT, "option socket_path is empty");
  if (from->protocol != NULL && strcmp(from->protocol, "grpc") == 0)
    return error_set(reterr, PYPROC_E_INVALID_ARGUMENT,
                     "options socket_path and protocol: a gRPC server is reached by option target, \"unix:%s\"",
                     from->socket_path);
  return refuse_processes(from, "socket_path", reterr);
}

static int copy_path(char **to, const char *name, const char *from, pyproc_error **reterr);

static int copy_attached(struct options *to, const pyproc_pool_options *from, pyproc_error **reterr) {
  int result = check_attached(from, reterr);
  if (result >= 0 && from->socket_path != NULL)
    result = copy_path(&to->socket_path, "socket_path", from->socket_path, reterr);
  if (result >= 0 && to->socket_path != NULL && strlen(to->socket_path) >= SOCKET_PATH_SIZE)
    result = error_set(reterr, PYPROC_E_INVALID_ARGUMENT,
                       "option socket_path: %s is longer than the %d bytes that a socket's path may have",
                       to->socket_path, SOCKET_PATH_SIZE - 1);
  return result;
}

/* The default follows the machine: a worker runs one handler at a time. */
static int64_t default_workers(void) {
  return platform_cpu_count();
}

static int copy_numbers(struct options *to, const pyproc_pool_options *from, pyproc_error **reterr) {
  for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
    int result = copy_number(to, from, &places[i], reterr);
    if (result < 0) return result;
  }
  if (to->workers == 0) to->workers = from->target != NULL || from->socket_path != NULL ? 1 : default_workers();
  to->spin_ns *= 1000;
  return PYPROC_OK;
}

static bool is_name_byte(char byte) {
  return (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') || (byte >= '0' && byte <= '9') || byte == '_' ||
         byte == '.' || (byte & 0x80) != 0;
}

/* Copies names that have commas between them, without the blanks around them. */
static bool copy_names(char *to, const char *from) {
  for (;;) {
    from += strspn(from, " \t");
    const char *start = from;
    while (is_name_byte(*from)) *to++ = *from++;
    bool is_named = from > start;
    from += strspn(from, " \t");
    *to++ = *from;
    if (!is_named || (*from != ',' && *from != '\0')) return false;
    if (*from++ == '\0') return true;
  }
}

static int copy_preload(struct options *to, const char *from, pyproc_error **reterr) {
  if (from == NULL) return PYPROC_OK;
  if (to->bare_workers)
    return error_set(reterr, PYPROC_E_INVALID_ARGUMENT,
                     "options preload and handshake: with handshake \"none\" workers run without our package, which "
                     "forks; leave preload out");
  if (strlen(from) >= PRELOAD_SIZE)
    return error_set(reterr, PYPROC_E_INVALID_ARGUMENT, "option preload is longer than %d bytes", PRELOAD_SIZE - 1);
  int result = copy_text(&to->preload, from, reterr);
  if (result < 0 || copy_names(to->preload, from)) return result;
  return error_set(reterr, PYPROC_E_INVALID_ARGUMENT,
                   "option preload is \"%s\"; write names of modules with commas between them, as in numpy,pandas",
                   from);
}

/* Absolute: neither option cwd nor a later chdir of the host changes what is meant. */
static int copy_path(char **to, const char *name, const char *from, pyproc_error **reterr) {
  char folder[PATH_MAX], text[128];
  if (from[0] == '/') return copy_text(to, from, reterr);
  if (getcwd(folder, sizeof folder) == NULL)
    return error_set(reterr, PYPROC_E_FAILED_PRECONDITION,
                     "option %s: %s is relative, and the current folder is unknown: %s", name, from,
                     platform_error_text(errno, text, sizeof text));
  size_t size = strlen(folder) + strlen(from) + 2;
  *to = malloc(size);
  if (*to == NULL) return error_set(reterr, PYPROC_E_RESOURCE_EXHAUSTED, "out of memory");
  snprintf(*to, size, "%s/%s", folder, from);
  return PYPROC_OK;
}

static int copy_texts(struct options *to, const pyproc_pool_options *from, pyproc_error **reterr) {
  const char *python = from->python != NULL ? from->python : getenv("PYPROC_PYTHON");
  if (from->target != NULL || from->socket_path != NULL) return PYPROC_OK; /* no process, no texts about it */
  if (from->script == NULL || *from->script == '\0')
    return error_set(reterr, PYPROC_E_INVALID_ARGUMENT, "option script is missing: set it to the worker's Python file");
  int result = copy_path(&to->script, "script", from->script, reterr);
  if (result >= 0) result = copy_text(&to->python, python != NULL && *python != '\0' ? python : "python3", reterr);
  if (result >= 0) result = copy_text(&to->cwd, from->cwd, reterr);
  if (result >= 0) result = copy_preload(to, from->preload, reterr);
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
  result = choose_protocol(to, &given, reterr);
  if (result >= 0) result = copy_remote(to, &given, reterr);
  if (result >= 0) result = choose_handshake(to, &given, reterr);
  if (result >= 0) result = copy_numbers(to, &given, reterr);
  if (result >= 0) result = copy_attached(to, &given, reterr);
  if (result >= 0) result = choose_channel(to, &given, reterr);
  if (result >= 0) result = choose_affinity(to, &given, reterr);
  if (result >= 0) result = process_limits_check(&to->limits, reterr);
  if (result >= 0) result = copy_texts(to, &given, reterr);
  if (result < 0) options_free(to);
  return result;
}

int options_check_change(const struct options *now, const struct options *wanted, pyproc_error **reterr) {
  const char *fixed = NULL;
  for (size_t i = 0; i < sizeof places / sizeof *places && fixed == NULL; i++)
    if (!places[i].can_change &&
        memcmp((const char *)now + places[i].to, (const char *)wanted + places[i].to, sizeof(int64_t)) != 0)
      fixed = places[i].name;
  if (now->codec != wanted->codec || now->grpc != wanted->grpc) fixed = "protocol";
  if (wanted->target != NULL) fixed = "target";
  if (now->channel != wanted->channel) fixed = "channel";
  if ((now->socket_path != NULL) != (wanted->socket_path != NULL)) fixed = "socket_path";
  if (now->bare_workers != wanted->bare_workers) fixed = "handshake";
  if (now->services != wanted->services) fixed = "services";
  if (now->log != wanted->log) fixed = "log";
  if (now->log_userdata != wanted->log_userdata) fixed = "log_userdata";
  if (now->event != wanted->event) fixed = "event";
  if (now->event_userdata != wanted->event_userdata) fixed = "event_userdata";
  if (fixed == NULL) return PYPROC_OK;
  return error_set(reterr, PYPROC_E_INVALID_ARGUMENT,
                   "option %s cannot change while the pool is open: leave it as it was, or open another pool", fixed);
}

void options_free(struct options *self) {
  free(self->script);
  free(self->python);
  free(self->cwd);
  free(self->preload);
  free(self->target);
  free(self->socket_path);
  free(self->tls_ca_file);
  free(self->tls_cert_file);
  free(self->tls_key_file);
  free(self->authorization);
  free_list(self->args);
  free_list(self->env);
  *self = (struct options){0};
}
