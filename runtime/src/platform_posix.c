/* Any POSIX system: waitpid, pipes, poll, condition variables; see platform.h and poller.h. */
#if defined(__linux__)
#define _GNU_SOURCE /* dladdr, wait4, SO_PEERCRED */
#endif

#include "platform.h"
#include "poller.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { CLOSE_LIMIT = 65536, NAME_TRIES = 16 };

uint64_t platform_random64(void) {
  uint64_t value = 0;
  int fd = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
  ssize_t got = fd < 0 ? -1 : read(fd, &value, sizeof value);
  platform_close_fd(fd);
  if (got == (ssize_t)sizeof value) return value;
  /* splitmix64 over what differs between processes and calls */
  value = (uint64_t)platform_now_ns() ^ ((uint64_t)getpid() << 40) ^ (uint64_t)(uintptr_t)&value;
  value = (value ^ (value >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
  value = (value ^ (value >> 27)) * UINT64_C(0x94d049bb133111eb);
  return value ^ (value >> 31);
}

/* ---- processors ---- */

int platform_cpu_quota(const char *root, const char *list) {
  (void)root, (void)list;
  return 0;
}

platform_oom platform_oom_count(const char *root, const char *list, const char *vmstat) {
  (void)root, (void)list, (void)vmstat;
  return (platform_oom){-1, -1};
}

int platform_cpu_count(void) {
  long online = sysconf(_SC_NPROCESSORS_ONLN);
  return online < 1 ? 1 : (int)online;
}

int platform_current_cpu(void) {
  return -1;
}

bool platform_leave_cpu(void) {
  return false;
}

int platform_nth_processor(int n) {
  (void)n;
  return -1;
}

int platform_bind_processor(int processor) {
  (void)processor;
  errno = ENOSYS;
  return -1;
}

/* ---- descriptors ---- */

/* Both or none, close-on-exec, above the host's standard streams. A fork of the host in between may leak them. */
static int finish_pair(int fds[2]) {
  fds[0] = platform_lift_fd(fds[0]);
  fds[1] = platform_lift_fd(fds[1]);
  if (fds[0] >= 0 && fds[1] >= 0 && fcntl(fds[0], F_SETFD, FD_CLOEXEC) == 0 && fcntl(fds[1], F_SETFD, FD_CLOEXEC) == 0)
    return 0;
  platform_close_fd(fds[0]);
  platform_close_fd(fds[1]);
  return -1;
}

int platform_pipe(int fds[2]) {
  int made[2];
  if (pipe(made) < 0 || finish_pair(made) < 0) return -1;
  memcpy(fds, made, sizeof made);
  return 0;
}

int platform_socketpair(int fds[2]) {
  int made[2];
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, made) < 0 || finish_pair(made) < 0) return -1;
#ifdef SO_NOSIGPIPE
  int on = 1;
  setsockopt(made[0], SOL_SOCKET, SO_NOSIGPIPE, &on, sizeof on);
#endif
  if (platform_set_nonblocking(made[0]) < 0) {
    platform_close_fd(made[0]);
    platform_close_fd(made[1]);
    return -1;
  }
  memcpy(fds, made, sizeof made);
  return 0;
}

/* Milliseconds for poll, rounded up; -1: for ever. */
static int poll_ms(int64_t ns) {
  if (ns < 0) return -1;
  int64_t ms = ns / 1000000 + (ns % 1000000 != 0);
  return ms > INT_MAX ? INT_MAX : (int)ms;
}

int platform_poll(struct pollfd *fds, unsigned count, int64_t deadline_ns) {
  if (deadline_ns == PLATFORM_NO_DEADLINE) return poll(fds, count, -1);
  int64_t left = deadline_ns - platform_now_ns();
  return poll(fds, count, poll_ms(left < 0 ? 0 : left));
}

void platform_close_from(int lowest) {
  long limit = sysconf(_SC_OPEN_MAX);
  if (limit < 0 || limit > CLOSE_LIMIT) limit = CLOSE_LIMIT; /* above, close-on-exec has to do */
  for (int fd = lowest; fd < limit; fd++) close(fd);
}

#ifdef SO_PEERCRED
static int peer_of(int socket, pid_t *ret_pid, uid_t *ret_uid) {
  struct ucred peer;
  socklen_t size = sizeof peer;
  if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0) return -1;
  *ret_pid = peer.pid;
  *ret_uid = peer.uid;
  return 0;
}
#else
static int peer_of(int socket, pid_t *ret_pid, uid_t *ret_uid) {
  gid_t group;
  *ret_pid = -1; /* not known in a portable way */
  return getpeereid(socket, ret_uid, &group);
}
#endif

