/*
 * grpc_support.h - plain grpcio servers for the tests of gRPC, and a pool on one.
 */
#ifndef E2E_GRPC_SUPPORT_H
#define E2E_GRPC_SUPPORT_H

#include "remote.pyproc.h"
#include "support.h"

typedef struct grpc_server {
  long pid;
  int input, output;
  int port;
} grpc_server;

/* Whether the module was built; says so where it was not. */
bool grpc_is_built(void);

/* RUN_TESTS where it was, else success. libgrpc stays in use meanwhile: it closes its descriptors at its leisure, which
 * the check after each test would take for a leak. */
#define RUN_GRPC_TESTS(tests) (grpc_is_built() ? RUN_TESTS_WITH(tests, grpc_hold, grpc_release) : 0)
/* RUN_TESTS for programs of which only a part needs gRPC. */
#define RUN_TESTS_BESIDE_GRPC(tests) \
  (grpc_is_built() ? RUN_TESTS_WITH(tests, grpc_hold, grpc_release) : RUN_TESTS(tests))
int grpc_hold(void **state);
int grpc_release(void **state);

/* Starts grpc_server.py and waits until it serves. `tls` may be NULL. */
grpc_server grpc_server_start(const char *address, const char *name, const char *tls);
void grpc_server_kill(grpc_server *server);

/* Runs a command of a shell, which must succeed. */
void run_command(const char *command);

/* Options for a target; it is copied. */
pyproc_pool_options options_for_target(const char *target);

/* Echo.Call with a text; the reply is to be freed. */
Remote__Item *echo(pyproc_pool *pool, const char *text);
/* The same, where it must fail. */
pyproc_error *echo_failure(pyproc_pool *pool, const char *text, const pyproc_call_options *options);

#endif
