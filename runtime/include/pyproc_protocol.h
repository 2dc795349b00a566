/*
 * pyproc_protocol.h - codecs of a program's own: how messages look on the way to a worker and back.
 *
 * CONTENTS
 *   What a codec is, Life, Who calls what, What is trusted, Errors, Python's side; then the struct, the registration, and
 *   what the library lends to codecs. Programs that use "protobuf" or "json" need nothing of this.
 *
 * WHAT A CODEC IS
 *   An encoding of bodies: a typed message to bytes and back, and a JSON text, the body of a call by name, to bytes and
 *   back. Everything else stays the library's: which bytes belong to which call, streams and their flow control,
 *   deadlines, cancels, metadata, errors. Bodies travel in the same frames as those of "protobuf", which with "json" is
 *   a codec behind this very struct.
 *
 * LIFE
 *   pyproc_protocol_register makes a codec known to the process for good. Pools that are opened afterwards with its
 *   name as options.protocol use it:
 *
 * ```c
 * #include <pyproc_protocol.h>
 * #include <string.h>
 *
 * // Protobuf's encoding, upside down.
 * static void turn(uint8_t *data, size_t size) {
 *   for (size_t i = 0; i < size; i++) data[i] = (uint8_t)~data[i];
 * }
 *
 * static void turn_output(pyproc_output *out) {
 *   size_t size = 0;
 *   uint8_t *data = pyproc_output_data(out, &size);
 *   turn(data, size);
 * }
 *
 * static int turned_pack(const pyproc_protocol *self, const pyproc_message_info *info, const ProtobufCMessage *message,
 *                        pyproc_output *out, pyproc_error **reterr) {
 *   (void)self;
 *   int result = pyproc_protobuf_pack(info, message, out, reterr);
 *   if (result >= 0) turn_output(out);
 *   return result;
 * }
 *
 * static int turned_unpack(const pyproc_protocol *self, const pyproc_message_info *info, const uint8_t *data,
 *                          size_t size, pyproc_arena *arena, ProtobufCMessage **ret_message, pyproc_error **reterr) {
 *   (void)self;
 *   uint8_t *copy = (uint8_t *)malloc(size + 1);
 *   if (copy == NULL) return pyproc_protocol_error(reterr, PYPROC_E_RESOURCE_EXHAUSTED, info->name, NULL, "no memory");
 *   if (size > 0) memcpy(copy, data, size);
 *   turn(copy, size);
 *   int result = pyproc_protobuf_unpack(info, copy, size, arena, ret_message, reterr);
 *   free(copy);
 *   return result;
 * }
 *
 * static int turned_json(const pyproc_protocol *self, const uint8_t *data, size_t size, pyproc_output *out,
 *                        pyproc_error **reterr) {
 *   (void)self;
 *   int result = pyproc_output_append(out, data, size, reterr);
 *   if (result >= 0) turn_output(out);
 *   return result;
 * }
 *
 * int main(void) {
 *   static pyproc_protocol turned = PYPROC_PROTOCOL_INIT;
 *   turned.name = "turned";
 *   turned.pack = turned_pack;
 *   turned.unpack = turned_unpack;
 *   turned.pack_json = turned_json;
 *   turned.unpack_json = turned_json;
 *   if (pyproc_protocol_register(&turned, NULL) < 0) return 1;
 *   pyproc_pool_options options = PYPROC_POOL_OPTIONS_INIT;
 *   options.script = "gen/worker.py";
 *   options.protocol = "turned";
 *   pyproc_pool *pool = NULL;
 *   if (pyproc_pool_open(&options, &pool, NULL) < 0) return 1;
 *   pyproc_pool_close(pool);
 *   return 0;
 * }
 * ```
 *
 * WHO CALLS WHAT
 *   The library calls the four functions on the threads that call it: pack where a request or a stream's message is
 *   sent, unpack where a reply or a stream's message is taken (also in pyproc_pool_dispatch and the finish of a future).
 *   Many threads may be in the same function at once, no lock is held, and the supervisor is never in one. A function
 *   holds up its own call and nothing else: it may be slow and may block, though no deadline or token ends it. It must
 *   not call a function that takes a pool, must return (no longjmp, no exception), and must keep none of its arguments.
 *   After a fork they may be called in the child for pools that it opened.
 *
 * WHAT IS TRUSTED
 *   What is packed was checked by the library: a message and all within it have their descriptors, no required or
 *   repeated pointer in it is NULL, strings are UTF-8, messages are nested at most PYPROC_NESTING_MAX deep; a JSON text
 *   is one value, UTF-8, nested at most PYPROC_JSON_NESTING_MAX deep.
 *   What is unpacked comes from another process and may be anything, up to frame_limit_bytes of it. An unpack
 *   function must check each length against what is left, bound its recursion, and take memory from what the library
 *   lends, which ends at a budget (8 times frame_limit_bytes). Strings must be UTF-8 without NUL (pyproc_is_utf8); a
 *   required field that is missing is to be refused. Fields and enumerators that this schema does not know should be
 *   skipped: the worker's schema may be newer.
 *   The library does not trust the codec's results either: unpack that succeeds with no message or with one that is
 *   not in order, unpack_json that gives no JSON, and failures without an error are INTERNAL, naming the codec.
 *
 * ERRORS
 *   Each function returns 0, or a PYPROC_E* with *reterr set by pyproc_protocol_error; `reterr` is never NULL here. By
 *   custom: INVALID_ARGUMENT, what is packed has no form in this encoding; DATA_LOSS, what is unpacked is no such
 *   message or value; RESOURCE_EXHAUSTED, out of memory or budget. What was appended to an output by a function
 *   that then fails is taken back.
 *
 * PYTHON'S SIDE
 *   The worker's script registers the same name, pyproc_worker.register_codec(name, pack=…, unpack=…, dumps=…, loads=…),
 *   before it serves. Opening a pool whose worker has not is FAILED_PRECONDITION.
 *
 * The header is C11 and C++17. PYPROC_PROTOCOL_INIT works as the other _INIT of pyproc.h; a program that lays its codec
 * out as a constant sets `size` itself.
 */
