/*
 * codec.h - what a message looks like between header and header: the vtable over messages.
 *
 * Called by the threads that call, with no lock held, by many at once; a codec keeps no state, never blocks and knows
 * neither calls nor channels. What it packs is the caller's and trusted as far as a C program can be: that its
 * pointers are valid. What it unpacks is untrusted.
 */
#ifndef PYPROC_CODEC_H
#define PYPROC_CODEC_H

#include "buffer.h"

#include <pyproc.h>
#include <pyproc_generated.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct codec {
  const char *name; /* as in options.protocol and in WELCOME */

  /* Appends the encoded message to `out`; on failure `out` has its old size. INVALID_ARGUMENT names the field that
   * cannot be sent: a required string or message that is NULL, NULL in a repeated field, a string that is not UTF-8,
   * a message that was not initialised. RESOURCE_EXHAUSTED: out of memory. */
  int (*pack)(const pyproc_message_info *info, const ProtobufCMessage *message, buffer *out, pyproc_error **reterr);

  /* Makes the message in a block for pyproc_reply_free, of at most `budget` bytes (RESOURCE_EXHAUSTED). DATA_LOSS
   * where the bytes are no such message; it names the field where it can. */
  int (*unpack)(const pyproc_message_info *info, const uint8_t *data, size_t size, size_t budget,
                ProtobufCMessage **ret_message, pyproc_error **reterr);

  bool bare;     /* with `envelope`: without "timeout_ms", which workers of the Go library do not have */
  bool envelope; /* calls travel as the JSON envelopes of schema/wire.md, else as REQUEST and REPLY frames */
};

extern const struct codec codec_protobuf, codec_json, codec_json_bare;

/* The codec of that name, or NULL. codec_json_bare is not found by it. */
const struct codec *codec_find(const char *name);

#endif
