/*
 * Leader/follower without a thread of our own: of the callers that wait for one worker, one has the reader's role and
 * dispatches for all.
 *
 * While several calls are in flight nobody keeps the role: each waiting thread takes it, reads once without blocking,
 * lets go, and yields, so that woken callers run at once. A lone caller keeps the role and spins. Both give up after the
 * gauge's limit, or at once where waiting has lately taken longer than that, and block: one in the channel, the others
 * in the lot.
 */
#include "framed.h"

enum {
  YIELDS_MIN = 4,
  CROWDED_NS = 1000000,
  DEADLINE_NEAR_NS = 20000000, /* too near for a wait that only the worker, and a tick of the kernel's clock, end */
  LOOKS_PER_CLOCK = 4,
  CLEAR_EVERY_NS = 20000,      /* one caller at a time leaves the worker's processor */
  CROWDED_REST_NS = 5000000,   /* none does, once others want the processors that it would go to */
  CANNOT_CLEAR_NS = 1000000000 /* until it is tried again */
};

/* A caller in framed_progress. */
typedef struct waiting {
  framed *self;
  call_wait *wait;
} waiting;

static bool is_settled(const waiting *w) {
  return call_wait_is_over(w->wait, &w->self->base);
}

/* Whether a caller that is about to sleep has something to do after all. */
static bool is_needed(void *argument) {
  const waiting *w = argument;
  return is_settled(w) ||
         (atomic_load(&w->self->awake) == 0 && !atomic_load(&w->self->reading) && framed_is_open(w->self));
}

bool framed_take_reading(framed *self) {
  return !atomic_load_explicit(&self->reading, memory_order_relaxed) && !atomic_exchange(&self->reading, true);
}

/* Has the supervisor read from now on. The lock keeps the channel. */
static void watch(framed *self) {
  bool is_blocked = atomic_load(&self->write_blocked), there_is = false;
  pthread_mutex_lock(&self->lock);
  bool for_write = is_blocked && self->channel != NULL && self->channel->ops->polls_room;
  pthread_mutex_unlock(&self->lock);
  if (!self->base.owner_ops->watch(self->base.owner, for_write)) return;
  pthread_mutex_lock(&self->lock);
  if (self->channel != NULL) there_is = self->channel->ops->arm(self->channel, is_blocked);
  pthread_mutex_unlock(&self->lock);
  if (there_is) self->base.owner_ops->pump(self->base.owner);
}

void framed_hand_over(framed *self, const struct call *mine) {
  if (atomic_load(&self->awake) > 0 || atomic_load(&self->reading) || !framed_is_open(self) ||
      (atomic_load(&self->base.load) == 0 && atomic_load(&self->base.streams) == 0 && !framed_awaits_pong(self)))
    return;
  pthread_mutex_lock(&self->lock);
  struct call *other = self->thread_count > 0 ? self->in_flight.first : NULL;
  while (other != NULL && (other == mine || other->finished != NULL)) other = other->next;
  lot_waiter *waiter = other != NULL ? &other->waiter : self->stream_waits != NULL ? self->stream_waits->waiter : NULL;
  uint32_t bit = waiter != NULL ? lot_waiter_bits(waiter) : 0;
  bool owes = framed_owes_others(self);
  pthread_mutex_unlock(&self->lock);
  if (bit != 0) lot_wake(self->settings.lot, bit);
  if (owes) watch(self);
}

void framed_leave_reading(framed *self, const struct call *mine) {
  atomic_store(&self->reading, false);
  framed_hand_over(self, mine);
}

void framed_nudge(struct connection *base) {
  framed *self = framed_of(base);
  if (!atomic_load(&self->blocked)) return;
  wake_signal(&self->wake);
  atomic_store(&self->nudged, true); /* after the signal: none stays behind that nobody drains */
}

static void write_if_blocked(framed *self) {
  if (!atomic_load_explicit(&self->write_blocked, memory_order_relaxed)) return;
  pthread_mutex_lock(&self->lock);
  framed_flush(self);
  pthread_mutex_unlock(&self->lock);
}

/* Whether the worker is on this thread's processor; it is told where we are. */
static bool shares_cpu(framed *self) {
  return self->base.page != NULL &&
         status_page_meet(&self->base.page->host_cpu, &self->base.page->worker_cpu, platform_current_cpu());
}