#ifndef PYPROC_PROTOCOL_H
#define PYPROC_PROTOCOL_H

#include <pyproc.h>
#include <pyproc_generated.h>
#include <stdlib.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#pragma GCC visibility push(default)
#define PYPROC_PRINTF_(format_index) __attribute__((format(printf, format_index, (format_index) + 1)))
#else
#define PYPROC_PRINTF_(format_index)
#endif

/* Codecs that a process can register, and characters in a name. */
#define PYPROC_PROTOCOLS_MAX 32
#define PYPROC_PROTOCOL_NAME_MAX 32

/* How deep messages, and the values of a JSON text, may be nested. */
#define PYPROC_NESTING_MAX 100
#define PYPROC_JSON_NESTING_MAX 98

/* Bytes under construction. The library makes and frees it; a codec only appends. */
typedef struct pyproc_output pyproc_output;

/* Memory of a reply under construction. The library makes it, and frees it where unpack fails. */
typedef struct pyproc_arena pyproc_arena;

/* Where in a message a walk is, for errors ("items[3].name"): one step for each level, on the walk's own stack. */
typedef struct pyproc_field_path {
  const struct pyproc_field_path *parent; /* NULL at the message that the walk began with */
  const char *name;                       /* of the field */
  size_t index;                           /* of the element; PYPROC_NO_INDEX where the field is not repeated */
} pyproc_field_path;

/* As pyproc_field_path.index: the field is not repeated. */
#define PYPROC_NO_INDEX SIZE_MAX

typedef struct pyproc_protocol pyproc_protocol;

/* A codec. `self` of each function is the struct that was registered, so that a program may embed it in a larger one.
 * All members are required. */
struct pyproc_protocol {
  size_t size; /* sizeof(pyproc_protocol) */

  /* As options.protocol and in the worker: [a-z][a-z0-9_]*, at most PYPROC_PROTOCOL_NAME_MAX characters. */
  const char *name;

  /* Appends the message to `out`. `info` tells what protobuf-c's descriptor (info->descriptor) does not: names of
   * fields, maps, proto3's `optional`, well-known types. Fields of protobuf-c's layout: see <protobuf-c/protobuf-c.h>. */
  int (*pack)(const pyproc_protocol *self, const pyproc_message_info *info, const ProtobufCMessage *message,
              pyproc_output *out, pyproc_error **reterr);

