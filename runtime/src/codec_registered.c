/*
 * codec_registered.c - the codecs that programs register, and what the library lends to them.
 */
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "codec.h"
#include "error.h"
#include "field_path.h"
#include "json_message.h"
#include "options.h"
#include "wire/envelope.h"
#include "wire/frame.h"

_Static_assert(PYPROC_NESTING_MAX == WIRE_NESTING_MAX, "the header says what the wire allows");
_Static_assert(PYPROC_JSON_NESTING_MAX == WIRE_NESTING_MAX - ENVELOPE_LEVELS, "the header says what the wire allows");

/* ---- the registry: grows only, so that what codec_find_registered gave stays ---- */

typedef struct entry {
  struct codec codec;
  pyproc_protocol protocol; /* a copy, of the size that this library knows */
  char name[PYPROC_PROTOCOL_NAME_MAX + 1];
} entry;

static pthread_mutex_t registry_lock = PTHREAD_MUTEX_INITIALIZER;
static entry entries[PYPROC_PROTOCOLS_MAX];
static size_t entry_count;

/* The lock is held. */
static const struct codec *find(const char *name) {
  for (size_t i = 0; i < entry_count; i++)
    if (strcmp(entries[i].name, name) == 0) return &entries[i].codec;
  return NULL;
}

const struct codec *codec_find_registered(const char *name) {
  pthread_mutex_lock(&registry_lock);
  const struct codec *found = find(name);
  pthread_mutex_unlock(&registry_lock);
  return found;
}

static bool is_name(const char *name) {
  size_t size = strnlen(name, PYPROC_PROTOCOL_NAME_MAX + 1);
  return size > 0 && size <= PYPROC_PROTOCOL_NAME_MAX &&
         strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_") == size && name[0] >= 'a';
}

static int check(const pyproc_protocol *given, pyproc_error **reterr) {
  const struct {
    const char *name;
    bool is_set;
  } members[] = {
      {"pack", given->pack != NULL},
      {"unpack", given->unpack != NULL},
      {"pack_json", given->pack_json != NULL},
      {"unpack_json", given->unpack_json != NULL},
  };
  if (given->name == NULL || !is_name(given->name))
    return error_set(reterr, PYPROC_E_INVALID_ARGUMENT,
                     "the codec's name is %s%.40s%s; it must begin with a-z and have at most %d of a-z, 0-9 and _",
                     given->name == NULL ? "NULL" : "\"", given->name == NULL ? "" : given->name,
                     given->name == NULL ? "" : "\"", PYPROC_PROTOCOL_NAME_MAX);
  for (size_t i = 0; i < sizeof members / sizeof *members; i++)
    if (!members[i].is_set)
      return error_set(reterr, PYPROC_E_INVALID_ARGUMENT, "the codec \"%s\" has no function %s", given->name,
                       members[i].name);
  return PYPROC_OK;
}

/* The lock is held. */
static int add(const pyproc_protocol *self, const pyproc_protocol *given, pyproc_error **reterr) {
  if (codec_is_built_in(given->name) || find(given->name) != NULL)
    return error_set(reterr, PYPROC_E_ALREADY_EXISTS, "there is a codec \"%s\" already: choose another name",
                     given->name);
  if (entry_count == PYPROC_PROTOCOLS_MAX)
    return error_set(reterr, PYPROC_E_RESOURCE_EXHAUSTED, "no codec beyond %d can be registered: \"%s\"",
                     PYPROC_PROTOCOLS_MAX, given->name);
  entry *to = &entries[entry_count++];
  memcpy(to->name, given->name, strlen(given->name) + 1);
  to->protocol = *given;
  to->protocol.name = to->name;
  to->codec = (struct codec){.name = to->name, .protocol = &to->protocol, .self = self, .registered = true};
  return PYPROC_OK;
}

int pyproc_protocol_register(const pyproc_protocol *protocol, pyproc_error **reterr) {
  pyproc_protocol given;
  if (protocol == NULL) return error_set(reterr, PYPROC_E_INVALID_ARGUMENT, "protocol is NULL");
  int result = options_copy_sized(&given, sizeof given, protocol, "pyproc_protocol", reterr);
  if (result >= 0) result = check(&given, reterr);
  if (result < 0) return result;
  pthread_mutex_lock(&registry_lock);
  result = add(protocol, &given, reterr);
  pthread_mutex_unlock(&registry_lock);
  return result;
}

/* ---- what codecs are lent ---- */

uint8_t *pyproc_output_extend(pyproc_output *out, size_t size, pyproc_error **reterr) {
  size_t used = out->bytes->size - out->begin;
  if (size > out->limit - used || !buffer_reserve(out->bytes, size)) {
    error_set(reterr, PYPROC_E_RESOURCE_EXHAUSTED, "no room for %zu more bytes behind %zu", size, used);
    return NULL;
  }
  uint8_t *at = out->bytes->data + out->bytes->size;
  out->bytes->size += size;
  return at;
}

int pyproc_output_append(pyproc_output *out, const void *data, size_t size, pyproc_error **reterr) {
  if (size == 0) return PYPROC_OK;
  uint8_t *at = pyproc_output_extend(out, size, reterr);
  if (at == NULL) return PYPROC_E_RESOURCE_EXHAUSTED;
  memcpy(at, data, size);
  return PYPROC_OK;
}

uint8_t *pyproc_output_data(pyproc_output *out, size_t *ret_size) {
  *ret_size = out->bytes->size - out->begin;
  return out->bytes->data == NULL ? NULL : out->bytes->data + out->begin;
}

void *pyproc_arena_alloc(pyproc_arena *arena, size_t size, pyproc_error **reterr) {
  void *memory = reply_arena_take(&arena->memory, size > 0 ? size : 1);
  if (memory == NULL)
    error_set(reterr, PYPROC_E_RESOURCE_EXHAUSTED, "the reply takes more memory than it may");
  else if (arena->first == NULL)
    arena->first = memory;
  return memory;
}

ProtobufCMessage *pyproc_arena_message(pyproc_arena *arena, const pyproc_message_info *info, pyproc_error **reterr) {
  ProtobufCMessage *message = pyproc_arena_alloc(arena, info->descriptor->sizeof_message, reterr);
  if (message != NULL) json_message_init(info->descriptor, message);
  return message;
}

int pyproc_protobuf_pack(const pyproc_message_info *info, const ProtobufCMessage *message, pyproc_output *out,
                         pyproc_error **reterr) {
  return codec_protobuf.protocol->pack(codec_protobuf.self, info, message, out, reterr);
}

int pyproc_protobuf_unpack(const pyproc_message_info *info, const uint8_t *data, size_t size, pyproc_arena *arena,
                           ProtobufCMessage **ret_message, pyproc_error **reterr) {
  if (arena->first != NULL)
    return error_set(reterr, PYPROC_E_INTERNAL, "%s: the message must be the arena's first allocation", info->name);
  int result = codec_protobuf.protocol->unpack(codec_protobuf.self, info, data, size, arena, ret_message, reterr);
  if (result >= 0) arena->first = *ret_message;
  return result;
}

int pyproc_is_utf8(const char *text, size_t size) {
  return envelope_is_utf8(text, size);
}

int pyproc_protocol_error(pyproc_error **reterr, int code, const char *message, const pyproc_field_path *path,
                          const char *format, ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  if (message == NULL && path == NULL) return error_set(reterr, code, "%s", text);
  return field_path_error(reterr, code, message, path, "%s", text);
}
