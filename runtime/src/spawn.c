#define _POSIX_C_SOURCE 200809L

#include "spawn.h"

#include "error.h"
#include "platform.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

#define DEFAULT_PATH "/usr/local/bin:/usr/bin:/bin"
#define REPORT_TIMEOUT_NS (2 * INT64_C(1000000000))

/* Signal numbers end below this on every system that we know; the real-time ones are among them. */
enum { SIGNAL_LIMIT = 128 };

typedef enum spawn_step { STEP_GROUP = 1, STEP_FDS, STEP_LIMITS, STEP_CWD, STEP_EXEC } spawn_step;

/* What the child tells where it could not become the program. */
typedef struct spawn_report {
  int step, errnum;
  process_limit limit; /* with STEP_LIMITS */
} spawn_report;

/* What the child works on; all of it made before the fork. */
typedef struct spawn_plan {
  const char *path;
  char *const *argv;
  char *const *envp;
  const char *cwd;
  int fds[SPAWN_FD_MAX + 1]; /* the death pipe may be one more */
  int fd_count;
  int report_fd;
  pid_t dies_with;              /* 0: nobody */
  const process_limits *limits; /* NULL: none */
} spawn_plan;

/* ---- the child, between fork and exec: async-signal-safe, and changes no memory but its own stack ---- */

static void child_report(int report_fd, spawn_report report) {
  ssize_t written = write(report_fd, &report, sizeof report);
  (void)written;
  _exit(127);
}

static void child_fail(int report_fd, spawn_step step) {
  child_report(report_fd, (spawn_report){.step = (int)step, .errnum = errno});
}

static void child_limit(int report_fd, const process_limits *limits) {
  process_limit failed = LIMIT_COUNT;
  if (limits != NULL && process_limits_apply(limits, &failed) < 0)
    child_report(report_fd, (spawn_report){.step = STEP_LIMITS, .errnum = errno, .limit = failed});
}

/* Handlers first: with the mask open one of the host's could run here. */
static void child_reset_signals(void) {
  struct sigaction action = {.sa_handler = SIG_DFL};
  sigset_t none;
  sigemptyset(&action.sa_mask);
  for (int signo = 1; signo < SIGNAL_LIMIT; signo++) sigaction(signo, &action, NULL); /* some cannot be set: fine */
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
}

/* Puts fds[i] on descriptor i. All are moved out of the way first: they may overlap. Returns where reports go now. */
static int child_set_fds(const spawn_plan *plan) {
  int moved[SPAWN_FD_MAX + 1];
  int report_fd = fcntl(plan->report_fd, F_DUPFD_CLOEXEC, plan->fd_count);
  if (report_fd < 0) child_fail(plan->report_fd, STEP_FDS);
  for (int i = 0; i < plan->fd_count; i++) {
    int fd = plan->fds[i];
    if (fd < 0) fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    moved[i] = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, plan->fd_count);
    if (moved[i] < 0) child_fail(report_fd, STEP_FDS);
  }
  for (int i = 0; i < plan->fd_count; i++)
    if (dup2(moved[i], i) < 0) child_fail(report_fd, STEP_FDS);
  if (report_fd != plan->fd_count) {
    if (dup2(report_fd, plan->fd_count) < 0) child_fail(report_fd, STEP_FDS);
    report_fd = plan->fd_count;
    if (fcntl(report_fd, F_SETFD, FD_CLOEXEC) < 0) child_fail(report_fd, STEP_FDS);
  }
  platform_close_from(report_fd + 1);
  return report_fd;
}

static void child_run(void *argument) {
  const spawn_plan *plan = argument;
  child_reset_signals();
  int report_fd = child_set_fds(plan);
  if (setpgid(0, 0) < 0) child_fail(report_fd, STEP_GROUP);
  child_limit(report_fd, plan->limits);
  if (plan->dies_with != 0) platform_die_with(plan->dies_with); /* another user would undo it */
  if (plan->cwd != NULL && chdir(plan->cwd) < 0) child_fail(report_fd, STEP_CWD);
  execve(plan->path, plan->argv, plan->envp);
  child_fail(report_fd, STEP_EXEC);
}

/* ---- errors ---- */

static int code_of(int errnum) {
  switch (errnum) {
  case ENOENT:
  case ENOTDIR:
    return PYPROC_E_NOT_FOUND;
  case EACCES:
  case EPERM:
    return PYPROC_E_PERMISSION_DENIED;
  case EAGAIN:
  case ENOMEM:
  case EMFILE:
  case ENFILE:
    return PYPROC_E_RESOURCE_EXHAUSTED;
  case E2BIG:
  case ENAMETOOLONG:
  case ELOOP:
    return PYPROC_E_INVALID_ARGUMENT;
  case ENOEXEC:
    return PYPROC_E_FAILED_PRECONDITION;
  default:
    return PYPROC_E_INTERNAL;
  }
}

