/* cases.h - what is measured. A case runs for `seconds` and may be run again and again, in turn with others. */
#ifndef BENCH_CASES_H
#define BENCH_CASES_H

#include <stdbool.h>

#include "samples.h"

/* What one case has measured so far, over all its rounds. */
typedef struct measure {
  samples samples; /* one time per call */
  double calls;    /* and how many there were */
  double seconds;  /* in so much time */
  double fairness; /* calls of the slowest thread ÷ those of the fastest, mean over rounds */
  int rounds;
} measure;

/* The limit: bytes to another process and back over a Unix socket, no Python. */
typedef enum pingpong_mode { PINGPONG_BLOCKING, PINGPONG_SPINNING } pingpong_mode;
void run_pingpong(pingpong_mode mode, double seconds, measure *to);

/* Unary calls into Python. */
typedef struct unary_pool unary_pool;
unary_pool *unary_open(const char *protocol, int64_t spin_us);
unary_pool *unary_open_target(const char *target); /* a gRPC server elsewhere */
struct pyproc_pool *unary_handle(unary_pool *pool);
typedef enum unary_kind { UNARY_TYPED, UNARY_DYNAMIC } unary_kind;
void run_unary(unary_pool *pool, unary_kind kind, int threads, double seconds, measure *to);
void unary_close(unary_pool *pool);

/* One thread that keeps `in_flight` submitted calls under way and runs their callbacks. */
void run_submit(unary_pool *pool, int in_flight, double seconds, measure *to);

/* How long calls take beyond their deadlines, where the handler `method` does not end by itself. */
void run_deadline(unary_pool *pool, const char *method, double seconds, measure *to);
/* A plain grpcio server with so many threads, pinned to a processor unless that is negative. NULL, after saying why: there is no C++
 * client to compare with. */
typedef struct grpc_bench grpc_bench;
grpc_bench *grpc_bench_open(int threads, int cpu);
const char *grpc_bench_target(const grpc_bench *self);
/* A plain C++ client of it: blocking calls, or so many in flight. */
void run_grpc_peer(const grpc_bench *self, int in_flight, double seconds, measure *to);
void grpc_bench_close(grpc_bench *self);

#endif
