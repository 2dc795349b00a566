#include "framed.h"
#include "health.h"
#include "wire/frame.h"

void framed_ping(struct connection *base, uint64_t number) {
  framed *self = framed_of(base);
  if (!base->answers_pings) return;
  pthread_mutex_lock(&self->lock);
  if (framed_is_open(self) && framed_send_control(self, WIRE_PING, 0, number, NULL, 0)) {
    atomic_store(&base->ping, number);
    framed_flush(self);
  }
  pthread_mutex_unlock(&self->lock);
  if (atomic_load(&self->write_blocked)) framed_nudge(base);
}

/* Which calls run is told by their slots: threads have records in the page, tasks have none. The lock is held. */
static void look_at_slots(const framed *self, health_facts *facts) {
  for (int i = 0; i < STATUS_PAGE_SLOTS && !facts->runs; i++) {
    const framed_slot *slot = &self->slots[i];
    if (slot->id == 0) continue;
    if (status_page_started(self->base.page, slot->id))
      facts->runs = true;
    else
      facts->waits = true;
  }
}

void framed_look(struct connection *base, health_facts *ret_facts) {
  framed *self = framed_of(base);
  *ret_facts = (health_facts){.answers_pings = base->answers_pings, .pong = atomic_load(&base->pong)};
  pthread_mutex_lock(&self->lock);
  const status_page *page = base->page;
  if (page != NULL) {
    ret_facts->has_page = true;
    ret_facts->beats = atomic_load(&page->beats);
    ret_facts->turns = atomic_load(&page->loop_counter);
    ret_facts->replies = atomic_load(&base->good_calls);
    look_at_slots(self, ret_facts);
  }
  pthread_mutex_unlock(&self->lock);
}
