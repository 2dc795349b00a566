/* A worker's hello: what is read from it, what is refused, and how methods are found in it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "buffer.h"
#include "method_table.h"
#include "wire/frame.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const ProtobufCMessageDescriptor none_descriptor = {.name = "t.None"};
static const pyproc_message_info none_info = {"t.None", &none_descriptor, NULL, 0};

#define METHOD(method_name) \
  { \
    .size = sizeof(pyproc_method), .name = method_name, .request = &none_info, .reply = &none_info, \
    .fingerprint = "f1" \
  }

static const pyproc_method a_method = METHOD("t.S/A"), b_method = METHOD("t.S/B");

static method_table *parse(const char *json) {
  method_table *table = NULL;
  pyproc_error *error = NULL;
  if (method_table_parse(json, strlen(json), &table, &error) < 0) fail_msg("%s", pyproc_error_message(error));
  assert_non_null(table);
  return table;
}

static void refuse(const char *json, size_t size, int code) {
  method_table *table = NULL;
  pyproc_error *error = NULL;
  int result = method_table_parse(json, size, &table, &error);
  if (result != code) fail_msg("%d for %.200s", result, json);
  assert_null(table);
  assert_int_equal(pyproc_error_code(error), code);
  assert_true(strlen(pyproc_error_message(error)) > 10);
  pyproc_error_free(error);
  assert_int_equal(method_table_parse(json, size, &table, NULL), code);
}

static int find(method_table *table, const char *name, const pyproc_method *typed, uint32_t *ret_index,
                pyproc_error **reterr) {
  call_method method = {.name = name, .typed = typed};
  return method_table_find(table, &method, ret_index, reterr);
}

static uint32_t found(method_table *table, const char *name, const pyproc_method *typed) {
  uint32_t index = UINT32_MAX;
  pyproc_error *error = NULL;
  if (find(table, name, typed, &index, &error) < 0) fail_msg("%s", pyproc_error_message(error));
  return index;
}

static void missing(method_table *table, const char *name, const pyproc_method *typed, int code, const char *text) {
  uint32_t index = 77;
  pyproc_error *error = NULL;
  assert_int_equal(find(table, name, typed, &index, &error), code);
  assert_int_equal(index, 77);
  if (strstr(pyproc_error_message(error), text) == NULL) fail_msg("%s", pyproc_error_message(error));
  pyproc_error_free(error);
}

static void the_hello_of_the_wire_page(void **state) {
  (void)state;
  method_table *table = parse(
      "{\"version\":1,\"oldest\":1,\"pid\":4711,\"python\":\"3.11.2\",\"worker\":\"0.1.0\","
      "\"features\":[\"status_page\"],\"threads\":3,\"methods\":["
      "{\"name\":\"t.S/A\",\"kind\":\"unary\",\"request\":\"t.None\",\"reply\":\"t.None\",\"fingerprint\":\"f1\"},"
      "{\"name\":\"predict\",\"kind\":\"unary\"},{\"name\":\"health\",\"kind\":\"unary\"}],\"messages\":{}}");
  assert_true(method_table_has_feature(table, "status_page"));
  assert_false(method_table_has_feature(table, "started"));
  assert_int_equal(method_table_threads(table), 3);
  assert_int_equal(found(table, "t.S/A", &a_method), 0);
  assert_int_equal(found(table, "t.S/A", &a_method), 0); /* remembered */
  assert_int_equal(found(table, "t.S/A", NULL), 0);
  assert_int_equal(found(table, "predict", NULL), 1);
  assert_int_equal(found(table, "health", NULL), 2);
  missing(table, "t.S/B", &b_method, PYPROC_E_UNIMPLEMENTED, "t.S/B");
  missing(table, "nope", NULL, PYPROC_E_UNIMPLEMENTED, "expose");
  missing(table, "", NULL, PYPROC_E_UNIMPLEMENTED, "no method");
  method_table_free(table);
  method_table_free(NULL);
}

