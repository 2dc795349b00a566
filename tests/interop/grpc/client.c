/*
 * The cases of gRPC's interop tests, by our generated stubs, against any server that implements grpc.testing.TestService.
 * Usage: client TARGET, "ipv4:127.0.0.1:10000". Prints a line for each case.
 */
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "interop_schema/test.pyproc.h"

enum { LARGE_REQUEST = 271828, LARGE_REPLY = 314159, SIZES = 4 };
static const int request_sizes[SIZES] = {27182, 8, 1828, 45904};
static const int reply_sizes[SIZES] = {31415, 9, 2653, 58979};
static char zeros[LARGE_REQUEST];
static char why[512]; /* what was wrong with a case */

/* A case: NULL, or what went wrong. */
typedef const char *test_case(pyproc_pool *pool);

static const char *wrong(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  (void)vsnprintf(why, sizeof why, format, arguments);
  va_end(arguments);
  return why;
}

/* What is wrong with a result, where `wanted` was to come; frees the error. */
static const char *check(int result, int wanted, pyproc_error *error) {
  const char *text = NULL;
  if (result != wanted)
    text = wrong("%s (%d, where %d was to come): %s", pyproc_strerror(result), result, wanted,
                 pyproc_error_message(error));
  pyproc_error_free(error);
  return text;
}

static Grpc__Testing__Payload payload_of(size_t size) {
  Grpc__Testing__Payload payload = GRPC__TESTING__PAYLOAD__INIT;
  payload.body = (ProtobufCBinaryData){.len = size, .data = (uint8_t *)zeros};
  return payload;
}

static const char *empty_unary(pyproc_pool *pool) {
  Grpc__Testing__Empty request = GRPC__TESTING__EMPTY__INIT;
  Grpc__Testing__Empty *reply = NULL;
  pyproc_error *error = NULL;
  const int result = grpc_testing_test_service_empty_call(pool, &request, &reply, &error);
  pyproc_reply_free(reply);
  return check(result, PYPROC_OK, error);
}

static const char *large_unary(pyproc_pool *pool) {
  Grpc__Testing__Payload payload = payload_of(LARGE_REQUEST);
  Grpc__Testing__SimpleRequest request = GRPC__TESTING__SIMPLE_REQUEST__INIT;
  Grpc__Testing__SimpleResponse *reply = NULL;
  pyproc_error *error = NULL;
  request.response_size = LARGE_REPLY;
  request.payload = &payload;
  const int result = grpc_testing_test_service_unary_call(pool, &request, &reply, &error);
  const char *text = check(result, PYPROC_OK, error);
  if (text == NULL && (reply->payload == NULL || reply->payload->body.len != LARGE_REPLY))
    text = wrong("the reply's payload has another size");
  pyproc_reply_free(reply);
  return text;
}

static const char *client_streaming(pyproc_pool *pool) {
  pyproc_stream *stream = NULL;
  pyproc_error *error = NULL;
  Grpc__Testing__StreamingInputCallResponse *reply = NULL;
  int total = 0;
  int result = grpc_testing_test_service_streaming_input_call_open(pool, NULL, &stream, &error);
  for (int i = 0; result >= 0 && i < SIZES; i++) {
    Grpc__Testing__Payload payload = payload_of((size_t)request_sizes[i]);
    Grpc__Testing__StreamingInputCallRequest message = GRPC__TESTING__STREAMING_INPUT_CALL_REQUEST__INIT;
    message.payload = &payload;
    total += request_sizes[i];
    result = grpc_testing_test_service_streaming_input_call_send(stream, &message, &error);
  }
  if (result >= 0) result = grpc_testing_test_service_streaming_input_call_done_sending(stream, &error);
  if (result >= 0) result = grpc_testing_test_service_streaming_input_call_recv(stream, &reply, &error);
  const char *text = check(result, 1, error);
  if (text == NULL && reply->aggregated_payload_size != total)
    text = wrong("it counted %d of %d bytes", reply->aggregated_payload_size, total);
  pyproc_reply_free(reply);
  grpc_testing_test_service_streaming_input_call_close(stream);
  return text;
}

