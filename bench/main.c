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

/* What a row says, and what it is compared with; -1: nothing. */
typedef struct row_text {
  const char *name;
  int limit;
  const char *limit_name;
  double goal_p99_us, goal_ratio;
} row_text;

#define SPINNING .limit = CASE_SPINNING, .limit_name = "spinning ping-pong"
#define BLOCKING .limit = CASE_BLOCKING, .limit_name = "blocking ping-pong"
#define PEER(of) .limit = (of), .limit_name = "gRPC C++", .goal_ratio = 1.25

static const row_text texts[CASES] = {
    [CASE_BLOCKING] = {"limit: UDS ping-pong, blocking", .limit = -1},
    [CASE_SPINNING] = {"limit: UDS ping-pong, spinning", .limit = -1},
    [CASE_TYPED_1] = {"typed, protobuf, 1 thread", SPINNING},
    [CASE_TYPED_MANY] = {"typed, protobuf, 16 threads", SPINNING},
    [CASE_TYPED_NO_SPIN] = {"typed, protobuf, 1 thread, spin off", BLOCKING},
    [CASE_JSON_1] = {"typed, JSON, 1 thread", SPINNING},
    [CASE_JSON_MANY] = {"typed, JSON, 16 threads", SPINNING},
    [CASE_DYNAMIC_1] = {"@expose over protobuf, 1 thread", SPINNING},
    [CASE_DYNAMIC_JSON_1] = {"@expose over JSON, 1 thread", SPINNING},
    [CASE_SUBMIT_1] = {"submit, 1 in flight", BLOCKING},
    [CASE_SUBMIT_MANY] = {"pipelined submit, 64 in flight", .limit = -1},
    [CASE_SUBMIT_JSON_MANY] = {"the same, JSON", .limit = -1},
    [CASE_LATE_SLEEP] = {"past its deadline, handler sleeps", .limit = -1, .goal_p99_us = 20000},
    [CASE_LATE_SPIN] = {"past its deadline, handler loops", .limit = -1, .goal_p99_us = 20000},
    [CASE_GRPC_WORKER_1] = {"gRPC worker, typed, 1 thread", BLOCKING},
    [CASE_GRPC_PEER_1] = {"gRPC C++ client, grpcio server", .limit = -1},
    [CASE_GRPC_TARGET_1] = {"the same server by target", PEER(CASE_GRPC_PEER_1)},
    [CASE_GRPC_PEER_MANY] = {"gRPC C++, 64 in flight", .limit = -1},
    [CASE_GRPC_TARGET_MANY] = {"the same by target, submit", PEER(CASE_GRPC_PEER_MANY)},
    [CASE_GRPC_PINNED] = {"gRPC C++, server on one processor", .limit = -1},
    [CASE_GRPC_PINNED + 1] = {"the same, by target", PEER(CASE_GRPC_PINNED)},
    [CASE_GRPC_PINNED + 2] = {"gRPC C++, 64 in flight, likewise", .limit = -1},
    [CASE_GRPC_PINNED + 3] = {"the same, by target, submit", PEER(CASE_GRPC_PINNED + 2)},
};

static measure measures[CASES];

/* The pools that the cases call. */
typedef struct pools {
  unary_pool *protobuf, *json, *blocking, *grpc;
} pools;

/* The C++ client and ours with the same server, in turn. */
typedef struct grpc_pair {
  grpc_bench *server;
  unary_pool *pool;
  measure *measures; /* four, from CASE_GRPC on */
} grpc_pair;

static grpc_pair open_pair(int threads, int cpu, measure *four) {
  grpc_pair pair = {.server = grpc_bench_open(threads, cpu), .measures = four};
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

static void run_round(const pools *all, double seconds) {
  run_pingpong(PINGPONG_BLOCKING, seconds, &measures[CASE_BLOCKING]);
  run_pingpong(PINGPONG_SPINNING, seconds, &measures[CASE_SPINNING]);
  run_unary(all->protobuf, UNARY_TYPED, 1, seconds, &measures[CASE_TYPED_1]);
  run_unary(all->protobuf, UNARY_TYPED, MANY, seconds, &measures[CASE_TYPED_MANY]);
  run_unary(all->blocking, UNARY_TYPED, 1, seconds, &measures[CASE_TYPED_NO_SPIN]);
  run_unary(all->json, UNARY_TYPED, 1, seconds, &measures[CASE_JSON_1]);
  run_unary(all->json, UNARY_TYPED, MANY, seconds, &measures[CASE_JSON_MANY]);
  run_unary(all->protobuf, UNARY_DYNAMIC, 1, seconds, &measures[CASE_DYNAMIC_1]);
  run_unary(all->json, UNARY_DYNAMIC, 1, seconds, &measures[CASE_DYNAMIC_JSON_1]);
  run_submit(all->protobuf, 1, seconds, &measures[CASE_SUBMIT_1]);
  run_submit(all->protobuf, IN_FLIGHT, seconds, &measures[CASE_SUBMIT_MANY]);
  run_submit(all->json, IN_FLIGHT, seconds, &measures[CASE_SUBMIT_JSON_MANY]);
  run_deadline(all->protobuf, "sleep", seconds, &measures[CASE_LATE_SLEEP]);
  run_deadline(all->protobuf, "spin", seconds, &measures[CASE_LATE_SPIN]);
  if (all->grpc != NULL) run_unary(all->grpc, UNARY_TYPED, 1, seconds, &measures[CASE_GRPC_WORKER_1]);
}

static int report_all(void) {
  report_row rows[CASES];
  for (int i = 0; i < CASES; i++)
    rows[i] = (report_row){.name = texts[i].name,
                           .measure = &measures[i],
                           .limit = texts[i].limit < 0 ? NULL : &measures[texts[i].limit],
                           .limit_name = texts[i].limit_name,
                           .goal_p99_us = texts[i].goal_p99_us,
                           .goal_ratio = texts[i].goal_ratio};
  return report(rows, CASES, BENCH_RESULTS);
}

int main(int argc, char **argv) {
  double seconds = argc > 1 ? atof(argv[1]) : 1.0;
  const pools all = {.protobuf = unary_open("protobuf", 0),
                     .json = unary_open("json", 0),
                     .blocking = unary_open("protobuf", PYPROC_OFF),
                     .grpc = BENCH_GRPC ? unary_open("grpc", 0) : NULL};
  grpc_pair pairs[] = {open_pair(4, -1, &measures[CASE_GRPC]), open_pair(4, 0, &measures[CASE_GRPC_PINNED])};
  for (int i = 0; i < CASES; i++) samples_init(&measures[i].samples, SAMPLES);
  for (int round = 0; round < ROUNDS; round++) {
    run_round(&all, seconds);
    for (int i = 0; i < 2; i++) run_pair(&pairs[i], seconds);
  }
  unary_close(all.protobuf);
  unary_close(all.json);
  unary_close(all.blocking);
  if (all.grpc != NULL) unary_close(all.grpc);
  for (int i = 0; i < 2; i++) close_pair(&pairs[i]);
  int result = report_all();
  for (int i = 0; i < CASES; i++) samples_free(&measures[i].samples);
  return result == 0 ? 0 : 1;
}
