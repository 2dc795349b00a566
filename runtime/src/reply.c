#include "reply.h"

#include "error.h"
#include "field_layout.h"
#include "field_path.h"
#include "metadata.h"
#include "wire/bulk.h"
#include "wire/envelope.h"
#include "wire/frame.h"

#include <stdlib.h>
#include <string.h>

enum { ALIGNMENT = _Alignof(max_align_t), BLOCK_MIN = 4096 }; /* 16 on 64-bit machines */

/* In front of the memory of a block. The first block's is what lies in front of the caller's pointer. */
typedef struct reply_block {
  _Alignas(ALIGNMENT) struct reply_block *next;
  const metadata_set *metadata; /* in a block of its own; the first block's counts, NULL: none */
} reply_block;

_Static_assert(sizeof(reply_block) % ALIGNMENT == 0, "the memory behind the header is aligned");

static size_t align_up(size_t size) {
  return (size + ALIGNMENT - 1) & ~(size_t)(ALIGNMENT - 1);
}

static reply_block *block_new(reply_arena *arena, size_t size) {
  if (size < sizeof(reply_block) || size > arena->budget) return NULL;
  reply_block *block = malloc(size);
  if (block == NULL) return NULL;
  bulk_expect(block, size);
  block->next = NULL;
  block->metadata = NULL;
  arena->budget -= size;
  arena->last = block;
  arena->at = (uint8_t *)(block + 1);
  arena->end = (uint8_t *)block + size;
  return block;
}

static void blocks_free(reply_block *block) {
  while (block != NULL) {
    reply_block *next = block->next;
    free(block);
    block = next;
  }
}

bool reply_arena_begin(reply_arena *arena, size_t expected, size_t budget) {
  *arena = (reply_arena){.budget = budget};
  if (expected > SIZE_MAX / 2) return false;
  arena->first = block_new(arena, sizeof(reply_block) + align_up(expected));
  return arena->first != NULL;
}

/* Chains a block that has room for `size` bytes and is larger than the last one, if the budget allows. */
static bool arena_grow(reply_arena *arena, size_t size) {
  reply_block *last = arena->last;
  size_t least = sizeof(reply_block) + size;
  size_t wanted = last == NULL ? 0 : (size_t)(arena->end - (uint8_t *)last) * 2;
  if (wanted < BLOCK_MIN) wanted = BLOCK_MIN;
  if (wanted < least) wanted = least;
  if (wanted > arena->budget) wanted = arena->budget;
  if (wanted < least) return false;
  reply_block *block = block_new(arena, wanted);
  if (block == NULL) return false;
  if (last == NULL)
    arena->first = block;
  else
    last->next = block;
  return true;
}

void *reply_arena_take(reply_arena *arena, size_t size) {
  size_t rounded = align_up(size);
  bool fits = size <= SIZE_MAX / 2 && (rounded <= (size_t)(arena->end - arena->at) || arena_grow(arena, rounded));
  if (!fits) {
    arena->exhausted = true;
    return NULL;
  }
  void *memory = arena->at;
  arena->at += rounded;
  return memory;
}

void *reply_arena_end(reply_arena *arena) {
  void *reply = arena->first + 1;
  *arena = (reply_arena){0};
  return reply;
}

void reply_arena_abandon(reply_arena *arena) {
  blocks_free(arena->first);
  *arena = (reply_arena){0};
}

void pyproc_reply_free(void *reply) {
  if (reply != NULL) blocks_free((reply_block *)reply - 1);
}

bool reply_set_metadata(void *reply, const uint8_t *data, size_t size) {
  reply_block *first = (reply_block *)reply - 1;
  reply_block *block = malloc(sizeof *block + metadata_set_size(data, size));
  if (block == NULL) return false;
  metadata_set *set = (metadata_set *)(void *)(block + 1);
  metadata_set_init(set, data, size);
  block->metadata = NULL;
  block->next = first->next;
  first->next = block;
  first->metadata = set;
  return true;
}

const pyproc_metadata *pyproc_reply_metadata(const void *reply, size_t *ret_count) {
  return metadata_set_entries(reply == NULL ? NULL : ((const reply_block *)reply - 1)->metadata, ret_count);
}

char *reply_text_new(const char *data, size_t size) {
  reply_block *block = size > SIZE_MAX / 2 ? NULL : malloc(sizeof *block + size + 1);
  if (block == NULL) return NULL;
  block->next = NULL;
  block->metadata = NULL;
  char *text = (char *)(block + 1);
  if (size > 0) memcpy(text, data, size);
  text[size] = '\0';
  return text;
}

/* --- What is in the bytes, before anything is allocated for it --- */

/* protobuf-c keeps the members of a message in slabs of this many bytes each; the first slab is on its stack. */
enum { MEMBER_SIZE = 32, FIRST_SLAB = 16 };

typedef struct scan_level {
  const ProtobufCMessageDescriptor *descriptor;
  const ProtobufCFieldDescriptor *field; /* the last one that was met, or NULL */
  const uint8_t *end;
  size_t members, slabs_end, slab; /* how many members there are, how many have room, how many the last slab holds */
} scan_level;

