/* Linux: pidfd, memfd, eventfd, epoll, futex, cgroups; see platform.h and poller.h. */
#define _GNU_SOURCE

#include "platform.h"
#include "poller.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <link.h>
#include <linux/futex.h>
#include <linux/types.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Headers older than the kernel do not name these. */
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#ifndef SYS_close_range
#define SYS_close_range 436
#endif
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

enum {
  POLL_FROM_NS = 100000000, /* to a deadline: before that poll is exact enough */
  ID_PIDFD = 3 /* P_PIDFD, an enumerator that older headers lack */,
  CGROUP_DEPTH = 64,
  CLOSE_LIMIT = 65536,
  PROCESSORS_MAX = 65536
};

static struct timespec timespec_of(int64_t ns) {
  if (ns < 0) ns = 0;
  return (struct timespec){.tv_sec = (time_t)(ns / 1000000000), .tv_nsec = (long)(ns % 1000000000)};
}

uint64_t platform_random64(void) {
  uint64_t value = 0;
  if (getrandom(&value, sizeof value, GRND_NONBLOCK) == (ssize_t)sizeof value) return value;
  /* early boot: splitmix64 over what differs between processes and calls */
  value = (uint64_t)platform_now_ns() ^ ((uint64_t)getpid() << 40) ^ (uint64_t)(uintptr_t)&value;
  value = (value ^ (value >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
  value = (value ^ (value >> 27)) * UINT64_C(0x94d049bb133111eb);
  return value ^ (value >> 31);
}

/* ---- processors ---- */

/* Reads a small file as text; false when it is absent or empty. */
static bool read_text(const char *path, char *buffer, size_t size) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  size_t used = 0;
  while (used + 1 < size) {
    ssize_t count = read(fd, buffer + used, size - 1 - used);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) break;
    used += (size_t)count;
  }
  buffer[used] = '\0';
  close(fd);
  return used > 0;
}

static int cpus_of_quota(long long quota, long long period) {
  if (quota <= 0 || period <= 0) return 0;
  long long cpus = quota / period + (quota % period != 0);
  return cpus > INT_MAX ? INT_MAX : (int)cpus;
}

/* The quota of one folder of cgroup version 2 ("max 100000" or "150000 100000"), or of version 1. */
static int quota_of_folder(const char *folder) {
  char path[PATH_MAX];
  char text[64];
  char *end = NULL;
  int size = snprintf(path, sizeof path, "%s/cpu.max", folder);
  if (size < 0 || (size_t)size >= sizeof path) return 0;
  if (read_text(path, text, sizeof text)) {
    long long quota = strtoll(text, &end, 10);
    return end == text ? 0 : cpus_of_quota(quota, strtoll(end, NULL, 10));
  }
  size = snprintf(path, sizeof path, "%s/cpu.cfs_quota_us", folder);
  if (size < 0 || (size_t)size >= sizeof path || !read_text(path, text, sizeof text)) return 0;
  long long quota = strtoll(text, NULL, 10);
  size = snprintf(path, sizeof path, "%s/cpu.cfs_period_us", folder);
  if (size < 0 || (size_t)size >= sizeof path || !read_text(path, text, sizeof text)) return 0;
  return cpus_of_quota(quota, strtoll(text, NULL, 10));
}

/* The smallest quota from root/hierarchy/group upwards. A container sees its own group as the root, under a path that
   may not exist there. */
static int quota_of_group(const char *root, const char *hierarchy, const char *group) {
  char folder[PATH_MAX];
  int size = snprintf(folder, sizeof folder, "%s%s%s", root, hierarchy, group);
  if (size < 0 || (size_t)size >= sizeof folder) return 0;
  size_t top = strlen(root) + strlen(hierarchy);
  int best = 0;
  for (int depth = 0; depth < CGROUP_DEPTH; depth++) {
    int found = quota_of_folder(folder);
    if (found > 0 && (best == 0 || found < best)) best = found;
    char *slash = strrchr(folder + top, '/');
    if (slash == NULL) break;
    *slash = '\0';
  }
  return best;
}

/* Whether the name is among the comma-separated controllers. */
static bool names_controller(const char *controllers, const char *name) {
  size_t size = strlen(name);
  for (const char *at = controllers; at != NULL; at = strchr(at, ',')) {
    at += *at == ',';
    if (strncmp(at, name, size) == 0 && (at[size] == ',' || at[size] == '\0')) return true;
  }
  return false;
}

