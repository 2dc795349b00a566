#include "roster.h"

#include <inttypes.h>
#include <stdlib.h>

#include "error.h"

enum { LOOK_NS = 250000000, RETRY_MS = 1000, JITTER_PERCENT = 10 };

/* ---- places ---- */

static roster_entry *make_place(roster *self, pyproc_error **reterr) {
  if (self->count == ROSTER_MAX)
    return error_set(reterr, PYPROC_E_RESOURCE_EXHAUSTED, "all %d places for workers are taken", ROSTER_MAX), NULL;
  roster_entry *entry = calloc(1, sizeof *entry);
  if (entry == NULL) return error_set(reterr, PYPROC_E_RESOURCE_EXHAUSTED, "out of memory"), NULL;
  worker_init(&entry->worker, self->shop);
  self->settings.place = self->count;
  entry->worker.connection = self->protocol->create(&self->settings, &worker_connection_owner, &entry->worker, reterr);
  if (entry->worker.connection == NULL) {
    free(entry);
    return NULL;
  }
  atomic_store(&entry->worker.connection->answer_due_ns, INT64_MAX);
  self->entries[self->count] = entry;
  self->connections[self->count++] = entry->worker.connection;
  admission_use(self->shop->admission, self->connections, self->count);
  return entry;
}

/* A place where nothing runs, nor shall. NULL with an error: there is no memory for another one. */
static roster_entry *find_spare(roster *self, pyproc_error **reterr) {
  for (int i = 0; i < self->count; i++) {
    const struct worker *worker = &self->entries[i]->worker;
    if (worker->state == WORKER_DOWN && !worker->is_wanted) return self->entries[i];
  }
  return make_place(self, reterr);
}

static void forget_editions(roster *self);

static int employ(roster *self, int index, roster_entry **ret_entry, pyproc_error **reterr) {
  pyproc_error *error = NULL;
  roster_entry *entry = find_spare(self, &error);
  if (entry == NULL) return error_give(reterr, error);
  worker_employ(&entry->worker, self->current, index);
  entry->recycle_ns = 0; /* to be set when it is ready */
  *ret_entry = entry;
  return PYPROC_OK;
}

int roster_open(roster *self, worker_shop *shop, const protocol *spoken, const connection_settings *settings,
                const char *python, pyproc_error **reterr) {
  *self = (roster){
      .shop = shop, .protocol = spoken, .settings = *settings, .first = {.options = shop->options, .python = python}};
  self->current = &self->first;
  int result = PYPROC_OK;
  for (int i = 0; i < (int)shop->options->workers && result >= 0; i++) {
    roster_entry *entry;
    result = employ(self, i, &entry, reterr);
    if (result >= 0) atomic_fetch_add(&self->shop->admission->workers, 1);
  }
  return result;
}

void roster_close(roster *self) {
  for (int i = 0; i < self->count; i++) {
    worker_clear(&self->entries[i]->worker);
    self->connections[i]->protocol->destroy(self->connections[i]);
    free(self->entries[i]);
  }
  self->count = 0;
  self->current = self->previous = NULL;
  forget_editions(self);
}

/* ---- successors ---- */

/* Up to a tenth lower, so that workers which were started together are not replaced together. */
static int64_t jitter(int64_t value) {
  int64_t span = value / 100 * JITTER_PERCENT;
  return span > 0 ? value - (int64_t)(platform_random64() % (uint64_t)span) : value;
}

static void draw_limits(roster_entry *entry, int64_t now_ns) {
  const struct options *options = entry->worker.edition->options;
  entry->recycle_calls = (uint64_t)jitter(options->recycle_calls);
  entry->recycle_rss_bytes = jitter(options->recycle_rss_bytes);
  entry->recycle_ns = options->recycle_age_ms > 0 ? now_ns + jitter(options->recycle_age_ms) * 1000000 : INT64_MAX;
}

static int begin_successor(roster *self, roster_entry *old, pyproc_error **reterr) {
  roster_entry *entry;
  int result = employ(self, old->worker.index, &entry, reterr);
  if (result < 0) return result;
  entry->worker.is_probe = true; /* new code may be what the breaker waits for */
  entry->predecessor = old;
  old->successor = entry;
  return PYPROC_OK;
}

static void part(roster_entry *entry) {
  entry->predecessor->successor = NULL;
  entry->predecessor = NULL;
}

/* Why it could not be started; the caller's. */
static pyproc_error *take_failure(struct worker *worker) {
  pyproc_error *error = worker->last_error;
  worker->last_error = NULL;
  return error != NULL ? error : error_new(PYPROC_E_UNAVAILABLE, "a worker did not start");
}

