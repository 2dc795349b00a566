/*
 * channel.h - bytes to and from one worker.
 *
 * Contract of the vtable, which protocol_framed.c calls:
 *   read     the reader's role is held (one thread at a time); never blocks.
 *   write    the writer's role is held (one thread at a time); never blocks.
 *   send_fd  the writer's role is held, before the first write: like write, with a descriptor beside the first byte.
 *   wait     the reader's role is held; blocks until there is something to read, room to write (where wanted), the
 *            channel has ended, one of `also` (at most CHANNEL_ALSO_MAX) is readable, or the deadline has passed. May
 *            return early for no reason.
 *   fd       any thread, while the channel is open: polls readable when there is something to read.
 *   shut     any thread: the other side sees the end of what we write; with `both`, our own reads and waits end too.
 *   close    nobody holds a role, nor will: frees everything. Must tolerate a channel that has failed in any way.
 * No function raises SIGPIPE, keeps errno, or knows what the bytes mean.
 */
#ifndef PYPROC_CHANNEL_H
#define PYPROC_CHANNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* What read and write return besides a count. */
enum {
  CHANNEL_AGAIN = -1, /* nothing now */
  CHANNEL_END = -2,   /* the other side has closed, or died */
  CHANNEL_FAILED = -3 /* anything else; the channel is of no more use */
};

enum { CHANNEL_ALSO_MAX = 3 };

struct iovec;
struct channel;

typedef struct channel_ops {
  const char *name;
  ssize_t (*read)(struct channel *self, void *to, size_t size);
  ssize_t (*write)(struct channel *self, const struct iovec *parts, int count);
  ssize_t (*send_fd)(struct channel *self, const void *data, size_t size, int fd);
  void (*wait)(struct channel *self, bool for_write, const int *also, int also_count, int64_t deadline_ns);
  int (*fd)(const struct channel *self);
  void (*shut)(struct channel *self, bool both);
  void (*close)(struct channel *self);
} channel_ops;

struct channel {
  const channel_ops *ops;
};

/* A channel over a connected, non-blocking Unix stream socket, which it takes over. NULL: out of memory, the socket
 * is still the caller's. */
struct channel *channel_uds_new(int socket);

#endif
