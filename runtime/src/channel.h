/*
 * channel.h - bytes to and from one worker.
 *
 * Contract of the vtable, which protocol_framed.c calls:
 *   read     the reader's role is held (one thread at a time); never blocks.
 *   read_blocking  like read, but where there is nothing it waits for BLOCKING_MS (wire/blocking.h), or a little longer, at most. Nothing
 *            ends that before but the other side, shut, and a signal: CHANNEL_AGAIN. Waking up from it is cheaper than from wait.
 *   write    the writer's role is held (one thread at a time); never blocks.
 *   send_fds the writer's role is held, before the first write: like write, with descriptors beside the first byte.
 *   wait     the reader's role is held; blocks until there is something to read, room to write (where wanted), the
 *            channel has ended, one of `also` (at most CHANNEL_ALSO_MAX) is readable, or the deadline has passed. May
 *            return early for no reason.
 *   fd       any thread, while the channel is open: what to poll after arm.
 *   arm      any thread, while the channel is open: from now on fd polls readable once there is something to read or, with
 *            `for_write`, writable once there is room (readable then, too, unless polls_room). Returns whether there is
 *            something already, which fd may not tell. Holds until somebody reads.
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
  CHANNEL_AGAIN = -1,  /* nothing now */
  CHANNEL_END = -2,    /* the other side has closed, or died */
  CHANNEL_FAILED = -3, /* anything else; the channel is of no more use */
  CHANNEL_CORRUPT = -4 /* likewise: the other side has spoilt the memory that it shares with us */
};

enum { CHANNEL_ALSO_MAX = 3 };

/* What carries frames: a socket; rings in shared memory, where both sides have them; or those and nothing else. */
typedef enum channel_choice { CHANNEL_CHOICE_UDS, CHANNEL_CHOICE_AUTO, CHANNEL_CHOICE_SHM } channel_choice;

struct iovec;
struct channel;

typedef struct channel_ops {
  const char *name;
  bool polls_room; /* fd has to be polled for writing, where room is waited for */
  ssize_t (*read)(struct channel *self, void *to, size_t size);
  ssize_t (*read_blocking)(struct channel *self, void *to, size_t size);
  ssize_t (*write)(struct channel *self, const struct iovec *parts, int count);
  ssize_t (*send_fds)(struct channel *self, const void *data, size_t size, const int *fds, int count);
  void (*wait)(struct channel *self, bool for_write, const int *also, int also_count, int64_t deadline_ns);
  int (*fd)(const struct channel *self);
  bool (*arm)(struct channel *self, bool for_write);
  void (*shut)(struct channel *self, bool both);
  void (*close)(struct channel *self);
} channel_ops;

struct channel {
  const channel_ops *ops;
};

/* A channel over a connected Unix stream socket, which it takes over, and makes blocking. NULL: out of memory, the socket is
 * still the caller's. */
struct channel *channel_uds_new(int socket);

/* A channel over two rings of so many bytes (wire/ring.h) in shared memory, whose descriptor, which the caller closes, is
 * for the worker. It has no socket before channel_shm_begin. NULL with errno: the system has no such memory, or not now. */
struct channel *channel_shm_new(uint32_t ring_bytes, int *ret_fd);

/* The other side has been sent the memory, over this channel, whose socket is taken over. `uds` is freed. */
void channel_shm_begin(struct channel *self, struct channel *uds);

/* Lets go of a channel's socket, and frees it. */
int channel_uds_release(struct channel *self);

#endif
