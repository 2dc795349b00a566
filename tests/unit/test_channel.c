/* Channels, over a Unix socket and over shared memory: full and empty ones, peers that close, waits that end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "channel.h"
#include "platform.h"
#include "wire/blocking.h"
#include "wire/ring_link.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define FAR_NS (platform_now_ns() + INT64_C(60000000000))

enum { RING_BYTES = 4096 };

/* A channel and what the worker has of it. */
struct link {
  struct channel *channel;
  int peer;        /* socket */
  ring_link rings; /* memory NULL: there are none */
};

static struct link link_open(void **state) {
  int fds[2], fd = -1;
  if (strcmp(*state, "shm") == 0 && !platform_can_seal()) skip();
  assert_int_equal(platform_socketpair(fds), 0);
  struct link link = {.channel = channel_uds_new(fds[0]), .peer = fds[1]};
  assert_non_null(link.channel);
  if (strcmp(*state, "shm") != 0) return link;
  struct channel *shm = channel_shm_new(RING_BYTES, &fd);
  assert_non_null(shm);
  channel_shm_begin(shm, link.channel);
  link.channel = shm;
  assert_int_equal(ring_link_open(&link.rings, link.peer, fd, RING_BYTES, RING_WORKER), 0);
  close(fd);
  return link;
}

static void peer_close(struct link *link) {
  platform_close_fd(link->peer);
  link->peer = -1;
  ring_link_close(&link->rings);
}

static void link_close(struct link *link) {
  link->channel->ops->close(link->channel);
  peer_close(link);
}

