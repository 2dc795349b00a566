/*
 * thrift_client - a plain Thrift c_glib client, as in its tutorial: a socket, a buffered transport, the binary protocol.
 * Usage: see client.h.
 */
#include <thrift/c_glib/protocol/thrift_binary_protocol.h>
#include <thrift/c_glib/transport/thrift_buffered_transport.h>
#include <thrift/c_glib/transport/thrift_socket.h>

#include "client.h"
#include "predictor.h"

typedef struct connection {
  ThriftSocket *socket;
  ThriftTransport *transport;
  ThriftProtocol *protocol;
  PredictorIf *client;
} connection;

static void check(gboolean good, GError *error) {
  if (good) return;
  fprintf(stderr, "thrift_client: %s\n", error != NULL ? error->message : "failed");
  exit(1);
}

static void *open_connection(const char *address) {
  GError *error = NULL;
  connection *self = calloc(1, sizeof *self);
  if (self == NULL) exit(1);
  self->socket = g_object_new(THRIFT_TYPE_SOCKET, "path", address, NULL);
  self->transport = g_object_new(THRIFT_TYPE_BUFFERED_TRANSPORT, "transport", self->socket, NULL);
  self->protocol = g_object_new(THRIFT_TYPE_BINARY_PROTOCOL, "transport", self->transport, NULL);
  check(thrift_transport_open(self->transport, &error), error);
  self->client =
      g_object_new(TYPE_PREDICTOR_CLIENT, "input_protocol", self->protocol, "output_protocol", self->protocol, NULL);
  return self;
}

static double call(void *to, double value) {
  connection *self = to;
  GError *error = NULL;
  double result = 0;
  PredictRequest *request = g_object_new(TYPE_PREDICT_REQUEST, "value", value, NULL);
  PredictReply *reply = g_object_new(TYPE_PREDICT_REPLY, NULL);
  check(predictor_if_predict(self->client, &reply, request, &error), error);
  g_object_get(reply, "result", &result, NULL);
  g_object_unref(reply);
  g_object_unref(request);
  return result;
}

static void close_connection(void *of) {
  connection *self = of;
  thrift_transport_close(self->transport, NULL);
  g_object_unref(self->client);
  g_object_unref(self->protocol);
  g_object_unref(self->transport);
  g_object_unref(self->socket);
  free(self);
}

int main(int argc, char **argv) {
  static const client_ops ops = {open_connection, call, close_connection};
  if (argc < 2) return 2;
  void *first = open_connection(argv[1]); /* generated code registers its types at their first use, by one thread */
  call(first, 1);
  close_connection(first);
  return client_main(argc, argv, &ops);
}
