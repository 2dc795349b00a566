/*
 * One table: protocol × plain or async handlers × kind of rpc × what becomes of it. A cell that no test fills fails.
 *
 * The cells of one protocol and handlers share a pool of one worker, in the order of the table, so that each also finds
 * what the one before it left behind.
 */
#include <signal.h>
#include <unistd.h>

#include "codecs.h"
#include "grpc_support.h"
#include "matrix.pyproc.h"
#include "support.h"

enum { ANSWERS = 3, LARGE = 1 << 20, DEADLINE_MS = 500 };

typedef enum kind { UNARY, SERVER, CLIENT, BIDI, KINDS } kind;
typedef enum aspect { OK, ERROR, DEADLINE, CANCEL, METADATA, LARGE_BODIES, KILLED, ASPECTS } aspect;

static const char *const kind_names[KINDS] = {"unary", "server stream", "client stream", "bidi stream"};
static const char *const aspect_names[ASPECTS] = {"ok",       "error", "deadline",     "cancel",
                                                  "metadata", "large", "worker killed"};

typedef struct protocol_row {
  const char *name;
  const char *skipped; /* why it is not there, or NULL */
} protocol_row;

enum { JSON, PROTOBUF, TURNED, MSGPACK, GRPC };

static protocol_row protocols[] = {
    [JSON] = {"json", NULL},       [PROTOBUF] = {"protobuf", NULL},
    [TURNED] = {"turned", NULL}, /* a codec of the tests */
    [MSGPACK] = {"msgpack", NULL}, [GRPC] = {"grpc", NULL},
};

typedef struct column {
  const protocol_row *protocol;
  const char *handlers; /* "plain" or "async" */
  kind kind;
  char name[64];
  pyproc_pool *pool;
  pyproc_pool **shared; /* where that of its protocol and handlers is */
} column;

/* ---- metadata ---- */

static const pyproc_metadata test_metadata[] = {
    {"traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", 0},
    {"x-text", "a, b", 4},
    {"x-blob-bin", "\0\xff\n", 3},
    {"x-text", "again", 5},
};

/* How many of test_metadata are there, each once; -1: there is something else. */
static int count_metadata(const pyproc_metadata *found, size_t count) {
  bool taken[LENGTH(test_metadata)] = {false};
  for (size_t i = 0; i < count; i++) {
    size_t at = 0;
    for (; at < LENGTH(test_metadata); at++) {
      const pyproc_metadata *sent = &test_metadata[at];
      size_t size = sent->value_size > 0 ? sent->value_size : strlen(sent->value);
      if (!taken[at] && strcmp(found[i].key, sent->key) == 0 && found[i].value_size == size &&
          memcmp(found[i].value, sent->value, size) == 0)
        break;
    }
    if (at == LENGTH(test_metadata)) return -1;
    taken[at] = true;
  }
  return (int)count;
}

/* ---- one rpc of any kind ---- */

/* What came of it; freed by outcome_free. */
typedef struct outcome {
  int result; /* of the call, or of the receive after the last message */
  pyproc_error *error;
  int count;    /* messages received */
  int metadata; /* entries of test_metadata that a stream had in all */
  Matrix__Answer *answers[ANSWERS + 1];
} outcome;

static void outcome_free(outcome *self) {
  pyproc_error_free(self->error);
  for (int i = 0; i < self->count; i++) pyproc_reply_free(self->answers[i]);
  *self = (outcome){0};
}

static pyproc_stream *open_stream(const column *self, const Matrix__Work *work, const pyproc_call_options *options,
                                  outcome *out) {
  pyproc_stream *stream = NULL;
  switch (self->kind) {
  case SERVER:
    out->result = matrix_shapes_server_open(self->pool, work, options, &stream, &out->error);
    break;
  case CLIENT:
    out->result = matrix_shapes_client_open(self->pool, options, &stream, &out->error);
    break;
  default:
    out->result = matrix_shapes_bidi_open(self->pool, options, &stream, &out->error);
    break;
  }
  return stream;
}

