#include "codecs.h"

#include <pyproc_protocol.h>
#include <string.h>

#include "kinds.pyproc.h"
#ifdef E2E_MSGPACK
#include "msgpack_codec.h"
#endif

_Atomic int turned_mode;

static void turn(uint8_t *data, size_t size) {
  for (size_t i = 0; i < size; i++) data[i] ^= 0x55;
}

/* Appends junk and fails, in the modes that fail. */
static int begin(pyproc_output *out, pyproc_error **reterr) {
  int mode = atomic_load(&turned_mode);
  if (mode == TURNED_SILENT) return PYPROC_E_ABORTED;
  if (mode != TURNED_FAILING) return PYPROC_OK;
  if (out != NULL) (void)pyproc_output_append(out, "junk", 4, reterr);
  return pyproc_protocol_error(reterr, PYPROC_E_OUT_OF_RANGE, "turned", &(pyproc_field_path){NULL, "a", 3}, "number %d",
                               5);
}

static int turned_pack(const pyproc_protocol *self, const pyproc_message_info *info, const ProtobufCMessage *message,
                       pyproc_output *out, pyproc_error **reterr) {
  int result = begin(out, reterr);
  (void)self;
  if (result >= 0) result = pyproc_protobuf_pack(info, message, out, reterr);
  if (result < 0) return result;
  size_t size;
  uint8_t *data = pyproc_output_data(out, &size);
  turn(data, size);
  return PYPROC_OK;
}

/* What the modes that lie give. Returns whether there is such a mode. */
static bool lie(const pyproc_message_info *info, pyproc_arena *arena, ProtobufCMessage **ret_message,
                pyproc_error **reterr) {
  static Kinds__Text foreign = KINDS__TEXT__INIT;
  const pyproc_message_info *other = kinds_kinds_nothing_method.request;
  switch (atomic_load(&turned_mode)) {
  case TURNED_NOTHING:
    return true;
  case TURNED_FOREIGN:
    *ret_message = &foreign.base;
    return true;
  case TURNED_LATE:
    (void)pyproc_arena_alloc(arena, 0, reterr);
    *ret_message = pyproc_arena_message(arena, info, reterr);
    return true;
  case TURNED_OTHER:
    *ret_message = pyproc_arena_message(arena, other, reterr);
    return true;
  case TURNED_BROKEN:
    *ret_message = pyproc_arena_message(arena, info, reterr);
    ((Kinds__Everything *)(void *)*ret_message)->n_texts = 3;
    return true;
  case TURNED_GREEDY:
    *ret_message = pyproc_arena_message(arena, info, reterr);
    (void)pyproc_arena_alloc(arena, SIZE_MAX / 4, NULL);
    return true;
  default:
    return false;
  }
}

static int turned_unpack(const pyproc_protocol *self, const pyproc_message_info *info, const uint8_t *data, size_t size,
                         pyproc_arena *arena, ProtobufCMessage **ret_message, pyproc_error **reterr) {
  int result = begin(NULL, reterr);
  (void)self;
  if (result < 0 || lie(info, arena, ret_message, reterr)) return result;
  uint8_t *copy = malloc(size + 1);
  if (copy == NULL) return pyproc_protocol_error(reterr, PYPROC_E_RESOURCE_EXHAUSTED, info->name, NULL, "no memory");
  if (size > 0) memcpy(copy, data, size);
  turn(copy, size);
  result = pyproc_protobuf_unpack(info, copy, size, arena, ret_message, reterr);
  free(copy);
  return result;
}

static int turned_json(const pyproc_protocol *self, const uint8_t *data, size_t size, pyproc_output *out,
                       pyproc_error **reterr) {
  int result = begin(out, reterr);
  (void)self;
  uint8_t *to = result < 0 ? NULL : pyproc_output_extend(out, size, reterr);
  if (to == NULL) return result < 0 ? result : PYPROC_E_RESOURCE_EXHAUSTED;
  if (size > 0) memcpy(to, data, size);
  turn(to, size);
  return PYPROC_OK;
}

static int turned_unpack_json(const pyproc_protocol *self, const uint8_t *data, size_t size, pyproc_output *out,
                              pyproc_error **reterr) {
  int mode = atomic_load(&turned_mode);
  if (mode == TURNED_NO_JSON) return pyproc_output_append(out, "{\"a\":", 5, reterr);
  if (mode != TURNED_DEEP) return turned_json(self, data, size, out, reterr);
  int result = PYPROC_OK;
  for (int i = 0; i < 99 && result >= 0; i++) result = pyproc_output_append(out, "[", 1, reterr);
  for (int i = 0; i < 99 && result >= 0; i++) result = pyproc_output_append(out, "]", 1, reterr);
  return result;
}

#ifdef E2E_MSGPACK
const bool have_msgpack = true;
#else
const bool have_msgpack = false;
#endif

void register_codecs(void) {
  static pyproc_protocol turned = PYPROC_PROTOCOL_INIT;
  if (turned.name != NULL) return;
  turned.name = "turned";
  turned.pack = turned_pack;
  turned.unpack = turned_unpack;
  turned.pack_json = turned_json;
  turned.unpack_json = turned_unpack_json;
  if (pyproc_protocol_register(&turned, NULL) < 0) abort();
#ifdef E2E_MSGPACK
  if (msgpack_codec_register(NULL) < 0) abort();
#endif
}
