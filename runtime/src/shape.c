#include "shape.h"

#include <stdlib.h>
#include <string.h>

#include "error.h"

enum { PAIRS_MAX = 16384 };

/* A message of ours and what the worker takes it for. */
typedef struct shape_pair {
  const pyproc_message_info *ours;
  const char *theirs; /* full name */
} shape_pair;

typedef struct shape_check {
  const pyproc_method *method;
  const json_t *messages;
  shape_pair *pairs; /* those met so far; each is compared once */
  size_t count, capacity, compared;
  pyproc_error **reterr;
} shape_check;

static int add_pair(shape_check *check, const pyproc_message_info *ours, const char *theirs) {
  for (size_t i = 0; i < check->count; i++)
    if (check->pairs[i].ours == ours && strcmp(check->pairs[i].theirs, theirs) == 0) return PYPROC_OK;
  if (check->count == check->capacity) {
    size_t capacity = check->capacity == 0 ? 16 : 2 * check->capacity;
    shape_pair *grown = capacity > PAIRS_MAX ? NULL : realloc(check->pairs, capacity * sizeof *grown);
    if (grown == NULL)
      return error_set(check->reterr, PYPROC_E_RESOURCE_EXHAUSTED, "%s reaches too many messages", check->method->name);
    check->pairs = grown;
    check->capacity = capacity;
  }
  check->pairs[check->count++] = (shape_pair){.ours = ours, .theirs = theirs};
  return PYPROC_OK;
}

static const char *type_name(ProtobufCType type) {
  static const char *const names[] = {[PROTOBUF_C_TYPE_INT32] = "int32",       [PROTOBUF_C_TYPE_SINT32] = "sint32",
                                      [PROTOBUF_C_TYPE_SFIXED32] = "sfixed32", [PROTOBUF_C_TYPE_INT64] = "int64",
                                      [PROTOBUF_C_TYPE_SINT64] = "sint64",     [PROTOBUF_C_TYPE_SFIXED64] = "sfixed64",
                                      [PROTOBUF_C_TYPE_UINT32] = "uint32",     [PROTOBUF_C_TYPE_FIXED32] = "fixed32",
                                      [PROTOBUF_C_TYPE_UINT64] = "uint64",     [PROTOBUF_C_TYPE_FIXED64] = "fixed64",
                                      [PROTOBUF_C_TYPE_FLOAT] = "float",       [PROTOBUF_C_TYPE_DOUBLE] = "double",
                                      [PROTOBUF_C_TYPE_BOOL] = "bool",         [PROTOBUF_C_TYPE_ENUM] = "enum",
                                      [PROTOBUF_C_TYPE_STRING] = "string",     [PROTOBUF_C_TYPE_BYTES] = "bytes",
                                      [PROTOBUF_C_TYPE_MESSAGE] = "message"};
  return (size_t)type < sizeof names / sizeof *names ? names[type] : "unknown";
}

static int refuse(const shape_check *check, const shape_pair *pair, const char *field, const char *what,
                  const char *ours, const char *theirs) {
  return error_set(check->reterr, PYPROC_E_FAILED_PRECONDITION,
                   "%s: field %s of %s has %s %s here and %s in the worker: generate both sides from the same schema",
                   check->method->name, field, pair->ours->name, what, ours, theirs);
}

/* One field that both sides have by number. */
static int compare_field(shape_check *check, const shape_pair *pair, size_t at, const char *label, const char *type) {
  const ProtobufCFieldDescriptor *field = &pair->ours->descriptor->fields[at];
  const pyproc_field_info *info = &pair->ours->fields[at];
  const char *our_label = field->label == PROTOBUF_C_LABEL_REPEATED ? "many" : "one";
  if (strcmp(label, our_label) != 0) return refuse(check, pair, info->name, "label", our_label, label);
  if (field->type == PROTOBUF_C_TYPE_MESSAGE && type[0] == '.') return add_pair(check, info->message, type + 1);
  if (strcmp(type, type_name(field->type)) != 0)
    return refuse(check, pair, info->name, "type", type_name(field->type), type);
  return PYPROC_OK;
}

/* One field of the worker's message against our message. */
static int compare_entry(shape_check *check, shape_pair pair, const json_t *entry) {
  const json_t *number = json_array_get(entry, 0);
  const char *label = json_string_value(json_array_get(entry, 1)), *type = json_string_value(json_array_get(entry, 2));
  const char *name = json_string_value(json_array_get(entry, 3));
  if (!json_is_integer(number) || label == NULL || type == NULL || name == NULL)
    return error_set(check->reterr, PYPROC_E_DATA_LOSS, "the worker's hello has no proper shape of %s", pair.theirs);
  const ProtobufCMessageDescriptor *descriptor = pair.ours->descriptor;
  uint64_t id = (uint64_t)json_integer_value(number);
  for (size_t i = 0; i < descriptor->n_fields; i++) {
    if (strcmp(pair.ours->fields[i].name, name) != 0 || descriptor->fields[i].id == id) continue;
    char ours[16], theirs[24];
    snprintf(ours, sizeof ours, "%u", descriptor->fields[i].id);
    snprintf(theirs, sizeof theirs, "%lld", (long long)json_integer_value(number));
    return refuse(check, &pair, name, "number", ours, theirs);
  }
  for (size_t i = 0; i < descriptor->n_fields; i++)
    if (descriptor->fields[i].id == id) return compare_field(check, &pair, i, label, type);
  return PYPROC_OK; /* a field that we lack */
}

static int compare_pair(shape_check *check, shape_pair pair) {
  const json_t *entries = json_object_get(check->messages, pair.theirs), *entry;
  size_t i;
  if (!json_is_array(entries))
    return error_set(check->reterr, PYPROC_E_FAILED_PRECONDITION,
                     "%s: the worker does not say what its message %s is like", check->method->name, pair.theirs);
  json_array_foreach(entries, i, entry) {
    int result = compare_entry(check, pair, entry);
    if (result < 0) return result;
  }
  return PYPROC_OK;
}

int shape_check_method(const pyproc_method *method, const json_t *messages, const char *request, const char *reply,
                       pyproc_error **reterr) {
  shape_check check = {.method = method, .messages = messages, .reterr = reterr};
  int result = add_pair(&check, method->request, request);
  if (result >= 0) result = add_pair(&check, method->reply, reply);
  while (result >= 0 && check.compared < check.count) result = compare_pair(&check, check.pairs[check.compared++]);
  free(check.pairs);
  return result;
}