/* Takes a line "hierarchy:controllers:path" apart. */
static bool split_line(char *line, char **ret_controllers, char **ret_group) {
  char *controllers = strchr(line, ':');
  char *group = controllers == NULL ? NULL : strchr(controllers + 1, ':');
  if (group == NULL) return false;
  *controllers++ = '\0';
  *group++ = '\0';
  if (strcmp(group, "/") == 0) group += 1;
  *ret_controllers = controllers;
  *ret_group = group;
  return true;
}

/* The quota that a line "hierarchy:controllers:path" leads to; version 2 has no controllers. */
static int quota_of_line(const char *root, char *line) {
  char *controllers, *group;
  if (!split_line(line, &controllers, &group)) return 0;
  bool version_2 = *controllers == '\0';
  if (!version_2 && !names_controller(controllers, "cpu")) return 0;
  char joined[256];
  snprintf(joined, sizeof joined, "/%.200s", controllers);
  int found = quota_of_group(root, version_2 ? "" : "/cpu", group);
  return found > 0 ? found : quota_of_group(root, version_2 ? "/unified" : joined, group);
}

int platform_cpu_quota(const char *root, const char *list) {
  char text[8192];
  char *rest = NULL;
  int best = 0;
  if (!read_text(list, text, sizeof text)) return 0;
  for (char *line = strtok_r(text, "\n", &rest); line != NULL; line = strtok_r(NULL, "\n", &rest)) {
    int found = quota_of_line(root, line);
    if (found > 0 && (best == 0 || found < best)) best = found;
  }
  return best;
}

/* ---- memory ---- */

/* The number behind "oom_kill" in lines of "name number"; -1 where there is no such file or line. */
static int64_t oom_kills_in(const char *path) {
  char text[16384];
  char *rest = NULL;
  if (!read_text(path, text, sizeof text)) return -1;
  for (char *line = strtok_r(text, "\n", &rest); line != NULL; line = strtok_r(NULL, "\n", &rest))
    if (strncmp(line, "oom_kill ", 9) == 0) return strtoll(line + 9, NULL, 10);
  return -1;
}

/* Of the group, or of the nearest one above that tells: a container may not see its own. */
static int64_t oom_kills_of_group(const char *root, const char *hierarchy, const char *group, const char *file) {
  char path[PATH_MAX];
  int depth = 0;
  for (size_t size = strlen(group);; depth++) {
    int length = snprintf(path, sizeof path, "%s%s%.*s/%s", root, hierarchy, (int)size, group, file);
    if (length < 0 || (size_t)length >= sizeof path) return -1;
    int64_t found = oom_kills_in(path);
    if (found >= 0 || size == 0 || depth == CGROUP_DEPTH) return found;
    while (size > 0 && group[--size] != '/') {}
  }
}

static int64_t oom_kills_of_line(const char *root, char *line) {
  char *controllers, *group;
  if (!split_line(line, &controllers, &group)) return -1;
  if (*controllers != '\0')
    return names_controller(controllers, "memory") ? oom_kills_of_group(root, "/memory", group, "memory.oom_control")
                                                   : -1;
  int64_t found = oom_kills_of_group(root, "", group, "memory.events");
  return found >= 0 ? found : oom_kills_of_group(root, "/unified", group, "memory.events");
}

platform_oom platform_oom_count(const char *root, const char *list, const char *vmstat) {
  char text[8192];
  char *rest = NULL;
  platform_oom result = {.group = -1, .system = oom_kills_in(vmstat)};
  if (!read_text(list, text, sizeof text)) return result;
  for (char *line = strtok_r(text, "\n", &rest); line != NULL; line = strtok_r(NULL, "\n", &rest)) {
    int64_t found = oom_kills_of_line(root, line);
    if (found > result.group) result.group = found;
  }
  return result;
}

/* ---- processors ---- */