/* Blocks until something happens on the channel, or somebody nudges. The reader's role is held. */
static void block(const waiting *w) {
  framed *self = w->self;
  int also[CHANNEL_ALSO_MAX] = {self->wake.read_fd};
  atomic_store(&self->blocked, true);
  int logs = self->base.owner_ops->logs(self->base.owner, also + 1);
  if (!is_settled(w) && framed_is_open(self))
    self->channel->ops->wait(self->channel, atomic_load(&self->write_blocked), also, 1 + logs, w->wait->deadline_ns);
  atomic_store(&self->blocked, false);
  if (atomic_exchange(&self->nudged, false)) wake_drain(&self->wake);
  if (logs > 0) self->base.owner_ops->drain(self->base.owner);
}

/* Looks again and again until something was read, or it has taken too long. Returns whether something was. `*now` is
 * when it began, then about when it ended. The reader's role is held. */
static bool spin(const waiting *w, int64_t *now) {
  framed *self = w->self;
  int64_t began = *now;
  bool shared = shares_cpu(self);
  for (int looks = 1; *now - began < self->spin.limit_ns && !is_settled(w) && framed_is_open(self); looks++) {
    write_if_blocked(self);
    if (framed_pump(self, w->wait->call, *now) > 0) return true;
    /* The clock takes as long as a look into shared memory. */
    if (!spin_pause(*now - began, shared) || looks % LOOKS_PER_CLOCK == 0) *now = platform_now_ns();
  }
  return is_settled(w);
}

/* Whether a wait may begin in the channel's read, where nobody can nudge: what is asked of us meanwhile comes that much
 * later. On one processor it is better to be slower than the worker, which then finds the next request without sleeping. */
static bool may_block_in_read(const waiting *w, int64_t now) {
  framed *self = w->self;
  return !atomic_load(&self->write_blocked) && atomic_load_explicit(&self->base.streams, memory_order_relaxed) == 0 &&
         w->wait->deadline_ns - now > DEADLINE_NEAR_NS && !shares_cpu(self) && !is_settled(w) && framed_is_open(self);
}

/* Waits, and reads. Sets *now. The reader's role is held. */
static void block_and_read(const waiting *w, bool *in_read, int64_t *now) {
  framed *self = w->self;
  write_if_blocked(self);
  *in_read = *in_read && may_block_in_read(w, *now);
  if (*in_read) {
    *in_read = framed_pump_blocking(self, w->wait->call, now) > 0;
    return;
  }
  /* Who never spins finds nothing yet, and a look at a socket is a system call. */
  bool looks_first = self->spin.limit_ns > 0 || !self->channel->ops->polls_room;
  if (!looks_first || framed_pump(self, w->wait->call, *now) == 0) block(w);
  *now = platform_now_ns();
  if (!looks_first) framed_pump(self, w->wait->call, *now);
}

/* Has the reader's role until its own call is settled. */
static void lead(const waiting *w) {
  framed *self = w->self;
  int64_t began = platform_now_ns();
  bool in_read = true;
  while (!is_settled(w) && framed_is_open(self) && began < w->wait->deadline_ns) {
    int64_t now = began;
    bool spun = spin_pays(&self->spin) && spin(w, &now);
    if (!spun) block_and_read(w, &in_read, &now);
    spin_learn(&self->spin, now - began);
    began = now;
  }
}

/* Whether this thread is on the processor where the worker wants to run, and there are others for both. The reader's role
 * is held, which keeps the page. */
static bool is_in_the_way(const framed *self) {
  const _Atomic int *workers = self->settings.workers_ready;
  if (workers == NULL || atomic_load_explicit(workers, memory_order_relaxed) * 2 > self->settings.cpu_count)
    return false;
  return framed_is_open(self) && self->base.page != NULL &&
         status_page_is_worker_at(self->base.page, platform_current_cpu());
}

/* A caller that comes back in vain to the worker's processor, and only yields there, keeps the worker from running: it
 * goes elsewhere. The kernel, which spreads threads evenly, sends somebody else there every few milliseconds. */
static void keep_clear(framed *self, int64_t now) {
  int64_t last = atomic_load_explicit(&self->cleared_ns, memory_order_relaxed);
  if (now - last < CLEAR_EVERY_NS || !atomic_compare_exchange_strong(&self->cleared_ns, &last, now)) return;
  if (!platform_leave_cpu()) atomic_store(&self->cleared_ns, now + CANNOT_CLEAR_NS);
}

