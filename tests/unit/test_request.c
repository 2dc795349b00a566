/* Requests as they go over the wire: headers and envelopes, before and after a connection has filled them in. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "error.h"
#include "kinds.pyproc.h"
#include "request.h"
#include "wire/envelope.h"
#include "wire/frame.h"

#include <stdlib.h>
#include <string.h>

static const uint8_t *payload_of(const frame_block *frame, size_t *ret_size) {
  assert_true(frame->bytes.size > WIRE_LENGTH_SIZE);
  assert_int_equal(wire_get32(frame->bytes.data), frame->bytes.size - WIRE_LENGTH_SIZE);
  *ret_size = frame->bytes.size - WIRE_LENGTH_SIZE;
  return frame->bytes.data + WIRE_LENGTH_SIZE;
}

static void check_header(const frame_block *frame, wire_header expected, const void *body, size_t body_size) {
  size_t size;
  wire_header header;
  const uint8_t *payload = payload_of(frame, &size);
  assert_int_equal(wire_header_get(payload, size, &header), 0);
  assert_int_equal(header.kind, WIRE_REQUEST);
  assert_int_equal(header.flags, expected.flags);
  assert_int_equal(header.code, 0);
  assert_int_equal(header.method, expected.method);
  assert_true(header.id == expected.id);
  assert_int_equal(header.timeout_ms, expected.timeout_ms);
  assert_int_equal(header.metadata_size, 0);
  assert_int_equal(size - WIRE_HEADER_SIZE, body_size);
  assert_memory_equal(payload + WIRE_HEADER_SIZE, body, body_size);
}

static void check_envelope(const frame_block *frame, uint64_t id, uint64_t timeout_ms, const char *method,
                           const char *body) {
  size_t size;
  struct envelope envelope;
  const char *payload = (const char *)payload_of(frame, &size);
  const char *wrong = envelope_parse(payload, size, &envelope);
  if (wrong != NULL) fail_msg("%s: %.*s", wrong, (int)size, payload);
  assert_int_equal(payload[0], '{');
  assert_int_equal(envelope.type, ENVELOPE_REQUEST);
  assert_true(envelope.id == id);
  assert_true(envelope.timeout_ms == timeout_ms);
  assert_int_equal(envelope.body.size, strlen(body));
  assert_memory_equal(envelope.body.data, body, envelope.body.size);
  char *name = malloc(envelope.method.size + 1);
  assert_non_null(name);
  envelope_unescape(envelope.method, name);
  assert_string_equal(name, method);
  free(name);
}

static frame_block *encode_json(const struct codec *codec, const char *method, const char *body) {
  frame_block *frame = NULL;
  pyproc_error *error = NULL;
  if (request_encode_json(codec, method, body, NULL, &frame, &error) < 0) fail_msg("%s", pyproc_error_message(error));
  assert_null(error);
  assert_int_equal(atomic_load(&frame->references), 1);
  return frame;
}

static void json_in_a_frame(void **state) {
  (void)state;
  frame_block *frame = encode_json(&codec_protobuf, "predict", " {\"value\": 42} ");
  assert_int_equal(frame->encoding, CALL_BODY_JSON);
  request_complete(frame, 4096 * 7 + 3, 65535, 1500);
  check_header(frame, (wire_header){.flags = WIRE_FLAG_JSON, .method = 65535, .id = 4096 * 7 + 3, .timeout_ms = 1500},
               " {\"value\": 42} ", 15);
  frame_block_unref(frame);
}

static void json_in_an_envelope(void **state) {
  (void)state;
  frame_block *frame = encode_json(&codec_json, "predict", "{\"value\":42}");
  assert_int_equal(frame->encoding, CALL_BODY_ENVELOPE);
  request_complete(frame, 4096 * 7 + 3, 9, 1500);
  check_envelope(frame, 4096 * 7 + 3, 1500, "predict", "{\"value\":42}");
  frame_block_unref(frame);
}

/* The frame goes to a second worker after the first has died: nothing of the first is left. */
static void completed_again(void **state) {
  (void)state;
  static const uint64_t ids[] = {UINT64_C(9007199254740991), 4096, UINT64_C(123456789012345)};
  static const int64_t timeouts[] = {UINT32_MAX, 1, 0, 60000};
  frame_block *plain = encode_json(&codec_protobuf, "m", "1"), *envelope = encode_json(&codec_json, "m", "1");
  size_t plain_size = plain->bytes.size, envelope_size = envelope->bytes.size;
  for (size_t i = 0; i < 3; i++)
    for (size_t j = 0; j < 4; j++) {
      uint32_t timeout = (uint32_t)timeouts[j];
      request_complete(plain, ids[i], (uint32_t)(i + j), timeouts[j]);
      check_header(
          plain,
          (wire_header){.flags = WIRE_FLAG_JSON, .method = (uint32_t)(i + j), .id = ids[i], .timeout_ms = timeout}, "1",
          1);
      request_complete(envelope, ids[i], 0, timeouts[j]);
      check_envelope(envelope, ids[i], timeout, "m", "1");
    }
  assert_int_equal(plain->bytes.size, plain_size);
  assert_int_equal(envelope->bytes.size, envelope_size);
  frame_block_unref(plain);
  frame_block_unref(envelope);
}

