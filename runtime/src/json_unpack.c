#include "json_message.h"

#include "error.h"
#include "field_layout.h"
#include "field_path.h"
#include "json_any.h"
#include "json_number.h"
#include "json_well_known.h"
#include "wire/envelope.h"
#include "wire/frame.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A walk over a text that is known to be valid JSON: `at` never meets `end` within a value. */
typedef struct reader {
  const char *at, *end;
  reply_arena *arena;
  const pyproc_message_info *root; /* the message that is read */
  pyproc_error **reterr;
} reader;

/* What a value was found to be, beside failing. */
enum { VALUE_TAKEN = 0, VALUE_IGNORED = 1 };

static int read_message(reader *from, const pyproc_message_info *info, const field_path *path,
                        ProtobufCMessage **ret_message);

static int read_error(const reader *from, const field_path *path, const char *what) {
  return field_path_error(from->reterr, PYPROC_E_DATA_LOSS, from->root->name, path, "%s", what);
}

static int no_memory(const reader *from) {
  return field_path_error(from->reterr, PYPROC_E_RESOURCE_EXHAUSTED, from->root->name, NULL,
                          "the reply takes more memory than it may");
}

/* --- Text --- */

static void skip_space(reader *from) {
  while (from->at < from->end && (*from->at == ' ' || *from->at == '\t' || *from->at == '\n' || *from->at == '\r'))
    from->at++;
}

/* Takes the string at `at`, without its quotes. */
static envelope_text take_string(reader *from) {
  const char *begin = ++from->at;
  for (;;) {
    const char *quote = memchr(from->at, '"', (size_t)(from->end - from->at));
    const char *escape = memchr(from->at, '\\', (size_t)(quote - from->at));
    if (escape == NULL) {
      from->at = quote + 1;
      return (envelope_text){begin, (size_t)(quote - begin)};
    }
    from->at = escape + 2;
  }
}

/* Takes the number, true, false or null at `at`. */
static envelope_text take_word(reader *from) {
  const char *begin = from->at;
  while (from->at < from->end && strchr(",]}\" \t\r\n", *from->at) == NULL) from->at++;
  return (envelope_text){begin, (size_t)(from->at - begin)};
}

static void skip_value(reader *from) {
  size_t depth = 0;
  do {
    skip_space(from);
    switch (*from->at) {
    case '"':
      take_string(from);
      break;
    case '{':
    case '[':
      depth++;
      from->at++;
      break;
    case '}':
    case ']':
      depth--;
      from->at++;
      break;
    case ',':
    case ':':
      from->at++;
      break;
    default:
      take_word(from);
    }
  } while (depth > 0);
}

/* Steps to the next element of a container, whose opening bracket (`first`) or an element was just passed. False: it
 * ends. */
static bool next_element(reader *from, bool first) {
  skip_space(from);
  if (*from->at == ']' || *from->at == '}') {
    from->at++;
    return false;
  }
  if (!first) from->at++; /* the comma */
  skip_space(from);
  return true;
}

/* As next_element, and takes the member's name. */
static bool next_member(reader *from, bool first, envelope_text *ret_name) {
  if (!next_element(from, first)) return false;
  *ret_name = take_string(from);
  skip_space(from);
  from->at++; /* the colon */
  skip_space(from);
  return true;
}

/* The number of elements of the container at `at`, which is not moved. */
static size_t count_elements(const reader *from) {
  reader ahead = *from;
  bool members = *ahead.at == '{';
  envelope_text name;
  size_t count = 0;
  ahead.at++;
  while (members ? next_member(&ahead, count == 0, &name) : next_element(&ahead, count == 0)) {
    skip_value(&ahead);
    count++;
  }
  return count;
}

static bool text_is(envelope_text text, const char *literal) {
  if (literal == NULL) return false;
  size_t size = strlen(literal);
  if (text.size == size && memcmp(text.data, literal, size) == 0) return true;
  if (text.size <= size || memchr(text.data, '\\', text.size) == NULL) return false;
  char *plain = malloc(text.size + 1);
  bool same = plain != NULL && envelope_unescape(text, plain) == size && memcmp(plain, literal, size) == 0;
  free(plain);
  return same;
}

static bool is_null(const reader *from) {
  return *from->at == 'n';
}

