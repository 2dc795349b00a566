#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "error.h"
#include "framed.h"
#include "request.h"
#include "wire/frame.h"

enum { READ_ATTEMPTS_ON_FAIL = 4096 };

static void framed_destroy(struct connection *base) {
  framed *self = framed_of(base);
  pyproc_error_free(base->reason);
  if (self->channel != NULL) self->channel->ops->close(self->channel); /* in a forked child */
  receiver_free(&self->receiver);
  send_queue_clear(&self->queue);
  method_table_free(self->methods);
  if (self->page_memory != NULL) munmap(self->page_memory, sizeof *self->page_memory);
  platform_close_fd(self->page_fd);
  wake_close(&self->wake);
  pthread_mutex_destroy(&self->lock);
  free(self);
}

/* Without shared memory calls work all the same: the worker then says what it has started. */
static void make_page(framed *self) {
  self->page_fd = platform_shared_memory(sizeof *self->page_memory);
  if (self->page_fd < 0) return;
  void *memory = mmap(NULL, sizeof *self->page_memory, PROT_READ | PROT_WRITE, MAP_SHARED, self->page_fd, 0);
  if (memory == MAP_FAILED) {
    platform_close_fd(self->page_fd);
    self->page_fd = -1;
    return;
  }
  self->page_memory = memory;
}

static struct connection *framed_create(const connection_settings *settings, const connection_owner *owner_ops,
                                        void *owner, pyproc_error **reterr) {
  framed *self = calloc(1, sizeof *self);
  if (self == NULL) goto no_memory;
  self->base = (struct connection){.protocol = &protocol_framed, .owner_ops = owner_ops, .owner = owner};
  self->settings = *settings;
  self->handshake = settings->bare ? &framed_bare : settings->attached ? &framed_attached : &framed_hello;
  spin_init(&self->spin, settings->spin_ns);
  self->page_fd = -1;
  self->generation = platform_random64() % 65536 + 1;
  pthread_mutex_init(&self->lock, NULL);
  if (wake_open(&self->wake) < 0) {
    self->wake = (wake){.read_fd = -1, .write_fd = -1};
    framed_destroy(&self->base);
    return error_set(reterr, PYPROC_E_RESOURCE_EXHAUSTED,
                     "no descriptor left: raise the limit of open files (ulimit -n)"),
           NULL;
  }
  if (!receiver_init(&self->receiver)) goto no_memory;
  make_page(self);
  return &self->base;
no_memory:
  if (self != NULL) framed_destroy(&self->base);
  error_set(reterr, PYPROC_E_RESOURCE_EXHAUSTED, "out of memory");
  return NULL;
}

static void drop_page(framed *self) {
  if (self->page_memory != NULL) munmap(self->page_memory, sizeof *self->page_memory);
  platform_close_fd(self->page_fd);
  self->page_memory = NULL;
  self->page_fd = -1;
}

static void reset_page(framed *self) {
  self->base.page = NULL;
  if (self->settings.attached) { /* who had the last one may still have it */
    drop_page(self);
    make_page(self);
  }
  if (self->page_memory == NULL) return;
  memset((void *)self->page_memory, 0, sizeof *self->page_memory);
  self->page_memory->magic = STATUS_PAGE_MAGIC;
  self->page_memory->version = STATUS_PAGE_VERSION;
  self->page_memory->thread_count = STATUS_PAGE_THREADS;
  self->page_memory->slot_count = STATUS_PAGE_SLOTS;
}

static int framed_open(struct connection *base, int socket, pyproc_error **reterr) {
  framed *self = framed_of(base);
  struct channel *channel = channel_uds_new(socket);
  if (channel == NULL) {
    close(socket);
    return error_set(reterr, PYPROC_E_RESOURCE_EXHAUSTED, "out of memory");
  }
  pthread_mutex_lock(&self->lock);
  self->channel = channel;
  framed_reset_slots(self);
  reset_page(self);
  method_table_free(self->methods);
  self->methods = NULL;
  self->writing = false;
  self->receiving = true;
  receiver_reset(&self->receiver);
  pyproc_error_free(base->reason);
  base->reason = NULL;
  pthread_mutex_unlock(&self->lock);
  atomic_store(&self->write_blocked, false);
  atomic_store(&self->finished, false);
  atomic_store(&base->load, 0);
  atomic_store(&base->streams, 0);
  atomic_store(&base->good_calls, 0);
  atomic_store(&base->ping, 0);
  atomic_store(&base->pong, 0);
  base->answers_pings = false;
  base->stacks_signal = 0;
  atomic_store(&base->service_ns, 0);
  atomic_store(&base->quick_ns, 0);
  spin_reset(&self->spin);
  atomic_store(&base->capacity, 1);
  atomic_store(&base->prefetch, 0);
  atomic_store(&base->state, CONNECTION_HANDSHAKE);
  self->handshake->begin(self);
  return PYPROC_OK;
}