/* What the worker does. Returns CHANNEL_*. */
static ssize_t peer_write(struct link *link, const char *text) {
  struct iovec part = {.iov_base = (void *)(uintptr_t)text, .iov_len = strlen(text)};
  if (link->rings.memory != NULL) return ring_link_write(&link->rings, &part, 1);
  return send(link->peer, part.iov_base, part.iov_len, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static ssize_t peer_read(struct link *link, void *to, size_t size) {
  if (link->rings.memory != NULL) return ring_link_read(&link->rings, to, size);
  ssize_t count = recv(link->peer, to, size, MSG_DONTWAIT);
  return count > 0 ? count : count == 0 ? CHANNEL_END : CHANNEL_AGAIN;
}

static ssize_t write_text(struct channel *channel, const char *text) {
  struct iovec part = {.iov_base = (void *)(uintptr_t)text, .iov_len = strlen(text)};
  return channel->ops->write(channel, &part, 1);
}

static ssize_t read_some(struct link *link, void *to, size_t size) {
  return link->channel->ops->read(link->channel, to, size);
}

static void wait_far(struct link *link, bool for_write) {
  link->channel->ops->wait(link->channel, for_write, NULL, 0, FAR_NS);
}

static void bytes_go_both_ways(void **state) {
  struct link link = link_open(state);
  char text[16] = "";
  struct iovec parts[3] = {{"ab", 2}, {"", 0}, {"cde", 3}};
  assert_int_equal(read_some(&link, text, sizeof text), CHANNEL_AGAIN);
  assert_int_equal(link.channel->ops->write(link.channel, parts, 3), 5);
  assert_int_equal(peer_read(&link, text, sizeof text), 5);
  assert_memory_equal(text, "abcde", 5);
  assert_int_equal(peer_write(&link, "xyz"), 3);
  assert_int_equal(read_some(&link, text, 2), 2);
  assert_memory_equal(text, "xy", 2);
  assert_int_equal(read_some(&link, text, sizeof text), 1);
  assert_int_equal(read_some(&link, text, sizeof text), CHANNEL_AGAIN);
  assert_string_equal(link.channel->ops->name, *state);
  link_close(&link);
}

static bool is_nonblocking(int fd) {
  return (fcntl(fd, F_GETFL) & O_NONBLOCK) != 0;
}

/* The socket is a blocking one. */
static void nothing_blocks(void **state) {
  struct link link = link_open(state);
  static char block[256 << 10];
  assert_false(is_nonblocking(link.channel->ops->fd(link.channel)));
  assert_int_equal(read_some(&link, block, sizeof block), CHANNEL_AGAIN);
  struct iovec part = {.iov_base = block, .iov_len = sizeof block};
  ssize_t count, total = 0;
  while ((count = link.channel->ops->write(link.channel, &part, 1)) > 0) total += count;
  assert_int_equal(count, CHANNEL_AGAIN);
  assert_true(total > 0);
  /* it goes on once the peer has read */
  while (total > 0) {
    count = peer_read(&link, block, sizeof block);
    assert_true(count > 0);
    total -= count;
  }
  wait_far(&link, true);
  assert_int_equal(write_text(link.channel, "more"), 4);
  link_close(&link);
}

static void a_peer_that_closes_is_the_end(void **state) {
  struct link link = link_open(state);
  char text[8];
  void (*before)(int) = signal(SIGPIPE, SIG_DFL); /* a SIGPIPE would kill the test */
  assert_int_equal(peer_write(&link, "last"), 4);
  peer_close(&link);
  wait_far(&link, false); /* a ring tells of the end to those who wait */
  assert_int_equal(read_some(&link, text, sizeof text), 4);
  wait_far(&link, false);
  assert_int_equal(read_some(&link, text, sizeof text), CHANNEL_END);
  assert_int_equal(write_text(link.channel, "x"), CHANNEL_END);
  assert_true(link.channel->ops->send_fds(link.channel, "x", 1, NULL, 0) < 0);
  wait_far(&link, false); /* returns: the channel has ended */
  link.channel->ops->shut(link.channel, true);
  link_close(&link);
  signal(SIGPIPE, before);
}

/* The peer died with our bytes unread: the kernel says "connection reset". */
static void a_peer_that_dies_unread_is_the_end(void **state) {
  struct link link = link_open(state);
  char text[8];
  assert_int_equal(write_text(link.channel, "unread"), 6);
  peer_close(&link);
  wait_far(&link, false);
  assert_int_equal(read_some(&link, text, sizeof text), CHANNEL_END);
  link_close(&link);
}

static void descriptors_beside_the_first_byte(void **state) {
  struct link link = link_open(state);
  int pipe_fds[2], got[2] = {-1, -1};
  char text[8], control[CMSG_SPACE(2 * sizeof(int))];
  assert_int_equal(platform_pipe(pipe_fds), 0);
  assert_int_equal(link.channel->ops->send_fds(link.channel, "hello", 5, pipe_fds, 2), 5);
  struct iovec part = {.iov_base = text, .iov_len = 1};
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
  assert_int_equal(recvmsg(link.peer, &message, MSG_CMSG_CLOEXEC), 1);
  const struct cmsghdr *header = CMSG_FIRSTHDR(&message);
  assert_non_null(header);
  assert_int_equal(header->cmsg_type, SCM_RIGHTS);
  assert_int_equal(header->cmsg_len, CMSG_LEN(sizeof got));
  memcpy(got, CMSG_DATA(header), sizeof got);
  assert_int_equal(write(got[1], "!", 1), 1);
  assert_int_equal(read(pipe_fds[0], text, sizeof text), 1);
  assert_int_equal(read(link.peer, text, sizeof text), 4);
  for (int i = 0; i < 2; i++) {
    close(got[i]);
    close(pipe_fds[i]);
  }
  link_close(&link);
}

/* Each of the things that end a wait. A lost one would wait a minute and fail by the test's time limit. */
static void waits_end(void **state) {
  struct link link = link_open(state);
  wake wakes[CHANNEL_ALSO_MAX];
  int also[CHANNEL_ALSO_MAX];
  char text[8];
  for (int i = 0; i < CHANNEL_ALSO_MAX; i++) {
    assert_int_equal(wake_open(&wakes[i]), 0);
    also[i] = wakes[i].read_fd;
  }
  link.channel->ops->wait(link.channel, false, also, CHANNEL_ALSO_MAX, platform_now_ns() - 1); /* it has passed */
  link.channel->ops->wait(link.channel, true, also, CHANNEL_ALSO_MAX, FAR_NS);                 /* room to write */
  for (int i = 0; i < CHANNEL_ALSO_MAX; i++) {
    wake_signal(&wakes[i]);
    link.channel->ops->wait(link.channel, false, also, CHANNEL_ALSO_MAX, FAR_NS);
    wake_drain(&wakes[i]);
  }
  assert_int_equal(peer_write(&link, "x"), 1);
  link.channel->ops->wait(link.channel, false, also, CHANNEL_ALSO_MAX, FAR_NS);
  assert_int_equal(read_some(&link, text, sizeof text), 1);
  link.channel->ops->shut(link.channel, true);
  link.channel->ops->wait(link.channel, false, also, CHANNEL_ALSO_MAX, FAR_NS);
  for (int i = 0; i < CHANNEL_ALSO_MAX; i++) wake_close(&wakes[i]);
  link_close(&link);
}

static void a_receive_blocks_for_a_while(void **state) {
  (void)state;
  int sockets[2], pipe_fds[2];
  char byte;
  assert_int_equal(platform_socketpair(sockets), 0);
  assert_int_equal(blocking_begin(sockets[0]), 0);
  assert_false(is_nonblocking(sockets[0]));
  assert_int_equal(recv(sockets[0], &byte, 1, 0), -1);
  assert_true(errno == EAGAIN || errno == EWOULDBLOCK);
  assert_int_equal(send(sockets[1], "x", 1, 0), 1);
  assert_int_equal(recv(sockets[0], &byte, 1, 0), 1);
  assert_int_equal(platform_pipe(pipe_fds), 0);
  assert_int_equal(platform_set_nonblocking(pipe_fds[0]), 0);
  assert_int_equal(blocking_begin(pipe_fds[0]), -1);
  assert_int_equal(errno, ENOTSOCK);
  assert_true(is_nonblocking(pipe_fds[0]));
  for (int i = 0; i < 2; i++) {
    platform_close_fd(sockets[i]);
    platform_close_fd(pipe_fds[i]);
  }
}

static ssize_t read_blocking(struct link *link, void *to, size_t size) {
  return link->channel->ops->read_blocking(link->channel, to, size);
}

static void a_blocking_read_ends(void **state) {
  struct link link = link_open(state);
  char text[8];
  for (int i = 0; i < 2; i++) {
    assert_int_equal(read_blocking(&link, text, sizeof text), CHANNEL_AGAIN); /* it has waited in vain */
    assert_int_equal(peer_write(&link, "xyz"), 3);
    assert_int_equal(read_blocking(&link, text, 2), 2);
    assert_memory_equal(text, "xy", 2);
    assert_int_equal(read_blocking(&link, text, sizeof text), 1);
  }
  assert_int_equal(peer_write(&link, "last"), 4);
  peer_close(&link);
  assert_int_equal(read_blocking(&link, text, sizeof text), 4);
  assert_int_equal(read_blocking(&link, text, sizeof text), CHANNEL_END);
  link_close(&link);
}

static void a_blocking_read_ends_with_our_own_shut(void **state) {
  struct link link = link_open(state);
  char text[8];
  link.channel->ops->shut(link.channel, true);
  assert_int_equal(read_blocking(&link, text, sizeof text), CHANNEL_END);
  link_close(&link);
}

static void *write_later(void *argument) {
  struct link *link = argument;
  for (int i = 0; i < 200; i++) {
    if (i % 3 == 0) usleep(300);
    while (peer_write(link, "x") != 1) platform_yield();
  }
  return NULL;
}

/* Who writes wakes the one that reads, whenever that falls asleep; none is lost, and what wakes once too often is harmless. */
static void a_blocking_read_is_woken(void **state) {
  struct link link = link_open(state);
  pthread_t thread;
  char text[8];
  assert_int_equal(pthread_create(&thread, NULL, write_later, &link), 0);
  for (int taken = 0; taken < 200;) {
    ssize_t count = read_blocking(&link, text, 1);
    assert_true(count == 1 || count == CHANNEL_AGAIN);
    taken += count == 1;
  }
  pthread_join(thread, NULL);
  assert_int_equal(read_blocking(&link, text, 1), CHANNEL_AGAIN);
  link_close(&link);
}

static void on_signal(int number) {
  (void)number;
}

struct disturbed {
  pthread_t reader;
  atomic_bool over;
};

static void *disturb(void *argument) {
  struct disturbed *self = argument;
  while (!atomic_load(&self->over)) {
    pthread_kill(self->reader, SIGUSR1);
    usleep(100);
  }
  return NULL;
}

static void a_blocking_read_bears_signals(void **state) {
  struct link link = link_open(state);
  struct disturbed disturbed = {.reader = pthread_self()};
  struct sigaction action = {.sa_handler = on_signal}, before;
  pthread_t thread;
  char text[8];
  assert_int_equal(sigaction(SIGUSR1, &action, &before), 0);
  assert_int_equal(pthread_create(&thread, NULL, disturb, &disturbed), 0);
  for (int i = 0; i < 50; i++) assert_int_equal(read_blocking(&link, text, sizeof text), CHANNEL_AGAIN);
  assert_int_equal(peer_write(&link, "xyz"), 3);
  assert_int_equal(read_blocking(&link, text, sizeof text), 3);
  atomic_store(&disturbed.over, true);
  pthread_join(thread, NULL);
  sigaction(SIGUSR1, &before, NULL);
  link_close(&link);
}

static void shutting_one_way_and_both(void **state) {
  struct link link = link_open(state);
  char text[8];
  assert_int_equal(write_text(link.channel, "end"), 3);
  link.channel->ops->shut(link.channel, false);
  assert_int_equal(peer_read(&link, text, sizeof text), 3);
  assert_int_equal(peer_read(&link, text, sizeof text), CHANNEL_END);
  assert_int_equal(peer_write(&link, "still"), 5);
  assert_int_equal(read_some(&link, text, sizeof text), 5);
  assert_int_equal(read_some(&link, text, sizeof text), CHANNEL_AGAIN);
  assert_int_equal(write_text(link.channel, "x"), CHANNEL_END);
  assert_int_equal(peer_write(&link, "late"), 4);
  link.channel->ops->shut(link.channel, true);
  assert_int_equal(read_some(&link, text, sizeof text), 4); /* what had arrived is not lost */
  assert_int_equal(read_some(&link, text, sizeof text), CHANNEL_END);
  link_close(&link);
}

/* ---- who polls for others ---- */

static short polled(const struct link *link, bool for_write) {
  struct pollfd polled = {.fd = link->channel->ops->fd(link->channel),
                          .events = (short)(for_write ? POLLIN | POLLOUT : POLLIN)};
  assert_true(poll(&polled, 1, 0) >= 0);
  return polled.revents;
}

/* As the supervisor does. */
static void the_descriptor_tells_after_arming(void **state) {
  struct link link = link_open(state);
  char text[8];
  for (int i = 0; i < 3; i++) {
    assert_false(link.channel->ops->arm(link.channel, false));
    assert_int_equal(polled(&link, false), 0);
    assert_int_equal(peer_write(&link, "x"), 1);
    assert_int_equal(polled(&link, false), POLLIN);
    assert_int_equal(read_some(&link, text, sizeof text), 1);
    assert_int_equal(read_some(&link, text, sizeof text), CHANNEL_AGAIN);
    assert_int_equal(polled(&link, false), 0);
  }
  /* what was there before: arming says so, where the descriptor does not */
  assert_int_equal(peer_write(&link, "y"), 1);
  bool there_is = link.channel->ops->arm(link.channel, false);
  assert_true(there_is || polled(&link, false) == POLLIN);
  peer_close(&link);
  assert_true((polled(&link, false) & POLLIN) != 0);
  link_close(&link);
}

/* Nobody is told of room as long as there is hardly any, but then once. */
static void room_is_told(void **state) {
  struct link link = link_open(state);
  static char block[64 << 10];
  struct iovec part = {.iov_base = block, .iov_len = sizeof block};
  ssize_t total = 0, count;
  while ((count = link.channel->ops->write(link.channel, &part, 1)) > 0) total += count;
  bool for_write = link.channel->ops->polls_room;
  assert_false(link.channel->ops->arm(link.channel, true));
  assert_int_equal(polled(&link, for_write), 0);
  while (total > 0) {
    count = peer_read(&link, block, 512);
    assert_true(count > 0);
    total -= count;
  }
  assert_true(polled(&link, for_write) != 0);
  assert_int_equal(write_text(link.channel, "x"), 1);
  link_close(&link);
}

/* ---- two threads ---- */

enum { STREAM_BYTES = 4 << 20, PIECE = 3000 };

static uint8_t byte_at(size_t position) {
  return (uint8_t)(position * 7 + (position >> 12));
}

/* Echoes all, as a worker would that sleeps whenever there is nothing to do. */
static void *echo(void *argument) {
  struct link *link = argument;
  static char block[2 * PIECE];
  size_t filled = 0, total = 0;
  while (total < STREAM_BYTES) {
    ssize_t count = peer_read(link, block + filled, sizeof block - filled);
    if (count > 0) filled += (size_t)count;
    struct iovec part = {.iov_base = block, .iov_len = filled};
    ssize_t sent = link->rings.memory != NULL ? ring_link_write(&link->rings, &part, 1)
                                              : send(link->peer, block, filled, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent > 0) {
      filled -= (size_t)sent;
      total += (size_t)sent;
      memmove(block, block + sent, filled);
    }
    if (count > 0 || sent > 0) continue;
    bool has_rings = link->rings.memory != NULL;
    struct pollfd polled = {.fd = link->peer, .events = (short)(!has_rings && filled > 0 ? POLLIN | POLLOUT : POLLIN)};
    if (!has_rings || !ring_link_arm(&link->rings, true, filled > 0)) poll(&polled, 1, 60000);
    if (has_rings) {
      ring_link_disarm(&link->rings);
      ring_link_settle(&link->rings);
    }
  }
  return NULL;
}

/* More than fits at once goes both ways, and both sides sleep now and then: no byte and no wake is lost. */
static void long_streams_pass(void **state) {
  struct link link = link_open(state);
  static uint8_t out[PIECE], in[PIECE];
  size_t sent = 0, received = 0;
  int wrong = 0;
  pthread_t thread;
  assert_int_equal(pthread_create(&thread, NULL, echo, &link), 0);
  while (received < STREAM_BYTES) {
    size_t size = STREAM_BYTES - sent < PIECE ? STREAM_BYTES - sent : PIECE;
    for (size_t i = 0; i < size; i++) out[i] = byte_at(sent + i);
    struct iovec part = {.iov_base = out, .iov_len = size};
    ssize_t put = size > 0 ? link.channel->ops->write(link.channel, &part, 1) : 0;
    if (put > 0) sent += (size_t)put;
    ssize_t got = read_some(&link, in, sizeof in);
    for (ssize_t i = 0; i < got; i++) wrong += in[i] != byte_at(received + (size_t)i);
    if (got > 0) received += (size_t)got;
    if (put <= 0 && got <= 0) wait_far(&link, sent < STREAM_BYTES);
  }
  pthread_join(thread, NULL);
  assert_int_equal(wrong, 0);
  assert_int_equal(read_some(&link, in, sizeof in), CHANNEL_AGAIN);
  link_close(&link);
}

/* ---- memory that does not fit ---- */

static void a_worker_maps_only_what_fits(void **state) {
  (void)state;
  ring_link rings;
  int fd = -1, sockets[2];
  if (!platform_can_seal()) skip();
  assert_int_equal(platform_socketpair(sockets), 0);
  struct channel *shm = channel_shm_new(RING_BYTES, &fd), *uds = channel_uds_new(sockets[0]);
  assert_non_null(shm);
  channel_shm_begin(shm, uds);
  assert_int_equal(ring_link_open(&rings, -1, fd, 2 * RING_BYTES, RING_WORKER), -1); /* another size */
  assert_int_equal(ring_link_open(&rings, -1, fd, RING_BYTES - 1, RING_WORKER), -1); /* no power of two */
  assert_int_equal(ring_link_open(&rings, -1, fd, 0, RING_WORKER), -1);
  assert_int_equal(ring_link_open(&rings, -1, sockets[1], RING_BYTES, RING_WORKER), -1);
  close(fd);
  fd = platform_shared_memory(ring_memory_size(RING_BYTES)); /* not laid out */
  assert_int_equal(ring_link_open(&rings, -1, fd, RING_BYTES, RING_WORKER), -1);
  close(fd);
  char name[] = "/tmp/pyproc-test-XXXXXX"; /* laid out, and of the right size, but not sealed */
  ring_page page = {.magic = RING_MAGIC, .version = RING_VERSION, .ring_bytes = RING_BYTES};
  fd = mkstemp(name);
  unlink(name);
  assert_int_equal(write(fd, &page, sizeof page), sizeof page);
  assert_int_equal(ftruncate(fd, (off_t)ring_memory_size(RING_BYTES)), 0);
  assert_int_equal(ring_link_open(&rings, -1, fd, RING_BYTES, RING_WORKER), -1);
  close(fd);
  shm->ops->close(shm);
  close(sockets[1]);
}

#define BOTH(test) \
  {#test " (uds)", test, NULL, NULL, "uds"}, { \
#test " (shm)", test, NULL, NULL, "shm" \
  }

int main(void) {
  const struct CMUnitTest tests[] = {
      BOTH(bytes_go_both_ways),
      BOTH(nothing_blocks),
      BOTH(a_peer_that_closes_is_the_end),
      BOTH(a_peer_that_dies_unread_is_the_end),
      {"descriptors_beside_the_first_byte", descriptors_beside_the_first_byte, NULL, NULL, "uds"},
      BOTH(waits_end),
      cmocka_unit_test(a_receive_blocks_for_a_while),
      BOTH(a_blocking_read_ends),
      BOTH(a_blocking_read_ends_with_our_own_shut),
      BOTH(a_blocking_read_is_woken),
      BOTH(a_blocking_read_bears_signals),
      BOTH(shutting_one_way_and_both),
      BOTH(the_descriptor_tells_after_arming),
      BOTH(room_is_told),
      BOTH(long_streams_pass),
      cmocka_unit_test(a_worker_maps_only_what_fits),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
