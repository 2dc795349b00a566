/* The JSON envelopes: what is in the valid ones, and that all others are refused. */
#include "vectors.h"

#include "wire/envelope.h"

static char *payload_of(const json_t *vector, size_t *ret_size) {
  const char *hex = vector_text(vector, "hex");
  if (hex != NULL) return (char *)vector_bytes(hex, ret_size);
  *ret_size = json_string_length(json_object_get(vector, "payload"));
  return exact_copy(json_string_value(json_object_get(vector, "payload")), *ret_size);
}

static void check_text(const json_t *vector, const char *member, envelope_text got) {
  const char *wanted = vector_text(vector, member);
  if (wanted == NULL) {
    if (got.data != NULL) fail_msg("%s: has a %s", vector_text(vector, "name"), member);
    return;
  }
  if (got.data == NULL) fail_msg("%s: has no %s", vector_text(vector, "name"), member);
  char *plain = malloc(got.size + 1);
  assert_non_null(plain);
  size_t size = envelope_unescape(got, plain);
  assert_int_equal(size, strlen(plain));
  assert_string_equal(plain, wanted);
  free(plain);
}

static void check_valid(const json_t *vector) {
  static const char *const types[] = {[ENVELOPE_REQUEST] = "request",
                                      [ENVELOPE_REPLY] = "reply",
                                      [ENVELOPE_CANCELLATION] = "cancellation",
                                      [ENVELOPE_OTHER] = "other"};
  size_t size;
  char *payload = payload_of(vector, &size);
  struct envelope got;
  const char *wrong = envelope_parse(payload, size, &got);
  if (wrong != NULL) fail_msg("%s: %s", vector_text(vector, "name"), wrong);
  assert_null(envelope_check_json(payload, size));
  assert_string_equal(types[got.type], vector_text(vector, "type"));
  assert_true(got.id == (uint64_t)json_integer_value(json_object_get(vector, "id")));
  assert_int_equal(got.ok, json_is_true(json_object_get(vector, "ok")));
  assert_int_equal(got.code, json_integer_value(json_object_get(vector, "code")));
  assert_true(got.timeout_ms == (uint64_t)json_integer_value(json_object_get(vector, "timeout_ms")));
  check_text(vector, "method", got.method);
  check_text(vector, "error", got.error);
  check_text(vector, "error_type", got.error_type);
  check_text(vector, "traceback", got.traceback);
  check_text(vector, "reason", got.reason);
  const char *body = vector_text(vector, "body");
  if (body == NULL) {
    assert_null(got.body.data);
  } else {
    assert_int_equal(got.body.size, strlen(body));
    assert_memory_equal(got.body.data, body, got.body.size);
  }
  free(payload);
}

static void test_valid(void **state) {
  (void)state;
  json_t *root = vectors_load("envelopes.json"), *valid = json_object_get(root, "valid"), *vector;
  size_t i;
  assert_true(json_array_size(valid) >= 20);
  json_array_foreach(valid, i, vector) check_valid(vector);
  json_decref(root);
}

static void test_invalid(void **state) {
  (void)state;
  json_t *root = vectors_load("envelopes.json"), *invalid = json_object_get(root, "invalid"), *vector;
  size_t i;
  assert_true(json_array_size(invalid) >= 20);
  json_array_foreach(invalid, i, vector) {
    size_t size;
    char *payload = payload_of(vector, &size);
    struct envelope got;
    const char *wrong = envelope_parse(payload, size, &got);
    if (wrong == NULL || strstr(wrong, vector_text(vector, "error")) == NULL)
      fail_msg("%s: %s", vector_text(vector, "name"), wrong == NULL ? "taken" : wrong);
    free(payload);
  }
  json_decref(root);
}

/* No beginning of a valid envelope is one, and none is read beyond. */
static void test_truncated(void **state) {
  (void)state;
  json_t *root = vectors_load("envelopes.json"), *valid = json_object_get(root, "valid"), *vector;
  size_t i;
  json_array_foreach(valid, i, vector) {
    size_t size;
    char *payload = payload_of(vector, &size);
    const char *last = strrchr(vector_text(vector, "payload"), '}');
    size_t whole = (size_t)(last - vector_text(vector, "payload"));
    for (size_t cut = 0; cut <= whole && cut < 400; cut++) {
      char *part = exact_copy(payload, cut);
      struct envelope got;
      if (envelope_parse(part, cut, &got) == NULL) fail_msg("%s: taken at %zu", vector_text(vector, "name"), cut);
      free(part);
    }
    free(payload);
  }
  json_decref(root);
}

static void test_json_values(void **state) {
  (void)state;
  static const char *const valid[] = {"null",
                                      " true ",
                                      "false",
                                      "0",
                                      "-0",
                                      "1.5e+300",
                                      "\"\"",
                                      "[]",
                                      "{}",
                                      "[[],{}]",
                                      "\"\\ud83d\\ude00\"",
                                      "[1,2,3]",
                                      "{\"a\":{\"b\":[]}}"};
  static const char *const invalid[] = {"",   " ",   "nul", "nulll", "tru", "00",      ".5",       "[",
                                        "]",  "{",   "}",   "[,]",   "{,}", "{\"a\"}", "{\"a\":}", "{1:2}",
                                        "\"", "'a'", "1 2", "[1 2]", "[1}", "1e",      "--1"};
  for (size_t i = 0; i < sizeof valid / sizeof *valid; i++)
    if (envelope_check_json(valid[i], strlen(valid[i])) != NULL) fail_msg("refused: %s", valid[i]);
  for (size_t i = 0; i < sizeof invalid / sizeof *invalid; i++)
    if (envelope_check_json(invalid[i], strlen(invalid[i])) == NULL) fail_msg("taken: %s", invalid[i]);
}

