#include "process_limits.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "error.h"
#include "platform.h"

enum { NICE_MAX = 19 };

int process_limits_check(const process_limits *self, pyproc_error **reterr) {
  if (self->uid > 0 && self->gid == 0)
    return error_set(reterr, PYPROC_E_INVALID_ARGUMENT,
                     "option uid is %" PRId64 " and option gid is not set: workers would keep the program's group; set "
                     "both",
                     self->uid);
  if ((self->uid > 0 || self->gid > 0) && geteuid() != 0)
    return error_set(reterr, PYPROC_E_PERMISSION_DENIED,
                     "option %s is %" PRId64 ": only a program that runs as root can start workers as somebody else; "
                     "leave it out, or run the program as that user",
                     self->uid > 0 ? "uid" : "gid", self->uid > 0 ? self->uid : self->gid);
  return PYPROC_OK;
}

void process_limits_spread(process_limits *self, int index) {
  if (!self->is_spread) return;
  self->processor = platform_nth_processor(index);
  self->has_processor = self->processor >= 0;
}

static uid_t owner_of(const process_limits *self) {
  return self->uid > 0 ? (uid_t)self->uid : (uid_t)-1; /* stays as it is */
}

static gid_t group_of(const process_limits *self) {
  return self->gid > 0 ? (gid_t)self->gid : (gid_t)-1;
}

void process_limits_give(const process_limits *self, int fd) {
  if (self->uid > 0 && fchown(fd, owner_of(self), group_of(self)) < 0) return;
}

int process_limits_give_folder(const process_limits *self, const char *path, pyproc_error **reterr) {
  char text[128];
  if (self->uid == 0 || chown(path, owner_of(self), group_of(self)) == 0) return PYPROC_OK;
  return error_set(reterr, PYPROC_E_PERMISSION_DENIED, "option uid is %" PRId64 ": the folder %s cannot be theirs: %s",
                   self->uid, path, platform_error_text(errno, text, sizeof text));
}

/* ---- in the child: nothing but system calls ---- */

/* The system's own type for what is limited is an enumeration in some, and an int in others. */
typedef struct resource_pair {
  int64_t soft, hard; /* INT64_MAX: unlimited */
} resource_pair;

static rlim_t limit_of(int64_t value) {
  return value == INT64_MAX ? RLIM_INFINITY : (rlim_t)value;
}

static struct rlimit limits_of(resource_pair pair) {
  return (struct rlimit){.rlim_cur = limit_of(pair.soft), .rlim_max = limit_of(pair.hard)};
}

static int limit_both(int64_t value, struct rlimit *ret) {
  *ret = limits_of((resource_pair){value, value});
  return 0;
}

static int apply_memory(int64_t value) {
  struct rlimit wanted;
  limit_both(value, &wanted);
  return setrlimit(RLIMIT_AS, &wanted);
}

/* A second for who handles SIGXCPU, where the host's own limit leaves one. */
static int apply_cpu(int64_t value) {
  struct rlimit now, wanted = limits_of((resource_pair){value, value + 1});
  if (getrlimit(RLIMIT_CPU, &now) < 0) return -1;
  if (now.rlim_max != RLIM_INFINITY && now.rlim_max == wanted.rlim_cur) wanted.rlim_max = now.rlim_max;
  return setrlimit(RLIMIT_CPU, &wanted);
}

static int apply_files(int64_t value) {
  struct rlimit wanted;
  limit_both(value, &wanted);
  return setrlimit(RLIMIT_NOFILE, &wanted);
}

static int apply_core(int64_t value) {
  struct rlimit wanted;
  limit_both(value == PYPROC_OFF ? 0 : value, &wanted);
  return setrlimit(RLIMIT_CORE, &wanted);
}

static int apply_nice(int64_t value) {
  errno = 0;
  int now = getpriority(PRIO_PROCESS, 0);
  if (now == -1 && errno != 0) return -1;
  int64_t sum = now + value;
  return setpriority(PRIO_PROCESS, 0, sum > NICE_MAX ? NICE_MAX : (int)sum);
}