/* --- Numbers --- */

/* A number, bare or in quotes; empty where there is none. */
static envelope_text take_number(reader *from) {
  if (*from->at == '"') return take_string(from);
  if (*from->at == '-' || (*from->at >= '0' && *from->at <= '9')) return take_word(from);
  return (envelope_text){from->at, 0};
}

static bool take_signed(reader *from, int64_t least, int64_t most, int64_t *ret_value) {
  envelope_text text = take_number(from);
  return json_read_signed(text.data, text.size, ret_value) && *ret_value >= least && *ret_value <= most;
}

static bool take_unsigned(reader *from, uint64_t most, uint64_t *ret_value) {
  envelope_text text = take_number(from);
  return json_read_unsigned(text.data, text.size, ret_value) && *ret_value <= most;
}

/* The values that JSON has as strings only. */
static bool is_special(envelope_text text, double *ret_value) {
  if (text_is(text, "NaN"))
    *ret_value = NAN;
  else if (text_is(text, "Infinity"))
    *ret_value = INFINITY;
  else if (text_is(text, "-Infinity"))
    *ret_value = -INFINITY;
  else
    return false;
  return true;
}

static bool take_double(reader *from, double *ret_value) {
  envelope_text text = take_number(from);
  return is_special(text, ret_value) || json_read_double(text.data, text.size, ret_value);
}

static bool take_float(reader *from, float *ret_value) {
  envelope_text text = take_number(from);
  double special;
  if (!is_special(text, &special)) return json_read_float(text.data, text.size, ret_value);
  *ret_value = (float)special;
  return true;
}

static bool take_bool(reader *from, protobuf_c_boolean *ret_value) {
  envelope_text text = take_word(from);
  *ret_value = text_is(text, "true");
  return *ret_value != 0 || text_is(text, "false");
}

/* --- Values --- */

/* The enumerator's number. */
static int read_enum(reader *from, const ProtobufCFieldDescriptor *field, const pyproc_field_info *info,
                     const field_path *path, int *ret_value) {
  if ((info->flags & PYPROC_FIELD_NULL_VALUE) != 0 && is_null(from)) {
    take_word(from);
    *ret_value = 0;
    return VALUE_TAKEN;
  }
  if (*from->at == '"') {
    envelope_text text = take_string(from);
    const ProtobufCEnumDescriptor *descriptor = field->descriptor;
    char name[256]; /* longer names are not known */
    if (text.size >= sizeof name || descriptor->values_by_name == NULL) return VALUE_IGNORED;
    envelope_unescape(text, name);
    const ProtobufCEnumValue *value = protobuf_c_enum_descriptor_get_value_by_name(descriptor, name);
    if (value == NULL) return VALUE_IGNORED;
    *ret_value = value->value;
    return VALUE_TAKEN;
  }
  int64_t number;
  if (!take_signed(from, INT32_MIN, INT32_MAX, &number))
    return read_error(from, path, "neither the name nor the number of an enumerator");
  *ret_value = (int)number;
  return VALUE_TAKEN;
}

/* The text of a string, with a NUL behind it. */
static int read_string(reader *from, const field_path *path, const char **ret_text) {
  if (*from->at != '"') return read_error(from, path, "not a string");
  envelope_text text = take_string(from);
  if (envelope_has_nul(text))
    return read_error(from, path, "the string holds a NUL, which a string of C cannot; use bytes");
  char *copy = reply_arena_take(from->arena, text.size + 1);
  if (copy == NULL) return no_memory(from);
  envelope_unescape(text, copy);
  *ret_text = copy;
  return VALUE_TAKEN;
}

static int base64_digit(char letter) {
  if (letter >= 'A' && letter <= 'Z') return letter - 'A';
  if (letter >= 'a' && letter <= 'z') return letter - 'a' + 26;
  if (letter >= '0' && letter <= '9') return letter - '0' + 52;
  if (letter == '+' || letter == '-') return 62;
  return letter == '/' || letter == '_' ? 63 : -1;
}

