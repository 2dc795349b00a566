#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "error.h"
#include "grpc_module.h"
#include "rpc.h"
#include "wire/frame.h"

/* How long the server is still being told of a cancelled call: a channel that is destroyed meanwhile leaves its socket
 * open. */
#define SETTLE_NS INT64_C(20000000)

static const protocol protocol_grpc;

void rpc_break(rpc *self, pyproc_error *reason) {
  pthread_mutex_lock(&self->lock);
  int state = atomic_load(&self->base.state);
  bool first = state == CONNECTION_HANDSHAKE || state == CONNECTION_OPEN;
  if (first) {
    self->base.reason = reason;
    atomic_store(&self->base.state, CONNECTION_BROKEN);
  }
  pthread_mutex_unlock(&self->lock);
  if (!first) {
    pyproc_error_free(reason);
    return;
  }
  self->base.owner_ops->broken(self->base.owner);
}

/* ---- begin and end ---- */

static void free_rpc(rpc *self) {
  pyproc_error_free(self->base.reason);
  if (self->control != NULL) self->control->ops->close(self->control);
  receiver_free(&self->receiver);
  method_table_free(self->methods);
  pthread_mutex_destroy(&self->lock);
  free(self);
}

/* What holds objects of libgrpc in a forked child, where they cannot be freed. */
static rpc *forgotten;

static void rpc_destroy(struct connection *base) {
  rpc *self = rpc_of(base);
  if (engine_is_forked()) {
    self->next = forgotten;
    forgotten = self;
    return;
  }
  free_rpc(self);
  engine_release();
}

static void name_socket(rpc *self) {
  char name[24];
  snprintf(name, sizeof name, "%d", self->settings.place);
  private_dir_name(self->settings.folder, name, self->socket_path);
  snprintf(self->socket_variable, sizeof self->socket_variable, "PYPROC_GRPC_SOCKET=%s", self->socket_path);
  self->environment[0] = "PYPROC_PROTOCOL=grpc";
  self->environment[1] = self->socket_variable;
}

static struct connection *rpc_create(const connection_settings *settings, const connection_owner *owner_ops,
                                     void *owner, pyproc_error **reterr) {
  if (engine_acquire(reterr) < 0) return NULL;
  rpc *self = calloc(1, sizeof *self);
  if (self == NULL || !receiver_init(&self->receiver)) {
    free(self);
    engine_release();
    error_set(reterr, PYPROC_E_RESOURCE_EXHAUSTED, "out of memory");
    return NULL;
  }
  self->base = (struct connection){.protocol = &protocol_grpc, .owner_ops = owner_ops, .owner = owner};
  self->settings = *settings;
  pthread_mutex_init(&self->lock, NULL);
  if (!rpc_is_remote(self)) name_socket(self);
  return &self->base;
}

/* A worker that was killed leaves its socket behind, where its successor is to bind. */
static const char *const *rpc_environment(struct connection *base) {
  const rpc *self = rpc_of(base);
  unlink(self->socket_path);
  return self->environment;
}

static void reset(rpc *self) {
  struct connection *base = &self->base;
  pthread_mutex_lock(&self->lock);
  method_table_free(self->methods);
  self->methods = NULL;
  pyproc_error_free(base->reason);
  base->reason = NULL;
  pthread_mutex_unlock(&self->lock);
  atomic_store(&self->finished, false);
  atomic_store(&base->service_ns, 0);
  atomic_store(&base->quick_ns, 0);
  atomic_store(&base->good_calls, 0);
  atomic_store(&base->ping, 0);
  atomic_store(&base->pong, 0);
  base->answers_pings = false;
  base->stacks_signal = 0;
  atomic_store(&base->prefetch, 0);
}

static int open_remote(rpc *self, pyproc_error **reterr) {
  grpc_channel *channel = rpc_channel_new(self, reterr);
  if (channel == NULL) return PYPROC_E_INVALID_ARGUMENT;
  pthread_mutex_lock(&self->lock);
  self->grpc = channel;
  pthread_mutex_unlock(&self->lock);
  grpc_channel_check_connectivity_state(channel, 1);
  atomic_store(&self->base.capacity, self->settings.max_in_flight);
  atomic_store(&self->base.state, CONNECTION_OPEN);
  self->base.owner_ops->ready(self->base.owner);
  return PYPROC_OK;
}

