/* The codec of examples/msgpack: the conformance vectors through it, its bytes, and bytes that are damaged. */
#include "vectors.h"

#include "codec.h"

#include "kinds.pyproc.h"
#include "kinds2.pyproc.h"
#ifdef UNIT_MSGPACK
#include "msgpack_codec.h"

enum { BUDGET = 1 << 20 };

static const struct codec *msgpack_of(void) {
  static const struct codec *codec;
  if (codec != NULL) return codec;
  assert_int_equal(msgpack_codec_register(NULL), 0);
  codec = codec_find("msgpack");
  assert_non_null(codec);
  return codec;
}

static const pyproc_message_info *info_of(const char *name) {
  const pyproc_message_info *const all[] = {
      kinds_kinds_echo_scalars_method.request, kinds_kinds_echo_optionals_method.request,
      kinds_kinds_echo_lists_method.request,   kinds_kinds_echo_maps_method.request,
      kinds_kinds_echo_choice_method.request,  kinds_kinds_echo_well_known_method.request,
      kinds_kinds_echo_inner_method.request,   kinds2_kinds2_echo_required_method.request,
  };
  for (size_t i = 0; i < sizeof all / sizeof *all; i++)
    if (strcmp(all[i]->name, name) == 0) return all[i];
  fail_msg("no message %s", name);
  return NULL;
}

static buffer packed(const struct codec *codec, const pyproc_message_info *info, const ProtobufCMessage *message) {
  buffer out = {0};
  pyproc_error *error = NULL;
  if (codec_pack(codec, info, message, &out, &error) < 0) fail_msg("%s", pyproc_error_message(error));
  return out;
}

static ProtobufCMessage *unpacked(const struct codec *codec, const pyproc_message_info *info, const void *data,
                                  size_t size) {
  ProtobufCMessage *message = NULL;
  pyproc_error *error = NULL;
  if (codec_unpack(codec, info, data, size, BUDGET, &message, &error) < 0) fail_msg("%s", pyproc_error_message(error));
  return message;
}

/* Reads damaged bytes; succeeding is fine. */
static void read_damaged(const pyproc_message_info *info, const void *data, size_t size) {
  ProtobufCMessage *message = NULL;
  char *exact = exact_copy(data, size);
  int result = codec_unpack(msgpack_of(), info, (const uint8_t *)exact, size, BUDGET, &message, NULL);
  if (result < 0) assert_true(result == PYPROC_E_DATA_LOSS || result == PYPROC_E_RESOURCE_EXHAUSTED);
  pyproc_reply_free(message);
  free(exact);
}

static void damage(const pyproc_message_info *info, const buffer *bytes) {
  static const uint8_t values[] = {0x00, 0x7f, 0x80, 0x8f, 0x9f, 0xa1, 0xc0, 0xc1, 0xc6, 0xd3, 0xdb, 0xdd, 0xdf, 0xff};
  for (size_t size = 0; size < bytes->size; size++) {
    read_damaged(info, bytes->data, size);
    uint8_t kept = bytes->data[size];
    for (size_t i = 0; i < sizeof values; i++) {
      bytes->data[size] = values[i];
      read_damaged(info, bytes->data, bytes->size);
    }
    bytes->data[size] = kept;
  }
}

/* Of the vectors that are the same in protobuf and JSON: protobuf to msgpack and back gives the same bytes. */
static void test_vectors(void **state) {
  (void)state;
  json_t *root = vectors_load("json_mapping.json"), *vector;
  size_t index;
  json_array_foreach(json_object_get(root, "same"), index, vector) {
    const pyproc_message_info *info = info_of(vector_text(vector, "message"));
    size_t size;
    uint8_t *binary = vector_bytes(vector_text(vector, "binary"), &size);
    ProtobufCMessage *message = unpacked(&codec_protobuf, info, binary, size);
    buffer wanted = packed(&codec_protobuf, info, message), bytes = packed(msgpack_of(), info, message);
    pyproc_reply_free(message);
    message = unpacked(msgpack_of(), info, bytes.data, bytes.size);
    buffer got = packed(&codec_protobuf, info, message);
    if (got.size != wanted.size || (got.size > 0 && memcmp(got.data, wanted.data, got.size) != 0))
      fail_msg("%s: other bytes", vector_text(vector, "name"));
    pyproc_reply_free(message);
    damage(info, &bytes);
    buffer_free(&got);
    buffer_free(&bytes);
    buffer_free(&wanted);
    free(binary);
  }
  assert_true(index > 20);
  json_decref(root);
}

static void test_bytes(void **state) {
  (void)state;
  const pyproc_message_info *info = kinds_kinds_echo_inner_method.request;
  Kinds__Inner inner = KINDS__INNER__INIT;
  buffer bytes = packed(msgpack_of(), info, &inner.base);
  assert_int_equal(bytes.size, 1);
  assert_int_equal(bytes.data[0], 0x80); /* an empty map */
  buffer_free(&bytes);
  Kinds__Inner child = KINDS__INNER__INIT, *children[] = {&child, &child};
  inner.name = "\u00e4";
  inner.number = -40;
  inner.child = &child;
  inner.children = children;
  inner.n_children = 2;
  bytes = packed(msgpack_of(), info, &inner.base);
  static const char wanted[] = "\x84\x01\xa2\u00e4\x02\xd0\xd8\x03\x80\x04\x92\x80\x80";
  assert_int_equal(bytes.size, sizeof wanted - 1);
  assert_memory_equal(bytes.data, wanted, sizeof wanted - 1);
  buffer_free(&bytes);
}

