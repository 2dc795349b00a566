#include "remote.h"

#include "error.h"

enum { CLOSE_RETRY_NS = 1000000 };

static void on_ready(void *owner) {
  remote *self = owner;
  atomic_store(&self->became_ready, true);
  wake_signal(self->wake);
}

static void on_freed(void *owner) {
  admission_dispatch(((remote *)owner)->admission);
}

static void on_returned(void *owner, struct call *call) {
  admission_return(((remote *)owner)->admission, call);
}

/* The protocol connects again by itself; broken is what we have closed. */
static void on_broken(void *owner) {
  (void)owner;
}

static bool on_watch(void *owner, bool for_write) {
  (void)owner, (void)for_write;
  return false;
}

static int on_logs(void *owner, int fds[2]) {
  (void)owner, (void)fds;
  return 0;
}

static const connection_owner owner_ops = {
    .ready = on_ready,
    .freed = on_freed,
    .returned = on_returned,
    .broken = on_broken,
    .watch = on_watch,
    .pump = on_broken,
    .logs = on_logs,
    .drain = on_broken,
};

int remote_create(remote *self, struct admission *admission, const wake *waker, const protocol *spoken,
                  const connection_settings *settings, pyproc_error **reterr) {
  *self = (remote){.admission = admission, .wake = waker};
  pyproc_error *error = NULL;
  self->connection = spoken->create(settings, &owner_ops, self, &error);
  if (self->connection == NULL) return error_give(reterr, error);
  atomic_store(&admission->workers, 1);
  admission_use(admission, &self->connection, 1);
  return PYPROC_OK;
}

static void try_to_close(remote *self, int64_t now_ns) {
  if (!self->connection->protocol->close(self->connection)) {
    self->due_ns = now_ns + CLOSE_RETRY_NS;
    return;
  }
  self->is_open = false;
  self->due_ns = INT64_MAX;
}

int64_t remote_step(remote *self, int64_t now_ns) {
  if (atomic_exchange(&self->became_ready, false)) admission_dispatch(self->admission);
  if (now_ns < self->due_ns) return self->due_ns;
  if (self->is_leaving) {
    try_to_close(self, now_ns);
  } else {
    self->due_ns = INT64_MAX;
    self->is_open = self->connection->protocol->open(self->connection, -1, &self->failure) >= 0;
  }
  return self->due_ns;
}

void remote_leave(remote *self) {
  if (self->is_leaving) return;
  self->is_leaving = true;
  self->due_ns = INT64_MAX;
  if (!self->is_open) return;
  const protocol *ops = self->connection->protocol;
  ops->finish(self->connection);
  ops->drain(self->connection);
  pyproc_error *error = error_new(PYPROC_E_UNAVAILABLE, "the pool was closed");
  admission_lose(self->admission, self->connection, error);
  pyproc_error_free(error);
  self->due_ns = 0;
}

void remote_destroy(remote *self) {
  if (self->connection != NULL) self->connection->protocol->destroy(self->connection);
  self->connection = NULL;
  pyproc_error_free(self->failure);
}
