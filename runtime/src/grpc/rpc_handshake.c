#include "rpc.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "health.h"
#include "wire/frame.h"

static void stop_with(rpc *self, pyproc_error *reason) {
  self->receiving = false;
  rpc_break(self, reason);
}

static bool send_welcome(rpc *self) {
  char body[256];
  uint8_t frame[WIRE_LENGTH_SIZE + WIRE_HEADER_SIZE + sizeof body];
  int size = snprintf(body, sizeof body,
                      "{\"version\":%d,\"codec\":\"%s\",\"frame_limit\":%lld,\"worker_index\":%d,"
                      "\"cancel_grace_ms\":%lld,\"max_streams\":%d,\"metadata_limit\":%d}",
                      WIRE_VERSION, self->settings.codec->name, (long long)self->settings.frame_limit, self->base.index,
                      (long long)self->settings.cancel_grace_ms, self->settings.max_streams, RPC_METADATA_MAX);
  wire_header header = {.kind = WIRE_WELCOME, .flags = WIRE_FLAG_JSON};
  wire_put32(frame, (uint32_t)(WIRE_HEADER_SIZE + size));
  wire_header_put(frame + WIRE_LENGTH_SIZE, &header);
  memcpy(frame + WIRE_LENGTH_SIZE + WIRE_HEADER_SIZE, body, (size_t)size);
  size_t total = WIRE_LENGTH_SIZE + WIRE_HEADER_SIZE + (size_t)size;
  return self->control->ops->send_fds(self->control, frame, total, NULL, 0) == (ssize_t)total;
}

static int check_hello(const char *body, size_t size, const rpc *self, method_table **ret_methods,
                       pyproc_error **reterr) {
  int result = method_table_parse(body, size, ret_methods, reterr);
  if (result < 0) return result;
  if (!method_table_has_feature(*ret_methods, "grpc"))
    return error_set(reterr, PYPROC_E_FAILED_PRECONDITION,
                     "the worker serves no gRPC: install the pyproc_worker that belongs to the library");
  return method_table_check(*ret_methods, self->settings.services, reterr);
}

static void take_hello(rpc *self, const char *body, size_t size) {
  method_table *methods = NULL;
  pyproc_error *error = NULL;
  grpc_channel *channel = NULL;
  if (atomic_load(&self->base.state) != CONNECTION_HANDSHAKE) {
    stop_with(self, error_new(PYPROC_E_DATA_LOSS, "worker %ld sent a second hello", (long)self->base.peer_pid));
    return;
  }
  int result = check_hello(body, size, self, &methods, &error);
  if (result >= 0) channel = rpc_channel_new(self, &error);
  if (channel == NULL) {
    method_table_free(methods);
    stop_with(self, error);
    return;
  }
  pthread_mutex_lock(&self->lock);
  self->methods = methods;
  self->grpc = channel;
  pthread_mutex_unlock(&self->lock);
  atomic_store(&self->base.capacity, method_table_concurrency(methods));
  self->base.answers_pings = method_table_has_feature(methods, "ping");
  self->base.stacks_signal = method_table_stacks_signal(methods);
  if (!send_welcome(self)) {
    stop_with(self,
              error_new(PYPROC_E_UNAVAILABLE, "worker %ld took no answer to its hello", (long)self->base.peer_pid));
    return;
  }
  grpc_channel_check_connectivity_state(channel, 1);
  atomic_store(&self->base.state, CONNECTION_OPEN);
  self->base.owner_ops->ready(self->base.owner);
}

static void take_payload(rpc *self, const struct payload *payload) {
  wire_header header;
  if (wire_header_get(payload->data, payload->size, &header) < 0) {
    stop_with(self,
              error_new(PYPROC_E_DATA_LOSS, "worker %ld sent bytes that are no frame", (long)self->base.peer_pid));
    return;
  }
  const char *body = (const char *)payload->data + WIRE_HEADER_SIZE + header.metadata_size;
  size_t size = payload->size - WIRE_HEADER_SIZE - header.metadata_size;
  if (header.kind == WIRE_HELLO) {
    take_hello(self, body, size);
  } else if (header.kind == WIRE_PONG) {
    if (header.id == atomic_load(&self->base.ping)) atomic_store(&self->base.pong, header.id);
  } else if (header.kind == WIRE_FAILED) {
    pyproc_error *error = error_from_object(PYPROC_E_FAILED_PRECONDITION, body, size);
    error_set_worker(error, self->base.peer_pid);
    stop_with(self, error);
  } /* all else is of later versions */
}

void rpc_ping(struct connection *base, uint64_t number) {
  rpc *self = rpc_of(base);
  uint8_t frame[WIRE_LENGTH_SIZE + WIRE_HEADER_SIZE];
  wire_header header = {.kind = WIRE_PING, .id = number};
  if (!base->answers_pings || self->control == NULL) return;
  wire_put32(frame, WIRE_HEADER_SIZE);
  wire_header_put(frame + WIRE_LENGTH_SIZE, &header);
  atomic_store(&base->ping, number);
  self->control->ops->send_fds(self->control, frame, sizeof frame, NULL,
                               0); /* one that has no room is not read, either */
}

void rpc_look(struct connection *base, health_facts *ret_facts) {
  *ret_facts = (health_facts){.answers_pings = base->answers_pings, .pong = atomic_load(&base->pong)};
}

void rpc_read_control(rpc *self) {
  while (self->receiving) {
    struct payload payload;
    ssize_t count = receiver_fill(&self->receiver, self->control);
    if (count == CHANNEL_AGAIN) return;
    if (count < 0) {
      stop_with(self, error_new(PYPROC_E_UNAVAILABLE, "worker %ld closed its connection", (long)self->base.peer_pid));
      return;
    }
    int more;
    while (self->receiving && (more = receiver_next(&self->receiver, WIRE_FRAME_LIMIT_DEFAULT, &payload)) != 0) {
      if (more < 0) {
        stop_with(self, error_new(PYPROC_E_DATA_LOSS, "worker %ld sent a frame of no bytes or above the frame limit",
                                  (long)self->base.peer_pid));
        return;
      }
      take_payload(self, &payload);
      free(payload.block);
    }
  }
}