/* Puts the call into the table and its frame into the queue. The lock is held. */
static int take_call(framed *self, struct call *call, pyproc_error **reterr) {
  uint32_t index;
  bool is_stream = call->stream != NULL;
  int result = method_table_find(self->methods, &call->method, &index, reterr);
  if (result < 0) return result;
  if (is_stream && !self->has_streams)
    return error_set(
        reterr, PYPROC_E_UNIMPLEMENTED,
        "%s is a stream, and the worker's pyproc_worker is too old for those: install the one that belongs to "
        "the library",
        call->method.name);
  if (self->free_count == 0)
    return error_set(reterr, PYPROC_E_RESOURCE_EXHAUSTED, "too many calls in flight on one worker");
  int64_t now = call->now_ns != 0 ? call->now_ns : platform_now_ns(), left_ms = (call->deadline_ns - now) / 1000000;
  uint16_t slot = self->free_slots[self->free_count - 1];
  call->id = self->generation++ * STATUS_PAGE_SLOTS + slot;
  call->now_ns = 0;
  call->sent_ns = now;
  call->asked = 0;
  request_complete(call->frame, call->id, index, call->deadline_ns == INT64_MAX ? 0 : left_ms > 0 ? left_ms : 1);
  if (!send_queue_append(&self->queue, call->frame))
    return error_set(reterr, PYPROC_E_RESOURCE_EXHAUSTED, "out of memory");
  self->free_count--;
  self->slots[slot] = (framed_slot){.id = call->id, .call = call, .method = index, .is_stream = is_stream};
  call->attempts++;
  call->worker_pid = self->base.peer_pid;
  framed_add(self, call);
  atomic_store(&call->connection, &self->base);
  if (is_stream)
    atomic_fetch_add(&self->base.streams, 1);
  else if (atomic_fetch_add(&self->base.load, 1) == 0)
    atomic_store_explicit(&self->base.progress_ns, now, memory_order_relaxed);
  return PYPROC_OK;
}

static connection_start framed_start(struct connection *base, struct call *call) {
  framed *self = framed_of(base);
  pyproc_error *error = NULL;
  uint32_t bits = 0;
  bool has_thread = call->finished == NULL, is_stream = call->stream != NULL;
  bool is_put_off = call->is_put_off && !is_stream;
  pthread_mutex_lock(&self->lock);
  bool is_open = atomic_load(&base->state) == CONNECTION_OPEN;
  if (!is_open || (is_stream && atomic_load(&base->streams) >= self->settings.max_streams)) {
    pthread_mutex_unlock(&self->lock);
    return is_open ? CONNECTION_FULL : CONNECTION_CLOSED;
  }
  int result = take_call(self, call, &error);
  pid_t pid = base->peer_pid;
  if (result >= 0 && is_stream) framed_begin_stream(self, call, &bits);
  /* Nobody brings another frame to a lone caller's. */
  bool is_alone = result >= 0 && atomic_load_explicit(&base->load, memory_order_relaxed) == 1;
  if (result >= 0 && (is_alone || !(is_put_off && framed_put_off(self)))) framed_flush(self);
  pthread_mutex_unlock(&self->lock);
  lot_wake(self->settings.lot, bits);
  if (result < 0) {
    error_set_worker(error, pid);
    lot_wake(self->settings.lot, call_fail(call, error, false));
    return CONNECTION_REFUSED;
  }
  if (atomic_load(&self->write_blocked)) framed_nudge(base);
  if (!has_thread) framed_hand_over(self, NULL);
  return CONNECTION_TAKEN;
}