static const char *server_streaming(pyproc_pool *pool) {
  Grpc__Testing__ResponseParameters parameters[SIZES], *list[SIZES];
  Grpc__Testing__StreamingOutputCallRequest request = GRPC__TESTING__STREAMING_OUTPUT_CALL_REQUEST__INIT;
  pyproc_stream *stream = NULL;
  pyproc_error *error = NULL;
  for (int i = 0; i < SIZES; i++) {
    parameters[i] = (Grpc__Testing__ResponseParameters)GRPC__TESTING__RESPONSE_PARAMETERS__INIT;
    parameters[i].size = reply_sizes[i];
    list[i] = &parameters[i];
  }
  request.n_response_parameters = SIZES;
  request.response_parameters = list;
  int result = grpc_testing_test_service_streaming_output_call_open(pool, &request, NULL, &stream, &error);
  const char *text = result < 0 ? check(result, PYPROC_OK, error) : NULL;
  for (int i = 0; text == NULL && i <= SIZES; i++) {
    Grpc__Testing__StreamingOutputCallResponse *reply = NULL;
    result = grpc_testing_test_service_streaming_output_call_recv(stream, &reply, &error);
    text = check(result, i < SIZES ? 1 : 0, error);
    if (text == NULL && i < SIZES && reply->payload->body.len != (size_t)reply_sizes[i])
      text = wrong("message %d has %zu bytes in place of %d", i, reply->payload->body.len, reply_sizes[i]);
    pyproc_reply_free(reply);
  }
  grpc_testing_test_service_streaming_output_call_close(stream);
  return text;
}

/* Sends a request for one reply of that size. */
static int ping(pyproc_stream *stream, int request_size, int reply_size, pyproc_error **reterr) {
  Grpc__Testing__ResponseParameters parameters = GRPC__TESTING__RESPONSE_PARAMETERS__INIT, *list = &parameters;
  Grpc__Testing__Payload payload = payload_of((size_t)request_size);
  Grpc__Testing__StreamingOutputCallRequest request = GRPC__TESTING__STREAMING_OUTPUT_CALL_REQUEST__INIT;
  parameters.size = reply_size;
  request.n_response_parameters = 1;
  request.response_parameters = &list;
  request.payload = &payload;
  return grpc_testing_test_service_full_duplex_call_send(stream, &request, reterr);
}

/* One message there and back. */
static const char *ping_pong_once(pyproc_stream *stream, int request_size, int reply_size) {
  Grpc__Testing__StreamingOutputCallResponse *reply = NULL;
  pyproc_error *error = NULL;
  int result = ping(stream, request_size, reply_size, &error);
  if (result > 0) result = grpc_testing_test_service_full_duplex_call_recv(stream, &reply, &error);
  const char *text = check(result, 1, error);
  if (text == NULL && reply->payload->body.len != (size_t)reply_size) text = wrong("a reply has another size");
  pyproc_reply_free(reply);
  return text;
}

/* The end of the stream. */
static const char *finish(pyproc_stream *stream) {
  Grpc__Testing__StreamingOutputCallResponse *reply = NULL;
  pyproc_error *error = NULL;
  int result = grpc_testing_test_service_full_duplex_call_done_sending(stream, &error);
  if (result >= 0) result = grpc_testing_test_service_full_duplex_call_recv(stream, &reply, &error);
  pyproc_reply_free(reply);
  return check(result, 0, error);
}

static const char *ping_pong_of(pyproc_pool *pool, int messages) {
  pyproc_stream *stream = NULL;
  pyproc_error *error = NULL;
  const int result = grpc_testing_test_service_full_duplex_call_open(pool, NULL, &stream, &error);
  const char *text = check(result, PYPROC_OK, error);
  for (int i = 0; text == NULL && i < messages; i++) text = ping_pong_once(stream, request_sizes[i], reply_sizes[i]);
  if (text == NULL) text = finish(stream);
  grpc_testing_test_service_full_duplex_call_close(stream);
  return text;
}

static const char *ping_pong(pyproc_pool *pool) {
  return ping_pong_of(pool, SIZES);
}

static const char *empty_stream(pyproc_pool *pool) {
  return ping_pong_of(pool, 0);
}

