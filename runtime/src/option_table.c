#include "option_table.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "wire/frame.h"
#include "wire/ring.h"
#include "wire/status_page.h"

enum { DAY_MS = 86400000, MODE_MAX = 0777, NICE_MAX = 19 };
#define ID_MAX INT64_C(4294967294) /* the one above means: nobody */

#define MEMBER(option) .name = #option, .offset = offsetof(pyproc_pool_options, option)
#define NUMBER(option) MEMBER(option), .type = OPTION_NUMBER
#define TEXT(option) MEMBER(option), .type = OPTION_TEXT
#define SWITCH(option) MEMBER(option), .type = OPTION_SWITCH, .lowest = 1, .highest = 1, .can_be_off = true

const option_row option_table[] = {
    {TEXT(script), .is_for_processes = true, .doc = "path of the worker's Python file"},
    {TEXT(python), .is_for_processes = true, .doc = "the interpreter: a path, or a name to be found on PATH"},
    {TEXT(cwd), .is_for_processes = true, .doc = "the workers' working folder"},
    {TEXT(protocol), .doc = "how calls are encoded: protobuf, json, grpc, or a codec of the program's"},
    {TEXT(channel), .doc = "what carries them: auto, uds, or shm"},
    {TEXT(handshake), .doc = "auto, or none: workers of the Go library"},
    {TEXT(target), .doc = "a gRPC server elsewhere instead of workers, such as dns:///host:port"},
    {TEXT(socket_path), .doc = "where a worker listens that somebody else runs; none is started then"},
    {TEXT(preload), .is_for_processes = true,
     .doc = "modules that are imported once, for all workers, which are then forked: numpy,pandas"},
    {TEXT(tls_ca_file), .doc = "with target: the authorities of the server's certificate; switches TLS on"},
    {TEXT(tls_cert_file), .doc = "with target: the program's own certificate"},
    {TEXT(tls_key_file), .doc = "with target: its key"},
    {TEXT(authorization), .doc = "with target: sent as authorization header"},
    {MEMBER(args), .type = OPTION_LIST, .is_for_processes = true, .doc = "what the script finds in sys.argv[1:]"},
    {MEMBER(env), .type = OPTION_ASSIGNMENTS, .is_for_processes = true,
     .doc = "environment of the workers, beside the program's"},
    {NUMBER(workers), .lowest = 1, .highest = 1024, .legacy = "PYPROC_POOL_WORKERS", .doc = "number of processes"},
    {NUMBER(max_in_flight), .fallback = 1024, .lowest = 1, .highest = STATUS_PAGE_SLOTS,
     .legacy = "PYPROC_POOL_MAX_IN_FLIGHT", .doc = "calls that one worker may hold"},
    {NUMBER(queue_limit), .fallback = 10000, .lowest = 1, .highest = INT32_MAX, .can_be_off = true,
     .can_be_unlimited = true, .doc = "calls that may wait for a worker"},
    {NUMBER(start_timeout_ms), .fallback = 30000, .lowest = 1, .highest = DAY_MS,
     .doc = "milliseconds from a worker's start to its being ready"},
    {NUMBER(call_timeout_ms), .fallback = 60000, .lowest = 1, .highest = INT64_MAX,
     .doc = "milliseconds of a call for which nobody says otherwise"},
    {NUMBER(cancel_grace_ms), .fallback = 1000, .lowest = 1, .highest = DAY_MS,
     .doc = "milliseconds until the worker of a handler that does not end is killed"},
    {NUMBER(drain_timeout_ms), .fallback = 5000, .lowest = 1, .highest = DAY_MS, .can_be_off = true,
     .doc = "milliseconds that closing leaves to calls, and then to workers"},
    {NUMBER(spin_us), .fallback = 50, .lowest = 1, .highest = 1000000, .can_be_off = true,
     .doc = "microseconds that a waiting side looks for more before it blocks"},
    {NUMBER(frame_limit_bytes), .fallback = WIRE_FRAME_LIMIT_DEFAULT, .lowest = WIRE_FRAME_LIMIT_MIN,
     .highest = WIRE_FRAME_LIMIT_MAX, .doc = "bytes of the largest request or reply"},
    {NUMBER(max_streams), .fallback = 64, .lowest = 1, .highest = 1024,
     .doc = "streams that are open at once on one worker"},
    {NUMBER(stream_window_bytes), .fallback = WIRE_STREAM_WINDOW_DEFAULT, .lowest = WIRE_STREAM_WINDOW_MIN,
     .highest = WIRE_STREAM_WINDOW_MAX, .doc = "bytes on their way in one direction of a stream"},
    {NUMBER(stream_idle_timeout_ms), .fallback = 300000, .lowest = 1, .highest = DAY_MS, .can_be_off = true,
     .doc = "milliseconds after which a stream without a message ends"},
    {NUMBER(recycle_calls), .lowest = 1, .highest = INT64_MAX, .can_be_off = true, .is_for_processes = true,
     .doc = "calls after which a worker is replaced; default: never"},
    {NUMBER(recycle_rss_bytes), .lowest = 1 << 20, .highest = INT64_MAX, .can_be_off = true, .is_for_processes = true,
     .doc = "bytes of resident memory above which a worker is replaced; default: never"},
    {NUMBER(recycle_age_ms), .lowest = 1, .highest = INT64_C(365) * DAY_MS, .can_be_off = true,
     .is_for_processes = true, .doc = "milliseconds after which a worker is replaced; default: never"},
    {NUMBER(restart_max), .fallback = 3, .lowest = 1, .highest = INT32_MAX, .can_be_off = true,
     .doc = "failures of a worker within restart_window_ms after which its place rests"},
    {NUMBER(restart_window_ms), .fallback = 60000, .lowest = 1, .highest = DAY_MS,
     .doc = "milliseconds in which failures are counted, and that a place rests"},
    {NUMBER(breaker_failures), .fallback = 10, .lowest = 1, .highest = INT32_MAX, .can_be_off = true,
     .doc = "failures of workers in a row after which calls fail at once"},
    {NUMBER(breaker_cooldown_ms), .fallback = 30000, .lowest = 1, .highest = DAY_MS,
     .doc = "milliseconds until a worker is tried again then"},
    {NUMBER(health_interval_ms), .fallback = 30000, .lowest = 1, .highest = DAY_MS, .can_be_off = true,
     .doc = "milliseconds between two looks whether a worker hangs"},
    {NUMBER(health_timeout_ms), .fallback = 5000, .lowest = 1, .highest = DAY_MS,
     .doc = "milliseconds without a sign of life after which it does"},
    {NUMBER(poison_limit), .fallback = 3, .lowest = 1, .highest = INT32_MAX, .can_be_off = true,
     .doc = "workers that a request may kill, one after the other, before it is refused"},
    {NUMBER(poison_rest_ms), .fallback = 60000, .lowest = 1, .highest = DAY_MS,
     .doc = "milliseconds that it is refused then"},
    {NUMBER(shm_ring_bytes), .fallback = RING_BYTES_DEFAULT, .lowest = RING_BYTES_MIN, .highest = RING_BYTES_MAX,
     .doc = "bytes of shared memory in each direction between the program and a worker; a power of two"},
    {MEMBER(log_level), .type = OPTION_LEVEL, .fallback = PYPROC_LOG_INFO, .lowest = PYPROC_LOG_DEBUG,
     .highest = PYPROC_LOG_ERROR, .can_be_off = true, .doc = "the lowest level that the log callback gets"},
    {NUMBER(memory_limit_bytes), .lowest = 1 << 20, .highest = INT64_MAX - 1, .is_for_processes = true,
     .doc = "bytes of address space of a worker (RLIMIT_AS); default: the program's limit"},
    {NUMBER(cpu_limit_seconds), .lowest = 1, .highest = INT32_MAX, .is_for_processes = true,
     .doc = "seconds of processor time after which a worker is killed (RLIMIT_CPU); default: the program's limit"},
    {NUMBER(files_limit), .lowest = 16, .highest = INT32_MAX, .is_for_processes = true,
     .doc = "open files of a worker (RLIMIT_NOFILE); default: the program's limit"},
    {NUMBER(core_limit_bytes), .lowest = 1, .highest = INT64_MAX - 1, .can_be_off = true, .can_be_unlimited = true,
     .is_for_processes = true, .doc = "bytes of a worker's core file (RLIMIT_CORE); default: the program's limit"},
    {NUMBER(nice), .lowest = 1, .highest = NICE_MAX, .is_for_processes = true,
     .doc = "how much nicer workers are than the program: they get less of busy processors"},
    {TEXT(affinity), .is_for_processes = true, .doc = "none, or spread: each worker runs on one processor, in turn"},
    {NUMBER(uid), .lowest = 1, .highest = ID_MAX, .is_for_processes = true,
     .doc = "user that workers run as; needs gid, and a program that is root"},
    {NUMBER(gid), .lowest = 1, .highest = ID_MAX, .is_for_processes = true,
     .doc = "group that workers run as, their only one"},
    {MEMBER(umask), .type = OPTION_MODE, .lowest = 1, .highest = MODE_MAX, .is_for_processes = true,
     .doc = "bits that files which workers make do not have, in octal; default: the program's"},
    {SWITCH(no_new_privs), .is_for_processes = true,
     .doc = "programs that workers start have no more rights than they, set-user-ID ones neither"},
    {SWITCH(clear_env), .is_for_processes = true, .doc = "workers do not get the program's environment, only env"},
    {NUMBER(peer_uid), .lowest = 1, .highest = ID_MAX, .can_be_off = true,
     .doc = "with socket_path: the user who may listen there beside root; default: the program's"},
};