/* A walk over the bytes that follows the descriptors: bounds what protobuf-c does not, and guesses what it will
 * allocate. */
typedef struct scan {
  const uint8_t *at;
  size_t depth;
  size_t expected;
  const ProtobufCFieldDescriptor *field; /* that is being read, NULL where it is not known */
  scan_level levels[WIRE_NESTING_MAX];
  const char *wrong;
} scan;

static bool fail(scan *in, const char *wrong) {
  in->wrong = wrong;
  return false;
}

static bool read_varint(scan *in, const uint8_t *end, unsigned bytes_max, uint64_t *ret_value) {
  uint64_t value = 0;
  for (unsigned i = 0; i < bytes_max && in->at + i < end; i++) {
    value |= (uint64_t)(in->at[i] & 0x7f) << (7 * i);
    if (in->at[i] >= 0x80) continue;
    in->at += i + 1;
    *ret_value = value;
    return true;
  }
  return fail(in, "a broken or truncated number");
}

static const ProtobufCFieldDescriptor *find_field(scan_level *level, uint32_t id) {
  const ProtobufCMessageDescriptor *descriptor = level->descriptor;
  const ProtobufCFieldDescriptor *last = level->field, *next = last != NULL ? last + 1 : descriptor->fields;
  if (last != NULL && last->id == id) return last;
  if (next < descriptor->fields + descriptor->n_fields && next->id == id) return next;
  return protobuf_c_message_descriptor_get_field(descriptor, id);
}

static unsigned wire_type_of(ProtobufCType type) {
  switch (type) {
  case PROTOBUF_C_TYPE_SFIXED64:
  case PROTOBUF_C_TYPE_FIXED64:
  case PROTOBUF_C_TYPE_DOUBLE:
    return PROTOBUF_C_WIRE_TYPE_64BIT;
  case PROTOBUF_C_TYPE_SFIXED32:
  case PROTOBUF_C_TYPE_FIXED32:
  case PROTOBUF_C_TYPE_FLOAT:
    return PROTOBUF_C_WIRE_TYPE_32BIT;
  case PROTOBUF_C_TYPE_STRING:
  case PROTOBUF_C_TYPE_BYTES:
  case PROTOBUF_C_TYPE_MESSAGE:
    return PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED;
  default:
    return PROTOBUF_C_WIRE_TYPE_VARINT;
  }
}

/* The memory that a packed array of `size` bytes takes. */
static size_t packed_memory(ProtobufCType type, const uint8_t *data, size_t size) {
  if (wire_type_of(type) != PROTOBUF_C_WIRE_TYPE_VARINT) return size;
  size_t count = 0;
  for (size_t i = 0; i < size; i++) count += data[i] < 0x80;
  return count * field_value_size(type);
}

static bool enter(scan *in, const ProtobufCMessageDescriptor *descriptor, const uint8_t *end) {
  if (in->depth == WIRE_NESTING_MAX) return fail(in, "messages are nested deeper than 100");
  in->levels[in->depth++] =
      (scan_level){.descriptor = descriptor, .end = end, .slabs_end = FIRST_SLAB, .slab = FIRST_SLAB};
  in->expected += align_up(descriptor->sizeof_message);
  return true;
}

/* A field with a length: `size` bytes at in->at. */
static bool scan_block(scan *in, const ProtobufCFieldDescriptor *field, size_t size) {
  const uint8_t *data = in->at;
  if (field->type == PROTOBUF_C_TYPE_MESSAGE) return enter(in, field->descriptor, data + size);
  in->at += size;
  if (field->type == PROTOBUF_C_TYPE_STRING) {
    in->expected += align_up(size + 1);
    if (memchr(data, '\0', size) != NULL)
      return fail(in, "the string holds a NUL, which a string of C cannot; use bytes");
    return envelope_is_utf8((const char *)data, size) || fail(in, "the string is not valid UTF-8");
  }
  in->expected += field->type == PROTOBUF_C_TYPE_BYTES ? align_up(size) : packed_memory(field->type, data, size);
  return true;
}

/* Counts a member, and the slab that it may make necessary. */
static void count_member(scan *in, scan_level *level) {
  if (level->members++ < level->slabs_end) return;
  level->slab *= 2;
  level->slabs_end += level->slab;
  in->expected += align_up(level->slab * MEMBER_SIZE);
}

static bool scan_known(scan *in, const ProtobufCFieldDescriptor *field, bool again, unsigned wire_type, size_t size) {
  bool repeated = field->label == PROTOBUF_C_LABEL_REPEATED;
  bool packed = wire_type == PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED && field->type < PROTOBUF_C_TYPE_STRING && repeated;
  if (!packed && wire_type != wire_type_of(field->type)) return fail(in, "has another wire type than in this schema");
  if (repeated && !packed) in->expected += field_value_size(field->type);
  if (repeated && !again) in->expected += ALIGNMENT;
  if (wire_type == PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED) return scan_block(in, field, size);
  in->at += size;
  return true;
}

