/* Protobuf's JSON mapping, by the vectors that the Python tests read too, and what only C can do wrong. */
#include "vectors.h"

#include "codec.h"
#include "json_number.h"

#include <float.h>
#include <locale.h>
#include <math.h>

#include "kinds.pyproc.h"
#include "kinds2.pyproc.h"

enum { BUDGET = 1 << 20 };

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

static ProtobufCMessage *unpack(const struct codec *codec, const pyproc_message_info *info, const void *data,
                                size_t size) {
  ProtobufCMessage *message = NULL;
  pyproc_error *error = NULL;
  char *exact = exact_copy(data, size);
  if (codec_unpack(codec, info, (const uint8_t *)exact, size, BUDGET, &message, &error) < 0)
    fail_msg("%.*s: %s", (int)size, exact, pyproc_error_message(error));
  free(exact);
  return message;
}

static char *pack(const struct codec *codec, const pyproc_message_info *info, const ProtobufCMessage *message,
                  size_t *ret_size) {
  buffer out = {0};
  pyproc_error *error = NULL;
  assert_true(buffer_append_text(&out, "front"));
  if (codec_pack(codec, info, message, &out, &error) < 0) fail_msg("%s", pyproc_error_message(error));
  *ret_size = out.size - 5;
  char *text = malloc(out.size - 5 + 1);
  assert_non_null(text);
  memcpy(text, out.data + 5, out.size - 5);
  text[out.size - 5] = '\0';
  assert_memory_equal(out.data, "front", 5);
  buffer_free(&out);
  return text;
}

/* Whether two values are the same to JSON, to which 1 and 1.0 are. */
static bool same_json(const json_t *left, const json_t *right) {
  if (json_is_number(left) && json_is_number(right)) return json_number_value(left) == json_number_value(right);
  if (json_typeof(left) != json_typeof(right)) return false;
  if (json_is_array(left)) {
    bool same = json_array_size(left) == json_array_size(right);
    for (size_t i = 0; same && i < json_array_size(left); i++)
      same = same_json(json_array_get(left, i), json_array_get(right, i));
    return same;
  }
  if (!json_is_object(left)) return json_equal(left, right);
  bool same = json_object_size(left) == json_object_size(right);
  for (void *at = json_object_iter((json_t *)(uintptr_t)left); same && at != NULL;
       at = json_object_iter_next((json_t *)(uintptr_t)left, at)) {
    const json_t *other = json_object_get(right, json_object_iter_key(at));
    same = other != NULL && same_json(json_object_iter_value(at), other);
  }
  return same;
}

static void assert_same_json(const char *name, const char *got, const char *wanted) {
  json_error_t error;
  json_t *left = json_loads(got, JSON_DECODE_ANY, &error);
  if (left == NULL) fail_msg("%s: %s: %s", name, got, error.text);
  json_t *right = json_loads(wanted, JSON_DECODE_ANY, &error);
  if (right == NULL) fail_msg("%s: %s: %s", name, wanted, error.text);
  if (!same_json(left, right)) fail_msg("%s: got %s, wanted %s", name, got, wanted);
  json_decref(left);
  json_decref(right);
}

static void check_same(const json_t *vector) {
  const char *name = vector_text(vector, "name"), *json = vector_text(vector, "json");
  const pyproc_message_info *info = info_of(vector_text(vector, "message"));
  size_t binary_size, size;
  uint8_t *binary = vector_bytes(vector_text(vector, "binary"), &binary_size);

  ProtobufCMessage *message = unpack(&codec_protobuf, info, binary, binary_size);
  char *text = pack(&codec_json, info, message, &size);
  assert_same_json(name, text, json);
  size_t bytes_size; /* protobuf-c's bytes: it leaves defaults out of map entries */
  char *bytes = pack(&codec_protobuf, info, message, &bytes_size);
  pyproc_reply_free(message);

  const char *const sources[] = {json, text}; /* Python's text and our own */
  for (int i = 0; i < 2; i++) {
    message = unpack(&codec_json, info, sources[i], strlen(sources[i]));
    char *again = pack(&codec_protobuf, info, message, &size);
    if (size != bytes_size || memcmp(again, bytes, size) != 0) fail_msg("%s: other bytes from %s", name, sources[i]);
    free(again);
    pyproc_reply_free(message);
  }
  free(bytes);
  free(text);
  free(binary);
}