const size_t option_table_size = sizeof option_table / sizeof *option_table;

const option_row *option_find(const char *name) {
  for (size_t i = 0; i < option_table_size; i++)
    if (strcmp(option_table[i].name, name) == 0) return &option_table[i];
  return NULL;
}

bool option_variable(const option_row *row, char *variable, size_t size) {
  int length = snprintf(variable, size, "PYPROC_%s", row->name);
  for (char *at = variable; length > 0 && *at != '\0'; at++)
    if (*at >= 'a' && *at <= 'z') *at = (char)(*at - 'a' + 'A');
  return length > 0 && (size_t)length < size;
}

bool option_is_number(const option_row *row) {
  return row->type != OPTION_TEXT && row->type != OPTION_LIST && row->type != OPTION_ASSIGNMENTS;
}

bool option_is_set(const option_row *row, const pyproc_pool_options *options) {
  const void *pointer;
  int64_t number;
  const char *member = (const char *)options + row->offset;
  memcpy(&number, member, sizeof number);
  memcpy(&pointer, member, sizeof pointer);
  return option_is_number(row) ? number != 0 : pointer != NULL;
}

bool option_allows(const option_row *row, int64_t value) {
  return value == 0 || (value == PYPROC_OFF && row->can_be_off) ||
         (value == PYPROC_UNLIMITED && row->can_be_unlimited) || (value >= row->lowest && value <= row->highest);
}

int option_describe(const option_row *row, char *text, size_t size) {
  return snprintf(text, size, "allowed are %" PRId64 " to %" PRId64 ", 0 (default %" PRId64 ")%s%s", row->lowest,
                  row->highest, row->fallback, row->can_be_off ? ", PYPROC_OFF" : "",
                  row->can_be_unlimited ? ", PYPROC_UNLIMITED" : "");
}

int option_describe_words(const option_row *row, char *text, size_t size) {
  if (row->type == OPTION_LEVEL) return snprintf(text, size, "allowed are debug, info, warning, error, off");
  if (row->type == OPTION_SWITCH) return snprintf(text, size, "allowed are yes, no, default");
  if (row->type == OPTION_MODE)
    return snprintf(text, size, "allowed are octal digits, %03" PRIo64 " to %03" PRIo64 ", default",
                    (uint64_t)row->lowest, (uint64_t)row->highest);
  return snprintf(text, size, "allowed are %" PRId64 " to %" PRId64 ", default%s%s", row->lowest, row->highest,
                  row->can_be_off ? ", off" : "", row->can_be_unlimited ? ", unlimited" : "");
}
