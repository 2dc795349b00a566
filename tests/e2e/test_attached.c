/*
 * Attached workers: they are not ours, so they are started and killed by the test. Calls and streams, a worker that goes
 * and comes back, that is not there, not the right one, hangs, or does not end a call; and that none is ever signalled.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support.h"

typedef struct sidecar {
  pid_t pid;
  const char *path;
} sidecar;

static void start_sidecar(sidecar *self, const char *script) {
  char bootstrap[4096];
  const char *build = getenv("PYPROC_TEST_BUILD"), *python = test_python();
  snprintf(bootstrap, sizeof bootstrap, "%s/lib/pyproc/worker/pyproc_bootstrap.py", build != NULL ? build : ".");
  const char *path = gen_path(script);
  self->pid = fork();
  assert_true(self->pid >= 0);
  if (self->pid > 0) return;
  prctl(PR_SET_PDEATHSIG, SIGKILL); /* where the test fails */
  setenv("PYPROC_SOCKET_PATH", self->path, 1);
  execlp(python, python, bootstrap, path, (char *)NULL);
  _exit(127);
}

static sidecar sidecar_of(const char *script) {
  sidecar self = {.path = temporary_path("worker.sock")};
  start_sidecar(&self, script);
  return self;
}

/* Ends it, by that signal; it must have lived until now. */
static void end_sidecar(sidecar *self, int number) {
  int status = 0;
  assert_int_equal(waitpid(self->pid, &status, WNOHANG), 0);
  kill(self->pid, number);
  kill(self->pid, SIGCONT);
  assert_int_equal(waitpid(self->pid, &status, 0), self->pid);
}

static pyproc_pool_options attached_options(const sidecar *self) {
  pyproc_pool_options options = options_for("");
  options.script = NULL;
  options.workers = 0;
  options.socket_path = self->path;
  options.call_timeout_ms = 20000;
  return options;
}

static void test_calls(void **state) {
  (void)state;
  const char *const protocols[] = {"protobuf", "json"};
  sidecar worker = sidecar_of("fault_worker.py");
  for (size_t i = 0; i < LENGTH(protocols); i++) {
    pyproc_pool_options options = attached_options(&worker);
    pyproc_health health = PYPROC_HEALTH_INIT;
    options.protocol = protocols[i];
    pyproc_pool *pool = open_pool(&options);
    for (int call = 0; call < 50; call++) assert_answer(pool, "ping", "1", "1");
    assert_int_equal(worker_pid(pool), worker.pid);
    pyproc_error *error = call_failure(pool, "fail", "{\"type\": \"ValueError\", \"text\": \"no\"}", 0);
    assert_string_equal(pyproc_error_type(error), "ValueError");
    assert_int_equal(pyproc_error_worker_pid(error), worker.pid);
    assert_error(error, PYPROC_E_UNKNOWN, "no", RAN);
    assert_int_equal(pyproc_pool_health(pool, &health), 0);
    assert_int_equal(health.workers, 1);
    assert_int_equal(health.workers_ready, 1);
    pyproc_pool_close(pool);
  }
  end_sidecar(&worker, SIGTERM);
}

static void test_typed_calls_and_streams(void **state) {
  (void)state;
  sidecar worker = sidecar_of("conformance_worker.py");
  pyproc_pool_options options = attached_options(&worker);
  options.stream_window_bytes = 4096;
  pyproc_pool *pool = open_pool(&options);
  Conformance__Task task = CONFORMANCE__TASK__INIT;
  Conformance__Blob *blob = NULL;
  pyproc_stream *stream = NULL, *early = NULL;
  task.count = 100;
  task.size = 1000;
  assert_int_equal(conformance_streams_produce_open(pool, &task, NULL, &stream, NULL), 0);
  assert_int_equal(conformance_streams_produce_open(pool, &task, NULL, &early, NULL), 0);
  int count = 0, result;
  while ((result = conformance_streams_produce_recv(stream, &blob, NULL)) == 1) {
    assert_int_equal(blob->data.len, 1000);
    pyproc_reply_free(blob);
    count++;
  }
  assert_int_equal(result, 0);
  assert_int_equal(count, 100);
  pyproc_stream_close(stream);
  pyproc_stream_close(early); /* while its handler waits for credit */
  assert_int_equal(conformance_streams_produce_open(pool, &task, NULL, &stream, NULL), 0);
  assert_int_equal(conformance_streams_produce_recv(stream, &blob, NULL), 1);
  pyproc_reply_free(blob);
  end_sidecar(&worker, SIGKILL);
  while ((result = conformance_streams_produce_recv(stream, &blob, NULL)) == 1) pyproc_reply_free(blob);
  assert_int_equal(result, PYPROC_E_UNAVAILABLE);
  pyproc_stream_close(stream);
  pyproc_pool_close(pool);
}

