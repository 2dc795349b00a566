/* The channel over a Unix socket: full and empty sockets, peers that close, waits that end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "channel.h"
#include "platform.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define FAR_NS (platform_now_ns() + INT64_C(60000000000))

/* A channel and the other end of its socket. */
struct link {
  struct channel *channel;
  int peer;
};

static struct link link_open(void) {
  int fds[2];
  assert_int_equal(platform_socketpair(fds), 0);
  struct link link = {.channel = channel_uds_new(fds[0]), .peer = fds[1]};
  assert_non_null(link.channel);
  return link;
}

static void link_close(struct link *link) {
  link->channel->ops->close(link->channel);
  platform_close_fd(link->peer);
}

static ssize_t write_text(struct channel *channel, const char *text) {
  struct iovec part = {.iov_base = (void *)(uintptr_t)text, .iov_len = strlen(text)};
  return channel->ops->write(channel, &part, 1);
}

static void bytes_go_both_ways(void **state) {
  (void)state;
  struct link link = link_open();
  char text[16] = "";
  struct iovec parts[3] = {{"ab", 2}, {"", 0}, {"cde", 3}};
  assert_int_equal(link.channel->ops->read(link.channel, text, sizeof text), CHANNEL_AGAIN);
  assert_int_equal(link.channel->ops->write(link.channel, parts, 3), 5);
  assert_int_equal(read(link.peer, text, sizeof text), 5);
  assert_memory_equal(text, "abcde", 5);
  assert_int_equal(write(link.peer, "xyz", 3), 3);
  assert_int_equal(link.channel->ops->read(link.channel, text, 2), 2);
  assert_memory_equal(text, "xy", 2);
  assert_int_equal(link.channel->ops->read(link.channel, text, sizeof text), 1);
  assert_int_equal(link.channel->ops->read(link.channel, text, sizeof text), CHANNEL_AGAIN);
  assert_string_equal(link.channel->ops->name, "uds");
  link_close(&link);
}

/* A socket that somebody made blocking does not block us either. */
static void nothing_blocks(void **state) {
  (void)state;
  struct link link = link_open();
  static char block[256 << 10];
  int fd = link.channel->ops->fd(link.channel);
  assert_int_equal(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK), 0);
  assert_int_equal(link.channel->ops->read(link.channel, block, sizeof block), CHANNEL_AGAIN);
  struct iovec part = {.iov_base = block, .iov_len = sizeof block};
  ssize_t count, total = 0;
  while ((count = link.channel->ops->write(link.channel, &part, 1)) > 0) total += count;
  assert_int_equal(count, CHANNEL_AGAIN);
  assert_true(total > 0);
  /* it goes on once the peer has read */
  while (total > 0) {
    count = read(link.peer, block, sizeof block);
    assert_true(count > 0);
    total -= count;
  }
  link.channel->ops->wait(link.channel, true, NULL, 0, FAR_NS);
  assert_int_equal(write_text(link.channel, "more"), 4);
  link_close(&link);
}

static void a_peer_that_closes_is_the_end(void **state) {
  (void)state;
  struct link link = link_open();
  char text[8];
  void (*before)(int) = signal(SIGPIPE, SIG_DFL); /* a SIGPIPE would kill the test */
  assert_int_equal(write(link.peer, "last", 4), 4);
  close(link.peer);
  link.peer = -1;
  assert_int_equal(link.channel->ops->read(link.channel, text, sizeof text), 4);
  assert_int_equal(link.channel->ops->read(link.channel, text, sizeof text), CHANNEL_END);
  assert_int_equal(write_text(link.channel, "x"), CHANNEL_END);
  assert_int_equal(link.channel->ops->send_fds(link.channel, "x", 1, NULL, 0), CHANNEL_END);
  link.channel->ops->wait(link.channel, false, NULL, 0, FAR_NS); /* returns: the channel has ended */
  link.channel->ops->shut(link.channel, true);
  link_close(&link);
  signal(SIGPIPE, before);
}

/* The peer died with our bytes unread: the kernel says "connection reset". */
static void a_peer_that_dies_unread_is_the_end(void **state) {
  (void)state;
  struct link link = link_open();
  char text[8];
  assert_int_equal(write_text(link.channel, "unread"), 6);
  close(link.peer);
  link.peer = -1;
  ssize_t first = link.channel->ops->read(link.channel, text, sizeof text);
  assert_int_equal(first, CHANNEL_END);
  link_close(&link);
}

static void a_descriptor_beside_the_first_byte(void **state) {
  (void)state;
  struct link link = link_open();
  int pipe_fds[2], got = -1;
  char text[8], control[CMSG_SPACE(sizeof(int))];
  assert_int_equal(platform_pipe(pipe_fds), 0);
  assert_int_equal(link.channel->ops->send_fds(link.channel, "hello", 5, &pipe_fds[1], 1), 5);
  struct iovec part = {.iov_base = text, .iov_len = 1};
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
  assert_int_equal(recvmsg(link.peer, &message, MSG_CMSG_CLOEXEC), 1);
  const struct cmsghdr *header = CMSG_FIRSTHDR(&message);
  assert_non_null(header);
  assert_int_equal(header->cmsg_type, SCM_RIGHTS);
  memcpy(&got, CMSG_DATA(header), sizeof got);
  assert_int_equal(write(got, "!", 1), 1);
  assert_int_equal(read(pipe_fds[0], text, sizeof text), 1);
  assert_int_equal(read(link.peer, text, sizeof text), 4);
  close(got);
  close(pipe_fds[0]);
  close(pipe_fds[1]);
  link_close(&link);
}

/* Each of the things that end a wait. A lost one would wait a minute and fail by the test's time limit. */
static void waits_end(void **state) {
  (void)state;
  struct link link = link_open();
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
  assert_int_equal(write(link.peer, "x", 1), 1);
  link.channel->ops->wait(link.channel, false, also, CHANNEL_ALSO_MAX, FAR_NS);
  assert_int_equal(link.channel->ops->read(link.channel, text, sizeof text), 1);
  link.channel->ops->shut(link.channel, true);
  link.channel->ops->wait(link.channel, false, also, CHANNEL_ALSO_MAX, FAR_NS);
  for (int i = 0; i < CHANNEL_ALSO_MAX; i++) wake_close(&wakes[i]);
  link_close(&link);
}

static void shutting_one_way_and_both(void **state) {
  (void)state;
  struct link link = link_open();
  char text[8];
  link.channel->ops->shut(link.channel, false);
  assert_int_equal(read(link.peer, text, sizeof text), 0);
  assert_int_equal(write(link.peer, "still", 5), 5);
  assert_int_equal(link.channel->ops->read(link.channel, text, sizeof text), 5);
  assert_int_equal(link.channel->ops->read(link.channel, text, sizeof text), CHANNEL_AGAIN);
  assert_int_equal(write_text(link.channel, "x"), CHANNEL_END);
  assert_int_equal(write(link.peer, "late", 4), 4);
  link.channel->ops->shut(link.channel, true);
  assert_int_equal(link.channel->ops->read(link.channel, text, sizeof text), 4); /* what had arrived is not lost */
  assert_int_equal(link.channel->ops->read(link.channel, text, sizeof text), CHANNEL_END);
  link_close(&link);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(bytes_go_both_ways),
      cmocka_unit_test(nothing_blocks),
      cmocka_unit_test(a_peer_that_closes_is_the_end),
      cmocka_unit_test(a_peer_that_dies_unread_is_the_end),
      cmocka_unit_test(a_descriptor_beside_the_first_byte),
      cmocka_unit_test(waits_end),
      cmocka_unit_test(shutting_one_way_and_both),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