static void check_accepted(const json_t *vector) {
  const pyproc_message_info *info = info_of(vector_text(vector, "message"));
  const char *json = vector_text(vector, "json"), *canonical = vector_text(vector, "canonical");
  ProtobufCMessage *message = unpack(&codec_json, info, json, strlen(json));
  size_t size;
  char *text = pack(&codec_json, info, message, &size);
  assert_same_json(vector_text(vector, "name"), text, canonical);
  free(text);
  pyproc_reply_free(message);
}

static void check_refused(const json_t *vector) {
  const pyproc_message_info *info = info_of(vector_text(vector, "message"));
  const char *json = vector_text(vector, "json"), *wanted = vector_text(vector, "error");
  char *exact = exact_copy(json, strlen(json));
  ProtobufCMessage *message = (ProtobufCMessage *)&exact;
  pyproc_error *error = NULL;
  int result = codec_unpack(&codec_json, info, (const uint8_t *)exact, strlen(json), BUDGET, &message, &error);
  if (result >= 0) fail_msg("%s: taken", vector_text(vector, "name"));
  assert_int_equal(result, PYPROC_E_DATA_LOSS);
  assert_int_equal(pyproc_error_code(error), PYPROC_E_DATA_LOSS);
  assert_ptr_equal(message, &exact); /* not touched */
  if (strstr(pyproc_error_message(error), wanted) == NULL || strstr(pyproc_error_message(error), info->name) == NULL)
    fail_msg("%s: %s", vector_text(vector, "name"), pyproc_error_message(error));
  pyproc_error_free(error);
  assert_int_equal(codec_unpack(&codec_json, info, (const uint8_t *)exact, strlen(json), BUDGET, &message, NULL),
                   PYPROC_E_DATA_LOSS);
  free(exact);
}

static void for_each(const char *member, void check(const json_t *vector), size_t least) {
  json_t *root = vectors_load("json_mapping.json"), *all = json_object_get(root, member), *vector;
  size_t i;
  assert_true(json_array_size(all) >= least);
  json_array_foreach(all, i, vector) check(vector);
  json_decref(root);
}

static void test_same(void **state) {
  (void)state;
  for_each("same", check_same, 40);
}

static void test_accepted(void **state) {
  (void)state;
  for_each("accepted", check_accepted, 20);
}

static void test_refused(void **state) {
  (void)state;
  for_each("refused", check_refused, 30);
}

/* What is written is pinned byte for byte once. */
static void test_exact_text(void **state) {
  (void)state;
  Kinds__Inner inner = KINDS__INNER__INIT;
  inner.name = "a\"b";
  Kinds__Scalars message = KINDS__SCALARS__INIT;
  message.an_int64 = INT64_MIN;
  message.a_double = 0.1;
  message.a_bool = 1;
  message.a_colour = KINDS__COLOUR__COLOUR_BLUE;
  message.a_string = "\xe2\x82\xac\n";
  message.some_bytes.data = (uint8_t *)"\xfb\xff";
  message.some_bytes.len = 2;
  message.a_message = &inner;
  size_t size;
  char *text = pack(&codec_json, kinds_kinds_echo_scalars_method.request, &message.base, &size);
  assert_string_equal(text, "{\"anInt64\":\"-9223372036854775808\",\"aDouble\":0.1,\"aBool\":true,"
                            "\"aColour\":\"COLOUR_BLUE\",\"aString\":\"\xe2\x82\xac\\n\",\"someBytes\":\"+/8=\","
                            "\"aMessage\":{\"name\":\"a\\\"b\"}}");
  free(text);
}

static void check_unsendable(const pyproc_message_info *info, const ProtobufCMessage *message, const char *wanted) {
  buffer out = {0};
  pyproc_error *error = NULL;
  assert_true(buffer_append_text(&out, "front"));
  assert_int_equal(codec_pack(&codec_json, info, message, &out, &error), PYPROC_E_INVALID_ARGUMENT);
  assert_int_equal(pyproc_error_code(error), PYPROC_E_INVALID_ARGUMENT);
  assert_string_equal(pyproc_error_message(error), wanted);
  assert_int_equal(out.size, 5);
  assert_int_equal(codec_pack(&codec_json, info, message, &out, NULL), PYPROC_E_INVALID_ARGUMENT);
  pyproc_error_free(error);
  buffer_free(&out);
}

