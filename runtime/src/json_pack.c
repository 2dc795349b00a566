#include "json_message.h"

#include "error.h"
#include "field_path.h"
#include "json_any.h"
#include "json_number.h"
#include "json_well_known.h"
#include "wire/envelope.h"
#include "wire/frame.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What an envelope leaves of the nesting that a payload may have: {"payload": {"body": …}}. */
enum { NESTING_MAX = WIRE_NESTING_MAX - 2 };

/* A walk over a message that is to be sent. */
typedef struct writer {
  buffer *out;
  const pyproc_message_info *root; /* the message that is sent */
  pyproc_error **reterr;
  size_t depth;
  bool no_memory; /* something was not appended: what follows does not matter */
} writer;

static int write_message(writer *to, const pyproc_message_info *info, const ProtobufCMessage *message,
                         const field_path *path);
static int write_members(writer *to, const pyproc_message_info *info, const ProtobufCMessage *message,
                         const field_path *path, bool first);

/* --- Text --- */

/* Room for `size` bytes at the end of the buffer, or NULL. */
static char *room(writer *to, size_t size) {
  if (buffer_reserve(to->out, size)) return (char *)to->out->data + to->out->size;
  to->no_memory = true;
  return NULL;
}

static void put(writer *to, const char *text, size_t size) {
  if (!buffer_append(to->out, text, size)) to->no_memory = true;
}

static void put_byte(writer *to, char byte) {
  put(to, &byte, 1);
}

static void put_text(writer *to, const char *text) {
  put(to, text, strlen(text));
}

static void put_string(writer *to, const char *text, size_t size) {
  size_t escaped = envelope_escaped_size(text, size);
  char *at = escaped > SIZE_MAX - 2 ? NULL : room(to, escaped + 2);
  if (at == NULL) return;
  *at++ = '"';
  at = envelope_escape(at, text, size);
  *at = '"';
  to->out->size += escaped + 2;
}

static void put_base64(writer *to, const uint8_t *data, size_t size) {
  static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  char *at = size / 3 > SIZE_MAX / 8 ? NULL : room(to, (size + 2) / 3 * 4 + 2);
  if (at == NULL) return;
  char *from = at;
  *at++ = '"';
  for (size_t i = 0; i < size; i += 3) {
    size_t left = size - i;
    uint32_t word =
        (uint32_t)data[i] << 16 | (left > 1 ? (uint32_t)data[i + 1] << 8 : 0) | (left > 2 ? data[i + 2] : 0u);
    *at++ = letters[word >> 18];
    *at++ = letters[(word >> 12) & 63];
    *at++ = left > 1 ? letters[(word >> 6) & 63] : '=';
    *at++ = left > 2 ? letters[word & 63] : '=';
  }
  *at++ = '"';
  to->out->size += (size_t)(at - from);
}

static void put_signed(writer *to, int64_t value) {
  char *at = room(to, JSON_NUMBER_MAX);
  if (at != NULL) to->out->size += json_write_signed(at, value);
}

static void put_unsigned(writer *to, uint64_t value) {
  char *at = room(to, JSON_NUMBER_MAX);
  if (at != NULL) to->out->size += json_write_unsigned(at, value);
}

static void put_real(writer *to, double value, bool as_float) {
  if (isnan(value)) {
    put_text(to, "\"NaN\"");
  } else if (isinf(value)) {
    put_text(to, value < 0 ? "\"-Infinity\"" : "\"Infinity\"");
  } else {
    char *at = room(to, JSON_NUMBER_MAX);
    if (at != NULL) to->out->size += as_float ? json_write_float(at, (float)value) : json_write_double(at, value);
  }
}

static int write_error(const writer *to, const field_path *path, const char *what) {
  return field_path_error(to->reterr, PYPROC_E_INVALID_ARGUMENT, to->root->name, path, "%s", what);
}

/* --- Values --- */

static int32_t get32(const void *value) {
  return *(const int32_t *)value;
}
static int64_t get64(const void *value) {
  return *(const int64_t *)value;
}

static void put_enum(writer *to, const ProtobufCFieldDescriptor *field, const pyproc_field_info *info, int value) {
  if ((info->flags & PYPROC_FIELD_NULL_VALUE) != 0) {
    put_text(to, "null");
    return;
  }
  const ProtobufCEnumValue *known = protobuf_c_enum_descriptor_get_value(field->descriptor, value);
  if (known != NULL && known->name != NULL)
    put_string(to, known->name, strlen(known->name));
  else
    put_signed(to, value);
}