/* The processors that the calling thread may use, as a set of *ret_size bytes to be freed; NULL: not known. */
static cpu_set_t *allowed_processors(size_t *ret_size) {
  for (size_t cpus = 1024; cpus <= PROCESSORS_MAX; cpus *= 8) {
    cpu_set_t *set = CPU_ALLOC(cpus);
    if (set == NULL) return NULL;
    *ret_size = CPU_ALLOC_SIZE(cpus);
    if (sched_getaffinity(0, *ret_size, set) == 0) return set;
    bool too_small = errno == EINVAL;
    CPU_FREE(set);
    if (!too_small) break;
  }
  return NULL;
}

static int affinity_count(void) {
  size_t size = 0;
  cpu_set_t *set = allowed_processors(&size);
  int found = set != NULL ? CPU_COUNT_S(size, set) : 0;
  CPU_FREE(set);
  if (found > 0) return found;
  long online = sysconf(_SC_NPROCESSORS_ONLN);
  return online < 1 ? 1 : (int)online;
}

int platform_nth_processor(int n) {
  size_t size = 0;
  cpu_set_t *set = allowed_processors(&size);
  int count = set != NULL ? CPU_COUNT_S(size, set) : 0, left = count > 0 ? n % count : 0, found = -1;
  for (size_t cpu = 0; count > 0 && found < 0 && cpu < size * CHAR_BIT; cpu++)
    if (CPU_ISSET_S(cpu, size, set) && left-- == 0) found = (int)cpu;
  CPU_FREE(set);
  return found;
}

int platform_cpu_count(void) {
  int allowed = affinity_count();
  int quota = platform_cpu_quota("/sys/fs/cgroup", "/proc/self/cgroup");
  return quota > 0 && quota < allowed ? quota : allowed;
}

int platform_current_cpu(void) {
  return sched_getcpu();
}

/* The kernel remembers a set that is asked for, and takes it for a wish where the thread gets more processors later.
 * So whose set is all that it can have asks for all. */
static void restore_processors(const cpu_set_t *set, size_t size) {
  cpu_set_t *all = malloc(size), *got = NULL;
  size_t got_size = 0;
  if (all != NULL) memset(all, 0xff, size);
  if (all != NULL && sched_setaffinity(0, size, all) == 0) got = allowed_processors(&got_size);
  if (got == NULL || got_size != size || !CPU_EQUAL_S(size, got, set)) (void)sched_setaffinity(0, size, set);
  CPU_FREE(got);
  free(all);
}

/* A filter of system calls may end the process for one that it does not know, rather than refuse it. */
static bool may_set_affinity(void) {
  return prctl(PR_GET_SECCOMP, 0, 0, 0, 0) == 0;
}

bool platform_leave_cpu(void) {
  if (!may_set_affinity()) return false;
  size_t size = 0;
  int cpu = sched_getcpu();
  cpu_set_t *mine = allowed_processors(&size), *others = malloc(size);
  bool moved = false;
  if (cpu >= 0 && mine != NULL && others != NULL) {
    memcpy(others, mine, size);
    CPU_CLR_S((size_t)cpu, size, others);
    moved = CPU_COUNT_S(size, others) > 0 && sched_setaffinity(0, size, others) == 0;
    if (moved) restore_processors(mine, size);
  }
  free(others);
  CPU_FREE(mine);
  return moved;
}

/* ---- descriptors ---- */

/* Both or none, above the host's standard streams. */
static int lift_pair(int fds[2]) {
  fds[0] = platform_lift_fd(fds[0]);
  fds[1] = platform_lift_fd(fds[1]);
  if (fds[0] >= 0 && fds[1] >= 0) return 0;
  platform_close_fd(fds[0]);
  platform_close_fd(fds[1]);
  return -1;
}

int platform_pipe(int fds[2]) {
  int made[2];
  if (pipe2(made, O_CLOEXEC) < 0 || lift_pair(made) < 0) return -1;
  memcpy(fds, made, sizeof made);
  return 0;
}

int platform_socketpair(int fds[2]) {
  int made[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, made) < 0 || lift_pair(made) < 0) return -1;
  if (platform_set_nonblocking(made[0]) < 0) {
    platform_close_fd(made[0]);
    platform_close_fd(made[1]);
    return -1;
  }
  memcpy(fds, made, sizeof made);
  return 0;
}