static const char *exec_remedy(int errnum, const char *path) {
  switch (errnum) {
  case ENOENT:
    /* the file was there a moment ago: what its first line names is not */
    return access(path, F_OK) == 0
               ? "the interpreter that its first line names, or its loader, does not exist: reinstall it"
               : "check the path";
  case EACCES:
  case EPERM:
    return "make it and its folders accessible to this user, and it executable (chmod +x); its file system may be "
           "mounted noexec";
  case ENOEXEC:
    return "it is no program for this machine; a script needs a first line such as #!/usr/bin/env python3";
  case E2BIG:
    return "arguments and environment together are too large: pass less";
  case EAGAIN:
  case ENOMEM:
    return "raise the limit of processes or memory (ulimit -u, the cgroup's pids.max), or start fewer workers";
  default:
    return "see execve(2)";
  }
}

static int report_error(const spawn_request *request, const char *path, const spawn_report *report,
                        pyproc_error **reterr) {
  char text[128];
  const char *why = platform_error_text(report->errnum, text, sizeof text);
  int code = code_of(report->errnum);
  switch (report->step) {
  case STEP_LIMITS:
    return process_limits_error(request->limits, report->limit, report->errnum, path, reterr);
  case STEP_CWD:
    return error_set(
        reterr, code,
        "cannot start '%s' in the directory '%s': %s: give a directory that exists and this user may enter", path,
        request->cwd, why);
  case STEP_EXEC:
    return error_set(reterr, code, "cannot start '%s': %s: %s", path, why, exec_remedy(report->errnum, path));
  case STEP_FDS:
    return error_set(
        reterr, code,
        "cannot start '%s': its descriptors cannot be set up: %s: raise the limit of open files (ulimit -n)", path,
        why);
  default:
    return error_set(reterr, code, "cannot start '%s': no process group of its own: %s", path, why);
  }
}

static int host_error(const char *path, const char *what, int errnum, pyproc_error **reterr) {
  char text[128];
  return error_set(reterr, code_of(errnum),
                   "cannot start '%s': %s: %s: raise the limits of processes, open files and memory (ulimit -a), or "
                   "start fewer workers",
                   path, what, platform_error_text(errnum, text, sizeof text));
}

/* ---- which program ---- */

/* 0 when it can be executed, else the errno. */
static int check_executable(const char *path) {
  struct stat status;
  if (stat(path, &status) < 0) return errno;
  if (S_ISDIR(status.st_mode)) return EISDIR;
  return faccessat(AT_FDCWD, path, X_OK, AT_EACCESS) == 0 ? 0 : errno;
}

static int find_at(const char *name, char *path, size_t size, pyproc_error **reterr) {
  int errnum = check_executable(name);
  char text[128];
  switch (errnum) {
  case 0:
    break;
  case EISDIR:
    return error_set(reterr, PYPROC_E_PERMISSION_DENIED, "'%s' is a directory, not a program: name the file in it",
                     name);
  case ENOENT:
  case ENOTDIR:
    return error_set(reterr, PYPROC_E_NOT_FOUND, "there is no program '%s': check the path", name);
  case EACCES:
    return error_set(reterr, PYPROC_E_PERMISSION_DENIED,
                     "'%s' cannot be executed by this user: make it executable (chmod +x '%s')", name, name);
  default:
    return error_set(reterr, code_of(errnum), "cannot use the program '%s': %s", name,
                     platform_error_text(errnum, text, sizeof text));
  }
  size_t length = strlen(name);
  if (length >= size) return error_set(reterr, PYPROC_E_INVALID_ARGUMENT, "the path '%.64s…' is too long", name);
  memcpy(path, name, length + 1);
  return 0;
}

/* The first executable `name` in the folders of `search`, an empty one of which is the current directory. */
static int find_on(const char *search, const char *name, char *path, size_t size, pyproc_error **reterr) {
  const char *denied = NULL;
  size_t denied_size = 0;
  size_t name_size = strlen(name);
  for (const char *folder = search; folder != NULL;) {
    const char *colon = strchr(folder, ':');
    size_t folder_size = colon == NULL ? strlen(folder) : (size_t)(colon - folder);
    const char *used = folder_size == 0 ? "." : folder;
    size_t used_size = folder_size == 0 ? 1 : folder_size;
    if (used_size + 1 + name_size < size) {
      memcpy(path, used, used_size);
      path[used_size] = '/';
      memcpy(path + used_size + 1, name, name_size + 1);
      int errnum = check_executable(path);
      if (errnum == 0) return 0;
      if (errnum == EACCES && denied == NULL) {
        denied = used;
        denied_size = used_size;
      }
    }
    folder = colon == NULL ? NULL : colon + 1;
  }
  if (denied != NULL)
    return error_set(reterr, PYPROC_E_PERMISSION_DENIED,
                     "the program '%s' is in '%.*s' but cannot be executed by this user: make it executable (chmod +x)",
                     name, (int)denied_size, denied);
  return error_set(reterr, PYPROC_E_NOT_FOUND,
                   "there is no program '%s' on PATH (%s): install it, or give its full path", name, search);
}