static int rpc_open(struct connection *base, int socket, pyproc_error **reterr) {
  rpc *self = rpc_of(base);
  reset(self);
  if (rpc_is_remote(self)) return open_remote(self, reterr);
  self->control = channel_uds_new(socket);
  if (self->control == NULL) {
    close(socket);
    return error_set(reterr, PYPROC_E_RESOURCE_EXHAUSTED, "out of memory");
  }
  receiver_reset(&self->receiver);
  self->receiving = true;
  atomic_store(&base->capacity, 1);
  atomic_store(&base->state, CONNECTION_HANDSHAKE);
  return PYPROC_OK;
}

static bool rpc_close(struct connection *base) {
  rpc *self = rpc_of(base);
  pthread_mutex_lock(&self->lock);
  bool busy = self->flights > 0 || platform_now_ns() - atomic_load(&self->cancelled_ns) < SETTLE_NS;
  grpc_channel *channel = busy ? NULL : self->grpc;
  if (!busy) {
    self->grpc = NULL;
    atomic_store(&base->state, CONNECTION_DOWN);
  }
  pthread_mutex_unlock(&self->lock);
  if (busy) return false;
  if (channel != NULL) grpc_channel_destroy(channel);
  if (self->control != NULL) self->control->ops->close(self->control);
  self->control = NULL;
  return true;
}

/* ---- calls ---- */

static bool is_blocking(const struct call *call) {
  return call->finished == NULL;
}

/* Makes the flight and takes the call. The lock is held. */
static rpc_flight *take_call(rpc *self, struct call *call, pyproc_error **reterr) {
  uint32_t index;
  if (self->methods != NULL && method_table_find(self->methods, &call->method, &index, reterr) < 0) return NULL;
  rpc_flight *flight = rpc_flight_new(self, call, !is_blocking(call));
  if (flight == NULL) {
    error_set(reterr, PYPROC_E_RESOURCE_EXHAUSTED, "out of memory");
    return NULL;
  }
  call->sent_ns = platform_now_ns();
  call->attempts++;
  call->worker_pid = self->base.peer_pid;
  call->flight = flight;
  call_list_append(&self->calls, call);
  self->flights++;
  if (call->stream != NULL)
    atomic_fetch_add(&self->base.streams, 1);
  else if (atomic_fetch_add(&self->base.load, 1) == 0)
    atomic_store(&self->base.progress_ns, call->sent_ns);
  if (!is_blocking(call)) engine_expect(1);
  atomic_store(&call->connection, &self->base); /* its own thread may now wait for it */
  return flight;
}

/* libgrpc would not have the call: it ends here. */
static void refuse(rpc *self, struct call *call, rpc_flight *flight) {
  pthread_mutex_lock(&self->lock);
  bool is_ours = flight->call == call;
  if (is_ours) {
    call_list_remove(&self->calls, call);
    call->flight = NULL;
    flight->call = NULL;
    atomic_store(&call->connection, NULL);
  }
  pthread_mutex_unlock(&self->lock);
  if (is_ours)
    lot_wake(self->settings.lot,
             call_fail(call, error_new(PYPROC_E_INTERNAL, "gRPC refused to send %s", call->method.name), false));
  rpc_flight_land(flight, false);
}

static connection_start rpc_start(struct connection *base, struct call *call) {
  rpc *self = rpc_of(base);
  pyproc_error *error = NULL;
  const char *method = call->method.name; /* the call may be over before this function is */
  bool is_stream = call->stream != NULL;
  pthread_mutex_lock(&self->lock);
  if (atomic_load(&base->state) != CONNECTION_OPEN || atomic_load(&self->finished)) {
    pthread_mutex_unlock(&self->lock);
    return CONNECTION_CLOSED;
  }
  frame_block *frame = frame_block_ref(call->frame);
  rpc_flight *flight = take_call(self, call, &error);
  pthread_mutex_unlock(&self->lock);
  if (flight == NULL) {
    frame_block_unref(frame);
    if (base->peer_pid != 0) error_set_worker(error, base->peer_pid);
    lot_wake(self->settings.lot, call_fail(call, error, false));
    return CONNECTION_REFUSED;
  }
  bool sent = is_stream ? rpc_stream_begin(flight, frame) : rpc_unary_send(flight, method, frame);
  frame_block_unref(frame);
  if (sent) return CONNECTION_TAKEN;
  refuse(self, call, flight);
  return CONNECTION_REFUSED;
}

typedef struct waiting {
  rpc *self;
  call_wait *wait;
} waiting;

static bool is_over(void *argument) {
  const waiting *w = argument;
  return call_wait_is_over(w->wait, &w->self->base);
}

