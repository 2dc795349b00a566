/* Replies in JSON: what is taken is written as valid JSON, and reads the same again. */
#include "codec.h"
#include "wire/envelope.h"

#include "fuzz_messages.h"

#include "fuzz.h"

enum { BUDGET = 1 << 20 };

/* Reads what was written and writes it again. */
static void check_again(const pyproc_message_info *info, const buffer *text) {
  ProtobufCMessage *again = NULL;
  buffer more = {0};
  FUZZ_CHECK(envelope_check_json((const char *)text->data, text->size) == NULL);
  int result = codec_unpack(&codec_json, info, text->data, text->size, BUDGET, &again, NULL);
  FUZZ_CHECK(result == PYPROC_OK || result == PYPROC_E_RESOURCE_EXHAUSTED);
  if (result < 0) return;
  FUZZ_CHECK(codec_pack(&codec_json, info, again, &more, NULL) == PYPROC_OK);
  FUZZ_CHECK(more.size == text->size && memcmp(more.data, text->data, more.size) == 0);
  buffer_free(&more);
  pyproc_reply_free(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size == 0) return 0;
  const pyproc_message_info *info = fuzz_message(data[0]);
  ProtobufCMessage *message = NULL;
  pyproc_error *error = NULL;
  int result = codec_unpack(&codec_json, info, data + 1, size - 1, BUDGET, &message, &error);
  if (result < 0) {
    FUZZ_CHECK(message == NULL && pyproc_error_code(error) == result);
    FUZZ_CHECK(result == PYPROC_E_DATA_LOSS || result == PYPROC_E_RESOURCE_EXHAUSTED);
    pyproc_error_free(error);
    return 0;
  }
  buffer text = {0};
  FUZZ_CHECK(error == NULL && message->descriptor == info->descriptor);
  result = codec_pack(&codec_json, info, message, &text, &error);
  if (result == PYPROC_OK)
    check_again(info, &text);
  else /* a reply may be nested a little deeper than a request */
    FUZZ_CHECK(strstr(pyproc_error_message(error), "nested deeper") != NULL);
  pyproc_error_free(error);
  buffer_free(&text);
  pyproc_reply_free(message);
  return 0;
}
