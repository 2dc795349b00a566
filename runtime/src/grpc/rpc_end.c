#include "rpc.h"

#include <stdlib.h>

#include "error.h"
#include "prefetch.h"

#define CLOCKS_DIFFER_NS INT64_C(20000000) /* how far before our own clock a deadline may pass on another one */

/* What becomes of a call whose flight is over. */
typedef enum verdict {
  VERDICT_DONE, /* it has a reply, or an error */
  VERDICT_LEFT, /* its caller has left */
  VERDICT_WAITS /* what ends it is still to come: its own deadline or token, or the news of its worker */
} verdict;

typedef struct outcome {
  verdict verdict;
  struct call *call;
  pyproc_error *error;
  bool may_have_run, is_lost;
} outcome;

/* Whether a well-ended call has a reply; the messages of other streams came before. */
static bool has_reply(const struct call *call) {
  return call->stream == NULL || call->method.typed->kind == PYPROC_RPC_CLIENT_STREAM;
}

static pyproc_error *no_memory(const struct call *call) {
  return error_new(PYPROC_E_RESOURCE_EXHAUSTED, "no memory for the reply of %s, or it cannot be decompressed",
                   call->method.name);
}

/* A reply that came, with its metadata right before its body. The thread that has the flight; no lock. */
static pyproc_error *give_reply(const rpc_flight *self, struct call *call, const rpc_metadata *metadata) {
  size_t size;
  if (self->message == NULL)
    return error_new(PYPROC_E_INTERNAL, "the server ended %s well, but without a reply", call->method.name);
  call->block = rpc_message_bytes(self->message, metadata->size, call->small, sizeof call->small, &size);
  if (call->block == NULL) return no_memory(call);
  call->body = call->block + metadata->size;
  call->body_size = size;
  if (self->is_dynamic && !rpc_message_dynamic_body(call->body, size, &call->body, &call->body_size))
    return error_new(PYPROC_E_DATA_LOSS, "the reply of %s is no pyproc.DynamicReply", call->method.name);
  rpc_metadata_put(metadata, (uint8_t *)(uintptr_t)call->body - metadata->size);
  call->metadata_size = metadata->size;
  return NULL;
}

/* What the end of a stream whose messages came before brings. */
static pyproc_error *give_metadata(struct call *call, const rpc_metadata *metadata) {
  call->block = metadata->size <= sizeof call->small ? call->small : malloc(metadata->size);
  if (call->block == NULL) return no_memory(call);
  rpc_metadata_put(metadata, call->block);
  call->body = call->block + metadata->size;
  call->metadata_size = metadata->size;
  return NULL;
}

static void give_to_error(pyproc_error *error, const rpc_metadata *metadata) {
  uint8_t *bytes = metadata->size > 0 ? malloc(metadata->size) : NULL;
  if (bytes == NULL) return;
  rpc_metadata_put(metadata, bytes);
  error_set_metadata(error, bytes, metadata->size);
  free(bytes);
}

/* Whether the call ends by its own deadline, which libgrpc and the server see to as well, or by its token: with the
 * text that all protocols share. */
static bool is_given_up(const rpc_flight *self, const struct call *call, bool has_object) {
  if (self->status != GRPC_STATUS_CANCELLED && self->status != GRPC_STATUS_DEADLINE_EXCEEDED) return false;
  int64_t early_ns = has_object ? 0 : CLOCKS_DIFFER_NS;
  return atomic_load(&call->cancelled) || call->deadline_ns - platform_now_ns() <= early_ns;
}

/* The lock is held. */
static outcome judge(rpc_flight *self) {
  rpc *owner = self->owner;
  outcome out = {.verdict = VERDICT_DONE, .call = self->call, .may_have_run = true};
  bool has_object;
  if (out.call == NULL) {
    out.verdict = VERDICT_LEFT;
    return out;
  }
  out.error = rpc_flight_error(self, &has_object);
  int code = pyproc_error_code(out.error);
  bool is_local = !rpc_is_remote(owner);
  if (out.error != NULL && self->failure != NULL) {
    pyproc_error_free(out.error);
    out.error = error_copy(self->failure);
  } else if (is_given_up(self, out.call, has_object)) {
    out.verdict = VERDICT_WAITS;
  } else if (is_local && code == PYPROC_E_UNAVAILABLE && !has_object) {
    out.verdict = VERDICT_WAITS;
    out.is_lost = true;
  } else if (is_local && code == PYPROC_E_CANCELLED && atomic_load(&owner->finished)) { /* by nobody's token */
    pyproc_error_free(out.error);
    out.error = error_new(PYPROC_E_UNAVAILABLE, "the pool was closed while %s ran", out.call->method.name);
  }
  return out;
}

/* The call, where it can be ended now, is in no list any more and nobody else's. */
static outcome take_call(rpc_flight *self) {
  rpc *owner = self->owner;
  pthread_mutex_lock(&owner->lock);
  outcome out = judge(self);
  if (out.call != NULL) {
    out.call->flight = NULL;
    self->call = NULL;
  }
  if (out.verdict == VERDICT_DONE) {
    call_list_remove(&owner->calls, out.call);
    atomic_store(&out.call->connection, NULL);
  }
  pthread_mutex_unlock(&owner->lock);
  return out;
}

static void finish_call(rpc_flight *self, outcome *out) {
  rpc *owner = self->owner;
  struct call *call = out->call;
  rpc_metadata metadata;
  rpc_metadata_collect(self, true, &metadata);
  if (out->error != NULL)
    give_to_error(out->error, &metadata);
  else
    out->error = has_reply(call) ? give_reply(self, call, &metadata) : give_metadata(call, &metadata);
  atomic_fetch_add_explicit(&owner->base.good_calls, 1, memory_order_relaxed);
  if (call->stream == NULL && !rpc_is_remote(owner)) prefetch_adapt(&owner->base, 1, false, platform_now_ns());
  call->error = out->error;
  call->may_have_run = out->may_have_run;
  lot_wake(owner->settings.lot, call_finish(call));
}

void rpc_flight_end(rpc_flight *self) {
  rpc *owner = self->owner;
  outcome out = take_call(self);
  if (out.verdict == VERDICT_DONE)
    finish_call(self, &out);
  else
    pyproc_error_free(out.error);
  if (out.is_lost)
    rpc_break(owner, error_new(PYPROC_E_UNAVAILABLE, "worker %ld closed its connection", (long)owner->base.peer_pid));
  rpc_flight_land(self, true);
}
