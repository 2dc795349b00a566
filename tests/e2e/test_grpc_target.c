/*
 * Calls of servers elsewhere: plain grpcio servers, which know nothing of this library.
 */
#include <signal.h>
#include <unistd.h>

#include "grpc_support.h"

static pyproc_pool *open_target(const char *target) {
  pyproc_pool_options options = options_for_target(target);
  return open_pool(&options);
}

static const char *unix_target(char *text, size_t size, const char *name) {
  snprintf(text, size, "unix:%s", temporary_path(name));
  return text;
}

static void test_unary(void **state) {
  (void)state;
  char target[512];
  grpc_server server = grpc_server_start(unix_target(target, sizeof target, "s"), "one", NULL);
  pyproc_pool *pool = open_target(target);
  for (int i = 0; i < scaled(200); i++) {
    Remote__Item *reply = echo(pool, "hello");
    assert_string_equal(reply->text, "hello");
    assert_int_equal(reply->number, 7);
    pyproc_reply_free(reply);
  }
  pyproc_health health = PYPROC_HEALTH_INIT;
  assert_int_equal(pyproc_pool_health(pool, &health), 0);
  assert_int_equal(health.workers, 1);
  assert_int_equal(health.workers_ready, 1);
  assert_int_equal(health.in_flight, 0);
  assert_int_equal(health.failures, 0);
  pyproc_pool_close(pool);
  grpc_server_kill(&server);
}

static void test_errors(void **state) {
  (void)state;
  char target[512];
  grpc_server server = grpc_server_start(unix_target(target, sizeof target, "s"), "one", NULL);
  pyproc_pool *pool = open_target(target);
  assert_error(echo_failure(pool, "fail", NULL), PYPROC_E_UNKNOWN, "no good", RAN);
  for (int code = 1; code <= 16; code++) {
    char text[32], expected[32];
    snprintf(text, sizeof text, "refuse %d", code);
    snprintf(expected, sizeof expected, "refused with %d", code);
    assert_error(echo_failure(pool, text, NULL), -code, expected, RAN);
  }
  assert_error(call_failure(pool, "predict", "{}", 0), PYPROC_E_UNIMPLEMENTED, "", RAN);
  pyproc_pool_close(pool);
  grpc_server_kill(&server);
}

static void test_deadline(void **state) {
  (void)state;
  char target[512];
  grpc_server server = grpc_server_start(unix_target(target, sizeof target, "s"), "one", NULL);
  pyproc_pool *pool = open_target(target);
  pyproc_call_options options = PYPROC_CALL_OPTIONS_INIT;
  options.timeout_ms = 50;
  assert_error(echo_failure(pool, "sleep 60000", &options), PYPROC_E_DEADLINE_EXCEEDED, "within 50 ms", RAN);
  options.timeout_ms = -1;
  assert_error(echo_failure(pool, "", &options), PYPROC_E_DEADLINE_EXCEEDED, "before it was sent", NOT_RUN);
  Remote__Item *reply = echo(pool, "deadline"); /* the pool's default reaches the server */
  assert_in_range(reply->number, 1, 61000);
  pyproc_reply_free(reply);
  pyproc_pool_close(pool);
  grpc_server_kill(&server);
}

static void fire_soon(int number, void *argument) {
  (void)number;
  pause_ms(50);
  pyproc_cancel_fire(argument);
}

typedef struct cancelled_call {
  pyproc_pool *pool;
  pyproc_cancel *token;
  pyproc_error *error;
} cancelled_call;

static void call_and_fire(int number, void *argument) {
  cancelled_call *self = argument;
  if (number == 1) {
    fire_soon(0, self->token);
    return;
  }
  pyproc_call_options options = PYPROC_CALL_OPTIONS_INIT;
  Remote__Item request = REMOTE__ITEM__INIT, *reply = NULL;
  options.cancel = self->token;
  request.text = "sleep 60000";
  remote_echo_call_with(self->pool, &request, &options, &reply, &self->error);
  pyproc_reply_free(reply);
}

static void test_cancel(void **state) {
  (void)state;
  char target[512];
  grpc_server server = grpc_server_start(unix_target(target, sizeof target, "s"), "one", NULL);
  cancelled_call call = {.pool = open_target(target)};
  assert_int_equal(pyproc_cancel_new(&call.token), 0);
  run_threads(2, call_and_fire, &call);
  assert_error(call.error, PYPROC_E_CANCELLED, "was cancelled", RAN);
  pyproc_cancel_free(call.token);
  pyproc_pool_close(call.pool);
  grpc_server_kill(&server);
}

