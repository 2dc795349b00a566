/* The messages that fuzz_reply and fuzz_json read. Those that the library carries have all that a message can have. */
#ifndef PYPROC_FUZZ_MESSAGES_H
#define PYPROC_FUZZ_MESSAGES_H

#include <google/protobuf/api.pyproc.h>
#include <google/protobuf/descriptor.pyproc.h>
#include <google/protobuf/struct.pyproc.h>
#include <google/protobuf/type.pyproc.h>
#include <google/protobuf/wrappers.pyproc.h>

/* The message that the first byte of an input chooses. */
static inline const pyproc_message_info *fuzz_message(uint8_t choice) {
  static const pyproc_message_info *const messages[] = {
      &google__protobuf__file_descriptor_proto__info,
      &google__protobuf__struct__info,
      &google__protobuf__api__info,
      &google__protobuf__type__info,
      &google__protobuf__value__info,
      &google__protobuf__double_value__info,
      &google__protobuf__bytes_value__info,
      &google__protobuf__field_options__info,
  };
  return messages[choice % (sizeof messages / sizeof *messages)];
}

#endif
