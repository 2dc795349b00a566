/* The platform layer and the poller, whichever of the two was built. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "platform.h"
#include "poller.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#ifdef PYPROC_PLATFORM_LINUX
#include <sys/prctl.h>
#endif
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MANY = 40 };

static int fds_before;

static int count_fds(void) {
  int count = 0;
  DIR *open_fds = opendir("/proc/self/fd");
  while (readdir(open_fds) != NULL) count++;
  closedir(open_fds);
  return count;
}

static int set_up(void **state) {
  (void)state;
  fds_before = count_fds();
  return 0;
}

static int tear_down(void **state) {
  (void)state;
  if (count_fds() != fds_before) {
    print_error("%d descriptors were left open\n", count_fds() - fds_before);
    return -1;
  }
  return waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD ? 0 : -1;
}

static bool has_pidfd(void) {
  int fd = platform_process_watch(getpid());
  platform_close_fd(fd);
  return fd >= 0;
}

static bool is_cloexec(int fd) {
  return (fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0;
}

static bool is_nonblocking(int fd) {
  return (fcntl(fd, F_GETFL) & O_NONBLOCK) != 0;
}

static bool is_readable(int fd) {
  struct pollfd polled = {.fd = fd, .events = POLLIN};
  return platform_poll(&polled, 1, 0) == 1;
}

static void wait_readable(int fd) {
  struct pollfd polled = {.fd = fd, .events = POLLIN};
  while (platform_poll(&polled, 1, PLATFORM_NO_DEADLINE) < 1) {}
}

/* ---- time, chance, processors ---- */

static void test_clock_and_random(void **state) {
  (void)state;
  int64_t before = platform_now_ns();
  assert_true(before > 0);
  assert_true(platform_now_ns() >= before);
  assert_true(platform_random64() != platform_random64());
  platform_yield();
  platform_cpu_relax();
}

static void test_cpus(void **state) {
  (void)state;
  int count = platform_cpu_count();
  assert_in_range(count, 1, sysconf(_SC_NPROCESSORS_CONF));
  assert_true(platform_current_cpu() >= -1);
  assert_true(platform_current_cpu() < sysconf(_SC_NPROCESSORS_CONF));
}

#ifdef PYPROC_PLATFORM_LINUX
static void assert_leaves(const cpu_set_t *set) {
  cpu_set_t after;
  assert_int_equal(sched_setaffinity(0, sizeof *set, set), 0);
  bool left = platform_leave_cpu();
  assert_int_equal(sched_getaffinity(0, sizeof after, &after), 0);
  assert_true(CPU_EQUAL(set, &after));
  if (prctl(PR_GET_SECCOMP, 0, 0, 0, 0) == 0) assert_int_equal(left, CPU_COUNT(set) > 1);
}

/* Whichever processors a thread may use: it still may afterwards, and no other. */
static void test_leave_cpu(void **state) {
  (void)state;
  cpu_set_t all, some;
  assert_int_equal(sched_getaffinity(0, sizeof all, &all), 0);
  assert_leaves(&all);
  some = all;
  for (int cpu = 0; cpu < CPU_SETSIZE && CPU_COUNT(&some) > 1; cpu++) {
    CPU_CLR((size_t)cpu, &some);
    assert_leaves(&some);
  }
  assert_int_equal(sched_setaffinity(0, sizeof all, &all), 0);
}
#else
static void test_leave_cpu(void **state) {
  (void)state;
  assert_false(platform_leave_cpu());
}
#endif

