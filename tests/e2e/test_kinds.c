/*
 * Messages of all kinds of fields, there and back, on all protocols and registered codecs; and typed methods called by name with JSON.
 */
#include <jansson.h>
#include <math.h>

#include "codecs.h"
#include "support.h"

static const char *const protocols[] = {"protobuf", "json", "turned", "msgpack"};
static pyproc_pool *pools[LENGTH(protocols)]; /* all tests', NULL: there is no such protocol here */

static int open_pools(void **state) {
  (void)state;
  register_codecs();
  for (size_t i = 0; i < LENGTH(protocols) - (have_msgpack ? 0 : 1); i++) {
    pyproc_pool_options options = options_for("kinds_worker.py");
    options.protocol = protocols[i];
    pools[i] = open_pool(&options);
  }
  return 0;
}

static int close_pools(void **state) {
  (void)state;
  for (size_t i = 0; i < LENGTH(pools); i++) pyproc_pool_close(pools[i]);
  return count_children(NULL) == 0 ? 0 : -1;
}

#define EACH_PROTOCOL(pool) \
  for (size_t round_ = 0; round_ < LENGTH(pools); round_++) \
    for (pyproc_pool *pool = pools[round_]; pool != NULL; pool = NULL)

/* Echoes, and compares what the two messages are as bytes. */
static void assert_echo(pyproc_pool *pool, const Kinds__Everything *request) {
  Kinds__Everything *reply = NULL;
  pyproc_error *error = NULL;
  if (kinds_kinds_echo(pool, request, &reply, &error) < 0) {
    print_error("%s\n", pyproc_error_message(error));
    pyproc_error_free(error);
    fail_msg("echo failed");
  }
  size_t size = protobuf_c_message_get_packed_size(&request->base);
  assert_int_equal(protobuf_c_message_get_packed_size(&reply->base), size);
  uint8_t *sent = malloc(2 * size + 1), *received = sent + size;
  assert_non_null(sent);
  protobuf_c_message_pack(&request->base, sent);
  protobuf_c_message_pack(&reply->base, received);
  assert_memory_equal(sent, received, size);
  free(sent);
  pyproc_reply_free(reply);
}

static void test_empty(void **state) {
  (void)state;
  EACH_PROTOCOL(pool) {
    Kinds__Everything request = KINDS__EVERYTHING__INIT;
    Google__Protobuf__Empty empty = GOOGLE__PROTOBUF__EMPTY__INIT, *nothing = NULL;
    Kinds__Scalars scalars = KINDS__SCALARS__INIT;
    assert_echo(pool, &request);
    request.scalars = &scalars;
    assert_echo(pool, &request);
    assert_int_equal(kinds_kinds_nothing(pool, &empty, &nothing, NULL), 0);
    assert_ptr_equal(nothing->base.descriptor, &google__protobuf__empty__descriptor);
    pyproc_reply_free(nothing);
  }
}

static void test_scalars(void **state) {
  (void)state;
  EACH_PROTOCOL(pool)
  for (int extreme = 0; extreme < 2; extreme++) {
    Kinds__Everything request = KINDS__EVERYTHING__INIT;
    Kinds__Scalars scalars = KINDS__SCALARS__INIT;
    uint8_t bytes[] = {0, 255, 10, 0, 34};
    request.scalars = &scalars;
    scalars.a_double = extreme ? -1.7976931348623157e308 : 4.9406564584124654e-324;
    scalars.a_float = extreme ? -3.40282347e+38f : 0.1f;
    scalars.an_int32 = scalars.a_sint32 = scalars.a_sfixed32 = extreme ? INT32_MIN : INT32_MAX;
    scalars.an_int64 = scalars.a_sint64 = scalars.a_sfixed64 = extreme ? INT64_MIN : INT64_MAX;
    scalars.a_uint32 = scalars.a_fixed32 = UINT32_MAX;
    scalars.a_uint64 = scalars.a_fixed64 = UINT64_MAX;
    scalars.a_bool = 1;
    scalars.a_string = extreme ? "\u00e4\u20ac\U0001f600 \"quoted\" \\ \n\t\x01\x7f </script>" : "x";
    scalars.some_bytes = (ProtobufCBinaryData){.data = bytes, .len = sizeof bytes};
    scalars.a_color = extreme ? (Kinds__Color)77 : KINDS__COLOR__COLOR_BLUE; /* proto3 keeps unknown numbers */
    assert_echo(pool, &request);
  }
}