static void test_large(void **state) {
  (void)state;
  char target[512];
  grpc_server server = grpc_server_start(unix_target(target, sizeof target, "s"), "one", NULL);
  pyproc_pool *pool = open_target(target);
  Remote__Item request = REMOTE__ITEM__INIT, *reply = NULL;
  request.data.len = 20 * MIB;
  request.data.data = malloc(request.data.len);
  assert_non_null(request.data.data);
  for (size_t i = 0; i < request.data.len; i++) request.data.data[i] = (uint8_t)(i * 7 + i / 256);
  assert_int_equal(remote_echo_call(pool, &request, &reply, NULL), 0);
  assert_int_equal(reply->data.len, request.data.len);
  assert_memory_equal(reply->data.data, request.data.data, request.data.len);
  pyproc_reply_free(reply);
  free(request.data.data);
  pyproc_pool_close(pool);

  pyproc_pool_options options = options_for_target(target);
  options.frame_limit_bytes = 100000;
  pool = open_pool(&options);
  assert_error(echo_failure(pool, "void 200000", NULL), PYPROC_E_RESOURCE_EXHAUSTED, "", RAN);
  reply = echo(pool, "void 90000");
  assert_int_equal(reply->data.len, 90000);
  pyproc_reply_free(reply);
  pyproc_pool_close(pool);
  grpc_server_kill(&server);
}

static const char *value_of(const pyproc_metadata *entries, size_t count, const char *key) {
  const char *value = pyproc_metadata_get(entries, count, key);
  return value != NULL ? value : "(none)";
}

static void test_metadata(void **state) {
  (void)state;
  char target[512];
  size_t count = 0;
  grpc_server server = grpc_server_start(unix_target(target, sizeof target, "s"), "one", NULL);
  pyproc_pool *pool = open_target(target);
  const char trace[] = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
  const pyproc_metadata metadata[] = {
      {"traceparent", trace, sizeof trace - 1}, {"echo", "a b", 3}, {"echo-bin", "\0\377", 2}};
  pyproc_call_options options = PYPROC_CALL_OPTIONS_INIT;
  Remote__Item request = REMOTE__ITEM__INIT, *reply = NULL;
  options.metadata = metadata;
  options.metadata_count = LENGTH(metadata);
  request.text = "header traceparent";
  assert_int_equal(remote_echo_call_with(pool, &request, &options, &reply, NULL), 0);
  assert_string_equal(reply->text, trace);
  pyproc_reply_free(reply);
  request.text = "";
  assert_int_equal(remote_echo_call_with(pool, &request, &options, &reply, NULL), 0);
  const pyproc_metadata *entries = pyproc_reply_metadata(reply, &count);
  assert_int_equal(count, 3);
  assert_string_equal(value_of(entries, count, "first"), "a b");
  assert_string_equal(value_of(entries, count, "last"), "a b");
  assert_memory_equal(value_of(entries, count, "echo-bin"), "\0\377", 2);
  pyproc_reply_free(reply);
  pyproc_error *error = echo_failure(pool, "refuse 5", NULL);
  entries = pyproc_error_metadata(error, &count);
  assert_int_equal(count, 1);
  assert_string_equal(value_of(entries, count, "why"), "because");
  pyproc_error_free(error);
  pyproc_pool_close(pool);
  grpc_server_kill(&server);
}

/* ---- several backends ---- */

static void test_round_robin(void **state) {
  (void)state;
  enum { SERVERS = 3 };
  char target[256];
  int answered[SERVERS] = {0}, calls = scaled(300);
  grpc_server servers[SERVERS];
  for (int i = 0; i < SERVERS; i++) {
    const char name[] = {(char)('0' + i), '\0'};
    servers[i] = grpc_server_start("127.0.0.1:0", name, NULL);
  }
  snprintf(target, sizeof target, "ipv4:127.0.0.1:%d,127.0.0.1:%d,127.0.0.1:%d", servers[0].port, servers[1].port,
           servers[2].port);
  pyproc_pool *pool = open_target(target);
  for (int i = 0; i < 60000 && (answered[0] == 0 || answered[1] == 0 || answered[2] == 0); i++) {
    Remote__Item *reply = echo(pool, "name"); /* until all are connected */
    answered[*reply->text - '0']++;
    pyproc_reply_free(reply);
  }
  for (int i = 0; i < SERVERS; i++) assert_true(answered[i] > 0);
  grpc_server_kill(&servers[1]);
  int failed = 0, others = 0;
  for (int i = 0; i < calls; i++) { /* what was on its way to it may fail, and nothing else */
    Remote__Item request = REMOTE__ITEM__INIT, *reply = NULL;
    pyproc_error *error = NULL;
    request.text = "name";
    if (remote_echo_call(pool, &request, &reply, &error) < 0) {
      assert_int_equal(pyproc_error_code(error), PYPROC_E_UNAVAILABLE);
      failed++;
    } else {
      assert_string_not_equal(reply->text, "1");
      others++;
    }
    pyproc_reply_free(reply);
    pyproc_error_free(error);
  }
  assert_true(failed <= 2);
  assert_int_equal(failed + others, calls);
  pyproc_pool_close(pool);
  for (int i = 0; i < SERVERS; i++) grpc_server_kill(&servers[i]);
}