/* `search` is NULL where PATH is not set. */
static int find_program(const char *search, const char *name, char *path, size_t size, pyproc_error **reterr) {
  if (name == NULL || *name == '\0')
    return error_set(reterr, PYPROC_E_INVALID_ARGUMENT, "the name of the program is empty: give one");
  if (strchr(name, '/') != NULL) return find_at(name, path, size, reterr);
  char found[PATH_MAX];
  int result = find_on(search == NULL ? DEFAULT_PATH : search, name, found, sizeof found, reterr);
  if (result < 0) return result;
  size_t length = strlen(found);
  if (length >= size) return error_set(reterr, PYPROC_E_INVALID_ARGUMENT, "the path '%.64s…' is too long", found);
  memcpy(path, found, length + 1);
  return 0;
}

int spawn_find_program(const char *name, char *path, size_t size, pyproc_error **reterr) {
  return find_program(getenv("PATH"), name, path, size, reterr);
}

static const char *path_of(char *const *envp) {
  for (; envp != NULL && *envp != NULL; envp++)
    if (strncmp(*envp, "PATH=", 5) == 0) return *envp + 5;
  return getenv("PATH");
}

/* A relative path means the host's directory, also where the child changes to another. Links are kept: a virtual
   environment's Python is one. */
static int make_absolute(char *path, size_t size, pyproc_error **reterr) {
  char base[PATH_MAX];
  if (path[0] == '/') return 0;
  if (getcwd(base, sizeof base) == NULL) return host_error(path, "the current directory is unknown", errno, reterr);
  size_t base_size = strlen(base);
  size_t path_size = strlen(path) + 1;
  if (base_size + 1 + path_size > size)
    return error_set(reterr, PYPROC_E_INVALID_ARGUMENT, "the path '%.64s…' is too long", path);
  memmove(path + base_size + 1, path, path_size);
  memcpy(path, base, base_size);
  path[base_size] = '/';
  return 0;
}

/* ---- the host's side ---- */

/* Reads what the child reports. False: it has become the program. Where a fork of the host at this very moment has
   copied the pipe the end does not come; then success is assumed after a while, and a failure is seen as an exit with
   status 127. */
static bool read_report(int fd, spawn_report *ret) {
  struct pollfd polled = {.fd = fd, .events = POLLIN};
  int64_t deadline_ns = platform_now_ns() + REPORT_TIMEOUT_NS;
  int ready = 0;
  do {
    ready = platform_poll(&polled, 1, deadline_ns);
  } while (ready < 0 && errno == EINTR);
  if (ready <= 0) return false;
  ssize_t got = 0;
  do {
    got = read(fd, ret, sizeof *ret);
  } while (got < 0 && errno == EINTR);
  return got == (ssize_t)sizeof *ret;
}

static void wait_for(pid_t pid) {
  while (waitpid(pid, NULL, 0) < 0 && errno == EINTR) {}
}

/* Forks with all signals blocked, so that no handler of the host runs in the child. */
static pid_t fork_quietly(spawn_plan *plan) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pid_t pid = platform_fork_exec(child_run, plan);
  int saved = errno;
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  errno = saved;
  return pid;
}

/* Opens what tells the child's end: a pidfd, or `death_fd` where there is none, or where the host has the system
   forget its children at once and this one is gone already: the pipe is hung up then. Takes death_fd over. */
static int watch_child(pid_t pid, int death_fd) {
  int fd = platform_process_watch(pid);
  if (fd < 0) return death_fd;
  platform_close_fd(death_fd);
  return fd;
}

static bool has_pidfd(void) {
  int fd = platform_process_watch(getpid());
  platform_close_fd(fd);
  return fd >= 0;
}