static void test_special_floats(void **state) {
  (void)state;
  EACH_PROTOCOL(pool) {
    const double values[] = {(double)INFINITY, -(double)INFINITY, -0.0, 0.1, 1e22, 123456789.123456789};
    double doubles[LENGTH(values) + 1];
    Kinds__Everything request = KINDS__EVERYTHING__INIT, *reply = NULL;
    memcpy(doubles, values, sizeof values);
    request.doubles = doubles;
    request.n_doubles = LENGTH(values);
    assert_echo(pool, &request);
    doubles[request.n_doubles++] = (double)NAN;
    assert_int_equal(kinds_kinds_echo(pool, &request, &reply, NULL), 0);
    assert_int_equal(reply->n_doubles, LENGTH(doubles));
    assert_true(isnan(reply->doubles[LENGTH(values)]));
    pyproc_reply_free(reply);
  }
}

static void test_collections(void **state) {
  (void)state;
  EACH_PROTOCOL(pool) {
    int64_t longs[] = {INT64_MIN, -1, 0, 1, INT64_MAX};
    const char *texts[] = {"", "one", "\u00e4"};
    Kinds__Color colors[] = {KINDS__COLOR__COLOR_RED, KINDS__COLOR__COLOR_NONE};
    Kinds__Inner child = KINDS__INNER__INIT, inner = KINDS__INNER__INIT, *inners[] = {&inner, &child};
    Kinds__Everything__CountsEntry count = KINDS__EVERYTHING__COUNTS_ENTRY__INIT, *counts[] = {&count};
    Kinds__Everything__ByNumberEntry entry = KINDS__EVERYTHING__BY_NUMBER_ENTRY__INIT, *entries[] = {&entry};
    Kinds__Everything request = KINDS__EVERYTHING__INIT;
    child.text = "child";
    inner.text = "inner";
    inner.child = &child;
    count.key = "k\u00e4y";
    count.value = INT64_MIN;
    entry.key = -5;
    entry.value = &inner;
    request.longs = longs;
    request.n_longs = LENGTH(longs);
    request.texts = texts;
    request.n_texts = LENGTH(texts);
    request.colors = colors;
    request.n_colors = LENGTH(colors);
    request.inners = inners;
    request.n_inners = LENGTH(inners);
    request.counts = counts;
    request.n_counts = 1;
    request.by_number = entries;
    request.n_by_number = 1;
    assert_echo(pool, &request);
  }
}

static void test_large_map(void **state) {
  (void)state;
  enum { COUNT = 200 };
  EACH_PROTOCOL(pool) {
    char keys[COUNT][16];
    bool seen[COUNT] = {false};
    Kinds__Everything__CountsEntry entries[COUNT], *counts[COUNT];
    Kinds__Everything request = KINDS__EVERYTHING__INIT, *reply = NULL;
    for (int i = 0; i < COUNT; i++) {
      kinds__everything__counts_entry__init(&entries[i]);
      snprintf(keys[i], sizeof keys[i], "key %d", i);
      entries[i].key = keys[i];
      entries[i].value = i;
      counts[i] = &entries[i];
    }
    request.counts = counts;
    request.n_counts = COUNT;
    assert_int_equal(kinds_kinds_echo(pool, &request, &reply, NULL), 0);
    assert_int_equal(reply->n_counts, COUNT);
    for (int i = 0; i < COUNT; i++) {
      int64_t number = reply->counts[i]->value;
      assert_true(number >= 0 && number < COUNT && !seen[number]);
      assert_string_equal(reply->counts[i]->key, keys[number]);
      seen[number] = true;
    }
    pyproc_reply_free(reply);
  }
}