static void test_nobody_there(void **state) {
  (void)state;
  char target[512];
  unix_target(target, sizeof target, "s");
  pyproc_pool *pool = open_target(target);
  pyproc_health health = PYPROC_HEALTH_INIT;
  assert_error(echo_failure(pool, "", NULL), PYPROC_E_UNAVAILABLE, "", RAN);
  assert_int_equal(pyproc_pool_health(pool, &health), 0);
  assert_int_equal(health.workers_ready, 0);
  grpc_server server = grpc_server_start(target, "late", NULL);
  Remote__Item request = REMOTE__ITEM__INIT, *reply = NULL;
  request.text = "name";
  WAIT_FOR(reply != NULL || remote_echo_call(pool, &request, &reply, NULL) == 0);
  assert_string_equal(reply->text, "late");
  pyproc_reply_free(reply);
  grpc_server_kill(&server);
  WAIT_FOR(pyproc_pool_health(pool, &health) == 0 &&
           health.workers_ready == 0); /* nobody calls: it is seen all the same */
  pyproc_pool_close(pool);
}

/* ---- TLS ---- */

static void make_certificates(const char *folder) {
  char command[4096];
  snprintf(command, sizeof command,
           "set -e; cd '%s'; exec 2>openssl.log; req='openssl req -newkey rsa:2048 -nodes'; "
           "$req -x509 -keyout ca.key -out ca.pem -days 2 -subj /CN=test-ca; "
           "for who in server client; do $req -keyout $who.key -out $who.csr -subj /CN=localhost; "
           "echo subjectAltName=IP:127.0.0.1 > $who.ext; openssl x509 -req -in $who.csr -CA ca.pem -CAkey ca.key "
           "-CAcreateserial -out $who.pem -days 2 -extfile $who.ext; done; "
           "$req -x509 -keyout other.key -out other.pem -days 2 -subj /CN=another-ca",
           folder);
  run_command(command);
}

static void test_tls(void **state) {
  (void)state;
  char folder[512], target[64];
  snprintf(folder, sizeof folder, "%s", temporary_path("ca.pem"));
  *strrchr(folder, '/') = '\0';
  make_certificates(folder);
  grpc_server server = grpc_server_start("127.0.0.1:0", "safe", folder);
  snprintf(target, sizeof target, "dns:///127.0.0.1:%d", server.port);
  pyproc_pool_options options = options_for_target(target);
  options.tls_ca_file = temporary_path("ca.pem");
  options.tls_cert_file = temporary_path("client.pem");
  options.tls_key_file = temporary_path("client.key");
  options.authorization = "Bearer secret";
  pyproc_pool *pool = open_pool(&options);
  Remote__Item *reply = echo(pool, "header authorization");
  assert_string_equal(reply->text, "Bearer secret");
  pyproc_reply_free(reply);
  pyproc_pool_close(pool);

  options.tls_ca_file = temporary_path("other.pem"); /* nobody whom it trusts has signed the server's */
  pool = open_pool(&options);
  assert_error(echo_failure(pool, "name", NULL), PYPROC_E_UNAVAILABLE, "", RAN);
  pyproc_pool_close(pool);
  options.tls_ca_file = temporary_path("absent.pem");
  assert_error(open_failure(&options), PYPROC_E_NOT_FOUND, "option tls_ca_file", NOT_RUN);
  options.tls_ca_file = temporary_path("server.ext");
  assert_error(open_failure(&options), PYPROC_E_INVALID_ARGUMENT, "no PEM file", NOT_RUN);
  grpc_server_kill(&server);
}

/* ---- asynchronous calls ---- */

static void count_reply(int result, Remote__Item *reply, pyproc_error *error, void *userdata) {
  int *good = userdata;
  if (result == 0 && reply->number == 5) (*good)++;
  pyproc_reply_free(reply);
  pyproc_error_free(error);
}