int platform_poll(struct pollfd *fds, unsigned count, int64_t deadline_ns) {
  if (deadline_ns == PLATFORM_NO_DEADLINE) return ppoll(fds, count, NULL, NULL);
  int64_t left_ns = deadline_ns - platform_now_ns();
  if (left_ns >= POLL_FROM_NS) { /* costs less than ppoll, and may end a millisecond early */
    int64_t left_ms = left_ns / 1000000;
    int ready = poll(fds, count, left_ms < INT_MAX ? (int)left_ms : INT_MAX);
    if (ready != 0) return ready;
    left_ns = deadline_ns - platform_now_ns();
  }
  struct timespec left = timespec_of(left_ns);
  return ppoll(fds, count, &left, NULL);
}

/* Closes what /proc/self/fd lists from `lowest` up; false when it cannot be read. opendir would allocate. */
static bool close_listed(int lowest) {
  int folder = open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return false;
  _Alignas(struct dirent64) char block[2048];
  for (;;) {
    long size = syscall(SYS_getdents64, folder, block, sizeof block);
    if (size <= 0) break;
    for (long at = 0; at < size;) {
      const struct dirent64 *entry = (const struct dirent64 *)(const void *)(block + at);
      at += entry->d_reclen;
      int fd = 0;
      for (const char *digit = entry->d_name; *digit >= '0' && *digit <= '9'; digit++) fd = fd * 10 + (*digit - '0');
      if (fd >= lowest && fd != folder) close(fd);
    }
  }
  close(folder);
  return true;
}

void platform_close_from(int lowest) {
  if (syscall(SYS_close_range, (unsigned)lowest, ~0u, 0u) == 0) return;
  if (close_listed(lowest)) return;
  for (int fd = lowest; fd < CLOSE_LIMIT; fd++) close(fd);
}

static int peer_of(int socket, struct ucred *ret) {
  socklen_t size = sizeof *ret;
  return getsockopt(socket, SOL_SOCKET, SO_PEERCRED, ret, &size);
}

pid_t platform_peer_pid(int socket) {
  struct ucred peer;
  return peer_of(socket, &peer) < 0 ? -1 : peer.pid;
}

int platform_peer_uid(int socket, uid_t *ret_uid) {
  struct ucred peer;
  if (peer_of(socket, &peer) < 0) return -1;
  *ret_uid = peer.uid;
  return 0;
}

bool platform_can_seal(void) {
  return true;
}