static void check_refused(const void *data, size_t size, const char *wanted) {
  const pyproc_message_info *info = kinds_kinds_echo_scalars_method.request;
  ProtobufCMessage *message = NULL;
  pyproc_error *error = NULL;
  char *exact = exact_copy(data, size);
  assert_int_equal(codec_unpack(msgpack_of(), info, (const uint8_t *)exact, size, BUDGET, &message, &error),
                   PYPROC_E_DATA_LOSS);
  assert_string_equal(pyproc_error_message(error), wanted);
  pyproc_error_free(error);
  free(exact);
}

static void test_refused(void **state) {
  (void)state;
  check_refused("", 0, "kinds.Scalars: ends too early");
  check_refused("\x90", 1, "kinds.Scalars: is no map");
  check_refused("\x80\xc0", 2, "kinds.Scalars: has bytes behind it");
  check_refused("\xdf\xff\xff\xff\xff", 5, "kinds.Scalars: announces more than there is");
  check_refused("\x81\xa1x\xc0", 4, "kinds.Scalars: has a key that is no field number");
  check_refused("\x81\x01\xc3", 3, "kinds.Scalars: field \"an_int32\": is no integer");
  check_refused("\x81\x01\xce\xff\xff\xff\xff", 7, "kinds.Scalars: field \"an_int32\": is out of the field's range");
  check_refused("\x81\x01\xd3\xff\xff\xff\xff\x7f\xff\xff\xff", 11,
                "kinds.Scalars: field \"an_int32\": is out of the field's range");
  check_refused("\x81\x01\xd4\x01\x01", 5,
                "kinds.Scalars: field \"an_int32\": an extension type, or none of MessagePack");
  check_refused("\x82\x7f\x91\x91\xa9y\x01\x01", 8,
                "kinds.Scalars: announces more than there is"); /* not known: skipped */
}

static void test_skipped(void **state) {
  (void)state;
  static const uint8_t bytes[] = {0x82, 0xcd, 0x03, 0xe7, 0x92, 0x82, 0x01, 0xa1, 'x',  0x90, 0xc4, 0x01,
                                  0x00, 0x93, 0xc0, 0xca, 0,    0,    0,    0,    0x7f, 0x01, 0x05};
  Kinds__Scalars *message =
      (Kinds__Scalars *)(void *)unpacked(msgpack_of(), kinds_kinds_echo_scalars_method.request, bytes, sizeof bytes);
  assert_int_equal(message->an_int32, 5);
  pyproc_reply_free(message);
}

/* By-name bodies: what JSON has no form for, and depth. */
static void test_json(void **state) {
  (void)state;
  static const struct {
    const char *bytes;
    size_t size;
    const char *text; /* NULL: refused */
  } cases[] = {
      {"\xc0", 1, "null"},
      {"\xcf\xff\xff\xff\xff\xff\xff\xff\xff", 9, "18446744073709551615"},
      {"\xd3\x80\x00\x00\x00\x00\x00\x00\x00", 9, "-9223372036854775808"},
      {"\xe0", 1, "-32"},
      {"\x82\xa1\x61\x92\x01\xc2\xa1\x62\xca\x3f\xc0\x00\x00", 13, "{\"a\":[1,false],\"b\":1.5}"},
      {"\xa3\x00\"\n", 4, "\"\\u0000\\\"\\n\""},
      {"", 0, NULL},
      {"\xc4\x01\x00", 3, NULL},                         /* bin */
      {"\x81\x01\x01", 3, NULL},                         /* a key that is no string */
      {"\x81\xa1\x00\x01", 4, NULL},                     /* or has a NUL */
      {"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00", 9, NULL}, /* NaN */
      {"\xa2\xc3\x28", 3, NULL},                         /* no UTF-8 */
      {"\x01\x01", 2, NULL},
      {"\xdd\xff\xff\xff\xff\x01", 6, NULL},
      {"\xc1", 1, NULL},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char *text = NULL, *exact = exact_copy(cases[i].bytes, cases[i].size);
    int result = codec_unpack_json(msgpack_of(), (const uint8_t *)exact, cases[i].size, BUDGET, &text, NULL);
    assert_int_equal(result, cases[i].text == NULL ? PYPROC_E_DATA_LOSS : PYPROC_OK);
    if (result >= 0) assert_string_equal(text, cases[i].text);
    pyproc_reply_free(text);
    free(exact);
  }
  uint8_t deep[PYPROC_JSON_NESTING_MAX + 1];
  char *text = NULL;
  memset(deep, 0x91, sizeof deep);
  deep[sizeof deep - 1] = 0x90;
  assert_int_equal(codec_unpack_json(msgpack_of(), deep, sizeof deep, BUDGET, &text, NULL), PYPROC_E_DATA_LOSS);
  deep[sizeof deep - 2] = 0x90;
  assert_int_equal(codec_unpack_json(msgpack_of(), deep, sizeof deep - 1, BUDGET, &text, NULL), PYPROC_OK);
  pyproc_reply_free(text);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_vectors), cmocka_unit_test(test_bytes), cmocka_unit_test(test_refused),
      cmocka_unit_test(test_skipped), cmocka_unit_test(test_json),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
#else
static void test_msgpack(void **state) {
  (void)state;
  print_message("skipped: libmsgpack is not installed\n");
  skip();
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_msgpack)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
#endif