static void test_oneof_and_optional(void **state) {
  (void)state;
  EACH_PROTOCOL(pool) {
    Kinds__Inner inner = KINDS__INNER__INIT;
    Kinds__Everything request = KINDS__EVERYTHING__INIT, *reply = NULL;
    request.choice_case = KINDS__EVERYTHING__CHOICE_NUMBER; /* set, though 0 */
    assert_echo(pool, &request);
    request.choice_case = KINDS__EVERYTHING__CHOICE_NAME;
    request.name = "";
    assert_echo(pool, &request);
    request.choice_case = KINDS__EVERYTHING__CHOICE_INNER;
    request.inner = &inner;
    assert_echo(pool, &request);
    request._maybe_case = KINDS__EVERYTHING___MAYBE_MAYBE;
    request._maybe_text_case = KINDS__EVERYTHING___MAYBE_TEXT_MAYBE_TEXT;
    request.maybe_text = "";
    assert_echo(pool, &request);
    assert_int_equal(kinds_kinds_echo(pool, &request, &reply, NULL), 0);
    assert_int_equal(reply->_maybe_case, KINDS__EVERYTHING___MAYBE_MAYBE);
    assert_string_equal(reply->maybe_text, "");
    pyproc_reply_free(reply);
  }
}

static void test_well_known(void **state) {
  (void)state;
  EACH_PROTOCOL(pool) {
    Google__Protobuf__Timestamp at = GOOGLE__PROTOBUF__TIMESTAMP__INIT;
    Google__Protobuf__Duration lasted = GOOGLE__PROTOBUF__DURATION__INIT;
    Google__Protobuf__Int64Value wrapped = GOOGLE__PROTOBUF__INT64_VALUE__INIT;
    Google__Protobuf__FieldMask mask = GOOGLE__PROTOBUF__FIELD_MASK__INIT;
    Google__Protobuf__Value value = GOOGLE__PROTOBUF__VALUE__INIT, in_list = GOOGLE__PROTOBUF__VALUE__INIT;
    Google__Protobuf__Value *values[] = {&in_list, &value};
    Google__Protobuf__ListValue list = GOOGLE__PROTOBUF__LIST_VALUE__INIT;
    Google__Protobuf__Value of_list = GOOGLE__PROTOBUF__VALUE__INIT;
    Google__Protobuf__Struct__FieldsEntry entry = GOOGLE__PROTOBUF__STRUCT__FIELDS_ENTRY__INIT, *entries[] = {&entry};
    Google__Protobuf__Struct fields = GOOGLE__PROTOBUF__STRUCT__INIT;
    Kinds__Everything request = KINDS__EVERYTHING__INIT;
    const char *paths[] = {"scalars.an_int32", "longs"};
    at.seconds = -62135596800;
    at.nanos = 1;
    lasted.seconds = -315576000000;
    lasted.nanos = -999999999;
    wrapped.value = INT64_MIN;
    mask.paths = paths;
    mask.n_paths = LENGTH(paths);
    value.kind_case = GOOGLE__PROTOBUF__VALUE__KIND_STRING_VALUE;
    value.string_value = "text";
    in_list.kind_case = GOOGLE__PROTOBUF__VALUE__KIND_NULL_VALUE;
    list.values = values;
    list.n_values = LENGTH(values);
    of_list.kind_case = GOOGLE__PROTOBUF__VALUE__KIND_LIST_VALUE;
    of_list.list_value = &list;
    entry.key = "list";
    entry.value = &of_list;
    fields.fields = entries;
    fields.n_fields = 1;
    request.at = &at;
    request.lasted = &lasted;
    request.wrapped = &wrapped;
    request.mask = &mask;
    request.value = &value;
    request.fields = &fields;
    assert_echo(pool, &request);
  }
}