static int write_string(writer *to, const char *text, const field_path *path) {
  if (text == NULL) return write_error(to, path, "is to be sent, but NULL");
  size_t size = strlen(text);
  if (!envelope_is_utf8(text, size)) return write_error(to, path, "the string is not valid UTF-8");
  put_string(to, text, size);
  return PYPROC_OK;
}

/* Numbers, booleans, enums, and what stands in quotes but for strings and messages. */
static void put_scalar(writer *to, const ProtobufCFieldDescriptor *field, const pyproc_field_info *info,
                       const void *value) {
  switch (field->type) {
  case PROTOBUF_C_TYPE_INT32:
  case PROTOBUF_C_TYPE_SINT32:
  case PROTOBUF_C_TYPE_SFIXED32:
    put_signed(to, get32(value));
    break;
  case PROTOBUF_C_TYPE_UINT32:
  case PROTOBUF_C_TYPE_FIXED32:
    put_unsigned(to, (uint32_t)get32(value));
    break;
  case PROTOBUF_C_TYPE_INT64:
  case PROTOBUF_C_TYPE_SINT64:
  case PROTOBUF_C_TYPE_SFIXED64:
    put_byte(to, '"');
    put_signed(to, get64(value));
    put_byte(to, '"');
    break;
  case PROTOBUF_C_TYPE_UINT64:
  case PROTOBUF_C_TYPE_FIXED64:
    put_byte(to, '"');
    put_unsigned(to, (uint64_t)get64(value));
    put_byte(to, '"');
    break;
  case PROTOBUF_C_TYPE_FLOAT:
    put_real(to, (double)*(const float *)value, true);
    break;
  case PROTOBUF_C_TYPE_DOUBLE:
    put_real(to, *(const double *)value, false);
    break;
  case PROTOBUF_C_TYPE_BOOL:
    put_text(to, get32(value) != 0 ? "true" : "false");
    break;
  case PROTOBUF_C_TYPE_ENUM:
    put_enum(to, field, info, get32(value));
    break;
  default:
    break;
  }
}

static int write_value(writer *to, const ProtobufCFieldDescriptor *field, const pyproc_field_info *info,
                       const void *value, const field_path *path) {
  if (field->type == PROTOBUF_C_TYPE_STRING) return write_string(to, *(const char *const *)value, path);
  if (field->type == PROTOBUF_C_TYPE_MESSAGE) {
    const ProtobufCMessage *message = *(const ProtobufCMessage *const *)value;
    return message == NULL ? write_error(to, path, "is NULL") : write_message(to, info->message, message, path);
  }
  if (field->type == PROTOBUF_C_TYPE_BYTES) {
    const ProtobufCBinaryData *bytes = value;
    if (bytes->len > 0 && bytes->data == NULL) return write_error(to, path, "bytes at NULL");
    put_base64(to, bytes->data, bytes->len);
    return PYPROC_OK;
  }
  put_scalar(to, field, info, value);
  return PYPROC_OK;
}

static size_t value_size(ProtobufCType type) {
  switch (type) {
  case PROTOBUF_C_TYPE_INT64:
  case PROTOBUF_C_TYPE_SINT64:
  case PROTOBUF_C_TYPE_SFIXED64:
  case PROTOBUF_C_TYPE_UINT64:
  case PROTOBUF_C_TYPE_FIXED64:
  case PROTOBUF_C_TYPE_DOUBLE:
    return 8;
  case PROTOBUF_C_TYPE_STRING:
  case PROTOBUF_C_TYPE_MESSAGE:
    return sizeof(void *);
  case PROTOBUF_C_TYPE_BYTES:
    return sizeof(ProtobufCBinaryData);
  default:
    return 4;
  }
}

/* --- Repeated fields and maps --- */

/* The elements of a repeated field. */
typedef struct elements {
  size_t count;
  const char *at;
} elements;

static elements elements_of(const ProtobufCFieldDescriptor *field, const ProtobufCMessage *message) {
  const char *members = (const char *)message;
  return (elements){*(const size_t *)(const void *)(members + field->quantifier_offset),
                    *(const char *const *)(const void *)(members + field->offset)};
}

static int enter(writer *to, const field_path *path) {
  if (to->depth < NESTING_MAX) {
    to->depth++;
    return PYPROC_OK;
  }
  while (path != NULL && path->parent != NULL) path = path->parent; /* the whole path would be long */
  return field_path_error(to->reterr, PYPROC_E_INVALID_ARGUMENT, to->root->name, path,
                          "is nested deeper than %d in JSON", NESTING_MAX);
}

