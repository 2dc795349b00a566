/*
 * codecs.h - the registered codecs that the end-to-end tests use, with e2e_codecs.py on the worker's side.
 *
 * "turned" is protobuf's encoding, or JSON text, with every byte xored by 0x55; with TURNED_* in `turned_mode` it does something
 * wrong. "msgpack" is that of examples/msgpack.
 */
#ifndef E2E_CODECS_H
#define E2E_CODECS_H

#include <stdatomic.h>
#include <stdbool.h>

enum {
  TURNED_RIGHT,
  TURNED_NOTHING, /* unpack succeeds with NULL */
  TURNED_FOREIGN, /* with a message that is not the arena's */
  TURNED_LATE,    /* with a message that is not the arena's first allocation */
  TURNED_OTHER,   /* with a message of another type */
  TURNED_BROKEN,  /* with strings that are NULL */
  TURNED_SILENT,  /* every function fails and sets no error */
  TURNED_FAILING, /* every function fails with an error of its own, after it has appended something */
  TURNED_NO_JSON, /* unpack_json gives something else */
  TURNED_GREEDY,  /* unpack asks for more than there is, and ignores the answer */
  TURNED_DEEP     /* unpack_json gives JSON that is nested too deep */
};
extern _Atomic int turned_mode;

/* Registers them, once in a process. */
void register_codecs(void);

/* Whether there is libmsgpack. */
extern const bool have_msgpack;

#endif
