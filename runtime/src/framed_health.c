#include "framed.h"
#include "health.h"
#include "poison.h"
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

/* The lock is held. */
static uint64_t key_of(const framed *self, const framed_slot *slot) {
  return slot->call != NULL ? call_poison_key(slot->call, self->settings.poison) : slot->poison_key;
}

int framed_suspects(struct connection *base, uint64_t *keys, int max) {
  framed *self = framed_of(base);
  int count = 0;
  if (self->settings.poison == NULL) return 0;
  pthread_mutex_lock(&self->lock);
  uint64_t stuck_id = base->page != NULL ? atomic_load(&base->page->stuck_id) : 0;
  for (int i = 0; i < STATUS_PAGE_SLOTS && count < max; i++) {
    const framed_slot *slot = &self->slots[i];
    if (slot->id == 0 || slot->is_stream || (stuck_id != 0 && slot->id != stuck_id)) continue;
    if (framed_may_have_run(self, slot->id) && (keys[count] = key_of(self, slot)) != 0) count++;
  }
  pthread_mutex_unlock(&self->lock);
  return count;
}