static void put_file(const char *root, const char *name, const char *text) {
  char path[512];
  snprintf(path, sizeof path, "%s/%s", root, name);
  for (char *slash = strchr(path + strlen(root) + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
    *slash = '\0';
    mkdir(path, 0700);
    *slash = '/';
  }
  FILE *file = fopen(path, "w");
  assert_non_null(file);
  fputs(text, file);
  fclose(file);
}

static int quota_of(const char *root, const char *list) {
  char path[512];
  put_file(root, "list", list);
  snprintf(path, sizeof path, "%s/list", root);
  return platform_cpu_quota(root, path);
}

static void test_cpu_quota(void **state) {
  (void)state;
  char root[] = "/tmp/pyproc-cgroup-XXXXXX";
  char command[64];
  if (!has_pidfd()) { /* the portable layer knows no cgroups */
    assert_int_equal(platform_cpu_quota("/sys/fs/cgroup", "/proc/self/cgroup"), 0);
    return;
  }
  assert_non_null(mkdtemp(root));
  put_file(root, "a/cpu.max", "400000 100000\n");
  put_file(root, "a/b/cpu.max", "max 100000\n");
  put_file(root, "a/c/cpu.max", "150000 100000\n");
  put_file(root, "cpu/v1/cpu.cfs_quota_us", "250000\n");
  put_file(root, "cpu/v1/cpu.cfs_period_us", "100000\n");
  put_file(root, "cpu/none/cpu.cfs_quota_us", "-1\n");
  put_file(root, "cpu/none/cpu.cfs_period_us", "100000\n");
  put_file(root, "cpu,cpuacct/joined/cpu.cfs_quota_us", "50000\n");
  put_file(root, "cpu,cpuacct/joined/cpu.cfs_period_us", "100000\n");
  put_file(root, "odd/cpu.max", "nonsense\n");
  assert_int_equal(quota_of(root, "0::/a\n"), 4);
  assert_int_equal(quota_of(root, "0::/a/b\n"), 4); /* from above */
  assert_int_equal(quota_of(root, "0::/a/c\n"), 2); /* rounded up */
  assert_int_equal(quota_of(root, "0::/elsewhere/deeper\n"), 0);
  assert_int_equal(quota_of(root, "0::/odd\n"), 0);
  assert_int_equal(quota_of(root, "3:memory:/v1\n2:cpu,cpuacct:/v1\n"), 3);
  assert_int_equal(quota_of(root, "3:memory:/v1\n2:cpuset:/v1\n"), 0);
  assert_int_equal(quota_of(root, "2:cpu:/none\n"), 0);
  assert_int_equal(quota_of(root, "2:cpu,cpuacct:/joined\n"), 1);
  assert_int_equal(quota_of(root, "2:cpu,cpuacct:/v1\n0::/a/c\n"), 2);
  assert_int_equal(quota_of(root, "nonsense\n:\n::\n"), 0);
  assert_int_equal(platform_cpu_quota(root, "/nonexistent"), 0);
  snprintf(command, sizeof command, "rm -r %s", root);
  assert_int_equal(system(command), 0);
}

static platform_oom oom_of(const char *root, const char *list, const char *vmstat) {
  char path[512], kernel[512];
  put_file(root, "list", list);
  put_file(root, "vmstat", vmstat);
  snprintf(path, sizeof path, "%s/list", root);
  snprintf(kernel, sizeof kernel, "%s/vmstat", root);
  return platform_oom_count(root, path, kernel);
}

static void assert_oom(platform_oom found, int64_t group, int64_t system_wide) {
  assert_int_equal(found.group, group);
  assert_int_equal(found.system, system_wide);
}

static void test_oom_count(void **state) {
  (void)state;
  char root[] = "/tmp/pyproc-cgroup-XXXXXX";
  char command[64];
  if (!has_pidfd()) {
    assert_oom(platform_oom_count("/sys/fs/cgroup", "/proc/self/cgroup", "/proc/vmstat"), -1, -1);
    return;
  }
  assert_non_null(mkdtemp(root));
  put_file(root, "a/memory.events", "low 0\nhigh 1\nmax 2\noom 9\noom_kill 3\noom_group_kill 8\n");
  put_file(root, "a/b/cgroup.procs", "");
  put_file(root, "memory/old/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n");
  put_file(root, "unified/u/memory.events", "oom_kill 6\n");
  put_file(root, "odd/memory.events", "oom_killer 4\n");
  assert_oom(oom_of(root, "0::/a\n", "pgfault 1\noom_kill 17\nnr_free 2\n"), 3, 17);
  assert_oom(oom_of(root, "0::/a/b\n", "pgfault 1\n"), 3, -1); /* from above */
  assert_oom(oom_of(root, "0::/elsewhere/deeper\n", ""), -1, -1);
  assert_oom(oom_of(root, "4:cpu,memory:/old\n0::/\n", "oom_kill 0\n"), 5, 0);
  assert_oom(oom_of(root, "4:cpu:/old\n0::/u\n", "oom_kill"), 6, -1);
  assert_oom(oom_of(root, "0::/odd\n", "oom_kill 1\n"), -1, 1);
  assert_oom(oom_of(root, "nonsense\n:\n::\n", ""), -1, -1);
  put_file(root, "memory.events", "oom_kill 2\n"); /* a container sees its own group as the root */
  assert_oom(oom_of(root, "0::/\n", ""), 2, -1);
  assert_oom(oom_of(root, "0::/../elsewhere\n", ""), 2, -1);
  assert_oom(platform_oom_count(root, "/nonexistent", "/nonexistent"), -1, -1);
  snprintf(command, sizeof command, "rm -r %s", root);
  assert_int_equal(system(command), 0);
}

static void test_oom_rose(void **state) {
  (void)state;
  const platform_oom unknown = {-1, -1}, none = {0, 0}, group = {1, 1}, other = {0, 1};
  assert_null(platform_oom_rose(&none, &none));
  assert_null(platform_oom_rose(&unknown, &group)); /* since when? */
  assert_null(platform_oom_rose(&group, &unknown));
  assert_null(platform_oom_rose(&group, &none));
  assert_string_equal(platform_oom_rose(&none, &group), "cgroup");
  assert_string_equal(platform_oom_rose(&none, &other), "system");
}

/* ---- descriptors ---- */

static void test_pipe_and_socketpair(void **state) {
  (void)state;
  int fds[2];
  assert_int_equal(platform_pipe(fds), 0);
  assert_true(is_cloexec(fds[0]) && is_cloexec(fds[1]));
  assert_false(is_nonblocking(fds[0]) || is_nonblocking(fds[1]));
  platform_close_fd(fds[0]);
  platform_close_fd(fds[1]);
  assert_int_equal(platform_socketpair(fds), 0);
  assert_true(is_cloexec(fds[0]) && is_cloexec(fds[1]));
  assert_true(is_nonblocking(fds[0]));
  assert_false(is_nonblocking(fds[1]));
  uid_t uid = (uid_t)-1;
  assert_int_equal(platform_peer_uid(fds[0], &uid), 0);
  assert_int_equal(uid, geteuid());
  assert_int_equal(platform_peer_pid(fds[0]), getpid());
  platform_close_fd(fds[0]);
  platform_close_fd(fds[1]);
  assert_int_equal(platform_peer_uid(-1, &uid), -1);
  assert_int_equal(platform_peer_pid(-1), -1);
}

static void test_close_leaves_errno(void **state) {
  (void)state;
  errno = EDOM;
  platform_close_fd(-1);
  platform_close_fd(987);
  assert_int_equal(errno, EDOM);
}

/* Takes one byte and the descriptor that came with it, or -1. */
static int receive_fd(int socket, char *ret_byte) {
  union {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(sizeof(int))];
  } control;
  struct iovec part = {.iov_base = ret_byte, .iov_len = 1};
  struct msghdr message = {
      .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
  int fd = -1;
  assert_int_equal(recvmsg(socket, &message, 0), 1);
  struct cmsghdr *header = CMSG_FIRSTHDR(&message);
  if (header != NULL) memcpy(&fd, CMSG_DATA(header), sizeof fd);
  return fd;
}

static void test_send_fd(void **state) {
  (void)state;
  int sockets[2];
  int fds[2];
  char byte = 0;
  assert_int_equal(platform_socketpair(sockets), 0);
  assert_int_equal(platform_pipe(fds), 0);
  assert_int_equal(platform_send_fds(sockets[0], "ab", 2, fds, 1), 2);
  int received = receive_fd(sockets[1], &byte);
  assert_int_equal(byte, 'a');
  assert_true(received >= 0);
  assert_int_equal(receive_fd(sockets[1], &byte), -1); /* on the first byte only */
  assert_int_equal(byte, 'b');
  assert_int_equal(write(fds[1], "x", 1), 1);
  assert_int_equal(read(received, &byte, 1), 1);
  assert_int_equal(byte, 'x');
  assert_int_equal(platform_send_fds(sockets[0], "c", 1, NULL, 0), 1);
  assert_int_equal(receive_fd(sockets[1], &byte), -1);
  assert_int_equal(platform_send_fds(sockets[0], "", 0, fds, 1), -1);
  assert_int_equal(errno, EINVAL);
  platform_close_fd(sockets[1]);
  assert_int_equal(platform_send_fds(sockets[0], "c", 1, fds, 1), -1); /* and no SIGPIPE, which would end us */
  assert_int_equal(errno, EPIPE);
  platform_close_fd(sockets[0]);
  platform_close_fd(received);
  platform_close_fd(fds[0]);
  platform_close_fd(fds[1]);
}

static void test_several_fds(void **state) {
  (void)state;
  int sockets[2], fds[2], received = -1;
  char bytes[4];
  assert_int_equal(platform_socketpair(sockets), 0);
  assert_int_equal(platform_pipe(fds), 0);
  const int given[PLATFORM_FDS_MAX + 1] = {fds[1], sockets[0], fds[0], fds[1], fds[0], fds[1]};
  assert_int_equal(platform_send_fds(sockets[1], "ab", 2, given, 4), 2);
  assert_int_equal(platform_send_fds(sockets[1], "ab", 2, given, PLATFORM_FDS_MAX + 1), -1);
  assert_int_equal(errno, EINVAL);
  assert_int_equal(platform_receive_fd(sockets[0], bytes, sizeof bytes, &received),
                   2); /* all but the first are closed */
  assert_true(received > 2);
  assert_int_equal(fcntl(received, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
  platform_close_fd(fds[1]);
  assert_int_equal(write(received, "x", 1), 1);
  platform_close_fd(received);
  assert_int_equal(read(fds[0], bytes, 2), 1);
  assert_int_equal(read(fds[0], bytes, 1), 0); /* no other end is open */
  assert_int_equal(platform_send_fds(sockets[1], "c", 1, NULL, 0), 1);
  assert_int_equal(platform_receive_fd(sockets[0], bytes, sizeof bytes, &received), 1);
  assert_int_equal(received, -1);
  assert_int_equal(platform_receive_fd(sockets[0], bytes, sizeof bytes, &received), -1);
  assert_true(errno == EAGAIN || errno == EWOULDBLOCK);
  platform_close_fd(sockets[1]);
  assert_int_equal(platform_receive_fd(sockets[0], bytes, sizeof bytes, &received), 0);
  platform_close_fd(sockets[0]);
  platform_close_fd(fds[0]);
}

static void test_shared_memory(void **state) {
  (void)state;
  int fd = platform_shared_memory(34816);
  struct stat status;
  assert_true(fd > 2);
  assert_true(is_cloexec(fd));
  assert_int_equal(fstat(fd, &status), 0);
  assert_int_equal(status.st_size, 34816);
  if (has_pidfd()) {
    assert_int_equal(ftruncate(fd, 100), -1);
    assert_int_equal(errno, EPERM);
    assert_int_equal(ftruncate(fd, 100000), -1);
    assert_int_equal(errno, EPERM);
  }
  char *one = mmap(NULL, 34816, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  char *other = mmap(NULL, 34816, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  assert_true(one != MAP_FAILED && other != MAP_FAILED);
  assert_int_equal(other[34815], 0);
  one[34815] = 'x';
  assert_int_equal(other[34815], 'x');
  munmap(one, 34816);
  munmap(other, 34816);
  platform_close_fd(fd);
}

static void test_poll_looks_once_after_the_deadline(void **state) {
  (void)state;
  int fds[2];
  assert_int_equal(platform_pipe(fds), 0);
  struct pollfd polled = {.fd = fds[0], .events = POLLIN};
  assert_int_equal(platform_poll(&polled, 1, platform_now_ns() - 1), 0);
  int64_t deadline = platform_now_ns() + 1500000;
  assert_int_equal(platform_poll(&polled, 1, deadline), 0);
  assert_true(platform_now_ns() >= deadline);
  assert_int_equal(write(fds[1], "x", 1), 1);
  assert_int_equal(platform_poll(&polled, 1, platform_now_ns() - 1), 1);
  platform_close_fd(fds[0]);
  platform_close_fd(fds[1]);
}

/* Runs a check in a fork, whose descriptors may be ruined; it returns 0 or the number of what failed. */
static void in_fork(int (*check)(void)) {
  int status = 0;
  pid_t pid = fork();
  if (pid == 0) _exit(check());
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_true(WIFEXITED(status));
  assert_int_equal(WEXITSTATUS(status), 0);
}

static int check_lifted(void) {
  int fds[2];
  wake self;
  poller polls;
  for (int fd = 0; fd < 3; fd++) close(fd);
  if (platform_pipe(fds) < 0 || fds[0] < 3 || fds[1] < 3) return 1;
  if (platform_socketpair(fds) < 0 || fds[0] < 3 || fds[1] < 3) return 2;
  if (wake_open(&self) < 0 || self.read_fd < 3 || self.write_fd < 3) return 3;
  if (platform_shared_memory(10) < 3) return 4;
  if (has_pidfd() && platform_process_watch(getpid()) < 3) return 5;
  if (platform_host_watch(&fds[0], &fds[1]) < 0 || fds[0] < 3 || (fds[1] >= 0 && fds[1] < 3)) return 6;
  if (poller_open(&polls) < 0 || (polls.fd >= 0 && polls.fd < 3)) return 7;
  for (int fd = 0; fd < 3; fd++)
    if (fcntl(fd, F_GETFD) >= 0) return 8;
  return 0;
}

static void test_standard_streams_are_left_alone(void **state) {
  (void)state;
  in_fork(check_lifted);
}

static int check_close_from(void) {
  int low = open("/dev/null", O_RDONLY);
  int high = fcntl(low, F_DUPFD, 300);
  platform_close_from(low + 1);
  if (fcntl(low, F_GETFD) < 0) return 1;
  return fcntl(high, F_GETFD) < 0 ? 0 : 2;
}

static void test_close_from(void **state) {
  (void)state;
  in_fork(check_close_from);
}

/* ---- processes ---- */

/* A child that ends with `status`, or by `signo`, once the returned descriptor is closed. */
static pid_t start_child(int status, int signo, int *ret_gate) {
  int fds[2];
  char byte;
  assert_int_equal(platform_pipe(fds), 0);
  pid_t pid = fork();
  if (pid == 0) {
    close(fds[1]);
    if (read(fds[0], &byte, 1) != 0) _exit(99);
    if (signo != 0) raise(signo);
    _exit(status);
  }
  close(fds[0]);
  *ret_gate = fds[1];
  return pid;
}

static platform_exit end_of(pid_t pid, int gate) {
  platform_exit end = {.signal = -1};
  int watch = platform_process_watch(pid);
  assert_int_equal(platform_reap(pid, watch, &end), 0);
  assert_int_equal(end.signal, -1);
  if (watch >= 0) {
    assert_true(is_cloexec(watch));
    assert_false(is_readable(watch));
  }
  close(gate);
  if (watch >= 0) wait_readable(watch);
  while (platform_reap(pid, watch, &end) == 0) platform_yield();
  platform_close_fd(watch);
  return end;
}

static void test_reap(void **state) {
  (void)state;
  int gate;
  pid_t pid = start_child(7, 0, &gate);
  platform_exit end = end_of(pid, gate);
  assert_true(end.known);
  assert_int_equal(end.exit_status, 7);
  assert_int_equal(end.signal, 0);
  assert_true(end.rss_bytes > 0);
  assert_true(end.cpu_ms >= 0);
  pid = start_child(0, SIGTERM, &gate);
  end = end_of(pid, gate);
  assert_int_equal(end.signal, SIGTERM);
  assert_int_equal(end.exit_status, 0);
}

static void test_reap_takes_a_descriptor_that_is_no_pidfd(void **state) {
  (void)state;
  int gate;
  platform_exit end;
  pid_t pid = start_child(5, 0, &gate);
  assert_int_equal(platform_reap(pid, gate, &end), 0);
  close(gate);
  while (platform_reap(pid, -1, &end) == 0) platform_yield();
  assert_int_equal(end.exit_status, 5);
}

static void test_status_that_the_host_took_is_unknown(void **state) {
  (void)state;
  int gate;
  platform_exit end = {.known = true, .signal = 9};
  pid_t pid = start_child(0, 0, &gate);
  int watch = platform_process_watch(pid);
  close(gate);
  assert_int_equal(waitpid(pid, NULL, 0), pid);
  assert_int_equal(platform_reap(pid, watch, &end), 1);
  assert_false(end.known);
  assert_int_equal(end.signal, 0);
  platform_close_fd(watch);
}

static void test_kill_group(void **state) {
  (void)state;
  for (pid_t bad = -1; bad <= 1; bad++) {
    assert_int_equal(platform_kill_group(bad, 0), -1);
    assert_int_equal(errno, EINVAL);
  }
  int gate;
  pid_t pid = start_child(0, 0, &gate);
  assert_int_equal(setpgid(pid, pid), 0);
  assert_int_equal(platform_kill_group(pid, SIGKILL), 0);
  platform_exit end;
  while (platform_reap(pid, -1, &end) == 0) platform_yield();
  assert_int_equal(end.signal, SIGKILL);
  assert_int_equal(platform_kill_group(pid, SIGKILL), -1);
  assert_int_equal(errno, ESRCH);
  close(gate);
}

/* A host that hands its watch out and waits to be killed, with (where that can be had) a forked child that lives on. */
static void be_host(int socket, int gate) {
  int watch;
  int keep;
  char byte;
  if (platform_host_watch(&watch, &keep) < 0) _exit(1);
  if (has_pidfd() && fork() == 0) {
    close(socket);
    if (read(gate, &byte, 1) < 0) _exit(1);
    _exit(0);
  }
  if (platform_send_fds(socket, "w", 1, &watch, 1) != 1) _exit(2);
  if (read(gate, &byte, 1) < 0) _exit(3);
  _exit(4);
}

static void test_host_watch(void **state) {
  (void)state;
  int sockets[2];
  int gate[2];
  char byte;
  assert_int_equal(platform_socketpair(sockets), 0);
  assert_int_equal(platform_pipe(gate), 0);
  pid_t host = fork();
  if (host == 0) {
    close(gate[1]);
    be_host(sockets[0], gate[0]);
  }
  platform_close_fd(sockets[0]);
  int watch = receive_fd(sockets[1], &byte);
  assert_true(watch >= 0);
  assert_false(is_readable(watch));
  assert_int_equal(kill(host, SIGKILL), 0);
  wait_readable(watch);
  assert_int_equal(waitpid(host, NULL, 0), host);
  platform_close_fd(watch);
  platform_close_fd(gate[0]);
  platform_close_fd(gate[1]); /* the host's child ends */
  wait_readable(sockets[1]);
  platform_close_fd(sockets[1]);
}

static void test_fork_generation(void **state) {
  (void)state;
  int status;
  unsigned before = platform_fork_generation();
  pid_t pid = fork();
  if (pid == 0) _exit(platform_fork_generation() != before ? 0 : 1);
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_int_equal(status, 0);
  assert_int_equal(platform_fork_generation(), before);
}

static void test_library_dir(void **state) {
  (void)state;
  char found[PATH_MAX];
  char expected[PATH_MAX];
  char tiny[2];
  ssize_t size = readlink("/proc/self/exe", expected, sizeof expected - 1);
  assert_true(size > 0);
  expected[size] = '\0';
  *strrchr(expected, '/') = '\0';
  assert_ptr_equal(platform_library_dir(found, sizeof found), found); /* the tests are linked statically */
  assert_string_equal(found, expected);
  assert_null(platform_library_dir(tiny, sizeof tiny));
}

static void test_error_text(void **state) {
  (void)state;
  char buffer[128];
  assert_string_equal(platform_error_text(ENOENT, buffer, sizeof buffer), strerror(ENOENT));
  assert_non_null(strstr(platform_error_text(99999, buffer, sizeof buffer), "99999"));
}

/* ---- wake ---- */

static void test_wake(void **state) {
  (void)state;
  wake self;
  assert_int_equal(wake_open(&self), 0);
  assert_false(is_readable(self.read_fd));
  wake_drain(&self); /* does not block */
  for (int i = 0; i < 100000; i++) wake_signal(&self);
  assert_true(is_readable(self.read_fd));
  wake_drain(&self);
  assert_false(is_readable(self.read_fd));
  wake_signal(&self);
  assert_true(is_readable(self.read_fd));
  wake_close(&self);
  assert_int_equal(self.read_fd, -1);
  wake_close(&self);
}

/* ---- poller ---- */

static void test_poller_reports_what_was_asked_for(void **state) {
  (void)state;
  poller polls;
  poller_event events[4];
  int fds[2];
  int tag;
  assert_int_equal(poller_open(&polls), 0);
  assert_int_equal(platform_socketpair(fds), 0);
  assert_int_equal(poller_set(&polls, fds[0], POLLER_IN, &tag), 0);
  assert_int_equal(poller_wait(&polls, events, 4, 0), 0);
  assert_int_equal(poller_wait(&polls, events, 4, 1), 0);
  assert_int_equal(write(fds[1], "x", 1), 1);
  assert_int_equal(poller_wait(&polls, events, 4, -1), 1);
  assert_ptr_equal(events[0].tag, &tag);
  assert_int_equal(events[0].events, POLLER_IN);
  assert_int_equal(poller_set(&polls, fds[0], POLLER_IN | POLLER_OUT, &events), 0);
  assert_int_equal(poller_wait(&polls, events, 4, 0), 1);
  assert_int_equal(events[0].events, POLLER_IN | POLLER_OUT);
  assert_ptr_equal(events[0].tag, &events);
  assert_int_equal(poller_set(&polls, fds[0], POLLER_OUT, &tag), 0);
  assert_int_equal(poller_wait(&polls, events, 4, 0), 1);
  assert_int_equal(events[0].events, POLLER_OUT);
  platform_close_fd(fds[1]);
  assert_int_equal(poller_wait(&polls, events, 4, -1), 1);
  assert_int_equal(events[0].events & (POLLER_IN | POLLER_HANGUP), POLLER_IN | POLLER_HANGUP);
  assert_int_equal(poller_set(&polls, fds[0], 0, NULL), 0);
  assert_int_equal(poller_wait(&polls, events, 4, 0), 0);
  assert_int_equal(poller_set(&polls, fds[0], 0, NULL), 0); /* not in any more */
  platform_close_fd(fds[0]);
  assert_int_equal(poller_set(&polls, fds[0], POLLER_IN, NULL), -1);
  poller_close(&polls);
  poller_close(&polls);
}

static void test_poller_starves_none(void **state) {
  (void)state;
  poller polls;
  int fds[MANY][2];
  bool seen[MANY] = {false};
  assert_int_equal(poller_open(&polls), 0);
  for (int i = 0; i < MANY; i++) {
    assert_int_equal(platform_pipe(fds[i]), 0);
    assert_int_equal(write(fds[i][1], "x", 1), 1);
    assert_int_equal(poller_set(&polls, fds[i][0], POLLER_IN, &seen[i]), 0);
  }
  for (int rounds = 0; rounds < MANY; rounds++) { /* all stay ready, three are reported at a time */
    poller_event events[3];
    int count = poller_wait(&polls, events, 3, 0);
    assert_int_equal(count, 3);
    for (int i = 0; i < count; i++) *(bool *)events[i].tag = true;
  }
  for (int i = 0; i < MANY; i++) {
    assert_true(seen[i]);
    assert_int_equal(poller_set(&polls, fds[i][0], 0, NULL), 0);
    platform_close_fd(fds[i][0]);
    platform_close_fd(fds[i][1]);
  }
  poller_close(&polls);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(test_clock_and_random),
      TEST(test_cpus),
      TEST(test_leave_cpu),
      TEST(test_cpu_quota),
      TEST(test_oom_count),
      TEST(test_oom_rose),
      TEST(test_pipe_and_socketpair),
      TEST(test_close_leaves_errno),
      TEST(test_send_fd),
      TEST(test_several_fds),
      TEST(test_shared_memory),
      TEST(test_poll_looks_once_after_the_deadline),
      TEST(test_standard_streams_are_left_alone),
      TEST(test_close_from),
      TEST(test_reap),
      TEST(test_reap_takes_a_descriptor_that_is_no_pidfd),
      TEST(test_status_that_the_host_took_is_unknown),
      TEST(test_kill_group),
      TEST(test_host_watch),
      TEST(test_fork_generation),
      TEST(test_library_dir),
      TEST(test_error_text),
      TEST(test_wake),
      TEST(test_poller_reports_what_was_asked_for),
      TEST(test_poller_starves_none),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
