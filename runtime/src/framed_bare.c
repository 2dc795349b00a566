/*
 * Workers of the Go library: no handshake, no frames but JSON envelopes, one call at a time, and no way to tell them
 * that a call was given up.
 */
#include "framed.h"

#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "wire/frame.h"

#define HEALTH "{\"id\":1,\"method\":\"health\",\"body\":{}}"
enum { HEALTH_ID = 1, HEALTH_SIZE = sizeof HEALTH - 1 }; /* the ids of calls are STATUS_PAGE_SLOTS and above */

static void end_with(framed *self, pyproc_error *error) {
  self->receiving = false;
  framed_break(self, error);
}

static void ask_for_health(framed *self) {
  uint8_t frame[WIRE_LENGTH_SIZE + HEALTH_SIZE];
  wire_put32(frame, HEALTH_SIZE);
  memcpy(frame + WIRE_LENGTH_SIZE, HEALTH, HEALTH_SIZE);
  pthread_mutex_lock(&self->lock);
  bool is_queued = send_queue_append_bytes(&self->queue, frame, sizeof frame);
  if (is_queued) framed_flush(self);
  pthread_mutex_unlock(&self->lock);
  if (!is_queued) end_with(self, error_new(PYPROC_E_RESOURCE_EXHAUSTED, "out of memory"));
}

static void become_open(framed *self) {
  method_table *methods = method_table_any();
  if (methods == NULL) {
    end_with(self, error_new(PYPROC_E_RESOURCE_EXHAUSTED, "out of memory"));
    return;
  }
  pthread_mutex_lock(&self->lock);
  self->methods = methods;
  self->has_started_frames = false;
  pthread_mutex_unlock(&self->lock);
  atomic_store(&self->base.state, CONNECTION_OPEN);
  self->base.owner_ops->ready(self->base.owner);
}

static void take_health(framed *self, const struct payload *payload) {
  struct envelope envelope;
  long pid = (long)self->base.peer_pid;
  const char *wrong = envelope_parse((const char *)payload->data, payload->size, &envelope);
  bool is_its_reply = wrong == NULL && envelope.type == ENVELOPE_REPLY &&
                      (envelope.id == HEALTH_ID || (!envelope.ok && envelope.id == 0));
  if (!is_its_reply) {
    end_with(self,
             error_new(PYPROC_E_DATA_LOSS, "worker %ld answered health with no JSON envelope that is its reply: %s",
                       pid, wrong != NULL ? wrong : "unexpected members"));
  } else if (!envelope.ok) {
    pyproc_error *error = framed_envelope_error(self, &envelope);
    end_with(self, error_new(PYPROC_E_FAILED_PRECONDITION, "worker %ld is not ready, its method health failed: %s", pid,
                             pyproc_error_message(error)));
    pyproc_error_free(error);
  } else {
    become_open(self);
  }
}

/* It holds this one call, and nothing else is given to it before that has ended. */
static void wait_for_answer(framed *self, uint64_t id, int code) {
  (void)id;
  (void)code;
  atomic_store(&self->base.answer_due_ns, platform_now_ns() + self->settings.cancel_grace_ms * 1000000);
  self->base.owner_ops->overdue(self->base.owner);
}

void framed_gave_up(framed *self, const struct envelope *envelope) {
  pyproc_error *error = framed_envelope_error(self, envelope);
  end_with(self, error_new(PYPROC_E_INTERNAL, "worker %ld gave up its connection: %s", (long)self->base.peer_pid,
                           pyproc_error_message(error)));
  pyproc_error_free(error);
}

const framed_handshake framed_bare = {
    .begin = ask_for_health, .take = take_health, .give_up = wait_for_answer, .prefetch_max = 0};