static const char *cancel_after_begin(pyproc_pool *pool) {
  pyproc_call_options options = PYPROC_CALL_OPTIONS_INIT;
  pyproc_stream *stream = NULL;
  pyproc_error *error = NULL;
  Grpc__Testing__StreamingInputCallResponse *reply = NULL;
  if (pyproc_cancel_new(&options.cancel) < 0) return wrong("no memory");
  int result = grpc_testing_test_service_streaming_input_call_open(pool, &options, &stream, &error);
  pyproc_cancel_fire(options.cancel);
  if (result >= 0) result = grpc_testing_test_service_streaming_input_call_recv(stream, &reply, &error);
  pyproc_reply_free(reply);
  grpc_testing_test_service_streaming_input_call_close(stream);
  pyproc_cancel_free(options.cancel);
  return check(result, PYPROC_E_CANCELLED, error);
}

static const char *cancel_after_first_response(pyproc_pool *pool) {
  pyproc_call_options options = PYPROC_CALL_OPTIONS_INIT;
  pyproc_stream *stream = NULL;
  pyproc_error *error = NULL;
  Grpc__Testing__StreamingOutputCallResponse *reply = NULL;
  if (pyproc_cancel_new(&options.cancel) < 0) return wrong("no memory");
  int result = grpc_testing_test_service_full_duplex_call_open(pool, &options, &stream, &error);
  const char *text = result < 0 ? check(result, PYPROC_OK, error) : ping_pong_once(stream, 27182, 31415);
  pyproc_cancel_fire(options.cancel);
  if (text == NULL) {
    result = grpc_testing_test_service_full_duplex_call_recv(stream, &reply, &error);
    text = check(result, PYPROC_E_CANCELLED, error);
  }
  pyproc_reply_free(reply);
  grpc_testing_test_service_full_duplex_call_close(stream);
  pyproc_cancel_free(options.cancel);
  return text;
}

static const char *timeout_on_sleeping_server(pyproc_pool *pool) {
  pyproc_call_options options = PYPROC_CALL_OPTIONS_INIT;
  pyproc_stream *stream = NULL;
  pyproc_error *error = NULL;
  Grpc__Testing__StreamingOutputCallResponse *reply = NULL;
  options.timeout_ms = 1;
  int result = grpc_testing_test_service_full_duplex_call_open(pool, &options, &stream, &error);
  if (result >= 0) result = grpc_testing_test_service_full_duplex_call_recv(stream, &reply, &error);
  pyproc_reply_free(reply);
  grpc_testing_test_service_full_duplex_call_close(stream);
  return check(result, PYPROC_E_DEADLINE_EXCEEDED, error);
}

static const pyproc_metadata sent[] = {
    {.key = "x-grpc-test-echo-initial", .value = "test_initial_metadata_value", .value_size = 27},
    {.key = "x-grpc-test-echo-trailing-bin", .value = "\x0a\x0b\x0a\x0b\x0a\x0b", .value_size = 6},
};

/* Whether both entries are among what came beside a reply. */
static const char *check_metadata(const void *reply, size_t first, size_t last) {
  size_t count = 0;
  const pyproc_metadata *const got = pyproc_reply_metadata(reply, &count);
  for (size_t i = first; i <= last; i++) {
    bool found = false;
    for (size_t j = 0; j < count; j++)
      found = found || (strcmp(got[j].key, sent[i].key) == 0 && got[j].value_size == sent[i].value_size &&
                        memcmp(got[j].value, sent[i].value, sent[i].value_size) == 0);
    if (!found) return wrong("%s did not come back", sent[i].key);
  }
  return NULL;
}

static const char *custom_metadata(pyproc_pool *pool) {
  Grpc__Testing__SimpleRequest request = GRPC__TESTING__SIMPLE_REQUEST__INIT;
  Grpc__Testing__SimpleResponse *reply = NULL;
  Grpc__Testing__StreamingOutputCallResponse *message = NULL;
  pyproc_call_options options = PYPROC_CALL_OPTIONS_INIT;
  pyproc_stream *stream = NULL;
  pyproc_error *error = NULL;
  options.metadata = sent;
  options.metadata_count = 2;
  int result = grpc_testing_test_service_unary_call_with(pool, &request, &options, &reply, &error);
  const char *text = check(result, PYPROC_OK, error);
  if (text == NULL) text = check_metadata(reply, 0, 1);
  pyproc_reply_free(reply);
  if (text != NULL) return text;
  result = grpc_testing_test_service_full_duplex_call_open(pool, &options, &stream, &error);
  if (result >= 0) result = ping(stream, 27182, 31415, &error);
  if (result > 0) result = grpc_testing_test_service_full_duplex_call_recv(stream, &message, &error);
  text = check(result, 1, error);
  if (text == NULL) text = check_metadata(message, 0, 0);
  if (text == NULL) text = finish(stream);
  pyproc_reply_free(message);
  grpc_testing_test_service_full_duplex_call_close(stream);
  return text;
}