static int send_work(const column *self, pyproc_stream *stream, const Matrix__Work *work, pyproc_error **reterr) {
  return self->kind == CLIENT ? matrix_shapes_client_send(stream, work, reterr)
                              : matrix_shapes_bidi_send(stream, work, reterr);
}

/* Receives one answer more. Returns whether there is one. */
static bool receive(const column *self, pyproc_stream *stream, outcome *out) {
  if (out->count > ANSWERS) fail_msg("more answers than were asked for");
  Matrix__Answer **to = &out->answers[out->count];
  out->result = self->kind == SERVER   ? matrix_shapes_server_recv(stream, to, &out->error)
                : self->kind == CLIENT ? matrix_shapes_client_recv(stream, to, &out->error)
                                       : matrix_shapes_bidi_recv(stream, to, &out->error);
  if (out->result == 1) out->count++;
  return out->result == 1;
}

static void done_sending(const column *self, pyproc_stream *stream) {
  int result = self->kind == CLIENT ? matrix_shapes_client_done_sending(stream, NULL)
                                    : matrix_shapes_bidi_done_sending(stream, NULL);
  assert_int_equal(result, 0);
}

/* Sends the work ANSWERS times where the kind of rpc allows that; a bidirectional stream is answered each time. */
static void send_all(const column *self, pyproc_stream *stream, const Matrix__Work *work, outcome *out) {
  for (int i = 0; i < ANSWERS; i++) {
    int sent = send_work(self, stream, work, &out->error);
    if (sent < 0) fail_msg("%s: %s", self->name, pyproc_error_message(out->error));
    if (sent == 0 || (self->kind == BIDI && !receive(self, stream, out))) return;
  }
  done_sending(self, stream);
}

static outcome run_stream(const column *self, const Matrix__Work *work, const pyproc_call_options *options) {
  outcome out = {0};
  pyproc_stream *stream = open_stream(self, work, options, &out);
  if (stream == NULL) return out;
  if (self->kind != SERVER) send_all(self, stream, work, &out);
  if (out.result >= 0) {
    while (receive(self, stream, &out)) {}
  }
  Matrix__Answer *again = NULL; /* the end stays what it is */
  pyproc_error *error = NULL;
  int result = self->kind == SERVER   ? matrix_shapes_server_recv(stream, &again, &error)
               : self->kind == CLIENT ? matrix_shapes_client_recv(stream, &again, &error)
                                      : matrix_shapes_bidi_recv(stream, &again, &error);
  assert_int_equal(result, out.result);
  assert_null(again);
  size_t entries = 0;
  const pyproc_metadata *beside = pyproc_stream_metadata(stream, &entries);
  out.metadata = count_metadata(beside, entries);
  pyproc_error_free(error);
  pyproc_stream_close(stream);
  return out;
}

static outcome run(const column *self, const Matrix__Work *work, const pyproc_call_options *options) {
  if (self->kind != UNARY) return run_stream(self, work, options);
  outcome out = {0};
  out.result = matrix_shapes_unary_with(self->pool, work, options, &out.answers[0], &out.error);
  out.count = out.result >= 0;
  return out;
}

/* ---- what is expected ---- */

static void assert_ok(const column *self, outcome *out, const Matrix__Work *work) {
  if (out->result < 0) {
    print_error("%s: %d %s\n%s\n", self->name, out->result, pyproc_error_message(out->error),
                pyproc_error_traceback(out->error));
    outcome_free(out);
    fail_msg("it failed");
  }
  assert_int_equal(out->count, self->kind == SERVER || self->kind == BIDI ? ANSWERS : 1);
  for (int i = 0; i < out->count; i++) {
    const Matrix__Answer *answer = out->answers[i];
    char text[64];
    if (self->kind == UNARY)
      snprintf(text, sizeof text, "%s", work->text);
    else if (self->kind == CLIENT)
      snprintf(text, sizeof text, "%s,%s,%s", work->text, work->text, work->text);
    else
      snprintf(text, sizeof text, "%s %d", work->text, i);
    assert_string_equal(answer->text, text);
    assert_int_equal(answer->count, self->kind == UNARY ? 1 : self->kind == CLIENT ? ANSWERS : i);
    assert_int_equal(answer->data.len, work->data.len);
    if (work->data.len > 0) assert_memory_equal(answer->data.data, work->data.data, work->data.len);
    assert_int_equal(answer->n_numbers, work->n_numbers);
    if (work->n_numbers == 1) assert_int_equal(answer->numbers[0]->value, work->numbers[0]->value);
  }
  outcome_free(out);
}