/* All members but two may be absent; what is not known is ignored, what has another type counts as absent. */
static void as_little_as_may_be(void **state) {
  (void)state;
  static const char *const hellos[] = {
      "{\"version\":1,\"methods\":[]}",
      "{\"version\":1,\"methods\":[],\"features\":7,\"threads\":\"many\",\"messages\":[],\"pid\":{},\"new\":[1,{}]}",
      "{\"version\":1,\"methods\":[],\"features\":{\"status_page\":true},\"oldest\":\"x\",\"threads\":null}",
      "{\"version\":1,\"methods\":[],\"features\":[1,null,[\"status_page\"],\"STATUS_PAGE\"]}"};
  for (size_t i = 0; i < sizeof hellos / sizeof *hellos; i++) {
    method_table *table = parse(hellos[i]);
    assert_false(method_table_has_feature(table, "status_page"));
    assert_int_equal(method_table_threads(table), 1);
    missing(table, "health", NULL, PYPROC_E_UNIMPLEMENTED, "health");
    method_table_free(table);
  }
}

static void concurrency_is_bounded(void **state) {
  (void)state;
  static const struct {
    const char *given;
    int concurrency;
  } cases[] = {{"4096", 4096}, {"4097", 4096},  {"9223372036854775807", 4096},
               {"100", 100},   {"2", 3},        {"0", 3},
               {"-1", 3},      {"\"many\"", 3}, {"null", 3}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char json[160];
    method_table *table = NULL;
    snprintf(json, sizeof json, "{\"version\":1,\"methods\":[],\"threads\":3,\"concurrency\":%s}", cases[i].given);
    assert_int_equal(method_table_parse(json, strlen(json), &table, NULL), 0);
    assert_int_equal(method_table_concurrency(table), cases[i].concurrency);
    method_table_free(table);
  }
}

static void threads_are_bounded(void **state) {
  (void)state;
  static const struct {
    const char *given;
    int threads;
  } cases[] = {{"1", 1}, {"64", 64}, {"65", 64}, {"0", 1}, {"-1", 1}, {"9223372036854775807", 64}, {"2.5", 1}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char json[128];
    snprintf(json, sizeof json, "{\"version\":1,\"methods\":[],\"threads\":%s}", cases[i].given);
    method_table *table = parse(json);
    assert_int_equal(method_table_threads(table), cases[i].threads);
    method_table_free(table);
  }
}

static void versions(void **state) {
  (void)state;
  static const struct {
    const char *members;
    int code;
  } cases[] = {{"\"version\":1", 0},
               {"\"version\":1,\"oldest\":1", 0},
               {"\"version\":9,\"oldest\":1", 0},
               {"\"version\":9,\"oldest\":0", 0},
               {"\"version\":2", PYPROC_E_FAILED_PRECONDITION},
               {"\"version\":0", PYPROC_E_FAILED_PRECONDITION},
               {"\"version\":3,\"oldest\":2", PYPROC_E_FAILED_PRECONDITION},
               {"\"version\":-1,\"oldest\":-5", PYPROC_E_FAILED_PRECONDITION},
               {"\"version\":\"1\"", PYPROC_E_DATA_LOSS},
               {"\"version\":1.0", PYPROC_E_DATA_LOSS},
               {"\"version\":null", PYPROC_E_DATA_LOSS},
               {"\"oldest\":1", PYPROC_E_DATA_LOSS}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char json[128];
    snprintf(json, sizeof json, "{%s,\"methods\":[]}", cases[i].members);
    if (cases[i].code != 0)
      refuse(json, strlen(json), cases[i].code);
    else
      method_table_free(parse(json));
  }
}