/* ---- it goes ---- */

static atomic_int died, ready;

static void on_event(const pyproc_event *event, void *userdata) {
  (void)userdata;
  if (event->kind == PYPROC_EVENT_WORKER_READY) atomic_fetch_add(&ready, 1);
  if (event->kind != PYPROC_EVENT_WORKER_DIED) return;
  if (event->crash == NULL) atomic_fetch_add(&died, 1);
}

static void test_comes_back(void **state) {
  (void)state;
  sidecar worker = sidecar_of("fault_worker.py");
  pyproc_pool_options options = attached_options(&worker);
  pyproc_health health = PYPROC_HEALTH_INIT;
  options.event = on_event;
  atomic_store(&died, 0);
  atomic_store(&ready, 0);
  pyproc_pool *pool = open_pool(&options);
  for (int round = 1; round <= 3; round++) {
    assert_int_equal(worker_pid(pool), worker.pid);
    end_sidecar(&worker, SIGKILL);
    if (round == 2) WAIT_FOR(atomic_load(&died) == 2); /* else its socket is stale when the call comes */
    start_sidecar(&worker, "fault_worker.py");
    assert_answer(pool, "ping", "1", "1"); /* waits for it */
  }
  WAIT_FOR(atomic_load(&ready) == 4);
  assert_int_equal(atomic_load(&died), 3);
  assert_int_equal(pyproc_pool_health(pool, &health), 0);
  assert_int_equal(health.restarts, 3);
  assert_int_equal(health.breaker_open, 0);
  end_sidecar(&worker, SIGTERM);
  pyproc_pool_close(pool);
}

static void test_dies_under_a_call(void **state) {
  (void)state;
  sidecar worker = sidecar_of("fault_worker.py");
  pyproc_pool_options options = attached_options(&worker);
  pyproc_pool *pool = open_pool(&options);
  pyproc_error *error = call_failure(pool, "die", "{\"status\": 3}", 0);
  assert_null(pyproc_error_crash(error));
  assert_int_equal(pyproc_error_worker_pid(error), worker.pid);
  assert_contains(pyproc_error_message(error), worker.path);
  assert_error(error, PYPROC_E_UNAVAILABLE, "connection to the worker at", RAN);
  assert_int_equal(waitpid(worker.pid, NULL, 0), worker.pid);
  pyproc_pool_close(pool);
}

/* Of two calls, one runs and one waits in the worker, when the connection is cut: the one that waits is not run twice. */
static void test_nothing_runs_twice(void **state) {
  (void)state;
  const char *notes = temporary_path("notes");
  setenv("E2E_NOTES", notes, 1);
  sidecar worker = sidecar_of("fault_worker.py");
  pyproc_pool_options options = attached_options(&worker);
  options.cancel_grace_ms = 50;
  pyproc_pool *pool = open_pool(&options);
  pyproc_error *error = NULL;
  assert_error(call_failure(pool, "deaf", "{\"ms\": 1500}", 20), PYPROC_E_DEADLINE_EXCEEDED, "", RAN);
  char *body = NULL;
  int result = pyproc_call_json(pool, "note_once", "\"x\"", NULL, &body, &error); /* behind it, then on the next one */
  if (result < 0) fail_msg("%s", pyproc_error_message(error));
  pyproc_reply_free(body);
  pyproc_health health = PYPROC_HEALTH_INIT;
  assert_int_equal(pyproc_pool_health(pool, &health), 0);
  assert_int_equal(health.restarts, 1); /* it was cut off */
  pyproc_pool_close(pool);
  end_sidecar(&worker, SIGTERM);
  char *text = read_file(notes);
  assert_non_null(text);
  const char *first = strstr(text, "once x");
  assert_non_null(first);
  assert_null(strstr(first + 1, "once x"));
  free(text);
  unsetenv("E2E_NOTES");
}

