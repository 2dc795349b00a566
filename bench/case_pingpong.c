/* Sixteen bytes, about what a small call takes, to a child process and back. */
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cases.h"

enum { MESSAGE_SIZE = 48 };

static bool exchange(int socket, char *message, pingpong_mode mode, bool receive) {
  int flags = MSG_NOSIGNAL | (mode == PINGPONG_SPINNING ? MSG_DONTWAIT : 0);
  for (;;) {
    ssize_t count = receive ? recv(socket, message, MESSAGE_SIZE, flags) : send(socket, message, MESSAGE_SIZE, flags);
    if (count == MESSAGE_SIZE) return true;
    if (count >= 0 || (errno != EAGAIN && errno != EINTR)) return false;
  }
}

static void echo(int socket, pingpong_mode mode) {
  char message[MESSAGE_SIZE];
  while (exchange(socket, message, mode, true) && exchange(socket, message, mode, false)) {}
}

void run_pingpong(pingpong_mode mode, double seconds, measure *to) {
  int sockets[2];
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) < 0) exit(1);
  pid_t child = fork();
  if (child < 0) exit(1);
  if (child == 0) {
    close(sockets[0]);
    echo(sockets[1], mode);
    _exit(0);
  }
  close(sockets[1]);
  char message[MESSAGE_SIZE] = {0};
  int64_t began = now_ns(), before = began, end = began + (int64_t)(seconds * 1e9);
  while (before < end && exchange(sockets[0], message, mode, false) && exchange(sockets[0], message, mode, true)) {
    int64_t now = now_ns();
    samples_add(&to->samples, now - before);
    to->calls++;
    before = now;
  }
  to->seconds += (double)(before - began) / 1e9;
  to->fairness += 1;
  to->rounds++;
  close(sockets[0]);
  waitpid(child, NULL, 0);
}