/* Whether the place has, or will have, a process that nobody is about to replace. */
static bool is_steady(const roster_entry *entry) {
  return entry->successor == NULL && entry->predecessor == NULL;
}

static bool is_waiting(const roster *self) {
  for (int i = 0; i < self->count; i++)
    if (self->entries[i]->predecessor != NULL) return true;
  return false;
}

/* Workers that nobody wants any more, and that have not ended yet. */
static int count_leaving(const roster *self) {
  int count = 0;
  for (int i = 0; i < self->count; i++)
    count += !self->entries[i]->worker.is_wanted && self->entries[i]->worker.state != WORKER_DOWN;
  return count;
}

static void end_change(roster *self, pyproc_error *error);

static bool is_reloading(const roster *self) {
  return self->change != NULL && self->change->kind == CHANGE_RELOAD;
}

/* What becomes of a successor and its predecessor. */
static void step_successor(roster *self, roster_entry *entry, int64_t now_ns) {
  struct worker *worker = &entry->worker;
  roster_entry *old = entry->predecessor;
  bool is_alone = old->worker.state == WORKER_DOWN || old->worker.state == WORKER_GONE;
  if (worker->state == WORKER_READY) {
    part(entry);
    self->replaced++;
    worker_tell(self->shop, old->worker.pid, PYPROC_EVENT_WORKER_RECYCLED, "replaced by a new worker", NULL);
    worker_dismiss(&old->worker, self->shop->options->drain_timeout_ms);
  } else if (worker->backoff.in_a_row > 0) {
    part(entry); /* the old one goes on */
    end_change(self, take_failure(worker));
    worker_dismiss(worker, 0);
    old->recycle_ns = now_ns + INT64_C(1000000) * RETRY_MS; /* a recycling is tried again */
  } else if (is_alone && !is_reloading(self)) {
    part(entry); /* it has died by itself, and this one takes its place as any other would */
    worker_dismiss(&old->worker, 0);
  }
}

/* ---- recycling ---- */

static bool is_due(const roster_entry *entry, int64_t now_ns, bool look) {
  const struct worker *worker = &entry->worker;
  if (!worker->is_wanted || worker->state != WORKER_READY) return false;
  if (now_ns >= entry->recycle_ns) return true;
  if (!look) return false;
  if (entry->recycle_calls > 0 && atomic_load(&worker->connection->good_calls) >= entry->recycle_calls) return true;
  return entry->recycle_rss_bytes > 0 && platform_process_rss(worker->pid) > entry->recycle_rss_bytes;
}

/* Returns when to look again. */
static int64_t recycle(roster *self, int64_t now_ns) {
  int64_t due = INT64_MAX;
  bool look = now_ns - self->looked_ns >= LOOK_NS, is_looking = false;
  bool is_busy = is_waiting(self) || self->change != NULL ||
                 count_leaving(self) >= atomic_load(&self->shop->admission->workers); /* they do not pile up */
  if (look) self->looked_ns = now_ns;
  for (int i = 0; i < self->count; i++) {
    roster_entry *entry = self->entries[i];
    if (!entry->worker.is_wanted || entry->worker.state != WORKER_READY) continue;
    if (entry->recycle_ns == 0) draw_limits(entry, now_ns);
    is_looking |= entry->recycle_calls > 0 || entry->recycle_rss_bytes > 0;
    if (!is_busy && is_due(entry, now_ns, look)) {
      pyproc_error *error = NULL;
      is_busy = begin_successor(self, entry, &error) >= 0;
      if (!is_busy) entry->recycle_ns = now_ns + INT64_C(1000000) * RETRY_MS;
      pyproc_error_free(error);
      due = 0; /* it is to be started */
    }
    if (!is_busy && entry->recycle_ns < due) due = entry->recycle_ns;
  }
  int64_t again = self->looked_ns + LOOK_NS;
  return is_looking && again < due ? again : due;
}

/* ---- changes ---- */

/* Editions that no process has, nor will be started with, are freed. */
static void forget_editions(roster *self) {
  for (worker_edition **at = &self->editions; *at != NULL;) {
    worker_edition *edition = *at;
    bool is_used = edition == self->current || edition == self->previous;
    for (int i = 0; i < self->count && !is_used; i++) {
      const struct worker *worker = &self->entries[i]->worker;
      is_used = worker->edition == edition && (worker->is_wanted || worker->state != WORKER_DOWN);
    }
    if (is_used) {
      at = &edition->next;
    } else {
      *at = edition->next;
      worker_edition_free(edition);
    }
  }
}

