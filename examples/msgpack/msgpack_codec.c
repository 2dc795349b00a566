/*
 * Messages and JSON values in MessagePack (https://msgpack.org).
 *
 *   message          map: field number to value, of the fields that are set
 *   repeated field   array; a map field is a map
 *   bool, integers   bool, the shortest integer; an enum is its number
 *   float, double    float 32 or float 64; either is read for either
 *   string, bytes    str, bin
 *   JSON value       the same value; numbers with a fraction or an exponent are float 64
 *
 * Numbers, not names, because they stay when a field is renamed, and are short. Fields of proto3 that are not `optional`
 * are set when they are not 0 or empty, as in protobuf. Keys that are not known are skipped when reading.
 *
 * libmsgpack packs. It does not unpack here: it would build a tree of a worker's bytes, at most 32 levels deep, and take
 * memory for as many elements as they announce, before a field is looked at. Reading straight into the message is as
 * short and bounds both.
 */
#include "msgpack_codec.h"

#include <jansson.h>
#include <msgpack.h>
#include <stdbool.h>
#include <string.h>

/* ---- layout of protobuf-c ---- */

static size_t size_of(ProtobufCType type) {
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

static const void *member(const ProtobufCMessage *message, unsigned offset) {
  return (const char *)message + offset;
}

static void *member_of(ProtobufCMessage *message, unsigned offset) {
  return (char *)message + offset;
}

static size_t count_of(const ProtobufCFieldDescriptor *field, const ProtobufCMessage *message) {
  return *(const size_t *)member(message, field->quantifier_offset);
}

/* Whether a value is what a field without presence has when nobody set it. */
static bool is_default(const ProtobufCFieldDescriptor *field, const void *value) {
  static const char zeros[8];
  if (field->type == PROTOBUF_C_TYPE_STRING) return **(const char *const *)value == '\0';
  if (field->type == PROTOBUF_C_TYPE_BYTES) return ((const ProtobufCBinaryData *)value)->len == 0;
  return memcmp(value, zeros, size_of(field->type)) == 0;
}

static bool is_set(const ProtobufCFieldDescriptor *field, const ProtobufCMessage *message) {
  const void *value = member(message, field->offset), *quantifier = member(message, field->quantifier_offset);
  bool is_pointer = field->type == PROTOBUF_C_TYPE_STRING || field->type == PROTOBUF_C_TYPE_MESSAGE;
  if (field->label == PROTOBUF_C_LABEL_REPEATED) return count_of(field, message) > 0;
  if ((field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) != 0) return *(const uint32_t *)quantifier == field->id;
  if (field->label == PROTOBUF_C_LABEL_REQUIRED) return true;
  if (is_pointer && *(const void *const *)value == NULL) return false;
  if (field->type == PROTOBUF_C_TYPE_MESSAGE) return true;
  if (field->label == PROTOBUF_C_LABEL_NONE) return !is_default(field, value);
  return is_pointer ? *(const void *const *)value != field->default_value
                    : *(const protobuf_c_boolean *)quantifier != 0;
}

/* Says that a field, which is not repeated, is there. */
static void set_present(const ProtobufCFieldDescriptor *field, ProtobufCMessage *message) {
  if ((field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) != 0)
    *(uint32_t *)member_of(message, field->quantifier_offset) = field->id;
  else if (field->label == PROTOBUF_C_LABEL_OPTIONAL && field->type != PROTOBUF_C_TYPE_STRING &&
           field->type != PROTOBUF_C_TYPE_MESSAGE)
    *(protobuf_c_boolean *)member_of(message, field->quantifier_offset) = 1;
}

/* ---- packing messages ---- */

typedef struct writer {
  msgpack_packer packer; /* writes by append() */
  pyproc_output *out;
  pyproc_error **reterr;
} writer;

static int append(void *to, const char *data, size_t size) {
  writer *self = to;
  return pyproc_output_append(self->out, data, size, self->reterr) < 0 ? -1 : 0;
}

static void writer_init(writer *self, pyproc_output *out, pyproc_error **reterr) {
  self->out = out;
  self->reterr = reterr;
  msgpack_packer_init(&self->packer, self, append);
}

static int pack_bytes(msgpack_packer *to, const void *data, size_t size, bool is_text) {
  int result = is_text ? msgpack_pack_str(to, size) : msgpack_pack_bin(to, size);
  if (result != 0 || size == 0) return result;
  return is_text ? msgpack_pack_str_body(to, data, size) : msgpack_pack_bin_body(to, data, size);
}

static int pack_message(msgpack_packer *to, const pyproc_message_info *info, const ProtobufCMessage *message);

static int pack_value(msgpack_packer *to, ProtobufCType type, const pyproc_field_info *info, const void *value) {
  const ProtobufCBinaryData *bytes = value;
  const char *const *text = value;
  const ProtobufCMessage *const *message = value;
  switch (type) {
  case PROTOBUF_C_TYPE_BOOL:
    return *(const protobuf_c_boolean *)value ? msgpack_pack_true(to) : msgpack_pack_false(to);
  case PROTOBUF_C_TYPE_INT32:
  case PROTOBUF_C_TYPE_SINT32:
  case PROTOBUF_C_TYPE_SFIXED32:
  case PROTOBUF_C_TYPE_ENUM:
    return msgpack_pack_int32(to, *(const int32_t *)value);
  case PROTOBUF_C_TYPE_UINT32:
  case PROTOBUF_C_TYPE_FIXED32:
    return msgpack_pack_uint32(to, *(const uint32_t *)value);
  case PROTOBUF_C_TYPE_INT64:
  case PROTOBUF_C_TYPE_SINT64:
  case PROTOBUF_C_TYPE_SFIXED64:
    return msgpack_pack_int64(to, *(const int64_t *)value);
  case PROTOBUF_C_TYPE_UINT64:
  case PROTOBUF_C_TYPE_FIXED64:
    return msgpack_pack_uint64(to, *(const uint64_t *)value);
  case PROTOBUF_C_TYPE_FLOAT:
    return msgpack_pack_float(to, *(const float *)value);
  case PROTOBUF_C_TYPE_DOUBLE:
    return msgpack_pack_double(to, *(const double *)value);
  case PROTOBUF_C_TYPE_STRING: /* NULL in an entry of a map stands for nothing set */
    return *text == NULL ? msgpack_pack_str(to, 0) : pack_bytes(to, *text, strlen(*text), true);
  case PROTOBUF_C_TYPE_BYTES:
    return pack_bytes(to, bytes->data, bytes->len, false);
  case PROTOBUF_C_TYPE_MESSAGE:
    return *message == NULL ? msgpack_pack_map(to, 0) : pack_message(to, info->message, *message);
  }
  return -1;
}

/* Key and value of a map's entry. */
static int pack_entry(msgpack_packer *to, const pyproc_message_info *info, const ProtobufCMessage *entry) {
  int result = 0;
  for (unsigned i = 0; i < info->descriptor->n_fields && result == 0; i++) {
    const ProtobufCFieldDescriptor *field = &info->descriptor->fields[i];
    result = pack_value(to, field->type, &info->fields[i], member(entry, field->offset));
  }
  return result;
}

static int pack_repeated(msgpack_packer *to, const ProtobufCFieldDescriptor *field, const pyproc_field_info *info,
                         const ProtobufCMessage *message) {
  size_t count = count_of(field, message), step = size_of(field->type);
  const char *array = *(const char *const *)member(message, field->offset);
  bool is_map = (info->flags & PYPROC_FIELD_MAP) != 0;
  int result = is_map ? msgpack_pack_map(to, count) : msgpack_pack_array(to, count);
  for (size_t i = 0; i < count && result == 0; i++) {
    const void *value = array + i * step;
    result = is_map ? pack_entry(to, info->message, *(const ProtobufCMessage *const *)value)
                    : pack_value(to, field->type, info, value);
  }
  return result;
}

static int pack_message(msgpack_packer *to, const pyproc_message_info *info, const ProtobufCMessage *message) {
  const ProtobufCFieldDescriptor *fields = info->descriptor->fields;
  unsigned count = 0;
  for (unsigned i = 0; i < info->descriptor->n_fields; i++) count += is_set(&fields[i], message);
  int result = msgpack_pack_map(to, count);
  for (unsigned i = 0; i < info->descriptor->n_fields && result == 0; i++) {
    if (!is_set(&fields[i], message)) continue;
    result = msgpack_pack_uint32(to, fields[i].id);
    if (result == 0)
      result = fields[i].label == PROTOBUF_C_LABEL_REPEATED
                   ? pack_repeated(to, &fields[i], &info->fields[i], message)
                   : pack_value(to, fields[i].type, &info->fields[i], member(message, fields[i].offset));
  }
  return result;
}

static int codec_pack(const pyproc_protocol *self, const pyproc_message_info *info, const ProtobufCMessage *message,
                      pyproc_output *out, pyproc_error **reterr) {
  writer to;
  (void)self;
  writer_init(&to, out, reterr);
  return pack_message(&to.packer, info, message) == 0 ? PYPROC_OK : PYPROC_E_RESOURCE_EXHAUSTED; /* append() said why */
}

/* ---- reading: one value, or the head of an array or a map, at a time ---- */

typedef enum value_kind {
  VALUE_NIL,
  VALUE_BOOL,
  VALUE_UNSIGNED,
  VALUE_NEGATIVE,
  VALUE_FLOAT,
  VALUE_STRING,
  VALUE_BYTES,
  VALUE_ARRAY,
  VALUE_MAP
} value_kind;

typedef struct value {
  value_kind kind;
  uint64_t number;     /* BOOL, UNSIGNED; NEGATIVE: as int64_t */
  double real;         /* FLOAT */
  const uint8_t *data; /* STRING, BYTES */
  size_t size;         /* of these; elements of an ARRAY; pairs of a MAP */
} value;

typedef struct reader {
  const uint8_t *at, *end;
  pyproc_arena *arena; /* of a message */
  const char *root;    /* its name */
  pyproc_error **reterr;
} reader;

static int wrong(const reader *self, const pyproc_field_path *path, const char *what) {
  return pyproc_protocol_error(self->reterr, PYPROC_E_DATA_LOSS, self->root, path, "%s", what);
}

static size_t left(const reader *self) {
  return (size_t)(self->end - self->at);
}

/* A number of so many bytes, which are there. */
static uint64_t take(reader *self, size_t size) {
  uint64_t number = 0;
  for (size_t i = 0; i < size; i++) number = number << 8 | *self->at++;
  return number;
}

/* What a first byte says: kind, bytes of a number or a length that follow, and the number that is in the byte itself. */
typedef struct head {
  value_kind kind;
  uint8_t extra;
  uint8_t inner;
  bool known, is_signed;
} head;

static head head_of(uint8_t first) {
  static const head others[] = {
      [0xc0 - 0xc0] = {VALUE_NIL, 0, 0, true, false},      [0xc2 - 0xc0] = {VALUE_BOOL, 0, 0, true, false},
      [0xc3 - 0xc0] = {VALUE_BOOL, 0, 1, true, false},     [0xc4 - 0xc0] = {VALUE_BYTES, 1, 0, true, false},
      [0xc5 - 0xc0] = {VALUE_BYTES, 2, 0, true, false},    [0xc6 - 0xc0] = {VALUE_BYTES, 4, 0, true, false},
      [0xca - 0xc0] = {VALUE_FLOAT, 4, 0, true, false},    [0xcb - 0xc0] = {VALUE_FLOAT, 8, 0, true, false},
      [0xcc - 0xc0] = {VALUE_UNSIGNED, 1, 0, true, false}, [0xcd - 0xc0] = {VALUE_UNSIGNED, 2, 0, true, false},
      [0xce - 0xc0] = {VALUE_UNSIGNED, 4, 0, true, false}, [0xcf - 0xc0] = {VALUE_UNSIGNED, 8, 0, true, false},
      [0xd0 - 0xc0] = {VALUE_UNSIGNED, 1, 0, true, true},  [0xd1 - 0xc0] = {VALUE_UNSIGNED, 2, 0, true, true},
      [0xd2 - 0xc0] = {VALUE_UNSIGNED, 4, 0, true, true},  [0xd3 - 0xc0] = {VALUE_UNSIGNED, 8, 0, true, true},
      [0xd9 - 0xc0] = {VALUE_STRING, 1, 0, true, false},   [0xda - 0xc0] = {VALUE_STRING, 2, 0, true, false},
      [0xdb - 0xc0] = {VALUE_STRING, 4, 0, true, false},   [0xdc - 0xc0] = {VALUE_ARRAY, 2, 0, true, false},
      [0xdd - 0xc0] = {VALUE_ARRAY, 4, 0, true, false},    [0xde - 0xc0] = {VALUE_MAP, 2, 0, true, false},
      [0xdf - 0xc0] = {VALUE_MAP, 4, 0, true, false},
  };
  if (first < 0x80) return (head){VALUE_UNSIGNED, 0, first, true, false};
  if (first < 0x90) return (head){VALUE_MAP, 0, first & 0x0f, true, false};
  if (first < 0xa0) return (head){VALUE_ARRAY, 0, first & 0x0f, true, false};
  if (first < 0xc0) return (head){VALUE_STRING, 0, first & 0x1f, true, false};
  if (first >= 0xe0) return (head){VALUE_UNSIGNED, 0, first, true, true};
  return others[first - 0xc0];
}

/* Numbers of either sign, from `size` bytes. */
static void set_signed(value *to, uint64_t number, size_t size) {
  unsigned shift = (unsigned)(8 - size) * 8;
  int64_t extended = (int64_t)(number << shift) >> shift;
  to->kind = extended < 0 ? VALUE_NEGATIVE : VALUE_UNSIGNED;
  to->number = (uint64_t)extended;
}

static double real_of(uint64_t bits, size_t size) {
  uint32_t bits32 = (uint32_t)bits;
  float narrow;
  double wide;
  memcpy(&narrow, &bits32, sizeof narrow);
  memcpy(&wide, &bits, sizeof wide);
  return size == 4 ? (double)narrow : wide;
}

/* Counts are bounded by the bytes that are there: an element takes one at least, a pair two. */
static int read_value(reader *self, const pyproc_field_path *path, value *ret_value) {
  if (left(self) == 0) return wrong(self, path, "ends too early");
  uint8_t first = *self->at++;
  head what = head_of(first);
  if (!what.known) return wrong(self, path, "an extension type, or none of MessagePack");
  if (what.extra > left(self)) return wrong(self, path, "ends too early");
  uint64_t number = what.extra > 0 ? take(self, what.extra) : what.inner;
  *ret_value = (value){.kind = what.kind, .number = number};
  if (what.is_signed) set_signed(ret_value, number, what.extra > 0 ? what.extra : 1);
  if (what.kind == VALUE_FLOAT) ret_value->real = real_of(number, what.extra);
  if (what.kind < VALUE_STRING) return PYPROC_OK;
  if (number > (what.kind == VALUE_MAP ? left(self) / 2 : left(self)))
    return wrong(self, path, "announces more than there is");
  ret_value->size = (size_t)number;
  if (what.kind > VALUE_BYTES) return PYPROC_OK;
  ret_value->data = self->at;
  self->at += ret_value->size;
  return PYPROC_OK;
}

static bool has_nul(const value *text) {
  return text->size > 0 && memchr(text->data, '\0', text->size) != NULL;
}

/* Goes past a value and all that it holds. */
static int skip_value(reader *self, const pyproc_field_path *path) {
  int result = PYPROC_OK;
  for (uint64_t pending = 1; pending > 0 && result >= 0; pending--) {
    value skipped;
    result = read_value(self, path, &skipped);
    if (result >= 0 && skipped.kind == VALUE_ARRAY) pending += skipped.size;
    if (result >= 0 && skipped.kind == VALUE_MAP) pending += 2 * (uint64_t)skipped.size;
  }
  return result;
}

/* ---- unpacking messages ---- */

static int read_message(reader *self, const pyproc_message_info *info, const pyproc_field_path *path, unsigned depth,
                        ProtobufCMessage **ret_message);

static int read_integer(reader *self, ProtobufCType type, const value *from, const pyproc_field_path *path, void *to) {
  bool negative = from->kind == VALUE_NEGATIVE;
  int64_t number = (int64_t)from->number;
  if (from->kind != VALUE_UNSIGNED && !negative) return wrong(self, path, "is no integer");
  switch (type) {
  case PROTOBUF_C_TYPE_INT64:
  case PROTOBUF_C_TYPE_SINT64:
  case PROTOBUF_C_TYPE_SFIXED64:
    if (!negative && from->number > INT64_MAX) break;
    memcpy(to, &number, sizeof number);
    return PYPROC_OK;
  case PROTOBUF_C_TYPE_UINT64:
  case PROTOBUF_C_TYPE_FIXED64:
    if (negative) break;
    memcpy(to, &from->number, sizeof from->number);
    return PYPROC_OK;
  case PROTOBUF_C_TYPE_UINT32:
  case PROTOBUF_C_TYPE_FIXED32:
    if (negative || from->number > UINT32_MAX) break;
    *(uint32_t *)to = (uint32_t)from->number;
    return PYPROC_OK;
  default:
    if (negative ? number < INT32_MIN : from->number > INT32_MAX) break;
    *(int32_t *)to = (int32_t)number;
    return PYPROC_OK;
  }
  return wrong(self, path, "is out of the field's range");
}

static int read_string(reader *self, const value *from, const pyproc_field_path *path, char **to) {
  if (from->kind != VALUE_STRING) return wrong(self, path, "is no str");
  if (!pyproc_is_utf8((const char *)from->data, from->size)) return wrong(self, path, "is not valid UTF-8");
  if (has_nul(from)) return wrong(self, path, "holds a NUL");
  char *text = pyproc_arena_alloc(self->arena, from->size + 1, self->reterr);
  if (text == NULL) return PYPROC_E_RESOURCE_EXHAUSTED;
  memcpy(text, from->data, from->size);
  text[from->size] = '\0';
  *to = text;
  return PYPROC_OK;
}

static int read_bytes(reader *self, const value *from, const pyproc_field_path *path, ProtobufCBinaryData *to) {
  if (from->kind != VALUE_BYTES) return wrong(self, path, "is no bin");
  *to = (ProtobufCBinaryData){0};
  if (from->size == 0) return PYPROC_OK;
  to->data = pyproc_arena_alloc(self->arena, from->size, self->reterr);
  if (to->data == NULL) return PYPROC_E_RESOURCE_EXHAUSTED;
  memcpy(to->data, from->data, from->size);
  to->len = from->size;
  return PYPROC_OK;
}

static int read_field_value(reader *self, ProtobufCType type, const pyproc_field_info *info,
                            const pyproc_field_path *path, unsigned depth, void *to) {
  value from;
  if (type == PROTOBUF_C_TYPE_MESSAGE) return read_message(self, info->message, path, depth + 1, to);
  int result = read_value(self, path, &from);
  if (result < 0) return result;
  switch (type) {
  case PROTOBUF_C_TYPE_STRING:
    return read_string(self, &from, path, to);
  case PROTOBUF_C_TYPE_BYTES:
    return read_bytes(self, &from, path, to);
  case PROTOBUF_C_TYPE_BOOL:
    if (from.kind != VALUE_BOOL) return wrong(self, path, "is no bool");
    *(protobuf_c_boolean *)to = from.number != 0;
    return PYPROC_OK;
  case PROTOBUF_C_TYPE_FLOAT:
    if (from.kind != VALUE_FLOAT) return wrong(self, path, "is no float");
    *(float *)to = (float)from.real;
    return PYPROC_OK;
  case PROTOBUF_C_TYPE_DOUBLE:
    if (from.kind != VALUE_FLOAT) return wrong(self, path, "is no float");
    *(double *)to = from.real;
    return PYPROC_OK;
  default:
    return read_integer(self, type, &from, path, to);
  }
}

static int read_entry(reader *self, const pyproc_message_info *info, const pyproc_field_path *path, unsigned depth,
                      ProtobufCMessage **ret_entry) {
  ProtobufCMessage *entry = pyproc_arena_message(self->arena, info, self->reterr);
  int result = entry == NULL ? PYPROC_E_RESOURCE_EXHAUSTED : PYPROC_OK;
  for (unsigned i = 0; i < info->descriptor->n_fields && result >= 0; i++) {
    const ProtobufCFieldDescriptor *field = &info->descriptor->fields[i];
    result = read_field_value(self, field->type, &info->fields[i], path, depth, member_of(entry, field->offset));
    if (result >= 0) set_present(field, entry);
  }
  *ret_entry = entry;
  return result;
}

static int read_repeated(reader *self, const ProtobufCFieldDescriptor *field, const pyproc_field_info *info,
                         pyproc_field_path *path, unsigned depth, ProtobufCMessage *message) {
  value list;
  bool is_map = (info->flags & PYPROC_FIELD_MAP) != 0;
  size_t step = size_of(field->type);
  int result = read_value(self, path, &list);
  if (result < 0) return result;
  if (list.kind != (is_map ? VALUE_MAP : VALUE_ARRAY)) return wrong(self, path, is_map ? "is no map" : "is no array");
  char *array = list.size == 0 ? NULL : pyproc_arena_alloc(self->arena, list.size * step, self->reterr);
  if (array == NULL && list.size > 0) return PYPROC_E_RESOURCE_EXHAUSTED;
  for (path->index = 0; path->index < list.size && result >= 0; path->index++) {
    void *to = array + path->index * step;
    result = is_map ? read_entry(self, info->message, path, depth + 1, to)
                    : read_field_value(self, field->type, info, path, depth, to);
  }
  if (result < 0) return result;
  *(size_t *)member_of(message, field->quantifier_offset) = list.size;
  *(char **)member_of(message, field->offset) = array;
  return PYPROC_OK;
}

/* The field that a key names: its index, n_fields where it is not known here. */
static int read_key(reader *self, const pyproc_message_info *info, const pyproc_field_path *path, unsigned *ret_index) {
  value key;
  int result = read_value(self, path, &key);
  if (result < 0) return result;
  if (key.kind != VALUE_UNSIGNED) return wrong(self, path, "has a key that is no field number");
  unsigned index = 0;
  while (index < info->descriptor->n_fields && info->descriptor->fields[index].id != key.number) index++;
  *ret_index = index;
  return PYPROC_OK;
}

static int read_field(reader *self, const pyproc_message_info *info, const pyproc_field_path *path, unsigned depth,
                      ProtobufCMessage *message, uint64_t *seen) {
  unsigned index = 0;
  int result = read_key(self, info, path, &index);
  if (result < 0) return result;
  if (index == info->descriptor->n_fields) return skip_value(self, path);
  const ProtobufCFieldDescriptor *field = &info->descriptor->fields[index];
  pyproc_field_path step = {path, info->fields[index].name, PYPROC_NO_INDEX};
  if (field->label == PROTOBUF_C_LABEL_REPEATED)
    return read_repeated(self, field, &info->fields[index], &step, depth, message);
  result = read_field_value(self, field->type, &info->fields[index], &step, depth, member_of(message, field->offset));
  if (result < 0) return result;
  set_present(field, message);
  *seen += field->label == PROTOBUF_C_LABEL_REQUIRED;
  return PYPROC_OK;
}

static int read_message(reader *self, const pyproc_message_info *info, const pyproc_field_path *path, unsigned depth,
                        ProtobufCMessage **ret_message) {
  value fields;
  uint64_t required = 0, seen = 0;
  if (depth > PYPROC_NESTING_MAX) return wrong(self, NULL, "messages are nested too deep");
  int result = read_value(self, path, &fields);
  if (result < 0) return result;
  if (fields.kind != VALUE_MAP) return wrong(self, path, "is no map");
  ProtobufCMessage *message = pyproc_arena_message(self->arena, info, self->reterr);
  if (message == NULL) return PYPROC_E_RESOURCE_EXHAUSTED;
  for (size_t i = 0; i < fields.size && result >= 0; i++) result = read_field(self, info, path, depth, message, &seen);
  if (result < 0) return result;
  for (unsigned i = 0; i < info->descriptor->n_fields; i++)
    required += info->descriptor->fields[i].label == PROTOBUF_C_LABEL_REQUIRED;
  if (seen < required) return wrong(self, path, "lacks a required field");
  *ret_message = message;
  return PYPROC_OK;
}

static int codec_unpack(const pyproc_protocol *self, const pyproc_message_info *info, const uint8_t *data, size_t size,
                        pyproc_arena *arena, ProtobufCMessage **ret_message, pyproc_error **reterr) {
  if (size == 0) data = (const uint8_t *)""; /* may be NULL */
  reader from = {.at = data, .end = data + size, .arena = arena, .root = info->name, .reterr = reterr};
  (void)self;
  int result = read_message(&from, info, NULL, 1, ret_message);
  if (result >= 0 && left(&from) > 0) result = wrong(&from, NULL, "has bytes behind it");
  return result;
}

/* ---- JSON ---- */

static int pack_json_value(msgpack_packer *to, json_t *from) {
  const char *key;
  json_t *item;
  size_t index;
  int result;
  switch (json_typeof(from)) {
  case JSON_OBJECT:
    result = msgpack_pack_map(to, json_object_size(from));
    json_object_foreach(from, key, item) {
      if (result == 0) result = pack_bytes(to, key, strlen(key), true);
      if (result == 0) result = pack_json_value(to, item);
    }
    return result;
  case JSON_ARRAY:
    result = msgpack_pack_array(to, json_array_size(from));
    json_array_foreach(from, index, item) {
      if (result == 0) result = pack_json_value(to, item);
    }
    return result;
  case JSON_STRING:
    return pack_bytes(to, json_string_value(from), json_string_length(from), true);
  case JSON_INTEGER:
    return msgpack_pack_int64(to, json_integer_value(from));
  case JSON_REAL:
    return msgpack_pack_double(to, json_real_value(from));
  case JSON_TRUE:
    return msgpack_pack_true(to);
  case JSON_FALSE:
    return msgpack_pack_false(to);
  case JSON_NULL:
    break;
  }
  return msgpack_pack_nil(to);
}

/* The library has checked the text and its depth. What jansson cannot hold are integers beyond 64 bits with a sign. */
static int codec_pack_json(const pyproc_protocol *self, const uint8_t *text, size_t size, pyproc_output *out,
                           pyproc_error **reterr) {
  writer to;
  json_error_t why;
  json_t *from = json_loadb((const char *)text, size, JSON_DECODE_ANY | JSON_ALLOW_NUL, &why);
  (void)self;
  if (from == NULL) return pyproc_protocol_error(reterr, PYPROC_E_INVALID_ARGUMENT, NULL, NULL, "%s", why.text);
  writer_init(&to, out, reterr);
  int result = pack_json_value(&to.packer, from) == 0 ? PYPROC_OK : PYPROC_E_RESOURCE_EXHAUSTED;
  json_decref(from);
  return result;
}

typedef struct text_writer {
  pyproc_output *out;
  pyproc_error **reterr;
} text_writer;

static int append_text(const char *data, size_t size, void *to) {
  text_writer *self = to;
  return pyproc_output_append(self->out, data, size, self->reterr) < 0 ? -1 : 0;
}

/* Appends a value without parts; consumes it. */
static int write_scalar(reader *from, text_writer *to, json_t *scalar) {
  if (scalar == NULL) return wrong(from, NULL, "holds a string or a number that JSON cannot");
  int result = json_dump_callback(scalar, append_text, to, JSON_ENCODE_ANY);
  json_decref(scalar);
  return result == 0 ? PYPROC_OK : PYPROC_E_RESOURCE_EXHAUSTED;
}

static int write_unsigned(text_writer *to, uint64_t number) {
  char digits[20];
  size_t at = sizeof digits;
  do digits[--at] = (char)('0' + number % 10);
  while ((number /= 10) > 0);
  return append_text(digits + at, sizeof digits - at, to) == 0 ? PYPROC_OK : PYPROC_E_RESOURCE_EXHAUSTED;
}

static int write_json(reader *from, text_writer *to, unsigned depth);

/* The elements of an array, the pairs of a map. */
static int write_parts(reader *from, text_writer *to, const value *whole, unsigned depth) {
  bool is_map = whole->kind == VALUE_MAP;
  if (append_text(is_map ? "{" : "[", 1, to) != 0) return PYPROC_E_RESOURCE_EXHAUSTED;
  for (size_t i = 0; i < whole->size; i++) {
    int result = PYPROC_OK;
    if (i > 0 && append_text(",", 1, to) != 0) return PYPROC_E_RESOURCE_EXHAUSTED;
    if (is_map) {
      value key;
      result = read_value(from, NULL, &key);
      if (result >= 0 && (key.kind != VALUE_STRING || has_nul(&key)))
        result = wrong(from, NULL, "has a key that is no name");
      if (result >= 0) result = write_scalar(from, to, json_stringn((const char *)key.data, key.size));
      if (result >= 0 && append_text(":", 1, to) != 0) result = PYPROC_E_RESOURCE_EXHAUSTED;
    }
    if (result >= 0) result = write_json(from, to, depth + 1);
    if (result < 0) return result;
  }
  return append_text(is_map ? "}" : "]", 1, to) == 0 ? PYPROC_OK : PYPROC_E_RESOURCE_EXHAUSTED;
}

static int write_json(reader *from, text_writer *to, unsigned depth) {
  value item;
  int result = read_value(from, NULL, &item);
  if (result < 0) return result;
  switch (item.kind) {
  case VALUE_NIL:
    return write_scalar(from, to, json_null());
  case VALUE_BOOL:
    return write_scalar(from, to, json_boolean(item.number));
  case VALUE_UNSIGNED:
    return write_unsigned(to, item.number);
  case VALUE_NEGATIVE:
    return write_scalar(from, to, json_integer((json_int_t)item.number));
  case VALUE_FLOAT:
    return write_scalar(from, to, json_real(item.real));
  case VALUE_STRING:
    return write_scalar(from, to, json_stringn((const char *)item.data, item.size));
  case VALUE_BYTES:
    return wrong(from, NULL, "holds a bin, which JSON cannot");
  case VALUE_ARRAY:
  case VALUE_MAP:
    break;
  }
  return depth < PYPROC_JSON_NESTING_MAX ? write_parts(from, to, &item, depth)
                                         : wrong(from, NULL, "is nested too deep");
}

static int codec_unpack_json(const pyproc_protocol *self, const uint8_t *data, size_t size, pyproc_output *out,
                             pyproc_error **reterr) {
  if (size == 0) data = (const uint8_t *)"";
  reader from = {.at = data, .end = data + size, .root = "the value", .reterr = reterr};
  text_writer to = {.out = out, .reterr = reterr};
  (void)self;
  int result = write_json(&from, &to, 0);
  if (result >= 0 && left(&from) > 0) result = wrong(&from, NULL, "has bytes behind it");
  return result;
}

int msgpack_codec_register(pyproc_error **reterr) {
  static const pyproc_protocol codec = {.size = sizeof(pyproc_protocol),
                                        .name = "msgpack",
                                        .pack = codec_pack,
                                        .unpack = codec_unpack,
                                        .pack_json = codec_pack_json,
                                        .unpack_json = codec_unpack_json};
  return pyproc_protocol_register(&codec, reterr);
}