static void test_submit(void **state) {
  (void)state;
  char target[512];
  int good = 0, calls = scaled(400), ended = 0;
  grpc_server server = grpc_server_start(unix_target(target, sizeof target, "s"), "one", NULL);
  pyproc_pool *pool = open_target(target);
  Remote__Item request = REMOTE__ITEM__INIT;
  request.number = 5;
  for (int i = 0; i < calls; i++) {
    assert_int_equal(remote_echo_call_submit(pool, &request, NULL, count_reply, &good, NULL), 0);
    while (i - ended >= 64) ended += pyproc_pool_dispatch(pool, -1);
    if (i % 16 == 0) pyproc_reply_free(echo(pool, "")); /* a blocking one between */
  }
  while (ended < calls) ended += pyproc_pool_dispatch(pool, -1);
  assert_int_equal(good, calls);
  pyproc_future *future = NULL;
  request.text = "sleep 60000";
  pyproc_call_options options = PYPROC_CALL_OPTIONS_INIT;
  options.timeout_ms = 30;
  assert_int_equal(remote_echo_call_start(pool, &request, &options, &future, NULL), 0);
  Remote__Item *reply = NULL;
  pyproc_error *error = NULL;
  assert_int_equal(remote_echo_call_finish(future, &reply, &error), PYPROC_E_DEADLINE_EXCEEDED);
  assert_error(error, PYPROC_E_DEADLINE_EXCEEDED, "within 30 ms", RAN);
  pyproc_future_free(future);
  assert_int_equal(remote_echo_call_start(pool, &request, NULL, &future, NULL), 0);
  pyproc_future_free(future); /* cancels it */
  pyproc_pool_close(pool);
  grpc_server_kill(&server);
}

static void call_many(int number, void *argument) {
  for (int i = 0; i < scaled(100); i++) {
    Remote__Item request = REMOTE__ITEM__INIT, *reply = NULL;
    request.number = number * 1000 + i;
    if (remote_echo_call(argument, &request, &reply, NULL) < 0 || reply->number != request.number) abort();
    pyproc_reply_free(reply);
  }
}

static void test_threads(void **state) {
  (void)state;
  char target[512];
  grpc_server server = grpc_server_start(unix_target(target, sizeof target, "s"), "one", NULL);
  pyproc_pool *pool = open_target(target);
  run_threads(8, call_many, pool);
  pyproc_pool_close(pool);
  grpc_server_kill(&server);
}

static void sleep_long(int number, void *argument) {
  cancelled_call *self = argument;
  if (number == 1) {
    pyproc_health health = PYPROC_HEALTH_INIT;
    while (pyproc_pool_health(self->pool, &health) == 0 && health.in_flight == 0) pause_ms(1);
    pyproc_pool_close(self->pool);
    return;
  }
  Remote__Item request = REMOTE__ITEM__INIT, *reply = NULL;
  request.text = "sleep 60000";
  remote_echo_call(self->pool, &request, &reply, &self->error);
}

static void test_close_under_a_call(void **state) {
  (void)state;
  char target[512];
  grpc_server server = grpc_server_start(unix_target(target, sizeof target, "s"), "one", NULL);
  pyproc_pool_options options = options_for_target(target);
  options.drain_timeout_ms = PYPROC_OFF;
  cancelled_call call = {.pool = open_pool(&options)};
  run_threads(2, sleep_long, &call);
  assert_error(call.error, PYPROC_E_UNAVAILABLE, "closed", RAN);
  grpc_server_kill(&server);
}

/* ---- options ---- */

static void test_options(void **state) {
  (void)state;
  const pyproc_service *const services[] = {NULL};
  const char *const list[] = {NULL};
  pyproc_pool_options options = options_for_target("unix:/nowhere");
#define REFUSED(member, given, part) \
  do { \
    pyproc_pool_options changed = options; \
    changed.member = (given); \
    assert_error(open_failure(&changed), PYPROC_E_INVALID_ARGUMENT, (part), NOT_RUN); \
  } while (0)
  REFUSED(script, "x.py", "options target and script");
  REFUSED(python, "python3", "options target and python");
  REFUSED(cwd, "/", "options target and cwd");
  REFUSED(args, list, "options target and args");
  REFUSED(env, list, "options target and env");
  REFUSED(workers, 2, "options target and workers");
  REFUSED(services, services, "options target and services");
  REFUSED(protocol, "json", "options target and protocol");
  REFUSED(target, "", "option target is empty");
  REFUSED(target, "ipv4:nowhere", "option target is \"ipv4:nowhere\"");
  REFUSED(tls_cert_file, "x.pem", "options tls_cert_file, tls_key_file");
  REFUSED(authorization, "a\nb", "option authorization");
  options.target = "ipv4:127.0.0.1:1";
  REFUSED(authorization, "Bearer x", "without tls_ca_file");
  options.target = NULL;
  options.script = "x.py";
  REFUSED(authorization, "Bearer x", "options authorization and target");
  REFUSED(tls_ca_file, "x.pem", "options tls_ca_file and target");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      E2E_TEST(test_unary),
      E2E_TEST(test_errors),
      E2E_TEST(test_deadline),
      E2E_TEST(test_cancel),
      E2E_TEST(test_large),
      E2E_TEST(test_metadata),
      E2E_TEST(test_round_robin),
      E2E_TEST(test_tls),
      E2E_TEST(test_submit),
      E2E_TEST(test_nobody_there),
      E2E_TEST(test_threads),
      E2E_TEST(test_options),
      E2E_TEST(test_close_under_a_call),
  };
  return RUN_GRPC_TESTS(tests);
}