static void assert_failed(const column *self, outcome *out, int code, const char *part) {
  if (out->result != code)
    print_error("%s: %d, not %d: %s\n", self->name, out->result, code, pyproc_error_message(out->error));
  assert_int_equal(out->result, code);
  assert_int_equal(pyproc_error_code(out->error), code);
  assert_contains(pyproc_error_message(out->error), part);
  outcome_free(out);
}

/* Work that is answered; what the other cells leave behind must not change that. */
static void check_ok(const column *self) {
  uint8_t bytes[] = {0, 255, '{', 10};
  Matrix__Work__NumbersEntry number = MATRIX__WORK__NUMBERS_ENTRY__INIT, *numbers[] = {&number};
  Matrix__Work work = MATRIX__WORK__INIT;
  number.key = "\u00e4";
  number.value = INT64_MIN;
  work.text = "caf\u00e9 \U0001f600";
  work.data = (ProtobufCBinaryData){.len = sizeof bytes, .data = bytes};
  work.numbers = numbers;
  work.n_numbers = 1;
  work.count = ANSWERS;
  outcome out = run(self, &work, NULL);
  assert_ok(self, &out, &work);
}

/* ---- the cells ---- */

static void cell_ok(const column *self) {
  for (int i = 0; i < 3; i++) check_ok(self);
}

static void cell_error(const column *self) {
  Matrix__Work work = MATRIX__WORK__INIT;
  work.text = "soup \u00e4";
  work.then = "raise";
  outcome out = run(self, &work, NULL);
  assert_int_equal(out.count, 0);
  if (out.error != NULL) {
    assert_string_equal(pyproc_error_type(out.error), "ValueError");
    assert_contains(pyproc_error_traceback(out.error), "matrix_worker.py");
    assert_int_equal(pyproc_error_may_have_run(out.error), RAN);
    assert_true(pyproc_error_worker_pid(out.error) > 0);
  }
  assert_failed(self, &out, PYPROC_E_UNKNOWN, "soup \u00e4");
  work.then = "refuse";
  out = run(self, &work, NULL);
  assert_failed(self, &out, PYPROC_E_NOT_FOUND, "soup \u00e4");
  check_ok(self);
}

static char marker[256];

static bool has_marker(const char *suffix) {
  char path[300];
  snprintf(path, sizeof path, "%s%s", marker, suffix);
  return access(path, F_OK) == 0;
}

static Matrix__Work hanging(void) {
  static int number;
  Matrix__Work work = MATRIX__WORK__INIT;
  snprintf(marker, sizeof marker, "%s%d", temporary_path("marker"), ++number);
  work.then = "hang";
  work.marker = marker;
  return work;
}

static void cell_deadline(const column *self) {
  Matrix__Work work = hanging();
  pyproc_call_options options = PYPROC_CALL_OPTIONS_INIT;
  options.timeout_ms = DEADLINE_MS;
  outcome out = run(self, &work, &options);
  assert_int_equal(out.count, 0);
  assert_failed(self, &out, PYPROC_E_DEADLINE_EXCEEDED, "");
  WAIT_FOR(!has_marker(".begun") || has_marker(".stopped")); /* on a slow machine it may not have begun */
  options.timeout_ms = -1;
  out = run(self, &work, &options);
  assert_failed(self, &out, PYPROC_E_DEADLINE_EXCEEDED, "");
  check_ok(self);
}

static void *fire_when_begun(void *token) {
  int64_t until = now_ms() + 60000;
  while (!has_marker(".begun") && now_ms() < until) pause_ms(2);
  pyproc_cancel_fire(token);
  return NULL;
}