static void hellos_that_are_none(void **state) {
  (void)state;
  static const char *const bad[] = {"",
                                    "{",
                                    "null",
                                    "[]",
                                    "1",
                                    "\"x\"",
                                    "{}",
                                    "{\"version\":1}",
                                    "{\"version\":1,\"methods\":null}",
                                    "{\"version\":1,\"methods\":{}}",
                                    "{\"version\":1,\"methods\":\"all\"}",
                                    "{\"version\":1,\"methods\":[1]}",
                                    "{\"version\":1,\"methods\":[null]}",
                                    "{\"version\":1,\"methods\":[\"predict\"]}",
                                    "{\"version\":1,\"methods\":[{}]}",
                                    "{\"version\":1,\"methods\":[{\"name\":\"\"}]}",
                                    "{\"version\":1,\"methods\":[{\"name\":7}]}",
                                    "{\"version\":1,\"methods\":[{\"name\":\"a\\u0000b\"}]}",
                                    "{\"version\":1,\"methods\":[{\"name\":\"\xff\"}]}",
                                    "{\"version\":1,\"methods\":[]}}",
                                    "{\"version\":1,\"methods\":[]} x",
                                    "{\"version\":99999999999999999999,\"methods\":[]}"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) refuse(bad[i], strlen(bad[i]), PYPROC_E_DATA_LOSS);
  refuse("{\"version\":1,\"methods\":[]\0}", 27, PYPROC_E_DATA_LOSS);
}

/* Cut at every byte, in memory that ends there. */
static void cut_hellos(void **state) {
  (void)state;
  const char *whole = "{\"version\":1,\"threads\":2,\"methods\":[{\"name\":\"p\",\"kind\":\"unary\"}]}";
  for (size_t size = 0; size < strlen(whole); size++) {
    char *cut = malloc(size + 1);
    assert_non_null(cut);
    memcpy(cut + 1, whole, size);
    refuse(cut + 1, size, PYPROC_E_DATA_LOSS);
    free(cut);
  }
}

static void deep_nesting_is_refused(void **state) {
  (void)state;
  enum { DEPTH = 100000 };
  buffer json = {0};
  assert_true(buffer_append_text(&json, "{\"version\":1,\"methods\":[],\"x\":"));
  for (int i = 0; i < DEPTH; i++) assert_true(buffer_append(&json, "[", 1));
  refuse((const char *)json.data, json.size, PYPROC_E_DATA_LOSS);
  buffer_free(&json);
}

static void append_methods(buffer *json, int count, const char *format) {
  char text[96];
  assert_true(buffer_append_text(json, "{\"version\":1,\"methods\":["));
  for (int i = 0; i < count; i++) {
    snprintf(text, sizeof text, format, i > 0 ? "," : "", i);
    assert_true(buffer_append_text(json, text));
  }
  assert_true(buffer_append(json, "]}", 3));
  json->size--;
}

static void as_many_methods_as_may_be(void **state) {
  (void)state;
  buffer json = {0};
  char name[32];
  append_methods(&json, WIRE_METHODS_MAX, "%s{\"name\":\"m%d\"}");
  method_table *table = parse((const char *)json.data);
  for (uint32_t i = 0; i < WIRE_METHODS_MAX; i += 251) {
    snprintf(name, sizeof name, "m%u", i);
    assert_int_equal(found(table, name, NULL), i);
  }
  assert_int_equal(found(table, "m65535", NULL), 65535);
  missing(table, "m65536", NULL, PYPROC_E_UNIMPLEMENTED, "m65536");
  method_table_free(table);
  buffer_clear(&json);
  append_methods(&json, WIRE_METHODS_MAX + 1, "%s{\"name\":\"m%d\"}");
  refuse((const char *)json.data, json.size, PYPROC_E_DATA_LOSS);
  buffer_free(&json);
}

static void of_two_with_a_name_the_first_counts(void **state) {
  (void)state;
  method_table *table = parse("{\"version\":1,\"methods\":[{\"name\":\"a\"},{\"name\":\"b\"},{\"name\":\"a\"},"
                              "{\"name\":\"b\"},{\"name\":\"c\"}]}");
  assert_int_equal(found(table, "a", NULL), 0);
  assert_int_equal(found(table, "b", NULL), 1);
  assert_int_equal(found(table, "c", NULL), 4);
  method_table_free(table);
}

/* Equal fingerprints fit without shapes; others are compared by their shapes. */
static void fingerprints_and_shapes(void **state) {
  (void)state;
  method_table *table =
      parse("{\"version\":1,\"methods\":["
            "{\"name\":\"t.S/A\",\"kind\":\"unary\",\"request\":\"x\",\"reply\":\"y\",\"fingerprint\":\"f2\"},"
            "{\"name\":\"t.S/B\",\"kind\":\"unary\",\"request\":\"x\",\"reply\":\"x\",\"fingerprint\":\"f2\"}],"
            "\"messages\":{\"x\":[]}}");
  for (int i = 0; i < 2; i++) /* a refusal is not forgotten, nor taken for a success */
    missing(table, "t.S/A", &a_method, PYPROC_E_FAILED_PRECONDITION, "t.S/A");
  assert_int_equal(found(table, "t.S/B", &b_method), 1);
  assert_int_equal(found(table, "t.S/A", NULL), 0); /* by its name alone nothing is compared */
  method_table_free(table);
}

