#include <string.h>

#include "error.h"
#include "framed.h"

void framed_break(framed *self, pyproc_error *reason) {
  pthread_mutex_lock(&self->lock);
  bool first = framed_is_open(self);
  if (first) {
    self->base.reason = reason;
    atomic_store(&self->base.state, CONNECTION_BROKEN);
  }
  pthread_mutex_unlock(&self->lock);
  if (!first) {
    pyproc_error_free(reason);
    return;
  }
  self->base.owner_ops->broken(self->base.owner);
}

pyproc_error *framed_corrupt(const framed *self) {
  return error_new(PYPROC_E_DATA_LOSS, "worker %ld has spoilt the memory that it shares with the host",
                   (long)self->base.peer_pid);
}

bool framed_owes_others(const framed *self) {
  if (self->thread_count > 0 || self->stream_waits != NULL) return false;
  int streams = atomic_load(&self->base.streams);
  return framed_awaits_pong(self) || atomic_load(&self->base.load) > 0 || !send_queue_is_empty(&self->queue) ||
         (atomic_load(&self->finished) ? streams : streams - self->idle_streams) > 0;
}

void framed_reset_slots(framed *self) {
  memset(self->slots, 0, sizeof self->slots);
  for (int i = 0; i < STATUS_PAGE_SLOTS; i++) self->free_slots[i] = (uint16_t)(STATUS_PAGE_SLOTS - 1 - i);
  self->free_count = STATUS_PAGE_SLOTS;
  self->thread_count = 0;
  self->orphan_count = 0;
  atomic_store(&self->base.answer_due_ns, INT64_MAX);
  self->idle_streams = 0;
}

void framed_add(framed *self, struct call *call) {
  call_list_append(&self->in_flight, call);
  if (call->finished == NULL) self->thread_count++;
}

void framed_remove(framed *self, struct call *call) {
  call_list_remove(&self->in_flight, call);
  if (call->finished == NULL) self->thread_count--;
  if (call->stream != NULL && !call->stream->is_attended) self->idle_streams--;
}

void framed_orphan(framed *self, struct call *call) {
  framed_slot *slot = &self->slots[call->id % STATUS_PAGE_SLOTS];
  framed_remove(self, call);
  if (self->settings.poison != NULL && !slot->is_stream && framed_may_have_run(self, call->id))
    slot->poison_key = call_poison_key(call, self->settings.poison); /* its handler may yet end its worker */
  slot->call = NULL;
  self->orphan_count++;
  atomic_store(&call->connection, NULL);
}

bool framed_release(framed *self, uint64_t id, framed_slot *ret_slot) {
  framed_slot *slot = &self->slots[id % STATUS_PAGE_SLOTS];
  if (id == 0 || slot->id != id) return false;
  *ret_slot = *slot;
  if (slot->call != NULL)
    framed_remove(self, slot->call);
  else if (--self->orphan_count == 0 && !self->handshake->has_frames)
    atomic_store(&self->base.answer_due_ns, INT64_MAX);
  atomic_fetch_sub(slot->is_stream ? &self->base.streams : &self->base.load, 1);
  *slot = (framed_slot){0};
  self->free_slots[self->free_count++] = (uint16_t)(id % STATUS_PAGE_SLOTS);
  return true;
}

bool framed_may_have_run(const framed *self, uint64_t id) {
  const framed_slot *slot = &self->slots[id % STATUS_PAGE_SLOTS];
  if (self->base.page != NULL) return status_page_started(self->base.page, slot->id);
  return self->has_started_frames ? slot->started : true;
}
