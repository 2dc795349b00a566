/*
 * json_message.h - protobuf's JSON mapping (https://protobuf.dev/programming-guides/json/) of protobuf-c messages.
 *
 * Walks protobuf-c's descriptors and the side tables of pyproc_generated.h; writes straight into a buffer, reads
 * straight from the text. Lenient where replies of a newer schema must stay readable: members and enumerators that
 * are not known are ignored. Of members that stand twice the last counts. Keeps no state; any thread.
 */
#ifndef PYPROC_JSON_MESSAGE_H
#define PYPROC_JSON_MESSAGE_H

#include "buffer.h"
#include "reply.h"

#include <pyproc.h>
#include <pyproc_generated.h>
#include <stddef.h>

/* Appends the message as JSON text; on failure `out` has its old size. See codec_pack. */
int json_message_pack(const pyproc_message_info *info, const ProtobufCMessage *message, buffer *out,
                      pyproc_error **reterr);

/* Makes the message of a JSON text (UTF-8, untrusted) in an arena that has a budget and is not begun; on failure it is as
 * it was. See codec_unpack. */
int json_message_unpack(const pyproc_message_info *info, const char *text, size_t size, reply_arena *arena,
                        ProtobufCMessage **ret_message, pyproc_error **reterr);

/* Makes a message one with nothing set; protobuf_c_message_init cannot where the generated code has no function for
 * it. */
void json_message_init(const ProtobufCMessageDescriptor *descriptor, ProtobufCMessage *message);

#endif
