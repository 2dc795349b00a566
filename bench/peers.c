#include "peers.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "case.h"
#include "child.h"

enum { KIND_SYNC, KIND_ASYNC, KIND_DOWN, KIND_UP };

/* One kind of server and the program that calls it. */
typedef struct peer {
  const char *name;
  const char *client;   /* "" where it was not built */
  const char *script;   /* of the server, in BENCH_PEERS */
  const char *prefix;   /* of its address, before the path of a socket */
  const char *argument; /* of the server, or NULL */
  const char *needs;
  const char *broken; /* why it cannot be used, once that is known */
  child server;
  char path[64], address[80];
} peer;

#define NEEDS_GRPC "gRPC C++ (libgrpc++-dev, protobuf-compiler-grpc) and python3-grpcio"

static peer peers[] = {
    {.name = "grpc", .client = BENCH_GRPC_CLIENT, .script = "grpc_server.py", .prefix = "unix:", .needs = NEEDS_GRPC},
    {.name = "grpc aio",
     .client = BENCH_GRPC_CLIENT,
     .script = "grpc_server.py",
     .prefix = "unix:",
     .argument = "aio",
     .needs = NEEDS_GRPC},
    {.name = "grpc pinned",
     .client = BENCH_GRPC_CLIENT,
     .script = "grpc_server.py",
     .prefix = "unix:",
     .argument = "pinned",
     .needs = NEEDS_GRPC},
    {.name = "thrift",
     .client = BENCH_THRIFT_CLIENT,
     .script = "thrift_server.py",
     .prefix = "",
     .needs = "Thrift (libthrift-c-glib-dev, libglib2.0-dev, thrift-compiler, python3-thrift)"},
    {.name = "zmq",
     .client = BENCH_ZMQ_CLIENT,
     .script = "zmq_server.py",
     .prefix = "ipc://",
     .needs = "ZeroMQ (libzmq3-dev, python3-zmq)"},
    {.name = "http",
     .client = BENCH_CURL_CLIENT,
     .script = "http_server.py",
     .prefix = "",
     .needs = "libcurl (libcurl4-openssl-dev) and python3-aiohttp"},
};

enum { PEERS = sizeof peers / sizeof *peers };

/* Starts the server where it does not run. Returns why it cannot, or NULL. */
static const char *start(peer *self) {
  char script[512];
  if (self->server.pid > 0 || self->broken != NULL) return self->broken;
  if (self->client[0] == '\0') return self->broken = self->needs;
  if (access(self->client, X_OK) != 0) return self->broken = "its client was not built: `make bench` does";
  snprintf(self->path, sizeof self->path, "/tmp/pyproc-bench-%ld-%d", (long)getpid(), (int)(self - peers));
  snprintf(self->address, sizeof self->address, "%s%s", self->prefix, self->path);
  snprintf(script, sizeof script, "%s/%s", BENCH_PEERS, self->script);
  const char *const argv[] = {child_python(), script, self->address, self->argument, NULL};
  if (!child_start(&self->server, argv, -1)) return self->broken = "no Python";
  if (child_is_ready(&self->server)) return NULL;
  kill(self->server.pid, SIGKILL);
  child_stop(&self->server);
  self->server.pid = 0;
  return self->broken = self->needs;
}

static peer *find(const char *name) {
  for (int i = 0; i < PEERS; i++)
    if (strcmp(peers[i].name, name) == 0) return &peers[i];
  bench_die(name, NULL);
}

/* Its client's arguments are the address, callers, seconds, and a mode with its number of bytes. */
static const char *run_peer(const bench_case *self, double seconds, figures *to) {
  static const char *const modes[] = {NULL, "async", "down", "up"};
  peer *other = find(self->program);
  const char *why = start(other);
  char callers[16], time[32], bytes[32];
  if (why != NULL) return why;
  snprintf(callers, sizeof callers, "%d", self->callers);
  snprintf(time, sizeof time, "%.3f", seconds);
  snprintf(bytes, sizeof bytes, "%zu", self->bytes);
  const char *const argv[] = {other->client, other->address, callers, time, modes[self->kind], bytes, NULL};
  if (!child_measure(argv, other->server.pid, self->kind <= KIND_ASYNC, to)) return "its client failed";
  if (self->bytes > 0) figures_set_bytes(to, self->bytes);
  return NULL;
}

/* Our stubs with the same server. */
static const char *run_target(const bench_case *self, double seconds, figures *to) {
  peer *other = find(self->program);
  const char *why = start(other);
  if (why != NULL) return why;
  bench_case copy = *self;
  copy.pool.target = other->address;
  copy.kind = 0;
  return self->kind == KIND_ASYNC ? run_submit(&copy, seconds, to) : run_unary(&copy, seconds, to);
}

