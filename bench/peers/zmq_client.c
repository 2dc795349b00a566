/* zmq_client - a REQ socket for each thread, protobuf messages. Usage: see client.h. */
#include <zmq.h>

#include "bench.pb-c.h"
#include "client.h"

static void *context; /* one for the process, as ZeroMQ's guide says */

static void check(int good, const char *what) {
  if (good) return;
  fprintf(stderr, "zmq_client: %s: %s\n", what, zmq_strerror(zmq_errno()));
  exit(1);
}

static void *open_connection(const char *address) {
  void *socket = zmq_socket(context, ZMQ_REQ);
  check(socket != NULL && zmq_connect(socket, address) == 0, "connect");
  return socket;
}

static double call(void *socket, double value) {
  Bench__PredictRequest request = BENCH__PREDICT_REQUEST__INIT;
  uint8_t bytes[64];
  request.value = value;
  size_t size = bench__predict_request__pack(&request, bytes);
  check(zmq_send(socket, bytes, size, 0) >= 0, "send");
  int count = zmq_recv(socket, bytes, sizeof bytes, 0);
  check(count >= 0, "receive");
  Bench__PredictReply *reply = bench__predict_reply__unpack(NULL, (size_t)count, bytes);
  check(reply != NULL, "unpack");
  double result = reply->result;
  bench__predict_reply__free_unpacked(reply, NULL);
  return result;
}

static void close_connection(void *socket) {
  zmq_close(socket);
}

int main(int argc, char **argv) {
  static const client_ops ops = {open_connection, call, close_connection};
  context = zmq_ctx_new();
  int result = client_main(argc, argv, &ops);
  zmq_ctx_term(context);
  return result;
}