/* Waits in libgrpc for the blocking call's flight, and gives it up at the deadline. Its own thread alone frees it. */
static void wait_for_flight(const struct call *call, rpc_flight *flight, int64_t deadline_ns) {
  if (!engine_wait(flight->queue, &flight->unary, deadline_ns)) {
    if (platform_now_ns() < deadline_ns && !atomic_load(&call->cancelled)) return;
    rpc_flight_cancel(flight);
    engine_wait(flight->queue, &flight->unary, INT64_MAX);
  }
  rpc_flight_end(flight);
}

/* A unary call's own thread reads for itself. For all else the poller reads, and wakes who waits. */
static void rpc_progress(struct connection *base, call_wait *wait) {
  waiting w = {.self = rpc_of(base), .wait = wait};
  struct call *call = wait->call;
  while (!is_over(&w)) {
    pthread_mutex_lock(&w.self->lock);
    rpc_flight *flight = is_blocking(call) ? call->flight : NULL;
    pthread_mutex_unlock(&w.self->lock);
    if (flight != NULL)
      wait_for_flight(call, flight, wait->deadline_ns);
    else
      lot_sleep(w.self->settings.lot, wait->waiter, is_over, &w, wait->deadline_ns);
    if (platform_now_ns() >= wait->deadline_ns) break;
  }
}

static int rpc_withdraw(struct connection *base, struct call *call, int code) {
  rpc *self = rpc_of(base);
  (void)code;
  pthread_mutex_lock(&self->lock);
  if (atomic_load(&call->connection) != base) {
    pthread_mutex_unlock(&self->lock);
    return -1;
  }
  rpc_flight *flight = call->flight;
  call_list_remove(&self->calls, call);
  call->flight = NULL;
  atomic_store(&call->connection, NULL);
  if (flight != NULL) {
    flight->call = NULL;
    rpc_flight_cancel(flight);
  }
  pthread_mutex_unlock(&self->lock);
  if (flight != NULL && is_blocking(call)) { /* nobody has begun to wait for it: libgrpc gives it back at once */
    engine_wait(flight->queue, &flight->unary, INT64_MAX);
    rpc_flight_land(flight, false);
  }
  return 1;
}

/* What runs cannot be told from what waits in the server. */
static void rpc_recall(struct connection *base, int64_t keep_ns, call_list *calls) {
  (void)base, (void)keep_ns, (void)calls;
}

/* ---- streams ---- */

static void rpc_send(struct connection *base, struct call *call) {
  rpc *self = rpc_of(base);
  uint32_t bits = 0;
  pthread_mutex_lock(&self->lock);
  if (atomic_load(&call->connection) == base && call->flight != NULL) rpc_stream_send(call->flight, &bits);
  pthread_mutex_unlock(&self->lock);
  lot_wake(self->settings.lot, bits);
}

static void rpc_taken(struct connection *base, struct call *call, size_t size) {
  rpc *self = rpc_of(base);
  pthread_mutex_lock(&self->lock);
  if (atomic_load(&call->connection) == base && call->flight != NULL) {
    call->stream->receive_credit += (int64_t)size + WIRE_STREAM_MESSAGE_COST;
    rpc_stream_read(call->flight);
  }
  pthread_mutex_unlock(&self->lock);
}

/* The poller reads for all streams. */
static void rpc_attend(struct connection *base, struct call *call) {
  (void)base, (void)call;
}

/* ---- the supervisor ---- */

static bool rpc_pump(struct connection *base) {
  rpc *self = rpc_of(base);
  if (self->control != NULL && self->receiving) rpc_read_control(self);
  return true;
}

/* The end of the inherited socket is always of interest. */
static bool rpc_owes(struct connection *base) {
  const rpc *self = rpc_of(base);
  return self->control != NULL && self->receiving;
}

static int rpc_fd(struct connection *base, bool *ret_for_write) {
  const rpc *self = rpc_of(base);
  *ret_for_write = false;
  return self->control != NULL ? self->control->ops->fd(self->control) : -1;
}

static void rpc_finish(struct connection *base) {
  rpc *self = rpc_of(base);
  atomic_store(&self->finished, true);
  if (self->control != NULL) self->control->ops->shut(self->control, false);
}

static void rpc_drain(struct connection *base) {
  rpc *self = rpc_of(base);
  if (self->control != NULL) {
    self->control->ops->shut(self->control, true);
    if (self->receiving) rpc_read_control(self);
  }
  self->receiving = false;
  rpc_break(self, rpc_is_remote(self) ? error_new(PYPROC_E_UNAVAILABLE, "the pool was closed")
                                      : error_new(PYPROC_E_UNAVAILABLE, "worker %ld has ended", (long)base->peer_pid));
}

