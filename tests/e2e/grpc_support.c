#include "grpc_support.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

bool grpc_is_built(void) {
  char path[4096];
  const char *build = getenv("PYPROC_TEST_BUILD");
  snprintf(path, sizeof path, "%s/lib/libpyproc-grpc.so", build != NULL ? build : ".");
  if (access(path, R_OK) == 0) return true;
  printf("skipped: gRPC was not built (PYPROC_GRPC is OFF)\n");
  return false;
}

static pyproc_pool *held;
static long threads_before;

int grpc_hold(void **state) {
  (void)state;
  threads_before = status_of(getpid(), "Threads:");
  pyproc_pool_options options = options_for_target("unix:/nowhere");
  return pyproc_pool_open(&options, &held, NULL);
}

int grpc_release(void **state) {
  (void)state;
  pyproc_pool_close(held);
  /* Its threads end at their leisure, too: a sanitizer that looks at all threads at the process's end trips over one
   * that is just going. */
  for (int i = 0; i < 1000 && status_of(getpid(), "Threads:") > threads_before; i++) pause_ms(10);
  return 0;
}

static long start_process(const char *const argv[], int in, int out) {
  pid_t pid = fork();
  assert_true(pid >= 0);
  if (pid > 0) return pid;
  dup2(in, 0);
  dup2(out, 1);
  execvp(argv[0], (char *const *)(uintptr_t)argv);
  _exit(127);
}

grpc_server grpc_server_start(const char *address, const char *name, const char *tls) {
  int in[2], out[2];
  char line[64];
  grpc_server server = {0};
  assert_int_equal(pipe2(in, O_CLOEXEC), 0);
  assert_int_equal(pipe2(out, O_CLOEXEC), 0);
  const char *const argv[] = {test_python(), gen_path("grpc_server.py"), address, name, tls, NULL};
  server.pid = start_process(argv, in[0], out[1]);
  close(in[0]);
  close(out[1]);
  server.input = in[1];
  server.output = out[0];
  size_t size = 0;
  for (ssize_t count; size < sizeof line - 1 && (size == 0 || line[size - 1] != '\n'); size += (size_t)count)
    if ((count = read(out[0], line + size, sizeof line - 1 - size)) <= 0) break;
  line[size] = '\0';
  if (sscanf(line, "ready %d", &server.port) != 1) fail_msg("the server did not start: %s", line);
  return server;
}

void grpc_server_kill(grpc_server *server) {
  int status;
  if (server->pid == 0) return;
  kill((pid_t)server->pid, SIGKILL);
  while (waitpid((pid_t)server->pid, &status, 0) < 0 && errno == EINTR) {}
  close(server->input);
  close(server->output);
  *server = (grpc_server){0};
}

void run_command(const char *command) {
  const char *const argv[] = {"/bin/sh", "-c", command, NULL};
  int status = -1;
  long pid = start_process(argv, 0, 1);
  while (waitpid((pid_t)pid, &status, 0) < 0 && errno == EINTR) {}
  if (status != 0) fail_msg("%s: status %d", command, status);
}

pyproc_pool_options options_for_target(const char *target) {
  pyproc_pool_options options = PYPROC_POOL_OPTIONS_INIT;
  options.target = target;
  if (getenv("PYPROC_TEST_VERBOSE") != NULL) {
    options.log = pyproc_log_to_stderr;
    options.log_level = PYPROC_LOG_DEBUG;
  }
  return options;
}

Remote__Item *echo(pyproc_pool *pool, const char *text) {
  Remote__Item request = REMOTE__ITEM__INIT, *reply = NULL;
  pyproc_error *error = NULL;
  request.text = text;
  request.number = 7;
  int result = remote_echo_call(pool, &request, &reply, &error);
  if (result < 0) {
    print_error("Call(%s): %d %s\n", text, result, pyproc_error_message(error));
    pyproc_error_free(error);
    fail_msg("the call failed");
  }
  return reply;
}

pyproc_error *echo_failure(pyproc_pool *pool, const char *text, const pyproc_call_options *options) {
  Remote__Item request = REMOTE__ITEM__INIT, *reply = NULL;
  pyproc_error *error = NULL;
  request.text = text;
  int result = remote_echo_call_with(pool, &request, options, &reply, &error);
  assert_true(result < 0);
  assert_null(reply);
  assert_non_null(error);
  assert_int_equal(result, pyproc_error_code(error));
  return error;
}