static void test_any(void **state) {
  (void)state;
  EACH_PROTOCOL(pool) {
    Google__Protobuf__Duration duration = GOOGLE__PROTOBUF__DURATION__INIT;
    Google__Protobuf__Any any = GOOGLE__PROTOBUF__ANY__INIT;
    Kinds__Everything request = KINDS__EVERYTHING__INIT;
    uint8_t packed[32];
    duration.seconds = 90;
    any.type_url = "type.googleapis.com/google.protobuf.Duration";
    any.value.data = packed;
    any.value.len = protobuf_c_message_pack(&duration.base, packed);
    request.any = &any;
    assert_echo(pool, &request);
  }
}

static void test_deep_messages(void **state) {
  (void)state;
  enum { DEEP = 150 };
  EACH_PROTOCOL(pool) {
    Kinds__Inner inners[DEEP], *first = &inners[0];
    Kinds__Everything request = KINDS__EVERYTHING__INIT, *reply = NULL;
    pyproc_error *error = NULL;
    for (int i = 0; i < DEEP; i++) {
      kinds__inner__init(&inners[i]);
      if (i > 0) inners[i - 1].child = &inners[i];
    }
    request.inners = &first;
    request.n_inners = 1;
    inners[40].child = NULL;
    assert_echo(pool, &request);
    inners[40].child = &inners[41];
    assert_int_equal(kinds_kinds_echo(pool, &request, &reply, &error), PYPROC_E_INVALID_ARGUMENT);
    assert_error(error, PYPROC_E_INVALID_ARGUMENT, "", NOT_RUN);
    inners[40].child = NULL;
    assert_echo(pool, &request);
  }
}

/* ---- by name, with JSON ---- */

/* Calls Echo with JSON and compares JSON. */
static void assert_json_echo(pyproc_pool *pool, const char *sent, const char *expected) {
  char *reply = call_json(pool, "kinds.Kinds/Echo", sent);
  json_t *left = json_loads(reply, 0, NULL), *right = json_loads(expected, 0, NULL);
  bool same = left != NULL && right != NULL && json_equal(left, right) == 1;
  if (!same) print_error("sent %s\nexpected %s\nfound    %s\n", sent, expected, reply);
  json_decref(left);
  json_decref(right);
  pyproc_reply_free(reply);
  assert_true(same);
}

static void test_json_by_name(void **state) {
  (void)state;
  EACH_PROTOCOL(pool) {
    assert_json_echo(pool, "{}", "{}");
    assert_json_echo(
        pool, "{\"scalars\":{\"anInt64\":\"9223372036854775807\",\"aUint64\":18446744073709551615,\"an_int32\":-5}}",
        "{\"scalars\":{\"anInt64\":\"9223372036854775807\",\"aUint64\":\"18446744073709551615\",\"anInt32\":-5}}");
    assert_json_echo(pool, "{\"longs\":[\"-9223372036854775808\",7]}", "{\"longs\":[\"-9223372036854775808\",\"7\"]}");
    assert_json_echo(pool, "{\"doubles\":[\"NaN\",\"Infinity\",\"-Infinity\",1]}",
                     "{\"doubles\":[\"NaN\",\"Infinity\",\"-Infinity\",1.0]}");
    assert_json_echo(pool, "{\"colors\":[\"COLOR_RED\",5]}", "{\"colors\":[\"COLOR_RED\",\"COLOR_BLUE\"]}");
    assert_json_echo(pool, "{\"scalars\":{\"someBytes\":\"AP8=\"}}", "{\"scalars\":{\"someBytes\":\"AP8=\"}}");
    assert_json_echo(
        pool, "{\"at\":\"1972-01-01T10:00:20.021Z\",\"lasted\":\"1.000340012s\",\"mask\":\"scalars.anInt32,longs\"}",
        "{\"at\":\"1972-01-01T10:00:20.021Z\",\"lasted\":\"1.000340012s\",\"mask\":\"scalars.anInt32,longs\"}");
    assert_json_echo(pool, "{\"counts\":{\"a\":\"1\"},\"byNumber\":{\"-3\":{\"text\":\"x\"}}}",
                     "{\"counts\":{\"a\":\"1\"},\"byNumber\":{\"-3\":{\"text\":\"x\"}}}");
    assert_json_echo(pool, "{\"maybe\":0,\"number\":\"0\"}", "{\"maybe\":0,\"number\":\"0\"}");
    assert_json_echo(pool, "{\"fields\":{\"a\":[null,true,{\"b\":1}]},\"wrapped\":\"5\",\"value\":null}",
                     "{\"fields\":{\"a\":[null,true,{\"b\":1.0}]},\"wrapped\":\"5\",\"value\":null}");
    assert_json_echo(pool, "{\"any\":{\"@type\":\"type.googleapis.com/google.protobuf.Duration\",\"value\":\"90s\"}}",
                     "{\"any\":{\"@type\":\"type.googleapis.com/google.protobuf.Duration\",\"value\":\"90s\"}}");
  }
}