  /* Makes the message of `size` bytes at `data`, which may be NULL where there are none. The message and all that it
   * points to must come from `arena`, *ret_message first of all. Static data, such as protobuf_c_empty_string and the
   * descriptors' default values, may be pointed to as well. */
  int (*unpack)(const pyproc_protocol *self, const pyproc_message_info *info, const uint8_t *data, size_t size,
                pyproc_arena *arena, ProtobufCMessage **ret_message, pyproc_error **reterr);

  /* Appends a JSON text (not NUL-terminated) in this encoding, for a call by name. */
  int (*pack_json)(const pyproc_protocol *self, const uint8_t *text, size_t size, pyproc_output *out,
                   pyproc_error **reterr);

  /* Appends the JSON text of `size` bytes at `data` in this encoding. */
  int (*unpack_json)(const pyproc_protocol *self, const uint8_t *data, size_t size, pyproc_output *out,
                     pyproc_error **reterr);
};

/* Initialises a pyproc_protocol: nothing but its size. */
#define PYPROC_PROTOCOL_INIT PYPROC_INIT_(pyproc_protocol)
PYPROC_DEFINE_INIT_(pyproc_protocol)

/*
 * Makes a codec known by its name, for pools that are opened afterwards. `protocol` must stay where and as it is until
 * the process ends; there is no way to take it back. Any thread.
 *
 * Errors: INVALID_ARGUMENT: a name of another form, or a member that is missing; ALREADY_EXISTS: "protobuf", "json",
 * "grpc", or a name that was registered before, by the same codec too; RESOURCE_EXHAUSTED: there are
 * PYPROC_PROTOCOLS_MAX.
 */
int pyproc_protocol_register(const pyproc_protocol *protocol, pyproc_error **reterr);

/* ---- for codecs ---- */

/*
 * What follows is for the four functions above, on the thread that is in one, with the arguments that it was given. The
 * functions that can fail return 0, or a negative PYPROC_E* (or NULL) with *reterr set, which the codec passes on.
 */

/* Appends `size` bytes. RESOURCE_EXHAUSTED: out of memory, or above the budget. */
int pyproc_output_append(pyproc_output *out, const void *data, size_t size, pyproc_error **reterr);

/* Appends `size` bytes that the caller then fills in: valid until the next append. NULL: RESOURCE_EXHAUSTED. */
uint8_t *pyproc_output_extend(pyproc_output *out, size_t size, pyproc_error **reterr);

/* What this codec has appended so far, *ret_size bytes, to be changed in place: valid until the next append. */
uint8_t *pyproc_output_data(pyproc_output *out, size_t *ret_size);

/* Memory for the message under construction, aligned for anything and not cleared. Freed with the message. NULL:
 * RESOURCE_EXHAUSTED, out of memory or above the budget. Check lengths against the bytes that are there before asking:
 * the budget is large. */
void *pyproc_arena_alloc(pyproc_arena *arena, size_t size, pyproc_error **reterr);

/* A message of that type with nothing set and all defaults in place. NULL: RESOURCE_EXHAUSTED. */
ProtobufCMessage *pyproc_arena_message(pyproc_arena *arena, const pyproc_message_info *info, pyproc_error **reterr);

/* The built-in codec "protobuf", for codecs that compress, sign or encrypt its bytes. */
int pyproc_protobuf_pack(const pyproc_message_info *info, const ProtobufCMessage *message, pyproc_output *out,
                         pyproc_error **reterr);
int pyproc_protobuf_unpack(const pyproc_message_info *info, const uint8_t *data, size_t size, pyproc_arena *arena,
                           ProtobufCMessage **ret_message, pyproc_error **reterr);

/* 1 when `size` bytes are valid UTF-8, else 0. NUL is valid there, but not in a string of protobuf-c. */
int pyproc_is_utf8(const char *text, size_t size);

/* Sets *reterr (which may be NULL) to an error "MESSAGE: field \"PATH\": TEXT", without what is NULL, and returns
 * `code`, a PYPROC_E*. `message` is a message's full name (info->name); `format` as for printf, cut at 511 bytes. */
int pyproc_protocol_error(pyproc_error **reterr, int code, const char *message, const pyproc_field_path *path,
                          const char *format, ...) PYPROC_PRINTF_(5);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif

#ifdef __cplusplus
}
#endif
#endif
