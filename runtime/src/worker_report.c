#include "worker_report.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "poison.h"
#include "stacks.h"

static void describe_loss(const struct worker *self, char *text, size_t size) {
  char pid[32] = "";
  if (worker_pid(self) > 0) snprintf(pid, sizeof pid, " (process %ld)", (long)worker_pid(self));
  snprintf(text, size, "the connection to the worker at %s%s has ended", self->edition->options->socket_path, pid);
}

static bool was_killed_by_us(const struct worker *self, const platform_exit *exit) {
  return self->leaving_step == STEP_KILLED && exit->signal == SIGKILL;
}

void worker_report_hang_text(const struct worker *self, char *text, size_t size) {
  const struct options *options = self->shop->options;
  if (self->hang == HANG_CALL)
    snprintf(text, size,
             "worker %ld hung: a handler did not end although its call was given up (option cancel_grace_ms)",
             (long)worker_pid(self));
  else
    snprintf(text, size, "worker %ld hung: it %s for %" PRId64 " ms (options health_interval_ms, health_timeout_ms)",
             (long)worker_pid(self),
             self->hang == HANG_SILENT ? "gave no sign of life" : "had requests and began none of them",
             options->health_timeout_ms);
}

static void describe_exit(const struct worker *self, const platform_exit *exit, char *text, size_t size) {
  if (self->hang == HANG_SILENT || self->hang == HANG_STILL) {
    worker_report_hang_text(self, text, size);
    size_t used = strlen(text);
    snprintf(text + used, size - used, ", and was %s",
             worker_is_attached(self)  ? "disconnected"
             : exit->signal == SIGKILL ? "killed"
                                       : "ended");
  } else if (worker_is_attached(self)) {
    describe_loss(self, text, size);
  } else if (!exit->known) {
    snprintf(text, size, "worker %ld has ended; its exit status is unknown, %s", (long)self->pid,
             self->child.zygote != NULL ? "as the zygote that forked it has gone" : "since the host took it");
  } else if (self->state == WORKER_LEAVING && was_killed_by_us(self, exit)) {
    snprintf(text, size, "worker %ld %s and was killed", (long)self->pid,
             worker_is_expected(self) ? "did not end in time" : "closed its connection");
  } else {
    int used = snprintf(text, size, "worker %ld ", (long)self->pid);
    platform_describe_exit(exit, text + used, size - (size_t)used);
  }
}

/* Whether the process killed itself, as it is to where a handler does not end when it is told to. */
static bool was_stuck(const struct worker *self, const platform_exit *exit, const char *stacks) {
  status_page *page = self->connection->page;
  bool says_so = page != NULL ? atomic_load(&page->stuck_id) != 0 : stacks_tell_of_stuck(stacks);
  return says_so && (!exit->known || exit->signal == SIGKILL);
}

/* Which count of kills for want of memory has grown while the process ran, where it may have been one of them. */
static const char *find_oom(const struct worker *self, const platform_exit *exit) {
  if (!exit->known || exit->signal != SIGKILL || self->hang != HANG_NONE || was_killed_by_us(self, exit)) return NULL;
  platform_oom now = platform_oom_now();
  return platform_oom_rose(&self->oom_before, &now);
}

pyproc_error *worker_report_error(struct worker *self, const platform_exit *exit, bool was_ready) {
  char text[256], method[256] = "";
  uint64_t id = 0;
  pyproc_error *error;
  const pyproc_error *reason = self->connection->reason;
  bool said_why = reason != NULL && pyproc_error_code(reason) != PYPROC_E_UNAVAILABLE;
  char *stacks = stacks_read(self->stacks_fd);
  bool stuck = was_stuck(self, exit, stacks);
  if (stuck && self->hang == HANG_NONE) self->hang = HANG_CALL;
  describe_exit(self, exit, text, sizeof text);
  const char *oom = find_oom(self, exit);
  bool running = self->connection->protocol->running(self->connection, &id, method, sizeof method);
  if (self->verdict != NULL)
    error = error_copy(self->verdict);
  else if (said_why)
    error = error_copy(reason);
  else if (was_ready)
    error = error_new(
        PYPROC_E_UNAVAILABLE, "%s%s%s%s%s",
        atomic_load(&self->shop->closing) ? "the pool was closed: "
        : !self->is_wanted                ? "its worker was replaced: "
                                          : "",
        text, running ? " in " : "", method,
        self->hang == HANG_CALL ? ", which did not end although its call was given up (option cancel_grace_ms)" : "");
  else if (worker_is_attached(self))
    error = error_new(PYPROC_E_UNAVAILABLE, "%s before the worker had said hello: is it one of this library's?", text);
  else
    error = error_new(PYPROC_E_UNAVAILABLE, "%s before it was ready: does %s %s?", text, self->edition->options->script,
                      self->shop->launch->task);
  if (oom != NULL) error_append(error, "; most likely for want of memory: the %s's count of OOM kills has grown", oom);
  error_set_worker(error, worker_pid(self));
  if (worker_is_attached(self)) { /* no process of ours has ended */
    free(stacks);
    return error;
  }
  char *tail = self->tail != NULL ? log_tail_text(self->tail) : NULL;
  pyproc_crash crash = {.size = sizeof crash,
                        .pid = self->pid,
                        .signal = exit->signal,
                        .exit_status = exit->exit_status,
                        .oom_killed = oom != NULL,
                        .rss_bytes = exit->rss_bytes,
                        .cpu_ms = exit->cpu_ms,
                        .call_id = (int64_t)id,
                        .method = method,
                        .log = tail != NULL ? tail : "",
                        .stacks = stacks != NULL ? stacks : "",
                        .status_known = exit->known};
  error_set_stop(error, stuck ? PYPROC_STOP_KILLED : PYPROC_STOP_NONE);
  error_set_log(error, crash.log);
  error_set_crash(error, &crash);
  free(tail);
  free(stacks);
  return error;
}

