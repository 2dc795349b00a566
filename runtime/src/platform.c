/* What every system with POSIX.1-2008 does alike; see platform.h. */
#define _POSIX_C_SOURCE 200809L

#include "platform.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

int64_t platform_now_ns(void) {
  struct timespec now = {0};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

void platform_yield(void) {
  sched_yield();
}

int platform_lift_fd(int fd) {
  if (fd < 0 || fd > 2) return fd;
  int lifted = fcntl(fd, F_DUPFD_CLOEXEC, 3);
  platform_close_fd(fd);
  return lifted;
}

int platform_set_nonblocking(int fd) {
  int flags = fcntl(fd, F_GETFL);
  return flags < 0 ? -1 : fcntl(fd, F_SETFL, flags | O_NONBLOCK);
}

void platform_close_fd(int fd) {
  int saved = errno;
  if (fd >= 0) close(fd);
  errno = saved;
}

#ifdef SOCK_CLOEXEC
enum { STREAM_SOCKET = SOCK_STREAM | SOCK_CLOEXEC };
#else
enum { STREAM_SOCKET = SOCK_STREAM };
#endif

static int stream_socket(void) {
  int fd = platform_lift_fd(socket(AF_UNIX, STREAM_SOCKET, 0));
  if (fd < 0) return -1;
#ifdef SO_NOSIGPIPE
  int on = 1;
  setsockopt(fd, SOL_SOCKET, SO_NOSIGPIPE, &on, sizeof on);
#endif
  if (platform_set_nonblocking(fd) >= 0 && fcntl(fd, F_SETFD, FD_CLOEXEC) >= 0) return fd;
  platform_close_fd(fd);
  return -1;
}

int platform_connect(const char *path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  size_t size = strlen(path) + 1;
  if (size > sizeof address.sun_path) {
    errno = ENAMETOOLONG;
    return -1;
  }
  memcpy(address.sun_path, path, size);
  int fd = stream_socket();
  if (fd < 0 || connect(fd, (const struct sockaddr *)&address, sizeof address) == 0) return fd;
  platform_close_fd(fd);
  return -1;
}

ssize_t platform_send_fds(int socket, const void *data, size_t size, const int *fds, int count) {
  /* iov_base is not const in POSIX; sendmsg does not write to it */
  struct iovec part = {.iov_base = (void *)(uintptr_t)data, .iov_len = size};
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
  union {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(PLATFORM_FDS_MAX * sizeof(int))];
  } control;
  if (count > 0) {
    size_t fds_size = (size_t)count * sizeof *fds;
    if (size == 0 || count > PLATFORM_FDS_MAX) {
      errno = EINVAL;
      return -1;
    }
    memset(&control, 0, sizeof control);
    message.msg_control = control.bytes;
    message.msg_controllen = CMSG_SPACE(fds_size);
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(fds_size);
    memcpy(CMSG_DATA(header), fds, fds_size);
  }
  return sendmsg(socket, &message, PLATFORM_MSG_NOSIGNAL | MSG_DONTWAIT);
}

#ifdef MSG_CMSG_CLOEXEC
enum { RECEIVE_FLAGS = MSG_CMSG_CLOEXEC };
#else
enum { RECEIVE_FLAGS = 0 };
#endif

/* Takes the first descriptor of a message and closes all others. */
static int take_fd(struct msghdr *message) {
  int taken = -1;
  for (struct cmsghdr *header = CMSG_FIRSTHDR(message); header != NULL; header = CMSG_NXTHDR(message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; i++) {
      int fd;
      memcpy(&fd, CMSG_DATA(header) + i * sizeof fd, sizeof fd);
      if (taken < 0)
        taken = fd;
      else
        platform_close_fd(fd);
    }
  }
  return taken;
}

ssize_t platform_receive_fd(int socket, void *data, size_t size, int *ret_fd) {
  struct iovec part = {.iov_base = data, .iov_len = size};
  union {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(PLATFORM_FDS_MAX * sizeof(int))];
  } control;
  struct msghdr message = {
      .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
  ssize_t got = recvmsg(socket, &message, RECEIVE_FLAGS);
  *ret_fd = -1;
  if (got < 0) return -1;
  *ret_fd = platform_lift_fd(take_fd(&message));
  if (*ret_fd >= 0) fcntl(*ret_fd, F_SETFD, FD_CLOEXEC);
  return got;
}

void platform_describe_exit(const platform_exit *exit, char *text, size_t size) {
  if (exit->signal != 0)
    snprintf(text, size, "was killed by signal %d (%s)", exit->signal, strsignal(exit->signal));
  else
    snprintf(text, size, "exited with status %d", exit->exit_status);
}

int platform_kill_group(pid_t pgid, int signo) {
  if (pgid > 1) return kill(-pgid, signo);
  errno = EINVAL; /* -1 would be every process that we may signal */
  return -1;
}

int platform_signal(pid_t pid, int signo) {
  if (pid > 1) return kill(pid, signo);
  errno = EINVAL;
  return -1;
}

const char *platform_oom_rose(const platform_oom *before, const platform_oom *now) {
  if (before->group >= 0 && now->group > before->group) return "cgroup";
  return before->system >= 0 && now->system > before->system ? "system" : NULL;
}

platform_oom platform_oom_now(void) {
  return platform_oom_count("/sys/fs/cgroup", "/proc/self/cgroup", "/proc/vmstat");
}

static _Atomic unsigned fork_generation;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

static void fork_in_child(void) {
  atomic_fetch_add_explicit(&fork_generation, 1, memory_order_relaxed);
}

static void fork_watch(void) {
  pthread_atfork(NULL, NULL, fork_in_child);
}

unsigned platform_fork_generation(void) {
  pthread_once(&fork_once, fork_watch);
  return atomic_load_explicit(&fork_generation, memory_order_relaxed);
}

const char *platform_error_text(int errnum, char *buffer, size_t size) {
  if (strerror_r(errnum, buffer, size) != 0) snprintf(buffer, size, "error %d", errnum);
  return buffer;
}