/* Decodes base64 of either alphabet, with padding or without, where it stands. False: it is none. */
static bool decode_base64(ProtobufCBinaryData *bytes) {
  size_t size = bytes->len, padding = 0;
  while (size > 0 && padding < 2 && bytes->data[size - 1] == '=') {
    size--;
    padding++;
  }
  if (size % 4 == 1) return false;
  uint32_t word = 0;
  unsigned bits = 0;
  bytes->len = 0;
  for (size_t i = 0; i < size; i++) {
    int digit = base64_digit((char)bytes->data[i]);
    if (digit < 0) return false;
    word = word << 6 | (uint32_t)digit;
    bits += 6;
    if (bits < 8) continue;
    bits -= 8;
    bytes->data[bytes->len++] = (uint8_t)(word >> bits);
  }
  return true;
}

static int read_bytes(reader *from, const field_path *path, ProtobufCBinaryData *ret_bytes) {
  static const char wrong[] = "not base64 in a string";
  if (*from->at != '"') return read_error(from, path, wrong);
  envelope_text text = take_string(from);
  ProtobufCBinaryData bytes = {0, NULL};
  if (text.size > 0) {
    bytes.data = reply_arena_take(from->arena, text.size + 1);
    if (bytes.data == NULL) return no_memory(from);
    bytes.len = envelope_unescape(text, (char *)bytes.data); /* a slash may be escaped */
    if (!decode_base64(&bytes)) return read_error(from, path, wrong);
  }
  *ret_bytes = bytes;
  return VALUE_TAKEN;
}

/* Integers, reals and booleans: stores the value, or says what it should have been. */
static const char *take_scalar(reader *from, ProtobufCType type, void *to) {
  int64_t number;
  uint64_t natural;
  switch (type) {
  case PROTOBUF_C_TYPE_INT32:
  case PROTOBUF_C_TYPE_SINT32:
  case PROTOBUF_C_TYPE_SFIXED32:
    if (!take_signed(from, INT32_MIN, INT32_MAX, &number)) return "not a signed integer of 32 bits";
    *(int32_t *)to = (int32_t)number;
    return NULL;
  case PROTOBUF_C_TYPE_UINT32:
  case PROTOBUF_C_TYPE_FIXED32:
    if (!take_unsigned(from, UINT32_MAX, &natural)) return "not an unsigned integer of 32 bits";
    *(uint32_t *)to = (uint32_t)natural;
    return NULL;
  case PROTOBUF_C_TYPE_INT64:
  case PROTOBUF_C_TYPE_SINT64:
  case PROTOBUF_C_TYPE_SFIXED64:
    return take_signed(from, INT64_MIN, INT64_MAX, to) ? NULL : "not a signed integer of 64 bits";
  case PROTOBUF_C_TYPE_UINT64:
  case PROTOBUF_C_TYPE_FIXED64:
    return take_unsigned(from, UINT64_MAX, to) ? NULL : "not an unsigned integer of 64 bits";
  case PROTOBUF_C_TYPE_FLOAT:
    return take_float(from, to) ? NULL : "not a float, or too large for one";
  case PROTOBUF_C_TYPE_DOUBLE:
    return take_double(from, to) ? NULL : "not a double, or too large for one";
  case PROTOBUF_C_TYPE_BOOL:
    return take_bool(from, to) ? NULL : "neither true nor false";
  default:
    return "of an unknown type";
  }
}

static int read_value(reader *from, const ProtobufCFieldDescriptor *field, const pyproc_field_info *info, void *to,
                      const field_path *path) {
  switch (field->type) {
  case PROTOBUF_C_TYPE_ENUM:
    return read_enum(from, field, info, path, to);
  case PROTOBUF_C_TYPE_STRING:
    return read_string(from, path, to);
  case PROTOBUF_C_TYPE_BYTES:
    return read_bytes(from, path, to);
  case PROTOBUF_C_TYPE_MESSAGE:
    return read_message(from, info->message, path, to);
  default:
    break;
  }
  const char *wrong = take_scalar(from, field->type, to);
  return wrong == NULL ? VALUE_TAKEN : read_error(from, path, wrong);
}

/* --- Repeated fields and maps --- */

static void *member_of(ProtobufCMessage *message, size_t offset) {
  return (char *)message + offset;
}

static void set_elements(const ProtobufCFieldDescriptor *field, ProtobufCMessage *message, void *array, size_t count) {
  *(size_t *)member_of(message, field->quantifier_offset) = count;
  *(void **)member_of(message, field->offset) = array;
}

