/*
 * platform.h - what the library needs from the operating system beyond C11 and POSIX.
 *
 * platform.c holds what every system shares, platform_linux.c and platform_posix.c the rest; the build chooses one of
 * the two. Everything here is internal. Unless a function says otherwise it may be called by any thread, fails with -1
 * and errno, and callers turn errno into a pyproc_error; no errno leaves the library. Every descriptor made here is
 * close-on-exec and never one of 0, 1 and 2, which a host may have closed and expects to get back for files of its own.
 */
#ifndef PYPROC_PLATFORM_H
#define PYPROC_PLATFORM_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

#define PLATFORM_NO_DEADLINE INT64_MAX

/* For send: raises no SIGPIPE. Where there is no such flag platform_socketpair has set the socket's option. */
#ifdef MSG_NOSIGNAL
#define PLATFORM_MSG_NOSIGNAL MSG_NOSIGNAL
#else
#define PLATFORM_MSG_NOSIGNAL 0
#endif

struct pollfd;

/* ---- time, chance, processors ---- */

/* CLOCK_MONOTONIC in nanoseconds. Never fails. */
int64_t platform_now_ns(void);

/* Random bits that differ between processes and forks; for ids and jitter, not for secrets. Never fails. */
uint64_t platform_random64(void);

/* Gives the processor to another thread that is ready to run. */
void platform_yield(void);

/* Tells the processor that this thread spins. */
static inline void platform_cpu_relax(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__) || defined(__arm__)
  __asm__ __volatile__("yield");
#else
  atomic_signal_fence(memory_order_seq_cst);
#endif
}

/* How many processors this process may use at once: its affinity mask, and its cgroup's quota rounded up. At least 1.
   Reads files: call it once and keep the answer. */
int platform_cpu_count(void);

/* The quota alone, in whole processors rounded up; 0 where there is none. `list` is a file such as /proc/self/cgroup,
   `root` the folder where the cgroup file systems are mounted. Always 0 on systems without cgroups. */
int platform_cpu_quota(const char *root, const char *list);

/* The processor that the calling thread runs on, -1 when unknown. */
int platform_current_cpu(void);

/* Has the calling thread go on on another of the processors that it may use; which ones these are stays as it is. False:
   there is no other, or the system cannot do it or refuses. */
bool platform_leave_cpu(void);

/* The number of the n-th processor, round and round, of those that the calling thread may use; -1 where the system does
   not tell. */
int platform_nth_processor(int n);

/* ---- descriptors ---- */

/* Moves a descriptor below 3 out of the way of the host's standard streams, close-on-exec. Takes `fd` over: returns the
   one to use, or -1 with errno and `fd` closed. -1 is passed through. */
int platform_lift_fd(int fd);

int platform_set_nonblocking(int fd);

/* close(2) that leaves errno alone and takes -1. */
void platform_close_fd(int fd);

/* Closes every descriptor from `lowest` up. Async-signal-safe: for a child between fork and exec. */
void platform_close_from(int lowest);

/* poll(2) until a deadline (CLOCK_MONOTONIC; PLATFORM_NO_DEADLINE: none), as finely as the system can. A signal ends
   it with -1 and EINTR. */
int platform_poll(struct pollfd *fds, unsigned count, int64_t deadline_ns);

/* A pipe: fds[0] reads, fds[1] writes. Both block. */
int platform_pipe(int fds[2]);

/* A stream socketpair: fds[0] is the host's end and does not block, fds[1] is for a worker and blocks. */
int platform_socketpair(int fds[2]);

/* A socket that is connected to the one that listens on the path, and does not block; -1 at once where nobody listens
   (ENOENT, ECONNREFUSED) or is slow to accept (EAGAIN). */
int platform_connect(const char *path);

/* send(2) that raises no SIGPIPE. The first byte carries the descriptors (SCM_RIGHTS; at most PLATFORM_FDS_MAX), once any
   byte was sent; where there are some, `size` must not be 0. Returns the bytes sent, which may be fewer than `size`. */
enum { PLATFORM_FDS_MAX = 5 };
ssize_t platform_send_fds(int socket, const void *data, size_t size, const int *fds, int count);

/* recv(2), which also takes a descriptor that came along, -1 where none did; of several all but the first are closed. */
ssize_t platform_receive_fd(int socket, void *data, size_t size, int *ret_fd);

/* Process id of the peer of a connected Unix socket as of its connect, or -1. */
pid_t platform_peer_pid(int socket);

/* Effective user id of that peer. */
int platform_peer_uid(int socket, uid_t *ret_uid);

/* Memory of `size` bytes, zeroed, to be shared by passing its descriptor. Where the system can seal it, nobody can
   change its size, so that a peer cannot turn our mapping into a SIGBUS. */
int platform_shared_memory(size_t size);

/* Whether the system can. */
bool platform_can_seal(void);

/* ---- processes ---- */

/* A descriptor that polls readable when the process ends. -1 with ENOSYS where there is no such thing. */
int platform_process_watch(pid_t pid);

/* What workers inherit to see this process die: *ret_child_fd polls readable, or hung up, when it has. Keep both open
   for as long as workers live; *ret_keep_fd is -1 where it is not needed. */