/* A deadline further away than the header can say is the furthest that it can. */
static void timeouts_beyond_the_header(void **state) {
  (void)state;
  frame_block *plain = encode_json(&codec_protobuf, "m", "1"), *envelope = encode_json(&codec_json, "m", "1");
  request_complete(plain, 4096, 0, INT64_MAX);
  check_header(plain, (wire_header){.flags = WIRE_FLAG_JSON, .id = 4096, .timeout_ms = UINT32_MAX}, "1", 1);
  request_complete(envelope, 4096, 0, (int64_t)UINT32_MAX + 1);
  check_envelope(envelope, 4096, UINT32_MAX, "m", "1");
  frame_block_unref(plain);
  frame_block_unref(envelope);
}

static void names_that_need_escapes(void **state) {
  (void)state;
  static const char *const names[] = {"", "a\"b\\c/d", "\n\t\x01", "gr\xc3\xbc\xc3\x9f", "x\",\"id\":1,\"y\":\""};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    frame_block *frame = encode_json(&codec_json, names[i], "[]");
    request_complete(frame, 4097, 0, 5);
    check_envelope(frame, 4097, 5, names[i], "[]");
    frame_block_unref(frame);
  }
  char *name = malloc(100001);
  assert_non_null(name);
  memset(name, '"', 100000);
  name[100000] = '\0';
  frame_block *frame = encode_json(&codec_json, name, "null");
  request_complete(frame, 4098, 0, 5);
  check_envelope(frame, 4098, 5, name, "null");
  frame_block_unref(frame);
  free(name);
}

static void refuse_json(const char *method, const char *body, const char *text) {
  static const struct codec *const codecs[] = {&codec_protobuf, &codec_json};
  for (size_t i = 0; i < 2; i++) {
    frame_block *frame = (frame_block *)&frame;
    pyproc_error *error = NULL;
    assert_int_equal(request_encode_json(codecs[i], method, body, NULL, &frame, &error), PYPROC_E_INVALID_ARGUMENT);
    assert_ptr_equal(frame, &frame); /* untouched */
    assert_int_equal(pyproc_error_code(error), PYPROC_E_INVALID_ARGUMENT);
    if (strstr(pyproc_error_message(error), text) == NULL) fail_msg("%s", pyproc_error_message(error));
    pyproc_error_free(error);
    assert_int_equal(request_encode_json(codecs[i], method, body, NULL, &frame, NULL), PYPROC_E_INVALID_ARGUMENT);
  }
}

static void bodies_that_are_no_json(void **state) {
  (void)state;
  static const char *const bodies[] = {"",           " ",           "{",          "{}x",      "NaN",
                                       "[Infinity]", "-Infinity",   "{\"a\":1,}", "'a'",      "\"\xff\"",
                                       "1}",         "\"\\ud800\"", "01",         "\"unended"};
  for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) refuse_json("predict", bodies[i], "predict");
  refuse_json("pre\xff"
              "dict",
              "{}", "name");
}

static void messages(void **state) {
  (void)state;
  Kinds__Inner inner = KINDS__INNER__INIT;
  uint8_t packed[64];
  inner.name = (char *)(uintptr_t) "n";
  inner.number = 300;
  size_t size = kinds__inner__pack(&inner, packed);
  frame_block *frame = NULL;
  pyproc_error *error = NULL;
  assert_int_equal(
      request_encode_message(&codec_protobuf, &kinds_kinds_echo_inner_method, &inner.base, NULL, &frame, &error), 0);
  assert_int_equal(frame->encoding, CALL_BODY_CODEC);
  request_complete(frame, 8192, 2, 10);
  check_header(frame, (wire_header){.method = 2, .id = 8192, .timeout_ms = 10}, packed, size);
  frame_block_unref(frame);
  assert_int_equal(
      request_encode_message(&codec_json, &kinds_kinds_echo_inner_method, &inner.base, NULL, &frame, &error), 0);
  assert_int_equal(frame->encoding, CALL_BODY_ENVELOPE);
  request_complete(frame, 8192, 2, 10);
  check_envelope(frame, 8192, 10, kinds_kinds_echo_inner_method.name, "{\"name\":\"n\",\"number\":300}");
  frame_block_unref(frame);
}

static void a_message_that_cannot_be_sent_names_the_field(void **state) {
  (void)state;
  static const struct codec *const codecs[] = {&codec_protobuf, &codec_json};
  Kinds__Inner inner = KINDS__INNER__INIT, child = KINDS__INNER__INIT;
  child.name = (char *)(uintptr_t) "\xff";
  inner.child = &child;
  for (size_t i = 0; i < 2; i++) {
    frame_block *frame = NULL;
    pyproc_error *error = NULL;
    assert_int_equal(
        request_encode_message(codecs[i], &kinds_kinds_echo_inner_method, &inner.base, NULL, &frame, &error),
        PYPROC_E_INVALID_ARGUMENT);
    assert_null(frame);
    if (strstr(pyproc_error_message(error), "child.name") == NULL) fail_msg("%s", pyproc_error_message(error));
    pyproc_error_free(error);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(json_in_a_frame),
      cmocka_unit_test(json_in_an_envelope),
      cmocka_unit_test(completed_again),
      cmocka_unit_test(timeouts_beyond_the_header),
      cmocka_unit_test(names_that_need_escapes),
      cmocka_unit_test(bodies_that_are_no_json),
      cmocka_unit_test(messages),
      cmocka_unit_test(a_message_that_cannot_be_sent_names_the_field),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
