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
  CASES
};

int main(int argc, char **argv) {
  double seconds = argc > 1 ? atof(argv[1]) : 1.0;
  static measure measures[CASES];
  unary_pool *protobuf = unary_open("protobuf", 0), *json = unary_open("json", 0),
             *blocking = unary_open("protobuf", PYPROC_OFF);
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
  }
  unary_close(protobuf);
  unary_close(json);
  unary_close(blocking);

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
  };
  int result = report(rows, (int)(sizeof rows / sizeof *rows), BENCH_RESULTS);
  for (int i = 0; i < CASES; i++) samples_free(&measures[i].samples);
  return result == 0 ? 0 : 1;
}