static void test_nesting(void **state) {
  (void)state;
  char text[2 * 130];
  for (size_t depth = 1; depth <= 129; depth++) {
    memset(text, '[', depth);
    memset(text + depth, ']', depth);
    const char *wrong = envelope_check_json(text, 2 * depth);
    assert_int_equal(wrong == NULL, depth <= 100);
  }
}

static void test_error_object(void **state) {
  (void)state;
  static const char whole[] =
      "{\"error\":\"m\",\"type\":\"request\",\"traceback\":\"t\",\"interrupted\":true,\"more\":[]}";
  envelope_text error, type, traceback;
  bool interrupted;
  assert_null(envelope_parse_error(whole, sizeof whole - 1, &error, &type, &traceback, &interrupted));
  assert_true(interrupted);
  assert_memory_equal(error.data, "m", error.size);
  assert_memory_equal(type.data, "request", type.size);
  assert_memory_equal(traceback.data, "t", traceback.size);
  static const char *const broken[] = {"",
                                       "[]",
                                       "{}",
                                       "{\"error\":1}",
                                       "{\"error\":null}",
                                       "{\"error\":\"e\",\"type\":1}",
                                       "{\"error\":\"e\",\"traceback\":{}}",
                                       "{\"error\":\"e\""};
  for (size_t i = 0; i < sizeof broken / sizeof *broken; i++)
    assert_non_null(envelope_parse_error(broken[i], strlen(broken[i]), &error, &type, &traceback, &interrupted));
}

/* All bytes escape to valid JSON of the size that was announced, and come back. */
static void test_escape(void **state) {
  (void)state;
  char text[4 * 128], escaped[6 * sizeof text + 2], plain[sizeof escaped];
  size_t size = 0;
  for (int c = 1; c < 128; c++) text[size++] = (char)c;
  memcpy(text + size, "\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80 plain and long enough", 31);
  size += 31;
  for (size_t from = 0; from < size - 31; from++) {
    size_t count = size - from, wanted = envelope_escaped_size(text + from, count);
    escaped[0] = '"';
    char *end = envelope_escape(escaped + 1, text + from, count);
    assert_int_equal(end - escaped - 1, wanted);
    *end++ = '"';
    assert_null(envelope_check_json(escaped, (size_t)(end - escaped)));
    size_t back = envelope_unescape((envelope_text){escaped + 1, wanted}, plain);
    assert_int_equal(back, count);
    assert_memory_equal(plain, text + from, count);
  }
  assert_int_equal(envelope_escaped_size("", 0), 0);
  assert_int_equal(envelope_escaped_size("a\0b", 3), 8);
}

static void test_unescape_mends(void **state) {
  (void)state;
  char plain[64];
  static const struct {
    const char *escaped, *wanted;
  } cases[] = {{"a\\u0000b", "a\xef\xbf\xbd"
                             "b"},
               {"\\ud800", "\xef\xbf\xbd"},
               {"\\udc00x", "\xef\xbf\xbdx"},
               {"\\ud800\\ud83d\\ude00", "\xef\xbf\xbd\xf0\x9f\x98\x80"},
               {"\\u00E4\\u20aC", "\xc3\xa4\xe2\x82\xac"},
               {"\\\"\\\\\\/\\b\\f\\n\\r\\t", "\"\\/\b\f\n\r\t"}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    size_t size = envelope_unescape((envelope_text){cases[i].escaped, strlen(cases[i].escaped)}, plain);
    assert_string_equal(plain, cases[i].wanted);
    assert_int_equal(size, strlen(cases[i].wanted));
  }
  assert_true(envelope_has_nul((envelope_text){"a\\u0000", 7}));
  assert_false(envelope_has_nul((envelope_text){"a\\\\u0000", 8}));
}

static void test_utf8(void **state) {
  (void)state;
  static const char *const valid[] = {"",
                                      "a",
                                      "\x7f",
                                      "\xc2\x80",
                                      "\xdf\xbf",
                                      "\xe0\xa0\x80",
                                      "\xed\x9f\xbf",
                                      "\xee\x80\x80",
                                      "\xef\xbf\xbf",
                                      "\xf0\x90\x80\x80",
                                      "\xf4\x8f\xbf\xbf",
                                      "eight or more \xc3\xa4"};
  static const char *const invalid[] = {"\x80",
                                        "\xbf",
                                        "\xc0\x80",
                                        "\xc1\xbf",
                                        "\xc2",
                                        "\xc2\x20",
                                        "\xe0\x80\x80",
                                        "\xe0\x9f\xbf",
                                        "\xed\xa0\x80",
                                        "\xed\xbf\xbf",
                                        "\xe2\x82",
                                        "\xe2\x28\xa1",
                                        "\xf0\x80\x80\x80",
                                        "\xf0\x8f\xbf\xbf",
                                        "\xf0\x9f\x98",
                                        "\xf4\x90\x80\x80",
                                        "\xf5\x80\x80\x80",
                                        "\xfe",
                                        "\xff",
                                        "eight or more \xe4 text"};
  for (size_t i = 0; i < sizeof valid / sizeof *valid; i++)
    if (!envelope_is_utf8(valid[i], strlen(valid[i]))) fail_msg("valid %zu", i);
  for (size_t i = 0; i < sizeof invalid / sizeof *invalid; i++)
    if (envelope_is_utf8(invalid[i], strlen(invalid[i]))) fail_msg("invalid %zu", i);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_valid),       cmocka_unit_test(test_invalid),        cmocka_unit_test(test_truncated),
      cmocka_unit_test(test_json_values), cmocka_unit_test(test_nesting),        cmocka_unit_test(test_error_object),
      cmocka_unit_test(test_escape),      cmocka_unit_test(test_unescape_mends), cmocka_unit_test(test_utf8),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