static int write_array(writer *to, const ProtobufCFieldDescriptor *field, const pyproc_field_info *info, elements all,
                       field_path *path) {
  int result = enter(to, path);
  if (result != PYPROC_OK) return result;
  if (all.count > 0 && all.at == NULL) return write_error(to, path, "elements at NULL");
  put_byte(to, '[');
  for (size_t i = 0; i < all.count && result == PYPROC_OK; i++) {
    if (i > 0) put_byte(to, ',');
    path->index = i;
    result = write_value(to, field, info, all.at + i * value_size(field->type), path);
  }
  put_byte(to, ']');
  to->depth--;
  return result;
}

/* A map's key as a member's name. */
static int write_key(writer *to, const ProtobufCFieldDescriptor *field, const pyproc_field_info *info,
                     const ProtobufCMessage *entry, const field_path *path) {
  const void *value = (const char *)entry + field->offset;
  if (field->type == PROTOBUF_C_TYPE_STRING) {
    const char *text = *(const char *const *)value;
    return write_string(to, text == NULL ? "" : text, path);
  }
  bool bare = value_size(field->type) == 4; /* 64-bit integers are quoted anyway */
  if (bare) put_byte(to, '"');
  put_scalar(to, field, info, value);
  if (bare) put_byte(to, '"');
  return PYPROC_OK;
}

/* A message that a map entry does not have counts as an empty one. */
static int write_empty(writer *to, const pyproc_message_info *info, const field_path *path) {
  ProtobufCMessage *message = calloc(1, info->descriptor->sizeof_message);
  if (message == NULL) {
    to->no_memory = true;
    return PYPROC_OK;
  }
  json_message_init(info->descriptor, message);
  int result = write_message(to, info, message, path);
  free(message);
  return result;
}

static int write_entry(writer *to, const pyproc_message_info *info, const ProtobufCMessage *entry,
                       const field_path *path) {
  if (entry == NULL) return write_error(to, path, "is NULL");
  if (entry->descriptor != info->descriptor)
    return write_error(to, path, "is not initialised (begin with its ..._INIT)");
  const ProtobufCFieldDescriptor *fields = info->descriptor->fields;
  int result = write_key(to, &fields[0], &info->fields[0], entry, path);
  if (result != PYPROC_OK) return result;
  put_byte(to, ':');
  const void *value = (const char *)entry + fields[1].offset;
  if (fields[1].type < PROTOBUF_C_TYPE_STRING || fields[1].type == PROTOBUF_C_TYPE_BYTES ||
      *(const void *const *)value != NULL)
    return write_value(to, &fields[1], &info->fields[1], value, path);
  if (fields[1].type == PROTOBUF_C_TYPE_MESSAGE) return write_empty(to, info->fields[1].message, path);
  put_text(to, "\"\"");
  return PYPROC_OK;
}

static int write_map(writer *to, const pyproc_message_info *info, elements all, field_path *path) {
  int result = enter(to, path);
  if (result != PYPROC_OK) return result;
  if (all.count > 0 && all.at == NULL) return write_error(to, path, "entries at NULL");
  const ProtobufCMessage *const *entries = (const ProtobufCMessage *const *)(const void *)all.at;
  put_byte(to, '{');
  for (size_t i = 0; i < all.count && result == PYPROC_OK; i++) {
    if (i > 0) put_byte(to, ',');
    path->index = i;
    result = write_entry(to, info, entries[i], path);
  }
  put_byte(to, '}');
  to->depth--;
  return result;
}

/* --- Well-known types --- */

static const ProtobufCFieldDescriptor *field_of(const ProtobufCMessage *message, unsigned number) {
  return protobuf_c_message_descriptor_get_field(message->descriptor, number);
}

static const void *member_of(const ProtobufCMessage *message, const ProtobufCFieldDescriptor *field) {
  return (const char *)message + field->offset;
}

static int write_time(writer *to, const pyproc_message_info *info, const ProtobufCMessage *message,
                      const field_path *path) {
  int64_t seconds = get64(member_of(message, field_of(message, 1)));
  int32_t nanos = get32(member_of(message, field_of(message, 2)));
  char *at = room(to, JSON_TIME_MAX + 2);
  if (at == NULL) return PYPROC_OK;
  bool timestamp = info->well_known == PYPROC_WELL_KNOWN_TIMESTAMP;
  size_t size = timestamp ? json_write_timestamp(at + 1, seconds, nanos) : json_write_duration(at + 1, seconds, nanos);
  if (size == 0) return write_error(to, path, timestamp ? "no valid Timestamp" : "no valid Duration");
  at[0] = at[size + 1] = '"';
  to->out->size += size + 2;
  return PYPROC_OK;
}

