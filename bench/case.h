/*
 * case.h - what is measured. The cases take turns, several rounds each; a case may be run again and again.
 */
#ifndef BENCH_CASE_H
#define BENCH_CASE_H

#include <stdbool.h>

#include "figures.h"
#include "pools.h"

typedef struct bench_case bench_case;

/* Measures for `seconds`. Returns NULL, or why it cannot be measured here: a constant text. Anything else that goes
 * wrong ends the program. */
typedef const char *bench_run(const bench_case *self, double seconds, figures *to);

struct bench_case {
  const char *name;
  bench_run *run;
  const char *limit, *peer; /* names of the cases that it is compared with, or NULL */
  pool_spec pool;           /* that it calls */
  int kind;                 /* what it does, in words of the file that runs it */
  int callers;              /* threads, or calls in flight, or messages */
  size_t bytes;             /* of the payload */
  const char *program;      /* of others, in words of the file that runs it */
  int long_by;              /* so many times as long as others; 0: once */
  bool full;                /* only in a full run */
  bool once;                /* not in every round, but once at the end, with no pool open */
};

/* The cases, one table for each file. */
typedef struct case_table {
  const bench_case *cases;
  int count;
} case_table;

extern const case_table limit_cases, turn_cases, unary_cases, submit_cases, payload_cases, stream_cases, handler_cases,
    deadline_cases, life_cases, syscall_cases, peer_cases;

/* What unary.c and submit.c run, with other pools. */
bench_run run_unary, run_submit;

#define CASE_TABLE(name, array) const case_table name = {array, (int)(sizeof(array) / sizeof *(array))}

#endif
