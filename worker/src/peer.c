#define _GNU_SOURCE
#include "peer.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <unistd.h>

#include "frame.h"

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0
#endif

enum { TEXT_MAX = 512 };

static long long uid_of(int fd) {
#ifdef SO_PEERCRED
  struct ucred peer;
  socklen_t size = sizeof peer;
  return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 ? (long long)peer.uid : -1;
#else
  uid_t uid;
  gid_t gid;
  return getpeereid(fd, &uid, &gid) == 0 ? (long long)uid : -1;
#endif
}

bool peer_is_allowed(int fd, long long uid, long long *ret_uid) {
  *ret_uid = uid_of(fd);
  return uid == PEER_ANY || *ret_uid == 0 || (*ret_uid >= 0 && *ret_uid == uid);
}

void peer_refuse(int fd, const char *why) {
  uint8_t frame[WIRE_LENGTH_SIZE + WIRE_HEADER_SIZE + TEXT_MAX];
  char *body = (char *)frame + WIRE_LENGTH_SIZE + WIRE_HEADER_SIZE;
  const int size = snprintf(body, TEXT_MAX, "{\"error\":\"%.480s\"}", why);
  const wire_header header = {.kind = WIRE_FAILED, .flags = WIRE_FLAG_JSON};
  wire_put32(frame, (uint32_t)(WIRE_HEADER_SIZE + size));
  wire_header_put(frame + WIRE_LENGTH_SIZE, &header);
  const ssize_t sent =
      send(fd, frame, (size_t)(WIRE_LENGTH_SIZE + WIRE_HEADER_SIZE + size), MSG_DONTWAIT | MSG_NOSIGNAL);
  (void)sent; /* it is closed in any case */
  (void)close(fd);
}
