#include "admission.h"

#include <inttypes.h>

#include "error.h"
#include "poison.h"

enum {
  ATTEMPTS_MAX = 5,          /* workers that may die before they have started the call */
  TURN_EVERY = 64,           /* calls, and */
  TURN_EVERY_NS = 100000000, /* after so long, one goes to another worker than the first */
  QUICK_NS = 200000,         /* between two answers, of which it may be tried whether fewer workers give more */
  STUCK_NS = 1000000         /* without an answer: what the worker runs is not quick */
};

void admission_init(struct admission *self, struct lot *lot, int64_t queue_limit, int max_in_flight, int max_streams) {
  *self = (struct admission){
      .lot = lot, .queue_limit = queue_limit, .max_in_flight = max_in_flight, .max_streams = max_streams};
  const int cpu_count = platform_cpu_count();
  self->few = cpu_count > 1 ? cpu_count / 2 : 1;
  self->turned_ns = platform_now_ns();
  trial_init(&self->narrow);
  pthread_mutex_init(&self->lock, NULL);
}

void admission_destroy(struct admission *self) {
  pyproc_error_free(self->broken);
  pthread_mutex_destroy(&self->lock);
}

void admission_use(struct admission *self, struct connection **connections, int count) {
  pthread_mutex_lock(&self->lock);
  if (self->connections != connections) self->connections = connections; /* others read it without the lock */
  atomic_store(&self->count, count);
  pthread_mutex_unlock(&self->lock);
}

/* It is there, and does not stop. */
static bool takes_calls(const struct connection *candidate) {
  return atomic_load(&candidate->state) == CONNECTION_OPEN && atomic_load(&candidate->capacity) >= 1;
}

static int room_of(const struct admission *self, const struct connection *candidate) {
  if (!takes_calls(candidate)) return 0;
  int limit = atomic_load(&candidate->capacity) + atomic_load(&candidate->prefetch);
  return (limit < self->max_in_flight ? limit : self->max_in_flight) - atomic_load(&candidate->load);
}

static int stream_room_of(const struct admission *self, const struct connection *candidate) {
  return !takes_calls(candidate) ? 0 : self->max_streams - atomic_load(&candidate->streams);
}

/* Of idle workers the first is busy most often, so that few calls keep few workers awake, with warm caches. But none is left
 * unused: one that has not answered yet comes first, and now and then the search begins at another one. */
static int first_of(struct admission *self, int64_t now_ns) {
  if (self->count == 1 || ++self->searches < TURN_EVERY || now_ns - self->turned_ns < TURN_EVERY_NS) return 0;
  self->searches = 0;
  self->turned_ns = now_ns;
  return 1 + (int)(++self->turn % (uint32_t)(self->count - 1));
}

static uint64_t count_answers(const struct admission *self) {
  uint64_t count = 0;
  for (int i = 0; i < self->count; i++)
    count += atomic_load_explicit(&self->connections[i]->good_calls, memory_order_relaxed);
  return count;
}

static bool is_quick(const struct connection *candidate, int64_t now_ns) {
  if (atomic_load_explicit(&candidate->load, memory_order_relaxed) == 0) return true;
  return atomic_load_explicit(&candidate->quick_ns, memory_order_relaxed) <= QUICK_NS &&
         now_ns - atomic_load_explicit(&candidate->progress_ns, memory_order_relaxed) <= STUCK_NS;
}

/* Of the first workers, as many as there are processors for beside those that call, the one with the least to do; NULL
 * where that is not the better way for now, or one of them is not quick, or has no room. Where calls are short, more workers
 * than that only take time from these. One that is short as a rule may be long for once: the supervisor sees to those behind
 * it. The lock is held. */
static struct connection *choose_of_few(struct admission *self, int64_t now_ns) {
  struct connection *best = NULL;
  int best_load = 0;
  if (atomic_load_explicit(&self->workers, memory_order_relaxed) <= self->few) return NULL;
  if (trial_is_due(&self->narrow, now_ns)) trial_tell(&self->narrow, (int64_t)count_answers(self), now_ns);
  if (!self->narrow.way) return NULL;
  for (int i = 0, seen = 0; i < self->count && seen < self->few; i++) {
    struct connection *candidate = self->connections[i];
    if (!takes_calls(candidate)) continue;
    seen++;
    if (room_of(self, candidate) <= 0 || !is_quick(candidate, now_ns)) return NULL;
    const int load = atomic_load(&candidate->load);
    if (best != NULL && load >= best_load) continue;
    best = candidate;
    best_load = load;
  }
  if (best != NULL && best_load >= atomic_load(&best->capacity)) best->owner_ops->crowded(best->owner);
  return best;
}

