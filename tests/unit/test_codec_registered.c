/* The registry of codecs, and what codecs are lent. */
#include "vectors.h"

#include <pthread.h>

#include "codec.h"

#include "kinds.pyproc.h"

static int pack(const pyproc_protocol *self, const pyproc_message_info *info, const ProtobufCMessage *message,
                pyproc_output *out, pyproc_error **reterr) {
  (void)self;
  return pyproc_protobuf_pack(info, message, out, reterr);
}

static int unpack(const pyproc_protocol *self, const pyproc_message_info *info, const uint8_t *data, size_t size,
                  pyproc_arena *arena, ProtobufCMessage **ret_message, pyproc_error **reterr) {
  (void)self;
  return pyproc_protobuf_unpack(info, data, size, arena, ret_message, reterr);
}

/* A larger struct around a codec's, as a program may have one. */
typedef struct counting {
  pyproc_protocol base;
  _Atomic int calls;
} counting;

static int copy_json(const pyproc_protocol *self, const uint8_t *data, size_t size, pyproc_output *out,
                     pyproc_error **reterr) {
  ((counting *)(void *)(uintptr_t)self)->calls++;
  return pyproc_output_append(out, data, size, reterr);
}

static counting *new_codec(const char *name) {
  counting *self = calloc(1, sizeof *self); /* never freed: a registered codec stays */
  assert_non_null(self);
  self->base = (pyproc_protocol)PYPROC_PROTOCOL_INIT;
  self->base.name = name;
  self->base.pack = pack;
  self->base.unpack = unpack;
  self->base.pack_json = self->base.unpack_json = copy_json;
  return self;
}

static void check_refused(const pyproc_protocol *protocol, int code, const char *part) {
  pyproc_error *error = NULL;
  assert_int_equal(pyproc_protocol_register(protocol, &error), code);
  if (strstr(pyproc_error_message(error), part) == NULL) fail_msg("%s", pyproc_error_message(error));
  pyproc_error_free(error);
  assert_int_equal(pyproc_protocol_register(protocol, NULL), code);
}

static void test_refused(void **state) {
  (void)state;
  const char *const names[] = {
      NULL, "", "A", "0a", "_a", "a-b", "a.b", "\xc3\xa4", "a23456789012345678901234567890123"};
  static counting codec;
  counting *whole = new_codec("whole");
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    codec = *whole;
    codec.base.name = names[i];
    check_refused(&codec.base, PYPROC_E_INVALID_ARGUMENT, "it must begin with a-z and have at most 32");
  }
  codec = *whole;
  codec.base.pack = NULL;
  check_refused(&codec.base, PYPROC_E_INVALID_ARGUMENT, "has no function pack");
  codec = *whole;
  codec.base.unpack = NULL;
  check_refused(&codec.base, PYPROC_E_INVALID_ARGUMENT, "has no function unpack");
  codec = *whole;
  codec.base.pack_json = NULL;
  check_refused(&codec.base, PYPROC_E_INVALID_ARGUMENT, "has no function pack_json");
  codec = *whole;
  codec.base.unpack_json = NULL;
  check_refused(&codec.base, PYPROC_E_INVALID_ARGUMENT, "has no function unpack_json");
  codec = *whole;
  codec.base.size = 0;
  check_refused(&codec.base, PYPROC_E_INVALID_ARGUMENT, "size is 0");
  codec = *whole;
  codec.base.size = sizeof codec; /* a later version's, with something set behind what is known */
  codec.calls = 1;
  check_refused(&codec.base, PYPROC_E_INVALID_ARGUMENT, "does not know");
  check_refused(NULL, PYPROC_E_INVALID_ARGUMENT, "protocol is NULL");
  assert_null(codec_find("whole"));
  free(whole);
}