/* Somebody else wants the processor to which callers go. Where it is the worker's, that is the worker. */
static void rest_from_clearing(framed *self, int64_t now) {
  if (!framed_take_reading(self)) return;
  if (!is_in_the_way(self) && atomic_load(&self->cleared_ns) < now)
    atomic_store(&self->cleared_ns, now + CROWDED_REST_NS);
  atomic_store(&self->reading, false);
}

/* One turn of a caller among others. Returns whether its call is settled. */
static bool take_turn(const waiting *w, int turns, int64_t now) {
  framed *self = w->self;
  bool clears = false;
  if (!is_settled(w)) {
    /* Those whose replies are there go first: what they bring is written with ours. */
    bool others_first = turns == 0 && atomic_load_explicit(&self->resuming, memory_order_relaxed) > 0;
    if (!others_first) framed_flush_all(&self->base);
    if (!others_first && framed_take_reading(self)) {
      write_if_blocked(self);
      framed_pump(self, w->wait->call, now);
      clears = turns > 0 && is_in_the_way(self);
      atomic_store(&self->reading, false);
    }
  }
  if (is_settled(w)) return true;
  if (clears) keep_clear(self, now);
  return false;
}

/* Takes turns with the other callers. Returns true when the call is settled. */
static bool take_turns(const waiting *w) {
  spin_gauge *spin = &w->self->spin;
  int64_t began = platform_now_ns(), now = began;
  for (int turns = 0; turns < YIELDS_MIN || now - began < spin->limit_ns; turns++) {
    int64_t before = now;
    if (take_turn(w, turns, now)) {
      spin_paid(spin);
      return true;
    }
    platform_yield();
    now = platform_now_ns();
    if (now - before < CROWDED_NS) continue;
    spin_learn(spin, now - before); /* others want the processor: to yield is to give it away */
    rest_from_clearing(w->self, now);
    break;
  }
  return is_settled(w);
}

/* Several calls are in flight, or were, and their callers wait to run: whoever took itself for a lone caller would leave
 * them no time until the kernel did. */
static bool may_take_turns(const framed *self) {
  return atomic_load_explicit(&self->base.load, memory_order_relaxed) +
             atomic_load_explicit(&self->base.streams, memory_order_relaxed) +
             atomic_load_explicit(&self->resuming, memory_order_relaxed) >
         1;
}

/* Sleeps until the call is settled, or somebody has to read and nobody else is awake. */
static void sleep_in_lot(waiting *w) {
  atomic_fetch_sub(&w->self->awake, 1);
  lot_sleep(w->self->settings.lot, w->wait->waiter, is_needed, w, w->wait->deadline_ns);
  atomic_fetch_add(&w->self->awake, 1);
}

/* Of a call the table knows whether a thread waits for it; of a stream this does. */
static void add_stream_wait(framed *self, call_wait *wait) {
  pthread_mutex_lock(&self->lock);
  wait->previous = NULL;
  wait->next = self->stream_waits;
  if (wait->next != NULL) wait->next->previous = wait;
  self->stream_waits = wait;
  pthread_mutex_unlock(&self->lock);
}

static void remove_stream_wait(framed *self, call_wait *wait) {
  pthread_mutex_lock(&self->lock);
  if (wait->previous != NULL)
    wait->previous->next = wait->next;
  else
    self->stream_waits = wait->next;
  if (wait->next != NULL) wait->next->previous = wait->previous;
  pthread_mutex_unlock(&self->lock);
}

void framed_progress(struct connection *base, call_wait *wait) {
  waiting w = {.self = framed_of(base), .wait = wait};
  framed *self = w.self;
  bool is_stream = wait->call->stream != NULL;
  if (is_stream) add_stream_wait(self, wait);
  atomic_fetch_add(&self->awake, 1);
  while (!is_settled(&w)) {
    if (may_take_turns(self) && spin_pays(&self->spin) && take_turns(&w)) break;
    framed_flush_all(&self->base);
    if (framed_is_open(self) && framed_take_reading(self)) {
      lead(&w);
      atomic_store(&self->reading, false);
    } else if (!is_settled(&w)) {
      sleep_in_lot(&w);
    }
    if (!is_settled(&w) && platform_now_ns() >= wait->deadline_ns) break;
  }
  if (is_stream) remove_stream_wait(self, wait);
  if (atomic_fetch_sub(&self->awake, 1) == 1) framed_hand_over(self, is_stream ? NULL : wait->call);
}
