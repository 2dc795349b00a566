#include "completions.h"

#include <poll.h>
#include <pyproc.h>

int completions_init(completions *self) {
  self->first = self->last = NULL;
  atomic_init(&self->dispatching, false);
  atomic_init(&self->closing, false);
  if (wake_open(&self->wake) < 0) return -1;
  pthread_mutex_init(&self->lock, NULL);
  return 0;
}

void completions_destroy(completions *self) {
  wake_close(&self->wake);
  pthread_mutex_destroy(&self->lock);
}

int completions_fd(const completions *self) {
  return self->wake.read_fd;
}

void completions_add(completions *self, completion *item) {
  item->next = NULL;
  pthread_mutex_lock(&self->lock);
  if (self->first == NULL) {
    self->first = item;
    wake_signal(&self->wake);
  } else {
    self->last->next = item;
  }
  self->last = item;
  pthread_mutex_unlock(&self->lock);
}

static completion *take_all(completions *self) {
  pthread_mutex_lock(&self->lock);
  completion *first = self->first;
  if (first != NULL) wake_drain(&self->wake);
  self->first = self->last = NULL;
  pthread_mutex_unlock(&self->lock);
  return first;
}

static completion *wait_for_some(completions *self, int64_t deadline_ns) {
  completion *first;
  while ((first = take_all(self)) == NULL && !atomic_load(&self->closing) && platform_now_ns() < deadline_ns) {
    struct pollfd readable = {.fd = self->wake.read_fd, .events = POLLIN};
    platform_poll(&readable, 1, deadline_ns);
  }
  return first;
}

int completions_dispatch(completions *self, int64_t deadline_ns) {
  if (atomic_exchange(&self->dispatching, true)) return PYPROC_E_FAILED_PRECONDITION;
  completion *item = wait_for_some(self, deadline_ns);
  int count = 0;
  for (completion *next; item != NULL; item = next, count++) {
    next = item->next;
    item->deliver(item);
  }
  bool is_last = count == 0 && atomic_load(&self->closing);
  atomic_store(&self->dispatching, false);
  return is_last ? PYPROC_E_UNAVAILABLE : count;
}

void completions_close(completions *self) {
  atomic_store(&self->closing, true);
  wake_signal(&self->wake);
}