static void test_bad_json_by_name(void **state) {
  (void)state;
  EACH_PROTOCOL(pool) {
    const char *const bodies[] = {"[1]",
                                  "1",
                                  "{\"nobody\":1}",
                                  "{\"scalars\":{\"anInt32\":2147483648}}",
                                  "{\"scalars\":{\"anInt32\":1.5}}",
                                  "{\"scalars\":{\"aUint64\":\"-1\"}}",
                                  "{\"colors\":[\"COLOR_NOBODY\"]}",
                                  "{\"at\":\"yesterday\"}",
                                  "{\"name\":\"a\",\"number\":\"1\"}"};
    for (size_t i = 0; i < LENGTH(bodies); i++)
      assert_error(call_failure(pool, "kinds.Kinds/Echo", bodies[i], 0), PYPROC_E_INVALID_ARGUMENT, "", NOT_RUN);
    assert_json_echo(pool, "{}", "{}");
  }
}

/* ---- failures of typed calls ---- */

static void test_typed_failures(void **state) {
  (void)state;
  EACH_PROTOCOL(pool) {
    Kinds__Text request = KINDS__TEXT__INIT, *reply = NULL;
    pyproc_error *error = NULL;
    request.text = "rotten";
    assert_int_equal(kinds_kinds_fail(pool, &request, &reply, &error), PYPROC_E_UNKNOWN);
    assert_string_equal(pyproc_error_type(error), "ValueError");
    assert_contains(pyproc_error_traceback(error), "kinds_worker.py");
    assert_error(error, PYPROC_E_UNKNOWN, "rotten", RAN);
    assert_int_equal(kinds_kinds_wrong(pool, &request, &reply, &error), PYPROC_E_INTERNAL);
    assert_contains(pyproc_error_message(error), "Empty");
    assert_error(error, PYPROC_E_INTERNAL, "Text", RAN);
    assert_null(reply);
    Kinds__Everything echoed = KINDS__EVERYTHING__INIT;
    assert_echo(pool, &echoed);
  }
}

static void test_null_and_wrong_requests(void **state) {
  (void)state;
  EACH_PROTOCOL(pool) {
    Kinds__Text text = KINDS__TEXT__INIT, *reply = NULL;
    pyproc_error *error = NULL;
    assert_int_equal(kinds_kinds_fail(pool, NULL, &reply, &error), PYPROC_E_INVALID_ARGUMENT);
    assert_error(error, PYPROC_E_INVALID_ARGUMENT, "request is NULL", NOT_RUN);
    assert_int_equal(kinds_kinds_fail(pool, &text, NULL, &error), PYPROC_E_INVALID_ARGUMENT);
    assert_error(error, PYPROC_E_INVALID_ARGUMENT, "ret_reply is NULL", NOT_RUN);
    assert_int_equal(kinds_kinds_fail(NULL, &text, &reply, &error), PYPROC_E_INVALID_ARGUMENT);
    assert_error(error, PYPROC_E_INVALID_ARGUMENT, "pool is NULL", NOT_RUN);
    assert_int_equal(kinds_kinds_echo(pool, (const Kinds__Everything *)(const void *)&text,
                                      (Kinds__Everything **)(void *)&reply, &error),
                     PYPROC_E_INVALID_ARGUMENT);
    assert_error(error, PYPROC_E_INVALID_ARGUMENT, "kinds.Everything", NOT_RUN);
    assert_null(reply);
    assert_int_equal(kinds_kinds_fail(pool, NULL, &reply, NULL), PYPROC_E_INVALID_ARGUMENT);
  }
}