void peers_stop(void) {
  for (int i = 0; i < PEERS; i++) {
    if (peers[i].server.pid <= 0) continue;
    child_stop(&peers[i].server);
    peers[i].server.pid = 0;
    unlink(peers[i].path);
  }
}

/* The Go library's pool, which starts its worker itself, with one worker and one connection. */
static const char *run_original(const bench_case *self, double seconds, figures *to) {
  const char *source = getenv("PYPROC_GO_SRC");
  char callers[16], time[32], folder[] = "/tmp/pyproc-bench-XXXXXX", path[64];
  if (source == NULL || source[0] == '\0') return "PYPROC_GO_SRC names no checkout of the Go library";
  if (access(BENCH_ORIGINAL, X_OK) != 0)
    return "the Go library's client was not built: `make bench` does, with go on PATH";
  if (mkdtemp(folder) == NULL) bench_die("no folder in /tmp", NULL);
  snprintf(callers, sizeof callers, "%d", self->callers);
  snprintf(time, sizeof time, "%.3f", seconds);
  snprintf(path, sizeof path, "%s/worker", folder);
  const char *const argv[] = {BENCH_ORIGINAL, path, callers, time, child_python(), BENCH_PEERS "/original/worker.py",
                              source,         NULL};
  bool good = child_measure(argv, 0, true, to);
  rmdir(folder);
  return good ? NULL : "the Go library's client failed";
}

#define ONE .callers = 1, .limit = "limit: UDS with handler, spinning"
#define MANY .limit = "limit: UDS with handler, 64 in flight"
#define PEER(name) .run = run_peer, .program = name
#define GRPC PEER("grpc")
/* Each call takes so long that the first ones and the last ones, with fewer others, would be a part of all. */
#define QUEUED MANY, .long_by = 2
#define DOWN(size, count) \
  .name = "gRPC stream down, " size, GRPC, .kind = KIND_DOWN, .callers = 1, .bytes = (count), \
  .limit = "limit: " size " serialised in process"
#define UP(size, count) \
  .name = "gRPC stream up, " size, GRPC, .kind = KIND_UP, .callers = 1, .bytes = (count), \
  .limit = "limit: " size " parsed in process"

static const bench_case cases[] = {
    {.name = "gRPC, 1 thread", GRPC, ONE},
    {.name = "our stub by target, 1 thread", .run = run_target, .program = "grpc", ONE, .peer = "gRPC, 1 thread"},
    {.name = "gRPC, 16 threads", GRPC, QUEUED, .callers = 16},
    {.name = "gRPC, 64 threads", GRPC, QUEUED, .callers = 64},
    {.name = "gRPC async, 64 in flight", GRPC, QUEUED, .kind = KIND_ASYNC, .callers = 64},
    {.name = "our stubs by target, 64 in flight",
     .run = run_target,
     .program = "grpc",
     QUEUED,
     .kind = KIND_ASYNC,
     .callers = 64,
     .peer = "gRPC async, 64 in flight"},
    {.name = "gRPC to aio server, 1 thread", PEER("grpc aio"), ONE},
    {.name = "gRPC to aio server, 16 threads", PEER("grpc aio"), MANY, .callers = 16},
    {.name = "gRPC to pinned server, 1 thread", PEER("grpc pinned"), ONE},
    {.name = "gRPC to pinned server, 16 threads", PEER("grpc pinned"), MANY, .callers = 16},
    {DOWN("16 B", 16)},
    {DOWN("64 KiB", 65536)},
    {UP("16 B", 16)},
    {UP("64 KiB", 65536)},
    {.name = "Thrift, 1 thread", PEER("thrift"), ONE},
    {.name = "Thrift, 16 threads", PEER("thrift"), MANY, .callers = 16},
    {.name = "ZeroMQ, 1 thread", PEER("zmq"), ONE},
    {.name = "ZeroMQ, 16 threads", PEER("zmq"), MANY, .callers = 16},
    {.name = "HTTP over UDS, 1 thread", PEER("http"), ONE},
    {.name = "HTTP over UDS, 16 threads", PEER("http"), MANY, .callers = 16},
    {.name = "original, 1 goroutine", .run = run_original, ONE},
    {.name = "original, 16 goroutines", .run = run_original, MANY, .callers = 16},
    {.name = "gRPC, 2 threads", GRPC, MANY, .callers = 2, .full = true},
    {.name = "gRPC, 4 threads", GRPC, MANY, .callers = 4, .full = true},
    {.name = "gRPC, 8 threads", GRPC, MANY, .callers = 8, .full = true},
    {.name = "gRPC, 32 threads", GRPC, MANY, .callers = 32, .full = true},
};

CASE_TABLE(peer_cases, cases);
