/*
 * frame.h - the header of a frame, byte for byte as schema/wire.md has it.
 *
 * Compiled into the library and into the worker's extension; knows neither pools nor Python.
 */
#ifndef PYPROC_WIRE_FRAME_H
#define PYPROC_WIRE_FRAME_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum {
  WIRE_VERSION = 1,
  WIRE_LENGTH_SIZE = 4,  /* the length in front of a payload */
  WIRE_HEADER_SIZE = 24, /* the header that a payload begins with, unless it begins with '{' */
  WIRE_FRAME_LIMIT_DEFAULT = 64 << 20,
  WIRE_FRAME_LIMIT_MIN = 1 << 10,
  WIRE_FRAME_LIMIT_MAX = 0x7fffffff,
  WIRE_NESTING_MAX = 100,
  WIRE_METHODS_MAX = 65536,
  WIRE_ERROR_TEXT_MAX = 64 << 10,
  WIRE_STREAM_MESSAGE_COST = 64, /* of credit, beside the message's size */
  WIRE_STREAM_WINDOW_DEFAULT = 256 << 10,
  WIRE_STREAM_WINDOW_MIN = 4 << 10,
  WIRE_STREAM_WINDOW_MAX = 1 << 30,
  WIRE_CREDIT_SIZE = 4, /* body of a CREDIT frame */
  WIRE_KIND_MAX = 0x1f  /* a first byte above this is no header */
};

typedef enum wire_kind {
  WIRE_HELLO = 1,
  WIRE_WELCOME,
  WIRE_REQUEST,
  WIRE_REPLY,
  WIRE_CANCEL,
  WIRE_PING,
  WIRE_PONG,
  WIRE_STARTED,
  WIRE_FAILED,
  WIRE_STREAM_DATA,
  WIRE_CREDIT,
  WIRE_END,
  WIRE_DRAIN,
  WIRE_GOODBYE,
  WIRE_FDS
} wire_kind;

enum { WIRE_FLAG_JSON = 1, WIRE_FLAGS_KNOWN = WIRE_FLAG_JSON };

typedef struct wire_header {
  uint8_t kind, flags;
  uint16_t code;
  uint32_t method;
  uint64_t id;
  uint32_t timeout_ms;
  uint32_t metadata_size;
} wire_header;

/* Between this machine's order of bytes and the wire's; single bytes would be put together less well by compilers. */
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define WIRE_ORDER16(value) __builtin_bswap16(value)
#define WIRE_ORDER32(value) __builtin_bswap32(value)
#define WIRE_ORDER64(value) __builtin_bswap64(value)
#else
#define WIRE_ORDER16(value) (value)
#define WIRE_ORDER32(value) (value)
#define WIRE_ORDER64(value) (value)
#endif

static inline void wire_put16(uint8_t *at, uint16_t value) {
  value = WIRE_ORDER16(value);
  memcpy(at, &value, sizeof value);
}

static inline void wire_put32(uint8_t *at, uint32_t value) {
  value = WIRE_ORDER32(value);
  memcpy(at, &value, sizeof value);
}

static inline void wire_put64(uint8_t *at, uint64_t value) {
  value = WIRE_ORDER64(value);
  memcpy(at, &value, sizeof value);
}

static inline uint16_t wire_get16(const uint8_t *at) {
  uint16_t value;
  memcpy(&value, at, sizeof value);
  return WIRE_ORDER16(value);
}

static inline uint32_t wire_get32(const uint8_t *at) {
  uint32_t value;
  memcpy(&value, at, sizeof value);
  return WIRE_ORDER32(value);
}

static inline uint64_t wire_get64(const uint8_t *at) {
  uint64_t value;
  memcpy(&value, at, sizeof value);
  return WIRE_ORDER64(value);
}

/* Writes the header at `at`, WIRE_HEADER_SIZE bytes. */
static inline void wire_header_put(uint8_t *at, const wire_header *header) {
  at[0] = header->kind;
  at[1] = header->flags;
  wire_put16(at + 2, header->code);
  wire_put32(at + 4, header->method);
  wire_put64(at + 8, header->id);
  wire_put32(at + 16, header->timeout_ms);
  wire_put32(at + 20, header->metadata_size);
}

/* Reads the header of a payload. Returns 0, or -1 when the payload is no valid one: too short, no kind, unknown
 * flags, or metadata that reaches beyond it. */
static inline int wire_header_get(const uint8_t *payload, size_t size, wire_header *ret_header) {
  if (size < WIRE_HEADER_SIZE || payload[0] == 0 || payload[0] > WIRE_KIND_MAX) return -1;
  ret_header->kind = payload[0];
  ret_header->flags = payload[1];
  ret_header->code = wire_get16(payload + 2);
  ret_header->method = wire_get32(payload + 4);
  ret_header->id = wire_get64(payload + 8);
  ret_header->timeout_ms = wire_get32(payload + 16);
  ret_header->metadata_size = wire_get32(payload + 20);
  if ((ret_header->flags & ~WIRE_FLAGS_KNOWN) != 0) return -1;
  return ret_header->metadata_size > size - WIRE_HEADER_SIZE ? -1 : 0;
}

#endif
