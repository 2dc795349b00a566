/* Packing: what is sent is what protobuf has, and what cannot be sent is named. */
#include "vectors.h"

#include "codec.h"

#include "kinds.pyproc.h"
#include "kinds2.pyproc.h"

static void check_unsendable(const pyproc_message_info *info, const ProtobufCMessage *message, const char *wanted) {
  buffer out = {0};
  pyproc_error *error = NULL;
  assert_true(buffer_append_text(&out, "front"));
  assert_int_equal(codec_pack(&codec_protobuf, info, message, &out, &error), PYPROC_E_INVALID_ARGUMENT);
  assert_int_equal(pyproc_error_code(error), PYPROC_E_INVALID_ARGUMENT);
  assert_string_equal(pyproc_error_message(error), wanted);
  assert_int_equal(out.size, 5);
  assert_int_equal(codec_pack(&codec_protobuf, info, message, &out, NULL), PYPROC_E_INVALID_ARGUMENT);
  pyproc_error_free(error);
  buffer_free(&out);
}

static void check_bytes(const pyproc_message_info *info, const ProtobufCMessage *message, const char *bytes,
                        size_t size) {
  buffer out = {0};
  pyproc_error *error = NULL;
  assert_true(buffer_append_text(&out, "front"));
  if (codec_pack(&codec_protobuf, info, message, &out, &error) < 0) fail_msg("%s", pyproc_error_message(error));
  assert_int_equal(out.size, 5 + size);
  assert_memory_equal(out.data, "front", 5);
  assert_memory_equal(out.data + 5, bytes, size);
  buffer_free(&out);
}

static void test_pack(void **state) {
  (void)state;
  Kinds__Inner child = KINDS__INNER__INIT, message = KINDS__INNER__INIT;
  check_bytes(kinds_kinds_echo_inner_method.request, &message.base, "", 0);
  child.name = "\xc3\xa4";
  message.number = 150;
  message.child = &child;
  check_bytes(kinds_kinds_echo_inner_method.request, &message.base, "\x10\x96\x01\x1a\x04\x0a\x02\xc3\xa4", 9);
}

/* Presence survives: unpacked and packed again, the bytes are the same. */
static void test_same_bytes(void **state) {
  (void)state;
  json_t *root = vectors_load("json_mapping.json"), *same = json_object_get(root, "same"), *vector;
  size_t i, checked = 0;
  json_array_foreach(same, i, vector) {
    const char *name = vector_text(vector, "message");
    const pyproc_message_info *info = strcmp(name, "kinds.Optionals") == 0 ? kinds_kinds_echo_optionals_method.request
                                      : strcmp(name, "kinds.Scalars") == 0 ? kinds_kinds_echo_scalars_method.request
                                      : strcmp(name, "kinds.Choice") == 0  ? kinds_kinds_echo_choice_method.request
                                      : strcmp(name, "kinds.Lists") == 0   ? kinds_kinds_echo_lists_method.request
                                      : strcmp(name, "kinds2.Required") == 0
                                          ? kinds2_kinds2_echo_required_method.request
                                          : NULL;
    if (info == NULL) continue;
    size_t size;
    uint8_t *bytes = vector_bytes(vector_text(vector, "binary"), &size);
    ProtobufCMessage *message = NULL;
    pyproc_error *error = NULL;
    if (codec_unpack(&codec_protobuf, info, bytes, size, 1 << 20, &message, &error) < 0)
      fail_msg("%s: %s", vector_text(vector, "name"), pyproc_error_message(error));
    check_bytes(info, message, (const char *)bytes, size);
    pyproc_reply_free(message);
    free(bytes);
    checked++;
  }
  assert_true(checked >= 20);
  json_decref(root);
}

static void test_strings(void **state) {
  (void)state;
  Kinds__Scalars message = KINDS__SCALARS__INIT;
  message.a_string = NULL; /* absent */
  check_bytes(kinds_kinds_echo_scalars_method.request, &message.base, "", 0);
  message.a_string = "caf\xe9";
  check_unsendable(kinds_kinds_echo_scalars_method.request, &message.base,
                   "kinds.Scalars: field \"a_string\": the string is not valid UTF-8");
  message.a_string = "";
  message.some_bytes.len = 3;
  check_unsendable(kinds_kinds_echo_scalars_method.request, &message.base,
                   "kinds.Scalars: field \"some_bytes\": 3 bytes at NULL");
  message.some_bytes.len = 0;
  Kinds__Inner inner = KINDS__INNER__INIT;
  inner.name = "\xed\xa0\x80";
  message.a_message = &inner;
  check_unsendable(kinds_kinds_echo_scalars_method.request, &message.base,
                   "kinds.Scalars: field \"a_message.name\": the string is not valid UTF-8");
}