int platform_host_watch(int *ret_child_fd, int *ret_keep_fd);

/* How a process ended. */
typedef struct platform_exit {
  bool known;        /* false: the host took the status (it ignores SIGCHLD, or waits for any child); all else is 0 */
  int signal;        /* that killed it, or 0 */
  int exit_status;   /* when signal is 0 */
  int64_t rss_bytes; /* largest resident set size, of it and the children that it waited for */
  int64_t cpu_ms;    /* user and system time, likewise */
} platform_exit;

/* How, in words: "was killed by signal …", "exited with status …". It is known. */
void platform_describe_exit(const platform_exit *exit, char *text, size_t size);

/* Takes the status of that one child, without waiting. `pidfd` is what platform_process_watch gave, or any value where
   that was -1. Returns 1 when it has ended (*ret is written), 0 while it runs. */
int platform_reap(pid_t pid, int pidfd, platform_exit *ret);

/* Signals every process of a group; `pgid` must be above 1. A group without processes is ESRCH. */
int platform_kill_group(pid_t pgid, int signo);

/* Runs `child(argument)` in a new process, which must do nothing but async-signal-safe calls on data that nobody else
   changes, and end in exec or _exit: it may share this process's memory, and the calling thread may stand still until
   then. No fork handlers of the host run where that can be had. Returns the child's pid. */
pid_t platform_fork_exec(void (*child)(void *argument), void *argument);

/* For a child between fork and exec: it is killed when the thread that made it ends, or at once when that is not
   `parent`'s any more. Async-signal-safe. Does nothing where the system has no such thing. */
void platform_die_with(pid_t parent);

/* The next four are for a child between fork and exec, and change that child alone: async-signal-safe, -1 with errno,
   ENOSYS where the system has no such thing. */

/* Keeps the process on one processor. */
int platform_bind_processor(int processor);

/* Takes on the group, and no other beside it. Before the next one, which gives the right to it away. */
int platform_become_group(gid_t gid);

/* Takes on the user, for good. */
int platform_become_user(uid_t uid);

/* From now on no program that is executed has more rights than this process: set-user-ID bits are without effect. */
int platform_no_new_privileges(void);

/* The parent of a process; -1 where that cannot be told. */
pid_t platform_parent_of(pid_t pid);

/* A number that differs between a process and the children that it forked. Cheap after the first call. */
unsigned platform_fork_generation(void);

/* Folder of the shared object, or the program, that holds this library: absolute, symbolic links resolved, no trailing
   slash. Returns `buffer`, or NULL when it cannot be told or does not fit. */
const char *platform_library_dir(char *buffer, size_t size);

/* The resident set of a process in bytes; -1 where that cannot be told. */
int64_t platform_process_rss(pid_t pid);

/* How many processes the system has killed for want of memory; -1 where that cannot be told. */
typedef struct platform_oom {
  int64_t group;  /* of this process's cgroup */
  int64_t system; /* of all */
} platform_oom;

/* Counts them: `root` and `list` as for platform_cpu_quota, `vmstat` is a file such as /proc/vmstat. */
platform_oom platform_oom_count(const char *root, const char *list, const char *vmstat);

/* The same for this process, from where they are. */
platform_oom platform_oom_now(void);

/* Which count has grown: "cgroup" or "system", the first that has; NULL: none. */
const char *platform_oom_rose(const platform_oom *before, const platform_oom *now);

/* Signals one process, a child that was not reaped. */
int platform_signal(pid_t pid, int signo);

/* getenv, which sees nothing where the process has more rights than who started it (set-user-ID and the like). */
const char *platform_getenv(const char *name);

/* strerror for threads. Returns `buffer` or a constant string. */
const char *platform_error_text(int errnum, char *buffer, size_t size);

/* ---- wake: one thread polls read_fd, any thread signals ---- */

typedef struct wake {
  int read_fd, write_fd; /* may be the same descriptor; -1 when closed */
} wake;

int wake_open(wake *self);
/* Makes read_fd readable until the next drain; many signals may become one. Async-signal-safe, never blocks. */
void wake_signal(const wake *self);
void wake_drain(const wake *self);
void wake_close(wake *self);

/* ---- futex: a word that threads of one process sleep on ---- */

/* The mutex and the condition are used only where the system has no futex. */
typedef struct platform_futex {
  _Atomic uint32_t word;
  pthread_mutex_t mutex;
  pthread_cond_t condition;
} platform_futex;

void platform_futex_init(platform_futex *self);
void platform_futex_destroy(platform_futex *self);

/* Sleeps while the word is `expected`, until woken with a bit of `bitset` (not 0) or until `deadline_ns`
   (CLOCK_MONOTONIC; PLATFORM_NO_DEADLINE: none). May return early for no reason. False: the deadline has passed. */
bool platform_futex_wait(platform_futex *self, uint32_t expected, uint32_t bitset, int64_t deadline_ns);

/* Wakes those who sleep with a bit of `bitset`, at least `count` if there are as many. Change the word first. */
void platform_futex_wake(platform_futex *self, int count, uint32_t bitset);

#endif