/* It cannot be killed: a call that does not end costs the connection, and the process goes on. */
static void test_stuck_handler_costs_the_connection(void **state) {
  (void)state;
  sidecar worker = sidecar_of("fault_worker.py");
  pyproc_pool_options options = attached_options(&worker);
  pyproc_health health = PYPROC_HEALTH_INIT;
  options.cancel_grace_ms = 500;
  pyproc_pool *pool = open_pool(&options);
  for (int i = 0; i < 30; i++) { /* what ends in time costs nothing */
    pyproc_error *error = call_failure(pool, "sleep", "{\"ms\": 5000}", 5);
    assert_int_equal(pyproc_error_code(error), PYPROC_E_DEADLINE_EXCEEDED); /* it may not even have begun */
    pyproc_error_free(error);
  }
  pause_ms(500);
  assert_int_equal(pyproc_pool_health(pool, &health), 0);
  assert_int_equal(health.restarts, 0);
  assert_error(call_failure(pool, "deaf", "{\"ms\": 4000}", 300), PYPROC_E_DEADLINE_EXCEEDED, "", RAN);
  WAIT_FOR(pyproc_pool_health(pool, &health) == 0 && health.restarts == 1);
  assert_int_equal(worker_pid(pool), worker.pid);
  pyproc_pool_close(pool);
  end_sidecar(&worker, SIGTERM);
}

/* Nor can one that hangs: the pool leaves it, and comes back. */
static void test_hung_worker_is_left(void **state) {
  (void)state;
  sidecar worker = sidecar_of("fault_worker.py");
  pyproc_pool_options options = attached_options(&worker);
  pyproc_health health = PYPROC_HEALTH_INIT;
  options.health_interval_ms = 200;
  options.health_timeout_ms = 1000;
  pyproc_pool *pool = open_pool(&options);
  assert_answer(pool, "ping", "1", "1");
  kill(worker.pid, SIGSTOP);
  WAIT_FOR(pyproc_pool_health(pool, &health) == 0 && health.restarts == 1);
  kill(worker.pid, SIGCONT);
  assert_answer(pool, "ping", "2", "2");
  assert_int_equal(worker_pid(pool), worker.pid);
  pyproc_pool_close(pool);
  end_sidecar(&worker, SIGTERM);
}

/* ---- it is not there, or another one ---- */

static void test_comes_late(void **state) {
  (void)state;
  sidecar worker = {.path = temporary_path("worker.sock")};
  pid_t starter = fork();
  if (starter == 0) { /* the pool is being opened by then */
    pause_ms(300);
    start_sidecar(&worker, "fault_worker.py");
    pause();
  }
  pyproc_pool_options options = attached_options(&worker);
  pyproc_pool *pool = open_pool(&options);
  long pid = worker_pid(pool);
  pyproc_pool_close(pool);
  assert_true(process_lives(pid));
  kill(starter, SIGKILL); /* and with it its child */
  assert_int_equal(waitpid(starter, NULL, 0), starter);
  WAIT_FOR(!process_lives(pid));
}

static void refuse(const pyproc_pool_options *options, int code, const char *part) {
  pyproc_error *error = open_failure(options);
  assert_error(error, code, part, NOT_RUN);
}

static void test_nobody_listens(void **state) {
  (void)state;
  sidecar worker = {.path = temporary_path("worker.sock")};
  pyproc_pool_options options = attached_options(&worker);
  options.start_timeout_ms = 60;
  refuse(&options, PYPROC_E_DEADLINE_EXCEEDED, "start_timeout_ms): No such file or directory");
  int stale = socket(AF_UNIX, SOCK_STREAM, 0);
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  snprintf(address.sun_path, sizeof address.sun_path, "%s", worker.path);
  assert_int_equal(bind(stale, (struct sockaddr *)&address, sizeof address), 0);
  refuse(&options, PYPROC_E_DEADLINE_EXCEEDED, "start_timeout_ms): Connection refused");
  assert_int_equal(listen(stale, 8), 0);
  refuse(&options, PYPROC_E_DEADLINE_EXCEEDED, "it did not say hello");
  close(stale);
}

static int listen_at(const char *path) {
  int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
  assert_int_equal(bind(listener, (struct sockaddr *)&address, sizeof address), 0);
  assert_int_equal(listen(listener, 8), 0);
  return listener;
}