pid_t platform_peer_pid(int socket) {
  pid_t pid;
  uid_t uid;
  return peer_of(socket, &pid, &uid) < 0 ? -1 : pid;
}

int platform_peer_uid(int socket, uid_t *ret_uid) {
  pid_t pid;
  uid_t uid;
  if (peer_of(socket, &pid, &uid) < 0) return -1;
  *ret_uid = uid;
  return 0;
}

bool platform_can_seal(void) {
  return false;
}

int platform_shared_memory(size_t size) {
  for (int tries = 0; tries < NAME_TRIES; tries++) {
    char name[32];
    snprintf(name, sizeof name, "/pyproc-%016llx", (unsigned long long)platform_random64());
    int fd = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600); /* close-on-exec by POSIX */
    if (fd < 0 && errno == EEXIST) continue;
    if (fd < 0) return -1;
    shm_unlink(name);
    fd = platform_lift_fd(fd);
    if (fd < 0 || ftruncate(fd, (off_t)size) == 0) return fd;
    platform_close_fd(fd);
    return -1;
  }
  return -1;
}

/* ---- processes ---- */

int platform_process_watch(pid_t pid) {
  (void)pid;
  errno = ENOSYS;
  return -1;
}

int platform_host_watch(int *ret_child_fd, int *ret_keep_fd) {
  int fds[2];
  if (platform_pipe(fds) < 0) return -1;
  *ret_child_fd = fds[0];
  *ret_keep_fd = fds[1];
  return 0;
}

static int64_t ms_of(struct timeval time) {
  return (int64_t)time.tv_sec * 1000 + time.tv_usec / 1000;
}

int platform_reap(pid_t pid, int pidfd, platform_exit *ret) {
  struct rusage usage;
  int status = 0;
  (void)pidfd;
  pid_t got = wait4(pid, &status, WNOHANG, &usage);
  if (got == 0) return 0;
  if (got < 0 && errno != ECHILD) return -1;
  *ret = (platform_exit){.known = got > 0};
  if (!ret->known) return 1;
  if (WIFSIGNALED(status))
    ret->signal = WTERMSIG(status);
  else
    ret->exit_status = WEXITSTATUS(status);
#ifdef __APPLE__
  ret->rss_bytes = (int64_t)usage.ru_maxrss;
#else
  ret->rss_bytes = (int64_t)usage.ru_maxrss * 1024;
#endif
  ret->cpu_ms = ms_of(usage.ru_utime) + ms_of(usage.ru_stime);
  return 1;
}

pid_t platform_fork_exec(void (*child)(void *argument), void *argument) {
  pid_t pid = fork();
  if (pid == 0) {
    child(argument);
    _exit(127);
  }
  return pid;
}

void platform_die_with(pid_t parent) {
  (void)parent;
}

/* The child has one thread: fork, not vfork, made it. */
int platform_become_group(gid_t gid) {
  return setgroups(1, &gid) < 0 || setgid(gid) < 0 ? -1 : 0;
}

int platform_become_user(uid_t uid) {
  return setuid(uid);
}

int platform_no_new_privileges(void) {
  errno = ENOSYS;
  return -1;
}

const char *platform_library_dir(char *buffer, size_t size) {
  Dl_info info;
  char path[PATH_MAX];
  if (dladdr((const void *)(uintptr_t)&platform_library_dir, &info) == 0 || info.dli_fname == NULL) return NULL;
  if (realpath(info.dli_fname, path) == NULL) return NULL;
  char *slash = strrchr(path, '/');
  slash[slash == path] = '\0';
  size_t length = strlen(path);
  if (length >= size) return NULL;
  memcpy(buffer, path, length + 1);
  return buffer;
}

/* ---- wake ---- */

int wake_open(wake *self) {
  int fds[2];
  if (platform_pipe(fds) < 0) return -1;
  *self = (wake){.read_fd = fds[0], .write_fd = fds[1]};
  if (platform_set_nonblocking(fds[0]) == 0 && platform_set_nonblocking(fds[1]) == 0) return 0;
  wake_close(self);
  return -1;
}

void wake_signal(const wake *self) {
  int saved = errno;
  ssize_t written = write(self->write_fd, "", 1);
  (void)written; /* EAGAIN: it is readable already */
  errno = saved;
}

void wake_drain(const wake *self) {
  char bytes[256];
  while (read(self->read_fd, bytes, sizeof bytes) == (ssize_t)sizeof bytes) {}
}

