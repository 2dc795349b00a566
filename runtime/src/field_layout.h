/*
 * field_layout.h - how protobuf-c lays values out in memory.
 */
#ifndef PYPROC_FIELD_LAYOUT_H
#define PYPROC_FIELD_LAYOUT_H

#include <protobuf-c/protobuf-c.h>
#include <stddef.h>

/* Bytes of one value of the type, alone or in a repeated field. */
static inline size_t field_value_size(ProtobufCType type) {
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

#endif