/* Whatever listens there may answer anything, or hang up. */
static void test_something_else_listens(void **state) {
  (void)state;
  static const char *const answers[] = {"", "HTTP/1.1 400 Bad Request\r\n\r\n", "\0\0\0\2{}"};
  static const size_t sizes[] = {0, 28, 6};
  static const int codes[] = {PYPROC_E_DEADLINE_EXCEEDED, PYPROC_E_DATA_LOSS, PYPROC_E_DATA_LOSS};
  sidecar worker = {.path = temporary_path("worker.sock")};
  for (size_t i = 0; i < LENGTH(answers); i++) {
    int listener = listen_at(worker.path);
    pid_t pid = fork();
    if (pid == 0) {
      int fd = accept(listener, NULL, NULL);
      char hello[256];
      if (read(fd, hello, sizeof hello) <= 0 || write(fd, answers[i], sizes[i]) < 0) _exit(1);
      _exit(0);
    }
    pyproc_pool_options options = attached_options(&worker);
    options.start_timeout_ms = 200;
    refuse(&options, codes[i], "");
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    close(listener);
    unlink(worker.path);
  }
}

static void test_the_wrong_user_listens(void **state) {
  (void)state;
  if (geteuid() != 0) skip();
  sidecar worker = {.path = temporary_path("worker.sock")};
  int ready_fds[2];
  assert_int_equal(pipe(ready_fds), 0);
  int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  snprintf(address.sun_path, sizeof address.sun_path, "%s", worker.path);
  assert_int_equal(bind(listener, (struct sockaddr *)&address, sizeof address), 0);
  pid_t pid = fork();
  if (pid == 0) { /* who calls listen is the peer */
    if (setuid(NOBODY) < 0 || listen(listener, 8) < 0 || write(ready_fds[1], "x", 1) != 1) _exit(1);
    pause();
  }
  char byte;
  assert_int_equal(read(ready_fds[0], &byte, 1), 1);
  pyproc_pool_options options = attached_options(&worker);
  options.start_timeout_ms = 100;
  refuse(&options, PYPROC_E_PERMISSION_DENIED, "user 65534 listens on");
  options.peer_uid = 12345;
  refuse(&options, PYPROC_E_PERMISSION_DENIED, "which may be user 12345 or root");
  options.peer_uid = NOBODY;
  refuse(&options, PYPROC_E_DEADLINE_EXCEEDED, "it did not say hello");
  options.peer_uid = PYPROC_OFF;
  refuse(&options, PYPROC_E_DEADLINE_EXCEEDED, "it did not say hello");
  kill(pid, SIGKILL);
  assert_int_equal(waitpid(pid, NULL, 0), pid);
  close(listener);
  close(ready_fds[0]);
  close(ready_fds[1]);
}

static void test_options(void **state) {
  (void)state;
  const sidecar worker = {.path = "/nowhere/worker.sock"};
  char path[200];
  memset(path, 'x', sizeof path);
  path[0] = '/';
  path[sizeof path - 1] = '\0';
  pyproc_pool_options options = attached_options(&worker);
  options.script = "worker.py";
  refuse(&options, PYPROC_E_INVALID_ARGUMENT, "options socket_path and script");
  options = attached_options(&worker);
  options.nice = 1;
  refuse(&options, PYPROC_E_INVALID_ARGUMENT, "options socket_path and nice");
  options = attached_options(&worker);
  options.recycle_calls = 1;
  refuse(&options, PYPROC_E_INVALID_ARGUMENT, "options socket_path and recycle_calls");
  options = attached_options(&worker);
  options.target = "unix:/x";
  refuse(&options, PYPROC_E_INVALID_ARGUMENT, "socket_path");
  options = attached_options(&worker);
  options.protocol = "grpc";
  refuse(&options, PYPROC_E_INVALID_ARGUMENT, "option target, \"unix:/nowhere/worker.sock\"");
  options.protocol = NULL;
  options.socket_path = path;
  refuse(&options, PYPROC_E_INVALID_ARGUMENT, "longer than the 107 bytes");
  options.socket_path = "";
  refuse(&options, PYPROC_E_INVALID_ARGUMENT, "socket_path is empty");
  options = options_for("fault_worker.py");
  options.peer_uid = 1;
  refuse(&options, PYPROC_E_INVALID_ARGUMENT, "peer_uid is only for a socket_path");
}

/* ---- what can change ---- */

