/* Replies in one block, and what is refused before it is unpacked. */
#include "vectors.h"

#include "buffer.h"
#include "codec.h"
#include "reply.h"

#include "kinds.pyproc.h"
#include "kinds2.pyproc.h"

enum { BUDGET = 1 << 20 };

static const ProtobufCMessageDescriptor *const inner = &kinds__inner__descriptor;
static const ProtobufCMessageDescriptor *const lists = &kinds__lists__descriptor;
static const ProtobufCMessageDescriptor *const scalars = &kinds__scalars__descriptor;

static int unpack(const ProtobufCMessageDescriptor *descriptor, const void *data, size_t size, size_t budget,
                  ProtobufCMessage **ret_message, pyproc_error **reterr) {
  char *exact = exact_copy(data, size);
  int result = reply_unpack(descriptor, (const uint8_t *)exact, size, budget, ret_message, reterr);
  free(exact);
  return result;
}

static void check_refused(const ProtobufCMessageDescriptor *descriptor, const void *data, size_t size, int code,
                          const char *wanted) {
  ProtobufCMessage *message = NULL;
  pyproc_error *error = NULL;
  assert_int_equal(unpack(descriptor, data, size, BUDGET, &message, &error), code);
  assert_int_equal(pyproc_error_code(error), code);
  assert_string_equal(pyproc_error_message(error), wanted);
  assert_null(message);
  pyproc_error_free(error);
  assert_int_equal(unpack(descriptor, data, size, BUDGET, &message, NULL), code);
}

static void test_text(void **state) {
  (void)state;
  char *text = reply_text_new("a\0b", 3);
  assert_memory_equal(text, "a\0b", 4);
  assert_int_equal((uintptr_t)text % 8, 0);
  pyproc_reply_free(text);
  text = reply_text_new(NULL, 0);
  assert_string_equal(text, "");
  pyproc_reply_free(text);
  assert_null(reply_text_new("", SIZE_MAX));
  pyproc_reply_free(NULL);
}

static void test_arena(void **state) {
  (void)state;
  reply_arena arena;
  assert_true(reply_arena_begin(&arena, 10, 100000));
  char *first = reply_arena_take(&arena, 10);
  memset(first, 1, 10);
  for (size_t i = 0; i < 300; i++) {
    char *more = reply_arena_take(&arena, i);
    assert_non_null(more);
    assert_int_equal((uintptr_t)more % _Alignof(max_align_t), 0);
    memset(more, (int)i, i);
  }
  assert_false(arena.exhausted);
  assert_ptr_equal(reply_arena_end(&arena), first);
  for (int i = 0; i < 10; i++) assert_int_equal(first[i], 1);
  pyproc_reply_free(first);
}

static void test_arena_budget(void **state) {
  (void)state;
  reply_arena arena;
  assert_false(reply_arena_begin(&arena, 100, 100)); /* the header needs room too */
  assert_false(reply_arena_begin(&arena, SIZE_MAX, SIZE_MAX));
  assert_false(reply_arena_begin(&arena, SIZE_MAX / 2, BUDGET));
  assert_true(reply_arena_begin(&arena, 100, 10000));
  size_t taken = 0;
  while (reply_arena_take(&arena, 100) != NULL) taken += 100;
  assert_true(arena.exhausted);
  assert_in_range(taken, 5000, 10000);
  assert_null(reply_arena_take(&arena, SIZE_MAX));
  assert_null(reply_arena_take(&arena, SIZE_MAX / 2));
  reply_arena_abandon(&arena);
}

static void test_unpack(void **state) {
  (void)state;
  ProtobufCMessage *message = NULL;
  assert_int_equal(unpack(inner, "\x0a\x02hi\x10\x07\x1a\x04\x0a\x02in\xfa\x3f\x01x", 16, BUDGET, &message, NULL),
                   PYPROC_OK);
  const Kinds__Inner *got = (const Kinds__Inner *)message;
  assert_string_equal(got->name, "hi");
  assert_int_equal(got->number, 7);
  assert_string_equal(got->child->name, "in");
  assert_null(got->child->child);
  assert_int_equal(message->n_unknown_fields, 1);
  pyproc_reply_free(message);
  assert_int_equal(reply_unpack(inner, NULL, 0, BUDGET, &message, NULL), PYPROC_OK);
  assert_string_equal(((const Kinds__Inner *)message)->name, "");
  pyproc_reply_free(message);
}

