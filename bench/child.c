#include "child.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "meter.h"

enum { START_TIMEOUT_MS = 20000 };

extern char **environ;

bool child_start(child *self, const char *const *argv, int descriptor) {
  int in[2], out[2];
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  if (pipe2(in, O_CLOEXEC) < 0) return false;
  if (pipe2(out, O_CLOEXEC) < 0) {
    close(in[0]), close(in[1]);
    return false;
  }
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, in[0], STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, out[1], STDOUT_FILENO);
  if (descriptor >= 0) posix_spawn_file_actions_adddup2(&actions, descriptor, CHILD_DESCRIPTOR);
  posix_spawnattr_init(&attributes); /* a process group of its own: Ctrl-C is ours */
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
  int result = posix_spawnp(&self->pid, argv[0], &actions, &attributes, (char *const *)argv, environ);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  close(in[0]), close(out[1]);
  self->input = in[1];
  self->output = out[0];
  if (result == 0) return true;
  close(in[1]), close(out[0]);
  return false;
}

const char *child_python(void) {
  const char *set = getenv("PYPROC_PYTHON");
  return set != NULL ? set : "python3";
}

bool child_is_ready(const child *self) {
  struct pollfd readable = {self->output, POLLIN, 0};
  char word[16];
  return poll(&readable, 1, START_TIMEOUT_MS) == 1 && read(self->output, word, sizeof word) > 0;
}

int child_stop(child *self) {
  int status = 0;
  close(self->input);
  close(self->output);
  while (waitpid(self->pid, &status, 0) < 0 && errno == EINTR) {}
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static bool read_times(FILE *from, double calls, samples *to) {
  samples_init(to, calls < 1 ? 1 : (size_t)calls);
  to->count = fread(to->ns, sizeof *to->ns, to->capacity, from);
  return to->count > 0;
}

bool child_measure(const char *const *argv, pid_t server, bool has_times, figures *to) {
  child self;
  samples times = {0};
  double calls = 0, seconds = 0, cpu_seconds = 0, fairness = 0;
  double before = server > 0 ? meter_cpu_us(server) : 0;
  if (!child_start(&self, argv, -1)) return false;
  FILE *output = fdopen(dup(self.output), "r");
  bool good = output != NULL && fscanf(output, "%lf %lf %lf %lf", &calls, &seconds, &cpu_seconds, &fairness) == 4 &&
              fgetc(output) == '\n' && (!has_times || read_times(output, calls, &times));
  if (output != NULL) fclose(output);
  if (child_stop(&self) != 0 || !good) {
    samples_free(&times);
    return false;
  }
  figures_set_times(to, &times);
  to->of[METRIC_RATE] = calls / seconds;
  to->of[METRIC_FAIRNESS] = fairness;
  to->of[METRIC_HOST_CPU] = cpu_seconds * 1e6 / calls;
  /* The server's share of the warm-up, a fifth as long, is taken off. */
  if (server > 0) to->of[METRIC_CPU] = to->of[METRIC_HOST_CPU] + (meter_cpu_us(server) - before) / (1.2 * calls);
  samples_free(&times);
  return true;
}
