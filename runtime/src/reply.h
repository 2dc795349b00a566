/*
 * reply.h - the blocks that callers free with pyproc_reply_free: replies, stream messages, JSON bodies.
 *
 * A block begins with a hidden header in front of the pointer that the caller gets. A message and all that it points to
 * lie in the same block, normally one malloc and one free; further blocks are chained where the first was too small. A
 * block belongs to no pool and may be freed by any thread.
 */
#ifndef PYPROC_REPLY_H
#define PYPROC_REPLY_H

#include <pyproc.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Memory for one reply under construction, in blocks that grow. What it gives is aligned to 16 bytes and not cleared.
 * */
typedef struct reply_arena {
  struct reply_block *first; /* the one whose first allocation the caller will get */
  uint8_t *at, *end;         /* what is left of the newest block */
  struct reply_block *last;
  size_t budget;  /* bytes that may still be taken from malloc */
  bool exhausted; /* an allocation failed, for lack of budget or of memory */
} reply_arena;

/* Begins with a block for `expected` bytes of allocations: a guess, but at least the size of the first. All blocks
 * together take at most `budget` bytes. False: not possible, and nothing is allocated. */
bool reply_arena_begin(reply_arena *arena, size_t expected, size_t budget);

/* `size` bytes, or NULL when the budget or the memory is used up. An arena that is zero but for its budget begins with
 * the first allocation. */
void *reply_arena_take(reply_arena *arena, size_t size);

/* Ends it: the pointer that the first reply_arena_take returned is now the caller's, for pyproc_reply_free. */
void *reply_arena_end(reply_arena *arena);

/* Ends it and frees everything. */
void reply_arena_abandon(reply_arena *arena);

/* Unpacks a message of the protobuf encoding into an arena that has a budget and is not begun. Untrusted: DATA_LOSS where the
 * bytes are no such message (nested deeper than WIRE_NESTING_MAX, groups, a string that is not UTF-8 or holds a NUL,
 * a missing required field), RESOURCE_EXHAUSTED where the budget is used up. Names the field where it can. */
int reply_unpack_into(const ProtobufCMessageDescriptor *descriptor, const uint8_t *data, size_t size,
                      reply_arena *arena, ProtobufCMessage **ret_message, pyproc_error **reterr);

/* The same into a block of at most `budget` bytes, for pyproc_reply_free. */
int reply_unpack(const ProtobufCMessageDescriptor *descriptor, const uint8_t *data, size_t size, size_t budget,
                 ProtobufCMessage **ret_message, pyproc_error **reterr);

/* Lets a reply, of any kind, have metadata, once: encoded as in a frame, and checked. False: out of memory. */
bool reply_set_metadata(void *reply, const uint8_t *data, size_t size);

/* A copy with a NUL behind it, for pyproc_reply_free; NULL when out of memory. */
char *reply_text_new(const char *data, size_t size);

#endif