void wake_close(wake *self) {
  platform_close_fd(self->read_fd);
  platform_close_fd(self->write_fd);
  self->read_fd = self->write_fd = -1;
}

/* ---- futex ---- */

void platform_futex_init(platform_futex *self) {
  pthread_condattr_t attributes;
  atomic_init(&self->word, 0);
  pthread_mutex_init(&self->mutex, NULL);
  pthread_condattr_init(&attributes);
  pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
  pthread_cond_init(&self->condition, &attributes);
  pthread_condattr_destroy(&attributes);
}

void platform_futex_destroy(platform_futex *self) {
  pthread_cond_destroy(&self->condition);
  pthread_mutex_destroy(&self->mutex);
}

bool platform_futex_wait(platform_futex *self, uint32_t expected, uint32_t bitset, int64_t deadline_ns) {
  (void)bitset; /* everybody is woken, and looks */
  int64_t until_ns = deadline_ns < 0 ? 0 : deadline_ns;
  struct timespec until = {.tv_sec = (time_t)(until_ns / 1000000000), .tv_nsec = (long)(until_ns % 1000000000)};
  int result = 0;
  pthread_mutex_lock(&self->mutex);
  if (atomic_load(&self->word) != expected)
    result = 0;
  else if (deadline_ns == PLATFORM_NO_DEADLINE)
    pthread_cond_wait(&self->condition, &self->mutex);
  else
    result = pthread_cond_timedwait(&self->condition, &self->mutex, &until);
  pthread_mutex_unlock(&self->mutex);
  return result != ETIMEDOUT;
}

void platform_futex_wake(platform_futex *self, int count, uint32_t bitset) {
  (void)count, (void)bitset;
  pthread_mutex_lock(&self->mutex); /* or a sleeper between its look at the word and its wait would miss it */
  pthread_cond_broadcast(&self->condition);
  pthread_mutex_unlock(&self->mutex);
}

/* ---- poller ---- */

int poller_open(poller *self) {
  *self = (poller){.fd = -1};
  return 0;
}

static int poller_grow(poller *self) {
  size_t capacity = self->capacity == 0 ? 16 : self->capacity * 2;
  struct pollfd *fds = realloc(self->fds, capacity * sizeof *fds);
  if (fds == NULL) return -1;
  self->fds = fds;
  void **tags = realloc(self->tags, capacity * sizeof *tags);
  if (tags == NULL) return -1;
  self->tags = tags;
  self->capacity = capacity;
  return 0;
}

int poller_set(poller *self, int fd, uint32_t events, void *tag) {
  size_t at = 0;
  while (at < self->count && self->fds[at].fd != fd) at++;
  if (events == 0) {
    if (at == self->count) return 0;
    self->count--;
    self->fds[at] = self->fds[self->count];
    self->tags[at] = self->tags[self->count];
    return 0;
  }
  if (fcntl(fd, F_GETFD) < 0) return -1; /* as epoll does */
  if (at == self->capacity && poller_grow(self) < 0) return -1;
  if (at == self->count) self->count++;
  int wanted = (events & POLLER_IN ? POLLIN : 0) | (events & POLLER_OUT ? POLLOUT : 0);
  self->fds[at] = (struct pollfd){.fd = fd, .events = (short)wanted};
  self->tags[at] = tag;
  return 0;
}

int poller_wait(poller *self, poller_event *events, int max, int64_t timeout_ns) {
  int found = poll(self->fds, (nfds_t)self->count, poll_ms(timeout_ns));
  if (found < 0) return errno == EINTR ? 0 : -1;
  int written = 0;
  for (size_t looked = 0; looked < self->count && written < max; looked++) {
    size_t at = self->next++ % self->count; /* goes on where it stopped, so that none is starved */
    short got = self->fds[at].revents;
    if (got == 0) continue;
    events[written] = (poller_event){.tag = self->tags[at]};
    if (got & POLLIN) events[written].events |= POLLER_IN;
    if (got & POLLOUT) events[written].events |= POLLER_OUT;
    if (got & (POLLHUP | POLLERR | POLLNVAL)) events[written].events |= POLLER_IN | POLLER_HANGUP;
    written++;
  }
  return written;
}

void poller_close(poller *self) {
  free(self->fds);
  free(self->tags);
  *self = (poller){.fd = -1};
}

const char *platform_getenv(const char *name) {
  return getuid() == geteuid() && getgid() == getegid() ? getenv(name) : NULL;
}

int64_t platform_process_rss(pid_t pid) {
  (void)pid;
  return -1;
}

pid_t platform_parent_of(pid_t pid) {
  (void)pid;
  return -1;
}