/* There is no page that would tell; a single call is the one. */
static bool rpc_running(struct connection *base, uint64_t *ret_id, char *name, size_t size) {
  rpc *self = rpc_of(base);
  pthread_mutex_lock(&self->lock);
  const struct call *only = self->calls.first;
  bool found = only != NULL && only == self->calls.last;
  if (found) {
    *ret_id = only->id;
    snprintf(name, size, "%s", only->method.name);
  }
  pthread_mutex_unlock(&self->lock);
  return found;
}

/* Likewise: which of several has begun is not known. */
static int rpc_suspects(struct connection *base, uint64_t *keys, int max) {
  rpc *self = rpc_of(base);
  pthread_mutex_lock(&self->lock);
  struct call *only = self->calls.first;
  bool found =
      max > 0 && self->settings.poison != NULL && only != NULL && only == self->calls.last && only->stream == NULL;
  if (found) keys[0] = call_poison_key(only, self->settings.poison);
  pthread_mutex_unlock(&self->lock);
  return found;
}

/* Those that libgrpc still has end when it gives them back, which we ask for; nobody can tell which have begun. */
static void rpc_fail(struct connection *base, const pyproc_error *error, call_list *unstarted) {
  rpc *self = rpc_of(base);
  uint32_t bits = 0;
  (void)unstarted;
  pthread_mutex_lock(&self->lock);
  for (struct call *call = self->calls.first, *next; call != NULL; call = next) {
    next = call->next;
    rpc_flight *flight = call->flight;
    if (flight != NULL) {
      if (flight->failure == NULL) flight->failure = error_copy(error);
      rpc_flight_cancel(flight);
      continue;
    }
    call_list_remove(&self->calls, call);
    atomic_store(&call->connection, NULL);
    bits |= call_fail(call, error_copy(error), true);
  }
  pthread_mutex_unlock(&self->lock);
  lot_wake(self->settings.lot, bits);
}

/* A token was fired: the calls that it cancelled come back from libgrpc. */
static void rpc_nudge(struct connection *base) {
  rpc *self = rpc_of(base);
  pthread_mutex_lock(&self->lock);
  for (struct call *call = self->calls.first; call != NULL; call = call->next)
    if (call->flight != NULL && atomic_load(&call->cancelled)) rpc_flight_cancel(call->flight);
  pthread_mutex_unlock(&self->lock);
}

static bool rpc_is_reached(struct connection *base) {
  rpc *self = rpc_of(base);
  bool reached = atomic_load(&base->state) == CONNECTION_OPEN;
  if (!reached || !rpc_is_remote(self)) return reached;
  pthread_mutex_lock(&self->lock);
  reached = self->grpc != NULL && grpc_channel_check_connectivity_state(self->grpc, 0) == GRPC_CHANNEL_READY;
  pthread_mutex_unlock(&self->lock);
  return reached;
}

static const protocol protocol_grpc = {.name = "grpc",
                                       .create = rpc_create,
                                       .destroy = rpc_destroy,
                                       .environment = rpc_environment,
                                       .open = rpc_open,
                                       .start = rpc_start,
                                       .progress = rpc_progress,
                                       .send = rpc_send,
                                       .taken = rpc_taken,
                                       .attend = rpc_attend,
                                       .withdraw = rpc_withdraw,
                                       .recall = rpc_recall,
                                       .pump = rpc_pump,
                                       .owes = rpc_owes,
                                       .fd = rpc_fd,
                                       .finish = rpc_finish,
                                       .drain = rpc_drain,
                                       .running = rpc_running,
                                       .fail = rpc_fail,
                                       .close = rpc_close,
                                       .nudge = rpc_nudge,
                                       .is_reached = rpc_is_reached,
                                       .suspects = rpc_suspects,
                                       .ping = rpc_ping,
                                       .look = rpc_look};

/* All that the module exports. */
extern const grpc_module pyproc_grpc_module __attribute__((visibility("default")));
const grpc_module pyproc_grpc_module = {.size = sizeof(grpc_module),
                                        .version = PYPROC_VERSION,
                                        .call_size = sizeof(struct call),
                                        .connection_size = sizeof(struct connection),
                                        .settings_size = sizeof(connection_settings),
                                        .protocol = &protocol_grpc};
