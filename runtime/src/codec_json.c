#include "codec.h"

#include "json_message.h"

static int json_unpack(const pyproc_message_info *info, const uint8_t *data, size_t size, size_t budget,
                       ProtobufCMessage **ret_message, pyproc_error **reterr) {
  return json_message_unpack(info, (const char *)data, size, budget, ret_message, reterr);
}

const struct codec codec_json = {.name = "json", .pack = json_message_pack, .unpack = json_unpack, .envelope = true};

const struct codec codec_json_bare = {
    .name = "json", .pack = json_message_pack, .unpack = json_unpack, .envelope = true, .bare = true};