void roster_begin(roster *self, change *wanted) {
  self->change = wanted;
  self->replaced = 0;
  if (wanted->kind != CHANGE_RELOAD) return;
  self->previous = self->current;
  self->previous_revision = self->current->revision;
  if (wanted->edition != NULL) {
    wanted->edition->next = self->editions;
    self->editions = self->current = wanted->edition;
  }
  self->current->revision = ++self->revision;
}

/* As if the reload had not been tried. */
static void take_back(roster *self) {
  self->current = self->previous;
  self->current->revision = self->previous_revision;
}

static void end_change(roster *self, pyproc_error *error) {
  change *over = self->change;
  if (over == NULL) {
    pyproc_error_free(error);
    return;
  }
  if (error != NULL && over->kind == CHANGE_RELOAD) {
    if (self->replaced == 0)
      take_back(self);
    else
      error_append(error, "; %d of %d workers have been replaced", self->replaced,
                   atomic_load(&self->shop->admission->workers));
  }
  self->previous = NULL;
  self->change = NULL;
  self->added = NULL;
  over->error = error;
  atomic_store(&over->is_done, true); /* it is the caller's from here on */
}

void roster_abandon(roster *self, int code, const char *why) {
  if (self->change != NULL) end_change(self, error_new(code, "%s", why));
}

static bool is_old(const roster *self, const struct worker *worker) {
  return worker->edition != self->current || worker->revision != self->current->revision;
}

static roster_entry *find_old(const roster *self) {
  for (int i = 0; i < self->count; i++) {
    roster_entry *entry = self->entries[i];
    if (entry->worker.is_wanted && is_steady(entry) && is_old(self, &entry->worker)) return entry;
  }
  return NULL;
}

static bool is_index_taken(const roster *self, int index) {
  for (int i = 0; i < self->count; i++)
    if (self->entries[i]->worker.is_wanted && self->entries[i]->worker.index == index) return true;
  return false;
}

static pyproc_error *add_worker(roster *self) {
  int index = 0;
  pyproc_error *error = NULL;
  while (is_index_taken(self, index)) index++;
  if (employ(self, index, &self->added, &error) >= 0) {
    self->added->worker.is_probe = true;
    atomic_fetch_add(&self->shop->admission->workers, 1);
  }
  return error;
}

static void remove_worker(roster *self) {
  roster_entry *last = NULL;
  for (int i = 0; i < self->count; i++) {
    roster_entry *entry = self->entries[i];
    if (entry->worker.is_wanted && (last == NULL || entry->worker.index > last->worker.index)) last = entry;
  }
  worker_dismiss(&last->worker, self->shop->options->drain_timeout_ms);
  atomic_fetch_sub(&self->shop->admission->workers, 1);
}

/* The worker that was added last: whether it is still awaited. */
static bool awaits_added(roster *self, pyproc_error **ret_error) {
  roster_entry *added = self->added;
  if (added == NULL) return false;
  if (added->worker.state != WORKER_READY && added->worker.backoff.in_a_row == 0) return true;
  self->added = NULL;
  if (added->worker.state == WORKER_READY) return false;
  *ret_error = take_failure(&added->worker);
  worker_dismiss(&added->worker, 0);
  atomic_fetch_sub(&self->shop->admission->workers, 1);
  return false;
}

static void step_change(roster *self) {
  pyproc_error *error = NULL;
  roster_entry *old = NULL;
  if (self->change == NULL || is_waiting(self) || awaits_added(self, &error)) return;
  const change *wanted = self->change;
  int workers = atomic_load(&self->shop->admission->workers);
  if (error == NULL && wanted->kind == CHANGE_RELOAD) old = find_old(self);
  if (old != NULL)
    begin_successor(self, old, &error);
  else if (error == NULL && workers < wanted->workers)
    error = add_worker(self);
  else if (error == NULL && workers > wanted->workers)
    remove_worker(self);
  else if (error == NULL && count_leaving(self) > 0)
    return;
  else if (error == NULL) {
    if (wanted->kind == CHANGE_RELOAD) worker_tell(self->shop, 0, PYPROC_EVENT_RELOADED, "reloaded", NULL);
    end_change(self, NULL);
  }
  if (error != NULL) end_change(self, error);
}

int64_t roster_step(roster *self, int64_t now_ns) {
  for (int i = 0; i < self->count; i++)
    if (self->entries[i]->predecessor != NULL) step_successor(self, self->entries[i], now_ns);
  const change *before = self->change;
  int workers = atomic_load(&self->shop->admission->workers);
  bool waited = is_waiting(self);
  step_change(self);
  forget_editions(self);
  int64_t due = recycle(self, now_ns);
  bool moved = self->change != before || workers != atomic_load(&self->shop->admission->workers) ||
               (!waited && is_waiting(self));
  return moved ? 0 : due;
}
