#include "codec.h"

#include "json_message.h"

static int json_pack(const pyproc_protocol *self, const pyproc_message_info *info, const ProtobufCMessage *message,
                     pyproc_output *out, pyproc_error **reterr) {
  (void)self;
  return json_message_pack(info, message, out->bytes, reterr);
}

static int json_unpack(const pyproc_protocol *self, const pyproc_message_info *info, const uint8_t *data, size_t size,
                       pyproc_arena *arena, ProtobufCMessage **ret_message, pyproc_error **reterr) {
  (void)self;
  return json_message_unpack(info, (const char *)data, size, &arena->memory, ret_message, reterr);
}

static const pyproc_protocol json = {
    .size = sizeof(pyproc_protocol), .name = "json", .pack = json_pack, .unpack = json_unpack};

const struct codec codec_json = {.name = "json", .protocol = &json, .self = &json, .envelope = true};

const struct codec codec_json_bare = {.name = "json", .protocol = &json, .self = &json, .envelope = true, .bare = true};