static int apply_one(const process_limits *self, process_limit which) {
  switch (which) {
  case LIMIT_MEMORY:
    return self->memory_bytes > 0 ? apply_memory(self->memory_bytes) : 0;
  case LIMIT_CPU:
    return self->cpu_seconds > 0 ? apply_cpu(self->cpu_seconds) : 0;
  case LIMIT_FILES:
    return self->files > 0 ? apply_files(self->files) : 0;
  case LIMIT_CORE:
    return self->core_bytes != 0 ? apply_core(self->core_bytes) : 0;
  case LIMIT_NICE:
    return self->nice > 0 ? apply_nice(self->nice) : 0;
  case LIMIT_AFFINITY:
    return self->has_processor ? platform_bind_processor(self->processor) : 0;
  case LIMIT_UMASK:
    if (self->umask > 0) umask((mode_t)self->umask);
    return 0;
  case LIMIT_GID:
    return self->gid > 0 ? platform_become_group((gid_t)self->gid) : 0;
  case LIMIT_UID:
    return self->uid > 0 ? platform_become_user((uid_t)self->uid) : 0;
  case LIMIT_NO_NEW_PRIVS:
    return self->no_new_privs > 0 ? platform_no_new_privileges() : 0;
  case LIMIT_COUNT:
    break;
  }
  return 0;
}

int process_limits_apply(const process_limits *self, process_limit *ret_failed) {
  for (int which = 0; which < LIMIT_COUNT; which++)
    if (apply_one(self, (process_limit)which) < 0) {
      *ret_failed = (process_limit)which;
      return -1;
    }
  return 0;
}

/* ---- errors ---- */

static int64_t value_of(const process_limits *self, process_limit which) {
  const int64_t values[LIMIT_COUNT] = {[LIMIT_MEMORY] = self->memory_bytes,
                                       [LIMIT_CPU] = self->cpu_seconds,
                                       [LIMIT_FILES] = self->files,
                                       [LIMIT_CORE] = self->core_bytes,
                                       [LIMIT_NICE] = self->nice,
                                       [LIMIT_AFFINITY] = self->processor,
                                       [LIMIT_UMASK] = self->umask,
                                       [LIMIT_GID] = self->gid,
                                       [LIMIT_UID] = self->uid,
                                       [LIMIT_NO_NEW_PRIVS] = 1};
  return values[which];
}

static const char *remedy_of(process_limit which, int errnum) {
  if (errnum == ENOSYS) return "this system has no such thing: leave it out";
  switch (which) {
  case LIMIT_MEMORY:
  case LIMIT_CPU:
  case LIMIT_FILES:
  case LIMIT_CORE:
    return "it must not be above the program's own hard limit (ulimit -H)";
  case LIMIT_GID:
  case LIMIT_UID:
    return "the program must run as root, with the capabilities CAP_SETUID and CAP_SETGID, in a user namespace that "
           "has "
           "this number";
  case LIMIT_AFFINITY:
    return "the processor is not there any more, or not for this process";
  default:
    return "see the manual of the system";
  }
}

static int code_of(int errnum) {
  return errnum == EPERM    ? PYPROC_E_PERMISSION_DENIED
         : errnum == ENOSYS ? PYPROC_E_UNIMPLEMENTED
         : errnum == EAGAIN ? PYPROC_E_RESOURCE_EXHAUSTED
                            : PYPROC_E_INVALID_ARGUMENT;
}

int process_limits_error(const process_limits *self, process_limit failed, int errnum, const char *who,
                         pyproc_error **reterr) {
  static const char *const names[LIMIT_COUNT] = {[LIMIT_MEMORY] = "memory_limit_bytes",
                                                 [LIMIT_CPU] = "cpu_limit_seconds",
                                                 [LIMIT_FILES] = "files_limit",
                                                 [LIMIT_CORE] = "core_limit_bytes",
                                                 [LIMIT_NICE] = "nice",
                                                 [LIMIT_AFFINITY] = "affinity",
                                                 [LIMIT_UMASK] = "umask",
                                                 [LIMIT_GID] = "gid",
                                                 [LIMIT_UID] = "uid",
                                                 [LIMIT_NO_NEW_PRIVS] = "no_new_privs"};
  char text[128], value[64];
  int64_t number = value_of(self, failed);
  if (failed == LIMIT_AFFINITY)
    snprintf(value, sizeof value, "\"spread\" (here processor %" PRId64 ")", number);
  else if (failed == LIMIT_CORE && (number == PYPROC_OFF || number == INT64_MAX))
    snprintf(value, sizeof value, "%s", number == PYPROC_OFF ? "PYPROC_OFF" : "PYPROC_UNLIMITED");
  else
    snprintf(value, sizeof value, "%" PRId64, number);
  return error_set(reterr, code_of(errnum), "cannot start '%s': option %s is %s: %s: %s", who, names[failed], value,
                   platform_error_text(errnum, text, sizeof text), remedy_of(failed, errnum));
}
