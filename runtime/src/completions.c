#include "completions.h"

#include <poll.h>
#include <pyproc.h>

int completions_init(completions *self) {
  self->first = self->last = NULL;
  self->awake = self->signalled = false;
  atomic_init(&self->dispatcher, NULL);
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

/* The lock is held. */
static void signal_reader(completions *self) {
  if (self->signalled) return;
  self->signalled = true;
  wake_signal(&self->wake);
}

void completions_add(completions *self, completion *item) {
  item->next = NULL;
  pthread_mutex_lock(&self->lock);
  if (self->first == NULL)
    self->first = item;
  else
    self->last->next = item;
  self->last = item;
  if (!self->awake) signal_reader(self);
  pthread_mutex_unlock(&self->lock);
}

static completion *take_all(completions *self) {
  pthread_mutex_lock(&self->lock);
  completion *first = self->first;
  if (self->signalled && !atomic_load(&self->closing)) wake_drain(&self->wake);
  self->signalled = false;
  self->first = self->last = NULL;
  pthread_mutex_unlock(&self->lock);
  return first;
}

/* Whether the dispatching thread is going to look by itself; what is there when it no longer does makes the descriptor
 * readable. */
static void set_awake(completions *self, bool awake) {
  pthread_mutex_lock(&self->lock);
  self->awake = awake;
  if (!awake && self->first != NULL) signal_reader(self);
  pthread_mutex_unlock(&self->lock);
}

static void attend(completions *self, const completions_source *source) {
  set_awake(self, true);
  if (source != NULL) source->attend(source->argument);
}

static void leave(completions *self, const completions_source *source) {
  if (source != NULL) source->leave(source->argument);
  set_awake(self, false);
}

/* Helps for a while, where something is likely to come soon. */
static completion *help(completions *self, const completions_source *source, int64_t deadline_ns) {
  int64_t began = platform_now_ns(), now = began;
  completion *first = NULL;
  bool pays = spin_pays(source->spin);
  while (source->pump(source->argument) && (first = take_all(self)) == NULL && pays && now < deadline_ns &&
         now - began < source->spin->limit_ns && !atomic_load(&self->closing)) {
    (void)spin_pause(now - began, false);
    now = platform_now_ns();
  }
  if (first != NULL) spin_learn(source->spin, now - began);
  return first != NULL ? first : take_all(self);
}

static void block(completions *self, const completions_source *source, int64_t deadline_ns) {
  struct pollfd readable = {.fd = self->wake.read_fd, .events = POLLIN};
  int64_t began = platform_now_ns();
  leave(self, source);
  platform_poll(&readable, 1, deadline_ns);
  attend(self, source);
  if (source != NULL) spin_learn(source->spin, platform_now_ns() - began);
}

static completion *wait_for_some(completions *self, const completions_source *source, int64_t deadline_ns) {
  completion *first = take_all(self);
  while (first == NULL && !atomic_load(&self->closing)) {
    if (source != NULL) first = help(self, source, deadline_ns);
    if (first != NULL || platform_now_ns() >= deadline_ns) break;
    block(self, source, deadline_ns);
    first = take_all(self);
  }
  return first;
}

static int deliver(completion *item) {
  int count = 0;
  for (completion *next; item != NULL; item = next, count++) {
    next = item->next;
    item->deliver(item);
  }
  return count;
}

/* Identifies the calling thread. */
static const void *this_thread(void) {
  static _Thread_local const char mark;
  return &mark;
}

bool completions_is_dispatcher(const completions *self) {
  return atomic_load_explicit(&self->dispatcher, memory_order_relaxed) == this_thread();
}

int completions_dispatch(completions *self, const completions_source *source, int64_t deadline_ns) {
  if (atomic_exchange(&self->dispatching, true)) return PYPROC_E_FAILED_PRECONDITION;
  bool once = deadline_ns <= platform_now_ns();
  atomic_store(&self->dispatcher, this_thread());
  attend(self, source);
  int count = deliver(wait_for_some(self, source, deadline_ns));
  for (int more = count; more > 0 && source != NULL && !once && count < COMPLETIONS_MAX; count += more)
    more = deliver(help(self, source, INT64_MAX));
  atomic_store(&self->dispatcher, NULL);
  leave(self, source);
  bool is_last = count == 0 && atomic_load(&self->closing);
  atomic_store(&self->dispatching, false);
  return is_last ? PYPROC_E_UNAVAILABLE : count;
}

void completions_close(completions *self) {
  atomic_store(&self->closing, true);
  wake_signal(&self->wake);
}