static int start_plan(const spawn_request *request, spawn_plan *plan, pid_t *ret_pid, int *ret_watch_fd,
                      pyproc_error **reterr) {
  int report_fds[2] = {-1, -1};
  int death_fds[2] = {-1, -1};
  int result = 0;
  spawn_report report = {0};
  if (platform_pipe(report_fds) < 0 || platform_pipe(death_fds) < 0) {
    result = host_error(plan->path, "no pipe", errno, reterr);
    goto done;
  }
  plan->report_fd = report_fds[1];
  if (!has_pidfd()) plan->fds[plan->fd_count++] = death_fds[1];
  pid_t pid = fork_quietly(plan);
  if (pid < 0) {
    result = host_error(plan->path, "no process", errno, reterr);
    goto done;
  }
  platform_close_fd(report_fds[1]);
  platform_close_fd(death_fds[1]);
  report_fds[1] = death_fds[1] = -1;
  if (read_report(report_fds[0], &report)) {
    wait_for(pid);
    result = report_error(request, plan->path, &report, reterr);
    goto done;
  }
  *ret_watch_fd = watch_child(pid, death_fds[0]);
  *ret_pid = pid;
  death_fds[0] = -1;
done:
  for (int i = 0; i < 2; i++) {
    platform_close_fd(report_fds[i]);
    platform_close_fd(death_fds[i]);
  }
  return result;
}

int spawn_process(const spawn_request *request, pid_t *ret_pid, int *ret_watch_fd, pyproc_error **reterr) {
  char path[PATH_MAX];
  if (request->fd_count > SPAWN_FD_MAX)
    return error_set(reterr, PYPROC_E_INVALID_ARGUMENT,
                     "%zu descriptors for a child are more than the %d that it can be given", request->fd_count,
                     SPAWN_FD_MAX);
  int result = find_program(path_of(request->envp), request->program, path, sizeof path, reterr);
  if (result < 0) return result;
  result = make_absolute(path, sizeof path, reterr);
  if (result < 0) return result;
  spawn_plan plan = {.path = path,
                     .argv = request->argv,
                     .envp = request->envp == NULL ? environ : request->envp,
                     .cwd = request->cwd,
                     .fd_count = (int)request->fd_count,
                     .dies_with = request->dies_with_host ? getpid() : 0,
                     .limits = request->limits};
  for (size_t i = 0; i < request->fd_count; i++) plan.fds[i] = request->fds[i];
  return start_plan(request, &plan, ret_pid, ret_watch_fd, reterr);
}

/* ---- environment ---- */

enum { DEFAULTS, HOST, ADDED, OWN, LISTS };

/* What our processes get unless anybody says otherwise: malloc asks for large pages, as wire/bulk.c does. Only glibc looks
 * at it, from 2.35 on, and only where the system leaves that to programs. */
static const char *const defaults[] = {"GLIBC_TUNABLES=glibc.malloc.hugetlb=1", NULL};

static size_t name_size(const char *entry) {
  return strcspn(entry, "=");
}

/* Whether one of the lists gives that name a value. */
static bool names_entry(const char *const *list, const char *entry) {
  size_t size = name_size(entry);
  for (; list != NULL && *list != NULL; list++)
    if (name_size(*list) == size && strncmp(*list, entry, size) == 0) return true;
  return false;
}

/* Whether entry `index` of list `which` is the last that gives its name a value. */
static bool counts(const char *const *const lists[LISTS], int which, size_t index) {
  const char *entry = lists[which][index];
  for (int later = which + 1; later < LISTS; later++)
    if (names_entry(lists[later], entry)) return false;
  return which == HOST || !names_entry(lists[which] + index + 1, entry);
}

char **spawn_environment(bool is_clear, const char *const *added, const char *const *own) {
  const char *const *const lists[LISTS] = {
      [DEFAULTS] = defaults, [HOST] = is_clear ? NULL : (const char *const *)environ, [ADDED] = added, [OWN] = own};
  size_t entries = 1;
  size_t bytes = 0;
  for (int which = 0; which < LISTS; which++)
    for (size_t i = 0; lists[which] != NULL && lists[which][i] != NULL; i++) {
      entries++;
      bytes += strlen(lists[which][i]) + 1;
    }
  char **block = malloc(entries * sizeof *block + bytes);
  if (block == NULL) return NULL;
  char *text = (char *)(block + entries);
  const char *end = text + bytes;
  size_t used = 0;
  for (int which = 0; which < LISTS; which++)
    for (size_t i = 0; lists[which] != NULL && lists[which][i] != NULL; i++) {
      if (!counts(lists, which, i)) continue;
      size_t size = strlen(lists[which][i]) + 1;
      if (used + 1 >= entries || size > (size_t)(end - text)) break; /* the host has changed it meanwhile */
      memcpy(text, lists[which][i], size);
      block[used++] = text;
      text += size;
    }
  block[used] = NULL;
  return block;
}