static void test_registered(void **state) {
  (void)state;
  counting *codec = new_codec("first");
  codec->base.size = sizeof *codec; /* a later version's, with nothing set */
  assert_int_equal(pyproc_protocol_register(&codec->base, NULL), 0);
  const struct codec *found = codec_find("first");
  assert_non_null(found);
  assert_true(found->registered);
  assert_false(found->envelope);
  assert_string_equal(found->name, "first");
  check_refused(&codec->base, PYPROC_E_ALREADY_EXISTS, "there is a codec \"first\" already");
  counting *other = new_codec("first");
  check_refused(&other->base, PYPROC_E_ALREADY_EXISTS, "there is a codec \"first\" already");
  const char *const taken[] = {"protobuf", "json", "grpc"};
  for (size_t i = 0; i < 3; i++) {
    other->base.name = taken[i];
    check_refused(&other->base, PYPROC_E_ALREADY_EXISTS, taken[i]);
  }
  free(other);
  buffer out = {0};
  assert_true(buffer_append_text(&out, "head"));
  assert_int_equal(codec_pack_json(found, "[1]", 3, &out, NULL), 0);
  assert_int_equal(out.size, 7);
  assert_memory_equal(out.data, "head[1]", 7);
  char *text = NULL;
  assert_int_equal(codec_unpack_json(found, (const uint8_t *)" {}", 3, 100, &text, NULL), 0);
  assert_string_equal(text, " {}");
  assert_int_equal(codec->calls, 2); /* `self` is the struct that was registered */
  pyproc_reply_free(text);
  buffer_free(&out);
}

static void test_budgets(void **state) {
  (void)state;
  const struct codec *codec = codec_find("first");
  char *text = NULL;
  pyproc_error *error = NULL;
  assert_int_equal(codec_unpack_json(codec, (const uint8_t *)"[1]", 3, 2, &text, &error), PYPROC_E_RESOURCE_EXHAUSTED);
  assert_null(text);
  pyproc_error_free(error);
  const pyproc_message_info *info = kinds_kinds_echo_scalars_method.request;
  ProtobufCMessage *message = NULL;
  assert_int_equal(codec_unpack(codec, info, NULL, 0, 100, &message, &error), PYPROC_E_RESOURCE_EXHAUSTED);
  pyproc_error_free(error);
  assert_null(message);
  assert_int_equal(codec_unpack(codec, info, NULL, 0, 1 << 16, &message, NULL), 0);
  assert_ptr_equal(message->descriptor, info->descriptor);
  pyproc_reply_free(message);
}

static void test_lent_memory(void **state) {
  (void)state;
  const pyproc_message_info *info = kinds_kinds_echo_scalars_method.request;
  pyproc_arena arena = {.memory = {.budget = 10000}};
  pyproc_error *error = NULL;
  ProtobufCMessage *message = pyproc_arena_message(&arena, info, NULL);
  assert_ptr_equal(message->descriptor, info->descriptor);
  assert_ptr_equal(arena.first, message);
  assert_string_equal(((Kinds__Scalars *)(void *)message)->a_string, "");
  assert_non_null(pyproc_arena_alloc(&arena, 0, NULL));
  for (size_t size = 1; size < 200; size++) {
    char *memory = pyproc_arena_alloc(&arena, size, size < 50 ? NULL : &error);
    if (memory == NULL) break;
    assert_int_equal((uintptr_t)memory % _Alignof(max_align_t), 0);
    memset(memory, 1, size);
  }
  assert_int_equal(pyproc_error_code(error), PYPROC_E_RESOURCE_EXHAUSTED);
  pyproc_error_free(error);
  ProtobufCMessage *second = NULL;
  assert_int_equal(pyproc_protobuf_unpack(info, NULL, 0, &arena, &second, &error), PYPROC_E_INTERNAL);
  pyproc_error_free(error);
  pyproc_reply_free(reply_arena_end(&arena.memory));
}

