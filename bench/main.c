/*
 * pyproc-bench - how fast a call into Python is, beside the limit of what carries it, in one run.
 *
 * The cases take turns, several rounds each, so that a change of the machine's speed meets all of them. Usage:
 * pyproc-bench [seconds per case and round].
 */
#include <stdio.h>
#include <stdlib.h>

#include <pyproc.h>

#include "report.h"

enum { ROUNDS = 3, SAMPLES = 3 << 20, MANY = 16, IN_FLIGHT = 64 };

enum {
  CASE_BLOCKING,
  CASE_SPINNING,
  CASE_TYPED_1,
  CASE_TYPED_MANY,
  CASE_TYPED_NO_SPIN,
  CASE_JSON_1,
  CASE_JSON_MANY,
  CASE_DYNAMIC_1,
  CASE_DYNAMIC_JSON_1,
  CASE_SUBMIT_1,
  CASE_SUBMIT_MANY,
  CASE_SUBMIT_JSON_MANY,
  CASE_LATE_SLEEP,
  CASE_LATE_SPIN,
  CASE_GRPC_WORKER_1,
  CASE_GRPC, /* with each of the servers: */
  CASE_GRPC_PEER_1 = CASE_GRPC,
  CASE_GRPC_TARGET_1,
  CASE_GRPC_PEER_MANY,
  CASE_GRPC_TARGET_MANY,
  CASE_GRPC_PINNED,
  CASES = CASE_GRPC_PINNED + CASE_GRPC_PINNED - CASE_GRPC
};

/* The C++ client and ours with the same server, in turn. */
typedef struct grpc_pair {
  grpc_bench *server;
  unary_pool *pool;
  measure *measures; /* four, from CASE_GRPC on */
} grpc_pair;

static grpc_pair open_pair(int threads, int cpu, measure *measures) {
  grpc_pair pair = {.server = grpc_bench_open(threads, cpu), .measures = measures};
  if (pair.server != NULL) pair.pool = unary_open_target(grpc_bench_target(pair.server));
  return pair;
}

static void run_pair(const grpc_pair *pair, double seconds) {
  if (pair->server == NULL) return;
  run_grpc_peer(pair->server, 0, seconds, &pair->measures[0]);
  run_unary(pair->pool, UNARY_TYPED, 1, seconds, &pair->measures[1]);
  run_grpc_peer(pair->server, IN_FLIGHT, seconds, &pair->measures[2]);
  run_submit(pair->pool, IN_FLIGHT, seconds, &pair->measures[3]);
}

static void close_pair(const grpc_pair *pair) {
  if (pair->server == NULL) return;
  unary_close(pair->pool);
  grpc_bench_close(pair->server);
}