static int read_array(reader *from, const ProtobufCFieldDescriptor *field, const pyproc_field_info *info,
                      ProtobufCMessage *message, field_path *path) {
  if (*from->at != '[') return read_error(from, path, "not an array");
  size_t step = field_value_size(field->type), room = count_elements(from), count = 0;
  char *array = room == 0 ? NULL : reply_arena_take(from->arena, room * step);
  if (room > 0 && array == NULL) return no_memory(from);
  from->at++;
  for (path->index = 0; next_element(from, path->index == 0); path->index++) {
    int result = read_value(from, field, info, array + count * step, path);
    if (result < 0) return result;
    if (result == VALUE_TAKEN) count++;
  }
  set_elements(field, message, array, count);
  return PYPROC_OK;
}

/* Notes that a singular field has a value. */
static void set_present(const ProtobufCFieldDescriptor *field, ProtobufCMessage *message) {
  if ((field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) != 0)
    *(uint32_t *)member_of(message, field->quantifier_offset) = field->id;
  else if (field->label == PROTOBUF_C_LABEL_OPTIONAL && field->type != PROTOBUF_C_TYPE_STRING &&
           field->type != PROTOBUF_C_TYPE_MESSAGE)
    *(protobuf_c_boolean *)member_of(message, field->quantifier_offset) = 1;
}

static int new_message(reader *from, const pyproc_message_info *info, ProtobufCMessage **ret_message) {
  ProtobufCMessage *message = reply_arena_take(from->arena, info->descriptor->sizeof_message);
  if (message == NULL) return no_memory(from);
  json_message_init(info->descriptor, message);
  *ret_message = message;
  return PYPROC_OK;
}

/* A map's entry, whose value is at `at`. */
static int read_entry(reader *from, const pyproc_message_info *info, envelope_text name, const field_path *path,
                      ProtobufCMessage **ret_entry) {
  int result = new_message(from, info, ret_entry);
  if (result != PYPROC_OK) return result;
  ProtobufCMessage *entry = *ret_entry;
  const ProtobufCFieldDescriptor *key = &info->descriptor->fields[0], *value = &info->descriptor->fields[1];
  reader quoted = *from;
  quoted.at = key->type == PROTOBUF_C_TYPE_BOOL ? name.data : name.data - 1;
  result = read_value(&quoted, key, &info->fields[0], member_of(entry, key->offset), path);
  if (result != VALUE_TAKEN) return result;
  set_present(key, entry);
  result = read_value(from, value, &info->fields[1], member_of(entry, value->offset), path);
  if (result == VALUE_TAKEN) set_present(value, entry);
  return result;
}

static int read_map(reader *from, const ProtobufCFieldDescriptor *field, const pyproc_message_info *info,
                    ProtobufCMessage *message, field_path *path) {
  if (*from->at != '{') return read_error(from, path, "not an object");
  size_t room = count_elements(from), count = 0;
  ProtobufCMessage **entries = room == 0 ? NULL : reply_arena_take(from->arena, room * sizeof *entries);
  if (room > 0 && entries == NULL) return no_memory(from);
  from->at++;
  envelope_text name;
  for (path->index = 0; next_member(from, path->index == 0, &name); path->index++) {
    int result = read_entry(from, info, name, path, &entries[count]);
    if (result < 0) return result;
    if (result == VALUE_TAKEN) count++;
  }
  set_elements(field, message, entries, count);
  return PYPROC_OK;
}

/* --- Well-known types --- */

static int read_time(reader *from, const pyproc_message_info *info, ProtobufCMessage *message, const field_path *path) {
  bool timestamp = info->well_known == PYPROC_WELL_KNOWN_TIMESTAMP;
  const ProtobufCFieldDescriptor *seconds = protobuf_c_message_descriptor_get_field(info->descriptor, 1);
  const ProtobufCFieldDescriptor *nanos = protobuf_c_message_descriptor_get_field(info->descriptor, 2);
  int64_t *to_seconds = member_of(message, seconds->offset);
  int32_t *to_nanos = member_of(message, nanos->offset);
  envelope_text text = {"", 0};
  if (*from->at == '"') text = take_string(from);
  if (timestamp ? json_read_timestamp(text.data, text.size, to_seconds, to_nanos)
                : json_read_duration(text.data, text.size, to_seconds, to_nanos))
    return PYPROC_OK;
  return read_error(from, path,
                    timestamp ? "not a Timestamp such as \"1972-01-01T10:00:20.021Z\""
                              : "not a Duration such as \"1.5s\"");
}