/* Takes the call back where it has not begun; else tells the worker once, and the call stays, or goes at once. */
static int give_up(struct connection *base, struct call *call, int code, bool at_once) {
  framed *self = framed_of(base);
  pthread_mutex_lock(&self->lock);
  framed_slot *slot = &self->slots[call->id % STATUS_PAGE_SLOTS];
  if (atomic_load(&call->connection) != base || slot->id != call->id || slot->call != call) {
    pthread_mutex_unlock(&self->lock);
    return -1;
  }
  bool is_stream = call->stream != NULL, was_asked = call->asked != 0;
  int result = 0;
  framed_slot gone;
  if (send_queue_remove(&self->queue, call->frame)) {
    framed_release(self, call->id, &gone); /* the worker never hears of it */
    atomic_store(&call->connection, NULL);
  } else {
    bool revoked = base->page != NULL && status_page_revoke(base->page, call->id);
    if (!revoked) {
      call->asked = code;
      result = at_once || !self->handshake->has_frames ? framed_may_have_run(self, call->id) : CONNECTION_ASKED;
    }
    uint64_t id = call->id;
    if (result != CONNECTION_ASKED) framed_orphan(self, call);
    if (!was_asked) self->handshake->give_up(self, id, code);
    framed_flush(self); /* lets go of the lock: a call that stays may end from here on */
  }
  pthread_mutex_unlock(&self->lock);
  if (is_stream) framed_nudge(base); /* a thread may be blocked here for it */
  framed_hand_over(self, NULL);
  return result;
}

static int framed_withdraw(struct connection *base, struct call *call, int code) {
  return give_up(base, call, code, true);
}

static int framed_ask(struct connection *base, struct call *call, int code) {
  return give_up(base, call, code, false);
}

static void framed_recall(struct connection *base, int64_t keep_ns, call_list *calls) {
  framed *self = framed_of(base);
  int64_t now = platform_now_ns();
  pthread_mutex_lock(&self->lock);
  for (struct call *call = self->in_flight.first, *next; call != NULL && base->page != NULL; call = next) {
    next = call->next;
    bool is_queued =
        atomic_load(&call->frame->references) > 1; /* its bytes are not to be touched before they are written */
    if (is_queued || call->stream != NULL || now - call->sent_ns < keep_ns || !status_page_revoke(base->page, call->id))
      continue;
    framed_orphan(self, call); /* the worker answers that it was revoked */
    call->attempts--;
    call_list_append(calls, call);
    atomic_store(&base->prefetch, 0); /* until it answers again */
  }
  pthread_mutex_unlock(&self->lock);
  framed_nudge(base);
  framed_hand_over(self, NULL); /* their callers may never have come to read here */
}

static bool framed_reader_pump(struct connection *base) {
  framed *self = framed_of(base);
  if (!framed_take_reading(self)) return false;
  pthread_mutex_lock(&self->lock);
  framed_flush(self);
  pthread_mutex_unlock(&self->lock);
  if (framed_is_open(self)) framed_pump(self, NULL, 0);
  framed_leave_reading(self, NULL);
  return true;
}

static bool framed_owes(struct connection *base) {
  framed *self = framed_of(base);
  pthread_mutex_lock(&self->lock);
  bool owes = framed_is_open(self) && framed_owes_others(self);
  pthread_mutex_unlock(&self->lock);
  return owes || atomic_load(&base->state) == CONNECTION_HANDSHAKE;
}

static int framed_fd(struct connection *base, bool *ret_for_write) {
  framed *self = framed_of(base);
  bool is_blocked = atomic_load(&self->write_blocked);
  *ret_for_write = false;
  if (self->channel == NULL) return -1;
  *ret_for_write = is_blocked && self->channel->ops->polls_room;
  if (self->channel->ops->arm(self->channel, is_blocked)) base->owner_ops->pump(base->owner);
  return self->channel->ops->fd(self->channel);
}

static void framed_finish(struct connection *base) {
  framed *self = framed_of(base);
  atomic_store(&self->finished, true);
  if (self->channel != NULL) self->channel->ops->shut(self->channel, false);
}

static void framed_drain(struct connection *base) {
  framed *self = framed_of(base);
  if (self->channel == NULL) return;
  self->channel->ops->shut(self->channel, true);
  while (atomic_exchange(&self->reading, true)) {
    framed_nudge(&self->base); /* a caller is inside: it reads to the end, sees that, and leaves */
    platform_yield();
  }
  for (int i = 0; i < READ_ATTEMPTS_ON_FAIL && self->receiving; i++) framed_pump(self, NULL, 0);
  self->receiving = false;
  atomic_store(&self->reading, false);
  framed_break(self, error_new(PYPROC_E_UNAVAILABLE, "worker %ld has ended", (long)base->peer_pid));
}

