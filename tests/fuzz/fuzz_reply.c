/* Replies in the protobuf encoding: what is taken can be sent again, and comes back. */
#include "codec.h"

#include "fuzz_messages.h"

#include "fuzz.h"

enum { BUDGET = 1 << 20 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size == 0) return 0;
  const pyproc_message_info *info = fuzz_message(data[0]);
  ProtobufCMessage *message = NULL, *again = NULL;
  pyproc_error *error = NULL;
  int result = codec_unpack(&codec_protobuf, info, data + 1, size - 1, BUDGET, &message, &error);
  if (result < 0) {
    FUZZ_CHECK(message == NULL && pyproc_error_code(error) == result);
    FUZZ_CHECK(result == PYPROC_E_DATA_LOSS || result == PYPROC_E_RESOURCE_EXHAUSTED);
    pyproc_error_free(error);
    return 0;
  }
  buffer bytes = {0};
  FUZZ_CHECK(error == NULL && message->descriptor == info->descriptor);
  FUZZ_CHECK(codec_pack(&codec_protobuf, info, message, &bytes, NULL) == PYPROC_OK);
  result = codec_unpack(&codec_protobuf, info, bytes.data, bytes.size, BUDGET, &again, NULL);
  FUZZ_CHECK(result == PYPROC_OK || result == PYPROC_E_RESOURCE_EXHAUSTED);
  if (result == PYPROC_OK) {
    buffer more = {0};
    FUZZ_CHECK(codec_pack(&codec_protobuf, info, again, &more, NULL) == PYPROC_OK);
    FUZZ_CHECK(more.size == bytes.size && (more.size == 0 || memcmp(more.data, bytes.data, more.size) == 0));
    buffer_free(&more);
    pyproc_reply_free(again);
  }
  buffer_free(&bytes);
  pyproc_reply_free(message);
  return 0;
}