/* The comma-separated paths of a text that has no escapes. */
static int read_paths(reader *from, envelope_text text, size_t count, char **paths, const field_path *path) {
  const char *at = text.data, *end = text.data + text.size;
  for (size_t i = 0; i < count; i++) {
    const char *comma = memchr(at, ',', (size_t)(end - at));
    size_t size = (size_t)((comma == NULL ? end : comma) - at);
    paths[i] = reply_arena_take(from->arena, 2 * size + 1);
    if (paths[i] == NULL) return no_memory(from);
    size_t written = json_read_mask_path(paths[i], at, size);
    if (written == SIZE_MAX) return read_error(from, path, "not a FieldMask such as \"user.displayName,photo\"");
    paths[i][written] = '\0';
    at += size + 1;
  }
  return PYPROC_OK;
}

static int read_mask(reader *from, const pyproc_message_info *info, ProtobufCMessage *message, const field_path *path) {
  envelope_text text = {NULL, 0};
  if (*from->at == '"') text = take_string(from);
  if (text.data == NULL || memchr(text.data, '\\', text.size) != NULL)
    return read_error(from, path, "not a FieldMask such as \"user.displayName,photo\"");
  size_t count = text.size == 0 ? 0 : 1;
  for (size_t i = 0; i < text.size; i++) count += text.data[i] == ',';
  char **paths = count == 0 ? NULL : reply_arena_take(from->arena, count * sizeof *paths);
  if (count > 0 && paths == NULL) return no_memory(from);
  set_elements(&info->descriptor->fields[0], message, paths, count);
  return read_paths(from, text, count, paths, path);
}

/* The number of the field of google.protobuf.Value that holds the value at `at`. */
static unsigned value_kind(const reader *from) {
  switch (*from->at) {
  case 'n':
    return 1;
  case '"':
    return 3;
  case 't':
  case 'f':
    return 4;
  case '{':
    return 5;
  case '[':
    return 6;
  default:
    return 2;
  }
}

static int read_any_value(reader *from, const pyproc_message_info *info, ProtobufCMessage *message,
                          const field_path *path) {
  const ProtobufCFieldDescriptor *kind = protobuf_c_message_descriptor_get_field(info->descriptor, value_kind(from));
  const pyproc_field_info *kind_info = &info->fields[kind - info->descriptor->fields];
  int result = read_value(from, kind, kind_info, member_of(message, kind->offset), path);
  if (result == VALUE_TAKEN) set_present(kind, message);
  return result;
}

/* Goes to the value of the member of that name. False: there is none, and `from` was not moved. */
static bool find_member(reader *from, const char *wanted) {
  reader ahead = *from, found = {0};
  envelope_text name;
  ahead.at++;
  for (bool first = true; next_member(&ahead, first, &name); first = false) {
    if (text_is(name, wanted)) found = ahead;
    skip_value(&ahead);
  }
  if (found.at != NULL) *from = found;
  return found.at != NULL;
}

/* Reads the message within an Any, and gives the Any its bytes. */
static int read_any_of(reader *from, const pyproc_message_info *info, ProtobufCBinaryData *to, const field_path *path) {
  reader inside = *from;
  ProtobufCMessage *inner = NULL;
  bool plain = info->well_known == PYPROC_WELL_KNOWN_NONE || info->well_known == PYPROC_WELL_KNOWN_EMPTY;
  if (!plain && !find_member(&inside, "value"))
    return read_error(from, path, "an Any of a well-known type without \"value\"");
  int result = read_message(&inside, info, path, &inner);
  if (result != VALUE_TAKEN) return result;
  size_t size = protobuf_c_message_get_packed_size(inner);
  to->data = reply_arena_take(from->arena, size);
  if (to->data == NULL) return no_memory(from);
  to->len = protobuf_c_message_pack(inner, to->data);
  return VALUE_TAKEN;
}