/* One member: tag, then value. */
static bool scan_member(scan *in) {
  scan_level *level = &in->levels[in->depth - 1];
  uint64_t tag, size = 0;
  const uint8_t *from = in->at;
  in->field = NULL;
  if (!read_varint(in, level->end, 5, &tag)) return false;
  unsigned wire_type = tag & 7;
  if (tag >> 3 == 0 || tag > UINT32_MAX) return fail(in, "a field number that cannot be");
  const ProtobufCFieldDescriptor *field = find_field(level, (uint32_t)(tag >> 3));
  bool again = field != NULL && field == level->field;
  in->field = field;
  if (field != NULL) level->field = field;
  count_member(in, level);
  switch (wire_type) {
  case PROTOBUF_C_WIRE_TYPE_VARINT:
    if (!read_varint(in, level->end, 10, &size)) return false;
    size = 0;
    break;
  case PROTOBUF_C_WIRE_TYPE_64BIT:
    size = 8;
    break;
  case PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED:
    if (!read_varint(in, level->end, 5, &size)) return false;
    break;
  case PROTOBUF_C_WIRE_TYPE_32BIT:
    size = 4;
    break;
  default:
    return fail(in, "groups are not supported");
  }
  if (size > (size_t)(level->end - in->at)) return fail(in, "reaches beyond its message");
  if (field != NULL) return scan_known(in, field, again, wire_type, (size_t)size);
  in->at += size;
  in->expected += align_up((size_t)(in->at - from)) + sizeof(ProtobufCMessageUnknownField);
  return true;
}

static bool scan_message(scan *in, const ProtobufCMessageDescriptor *descriptor, const uint8_t *data, size_t size) {
  in->at = data;
  if (!enter(in, descriptor, data + size)) return false;
  while (in->depth > 0) {
    while (in->at < in->levels[in->depth - 1].end)
      if (!scan_member(in)) return false;
    in->depth--;
  }
  return true;
}

/* Names the field that the scan was at. */
static int scan_error(const scan *in, pyproc_error **reterr) {
  field_path path[WIRE_NESTING_MAX];
  const field_path *last = NULL;
  for (size_t i = 0; i < in->depth; i++) {
    const ProtobufCFieldDescriptor *field = i + 1 < in->depth ? in->levels[i].field : in->field;
    if (field == NULL) break;
    path[i] = (field_path){last, field->name, FIELD_PATH_NO_INDEX};
    last = &path[i];
  }
  return field_path_error(reterr, PYPROC_E_DATA_LOSS, in->levels[0].descriptor->name, last, "%s", in->wrong);
}

/* --- Unpacking --- */

static void *arena_alloc(void *arena, size_t size) {
  return reply_arena_take(arena, size);
}

static void arena_free(void *arena, void *pointer) {
  (void)arena;
  (void)pointer;
}

int reply_unpack_into(const ProtobufCMessageDescriptor *descriptor, const uint8_t *data, size_t size,
                      reply_arena *arena, ProtobufCMessage **ret_message, pyproc_error **reterr) {
  size_t budget = arena->budget;
  scan in;
  in.depth = in.expected = 0;
  in.field = NULL;
  if (size == 0) data = (const uint8_t *)""; /* may be NULL */
  if (!scan_message(&in, descriptor, data, size)) return scan_error(&in, reterr);
  size_t room = budget < sizeof(reply_block) ? 0 : budget - sizeof(reply_block);
  room &= ~(size_t)(ALIGNMENT - 1);
  ProtobufCMessage *message = NULL;
  bool exhausted =
      room < descriptor->sizeof_message || !reply_arena_begin(arena, in.expected < room ? in.expected : room, budget);
  if (!exhausted) {
    ProtobufCAllocator allocator = {arena_alloc, arena_free, arena};
    message = protobuf_c_message_unpack(descriptor, &allocator, size, data);
    exhausted = arena->exhausted;
    if (message == NULL) reply_arena_abandon(arena);
  }
  if (message != NULL) {
    *ret_message = message;
    return PYPROC_OK;
  }
  if (exhausted)
    return field_path_error(reterr, PYPROC_E_RESOURCE_EXHAUSTED, descriptor->name, NULL,
                            "unpacking %zu bytes takes more than %zu bytes of memory", size, budget);
  return field_path_error(reterr, PYPROC_E_DATA_LOSS, descriptor->name, NULL,
                          "a required field is missing or a packed field is broken");
}

int reply_unpack(const ProtobufCMessageDescriptor *descriptor, const uint8_t *data, size_t size, size_t budget,
                 ProtobufCMessage **ret_message, pyproc_error **reterr) {
  reply_arena arena = {.budget = budget};
  ProtobufCMessage *message;
  int result = reply_unpack_into(descriptor, data, size, &arena, &message, reterr);
  if (result >= 0) *ret_message = reply_arena_end(&arena);
  return result;
}
