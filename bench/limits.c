/* What nothing can be faster than: bytes to another process and back, with and without the handler on the other side. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "case.h"
#include "child.h"
#include "cpus.h"
#include "exchange.h"
#include "meter.h"

enum { KIND_SPINNING, KIND_BLOCKING };
enum { WARM_UP = 5 /* a part of the time */, SAMPLES_MAX = 1 << 22, VALUE_FIELD = 1 << 3 | 1 };

/* A PredictRequest: field 1, a double. */
static void make_body(char body[9]) {
  double value = 21;
  body[0] = VALUE_FIELD;
  memcpy(body + 1, &value, sizeof value);
}

enum { BODY_SIZE = 9 };

/* The two sides are put on two processors, since what spins needs one of its own, or both on one. */
static void start(child *server, const bench_case *self, const char *channel, int descriptor) {
  const char *mode = self->kind == KIND_SPINNING ? "spin" : "block";
  const char *const argv[] = {BENCH_INPROCESS, "serve", self->program, channel, mode, NULL};
  if (!child_start(server, argv, descriptor)) bench_die("cannot start " BENCH_INPROCESS, NULL);
  cpus_pin(0, 0);
  cpus_pin(server->pid, self->pool.placement != PLACE_SAME_CPU);
}

static void stop(child *server) {
  child_stop(server);
  cpus_free(0);
}

static void finish(const meter *cost, double calls, int64_t took_ns, samples *times, figures *to) {
  meter_end(cost, calls, to);
  to->of[METRIC_RATE] = calls / ((double)took_ns / 1e9);
  figures_set_times(to, times);
  samples_free(times);
}

/* ---- one message at a time ---- */

/* Until `end`; returns how many there were. */
static double socket_pingpong(int socket, bool spin, int64_t end, samples *to) {
  char message[EXCHANGE_HEAD + EXCHANGE_BODY_MAX], reply[sizeof message], body[BODY_SIZE];
  double calls = 0;
  make_body(body);
  for (int64_t before = now_ns(); before < end; calls++) {
    size_t size = exchange_put(message, body, BODY_SIZE), there = 0;
    if (!exchange_send(socket, message, size)) bench_die("ping-pong: send", NULL);
    while (exchange_size(reply, there) == 0) {
      ssize_t count = exchange_receive(socket, reply + there, sizeof reply - there, spin);
      if (count <= 0) bench_die("ping-pong: the other side has ended", NULL);
      there += (size_t)count;
    }
    int64_t now = now_ns();
    samples_add(to, now - before);
    before = now;
  }
  return calls;
}

static const char *run_socket(const bench_case *self, double seconds, figures *to) {
  int sockets[2];
  child server;
  samples times;
  meter cost;
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) < 0) bench_die("socketpair", NULL);
  start(&server, self, "uds", sockets[1]);
  close(sockets[1]);
  samples_init(&times, SAMPLES_MAX);
  bool spin = self->kind == KIND_SPINNING;
  socket_pingpong(sockets[0], spin, 0, &times);
  socket_pingpong(sockets[0], spin, now_ns() + (int64_t)(seconds * 1e9 / WARM_UP), &times);
  times.count = 0;
  meter_begin(&cost, &server.pid, 1);
  int64_t began = now_ns();
  double calls = socket_pingpong(sockets[0], spin, began + (int64_t)(seconds * 1e9), &times);
  finish(&cost, calls, now_ns() - began, &times, to);
  close(sockets[0]);
  stop(&server);
  return NULL;
}

static double memory_pingpong(exchange_memory *memory, uint32_t *place, int64_t end, samples *to) {
  char body[BODY_SIZE];
  double calls = 0;
  make_body(body);
  for (int64_t before = now_ns(); before < end || calls == 0; calls++) {
    exchange_push(&memory->requests, *place, body, BODY_SIZE);
    if (exchange_wait(memory, &memory->replies, *place) == NULL) bench_die("ping-pong", NULL);
    ++*place;
    int64_t now = now_ns();
    samples_add(to, now - before);
    before = now;
  }
  return calls;
}

static exchange_memory *make_memory(int *ret_descriptor) {
  *ret_descriptor = memfd_create("pyproc-bench", MFD_CLOEXEC);
  if (*ret_descriptor < 0 || ftruncate(*ret_descriptor, sizeof(exchange_memory)) < 0) bench_die("memfd_create", NULL);
  exchange_memory *memory =
      mmap(NULL, sizeof *memory, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, *ret_descriptor, 0);
  if (memory == MAP_FAILED) bench_die("mmap", NULL);
  return memory;
}

static void drop_memory(exchange_memory *memory, int descriptor, child *server) {
  atomic_store(&memory->closed, 1);
  stop(server);
  munmap(memory, sizeof *memory);
  close(descriptor);
}