static void test_output(void **state) {
  (void)state;
  buffer bytes = {0};
  size_t size = 1;
  pyproc_error *error = NULL;
  assert_true(buffer_append_text(&bytes, "head"));
  pyproc_output out = {.bytes = &bytes, .begin = bytes.size, .limit = 10};
  (void)pyproc_output_data(&out, &size);
  assert_int_equal(size, 0);
  assert_int_equal(pyproc_output_append(&out, NULL, 0, NULL), 0);
  assert_int_equal(pyproc_output_append(&out, "abcdef", 6, NULL), 0);
  assert_null(pyproc_output_extend(&out, SIZE_MAX, NULL));
  assert_null(pyproc_output_extend(&out, 5, &error));
  assert_int_equal(pyproc_error_code(error), PYPROC_E_RESOURCE_EXHAUSTED);
  pyproc_error_free(error);
  memcpy(pyproc_output_extend(&out, 4, NULL), "ghij", 4);
  assert_memory_equal(pyproc_output_data(&out, &size), "abcdefghij", 10);
  assert_int_equal(size, 10);
  assert_memory_equal(bytes.data, "headabcdefghij", 14);
  buffer_free(&bytes);
}

static void test_errors(void **state) {
  (void)state;
  pyproc_field_path outer = {NULL, "items", 3}, inner = {&outer, "name", PYPROC_NO_INDEX};
  pyproc_error *error = NULL;
  assert_int_equal(pyproc_protocol_error(&error, PYPROC_E_DATA_LOSS, "a.B", &inner, "is %d", 5), PYPROC_E_DATA_LOSS);
  assert_string_equal(pyproc_error_message(error), "a.B: field \"items[3].name\": is 5");
  pyproc_error_free(error);
  assert_int_equal(pyproc_protocol_error(&error, PYPROC_E_DATA_LOSS, "a.B", NULL, "bad"), PYPROC_E_DATA_LOSS);
  assert_string_equal(pyproc_error_message(error), "a.B: bad");
  pyproc_error_free(error);
  assert_int_equal(pyproc_protocol_error(&error, PYPROC_E_DATA_LOSS, NULL, NULL, "bad"), PYPROC_E_DATA_LOSS);
  assert_string_equal(pyproc_error_message(error), "bad");
  pyproc_error_free(error);
  assert_int_equal(pyproc_protocol_error(NULL, PYPROC_E_ABORTED, NULL, &inner, "bad"), PYPROC_E_ABORTED);
  assert_int_equal(pyproc_is_utf8("a\0b", 3), 1);
  assert_int_equal(pyproc_is_utf8("\xff", 1), 0);
}

enum { THREADS = 8, EACH = 40 };

static char names[EACH][32];
static _Atomic int taken_count, refused_count;

static void *register_all(void *argument) {
  (void)argument;
  for (int i = 0; i < EACH; i++) {
    counting *codec = new_codec(names[i]);
    int result = pyproc_protocol_register(&codec->base, NULL);
    if (result == 0)
      taken_count++;
    else
      free(codec);
    refused_count += result == PYPROC_E_RESOURCE_EXHAUSTED;
  }
  return NULL;
}

/* Last: it fills the registry. */
static void test_many_at_once(void **state) {
  (void)state;
  pthread_t threads[THREADS];
  for (int i = 0; i < EACH; i++) snprintf(names[i], sizeof names[i], "codec_%d", i);
  for (int i = 0; i < THREADS; i++) assert_int_equal(pthread_create(&threads[i], NULL, register_all, NULL), 0);
  for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
  assert_int_equal(taken_count, PYPROC_PROTOCOLS_MAX - 1); /* and the one of test_registered */
  assert_true(refused_count > 0);
  for (int i = 0; i < EACH; i++) {
    const struct codec *found = codec_find(names[i]);
    if (found != NULL) assert_string_equal(found->name, names[i]);
  }
  assert_non_null(codec_find("first"));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_refused),      cmocka_unit_test(test_registered), cmocka_unit_test(test_budgets),
      cmocka_unit_test(test_lent_memory),  cmocka_unit_test(test_output),     cmocka_unit_test(test_errors),
      cmocka_unit_test(test_many_at_once),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
