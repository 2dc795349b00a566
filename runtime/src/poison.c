#include "poison.h"

#include <stdio.h>
#include <string.h>

/* ---- keys ---- */

static uint64_t rotate(uint64_t value, int bits) {
  return value << bits | value >> (64 - bits);
}

/* One step of MurmurHash3's 64-bit kind. */
static uint64_t mix(uint64_t hash, uint64_t word) {
  word = rotate(word * UINT64_C(0x87c37b91114253d5), 31) * UINT64_C(0x4cf5ad432745937f);
  return rotate(hash ^ word, 27) * 5 + UINT64_C(0x52dce729);
}

static uint64_t mix_bytes(uint64_t hash, const void *data, size_t size) {
  const unsigned char *at = data;
  uint64_t word;
  for (size_t left = size; left > 0;) {
    size_t part = left < sizeof word ? left : sizeof word;
    word = 0;
    memcpy(&word, at, part);
    hash = mix(hash, word);
    at += part;
    left -= part;
  }
  return mix(hash, size);
}

static uint64_t finish(uint64_t hash) {
  hash = (hash ^ hash >> 33) * UINT64_C(0xff51afd7ed558ccd);
  hash = (hash ^ hash >> 33) * UINT64_C(0xc4ceb9fe1a85ec53);
  return hash ^ hash >> 33;
}

uint64_t poison_key(const poison *self, const char *method, const void *body, size_t size) {
  uint64_t key = finish(mix_bytes(mix_bytes(self->seed, method, strlen(method)), body, size));
  return key != 0 ? key : 1;
}

/* ---- the table ---- */

void poison_init(poison *self, int64_t limit, int64_t rest_ms, uint64_t seed) {
  memset(self, 0, sizeof *self);
  self->limit = limit;
  self->rest_ns = rest_ms * 1000000;
  self->seed = seed;
  pthread_mutex_init(&self->lock, NULL);
}

void poison_destroy(poison *self) {
  pthread_mutex_destroy(&self->lock);
}

bool poison_is_armed(const poison *self) {
  return self != NULL && atomic_load_explicit(&self->count, memory_order_relaxed) > 0;
}

/* The lock is held here and below. */
static void forget(poison *self, poison_entry *entry) {
  *entry = (poison_entry){0};
  atomic_fetch_sub(&self->count, 1);
}

static void forget_old(poison *self, int64_t now_ns) {
  for (int i = 0; i < POISON_ENTRIES; i++)
    if (self->entries[i].key != 0 && now_ns - self->entries[i].killed_ns > POISON_MEMORY * self->rest_ns)
      forget(self, &self->entries[i]);
}

static poison_entry *find(poison *self, uint64_t key) {
  for (int i = 0; i < POISON_ENTRIES; i++)
    if (self->entries[i].key == key) return &self->entries[i];
  return NULL;
}

/* A free entry, or the one whose last kill is longest ago. */
static poison_entry *take(poison *self, uint64_t key) {
  poison_entry *oldest = &self->entries[0];
  for (int i = 1; i < POISON_ENTRIES && oldest->key != 0; i++)
    if (self->entries[i].key == 0 || self->entries[i].killed_ns < oldest->killed_ns) oldest = &self->entries[i];
  if (oldest->key == 0) atomic_fetch_add(&self->count, 1);
  *oldest = (poison_entry){.key = key};
  return oldest;
}

bool poison_blame(poison *self, uint64_t key, const char *why, int64_t now_ns) {
  if (self->limit <= 0 || key == 0) return false;
  pthread_mutex_lock(&self->lock);
  forget_old(self, now_ns);
  poison_entry *entry = find(self, key);
  if (entry == NULL) entry = take(self, key);
  entry->kills++;
  entry->killed_ns = now_ns;
  snprintf(entry->why, sizeof entry->why, "%s", why);
  bool is_refused = entry->kills >= self->limit;
  if (is_refused) entry->refused_until_ns = now_ns + self->rest_ns;
  pthread_mutex_unlock(&self->lock);
  return is_refused;
}

void poison_absolve(poison *self, uint64_t key) {
  if (!poison_is_armed(self) || key == 0) return;
  pthread_mutex_lock(&self->lock);
  poison_entry *entry = find(self, key);
  if (entry != NULL) forget(self, entry);
  pthread_mutex_unlock(&self->lock);
}

bool poison_refuses(poison *self, uint64_t key, int64_t now_ns, poison_refusal *ret_refusal) {
  if (!poison_is_armed(self) || key == 0) return false;
  pthread_mutex_lock(&self->lock);
  forget_old(self, now_ns);
  const poison_entry *entry = find(self, key);
  bool is_refused = entry != NULL && now_ns < entry->refused_until_ns;
  if (is_refused) {
    *ret_refusal = (poison_refusal){.kills = entry->kills, .left_ns = entry->refused_until_ns - now_ns};
    memcpy(ret_refusal->why, entry->why, sizeof ret_refusal->why);
  }
  pthread_mutex_unlock(&self->lock);
  return is_refused;
}
