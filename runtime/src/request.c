#include "request.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "error.h"
#include "metadata.h"
#include "wire/envelope.h"
#include "wire/frame.h"

/* Digits that are filled in later, in front of which blanks are allowed. */
#define ID_BLANKS "                "
#define TIMEOUT_BLANKS "          "
enum { ID_DIGITS = sizeof ID_BLANKS - 1, TIMEOUT_DIGITS = sizeof TIMEOUT_BLANKS - 1 };

static int no_memory(pyproc_error **reterr) {
  return error_set(reterr, PYPROC_E_RESOURCE_EXHAUSTED, "out of memory");
}

static bool begin_envelope(frame_block *frame, const char *method, bool is_bare) {
  static const char head[] = "{\"id\":" ID_BLANKS ",\"timeout_ms\":" TIMEOUT_BLANKS ",\"method\":\"";
  static const char bare_head[] = "{\"id\":" ID_BLANKS ",\"method\":\"";
  size_t size = strlen(method), escaped = envelope_escaped_size(method, size);
  buffer *bytes = &frame->bytes;
  if (!buffer_reserve(bytes, WIRE_LENGTH_SIZE + sizeof head + escaped + 16)) return false;
  bytes->size = WIRE_LENGTH_SIZE;
  frame->id_offset = bytes->size + 6;
  frame->has_timeout = !is_bare;
  buffer_append_text(bytes, is_bare ? bare_head : head);
  char *end = envelope_escape((char *)bytes->data + bytes->size, method, size);
  bytes->size = (size_t)(end - (char *)bytes->data);
  return buffer_append_text(bytes, "\",\"body\":");
}

static int begin_header(frame_block *frame, uint8_t kind, const pyproc_call_options *options, pyproc_error **reterr) {
  enum { BEGIN = WIRE_LENGTH_SIZE + WIRE_HEADER_SIZE };
  wire_header header = {.kind = kind, .flags = frame->encoding == CALL_BODY_JSON ? WIRE_FLAG_JSON : 0};
  if (!buffer_reserve(&frame->bytes, BEGIN + 64)) return no_memory(reterr);
  frame->bytes.size = BEGIN;
  if (options != NULL && options->metadata_count > 0) {
    int result = metadata_encode(options->metadata, options->metadata_count, &frame->bytes, reterr);
    if (result < 0) return result;
    header.metadata_size = (uint32_t)(frame->bytes.size - BEGIN);
  }
  wire_header_put(frame->bytes.data + WIRE_LENGTH_SIZE, &header);
  return PYPROC_OK;
}

/* Begins a frame, up to where the body goes. */
static int begin(const struct codec *codec, call_encoding encoding, uint8_t kind, const char *method,
                 const pyproc_call_options *options, frame_block **ret_frame, pyproc_error **reterr) {
  bool has_metadata = options != NULL && options->metadata_count > 0;
  if (has_metadata && codec->bare)
    return error_set(reterr, PYPROC_E_UNIMPLEMENTED, "%s: a worker without a handshake takes no metadata", method);
  if (has_metadata && encoding == CALL_BODY_ENVELOPE) encoding = CALL_BODY_JSON;
  frame_block *frame = frame_block_new(encoding);
  if (frame == NULL) return no_memory(reterr);
  int result;
  if (encoding == CALL_BODY_ENVELOPE)
    result = begin_envelope(frame, method, codec->bare) ? PYPROC_OK : no_memory(reterr);
  else
    result = begin_header(frame, kind, options, reterr);
  if (result < 0) {
    frame_block_unref(frame);
    return result;
  }
  frame->body_offset = frame->bytes.size;
  *ret_frame = frame;
  return PYPROC_OK;
}

/* Ends the envelope, where it is one, and hands the frame over. */
static int end(frame_block *frame, frame_block **ret_frame, pyproc_error **reterr) {
  if (frame->encoding == CALL_BODY_ENVELOPE && !buffer_append_text(&frame->bytes, "}")) {
    frame_block_unref(frame);
    return no_memory(reterr);
  }
  *ret_frame = frame;
  return PYPROC_OK;
}

int request_encode_message(const struct codec *codec, const pyproc_method *method, const ProtobufCMessage *message,
                           const pyproc_call_options *options, frame_block **ret_frame, pyproc_error **reterr) {
  frame_block *frame;
  int result = begin(codec, codec->envelope ? CALL_BODY_ENVELOPE : CALL_BODY_CODEC, WIRE_REQUEST, method->name, options,
                     &frame, reterr);
  if (result < 0) return result;
  result = codec_pack(codec, method->request, message, &frame->bytes, reterr);
  if (result >= 0) return end(frame, ret_frame, reterr);
  frame_block_unref(frame);
  return result;
}