int platform_shared_memory(size_t size) {
  int fd = memfd_create("pyproc", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
  if (fd < 0 && errno == EINVAL) fd = memfd_create("pyproc", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  fd = platform_lift_fd(fd);
  if (fd < 0) return -1;
  if (ftruncate(fd, (off_t)size) == 0 && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0)
    return fd;
  platform_close_fd(fd);
  return -1;
}

/* ---- processes ---- */

int platform_process_watch(pid_t pid) {
  return platform_lift_fd((int)syscall(SYS_pidfd_open, pid, 0));
}

int platform_host_watch(int *ret_child_fd, int *ret_keep_fd) {
  int fds[2] = {platform_process_watch(getpid()), -1};
  if (fds[0] < 0 && platform_pipe(fds) < 0) return -1;
  *ret_child_fd = fds[0];
  *ret_keep_fd = fds[1];
  return 0;
}

/* What the kernel's waitid writes, and glibc's wait4 hides behind a choice of time_t. */
typedef struct kernel_rusage {
  __kernel_long_t user_s, user_us, system_s, system_us, maxrss_kib, rest[13];
} kernel_rusage;

int platform_reap(pid_t pid, int pidfd, platform_exit *ret) {
  siginfo_t info = {0};
  kernel_rusage usage = {0};
  long result = -1;
  if (pidfd >= 0) result = syscall(SYS_waitid, ID_PIDFD, pidfd, &info, WEXITED | WNOHANG, &usage);
  if (pidfd < 0 || (result < 0 && errno != ECHILD)) /* a kernel or a descriptor without pidfd */
    result = syscall(SYS_waitid, P_PID, pid, &info, WEXITED | WNOHANG, &usage);
  if (result < 0 && errno != ECHILD) return -1;
  if (result == 0 && info.si_pid == 0) return 0;
  *ret = (platform_exit){.known = result == 0};
  if (!ret->known) return 1;
  if (info.si_code == CLD_EXITED)
    ret->exit_status = info.si_status;
  else
    ret->signal = info.si_status;
  ret->rss_bytes = (int64_t)usage.maxrss_kib * 1024;
  ret->cpu_ms = ((int64_t)usage.user_s + usage.system_s) * 1000 + ((int64_t)usage.user_us + usage.system_us) / 1000;
  return 1;
}

pid_t platform_fork_exec(void (*child)(void *argument), void *argument) {
  pid_t pid = vfork(); /* no copy of the host's page tables, none of its fork handlers */
  if (pid == 0) {
    child(argument);
    _exit(127);
  }
  return pid;
}

void platform_die_with(pid_t parent) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(127); /* it was quicker */
}

int platform_bind_processor(int processor) {
  unsigned long set[PROCESSORS_MAX / CHAR_BIT / sizeof(unsigned long)] = {0};
  enum { BITS = CHAR_BIT * sizeof *set };
  if (processor < 0 || processor >= PROCESSORS_MAX) {
    errno = EINVAL;
    return -1;
  }
  set[processor / BITS] = 1UL << processor % BITS;
  return syscall(SYS_sched_setaffinity, 0, sizeof set, set) < 0 ? -1 : 0;
}

/* glibc's own functions for the next two have all threads take part: those are the host's, whose memory this may be. */
#ifdef SYS_setgroups32 /* where the others take 16 bits */
enum { SET_GROUPS = SYS_setgroups32, SET_GROUP = SYS_setresgid32, SET_USER = SYS_setresuid32 };
#else
enum { SET_GROUPS = SYS_setgroups, SET_GROUP = SYS_setresgid, SET_USER = SYS_setresuid };
#endif

int platform_become_group(gid_t gid) {
  if (syscall(SET_GROUPS, 1, &gid) < 0) return -1;
  return syscall(SET_GROUP, gid, gid, gid) < 0 ? -1 : 0;
}

int platform_become_user(uid_t uid) {
  return syscall(SET_USER, uid, uid, uid) < 0 ? -1 : 0;
}

int platform_no_new_privileges(void) {
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

typedef struct object_search {
  uintptr_t address;
  char *buffer;
  size_t size;
  bool found;
} object_search;

/* dl_iterate_phdr: takes the path of the object that the address lies in. dladdr would give a program's argv[0]. */
static int search_object(struct dl_phdr_info *info, size_t size, void *argument) {
  object_search *search = argument;
  (void)size;
  for (int i = 0; i < info->dlpi_phnum; i++) {
    uintptr_t start = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;
    if (info->dlpi_phdr[i].p_type != PT_LOAD || search->address - start >= info->dlpi_phdr[i].p_memsz) continue;
    char path[PATH_MAX];
    if (realpath(info->dlpi_name[0] == '\0' ? "/proc/self/exe" : info->dlpi_name, path) == NULL) return 1;
    size_t length = strlen(path);
    if (length >= search->size) return 1;
    memcpy(search->buffer, path, length + 1);
    search->found = true;
    return 1;
  }
  return 0;
}

const char *platform_library_dir(char *buffer, size_t size) {
  char path[PATH_MAX];
  object_search search = {.address = (uintptr_t)&platform_library_dir, .buffer = path, .size = sizeof path};
  dl_iterate_phdr(search_object, &search);
  if (!search.found) return NULL;
  char *slash = strrchr(path, '/');
  slash[slash == path] = '\0';
  size_t length = strlen(path);
  if (length >= size) return NULL;
  memcpy(buffer, path, length + 1);
  return buffer;
}

/* ---- wake ---- */

int wake_open(wake *self) {
  self->read_fd = self->write_fd = platform_lift_fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  return self->read_fd < 0 ? -1 : 0;
}

void wake_signal(const wake *self) {
  int saved = errno;
  uint64_t one = 1;
  ssize_t written = write(self->write_fd, &one, sizeof one);
  (void)written; /* EAGAIN: it is readable already */
  errno = saved;
}

void wake_drain(const wake *self) {
  uint64_t count = 0;
  ssize_t got = read(self->read_fd, &count, sizeof count);
  (void)got;
}

void wake_close(wake *self) {
  platform_close_fd(self->read_fd);
  self->read_fd = self->write_fd = -1;
}

/* ---- futex ---- */

static long futex_call(platform_futex *self, int operation, uint32_t value, const struct timespec *until,
                       uint32_t bitset) {
#if defined(SYS_futex_time64)
  if (sizeof(time_t) > sizeof(long))
    return syscall(SYS_futex_time64, &self->word, operation | FUTEX_PRIVATE_FLAG, value, until, NULL, bitset);
#endif
#if defined(SYS_futex)
  return syscall(SYS_futex, &self->word, operation | FUTEX_PRIVATE_FLAG, value, until, NULL, bitset);
#else
  return -1;
#endif
}

void platform_futex_init(platform_futex *self) {
  atomic_init(&self->word, 0);
}

void platform_futex_destroy(platform_futex *self) {
  (void)self;
}

bool platform_futex_wait(platform_futex *self, uint32_t expected, uint32_t bitset, int64_t deadline_ns) {
  struct timespec until = timespec_of(deadline_ns);
  const struct timespec *limit = deadline_ns == PLATFORM_NO_DEADLINE ? NULL : &until;
  return futex_call(self, FUTEX_WAIT_BITSET, expected, limit, bitset) == 0 || errno != ETIMEDOUT;
}

void platform_futex_wake(platform_futex *self, int count, uint32_t bitset) {
  futex_call(self, FUTEX_WAKE_BITSET, (uint32_t)count, NULL, bitset);
}

/* ---- poller ---- */

int poller_open(poller *self) {
  self->fd = platform_lift_fd(epoll_create1(EPOLL_CLOEXEC));
  return self->fd < 0 ? -1 : 0;
}

int poller_set(poller *self, int fd, uint32_t events, void *tag) {
  struct epoll_event event = {.data.ptr = tag};
  if (events & POLLER_IN) event.events |= EPOLLIN;
  if (events & POLLER_OUT) event.events |= EPOLLOUT;
  if (events == 0) {
    if (epoll_ctl(self->fd, EPOLL_CTL_DEL, fd, &event) == 0 || errno == ENOENT) return 0;
    return -1;
  }
  if (epoll_ctl(self->fd, EPOLL_CTL_MOD, fd, &event) == 0) return 0;
  return errno == ENOENT ? epoll_ctl(self->fd, EPOLL_CTL_ADD, fd, &event) : -1;
}

int poller_wait(poller *self, poller_event *events, int max, int64_t timeout_ns) {
  struct epoll_event found[64];
  if (max > 64) max = 64;
  int64_t ms = timeout_ns < 0 ? -1 : timeout_ns / 1000000 + (timeout_ns % 1000000 != 0);
  int count = epoll_wait(self->fd, found, max, ms > INT_MAX ? INT_MAX : (int)ms);
  if (count < 0) return errno == EINTR ? 0 : -1;
  for (int i = 0; i < count; i++) {
    events[i] = (poller_event){.tag = found[i].data.ptr};
    if (found[i].events & EPOLLIN) events[i].events |= POLLER_IN;
    if (found[i].events & EPOLLOUT) events[i].events |= POLLER_OUT;
    if (found[i].events & (EPOLLHUP | EPOLLERR)) events[i].events |= POLLER_IN | POLLER_HANGUP;
  }
  return count;
}

void poller_close(poller *self) {
  if (self->fd > 0) platform_close_fd(self->fd);
  self->fd = -1;
}

const char *platform_getenv(const char *name) {
  return secure_getenv(name);
}

int64_t platform_process_rss(pid_t pid) {
  char path[64];
  long long size = 0, resident = -1;
  snprintf(path, sizeof path, "/proc/%ld/statm", (long)pid);
  FILE *file = fopen(path, "re");
  if (file == NULL) return -1;
  if (fscanf(file, "%lld %lld", &size, &resident) != 2) resident = -1;
  fclose(file);
  return resident < 0 ? -1 : (int64_t)resident * sysconf(_SC_PAGESIZE);
}

pid_t platform_parent_of(pid_t pid) {
  char path[64], text[512];
  snprintf(path, sizeof path, "/proc/%ld/stat", (long)pid);
  if (!read_text(path, text, sizeof text)) return -1;
  const char *end = strrchr(text, ')'); /* the name before it may hold anything */
  return end != NULL && strlen(end) > 4 ? (pid_t)strtol(end + 4, NULL, 10) : -1;
}