/* One block holds it all: the guess is at least what is taken. */
static void test_one_block(void **state) {
  (void)state;
  buffer bytes = {0};
  Kinds__Lists message = KINDS__LISTS__INIT;
  double doubles[1000] = {0};
  Kinds__Inner element = KINDS__INNER__INIT, *elements[300];
  const char *strings[200];
  element.name = "name";
  for (int i = 0; i < 300; i++) elements[i] = &element;
  for (int i = 0; i < 200; i++) strings[i] = "some text";
  message.n_doubles = 1000;
  message.doubles = doubles;
  message.n_messages = 300;
  message.messages = elements;
  message.n_strings = 200;
  message.strings = (void *)strings;
  assert_int_equal(codec_pack(&codec_protobuf, kinds_kinds_echo_lists_method.request, &message.base, &bytes, NULL),
                   PYPROC_OK);
  ProtobufCMessage *got = NULL;
  assert_int_equal(reply_unpack(lists, bytes.data, bytes.size, BUDGET, &got, NULL), PYPROC_OK);
  assert_null(*(void **)(void *)((char *)got - _Alignof(max_align_t))); /* no second block is chained */
  assert_int_equal(((Kinds__Lists *)got)->n_messages, 300);
  assert_string_equal(((Kinds__Lists *)got)->strings[199], "some text");
  pyproc_reply_free(got);
  buffer_free(&bytes);
}

