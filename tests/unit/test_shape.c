/* Shapes of messages on both sides: what fits, and what does not and is named. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "shape.h"

#include <stdio.h>
#include <string.h>

/* message Leaf { string text = 1; }
 * message Tree { double value = 1; repeated int32 counts = 2; Tree child = 3; Leaf leaf = 4; Colour colour = 16; } */
static const pyproc_message_info tree_info, leaf_info;

#define FIELD(field_name, number, field_label, field_type) \
  { .name = field_name, .id = number, .label = PROTOBUF_C_LABEL_##field_label, .type = PROTOBUF_C_TYPE_##field_type }

static const ProtobufCFieldDescriptor leaf_fields[] = {FIELD("text", 1, NONE, STRING)};
static const ProtobufCFieldDescriptor tree_fields[] = {
    FIELD("value", 1, NONE, DOUBLE), FIELD("counts", 2, REPEATED, INT32), FIELD("child", 3, OPTIONAL, MESSAGE),
    FIELD("leaf", 4, OPTIONAL, MESSAGE), FIELD("colour", 16, REQUIRED, ENUM)};
static const ProtobufCMessageDescriptor leaf_descriptor = {.name = "t.Leaf", .n_fields = 1, .fields = leaf_fields};
static const ProtobufCMessageDescriptor tree_descriptor = {.name = "t.Tree", .n_fields = 5, .fields = tree_fields};
static const ProtobufCMessageDescriptor none_descriptor = {.name = "t.None"};

static const pyproc_field_info leaf_field_infos[] = {{"text", "text", NULL, 0}};
static const pyproc_field_info tree_field_infos[] = {{"value", "value", NULL, 0},
                                                     {"counts", "counts", NULL, 0},
                                                     {"child", "child", &tree_info, 0},
                                                     {"leaf", "leaf", &leaf_info, 0},
                                                     {"colour", "colour", NULL, 0}};
static const pyproc_message_info leaf_info = {"t.Leaf", &leaf_descriptor, leaf_field_infos, 0};
static const pyproc_message_info tree_info = {"t.Tree", &tree_descriptor, tree_field_infos, 0};
static const pyproc_message_info none_info = {"t.None", &none_descriptor, NULL, 0};

static const pyproc_method method = {
    .size = sizeof method, .name = "t.Service/Grow", .request = &tree_info, .reply = &none_info, .fingerprint = "f"};

#define LEAF "\"t.Leaf\":[[1,\"one\",\"string\",\"text\"]]"
#define NONE "\"t.None\":[]"
#define TREE "\"t.Tree\":"
#define VALUE "[1,\"one\",\"double\",\"value\"]"
#define COUNTS "[2,\"many\",\"int32\",\"counts\"]"
#define CHILD "[3,\"one\",\".t.Tree\",\"child\"]"
#define LEAF_FIELD "[4,\"one\",\".t.Leaf\",\"leaf\"]"
#define COLOUR "[16,\"one\",\"enum\",\"colour\"]"

static int check(const char *messages, const char *request, const char *reply, pyproc_error **reterr) {
  json_error_t why;
  json_t *parsed = json_loads(messages, 0, &why);
  if (parsed == NULL) fail_msg("%s: %s", why.text, messages);
  int result = shape_check_method(&method, parsed, request, reply, reterr);
  json_decref(parsed);
  return result;
}

static void fits(const char *messages) {
  pyproc_error *error = NULL;
  if (check(messages, "t.Tree", "t.None", &error) < 0) fail_msg("%s", pyproc_error_message(error));
  assert_null(error);
}

static void differs(const char *messages, int code, const char *first, const char *second) {
  pyproc_error *error = NULL;
  if (check(messages, "t.Tree", "t.None", &error) != code)
    fail_msg("%s: %s", messages, error != NULL ? pyproc_error_message(error) : "fits");
  assert_int_equal(pyproc_error_code(error), code);
  const char *text = pyproc_error_message(error);
  if (strstr(text, first) == NULL || strstr(text, second) == NULL) fail_msg("no %s, %s in: %s", first, second, text);
  if (code == PYPROC_E_FAILED_PRECONDITION) assert_non_null(strstr(text, "t.Service/Grow"));
  pyproc_error_free(error);
  assert_int_equal(check(messages, "t.Tree", "t.None", NULL), code);
}

static void the_same(void **state) {
  (void)state;
  fits("{" LEAF "," NONE "," TREE "[" VALUE "," COUNTS "," CHILD "," LEAF_FIELD "," COLOUR "]}");
}

/* Either side may have fields that the other lacks, and call a field differently. */
static void compatible(void **state) {
  (void)state;
  fits("{" NONE "," TREE "[]}");
  fits("{" NONE "," TREE "[" COLOUR "," VALUE "]}"); /* in any order */
  fits("{" NONE "," TREE "[" VALUE ",[5,\"many\",\".x.Unknown\",\"more\"],[99,\"one\",\"bytes\",\"bytes\"]]}");
  fits("{" NONE "," TREE "[[1,\"one\",\"double\",\"renamed\"]]}");
  fits("{\"t.None\":[[1,\"one\",\"string\",\"added\"]]," TREE "[]}");
}

/* Messages are compared by what they hold, whatever they are called. */
static void names_of_messages_do_not_matter(void **state) {
  (void)state;
  pyproc_error *error = NULL;
  const char *messages = "{\"o.T\":[" VALUE ",[3,\"one\",\".o.T\",\"child\"],[4,\"one\",\".o.L\",\"leaf\"]],"
                         "\"o.L\":[[1,\"one\",\"string\",\"t\"]],\"o.N\":[]}";
  if (check(messages, "o.T", "o.N", &error) < 0) fail_msg("%s", pyproc_error_message(error));
  assert_int_equal(check(messages, "o.L", "o.N", &error), PYPROC_E_FAILED_PRECONDITION);
  assert_non_null(strstr(pyproc_error_message(error), "value")); /* number 1 is a string there */
  pyproc_error_free(error);
}

static void changed_fields_are_named(void **state) {
  (void)state;
  static const struct {
    const char *tree, *first, *second;
  } cases[] = {
      {"[2,\"one\",\"double\",\"value\"]", "value", "number 1 here and 2"},
      {"[7,\"one\",\"double\",\"value\"]", "value", "number 1 here and 7"},
      {"[1,\"one\",\"float\",\"value\"]", "value", "type double here and float"},
      {"[1,\"many\",\"double\",\"value\"]", "value", "label one here and many"},
      {"[2,\"one\",\"int32\",\"counts\"]", "counts", "label many here and one"},
      {"[2,\"many\",\"sint32\",\"counts\"]", "counts", "type int32 here and sint32"},
      {"[3,\"one\",\"bytes\",\"child\"]", "child", "bytes"},
      {"[1,\"one\",\".t.Leaf\",\"value\"]", "value", ".t.Leaf"},
      {"[16,\"one\",\"int32\",\"colour\"]", "colour", "type enum here and int32"},
      {"[4,\"one\",\"group\",\"leaf\"]", "leaf", "group"},
      {"[-1,\"one\",\"double\",\"value\"]", "value", "number 1 here and -1"},
      {"[4294967297,\"one\",\"double\",\"value\"]", "value", "number"}, /* 1, cut to 32 bits */
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char messages[512];
    snprintf(messages, sizeof messages, "{" LEAF "," NONE "," TREE "[%s]}", cases[i].tree);
    differs(messages, PYPROC_E_FAILED_PRECONDITION, cases[i].first, cases[i].second);
  }
}

/* Two fields whose names have changed places: by number alone they would fit, and values end up wrong. */
static void exchanged_names_do_not_fit(void **state) {
  (void)state;
  differs("{" LEAF "," NONE "," TREE "[[3,\"one\",\".t.Tree\",\"leaf\"],[4,\"one\",\".t.Tree\",\"child\"]]}",
          PYPROC_E_FAILED_PRECONDITION, "leaf", "number");
}

static void a_change_deep_inside_is_found(void **state) {
  (void)state;
  differs("{\"t.Leaf\":[[1,\"one\",\"bytes\",\"text\"]]," NONE "," TREE "[" CHILD "," LEAF_FIELD "]}",
          PYPROC_E_FAILED_PRECONDITION, "text of t.Leaf", "type string here and bytes");
  /* another message in the place of the recursion */
  differs("{\"t.Other\":[[1,\"one\",\"bool\",\"value\"]]," LEAF "," NONE "," TREE
          "[[3,\"one\",\".t.Other\",\"child\"]]}",
          PYPROC_E_FAILED_PRECONDITION, "value of t.Tree", "bool");
}

/* A hostile worker makes a recursive message of ours a chain of thousands: it ends. */
static void endless_chains_end(void **state) {
  (void)state;
  enum { LINKS = 3000 };
  json_t *messages = json_object(), *fields;
  char name[32], type[32];
  for (int i = 0; i < LINKS; i++) {
    snprintf(name, sizeof name, "c.M%d", i);
    snprintf(type, sizeof type, ".c.M%d", (i + 1) % LINKS);
    fields = json_pack("[[i,s,s,s]]", 3, "one", type, "child");
    assert_non_null(fields);
    assert_int_equal(json_object_set_new(messages, name, fields), 0);
  }
  json_object_set_new(messages, "t.None", json_array());
  pyproc_error *error = NULL;
  assert_int_equal(shape_check_method(&method, messages, "c.M0", "t.None", &error), PYPROC_OK);
  json_object_del(messages, "c.M2999"); /* and when it does not close */
  assert_int_equal(shape_check_method(&method, messages, "c.M0", "t.None", &error), PYPROC_E_FAILED_PRECONDITION);
  assert_non_null(strstr(pyproc_error_message(error), "c.M2999"));
  pyproc_error_free(error);
  json_decref(messages);
}

static void missing_shapes(void **state) {
  (void)state;
  pyproc_error *error = NULL;
  differs("{" NONE "}", PYPROC_E_FAILED_PRECONDITION, "t.Tree", "does not say");
  differs("{" TREE "[]}", PYPROC_E_FAILED_PRECONDITION, "t.None", "does not say");
  differs("[]", PYPROC_E_FAILED_PRECONDITION, "t.Tree", "does not say");
  differs("{\"t.Tree\":{},\"t.None\":[]}", PYPROC_E_FAILED_PRECONDITION, "t.Tree", "does not say");
  assert_int_equal(shape_check_method(&method, NULL, "t.Tree", "t.None", &error), PYPROC_E_FAILED_PRECONDITION);
  pyproc_error_free(error);
  assert_int_equal(shape_check_method(&method, NULL, "", "", NULL), PYPROC_E_FAILED_PRECONDITION);
}

static void shapes_that_make_no_sense(void **state) {
  (void)state;
  static const char *const entries[] = {"1",
                                        "null",
                                        "{}",
                                        "[]",
                                        "[1]",
                                        "[1,\"one\",\"double\"]",
                                        "[\"1\",\"one\",\"double\",\"value\"]",
                                        "[1.5,\"one\",\"double\",\"value\"]",
                                        "[1,1,\"double\",\"value\"]",
                                        "[1,\"one\",[],\"value\"]",
                                        "[1,\"one\",\"double\",null]"};
  for (size_t i = 0; i < sizeof entries / sizeof *entries; i++) {
    char messages[256];
    snprintf(messages, sizeof messages, "{" NONE "," TREE "[" VALUE ",%s]}", entries[i]);
    differs(messages, PYPROC_E_DATA_LOSS, "t.Tree", "shape");
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(the_same),
      cmocka_unit_test(compatible),
      cmocka_unit_test(names_of_messages_do_not_matter),
      cmocka_unit_test(changed_fields_are_named),
      cmocka_unit_test(exchanged_names_do_not_fit),
      cmocka_unit_test(a_change_deep_inside_is_found),
      cmocka_unit_test(endless_chains_end),
      cmocka_unit_test(missing_shapes),
      cmocka_unit_test(shapes_that_make_no_sense),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