static void test_unsendable(void **state) {
  (void)state;
  Kinds__Scalars scalars = KINDS__SCALARS__INIT;
  scalars.a_string = "\xff";
  check_unsendable(kinds_kinds_echo_scalars_method.request, &scalars.base,
                   "kinds.Scalars: field \"a_string\": the string is not valid UTF-8");
  scalars.a_string = NULL; /* absent */
  scalars.some_bytes.len = 1;
  check_unsendable(kinds_kinds_echo_scalars_method.request, &scalars.base,
                   "kinds.Scalars: field \"some_bytes\": bytes at NULL");
  Kinds__Inner inner = KINDS__INNER__INIT;
  const char *strings[] = {"a", NULL};
  Kinds__Lists lists = KINDS__LISTS__INIT;
  lists.n_strings = 2;
  lists.strings = (void *)strings;
  check_unsendable(kinds_kinds_echo_lists_method.request, &lists.base,
                   "kinds.Lists: field \"strings[1]\": is to be sent, but NULL");
  lists.n_strings = 0;
  Kinds__Inner blank = {.name = "not initialised"}, *messages[] = {&inner, &blank};
  lists.n_messages = 2;
  lists.messages = messages;
  check_unsendable(kinds_kinds_echo_lists_method.request, &lists.base,
                   "kinds.Lists: field \"messages[1]\": is not initialised as its type (begin with its ..._INIT)");
  lists.messages = NULL;
  check_unsendable(kinds_kinds_echo_lists_method.request, &lists.base,
                   "kinds.Lists: field \"messages\": elements at NULL");
  Kinds2__Required required = KINDS2__REQUIRED__INIT;
  check_unsendable(kinds2_kinds2_echo_required_method.request, &required.base,
                   "kinds2.Required: field \"name\": is to be sent, but NULL");
}

static void test_unsendable_well_known(void **state) {
  (void)state;
  const pyproc_message_info *info = kinds_kinds_echo_well_known_method.request;
  Kinds__WellKnown message = KINDS__WELL_KNOWN__INIT;
  Google__Protobuf__Timestamp timestamp = GOOGLE__PROTOBUF__TIMESTAMP__INIT;
  timestamp.nanos = 1000000000;
  message.timestamp = &timestamp;
  check_unsendable(info, &message.base, "kinds.WellKnown: field \"timestamp\": no valid Timestamp");
  message.timestamp = NULL;
  Google__Protobuf__Duration duration = GOOGLE__PROTOBUF__DURATION__INIT;
  duration.seconds = 1;
  duration.nanos = -1;
  message.duration = &duration;
  check_unsendable(info, &message.base, "kinds.WellKnown: field \"duration\": no valid Duration");
  message.duration = NULL;
  Google__Protobuf__Value value = GOOGLE__PROTOBUF__VALUE__INIT;
  value.kind_case = GOOGLE__PROTOBUF__VALUE__KIND_NUMBER_VALUE;
  value.number_value = (double)NAN;
  message.value = &value;
  check_unsendable(info, &message.base,
                   "kinds.WellKnown: field \"value\": a Value that is no finite number has no JSON");
  message.value = NULL;
  Google__Protobuf__FieldMask mask = GOOGLE__PROTOBUF__FIELD_MASK__INIT;
  const char *paths[] = {"a", "camelCase"};
  mask.n_paths = 2;
  mask.paths = (void *)paths;
  message.mask = &mask;
  check_unsendable(info, &message.base,
                   "kinds.WellKnown: field \"mask\": a path that JSON cannot have (it wants lower_case names)");
  message.mask = NULL;
  Google__Protobuf__Any any = GOOGLE__PROTOBUF__ANY__INIT;
  any.type_url = "type.googleapis.com/kinds.Nowhere";
  message.any = &any;
  check_unsendable(
      info, &message.base,
      "kinds.WellKnown: field \"any\": an Any of a type that nothing else in the message has; use the protobuf "
      "protocol for it");
  any.type_url = "type.googleapis.com/google.protobuf.Timestamp";
  any.value.data = (uint8_t *)"\x08";
  any.value.len = 1;
  check_unsendable(info, &message.base, "kinds.WellKnown: field \"any\": an Any whose value is no message of its type");
}