static const char *run_memory(const bench_case *self, double seconds, figures *to) {
  int descriptor;
  exchange_memory *memory = make_memory(&descriptor);
  child server;
  samples times;
  meter cost;
  uint32_t place = 0;
  start(&server, self, "shm", descriptor);
  samples_init(&times, SAMPLES_MAX);
  memory_pingpong(memory, &place, 0, &times); /* until the other side is there */
  memory_pingpong(memory, &place, now_ns() + (int64_t)(seconds * 1e9 / WARM_UP), &times);
  times.count = 0;
  meter_begin(&cost, &server.pid, 1);
  int64_t began = now_ns();
  double calls = memory_pingpong(memory, &place, began + (int64_t)(seconds * 1e9), &times);
  finish(&cost, calls, now_ns() - began, &times, to);
  drop_memory(memory, descriptor, &server);
  return NULL;
}

/* ---- many on their way ---- */

/* As many as were answered follow, by one write. */
static void socket_send_many(int socket, int count) {
  char message[EXCHANGE_HEAD + EXCHANGE_BODY_MAX], all[EXCHANGE_BUFFER], body[BODY_SIZE];
  size_t size = 0;
  make_body(body);
  size_t one = exchange_put(message, body, BODY_SIZE);
  for (int i = 0; i < count; i++, size += one) memcpy(all + size, message, one);
  if (!exchange_send(socket, all, size)) bench_die("pipeline: send", NULL);
}

static int socket_receive_many(int socket, char *buffer, size_t *there) {
  int count = 0;
  ssize_t got = exchange_receive(socket, buffer + *there, EXCHANGE_BUFFER - *there, true);
  size_t at = 0, size;
  if (got <= 0) bench_die("pipeline: the other side has ended", NULL);
  *there += (size_t)got;
  for (; (size = exchange_size(buffer + at, *there - at)) > 0; at += size) count++;
  memmove(buffer, buffer + at, *there - at);
  *there -= at;
  return count;
}

static double socket_pipeline(int socket, int in_flight, int64_t end) {
  static char buffer[EXCHANGE_BUFFER];
  size_t there = 0;
  double calls = 0;
  socket_send_many(socket, in_flight);
  for (int open = in_flight; open > 0;) {
    int count = socket_receive_many(socket, buffer, &there);
    calls += count;
    if (now_ns() < end)
      socket_send_many(socket, count);
    else
      open -= count;
  }
  return calls;
}

static const char *run_socket_pipeline(const bench_case *self, double seconds, figures *to) {
  int sockets[2];
  child server;
  meter cost;
  samples none = {0};
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) < 0) bench_die("socketpair", NULL);
  start(&server, self, "uds", sockets[1]);
  close(sockets[1]);
  socket_pipeline(sockets[0], 1, 0); /* until the other side is there */
  socket_pipeline(sockets[0], self->callers, now_ns() + (int64_t)(seconds * 1e9 / WARM_UP));
  meter_begin(&cost, &server.pid, 1);
  int64_t began = now_ns();
  double calls = socket_pipeline(sockets[0], self->callers, began + (int64_t)(seconds * 1e9));
  finish(&cost, calls, now_ns() - began, &none, to);
  close(sockets[0]);
  stop(&server);
  return NULL;
}

static double memory_pipeline(exchange_memory *memory, uint32_t *place, uint32_t in_flight, int64_t end) {
  char body[BODY_SIZE];
  uint32_t sent = *place, answered = *place, first = *place;
  make_body(body);
  for (bool more = true; more || answered != sent;) {
    while (more && sent - answered < in_flight) exchange_push(&memory->requests, sent++, body, BODY_SIZE);
    if (exchange_wait(memory, &memory->replies, answered) == NULL) bench_die("pipeline", NULL);
    do answered++;
    while (answered != sent && exchange_look(&memory->replies, answered) != NULL);
    more = now_ns() < end;
  }
  *place = sent;
  return answered - first;
}

static const char *run_memory_pipeline(const bench_case *self, double seconds, figures *to) {
  int descriptor;
  exchange_memory *memory = make_memory(&descriptor);
  child server;
  meter cost;
  samples none = {0};
  uint32_t place = 0;
  start(&server, self, "shm", descriptor);
  memory_pipeline(memory, &place, 1, 0);
  memory_pipeline(memory, &place, (uint32_t)self->callers, now_ns() + (int64_t)(seconds * 1e9 / WARM_UP));
  meter_begin(&cost, &server.pid, 1);
  int64_t began = now_ns();
  double calls = memory_pipeline(memory, &place, (uint32_t)self->callers, began + (int64_t)(seconds * 1e9));
  finish(&cost, calls, now_ns() - began, &none, to);
  drop_memory(memory, descriptor, &server);
  return NULL;
}

/* ---- no other process ---- */