static int write_mask(writer *to, const ProtobufCMessage *message, const field_path *path) {
  elements paths = elements_of(field_of(message, 1), message);
  put_byte(to, '"');
  for (size_t i = 0; i < paths.count; i++) {
    const char *text = ((const char *const *)(const void *)paths.at)[i];
    if (text == NULL) return write_error(to, path, "a path is NULL");
    size_t size = strlen(text);
    char *at = room(to, size + 1);
    if (at == NULL) return PYPROC_OK;
    if (i > 0) *at++ = ',';
    size_t written = json_write_mask_path(at, text, size);
    bool plain = written != SIZE_MAX && envelope_is_utf8(text, size) && envelope_escaped_size(text, size) == size;
    if (!plain) return write_error(to, path, "a path that JSON cannot have (it wants lower_case names)");
    to->out->size += written + (i > 0 ? 1 : 0);
  }
  put_byte(to, '"');
  return PYPROC_OK;
}

/* google.protobuf.Value: the JSON value of the one field that is set. */
static int write_any_value(writer *to, const pyproc_message_info *info, const ProtobufCMessage *message,
                           const field_path *path) {
  const ProtobufCMessageDescriptor *descriptor = message->descriptor;
  const ProtobufCFieldDescriptor *kinds = descriptor->fields;
  uint32_t kind = *(const uint32_t *)(const void *)((const char *)message + kinds[0].quantifier_offset);
  for (unsigned i = 0; i < descriptor->n_fields; i++) {
    if (kinds[i].id != kind) continue;
    const void *value = member_of(message, &kinds[i]);
    if (kinds[i].type == PROTOBUF_C_TYPE_DOUBLE && !isfinite(*(const double *)value))
      return write_error(to, path, "a Value that is no finite number has no JSON");
    return write_value(to, &kinds[i], &info->fields[i], value, path);
  }
  put_text(to, "null");
  return PYPROC_OK;
}

/* google.protobuf.Any: the message within, with its type. */
static int write_any(writer *to, const ProtobufCMessage *message, const field_path *path) {
  const char *url = *(const char *const *)member_of(message, field_of(message, 1));
  const ProtobufCBinaryData *value = member_of(message, field_of(message, 2));
  if (url == NULL || *url == '\0') {
    put_text(to, "{}");
    return PYPROC_OK;
  }
  const pyproc_message_info *info = json_any_find(to->root, url);
  if (info == NULL)
    return write_error(to, path,
                       "an Any of a type that nothing else in the message has; use the protobuf protocol for it");
  ProtobufCMessage *inner;
  if (reply_unpack(info->descriptor, value->data, value->len, WIRE_FRAME_LIMIT_MAX, &inner, NULL) < 0)
    return write_error(to, path, "an Any whose value is no message of its type");
  int result = enter(to, path);
  if (result == PYPROC_OK) {
    put_text(to, "{\"@type\":");
    result = write_string(to, url, path);
  }
  bool plain = info->well_known == PYPROC_WELL_KNOWN_NONE || info->well_known == PYPROC_WELL_KNOWN_EMPTY;
  if (result == PYPROC_OK && !plain) {
    put_text(to, ",\"value\":");
    result = write_message(to, info, inner, path);
  } else if (result == PYPROC_OK) {
    result = write_members(to, info, inner, path, false);
  }
  put_byte(to, '}');
  to->depth--;
  pyproc_reply_free(inner);
  return result;
}

static int write_well_known(writer *to, const pyproc_message_info *info, const ProtobufCMessage *message,
                            const field_path *path) {
  field_path step = {path, info->descriptor->n_fields > 0 ? info->fields[0].name : NULL, FIELD_PATH_NO_INDEX};
  const ProtobufCFieldDescriptor *fields = info->descriptor->fields;
  switch (info->well_known) {
  case PYPROC_WELL_KNOWN_TIMESTAMP:
  case PYPROC_WELL_KNOWN_DURATION:
    return write_time(to, info, message, path);
  case PYPROC_WELL_KNOWN_STRUCT:
    return write_map(to, info->fields[0].message, elements_of(&fields[0], message), &step);
  case PYPROC_WELL_KNOWN_LIST_VALUE:
    return write_array(to, &fields[0], &info->fields[0], elements_of(&fields[0], message), &step);
  case PYPROC_WELL_KNOWN_VALUE:
    return write_any_value(to, info, message, path);
  case PYPROC_WELL_KNOWN_WRAPPER:
    if (fields[0].type == PROTOBUF_C_TYPE_STRING && *(const char *const *)member_of(message, &fields[0]) == NULL) {
      put_text(to, "\"\"");
      return PYPROC_OK;
    }
    return write_value(to, &fields[0], &info->fields[0], member_of(message, &fields[0]), path);
  case PYPROC_WELL_KNOWN_FIELD_MASK:
    return write_mask(to, message, path);
  case PYPROC_WELL_KNOWN_ANY:
    return write_any(to, message, path);
  default:
    put_text(to, "{}");
    return PYPROC_OK;
  }
}