static void test_malformed(void **state) {
  (void)state;
  static const struct {
    const char *bytes;
    size_t size;
    const char *wanted;
  } cases[] = {
      {"\x0a", 1, "kinds.Inner: field \"name\": a broken or truncated number"},
      {"\x0a\x05hi", 4, "kinds.Inner: field \"name\": reaches beyond its message"},
      {"\x10", 1, "kinds.Inner: field \"number\": a broken or truncated number"},
      {"\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 12,
       "kinds.Inner: field \"number\": a broken or truncated number"},
      {"\x80", 1, "kinds.Inner: a broken or truncated number"},
      {"\x00\x00", 2, "kinds.Inner: a field number that cannot be"},
      {"\xff\xff\xff\xff\x7f", 5, "kinds.Inner: a field number that cannot be"},
      {"\x0b\x0c", 2, "kinds.Inner: field \"name\": groups are not supported"},
      {"\x0f", 1, "kinds.Inner: field \"name\": groups are not supported"},
      {"\x08\x01", 2, "kinds.Inner: field \"name\": has another wire type than in this schema"},
      {"\x12\x01\x01", 3, "kinds.Inner: field \"number\": has another wire type than in this schema"},
      {"\x15\x01", 2, "kinds.Inner: field \"number\": reaches beyond its message"},
      {"\x0a\x01\xff", 3, "kinds.Inner: field \"name\": the string is not valid UTF-8"},
      {"\x0a\x01\x00", 3, "kinds.Inner: field \"name\": the string holds a NUL, which a string of C cannot; use bytes"},
      {"\x1a\x03\x0a\x01\xff", 5, "kinds.Inner: field \"child.name\": the string is not valid UTF-8"},
      {"\x22\x00\x22\x04\x1a\x02\x0a\x01", 8, "kinds.Inner: field \"children.child.name\": reaches beyond its message"},
      {"\x1a\x02\x0a\x05hello", 9, "kinds.Inner: field \"child.name\": reaches beyond its message"},
      {"\x1a\x80\x80\x80\x80\x10", 6, "kinds.Inner: field \"child\": reaches beyond its message"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    check_refused(inner, cases[i].bytes, cases[i].size, PYPROC_E_DATA_LOSS, cases[i].wanted);
  check_refused(lists, "\x0a\x01\x80", 3, PYPROC_E_DATA_LOSS,
                "kinds.Lists: a required field is missing or a packed field is broken");
  check_refused(&kinds2__required__descriptor, "\x0a\x01x", 3, PYPROC_E_DATA_LOSS,
                "kinds2.Required: a required field is missing or a packed field is broken");
}

/* Bytes that look like messages are bytes. */
static void test_bytes_are_opaque(void **state) {
  (void)state;
  static const char bytes[] = "\x82\x01\x04\x1a\x7f\xff\x00";
  ProtobufCMessage *message = NULL;
  assert_int_equal(unpack(scalars, bytes, 7, BUDGET, &message, NULL), PYPROC_OK);
  const Kinds__Scalars *got = (const Kinds__Scalars *)message;
  assert_int_equal(got->some_bytes.len, 4);
  assert_memory_equal(got->some_bytes.data, bytes + 3, 4);
  pyproc_reply_free(message);
}

/* Messages within messages, `depth` in all. */
static uint8_t *nested(size_t depth, size_t *ret_size) {
  size_t room = 4 * depth, size = 0;
  uint8_t *bytes = malloc(room + 1);
  assert_non_null(bytes);
  for (size_t i = 1; i < depth; i++) {
    size_t head = size < 128 ? 2 : size < 16384 ? 3 : 4;
    uint8_t *at = bytes + room - size - head;
    at[0] = 0x1a;
    for (size_t j = 1; j < head; j++) at[j] = (uint8_t)((size >> (7 * (j - 1)) & 0x7f) | (j + 1 < head ? 0x80 : 0));
    size += head;
  }
  memmove(bytes, bytes + room - size, size);
  *ret_size = size;
  return bytes;
}

static void test_nesting(void **state) {
  (void)state;
  size_t size;
  uint8_t *bytes = nested(100, &size);
  ProtobufCMessage *message = NULL;
  assert_int_equal(reply_unpack(inner, bytes, size, BUDGET, &message, NULL), PYPROC_OK);
  int depth = 0;
  for (const Kinds__Inner *at = (const Kinds__Inner *)message; at != NULL; at = at->child) depth++;
  assert_int_equal(depth, 100);
  pyproc_reply_free(message);
  free(bytes);
  const size_t depths[] = {101, 102, 9000, 200000};
  for (size_t i = 0; i < sizeof depths / sizeof *depths; i++) {
    pyproc_error *error = NULL;
    message = NULL;
    bytes = nested(depths[i], &size);
    assert_int_equal(reply_unpack(inner, bytes, size, BUDGET, &message, &error), PYPROC_E_DATA_LOSS);
    assert_non_null(strstr(pyproc_error_message(error), "nested deeper than 100"));
    pyproc_error_free(error);
    free(bytes);
  }
}

static void test_budget(void **state) {
  (void)state;
  enum { COUNT = 10000 };
  char *bytes = malloc(2 * COUNT); /* empty messages: two bytes each become some 60 */
  assert_non_null(bytes);
  for (size_t i = 0; i < COUNT; i++) memcpy(bytes + 2 * i, "\x42", 2);
  ProtobufCMessage *message = NULL;
  pyproc_error *error = NULL;
  assert_int_equal(unpack(lists, bytes, 2 * COUNT, 100000, &message, &error), PYPROC_E_RESOURCE_EXHAUSTED);
  assert_string_equal(pyproc_error_message(error),
                      "kinds.Lists: unpacking 20000 bytes takes more than 100000 bytes of memory");
  pyproc_error_free(error);
  assert_int_equal(unpack(lists, bytes, 0, 0, &message, NULL), PYPROC_E_RESOURCE_EXHAUSTED);
  assert_int_equal(unpack(lists, bytes, 0, 64, &message, NULL), PYPROC_E_RESOURCE_EXHAUSTED);
  assert_null(message);
  assert_int_equal(unpack(lists, bytes, 2 * COUNT, 4 * BUDGET, &message, NULL), PYPROC_OK);
  assert_int_equal(((Kinds__Lists *)message)->n_messages, COUNT);
  pyproc_reply_free(message);
  free(bytes);
}

/* Every beginning of a valid message is taken or refused, and nothing is read beyond it. */
static void test_truncated(void **state) {
  (void)state;
  json_t *root = vectors_load("json_mapping.json"), *same = json_object_get(root, "same"), *vector;
  size_t i, size;
  json_array_foreach(same, i, vector) {
    if (strcmp(vector_text(vector, "message"), "kinds.Lists") != 0) continue;
    uint8_t *bytes = vector_bytes(vector_text(vector, "binary"), &size);
    for (size_t cut = 0; cut < size; cut++) {
      ProtobufCMessage *message = NULL;
      pyproc_error *error = NULL;
      int result = unpack(lists, bytes, cut, BUDGET, &message, &error);
      assert_true(result == PYPROC_OK ? message != NULL && error == NULL
                                      : result == PYPROC_E_DATA_LOSS && message == NULL && error != NULL);
      pyproc_reply_free(message);
      pyproc_error_free(error);
    }
    free(bytes);
  }
  json_decref(root);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_text),
      cmocka_unit_test(test_arena),
      cmocka_unit_test(test_arena_budget),
      cmocka_unit_test(test_unpack),
      cmocka_unit_test(test_one_block),
      cmocka_unit_test(test_malformed),
      cmocka_unit_test(test_bytes_are_opaque),
      cmocka_unit_test(test_nesting),
      cmocka_unit_test(test_budget),
      cmocka_unit_test(test_truncated),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