int main(int argc, char **argv) {
  double seconds = argc > 1 ? atof(argv[1]) : 1.0;
  static measure measures[CASES];
  unary_pool *protobuf = unary_open("protobuf", 0), *json = unary_open("json", 0),
             *blocking = unary_open("protobuf", PYPROC_OFF);
  unary_pool *grpc = BENCH_GRPC ? unary_open("grpc", 0) : NULL;
  grpc_pair pairs[] = {open_pair(4, -1, &measures[CASE_GRPC]), open_pair(4, 0, &measures[CASE_GRPC_PINNED])};
  for (int i = 0; i < CASES; i++) samples_init(&measures[i].samples, SAMPLES);
  for (int round = 0; round < ROUNDS; round++) {
    run_pingpong(PINGPONG_BLOCKING, seconds, &measures[CASE_BLOCKING]);
    run_pingpong(PINGPONG_SPINNING, seconds, &measures[CASE_SPINNING]);
    run_unary(protobuf, UNARY_TYPED, 1, seconds, &measures[CASE_TYPED_1]);
    run_unary(protobuf, UNARY_TYPED, MANY, seconds, &measures[CASE_TYPED_MANY]);
    run_unary(blocking, UNARY_TYPED, 1, seconds, &measures[CASE_TYPED_NO_SPIN]);
    run_unary(json, UNARY_TYPED, 1, seconds, &measures[CASE_JSON_1]);
    run_unary(json, UNARY_TYPED, MANY, seconds, &measures[CASE_JSON_MANY]);
    run_unary(protobuf, UNARY_DYNAMIC, 1, seconds, &measures[CASE_DYNAMIC_1]);
    run_unary(json, UNARY_DYNAMIC, 1, seconds, &measures[CASE_DYNAMIC_JSON_1]);
    run_submit(protobuf, 1, seconds, &measures[CASE_SUBMIT_1]);
    run_submit(protobuf, IN_FLIGHT, seconds, &measures[CASE_SUBMIT_MANY]);
    run_submit(json, IN_FLIGHT, seconds, &measures[CASE_SUBMIT_JSON_MANY]);
    run_deadline(protobuf, "sleep", seconds, &measures[CASE_LATE_SLEEP]);
    run_deadline(protobuf, "spin", seconds, &measures[CASE_LATE_SPIN]);
    if (grpc != NULL) run_unary(grpc, UNARY_TYPED, 1, seconds, &measures[CASE_GRPC_WORKER_1]);
    for (int i = 0; i < 2; i++) run_pair(&pairs[i], seconds);
  }
  unary_close(protobuf);
  unary_close(json);
  unary_close(blocking);
  if (grpc != NULL) unary_close(grpc);
  for (int i = 0; i < 2; i++) close_pair(&pairs[i]);

  const measure *spinning = &measures[CASE_SPINNING], *blocked = &measures[CASE_BLOCKING];
  const report_row rows[] = {
      {.name = "limit: UDS ping-pong, blocking", .measure = &measures[CASE_BLOCKING]},
      {.name = "limit: UDS ping-pong, spinning", .measure = &measures[CASE_SPINNING]},
      {.name = "typed, protobuf, 1 thread",
       .measure = &measures[CASE_TYPED_1],
       .limit = spinning,
       .limit_name = "spinning ping-pong"},
      {.name = "typed, protobuf, 16 threads",
       .measure = &measures[CASE_TYPED_MANY],
       .limit = spinning,
       .limit_name = "spinning ping-pong"},
      {.name = "typed, protobuf, 1 thread, spin off",
       .measure = &measures[CASE_TYPED_NO_SPIN],
       .limit = blocked,
       .limit_name = "blocking ping-pong"},
      {.name = "typed, JSON, 1 thread",
       .measure = &measures[CASE_JSON_1],
       .limit = spinning,
       .limit_name = "spinning ping-pong"},
      {.name = "typed, JSON, 16 threads",
       .measure = &measures[CASE_JSON_MANY],
       .limit = spinning,
       .limit_name = "spinning ping-pong"},
      {.name = "@expose over protobuf, 1 thread",
       .measure = &measures[CASE_DYNAMIC_1],
       .limit = spinning,
       .limit_name = "spinning ping-pong"},
      {.name = "@expose over JSON, 1 thread",
       .measure = &measures[CASE_DYNAMIC_JSON_1],
       .limit = spinning,
       .limit_name = "spinning ping-pong"},
      {.name = "submit, 1 in flight",
       .measure = &measures[CASE_SUBMIT_1],
       .limit = blocked,
       .limit_name = "blocking ping-pong"},
      {.name = "pipelined submit, 64 in flight", .measure = &measures[CASE_SUBMIT_MANY]},
      {.name = "the same, JSON", .measure = &measures[CASE_SUBMIT_JSON_MANY]},
      {.name = "past its deadline, handler sleeps", .measure = &measures[CASE_LATE_SLEEP], .goal_p99_us = 20000},
      {.name = "past its deadline, handler loops", .measure = &measures[CASE_LATE_SPIN], .goal_p99_us = 20000},
      {.name = "gRPC worker, typed, 1 thread",
       .measure = &measures[CASE_GRPC_WORKER_1],
       .limit = blocked,
       .limit_name = "blocking ping-pong"},
      {.name = "gRPC C++ client, grpcio server", .measure = &measures[CASE_GRPC_PEER_1]},
      {.name = "the same server by target",
       .measure = &measures[CASE_GRPC_TARGET_1],
       .limit = &measures[CASE_GRPC_PEER_1],
       .limit_name = "gRPC C++"},
      {.name = "gRPC C++, 64 in flight", .measure = &measures[CASE_GRPC_PEER_MANY]},
      {.name = "the same by target, submit",
       .measure = &measures[CASE_GRPC_TARGET_MANY],
       .limit = &measures[CASE_GRPC_PEER_MANY],
       .limit_name = "gRPC C++"},
      {.name = "gRPC C++, server on one processor", .measure = &measures[CASE_GRPC_PINNED]},
      {.name = "the same by target",
       .measure = &measures[CASE_GRPC_PINNED + 1],
       .limit = &measures[CASE_GRPC_PINNED],
       .limit_name = "gRPC C++"},
      {.name = "gRPC C++, 64 in flight, likewise", .measure = &measures[CASE_GRPC_PINNED + 2]},
      {.name = "the same by target, submit",
       .measure = &measures[CASE_GRPC_PINNED + 3],
       .limit = &measures[CASE_GRPC_PINNED + 2],
       .limit_name = "gRPC C++"},
  };
  int result = report(rows, (int)(sizeof rows / sizeof *rows), BENCH_RESULTS);
  for (int i = 0; i < CASES; i++) samples_free(&measures[i].samples);
  return result == 0 ? 0 : 1;
}