/* --- Messages --- */

/* Whether a field without presence has its default. */
static bool is_default(const ProtobufCFieldDescriptor *field, const void *value) {
  switch (field->type) {
  case PROTOBUF_C_TYPE_STRING:
    return *(const char *const *)value == NULL || **(const char *const *)value == '\0';
  case PROTOBUF_C_TYPE_MESSAGE:
    return *(const void *const *)value == NULL;
  case PROTOBUF_C_TYPE_BYTES:
    return ((const ProtobufCBinaryData *)value)->len == 0;
  case PROTOBUF_C_TYPE_FLOAT:
    return *(const float *)value == 0;
  case PROTOBUF_C_TYPE_DOUBLE:
    return *(const double *)value == 0;
  default:
    return value_size(field->type) == 8 ? get64(value) == 0 : get32(value) == 0;
  }
}

/* Whether a field is sent, by protobuf-c's rules. */
static bool is_sent(const ProtobufCFieldDescriptor *field, const ProtobufCMessage *message) {
  const char *members = (const char *)message;
  const void *quantifier = members + field->quantifier_offset;
  if (field->label == PROTOBUF_C_LABEL_REPEATED) return *(const size_t *)quantifier > 0;
  if ((field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) != 0) return *(const uint32_t *)quantifier == field->id;
  if (field->label == PROTOBUF_C_LABEL_REQUIRED) return true;
  if (field->label == PROTOBUF_C_LABEL_NONE) return !is_default(field, members + field->offset);
  if (field->type != PROTOBUF_C_TYPE_STRING && field->type != PROTOBUF_C_TYPE_MESSAGE)
    return *(const protobuf_c_boolean *)quantifier != 0;
  const void *pointer = *(const void *const *)(const void *)(members + field->offset);
  return pointer != NULL && pointer != field->default_value;
}

static int write_field(writer *to, const ProtobufCFieldDescriptor *field, const pyproc_field_info *info,
                       const ProtobufCMessage *message, const field_path *path) {
  field_path step = {path, info->name, FIELD_PATH_NO_INDEX};
  put_string(to, info->json_name, strlen(info->json_name));
  put_byte(to, ':');
  if ((info->flags & PYPROC_FIELD_MAP) != 0) return write_map(to, info->message, elements_of(field, message), &step);
  if (field->label == PROTOBUF_C_LABEL_REPEATED)
    return write_array(to, field, info, elements_of(field, message), &step);
  return write_value(to, field, info, member_of(message, field), &step);
}

static int write_members(writer *to, const pyproc_message_info *info, const ProtobufCMessage *message,
                         const field_path *path, bool first) {
  const ProtobufCMessageDescriptor *descriptor = info->descriptor;
  int result = PYPROC_OK;
  for (unsigned i = 0; i < descriptor->n_fields && result == PYPROC_OK; i++) {
    if (!is_sent(&descriptor->fields[i], message)) continue;
    if (!first) put_byte(to, ',');
    first = false;
    result = write_field(to, &descriptor->fields[i], &info->fields[i], message, path);
  }
  return result;
}

static int write_fields(writer *to, const pyproc_message_info *info, const ProtobufCMessage *message,
                        const field_path *path) {
  int result = enter(to, path);
  if (result != PYPROC_OK) return result;
  put_byte(to, '{');
  result = write_members(to, info, message, path, true);
  put_byte(to, '}');
  to->depth--;
  return result;
}

static int write_message(writer *to, const pyproc_message_info *info, const ProtobufCMessage *message,
                         const field_path *path) {
  if (message->descriptor != info->descriptor)
    return write_error(to, path, "is not initialised as its type (begin with its ..._INIT)");
  if (info->well_known != PYPROC_WELL_KNOWN_NONE) return write_well_known(to, info, message, path);
  return write_fields(to, info, message, path);
}

int json_message_pack(const pyproc_message_info *info, const ProtobufCMessage *message, buffer *out,
                      pyproc_error **reterr) {
  writer to = {.out = out, .root = info, .reterr = reterr};
  size_t size = out->size;
  int result = write_message(&to, info, message, NULL);
  if (result == PYPROC_OK && to.no_memory)
    result = error_set(reterr, PYPROC_E_RESOURCE_EXHAUSTED, "%s: no memory for its JSON", info->name);
  if (result != PYPROC_OK) out->size = size;
  return result;
}