static void test_resize_and_reload(void **state) {
  (void)state;
  sidecar worker = sidecar_of("fault_worker.py");
  pyproc_pool_options options = attached_options(&worker);
  pyproc_health health = PYPROC_HEALTH_INIT;
  pyproc_error *error = NULL;
  pyproc_pool *pool = open_pool(&options);
  assert_int_equal(pyproc_pool_resize(pool, 3, &error), 0);
  assert_int_equal(pyproc_pool_health(pool, &health), 0);
  assert_int_equal(health.workers_ready, 3);
  for (int i = 0; i < 12; i++) assert_answer(pool, "ping", "1", "1");
  assert_int_equal(pyproc_pool_resize(pool, 1, &error), 0);
  assert_int_equal(pyproc_pool_reload(pool, NULL, &error), 0);
  assert_int_equal(worker_pid(pool), worker.pid);
  sidecar other = {.path = temporary_path("other.sock")};
  start_sidecar(&other, "fault_worker.py");
  options.socket_path = other.path;
  assert_int_equal(pyproc_pool_reload(pool, &options, &error), 0); /* to another worker */
  assert_int_equal(worker_pid(pool), other.pid);
  pyproc_pool_options ours = options_for("fault_worker.py");
  assert_int_equal(pyproc_pool_reload(pool, &ours, &error), PYPROC_E_INVALID_ARGUMENT);
  assert_error(error, PYPROC_E_INVALID_ARGUMENT, "socket_path cannot change", NOT_RUN);
  options.socket_path = temporary_path("absent.sock");
  options.start_timeout_ms = 50;
  assert_int_equal(pyproc_pool_reload(pool, &options, &error), PYPROC_E_DEADLINE_EXCEEDED);
  assert_error(error, PYPROC_E_DEADLINE_EXCEEDED, "absent.sock", NOT_RUN);
  assert_int_equal(worker_pid(pool), other.pid);
  assert_int_equal(pyproc_pool_health(pool, &health), 0);
  assert_int_equal(health.restarts, 0);
  pyproc_pool_close(pool);
  end_sidecar(&worker, SIGTERM);
  end_sidecar(&other, SIGTERM);
}

static void test_several_hosts(void **state) {
  (void)state;
  sidecar worker = sidecar_of("fault_worker.py");
  pyproc_pool *pools[4];
  pyproc_pool_options options = attached_options(&worker);
  options.workers = 2;
  for (size_t i = 0; i < LENGTH(pools); i++) pools[i] = open_pool(&options);
  for (int round = 0; round < 10; round++)
    for (size_t i = 0; i < LENGTH(pools); i++) assert_answer(pools[i], "ping", "1", "1");
  pyproc_pool_close(pools[0]);
  for (size_t i = 1; i < LENGTH(pools); i++) assert_int_equal(worker_pid(pools[i]), worker.pid);
  for (size_t i = 1; i < LENGTH(pools); i++) pyproc_pool_close(pools[i]);
  end_sidecar(&worker, SIGTERM);
}

/* A worker of the Go library that somebody runs. */
static void test_without_a_handshake(void **state) {
  (void)state;
  sidecar worker = sidecar_of("bare_worker.py");
  pyproc_pool_options options = attached_options(&worker);
  options.handshake = "none";
  options.cancel_grace_ms = 50;
  pyproc_pool *pool = open_pool(&options);
  pyproc_health health = PYPROC_HEALTH_INIT;
  assert_int_equal(pyproc_pool_health(pool, &health), 0);
  assert_int_equal(health.workers_ready, 1);
  pyproc_pool_close(pool);
  end_sidecar(&worker, SIGKILL);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      E2E_TEST(test_calls),
      E2E_TEST(test_typed_calls_and_streams),
      E2E_TEST(test_comes_back),
      E2E_TEST(test_dies_under_a_call),
      E2E_TEST(test_nothing_runs_twice),
      E2E_TEST(test_stuck_handler_costs_the_connection),
      E2E_TEST(test_hung_worker_is_left),
      E2E_TEST(test_comes_late),
      E2E_TEST(test_nobody_listens),
      E2E_TEST(test_something_else_listens),
      E2E_TEST(test_the_wrong_user_listens),
      E2E_TEST(test_options),
      E2E_TEST(test_resize_and_reload),
      E2E_TEST(test_several_hosts),
      E2E_TEST(test_without_a_handshake),
  };
  return RUN_TESTS(tests);
}
