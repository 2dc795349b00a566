#include <grpc/byte_buffer_reader.h>
#include <stdlib.h>
#include <string.h>

#include "rpc.h"
#include "wire/frame.h"

enum { COPY_MAX = 4096, KEY_METHOD = 0x0a, KEY_BODY = 0x12, KEY_REPLY_BODY = 0x0a, VARINT_MAX = 10, KEY_SIZE = 1 };

static void unref_frame(void *frame) {
  frame_block_unref(frame);
}

static grpc_slice body_of(frame_block *frame) {
  uint8_t *body = frame->bytes.data + frame->body_offset;
  size_t size = frame->bytes.size - frame->body_offset;
  if (size <= COPY_MAX) return grpc_slice_from_copied_buffer((const char *)body, size);
  return grpc_slice_new_with_user_data(body, size, unref_frame, frame_block_ref(frame));
}

grpc_byte_buffer *rpc_message_new(frame_block *frame) {
  grpc_slice body = body_of(frame);
  grpc_byte_buffer *message = grpc_raw_byte_buffer_create(&body, 1);
  grpc_slice_unref(body);
  return message;
}

/* ---- the two messages of schema/pyproc/dynamic.proto ---- */

static uint8_t *put_varint(uint8_t *at, size_t value) {
  for (; value >= 0x80; value >>= 7) *at++ = (uint8_t)(value | 0x80);
  *at++ = (uint8_t)value;
  return at;
}

grpc_byte_buffer *rpc_message_new_dynamic(const char *method, frame_block *frame) {
  size_t name_size = strlen(method), body_size = frame->bytes.size - frame->body_offset;
  grpc_slice head = grpc_slice_malloc(name_size + (KEY_SIZE + VARINT_MAX) * 2);
  uint8_t *begin = GRPC_SLICE_START_PTR(head), *at = begin;
  *at++ = KEY_METHOD;
  at = put_varint(at, name_size);
  memcpy(at, method, name_size);
  at += name_size;
  *at++ = KEY_BODY;
  at = put_varint(at, body_size);
  grpc_slice parts[] = {grpc_slice_sub(head, 0, (size_t)(at - begin)), body_of(frame)};
  grpc_byte_buffer *message = grpc_raw_byte_buffer_create(parts, 2);
  grpc_slice_unref(head);
  grpc_slice_unref(parts[0]);
  grpc_slice_unref(parts[1]);
  return message;
}

/* False: there is none, or it is too long. */
static bool take_varint(const uint8_t **at, const uint8_t *end, uint64_t *ret_value) {
  *ret_value = 0;
  for (unsigned shift = 0; *at < end && shift < 64; shift += 7) {
    uint8_t byte = *(*at)++;
    *ret_value |= (uint64_t)(byte & 0x7f) << shift;
    if (byte < 0x80) return true;
  }
  return false;
}

/* Passes a field by whose key was just read; of one with a length *ret_data has its bytes. */
static bool pass_field(const uint8_t **at, const uint8_t *end, uint64_t key, const uint8_t **ret_data,
                       size_t *ret_size) {
  uint64_t size = 0;
  switch (key & 7) {
  case 0:
    return take_varint(at, end, &size);
  case 1:
    size = 8;
    break;
  case 2:
    if (!take_varint(at, end, &size)) return false;
    break;
  case 5:
    size = 4;
    break;
  default:
    return false;
  }
  if (size > (uint64_t)(end - *at)) return false;
  *ret_data = *at;
  *ret_size = (size_t)size;
  *at += size;
  return true;
}

bool rpc_message_dynamic_body(const uint8_t *bytes, size_t size, const uint8_t **ret_body, size_t *ret_body_size) {
  const uint8_t *at = bytes, *end = bytes + size, *data = NULL;
  size_t data_size = 0;
  *ret_body = bytes;
  *ret_body_size = 0;
  while (at < end) {
    uint64_t key;
    if (!take_varint(&at, end, &key) || !pass_field(&at, end, key, &data, &data_size)) return false;
    if (key != KEY_REPLY_BODY) continue;
    *ret_body = data;
    *ret_body_size = data_size;
  }
  return true;
}

uint8_t *rpc_message_bytes(grpc_byte_buffer *message, size_t front, uint8_t *small, size_t small_size,
                           size_t *ret_size) {
  grpc_byte_buffer_reader reader;
  grpc_slice part;
  if (!grpc_byte_buffer_reader_init(&reader, message)) return NULL;
  size_t size = grpc_byte_buffer_length(reader.buffer_out), at = 0;
  uint8_t *block =
      small != NULL && front + size <= small_size ? small : malloc(front + size + 1); /* never of 0 bytes */
  while (block != NULL && grpc_byte_buffer_reader_next(&reader, &part)) {
    size_t more = GRPC_SLICE_LENGTH(part);
    if (more <= size - at) memcpy(block + front + at, GRPC_SLICE_START_PTR(part), more);
    at += more;
    grpc_slice_unref(part);
  }
  grpc_byte_buffer_reader_destroy(&reader);
  *ret_size = size;
  return block;
}