static bool framed_running(struct connection *base, uint64_t *ret_id, char *name, size_t size) {
  framed *self = framed_of(base);
  bool found = false;
  pthread_mutex_lock(&self->lock);
  for (int i = -1; base->page != NULL && i < STATUS_PAGE_THREADS && !found; i++) {
    uint64_t id = atomic_load(i < 0 ? &base->page->stuck_id : &base->page->threads[i].call_id);
    const framed_slot *slot = &self->slots[id % STATUS_PAGE_SLOTS];
    found = id != 0 && slot->id == id;
    if (!found) continue;
    *ret_id = id;
    snprintf(name, size, "%s", method_table_name(self->methods, slot->method)); /* its caller may have left */
  }
  pthread_mutex_unlock(&self->lock);
  return found;
}

/* Whether the call has not begun and will not. Who outlives the connection could still begin what we only look at. */
static bool take_back(framed *self, const struct call *call) {
  if (!self->settings.attached) return !framed_may_have_run(self, call->id);
  return self->base.page != NULL && status_page_revoke(self->base.page, call->id);
}

static uint32_t fail_calls(framed *self, const pyproc_error *error, call_list *unstarted) {
  uint32_t bits = 0;
  while (self->in_flight.first != NULL) {
    struct call *call = self->in_flight.first;
    bool may_have_run = !take_back(self, call);
    bool is_pinned = call->stream != NULL && call->stream->is_pinned;
    framed_remove(self, call);
    if (!may_have_run && !is_pinned && call->asked == 0) {
      atomic_store(&call->connection, NULL);
      call_list_append(unstarted, call);
    } else {
      bits |= call_fail(call, error_copy(error), may_have_run);
    }
  }
  return bits;
}

static void framed_fail(struct connection *base, const pyproc_error *error, call_list *unstarted) {
  framed *self = framed_of(base);
  pthread_mutex_lock(&self->lock);
  while (self->writing) { /* whoever it is never blocks; it still has the queue's bytes in hand */
    pthread_mutex_unlock(&self->lock);
    platform_yield();
    pthread_mutex_lock(&self->lock);
  }
  uint32_t bits = fail_calls(self, error, unstarted);
  send_queue_clear(&self->queue);
  framed_reset_slots(self);
  atomic_store(&base->load, 0);
  atomic_store(&base->streams, 0);
  pthread_mutex_unlock(&self->lock);
  lot_wake(self->settings.lot, bits);
}

static bool framed_close(struct connection *base) {
  framed *self = framed_of(base);
  if (self->channel == NULL) return true;
  if (atomic_exchange(&self->reading, true)) return false;
  pthread_mutex_lock(&self->lock);
  bool busy = self->writing;
  if (!busy) {
    self->channel->ops->close(self->channel);
    self->channel = NULL;
    send_queue_clear(&self->queue); /* a hello that nobody took is not the next connection's */
    pyproc_error_free(base->reason);
    base->reason = NULL;
    atomic_store(&base->state, CONNECTION_DOWN);
  }
  pthread_mutex_unlock(&self->lock);
  atomic_store(&self->reading, false);
  return !busy;
}

const protocol protocol_framed = {.name = "framed",
                                  .create = framed_create,
                                  .destroy = framed_destroy,
                                  .open = framed_open,
                                  .start = framed_start,
                                  .flush = framed_flush_all,
                                  .progress = framed_progress,
                                  .send = framed_send,
                                  .taken = framed_taken,
                                  .attend = framed_attend,
                                  .withdraw = framed_withdraw,
                                  .ask = framed_ask,
                                  .recall = framed_recall,
                                  .pump = framed_reader_pump,
                                  .owes = framed_owes,
                                  .fd = framed_fd,
                                  .finish = framed_finish,
                                  .drain = framed_drain,
                                  .running = framed_running,
                                  .fail = framed_fail,
                                  .close = framed_close,
                                  .nudge = framed_nudge,
                                  .suspects = framed_suspects,
                                  .ping = framed_ping,
                                  .look = framed_look,
                                  .overdue = framed_overdue};
