#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cases.h"

struct grpc_bench {
  char target[64];
  pid_t pid;
  int input, output;
};

#if defined(BENCH_GRPC_PEER)

static void die(const char *what) {
  fprintf(stderr, "bench: gRPC: %s\n", what);
  exit(1);
}

static void become_server(const char *target, int threads, int cpu, const int in[2], const int out[2]) {
  char count[16], number[16];
  const char *python = getenv("PYPROC_PYTHON");
  snprintf(count, sizeof count, "%d", threads);
  snprintf(number, sizeof number, "%d", cpu);
  dup2(in[0], 0);
  dup2(out[1], 1);
  execlp(python != NULL ? python : "python3", "python3", BENCH_GRPC_SERVER, target, count, cpu >= 0 ? number : NULL,
         (char *)NULL);
  _exit(127);
}

grpc_bench *grpc_bench_open(int threads, int cpu) {
  static int number;
  grpc_bench *self = calloc(1, sizeof *self);
  int in[2], out[2];
  char ready[16];
  if (self == NULL || pipe2(in, O_CLOEXEC) < 0 || pipe2(out, O_CLOEXEC) < 0) die("no pipe");
  snprintf(self->target, sizeof self->target, "unix:/tmp/pyproc-bench-%ld-%d", (long)getpid(), number++);
  self->pid = fork();
  if (self->pid < 0) die("no process");
  if (self->pid == 0) become_server(self->target, threads, cpu, in, out);
  close(in[0]);
  close(out[1]);
  self->input = in[1];
  self->output = out[0]; /* stays open: it may write the line in pieces */
  if (read(out[0], ready, sizeof ready) <= 0) die("the server did not start");
  return self;
}

void run_grpc_peer(const grpc_bench *self, int in_flight, double seconds, measure *to) {
  char command[512];
  double calls = 0, took = 0;
  long long ns;
  snprintf(command, sizeof command, "'%s' %s %d %.3f", BENCH_GRPC_PEER, self->target, in_flight, seconds);
  FILE *peer = popen(command, "r");
  if (peer == NULL || fscanf(peer, "%lf %lf", &calls, &took) != 2) die("the C++ client failed");
  while (fscanf(peer, "%lld", &ns) == 1) samples_add(&to->samples, ns);
  if (pclose(peer) != 0) die("the C++ client failed");
  to->calls += calls;
  to->seconds += took;
  to->fairness += 1;
  to->rounds++;
}

void grpc_bench_close(grpc_bench *self) {
  if (self == NULL) return;
  close(self->input);
  close(self->output);
  waitpid(self->pid, NULL, 0);
  unlink(self->target + strlen("unix:"));
  free(self);
}

#else

grpc_bench *grpc_bench_open(int threads, int cpu) {
  (void)threads, (void)cpu;
  static bool said;
  if (!said) puts("skipped: the comparison with gRPC C++, which needs libgrpc++-dev and protobuf-compiler-grpc\n");
  said = true;
  return NULL;
}

void run_grpc_peer(const grpc_bench *self, int in_flight, double seconds, measure *to) {
  (void)self, (void)in_flight, (void)seconds, (void)to;
}

void grpc_bench_close(grpc_bench *self) {
  (void)self;
}

#endif

const char *grpc_bench_target(const grpc_bench *self) {
  return self->target;
}