/* A value that is not set is null, and entries of maps may lack theirs. */
static void test_gaps(void **state) {
  (void)state;
  size_t size;
  Kinds__WellKnown message = KINDS__WELL_KNOWN__INIT;
  Google__Protobuf__Value value = GOOGLE__PROTOBUF__VALUE__INIT;
  message.value = &value;
  char *text = pack(&codec_json, kinds_kinds_echo_well_known_method.request, &message.base, &size);
  assert_string_equal(text, "{\"value\":null}");
  free(text);
  Kinds__Maps maps = KINDS__MAPS__INIT;
  Kinds__Maps__ByBoolEntry entry = KINDS__MAPS__BY_BOOL_ENTRY__INIT, *entries[] = {&entry};
  maps.n_by_bool = 1;
  maps.by_bool = entries;
  Kinds__Maps__ByInt32Entry text_entry = KINDS__MAPS__BY_INT32_ENTRY__INIT, *text_entries[] = {&text_entry};
  text_entry.value = NULL;
  maps.n_by_int32 = 1;
  maps.by_int32 = text_entries;
  text = pack(&codec_json, kinds_kinds_echo_maps_method.request, &maps.base, &size);
  assert_string_equal(text, "{\"byInt32\":{\"0\":\"\"},\"byBool\":{\"false\":{}}}");
  free(text);
}

static void test_nesting(void **state) {
  (void)state;
  const pyproc_message_info *info = kinds_kinds_echo_inner_method.request;
  enum { MOST = 98 };
  Kinds__Inner chain[MOST + 1];
  for (int i = 0; i <= MOST; i++) {
    kinds__inner__init(&chain[i]);
    if (i > 0) chain[i].child = &chain[i - 1];
  }
  size_t size;
  char *text = pack(&codec_json, info, &chain[MOST - 1].base, &size);
  ProtobufCMessage *message = unpack(&codec_json, info, text, size);
  int depth = 0;
  for (const Kinds__Inner *at = (const Kinds__Inner *)message; at != NULL; at = at->child) depth++;
  assert_int_equal(depth, MOST);
  pyproc_reply_free(message);
  free(text);
  check_unsendable(info, &chain[MOST].base, "kinds.Inner: field \"child\": is nested deeper than 98 in JSON");
  chain[0].child = &chain[0]; /* a ring */
  check_unsendable(info, &chain[0].base, "kinds.Inner: field \"child\": is nested deeper than 98 in JSON");
}

static void test_budget(void **state) {
  (void)state;
  const pyproc_message_info *info = kinds_kinds_echo_lists_method.request;
  enum { COUNT = 2000 };
  char text[32 + 3 * COUNT];
  size_t size = (size_t)sprintf(text, "{\"messages\":[{}");
  for (int i = 1; i < COUNT; i++) size += (size_t)sprintf(text + size, ",{}");
  size += (size_t)sprintf(text + size, "]}");
  ProtobufCMessage *message = NULL;
  pyproc_error *error = NULL;
  assert_int_equal(codec_unpack(&codec_json, info, (const uint8_t *)text, size, 40000, &message, &error),
                   PYPROC_E_RESOURCE_EXHAUSTED);
  assert_string_equal(pyproc_error_message(error), "kinds.Lists: the reply takes more memory than it may");
  pyproc_error_free(error);
  assert_int_equal(codec_unpack(&codec_json, info, (const uint8_t *)text, size, 0, &message, NULL),
                   PYPROC_E_RESOURCE_EXHAUSTED);
  assert_int_equal(codec_unpack(&codec_json, info, (const uint8_t *)text, size, BUDGET, &message, NULL), PYPROC_OK);
  assert_int_equal(((Kinds__Lists *)message)->n_messages, COUNT);
  pyproc_reply_free(message);
}

