#include "guard.h"

#include <inttypes.h>

#include "error.h"

enum { LOOK_NS = 50000000 };

static struct worker *worker_at(const roster *places, int index) {
  return &places->entries[index]->worker;
}

static void tell(worker_shop *shop, int kind, int level, const char *text) {
  log_write(shop->log, level, 0, "%s", text);
  worker_tell(shop, 0, kind, text, NULL);
}

/* Whether one is ready that has answered a call. */
static bool is_answering(const roster *places) {
  for (int i = 0; i < places->count; i++) {
    const struct worker *worker = worker_at(places, i);
    if (worker->state == WORKER_READY && atomic_load(&worker->connection->good_calls) > 0) return true;
  }
  return false;
}

static bool is_any_ready(const roster *places) {
  for (int i = 0; i < places->count; i++)
    if (worker_at(places, i)->state == WORKER_READY) return true;
  return false;
}

static void open_breaker(worker_shop *shop, const pyproc_error *cause) {
  pyproc_error *error = error_copy(cause);
  error_set_code(error, PYPROC_E_UNAVAILABLE);
  error_prefix(error,
               "the pool's breaker is open after %d failures of workers in a row (option breaker_failures); the "
               "last: ",
               shop->breaker.in_a_row);
  tell(shop, PYPROC_EVENT_BREAKER_OPEN, PYPROC_LOG_ERROR, pyproc_error_message(error));
  admission_break(shop->admission, error);
}

/* One worker that was held back, where none may be started already. */
static void choose_probe(const roster *places) {
  struct worker *chosen = NULL;
  for (int i = 0; i < places->count; i++) {
    struct worker *worker = worker_at(places, i);
    if (!worker->is_wanted) continue;
    if (worker->state != WORKER_DOWN || worker->is_probe) return;
    if (chosen == NULL || worker->index < chosen->index) chosen = worker;
  }
  if (chosen == NULL) return;
  chosen->is_probe = true;
  chosen->is_held = true;
  worker_release(chosen);
}

static void try_one(worker_shop *shop, const roster *places) {
  tell(shop, PYPROC_EVENT_BREAKER_HALF_OPEN, PYPROC_LOG_WARNING, "the pool's breaker is half open: a worker is tried");
  choose_probe(places);
}

static void close_breaker(worker_shop *shop, const roster *places) {
  admission_break(shop->admission, NULL);
  for (int i = 0; i < places->count; i++) {
    worker_at(places, i)->is_probe = false;
    worker_release(worker_at(places, i));
  }
  tell(shop, PYPROC_EVENT_BREAKER_CLOSED, PYPROC_LOG_WARNING, "the pool's breaker is closed: a worker has answered");
}

/* Takes back what workers say of their failures. Returns the last one's error, which stays the worker's, or NULL. */
static const pyproc_error *take_failures(worker_shop *shop, roster *places, bool answering, int64_t now_ns,
                                         bool *ret_opened) {
  const pyproc_error *cause = NULL;
  for (int i = 0; i < places->count; i++) {
    struct worker *worker = worker_at(places, i);
    if (!worker->has_failed) continue;
    worker->has_failed = worker->is_probe = false;
    if (answering || worker->last_error == NULL) continue;
    cause = worker->last_error;
    *ret_opened |= breaker_failed(&shop->breaker, now_ns);
  }
  return cause;
}

int64_t guard_step(worker_shop *shop, roster *places, int64_t now_ns) {
  breaker *self = &shop->breaker;
  bool opened = false, answering = is_answering(places);
  if (answering && breaker_answered(self)) close_breaker(shop, places);
  const pyproc_error *cause = take_failures(shop, places, answering, now_ns, &opened);
  if (opened) open_breaker(shop, cause);
  if (breaker_wait(self, now_ns)) {
    try_one(shop, places);
    return 0;
  }
  if (self->state == BREAKER_HALF_OPEN && is_any_ready(places)) admission_break(shop->admission, NULL);
  if (self->state == BREAKER_HALF_OPEN) return now_ns + LOOK_NS;
  return self->state == BREAKER_OPEN ? self->due_ns : INT64_MAX;
}

void guard_try(worker_shop *shop, roster *places) {
  if (shop->breaker.state != BREAKER_OPEN) return;
  shop->breaker.due_ns = 0;
  if (breaker_wait(&shop->breaker, 1)) try_one(shop, places);
}