static const char *run_call(const bench_case *self, double seconds, figures *to) {
  char bytes[32], time[32];
  snprintf(bytes, sizeof bytes, "%zu", self->bytes);
  snprintf(time, sizeof time, "%.3f", seconds);
  const char *const argv[] = {BENCH_INPROCESS, "call", self->program, bytes, time, NULL};
  if (!child_measure(argv, 0, true, to)) bench_die(BENCH_INPROCESS " failed", NULL);
  if (self->bytes > 0) figures_set_bytes(to, self->bytes);
  return NULL;
}

/* Into memory that is there; `kind` 1: into memory that the kernel has yet to give. */
static const char *run_copy(const bench_case *self, double seconds, figures *to) {
  char *from = malloc(self->bytes), *into = malloc(self->bytes);
  samples times;
  if (from == NULL || into == NULL) bench_die("out of memory", NULL);
  memset(from, 1, self->bytes);
  memset(into, 2, self->bytes);
  samples_init(&times, 1 << 16);
  int64_t began = now_ns(), before = began;
  do {
    char *fresh =
        self->kind == 1 ? mmap(NULL, self->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) : into;
    if (fresh == MAP_FAILED) bench_die("out of memory", NULL);
    memcpy(fresh, from, self->bytes);
    __asm__ volatile("" : : "r"(fresh) : "memory"); /* not to be left out */
    if (self->kind == 1) munmap(fresh, self->bytes);
    int64_t now = now_ns();
    samples_add(&times, now - before);
    before = now;
  } while (before - began < (int64_t)(seconds * 1e9));
  to->of[METRIC_RATE] = (double)times.count / ((double)(before - began) / 1e9);
  figures_set_bytes(to, self->bytes);
  figures_set_times(to, &times);
  samples_free(&times);
  free(from);
  free(into);
  return NULL;
}

#define KIB ((size_t)1 << 10)
#define MIB ((size_t)1 << 20)

static const bench_case cases[] = {
    {.name = "limit: UDS ping-pong, blocking", .run = run_socket, .kind = KIND_BLOCKING, .program = "echo"},
    {.name = "limit: UDS ping-pong, spinning", .run = run_socket, .kind = KIND_SPINNING, .program = "echo"},
    {.name = "limit: shm ping-pong, spinning", .run = run_memory, .kind = KIND_SPINNING, .program = "echo"},
    {.name = "limit: handler in process", .run = run_call, .program = "predict"},
    {.name = "limit: UDS with handler, blocking", .run = run_socket, .kind = KIND_BLOCKING, .program = "predict"},
    {.name = "limit: UDS with handler, blocking, one processor",
     .run = run_socket,
     .kind = KIND_BLOCKING,
     .program = "predict",
     .pool.placement = PLACE_SAME_CPU},
    {.name = "limit: UDS with handler, spinning", .run = run_socket, .kind = KIND_SPINNING, .program = "predict"},
    {.name = "limit: shm with handler, spinning", .run = run_memory, .kind = KIND_SPINNING, .program = "predict"},
    {.name = "limit: UDS with handler, 64 in flight", .run = run_socket_pipeline, .program = "predict", .callers = 64},
    {.name = "limit: shm with handler, 64 in flight", .run = run_memory_pipeline, .program = "predict", .callers = 64},
    {.name = "limit: 0 in process", .run = run_call, .program = "blob"},
    {.name = "limit: 1 KiB in process", .run = run_call, .program = "blob", .bytes = KIB},
    {.name = "limit: 64 KiB in process", .run = run_call, .program = "blob", .bytes = 64 * KIB},
    {.name = "limit: 1 MiB in process", .run = run_call, .program = "blob", .bytes = MIB},
    {.name = "limit: 16 KiB in process", .run = run_call, .program = "blob", .bytes = 16 * KIB, .full = true},
    {.name = "limit: 256 KiB in process", .run = run_call, .program = "blob", .bytes = 256 * KIB, .full = true},
    {.name = "limit: 16 MiB in process", .run = run_call, .program = "blob", .bytes = 16 * MIB, .full = true},
    {.name = "limit: 256 MiB in process", .run = run_call, .program = "blob", .bytes = 256 * MIB, .full = true},
    {.name = "limit: 64 MiB in process", .run = run_call, .program = "blob", .bytes = 64 * MIB},
    {.name = "limit: 16 B serialised in process", .run = run_call, .program = "serialise", .bytes = 16},
    {.name = "limit: 64 KiB serialised in process", .run = run_call, .program = "serialise", .bytes = 64 * KIB},
    {.name = "limit: 16 B parsed in process", .run = run_call, .program = "parse", .bytes = 16},
    {.name = "limit: 64 KiB parsed in process", .run = run_call, .program = "parse", .bytes = 64 * KIB},
    {.name = "limit: 64 MiB memcpy", .run = run_copy, .bytes = 64 * MIB},
    {.name = "limit: 64 MiB memcpy into fresh memory", .run = run_copy, .bytes = 64 * MIB, .kind = 1},
};

CASE_TABLE(limit_cases, cases);