static void check_double(double value) {
  char text[JSON_NUMBER_MAX];
  double back;
  size_t size = json_write_double(text, value);
  assert_true(size < sizeof text);
  text[size] = '\0';
  assert_null(strchr(text, ','));
  assert_true(json_read_double(text, size, &back));
  if (memcmp(&back, &value, sizeof back) != 0) fail_msg("%.17g is written as %s", value, text);
}

static void check_numbers(void) {
  static const double doubles[] = {0.0,    -0.0,     1,       0.1,       1.0 / 3, 1e15, 1e16, 123456.789,
                                   5e-324, DBL_MAX,  DBL_MIN, 1e22,      1e23,    0.3,  1e-5, 1e-6,
                                   9.5e-7, 1234.5e6, 1e9,     1e8 + 0.1, 4.35,    2.675};
  uint64_t bits = 88172645463325252u;
  for (size_t i = 0; i < sizeof doubles / sizeof *doubles; i++) {
    check_double(doubles[i]);
    check_double(-doubles[i]);
  }
  for (int i = 0; i < 20000; i++) {
    double value;
    bits ^= bits << 13;
    bits ^= bits >> 7;
    bits ^= bits << 17;
    memcpy(&value, &bits, sizeof value);
    if (isfinite(value)) check_double(value);
    check_double((double)(int64_t)(bits % 100000000) / 1000);
    float small = (float)(bits % 1000003) * 1.37e-3f, back;
    char text[JSON_NUMBER_MAX];
    size_t size = json_write_float(text, small);
    assert_true(json_read_float(text, size, &back));
    assert_memory_equal(&small, &back, sizeof back);
  }
}

static void test_numbers(void **state) {
  (void)state;
  check_numbers();
  static const struct {
    double value;
    const char *text;
  } cases[] = {{0.1, "0.1"},
               {42, "42"},
               {-1.5, "-1.5"},
               {1e21, "1e+21"},
               {-0.0, "-0.0"},
               {0.30000000000000004, "0.30000000000000004"},
               {123456789.5, "123456789.5"},
               {1e-7, "1e-07"},
               {100, "100"},
               {0.05, "0.05"},
               {1e15, "1e+15"}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char text[JSON_NUMBER_MAX + 1];
    text[json_write_double(text, cases[i].value)] = '\0';
    assert_string_equal(text, cases[i].text);
  }
  char text[JSON_NUMBER_MAX + 1];
  text[json_write_float(text, FLT_MAX)] = '\0';
  assert_string_equal(text, "3.4028234663852886e+38");
  text[json_write_float(text, 0.1f)] = '\0';
  assert_string_equal(text, "0.1");
  text[json_write_signed(text, INT64_MIN)] = '\0';
  assert_string_equal(text, "-9223372036854775808");
  text[json_write_unsigned(text, UINT64_MAX)] = '\0';
  assert_string_equal(text, "18446744073709551615");
}

/* A host may have a locale with a decimal comma. */
static void test_locale(void **state) {
  (void)state;
  static const char *const locales[] = {"de_DE.UTF-8", "de_DE.utf8",  "fr_FR.UTF-8",
                                        "fr_FR.utf8",  "ps_AF.UTF-8", "ps_AF"};
  bool found = false;
  for (size_t i = 0; i < sizeof locales / sizeof *locales && !found; i++) found = setlocale(LC_ALL, locales[i]) != NULL;
  if (!found) skip(); /* none is installed */
  check_numbers();
  setlocale(LC_ALL, "C");
}

static void test_codecs(void **state) {
  (void)state;
  assert_ptr_equal(codec_find("json"), &codec_json);
  assert_ptr_equal(codec_find("protobuf"), &codec_protobuf);
  assert_null(codec_find("grpc"));
  assert_null(codec_find(""));
  assert_true(codec_json.envelope);
  assert_false(codec_protobuf.envelope);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_same),       cmocka_unit_test(test_accepted),
      cmocka_unit_test(test_refused),    cmocka_unit_test(test_exact_text),
      cmocka_unit_test(test_unsendable), cmocka_unit_test(test_unsendable_well_known),
      cmocka_unit_test(test_gaps),       cmocka_unit_test(test_nesting),
      cmocka_unit_test(test_budget),     cmocka_unit_test(test_numbers),
      cmocka_unit_test(test_locale),     cmocka_unit_test(test_codecs),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
