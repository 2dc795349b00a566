/*
 * codec.h - what a message looks like between header and header: the built-in codecs and the registered ones, all
 * behind the struct of pyproc_protocol.h, which has the contract.
 *
 * Called by the threads that call, with no lock held, by many at once; a codec keeps no state, and knows neither calls
 * nor channels. Registered ones are not trusted: what they give is checked here.
 */
#ifndef PYPROC_CODEC_H
#define PYPROC_CODEC_H

#include "buffer.h"
#include "reply.h"

#include <pyproc.h>
#include <pyproc_generated.h>
#include <pyproc_protocol.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct codec {
  const char *name;                /* as in options.protocol and in WELCOME */
  const pyproc_protocol *protocol; /* its functions; pack_json and unpack_json where it is registered */
  const pyproc_protocol *self;     /* what they are given */
  bool envelope;                   /* calls travel as the JSON envelopes of schema/wire.md, else as REQUEST and REPLY */
  bool bare;       /* with `envelope`: without "timeout_ms", which workers of the Go library do not have */
  bool registered; /* bodies of calls by name are in its encoding, too */
};

/* What codecs are lent. */
struct pyproc_output {
  buffer *bytes;
  size_t begin; /* what was there before */
  size_t limit; /* bytes that may be appended */
};

struct pyproc_arena {
  reply_arena memory; /* begun with the first allocation */
  const void *first;  /* that allocation */
};

extern const struct codec codec_protobuf, codec_json, codec_json_bare;

/* The codec of that name, built in or registered, or NULL. codec_json_bare is not found by it. Any thread. */
const struct codec *codec_find(const char *name);

/* Appends the encoded message to `out`; on failure `out` has its old size. INVALID_ARGUMENT names the field that
 * cannot be sent: a required string or message that is NULL, NULL in a repeated field, a string that is not UTF-8,
 * a message that was not initialised. RESOURCE_EXHAUSTED: out of memory. */
int codec_pack(const struct codec *self, const pyproc_message_info *info, const ProtobufCMessage *message, buffer *out,
               pyproc_error **reterr);

/* Makes the message in a block for pyproc_reply_free, of at most `budget` bytes (RESOURCE_EXHAUSTED). DATA_LOSS where
 * the bytes, which may be NULL when there are none, are no such message; it names the field where it can. */
int codec_unpack(const struct codec *self, const pyproc_message_info *info, const uint8_t *data, size_t size,
                 size_t budget, ProtobufCMessage **ret_message, pyproc_error **reterr);

/* A registered codec: appends a JSON text, which was checked. On failure `out` has its old size. */
int codec_pack_json(const struct codec *self, const char *text, size_t size, buffer *out, pyproc_error **reterr);

/* A registered codec: makes a JSON text, for pyproc_reply_free, of at most `budget` bytes. */
int codec_unpack_json(const struct codec *self, const uint8_t *data, size_t size, size_t budget, char **ret_text,
                      pyproc_error **reterr);

/* Whether the name is that of a codec or protocol of the library. */
bool codec_is_built_in(const char *name);

/* The registered codec of that name, or NULL. */
const struct codec *codec_find_registered(const char *name);

/* Whether a message can be sent: INVALID_ARGUMENT as codec_pack. */
int codec_check_message(const pyproc_message_info *info, const ProtobufCMessage *message, pyproc_error **reterr);

#endif