static void test_invalid_utf8(void **state) {
  (void)state;
  const char *const texts[] = {"\xff", "a\xc0\x80", "\xed\xa0\x80", "\xf5\x80\x80\x80", "\xe2\x82"};
  EACH_PROTOCOL(pool)
  for (size_t i = 0; i < LENGTH(texts); i++) {
    Kinds__Text request = KINDS__TEXT__INIT, *reply = NULL;
    pyproc_error *error = NULL;
    request.text = texts[i];
    assert_int_equal(kinds_kinds_fail(pool, &request, &reply, &error), PYPROC_E_INVALID_ARGUMENT);
    assert_contains(pyproc_error_message(error), "kinds.Text");
    assert_error(error, PYPROC_E_INVALID_ARGUMENT, "text", NOT_RUN);
    request.text = "fine";
    assert_int_equal(kinds_kinds_fail(pool, &request, &reply, NULL), PYPROC_E_UNKNOWN);
  }
}

static void test_proto2(void **state) {
  (void)state;
  EACH_PROTOCOL(pool) {
    Legacy__Record request = LEGACY__RECORD__INIT, *reply = NULL;
    pyproc_error *error = NULL;
    assert_int_equal(legacy_legacy_echo(pool, &request, &reply, &error), PYPROC_E_INVALID_ARGUMENT);
    assert_contains(pyproc_error_message(error), "legacy.Record");
    assert_error(error, PYPROC_E_INVALID_ARGUMENT, "name", NOT_RUN);
    assert_null(reply);
    request.name = "x";
    assert_int_equal(legacy_legacy_echo(pool, &request, &reply, NULL), 0);
    assert_string_equal(reply->name, "x");
    assert_false(reply->has_size);
    assert_int_equal(reply->size, 7);
    assert_null(reply->note);
    pyproc_reply_free(reply);
    request.has_size = 1;
    request.size = 0;
    request.note = "";
    reply = NULL;
    assert_int_equal(legacy_legacy_echo(pool, &request, &reply, NULL), 0);
    assert_true(reply->has_size);
    assert_int_equal(reply->size, 0);
    assert_string_equal(reply->note, "");
    pyproc_reply_free(reply);
  }
}

static void test_services_at_open(void **state) {
  (void)state;
  const pyproc_service *const good[] = {&kinds_kinds_service, &legacy_legacy_service, NULL};
  const pyproc_service *const absent[] = {&kinds_kinds_service, &quickstart_predictor_service, NULL};
  for (size_t i = 0; i < LENGTH(protocols) - (have_msgpack ? 0 : 1); i++) {
    pyproc_pool_options options = options_for("kinds_worker.py");
    options.protocol = protocols[i];
    options.services = good;
    pyproc_pool *pool = open_pool(&options);
    Kinds__Everything request = KINDS__EVERYTHING__INIT;
    assert_echo(pool, &request);
    pyproc_pool_close(pool);
    options.services = absent;
    assert_error(open_failure(&options), PYPROC_E_UNIMPLEMENTED, "quickstart.Predictor/Predict", NOT_RUN);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      E2E_TEST(test_empty),
      E2E_TEST(test_scalars),
      E2E_TEST(test_special_floats),
      E2E_TEST(test_collections),
      E2E_TEST(test_large_map),
      E2E_TEST(test_oneof_and_optional),
      E2E_TEST(test_well_known),
      E2E_TEST(test_any),
      E2E_TEST(test_deep_messages),
      E2E_TEST(test_json_by_name),
      E2E_TEST(test_bad_json_by_name),
      E2E_TEST(test_typed_failures),
      E2E_TEST(test_null_and_wrong_requests),
      E2E_TEST(test_invalid_utf8),
      E2E_TEST(test_proto2),
      E2E_TEST(test_services_at_open),
  };
  return RUN_TESTS_WITH(tests, open_pools, close_pools);
}