/* The open connection with the least to do that has room, or NULL. A stream counts like a call. The lock is held. */
static struct connection *choose(struct admission *self, bool for_stream, int64_t now_ns) {
  int best_load = 0, first = first_of(self, now_ns);
  struct connection *best = for_stream || first > 0 ? NULL : choose_of_few(self, now_ns);
  if (best != NULL) return best;
  for (int i = 0; i < self->count; i++) {
    struct connection *candidate = self->connections[(first + i) % self->count];
    int load = atomic_load(&candidate->load) + atomic_load(&candidate->streams);
    bool is_new = load == 0 && atomic_load(&candidate->good_calls) == 0;
    if (best != NULL && load >= best_load && !is_new) continue;
    if ((for_stream ? stream_room_of(self, candidate) : room_of(self, candidate)) <= 0) continue;
    best = candidate;
    best_load = load;
    if (is_new) break;
  }
  return best;
}

static int attempts_of(const struct call *call) {
  return call->attempts - call->attempts_before;
}

static call_list *queue_of(struct admission *self, const struct call *call) {
  return call->stream != NULL ? &self->stream_queue : &self->queue;
}

static void put_into_queue(struct admission *self, struct call *call, bool in_front) {
  if (in_front)
    call_list_prepend(queue_of(self, call), call);
  else
    call_list_append(queue_of(self, call), call);
  call->queued = true;
  call->is_put_off = false;
  call->now_ns = 0;
  atomic_fetch_add(&self->queued, 1);
}

static void take_from_queue(struct admission *self, struct call *call) {
  call_list_remove(queue_of(self, call), call);
  call->queued = false;
  atomic_fetch_sub(&self->queued, 1);
}

/* Finds a connection, or a place in the queue (*ret_connection NULL). The lock is held. */
static int find_place(struct admission *self, struct call *call, struct connection **ret_connection,
                      pyproc_error **reterr) {
  *ret_connection = NULL;
  if (self->closed) return error_set(reterr, PYPROC_E_UNAVAILABLE, "the pool is being closed");
  if (self->broken != NULL) return error_give(reterr, error_copy(self->broken));
  const int64_t now_ns = call->now_ns != 0 ? call->now_ns : platform_now_ns();
  if (queue_of(self, call)->first == NULL) *ret_connection = choose(self, call->stream != NULL, now_ns);
  if (*ret_connection != NULL) return PYPROC_OK;
  if (atomic_load(&self->queued) >= self->queue_limit)
    return error_set(reterr, PYPROC_E_RESOURCE_EXHAUSTED,
                     "all workers are busy and %" PRId64 " calls wait already (option queue_limit)", self->queue_limit);
  put_into_queue(self, call, false);
  return PYPROC_OK;
}

/* Why the call is not to reach a worker: its request has killed too many. NULL: it may. */
static pyproc_error *refusal_of(const struct admission *self, struct call *call) {
  poison_refusal refusal;
  if (!poison_is_armed(self->poison) || call->stream != NULL) return NULL;
  if (!poison_refuses(self->poison, call_poison_key(call, self->poison), platform_now_ns(), &refusal)) return NULL;
  return error_new(PYPROC_E_FAILED_PRECONDITION,
                   "this request to %s is refused: it has killed %" PRId64 " workers, one after the other (option "
                   "poison_limit); it may be tried again in %" PRId64 " ms (option poison_rest_ms); the last: %s",
                   call->method.name, refusal.kills, refusal.left_ns / 1000000 + 1, refusal.why);
}

void admission_absolve(struct admission *self, struct call *call) {
  if (poison_is_armed(self->poison) && call->stream == NULL)
    poison_absolve(self->poison, call_poison_key(call, self->poison));
}

static int enter(struct admission *self, struct call *call, pyproc_error **reterr) {
  for (;;) {
    struct connection *chosen;
    pthread_mutex_lock(&self->lock);
    int result = find_place(self, call, &chosen, reterr);
    pthread_mutex_unlock(&self->lock);
    if (result < 0) return result;
    if (chosen == NULL) {
      admission_dispatch(self); /* room may have appeared while there was no queue to look at */
      return PYPROC_OK;
    }
    connection_start started = chosen->protocol->start(chosen, call);
    if (started != CONNECTION_CLOSED && started != CONNECTION_FULL) return PYPROC_OK;
  }
}

