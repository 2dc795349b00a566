#include "rpc.h"

#include <grpc/support/alloc.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"

static grpc_slice path_of(const rpc_flight *self, const struct call *call) {
  if (self->is_dynamic) return grpc_slice_from_static_string(RPC_DYNAMIC_PATH);
  size_t size = strlen(call->method.name);
  grpc_slice path = grpc_slice_malloc(size + 1);
  GRPC_SLICE_START_PTR(path)[0] = '/';
  memcpy(GRPC_SLICE_START_PTR(path) + 1, call->method.name, size);
  return path;
}

static void set_tags(rpc_flight *self) {
  self->unary = (rpc_tag){.task.done = rpc_unary_done, .flight = self};
  self->begin = (rpc_tag){.task.done = rpc_stream_began, .flight = self};
  self->headers = (rpc_tag){.task.done = rpc_stream_got_headers, .flight = self};
  self->reading = (rpc_tag){.task.done = rpc_stream_got_message, .flight = self};
  self->writing = (rpc_tag){.task.done = rpc_stream_sent, .flight = self};
  self->end = (rpc_tag){.task.done = rpc_stream_ended, .flight = self};
}

rpc_flight *rpc_flight_new(rpc *self, struct call *call, bool is_polled) {
  rpc_flight *flight = calloc(1, sizeof *flight);
  if (flight == NULL) return NULL;
  flight->owner = self;
  flight->call = call;
  flight->is_dynamic = call->frame->encoding == CALL_BODY_JSON;
  flight->is_stream = call->stream != NULL;
  flight->has_headers = !flight->is_stream; /* all comes at once */
  if (flight->is_stream) {
    flight->has_closed = call->method.typed->kind == PYPROC_RPC_SERVER_STREAM; /* along with the request */
    flight->has_one_reply = call->method.typed->kind == PYPROC_RPC_CLIENT_STREAM;
    call->stream->receive_credit = self->settings.stream_window;
  }
  set_tags(flight);
  flight->details = grpc_empty_slice();
  grpc_metadata_array_init(&flight->initial);
  grpc_metadata_array_init(&flight->trailing);
  flight->queue = is_polled ? engine_queue() : engine_take_queue();
  if (!rpc_metadata_take(flight, call->frame, self->settings.authorization)) {
    rpc_flight_free(flight);
    return NULL;
  }
  grpc_slice path = path_of(flight, call);
  flight->grpc = grpc_channel_create_call(self->grpc, NULL, GRPC_PROPAGATE_DEFAULTS, flight->queue, path, NULL,
                                          engine_deadline(call->deadline_ns), NULL);
  grpc_slice_unref(path);
  return flight;
}

void rpc_flight_free(rpc_flight *self) {
  if (self->grpc != NULL) grpc_call_unref(self->grpc);
  if (self->queue != NULL && self->queue != engine_queue()) engine_give_queue(self->queue);
  rpc_metadata_free(self);
  grpc_metadata_array_destroy(&self->initial);
  grpc_metadata_array_destroy(&self->trailing);
  if (self->message != NULL) grpc_byte_buffer_destroy(self->message);
  if (self->incoming != NULL) grpc_byte_buffer_destroy(self->incoming);
  grpc_slice_unref(self->details);
  pyproc_error_free(self->failure);
  free(self);
}

void rpc_flight_cancel(rpc_flight *self) {
  atomic_store(&self->owner->cancelled_ns, platform_now_ns());
  grpc_call_cancel_with_status(self->grpc, GRPC_STATUS_CANCELLED, "given up", NULL);
}

uint32_t rpc_flight_flags(const rpc_flight *self) {
  return rpc_is_remote(self->owner)
             ? 0
             : GRPC_INITIAL_METADATA_WAIT_FOR_READY | GRPC_INITIAL_METADATA_WAIT_FOR_READY_EXPLICITLY_SET;
}

pyproc_error *rpc_flight_error(const rpc_flight *self, bool *ret_has_object) {
  *ret_has_object = false;
  if (self->status == GRPC_STATUS_OK) return NULL;
  int code = error_from_wire((uint32_t)self->status);
  const grpc_slice *object = rpc_metadata_find(&self->trailing, "pyproc-error-bin");
  pyproc_error *error;
  if (object != NULL) {
    *ret_has_object = true;
    error = error_from_object(code, (const char *)GRPC_SLICE_START_PTR(*object), GRPC_SLICE_LENGTH(*object));
  } else if (GRPC_SLICE_LENGTH(self->details) > 0) {
    size_t size = GRPC_SLICE_LENGTH(self->details);
    error = error_new(code, "%.*s", size < INT16_MAX ? (int)size : INT16_MAX,
                      (const char *)GRPC_SLICE_START_PTR(self->details));
  } else {
    error = error_new(code, "%s", pyproc_strerror(code));
  }
  if (self->owner->base.peer_pid != 0) error_set_worker(error, self->owner->base.peer_pid);
  return error;
}

void rpc_flight_land(rpc_flight *self, bool tells) {
  rpc *owner = self->owner;
  const connection_owner *owner_ops = owner->base.owner_ops;
  void *place = owner->base.owner;
  bool is_polled = self->queue == engine_queue(), is_stream = self->is_stream;
  rpc_flight_free(self);
  atomic_fetch_sub(is_stream ? &owner->base.streams : &owner->base.load, 1);
  if (tells) owner_ops->freed(place);
  if (is_polled) engine_expect(-1);
  pthread_mutex_lock(&owner->lock);
  owner->flights--;
  pthread_mutex_unlock(&owner->lock);
}