void worker_report_stacks(struct worker *self) {
  char *text = stacks_read(self->stacks_fd);
  size_t size = text != NULL ? strlen(text) : 0;
  for (char *rest = NULL, *line = size > self->stacks_logged ? strtok_r(text + self->stacks_logged, "\n", &rest) : NULL;
       line != NULL; line = strtok_r(NULL, "\n", &rest))
    log_write(self->shop->log, PYPROC_LOG_ERROR, self->pid, "%s", line);
  if (size > self->stacks_logged) self->stacks_logged = size;
  free(text);
}

void worker_report_hang(struct worker *self, const pyproc_crash *crash) {
  char text[256], method[256] = "";
  uint64_t id = 0;
  if (self->hang == HANG_NONE || self->hang_told || worker_is_expected(self)) return;
  self->hang_told = true;
  worker_report_hang_text(self, text, sizeof text);
  worker_report_stacks(self);
  if (crash != NULL) {
    worker_tell(self->shop, worker_pid(self), PYPROC_EVENT_WORKER_HUNG, text, crash);
    return;
  }
  self->connection->protocol->running(self->connection, &id, method, sizeof method);
  char *tail = self->tail != NULL ? log_tail_text(self->tail) : NULL, *stacks = stacks_read(self->stacks_fd);
  int64_t rss_bytes = platform_process_rss(self->pid);
  pyproc_crash so_far = {.size = sizeof so_far,
                         .pid = self->pid,
                         .rss_bytes = rss_bytes > 0 ? rss_bytes : 0,
                         .call_id = (int64_t)id,
                         .method = method,
                         .log = tail != NULL ? tail : "",
                         .stacks = stacks != NULL ? stacks : ""};
  worker_tell(self->shop, worker_pid(self), PYPROC_EVENT_WORKER_HUNG, text, &so_far);
  free(tail);
  free(stacks);
}

/* Whether what ran may be why it ended. SIGKILL and the like come from outside, unless memory ran out, or a handler did not
 * end; and one that was stopped, or whose threads are starved, has not been so by a request. */
static bool may_blame_request(const struct worker *self, const platform_exit *exit, const pyproc_crash *crash) {
  if (worker_is_expected(self) || self->verdict != NULL) return false;
  if (self->hang != HANG_NONE) return self->hang == HANG_CALL;
  if (exit->signal == SIGKILL) return crash != NULL && crash->oom_killed;
  return exit->signal != SIGTERM && exit->signal != SIGINT && exit->signal != SIGHUP && exit->signal != SIGQUIT;
}

void worker_report_blame(struct worker *self, const platform_exit *exit, const pyproc_error *error, int64_t now_ns) {
  enum { SUSPECTS_MAX = 64 };
  uint64_t keys[SUSPECTS_MAX];
  const pyproc_crash *crash = pyproc_error_crash(error);
  const struct options *options = self->shop->options;
  poison *table = self->shop->admission->poison;
  const protocol *ops = self->connection->protocol;
  if (table == NULL || ops->suspects == NULL || !may_blame_request(self, exit, crash)) return;
  int count = ops->suspects(self->connection, keys, SUSPECTS_MAX);
  for (int i = 0; i < count; i++) {
    if (!poison_blame(table, keys[i], pyproc_error_message(error), now_ns)) continue;
    log_write(self->shop->log, PYPROC_LOG_ERROR, self->pid,
              "worker %d: a request%s%s has killed %" PRId64
              " workers, one after the other (option poison_limit): it is "
              "refused for %" PRId64 " ms (option poison_rest_ms)",
              self->index, count == 1 && crash != NULL ? " to " : "", count == 1 && crash != NULL ? crash->method : "",
              options->poison_limit, options->poison_rest_ms);
  }
}