static int read_any(reader *from, const pyproc_message_info *info, ProtobufCMessage *message, const field_path *path) {
  if (*from->at != '{') return read_error(from, path, "not an object");
  reader type = *from;
  int result = VALUE_TAKEN;
  if (count_elements(from) > 0) {
    const ProtobufCFieldDescriptor *url = protobuf_c_message_descriptor_get_field(info->descriptor, 1);
    const ProtobufCFieldDescriptor *value = protobuf_c_message_descriptor_get_field(info->descriptor, 2);
    const char **to_url = member_of(message, url->offset);
    if (!find_member(&type, "@type")) return read_error(from, path, "an Any without \"@type\"");
    result = read_string(&type, path, to_url);
    if (result != VALUE_TAKEN) return result;
    const pyproc_message_info *inner = json_any_find(from->root, *to_url);
    if (inner == NULL)
      return read_error(from, path,
                        "an Any of a type that nothing else in the message has; use the protobuf protocol for it");
    result = read_any_of(from, inner, member_of(message, value->offset), path);
  }
  skip_value(from);
  return result;
}

static int read_well_known(reader *from, const pyproc_message_info *info, ProtobufCMessage *message,
                           const field_path *path) {
  const ProtobufCFieldDescriptor *first = info->descriptor->fields;
  field_path step = {path, info->descriptor->n_fields > 0 ? info->fields[0].name : NULL, FIELD_PATH_NO_INDEX};
  switch (info->well_known) {
  case PYPROC_WELL_KNOWN_TIMESTAMP:
  case PYPROC_WELL_KNOWN_DURATION:
    return read_time(from, info, message, path);
  case PYPROC_WELL_KNOWN_STRUCT:
    return read_map(from, first, info->fields[0].message, message, &step);
  case PYPROC_WELL_KNOWN_LIST_VALUE:
    return read_array(from, first, &info->fields[0], message, &step);
  case PYPROC_WELL_KNOWN_VALUE:
    return read_any_value(from, info, message, path);
  case PYPROC_WELL_KNOWN_WRAPPER:
    return read_value(from, first, &info->fields[0], member_of(message, first->offset), path);
  case PYPROC_WELL_KNOWN_FIELD_MASK:
    return read_mask(from, info, message, path);
  case PYPROC_WELL_KNOWN_ANY:
    return read_any(from, info, message, path);
  default:
    if (*from->at != '{') return read_error(from, path, "not an object");
    skip_value(from);
    return PYPROC_OK;
  }
}

/* --- Messages --- */

static size_t scalar_size(const ProtobufCFieldDescriptor *field) {
  return field->type == PROTOBUF_C_TYPE_MESSAGE ? 0 : field_value_size(field->type);
}

void json_message_init(const ProtobufCMessageDescriptor *descriptor, ProtobufCMessage *message) {
  if (descriptor->message_init != NULL) {
    descriptor->message_init(message);
    return;
  }
  memset(message, 0, descriptor->sizeof_message);
  message->descriptor = descriptor;
  for (unsigned i = 0; i < descriptor->n_fields; i++) {
    const ProtobufCFieldDescriptor *field = &descriptor->fields[i];
    bool oneof = (field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) != 0;
    if (field->default_value == NULL || field->label == PROTOBUF_C_LABEL_REPEATED || oneof) continue;
    void *to = member_of(message, field->offset);
    if (field->type == PROTOBUF_C_TYPE_STRING)
      *(const void **)to = field->default_value;
    else
      memcpy(to, field->default_value, scalar_size(field));
  }
}

static bool null_is_value(const ProtobufCFieldDescriptor *field, const pyproc_field_info *info) {
  if (field->label == PROTOBUF_C_LABEL_REPEATED) return false;
  return (info->flags & PYPROC_FIELD_NULL_VALUE) != 0 ||
         (info->message != NULL && info->message->well_known == PYPROC_WELL_KNOWN_VALUE);
}