static void another_kind_of_rpc(void **state) {
  (void)state;
  static const char *const kinds[] = {"unary", "server_stream", "client_stream", "bidi"};
  for (uint64_t ours = 0; ours < 4; ours++)
    for (uint64_t theirs = 0; theirs < 5; theirs++) {
      char json[256];
      pyproc_method method = a_method;
      method.kind = ours;
      snprintf(json, sizeof json,
               "{\"version\":1,\"methods\":[{\"name\":\"t.S/A\",\"kind\":\"%s\",\"fingerprint\":\"f1\"}]}",
               theirs < 4 ? kinds[theirs] : "telepathy");
      method_table *table = parse(json);
      if (ours == theirs)
        assert_int_equal(found(table, "t.S/A", &method), 0);
      else
        missing(table, "t.S/A", &method, PYPROC_E_FAILED_PRECONDITION, kinds[ours]);
      method_table_free(table);
    }
}

/* Many generated tables: each is remembered as its own. */
static void many_typed_methods(void **state) {
  (void)state;
  enum { COUNT = 500 };
  static pyproc_method methods[COUNT];
  static char names[COUNT][24];
  buffer json = {0};
  append_methods(&json, COUNT, "%s{\"name\":\"t.S/M%d\",\"kind\":\"unary\",\"fingerprint\":\"f1\"}");
  method_table *table = parse((const char *)json.data);
  for (int round = 0; round < 2; round++)
    for (int i = 0; i < COUNT; i++) {
      snprintf(names[i], sizeof names[i], "t.S/M%d", i);
      methods[i] = a_method;
      methods[i].name = names[i];
      assert_int_equal(found(table, names[i], &methods[i]), i);
    }
  method_table_free(table);
  buffer_free(&json);
}

static void services_are_checked_at_once(void **state) {
  (void)state;
  static const pyproc_method *const methods[] = {&a_method, &b_method};
  static const pyproc_service one = {sizeof one, "t.S", methods, 1}, both = {sizeof both, "t.S", methods, 2};
  static const pyproc_service empty = {sizeof empty, "t.E", NULL, 0};
  static const pyproc_service *const fits[] = {&empty, &one, NULL}, *const lacks[] = {&one, &both, NULL};
  pyproc_error *error = NULL;
  method_table *table =
      parse("{\"version\":1,\"methods\":[{\"name\":\"t.S/A\",\"kind\":\"unary\",\"fingerprint\":\"f1\"}]}");
  assert_int_equal(method_table_check(table, NULL, &error), PYPROC_OK);
  assert_int_equal(method_table_check(table, fits, &error), PYPROC_OK);
  assert_int_equal(method_table_check(table, lacks, &error), PYPROC_E_UNIMPLEMENTED);
  assert_non_null(strstr(pyproc_error_message(error), "t.S/B"));
  pyproc_error_free(error);
  method_table_free(table);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(the_hello_of_the_wire_page),
      cmocka_unit_test(as_little_as_may_be),
      cmocka_unit_test(threads_are_bounded),
      cmocka_unit_test(concurrency_is_bounded),
      cmocka_unit_test(versions),
      cmocka_unit_test(hellos_that_are_none),
      cmocka_unit_test(cut_hellos),
      cmocka_unit_test(deep_nesting_is_refused),
      cmocka_unit_test(as_many_methods_as_may_be),
      cmocka_unit_test(of_two_with_a_name_the_first_counts),
      cmocka_unit_test(fingerprints_and_shapes),
      cmocka_unit_test(another_kind_of_rpc),
      cmocka_unit_test(many_typed_methods),
      cmocka_unit_test(services_are_checked_at_once),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
