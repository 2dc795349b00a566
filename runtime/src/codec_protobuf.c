#include "codec.h"

#include "error.h"
#include "field_path.h"
#include "reply.h"
#include "wire/envelope.h"
#include "wire/frame.h"

#include <string.h>

/* A walk over a message that is to be sent, which finds what protobuf-c would send wrongly or crash on. */
typedef struct checker {
  const char *name; /* of the message that is sent */
  pyproc_error **reterr;
} checker;

static int check_message(const checker *check, const ProtobufCMessageDescriptor *descriptor,
                         const ProtobufCMessage *message, const field_path *path, size_t depth);

/* Checks what a string, bytes or message field holds at `value`. */
static int check_value(const checker *check, const ProtobufCFieldDescriptor *field, const void *value,
                       const field_path *path, size_t depth) {
  if (field->type == PROTOBUF_C_TYPE_BYTES) {
    const ProtobufCBinaryData *bytes = value;
    if (bytes->len == 0 || bytes->data != NULL) return PYPROC_OK;
    return field_path_error(check->reterr, PYPROC_E_INVALID_ARGUMENT, check->name, path, "%zu bytes at NULL",
                            bytes->len);
  }
  const void *pointer = *(const void *const *)value;
  if (pointer == NULL) {
    const char *why = field->label == PROTOBUF_C_LABEL_REPEATED   ? "is NULL"
                      : field->label == PROTOBUF_C_LABEL_REQUIRED ? "is required, but NULL"
                                                                  : "is the selected one, but NULL";
    return field_path_error(check->reterr, PYPROC_E_INVALID_ARGUMENT, check->name, path, "%s", why);
  }
  if (field->type == PROTOBUF_C_TYPE_MESSAGE) return check_message(check, field->descriptor, pointer, path, depth + 1);
  if (envelope_is_utf8(pointer, strlen(pointer))) return PYPROC_OK;
  return field_path_error(check->reterr, PYPROC_E_INVALID_ARGUMENT, check->name, path, "the string is not valid UTF-8");
}

static int check_repeated(const checker *check, const ProtobufCFieldDescriptor *field, const char *members,
                          field_path *path, size_t depth) {
  size_t count = *(const size_t *)(const void *)(members + field->quantifier_offset);
  const char *array = *(const char *const *)(const void *)(members + field->offset);
  if (count == 0) return PYPROC_OK;
  if (array == NULL)
    return field_path_error(check->reterr, PYPROC_E_INVALID_ARGUMENT, check->name, path, "%zu elements at NULL", count);
  if (field->type < PROTOBUF_C_TYPE_STRING) return PYPROC_OK;
  size_t step = field->type == PROTOBUF_C_TYPE_BYTES ? sizeof(ProtobufCBinaryData) : sizeof(void *);
  int result = PYPROC_OK;
  for (path->index = 0; path->index < count && result == PYPROC_OK; path->index++)
    result = check_value(check, field, array + path->index * step, path, depth);
  return result;
}

/* Whether a singular field of a pointer or bytes is sent. */
static bool is_sent(const ProtobufCFieldDescriptor *field, const char *members) {
  if ((field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) != 0)
    return *(const uint32_t *)(const void *)(members + field->quantifier_offset) == field->id;
  if (field->label == PROTOBUF_C_LABEL_REQUIRED) return true;
  if (field->type != PROTOBUF_C_TYPE_BYTES)
    return *(const void *const *)(const void *)(members + field->offset) != NULL;
  return field->label == PROTOBUF_C_LABEL_NONE ||
         *(const protobuf_c_boolean *)(const void *)(members + field->quantifier_offset) != 0;
}

static int check_message(const checker *check, const ProtobufCMessageDescriptor *descriptor,
                         const ProtobufCMessage *message, const field_path *path, size_t depth) {
  if (message->descriptor != descriptor)
    return field_path_error(check->reterr, PYPROC_E_INVALID_ARGUMENT, check->name, path,
                            "is not initialised as %s (begin with its ..._INIT)",
                            descriptor->name == NULL ? "its type" : descriptor->name);
  if (depth > WIRE_NESTING_MAX)
    return field_path_error(check->reterr, PYPROC_E_INVALID_ARGUMENT, check->name, NULL,
                            "messages are nested deeper than %d", WIRE_NESTING_MAX);
  const char *members = (const char *)message;
  for (unsigned i = 0; i < descriptor->n_fields; i++) {
    const ProtobufCFieldDescriptor *field = &descriptor->fields[i];
    bool repeated = field->label == PROTOBUF_C_LABEL_REPEATED;
    if (!repeated && (field->type < PROTOBUF_C_TYPE_STRING || !is_sent(field, members))) continue;
    field_path step = {path, field->name, FIELD_PATH_NO_INDEX};
    int result = repeated ? check_repeated(check, field, members, &step, depth)
                          : check_value(check, field, members + field->offset, &step, depth);
    if (result != PYPROC_OK) return result;
  }
  return PYPROC_OK;
}

int codec_check_message(const pyproc_message_info *info, const ProtobufCMessage *message, pyproc_error **reterr) {
  checker check = {info->name, reterr};
  return check_message(&check, info->descriptor, message, NULL, 1);
}

static int protobuf_pack(const pyproc_protocol *self, const pyproc_message_info *info, const ProtobufCMessage *message,
                         pyproc_output *output, pyproc_error **reterr) {
  (void)self;
  buffer *out = output->bytes;
  size_t size = protobuf_c_message_get_packed_size(message);
  if (!buffer_reserve(out, size))
    return error_set(reterr, PYPROC_E_RESOURCE_EXHAUSTED, "%s: no memory for a message of %zu bytes", info->name, size);
  if (size > 0) out->size += protobuf_c_message_pack(message, out->data + out->size);
  return PYPROC_OK;
}

static int protobuf_unpack(const pyproc_protocol *self, const pyproc_message_info *info, const uint8_t *data,
                           size_t size, pyproc_arena *arena, ProtobufCMessage **ret_message, pyproc_error **reterr) {
  (void)self;
  return reply_unpack_into(info->descriptor, data, size, &arena->memory, ret_message, reterr);
}

static const pyproc_protocol protobuf = {
    .size = sizeof(pyproc_protocol), .name = "protobuf", .pack = protobuf_pack, .unpack = protobuf_unpack};

const struct codec codec_protobuf = {.name = "protobuf", .protocol = &protobuf, .self = &protobuf};