static int read_field(reader *from, const ProtobufCFieldDescriptor *field, const pyproc_field_info *info,
                      ProtobufCMessage *message, const field_path *path) {
  field_path step = {path, info->name, FIELD_PATH_NO_INDEX};
  if (is_null(from) && !null_is_value(field, info)) {
    take_word(from);
    return VALUE_IGNORED;
  }
  if ((info->flags & PYPROC_FIELD_MAP) != 0) return read_map(from, field, info->message, message, &step);
  if (field->label == PROTOBUF_C_LABEL_REPEATED) return read_array(from, field, info, message, &step);
  if ((field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) != 0) {
    uint32_t other = *(const uint32_t *)member_of(message, field->quantifier_offset);
    if (other != 0 && other != field->id) return read_error(from, &step, "two members of one oneof");
  }
  int result = read_value(from, field, info, member_of(message, field->offset), &step);
  if (result == VALUE_TAKEN) set_present(field, message);
  return result;
}

/* The index of the field of that name, n_fields where there is none. Members mostly come in order: begins at `guess`.
 * */
static unsigned find_field(const pyproc_message_info *info, envelope_text name, unsigned guess) {
  unsigned count = info->descriptor->n_fields;
  for (unsigned i = 0; i < count; i++) {
    unsigned at = guess + i < count ? guess + i : guess + i - count;
    if (text_is(name, info->fields[at].json_name) || text_is(name, info->fields[at].name)) return at;
  }
  return count;
}

static int check_required(const reader *from, const pyproc_message_info *info, const uint8_t *seen,
                          const field_path *path) {
  for (unsigned i = 0; i < info->descriptor->n_fields; i++) {
    if (info->descriptor->fields[i].label != PROTOBUF_C_LABEL_REQUIRED || seen[i] != 0) continue;
    field_path step = {path, info->fields[i].name, FIELD_PATH_NO_INDEX};
    return read_error(from, &step, "is required, but missing");
  }
  return PYPROC_OK;
}

static int read_fields(reader *from, const pyproc_message_info *info, ProtobufCMessage *message,
                       const field_path *path) {
  if (*from->at != '{') return read_error(from, path, "not an object");
  unsigned count = info->descriptor->n_fields, at = 0;
  uint8_t brief[64] = {0};
  uint8_t *seen = count <= sizeof brief ? brief : calloc(count, 1);
  if (seen == NULL) return no_memory(from);
  int result = PYPROC_OK;
  envelope_text name;
  from->at++;
  for (bool first = true; result >= 0 && next_member(from, first, &name); first = false) {
    at = find_field(info, name, at == count ? 0 : at);
    if (at == count) {
      skip_value(from);
      continue;
    }
    result = read_field(from, &info->descriptor->fields[at], &info->fields[at], message, path);
    if (result == VALUE_TAKEN) seen[at] = 1;
    at = at + 1 == count ? 0 : at + 1;
  }
  if (result >= 0) result = check_required(from, info, seen, path);
  if (seen != brief) free(seen);
  return result;
}

static int read_message(reader *from, const pyproc_message_info *info, const field_path *path,
                        ProtobufCMessage **ret_message) {
  ProtobufCMessage *message = NULL;
  int result = new_message(from, info, &message);
  if (result != PYPROC_OK) return result;
  result = info->well_known != PYPROC_WELL_KNOWN_NONE ? read_well_known(from, info, message, path)
                                                      : read_fields(from, info, message, path);
  if (result == VALUE_TAKEN) *ret_message = message;
  return result;
}

int json_message_unpack(const pyproc_message_info *info, const char *text, size_t size, reply_arena *arena,
                        ProtobufCMessage **ret_message, pyproc_error **reterr) {
  size_t budget = arena->budget;
  reader from = {.at = text, .end = text + size, .arena = arena, .root = info, .reterr = reterr};
  const char *wrong = envelope_check_json(text, size);
  if (wrong != NULL) return read_error(&from, NULL, wrong);
  size_t least = info->descriptor->sizeof_message, expected = least + size;
  if (expected > budget - budget / 8) expected = least;
  if (!reply_arena_begin(arena, expected, budget)) return no_memory(&from);
  skip_space(&from);
  ProtobufCMessage *message = NULL;
  int result = read_message(&from, info, NULL, &message);
  if (result != VALUE_TAKEN) {
    reply_arena_abandon(arena);
    return result == VALUE_IGNORED ? read_error(&from, NULL, "not a value that is known here") : result;
  }
  *ret_message = message;
  return PYPROC_OK;
}