static int pack_json(const struct codec *codec, const char *method, const char *body, size_t size, buffer *out,
                     pyproc_error **reterr) {
  pyproc_error *error = NULL;
  if (codec_pack_json(codec, body, size, out, &error) >= 0) return PYPROC_OK;
  error_prefix(error, "the body of %s: ", method);
  return error_give(reterr, error);
}

int request_encode_json(const struct codec *codec, const char *method, const char *body,
                        const pyproc_call_options *options, frame_block **ret_frame, pyproc_error **reterr) {
  size_t size = strlen(body);
  if (!envelope_is_utf8(method, strlen(method)))
    return error_set(reterr, PYPROC_E_INVALID_ARGUMENT, "the method's name is not UTF-8");
  const char *wrong = envelope_check_body(body, size);
  if (wrong != NULL) return error_set(reterr, PYPROC_E_INVALID_ARGUMENT, "the body of %s: %s", method, wrong);
  call_encoding encoding = codec->envelope ? CALL_BODY_ENVELOPE : CALL_BODY_JSON;
  if (codec->registered && strchr(method, '/') == NULL) encoding = CALL_BODY_CODEC;
  frame_block *frame;
  int result = begin(codec, encoding, WIRE_REQUEST, method, options, &frame, reterr);
  if (result < 0) return result;
  result = encoding == CALL_BODY_CODEC                ? pack_json(codec, method, body, size, &frame->bytes, reterr)
           : buffer_append(&frame->bytes, body, size) ? PYPROC_OK
                                                      : no_memory(reterr);
  if (result >= 0) return end(frame, ret_frame, reterr);
  frame_block_unref(frame);
  return result;
}

/* Frames of streams are never envelopes. */
static int encode_for_stream(const struct codec *codec, uint8_t kind, const pyproc_method *method,
                             const ProtobufCMessage *message, const pyproc_call_options *options,
                             frame_block **ret_frame, pyproc_error **reterr) {
  frame_block *frame;
  int result =
      begin(codec, codec->envelope ? CALL_BODY_JSON : CALL_BODY_CODEC, kind, method->name, options, &frame, reterr);
  if (result < 0) return result;
  result = message != NULL ? codec_pack(codec, method->request, message, &frame->bytes, reterr) : PYPROC_OK;
  if (result < 0) {
    frame_block_unref(frame);
    return result;
  }
  wire_put32(frame->bytes.data, (uint32_t)(frame->bytes.size - WIRE_LENGTH_SIZE));
  *ret_frame = frame;
  return PYPROC_OK;
}

int request_encode_stream(const struct codec *codec, const pyproc_method *method, const ProtobufCMessage *message,
                          const pyproc_call_options *options, frame_block **ret_frame, pyproc_error **reterr) {
  return encode_for_stream(codec, WIRE_REQUEST, method, message, options, ret_frame, reterr);
}

int request_encode_stream_message(const struct codec *codec, const pyproc_method *method,
                                  const ProtobufCMessage *message, frame_block **ret_frame, pyproc_error **reterr) {
  return encode_for_stream(codec, WIRE_STREAM_DATA, method, message, NULL, ret_frame, reterr);
}

/* Writes the digits right-aligned into the blanks. */
static void fill_in(uint8_t *at, int digits, uint64_t value) {
  memset(at, ' ', (size_t)digits);
  do at[--digits] = (uint8_t)('0' + value % 10);
  while ((value /= 10) > 0 && digits > 0);
}

void request_complete(frame_block *frame, uint64_t id, uint32_t method_index, int64_t timeout_ms) {
  uint8_t *payload = frame->bytes.data + WIRE_LENGTH_SIZE;
  uint32_t timeout = timeout_ms > UINT32_MAX ? UINT32_MAX : (uint32_t)timeout_ms;
  wire_put32(frame->bytes.data, (uint32_t)(frame->bytes.size - WIRE_LENGTH_SIZE));
  if (frame->encoding == CALL_BODY_ENVELOPE) {
    uint8_t *id_at = frame->bytes.data + frame->id_offset;
    fill_in(id_at, ID_DIGITS, id);
    if (frame->has_timeout) fill_in(id_at + ID_DIGITS + sizeof ",\"timeout_ms\":" - 1, TIMEOUT_DIGITS, timeout);
    return;
  }
  wire_put32(payload + 4, method_index);
  wire_put64(payload + 8, id);
  wire_put32(payload + 16, timeout);
}