/* A stream that is closed while its handler runs: no message was received, no token fired. */
static void abandon(const column *self) {
  Matrix__Work work = hanging();
  outcome out = {0};
  pyproc_stream *stream = open_stream(self, &work, NULL, &out);
  assert_non_null(stream);
  if (self->kind != SERVER) assert_int_equal(send_work(self, stream, &work, NULL), 1);
  WAIT_FOR(has_marker(".begun"));
  pyproc_stream_close(stream);
  WAIT_FOR(has_marker(".stopped"));
}

static void cell_cancel(const column *self) {
  Matrix__Work work = hanging();
  pyproc_call_options options = PYPROC_CALL_OPTIONS_INIT;
  pthread_t thread;
  assert_int_equal(pyproc_cancel_new(&options.cancel), 0);
  assert_int_equal(pthread_create(&thread, NULL, fire_when_begun, options.cancel), 0);
  outcome out = run(self, &work, &options);
  pthread_join(thread, NULL);
  assert_int_equal(out.count, 0);
  assert_failed(self, &out, PYPROC_E_CANCELLED, "");
  WAIT_FOR(has_marker(".stopped"));
  out = run(self, &work, &options); /* it stays fired */
  pyproc_cancel_free(options.cancel);
  assert_failed(self, &out, PYPROC_E_CANCELLED, "");
  if (self->kind != UNARY) abandon(self);
  check_ok(self);
}

static int beside_answer(const outcome *out, int number) {
  size_t count = 0;
  const pyproc_metadata *beside = pyproc_reply_metadata(out->answers[number], &count);
  return count_metadata(beside, count);
}

static void cell_metadata(const column *self) {
  enum { ALL = LENGTH(test_metadata) };
  Matrix__Work work = MATRIX__WORK__INIT;
  pyproc_call_options options = PYPROC_CALL_OPTIONS_INIT;
  options.metadata = test_metadata;
  options.metadata_count = ALL;
  work.text = "meta";
  work.then = "metadata";
  work.count = ANSWERS;
  outcome out = run(self, &work, &options);
  for (int i = 0; i < out.count; i++) assert_int_equal(beside_answer(&out, i), i == 0 ? ALL : 0);
  if (self->kind != UNARY) assert_int_equal(out.metadata, ALL);
  assert_ok(self, &out, &work);
  work.then = "metadata_raise";
  out = run(self, &work, &options);
  size_t count = 0;
  const pyproc_metadata *beside = pyproc_error_metadata(out.error, &count);
  assert_int_equal(count_metadata(beside, count), ALL);
  assert_failed(self, &out, PYPROC_E_UNKNOWN, "meta");
  if (self->kind == SERVER || self->kind == BIDI) {
    work.then = "metadata_end";
    out = run(self, &work, &options);
    for (int i = 0; i < out.count; i++) assert_int_equal(beside_answer(&out, i), 0);
    assert_int_equal(out.metadata, ALL);
    assert_ok(self, &out, &work);
  }
  check_ok(self);
}

static void cell_large(const column *self) {
  uint8_t *bytes = malloc(LARGE);
  assert_non_null(bytes);
  for (size_t i = 0; i < LARGE; i++) bytes[i] = (uint8_t)(i * 31 + (i >> 8));
  Matrix__Work work = MATRIX__WORK__INIT;
  work.text = "large";
  work.data = (ProtobufCBinaryData){.len = LARGE, .data = bytes};
  work.count = ANSWERS;
  outcome out = run(self, &work, NULL);
  assert_ok(self, &out, &work);
  free(bytes);
}

static void cell_killed(const column *self) {
  Matrix__Work work = MATRIX__WORK__INIT;
  work.then = "kill";
  outcome out = run(self, &work, NULL);
  const pyproc_crash *crash = pyproc_error_crash(out.error);
  if (out.result == PYPROC_E_UNAVAILABLE) {
    assert_non_null(crash);
    assert_int_equal(crash->signal, SIGKILL);
    assert_int_equal(pyproc_error_may_have_run(out.error), RAN);
  }
  assert_failed(self, &out, PYPROC_E_UNAVAILABLE, "signal 9");
  check_ok(self);
}