static const char *status_of(pyproc_pool *pool, char *message) {
  Grpc__Testing__EchoStatus status = GRPC__TESTING__ECHO_STATUS__INIT;
  Grpc__Testing__SimpleRequest request = GRPC__TESTING__SIMPLE_REQUEST__INIT;
  Grpc__Testing__SimpleResponse *reply = NULL;
  pyproc_error *error = NULL;
  status.code = 2;
  status.message = message;
  request.response_status = &status;
  const int result = grpc_testing_test_service_unary_call(pool, &request, &reply, &error);
  pyproc_reply_free(reply);
  if (result == PYPROC_E_UNKNOWN && strcmp(pyproc_error_message(error), message) != 0) {
    (void)wrong("another message: %s", pyproc_error_message(error));
    pyproc_error_free(error);
    return why;
  }
  return check(result, PYPROC_E_UNKNOWN, error);
}

static const char *status_code_and_message(pyproc_pool *pool) {
  char message[] = "test status message";
  return status_of(pool, message);
}

static const char *special_status_message(pyproc_pool *pool) {
  char message[] = "\t\ntest with whitespace\r\nand Unicode BMP \xe2\x98\xba and non-BMP \xf0\x9f\x98\x88\t\n";
  return status_of(pool, message);
}

static const char *unimplemented_method(pyproc_pool *pool) {
  Grpc__Testing__Empty request = GRPC__TESTING__EMPTY__INIT;
  Grpc__Testing__Empty *reply = NULL;
  pyproc_error *error = NULL;
  const int result = grpc_testing_test_service_unimplemented_call(pool, &request, &reply, &error);
  pyproc_reply_free(reply);
  return check(result, PYPROC_E_UNIMPLEMENTED, error);
}

static const char *unimplemented_service(pyproc_pool *pool) {
  Grpc__Testing__Empty request = GRPC__TESTING__EMPTY__INIT;
  Grpc__Testing__Empty *reply = NULL;
  pyproc_error *error = NULL;
  const int result = grpc_testing_unimplemented_service_unimplemented_call(pool, &request, &reply, &error);
  pyproc_reply_free(reply);
  return check(result, PYPROC_E_UNIMPLEMENTED, error);
}

#define CASE(name) \
  { #name, name }

static const struct {
  const char *name;
  test_case *run;
} cases[] = {
    CASE(empty_unary),
    CASE(large_unary),
    CASE(client_streaming),
    CASE(server_streaming),
    CASE(ping_pong),
    CASE(empty_stream),
    CASE(cancel_after_begin),
    CASE(cancel_after_first_response),
    CASE(timeout_on_sleeping_server),
    CASE(custom_metadata),
    CASE(status_code_and_message),
    CASE(special_status_message),
    CASE(unimplemented_method),
    CASE(unimplemented_service),
};

int main(int argc, char **argv) {
  pyproc_pool_options options = PYPROC_POOL_OPTIONS_INIT;
  pyproc_pool *pool = NULL;
  pyproc_error *error = NULL;
  bool failed = false;
  if (argc != 2) {
    (void)fprintf(stderr, "usage: %s TARGET\n", argv[0]);
    return 2;
  }
  options.target = argv[1];
  if (pyproc_pool_open(&options, &pool, &error) < 0) {
    (void)printf("not ok open: %s\n", pyproc_error_message(error));
    pyproc_error_free(error);
    return 1;
  }
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    const char *text = cases[i].run(pool);
    (void)printf("%sok %s%s%s\n", text == NULL ? "" : "not ", cases[i].name, text == NULL ? "" : ": ",
                 text == NULL ? "" : text);
    failed = failed || text != NULL;
  }
  pyproc_pool_close(pool);
  return failed ? 1 : 0;
}