int admission_enter(struct admission *self, struct call *call, pyproc_error **reterr) {
  if (call->stream == NULL) {
    pyproc_error *refusal = refusal_of(self, call);
    return refusal != NULL ? error_give(reterr, refusal) : enter(self, call, reterr);
  }
  int workers = atomic_load(&self->workers);
  int64_t places = (int64_t)workers * self->max_streams;
  int result = PYPROC_OK;
  if (atomic_fetch_add(&self->open_streams, 1) >= places)
    result =
        error_set(reterr, PYPROC_E_RESOURCE_EXHAUSTED,
                  "%" PRId64 " streams are open, as many as %d workers may have (option max_streams)", places, workers);
  if (result >= 0) result = enter(self, call, reterr);
  if (result < 0) admission_leave_stream(self);
  return result;
}

void admission_leave_stream(struct admission *self) {
  atomic_fetch_sub(&self->open_streams, 1);
}

static int give_up(struct admission *self, struct call *call, int code, bool at_once) {
  int result = -1;
  pthread_mutex_lock(&self->lock);
  struct connection *connection = atomic_load(&call->connection);
  if (atomic_load(&call->done)) {
    result = -1;
  } else if (call->queued) {
    take_from_queue(self, call);
    result = 0;
  } else if (connection != NULL) {
    const protocol *ops = connection->protocol;
    result = (at_once || ops->ask == NULL ? ops->withdraw : ops->ask)(connection, call, code);
  }
  pthread_mutex_unlock(&self->lock);
  admission_dispatch(self); /* a call that was never written leaves room */
  return result;
}

int admission_withdraw(struct admission *self, struct call *call, int code) {
  return give_up(self, call, code, true);
}

int admission_ask(struct admission *self, struct call *call, int code) {
  return give_up(self, call, code, false);
}

static void flush(struct connection *connection) {
  if (connection != NULL && connection->protocol->flush != NULL) connection->protocol->flush(connection);
}

/* Starts what waits in one of the queues, and writes to each worker what it got with one write. The lock is held. Returns
 * the bits for lot_wake. */
static uint32_t dispatch_queue(struct admission *self, const call_list *queue, bool is_streams) {
  uint32_t bits = 0;
  struct connection *last = NULL;
  for (struct connection *chosen;
       queue->first != NULL && (chosen = choose(self, is_streams, platform_now_ns())) != NULL; last = chosen) {
    struct call *call = queue->first;
    uint32_t bit = call->finished == NULL || call->stream != NULL ? call->waiter.bit : 0;
    take_from_queue(self, call);
    if (chosen != last) flush(last);
    pyproc_error *refusal = refusal_of(self, call); /* since it was queued */
    if (refusal != NULL) {
      bits |= call_fail(call, refusal, false);
      continue;
    }
    call->is_put_off = true;
    connection_start started = chosen->protocol->start(chosen, call);
    if (started == CONNECTION_CLOSED || started == CONNECTION_FULL) put_into_queue(self, call, true);
    if (started == CONNECTION_TAKEN) bits |= bit; /* it may have to read for itself there */
  }
  flush(last);
  return bits;
}

void admission_dispatch(struct admission *self) {
  if (atomic_load(&self->queued) == 0) return;
  pthread_mutex_lock(&self->lock);
  uint32_t bits = dispatch_queue(self, &self->queue, false);
  bits |= dispatch_queue(self, &self->stream_queue, true);
  pthread_mutex_unlock(&self->lock);
  lot_wake(self->lot, bits);
}

void admission_attend(struct admission *self) {
  atomic_fetch_add(&self->attendants, 1);
}

bool admission_pump(struct admission *self) {
  int count = atomic_load(&self->count);
  bool any = false;
  for (int i = 0; i < count; i++) {
    struct connection *one = self->connections[i];
    if (one->protocol->flush == NULL || atomic_load(&one->state) != CONNECTION_OPEN) continue;
    if (atomic_load(&one->load) + atomic_load(&one->streams) == 0) continue;
    any = true;
    one->protocol->flush(one); /* while another thread reads, pump does nothing */
    one->protocol->pump(one);
  }
  return any;
}

void admission_leave(struct admission *self) {
  if (atomic_fetch_sub(&self->attendants, 1) == 1) admission_pump(self); /* which tells the supervisor what is owed */
}