typedef void cell(const column *self);

static cell *const cells[KINDS][ASPECTS] = {
    [UNARY] = {[OK] = cell_ok,
               [ERROR] = cell_error,
               [DEADLINE] = cell_deadline,
               [CANCEL] = cell_cancel,
               [METADATA] = cell_metadata,
               [LARGE_BODIES] = cell_large,
               [KILLED] = cell_killed},
    [SERVER] = {[OK] = cell_ok,
                [ERROR] = cell_error,
                [DEADLINE] = cell_deadline,
                [CANCEL] = cell_cancel,
                [METADATA] = cell_metadata,
                [LARGE_BODIES] = cell_large,
                [KILLED] = cell_killed},
    [CLIENT] = {[OK] = cell_ok,
                [ERROR] = cell_error,
                [DEADLINE] = cell_deadline,
                [CANCEL] = cell_cancel,
                [METADATA] = cell_metadata,
                [LARGE_BODIES] = cell_large,
                [KILLED] = cell_killed},
    [BIDI] = {[OK] = cell_ok,
              [ERROR] = cell_error,
              [DEADLINE] = cell_deadline,
              [CANCEL] = cell_cancel,
              [METADATA] = cell_metadata,
              [LARGE_BODIES] = cell_large,
              [KILLED] = cell_killed},
};

/* ---- the table ---- */

static int open_column(void **state) {
  column *self = *state;
  if (self->protocol->skipped == NULL && *self->shared == NULL) {
    const char *const args[] = {self->handlers, NULL};
    pyproc_pool_options options = options_for("matrix_worker.py");
    options.protocol = self->protocol->name;
    options.args = args;
    self->pool = *self->shared = open_pool(&options);
    check_ok(self); /* what libgrpc opens with the first call is there before descriptors are counted */
  }
  self->pool = *self->shared;
  return support_setup(state);
}

static void test_column(void **state) {
  const column *self = *state;
  if (self->protocol->skipped != NULL) {
    print_message("skipped: %s: %s\n", self->name, self->protocol->skipped);
    skip();
  }
  for (int i = 0; i < ASPECTS; i++) {
    print_message("%s: %s\n", self->name, aspect_names[i]);
    if (cells[self->kind][i] == NULL) fail_msg("no test fills %s: %s", self->name, aspect_names[i]);
    cells[self->kind][i](self);
  }
}

static const char *const handlers[] = {"plain", "async"};
static pyproc_pool *pools[LENGTH(protocols) * LENGTH(handlers)];

/* libgrpc stays in use, see grpc_support.h. */
static int hold(void **state) {
  return protocols[GRPC].skipped == NULL ? grpc_hold(state) : 0;
}

static int release(void **state) {
  for (size_t i = 0; i < LENGTH(pools); i++) pyproc_pool_close(pools[i]);
  int result = protocols[GRPC].skipped == NULL ? grpc_release(state) : 0;
  return count_children(NULL) == 0 ? result : -1;
}

int main(void) {
  static column columns[LENGTH(protocols) * LENGTH(handlers) * KINDS];
  struct CMUnitTest tests[LENGTH(columns)];
  for (size_t i = 0; i < LENGTH(columns); i++) {
    column *self = &columns[i];
    self->protocol = &protocols[i / (LENGTH(handlers) * KINDS)];
    self->handlers = handlers[i / KINDS % LENGTH(handlers)];
    self->kind = (kind)(i % KINDS);
    self->shared = &pools[i / KINDS];
    snprintf(self->name, sizeof self->name, "%s, %s, %s", self->protocol->name, self->handlers, kind_names[self->kind]);
    tests[i] = (struct CMUnitTest){.name = self->name,
                                   .test_func = test_column,
                                   .setup_func = open_column,
                                   .teardown_func = support_teardown,
                                   .initial_state = self};
  }
  register_codecs();
  if (!have_msgpack) protocols[MSGPACK].skipped = "libmsgpack is not installed";
  if (!grpc_is_built()) protocols[GRPC].skipped = "the library is built without gRPC";
  return RUN_TESTS_WITH(tests, hold, release);
}