static void test_required(void **state) {
  (void)state;
  const pyproc_message_info *info = kinds2_kinds2_echo_required_method.request;
  Kinds2__Required message = KINDS2__REQUIRED__INIT, inner = KINDS2__REQUIRED__INIT, *more[] = {&inner};
  check_unsendable(info, &message.base, "kinds2.Required: field \"name\": is required, but NULL");
  message.name = "";
  check_bytes(info, &message.base, "\x0a\x00\x10\x00", 4);
  message.inner = &inner;
  check_unsendable(info, &message.base, "kinds2.Required: field \"inner.name\": is required, but NULL");
  message.inner = NULL;
  message.n_more = 1;
  message.more = more;
  check_unsendable(info, &message.base, "kinds2.Required: field \"more[0].name\": is required, but NULL");
}

static void test_repeated(void **state) {
  (void)state;
  const pyproc_message_info *info = kinds_kinds_echo_lists_method.request;
  const char *strings[] = {"a", NULL, "c"};
  Kinds__Lists message = KINDS__LISTS__INIT;
  message.n_strings = 3;
  message.strings = (void *)strings;
  check_unsendable(info, &message.base, "kinds.Lists: field \"strings[1]\": is NULL");
  strings[1] = "\xff";
  check_unsendable(info, &message.base, "kinds.Lists: field \"strings[1]\": the string is not valid UTF-8");
  message.n_strings = 0;
  message.n_int32s = 2;
  check_unsendable(info, &message.base, "kinds.Lists: field \"int32s\": 2 elements at NULL");
  message.n_int32s = 0;
  Kinds__Inner inner = KINDS__INNER__INIT, *messages[] = {&inner, NULL};
  message.n_messages = 2;
  message.messages = messages;
  check_unsendable(info, &message.base, "kinds.Lists: field \"messages[1]\": is NULL");
}

static void test_not_initialised(void **state) {
  (void)state;
  Kinds__Inner blank = {.number = 1}, outer = KINDS__INNER__INIT;
  check_unsendable(kinds_kinds_echo_inner_method.request, &blank.base,
                   "kinds.Inner: is not initialised as kinds.Inner (begin with its ..._INIT)");
  outer.child = &blank;
  check_unsendable(kinds_kinds_echo_inner_method.request, &outer.base,
                   "kinds.Inner: field \"child\": is not initialised as kinds.Inner (begin with its ..._INIT)");
  check_unsendable(kinds_kinds_echo_scalars_method.request, &outer.base,
                   "kinds.Scalars: is not initialised as kinds.Scalars (begin with its ..._INIT)");
}

static void test_oneof(void **state) {
  (void)state;
  Kinds__Choice message = KINDS__CHOICE__INIT;
  message.choice_case = KINDS__CHOICE__CHOICE_TEXT;
  message.text = NULL;
  check_unsendable(kinds_kinds_echo_choice_method.request, &message.base,
                   "kinds.Choice: field \"text\": is the selected one, but NULL");
  message.choice_case = KINDS__CHOICE__CHOICE_NUMBER;
  message.number = 3; /* no pointer is looked at */
  check_bytes(kinds_kinds_echo_choice_method.request, &message.base, "\x08\x03", 2);
}

static void test_nesting(void **state) {
  (void)state;
  const pyproc_message_info *info = kinds_kinds_echo_inner_method.request;
  Kinds__Inner chain[101];
  for (int i = 0; i <= 100; i++) {
    kinds__inner__init(&chain[i]);
    if (i > 0) chain[i].child = &chain[i - 1];
  }
  buffer out = {0};
  assert_int_equal(codec_pack(&codec_protobuf, info, &chain[99].base, &out, NULL), PYPROC_OK);
  ProtobufCMessage *message = NULL;
  assert_int_equal(codec_unpack(&codec_protobuf, info, out.data, out.size, 1 << 20, &message, NULL), PYPROC_OK);
  pyproc_reply_free(message);
  buffer_free(&out);
  check_unsendable(info, &chain[100].base, "kinds.Inner: messages are nested deeper than 100");
  chain[0].child = &chain[0]; /* a ring */
  check_unsendable(info, &chain[0].base, "kinds.Inner: messages are nested deeper than 100");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_pack),     cmocka_unit_test(test_same_bytes), cmocka_unit_test(test_strings),
      cmocka_unit_test(test_required), cmocka_unit_test(test_repeated),   cmocka_unit_test(test_not_initialised),
      cmocka_unit_test(test_oneof),    cmocka_unit_test(test_nesting),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