bool admission_is_lopsided(const struct admission *self) {
  bool idle = false, waiting = false;
  for (int i = 0; i < self->count && !(idle && waiting); i++) {
    const struct connection *one = self->connections[i];
    if (atomic_load(&one->state) != CONNECTION_OPEN) continue;
    int load = atomic_load(&one->load);
    if (load == 0)
      idle = true;
    else if (load > atomic_load(&one->capacity))
      waiting = true;
  }
  return idle && waiting;
}

bool admission_is_narrow(struct admission *self) {
  bool is_used = false;
  const int64_t now_ns = platform_now_ns();
  pthread_mutex_lock(&self->lock);
  for (int i = 0; i < self->count && self->narrow.way && !is_used; i++)
    is_used = atomic_load(&self->connections[i]->load) > 0 && is_quick(self->connections[i], now_ns);
  pthread_mutex_unlock(&self->lock);
  return is_used;
}

/* Puts the calls in front of the queue, in their order. The lock is held. */
static void requeue(struct admission *self, call_list *calls) {
  while (calls->last != NULL) {
    struct call *call = calls->last;
    call_list_remove(calls, call);
    put_into_queue(self, call, true);
  }
}

void admission_balance(struct admission *self, int64_t patience_ns) {
  call_list calls = {0};
  int64_t now = platform_now_ns();
  if (!admission_is_lopsided(self)) return;
  pthread_mutex_lock(&self->lock);
  for (int i = 0; i < self->count; i++) {
    struct connection *one = self->connections[i];
    if (atomic_load(&one->state) != CONNECTION_OPEN || atomic_load(&one->load) <= atomic_load(&one->capacity)) continue;
    if (now - atomic_load(&one->progress_ns) >= patience_ns) one->protocol->recall(one, patience_ns, &calls);
  }
  requeue(self, &calls);
  pthread_mutex_unlock(&self->lock);
  admission_dispatch(self);
}

void admission_return(struct admission *self, struct call *call) {
  uint32_t bits = 0;
  pthread_mutex_lock(&self->lock);
  atomic_store(&call->connection, NULL);
  if (self->closed || attempts_of(call) >= ATTEMPTS_MAX)
    bits = call_fail(call, error_new(PYPROC_E_UNAVAILABLE, "the worker stopped before it began %s", call->method.name),
                     false);
  else
    put_into_queue(self, call, true);
  pthread_mutex_unlock(&self->lock);
  lot_wake(self->lot, bits);
  admission_dispatch(self);
}

void admission_lose(struct admission *self, struct connection *lost, const pyproc_error *error) {
  call_list unstarted = {0};
  uint32_t bits = 0;
  pthread_mutex_lock(&self->lock);
  lost->protocol->fail(lost, error, &unstarted);
  for (struct call *call = unstarted.first, *next; call != NULL; call = next) {
    next = call->next;
    if (attempts_of(call) < ATTEMPTS_MAX && !self->closed) continue;
    call_list_remove(&unstarted, call);
    bits |= call_fail(call, error_copy(error), false);
  }
  requeue(self, &unstarted);
  pthread_mutex_unlock(&self->lock);
  lot_wake(self->lot, bits);
  admission_dispatch(self);
}

/* Ends the calls that wait. The lock is held. Returns the bits for lot_wake. */
static uint32_t fail_queues(struct admission *self, const pyproc_error *error) {
  uint32_t bits = 0;
  for (struct call *call; (call = self->queue.first != NULL ? self->queue.first : self->stream_queue.first) != NULL;) {
    take_from_queue(self, call);
    bits |= call_fail(call, error_copy(error), false);
  }
  return bits;
}

void admission_break(struct admission *self, pyproc_error *error) {
  pthread_mutex_lock(&self->lock);
  pyproc_error *before = self->broken;
  self->broken = error;
  uint32_t bits = error != NULL ? fail_queues(self, error) : 0;
  pthread_mutex_unlock(&self->lock);
  pyproc_error_free(before);
  lot_wake(self->lot, bits);
}

bool admission_is_broken(struct admission *self) {
  pthread_mutex_lock(&self->lock);
  bool is_broken = self->broken != NULL;
  pthread_mutex_unlock(&self->lock);
  return is_broken;
}

void admission_close(struct admission *self, const pyproc_error *error) {
  pthread_mutex_lock(&self->lock);
  self->closed = true;
  uint32_t bits = error != NULL ? fail_queues(self, error) : 0;
  pthread_mutex_unlock(&self->lock);
  lot_wake(self->lot, bits);
}
