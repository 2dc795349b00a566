/*
 * envelope.h - the JSON envelopes of schema/wire.md ("Codec json"): found and checked in place, nothing is copied.
 *
 * Compiled into the library and into the worker's extension. The scanner accepts exactly RFC 8259 texts in UTF-8 (RFC
 * 3629), nested at most WIRE_NESTING_MAX deep; it allocates nothing and never recurses without that bound.
 */
#ifndef PYPROC_WIRE_ENVELOPE_H
#define PYPROC_WIRE_ENVELOPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A piece of the payload: `data` NULL where the member is absent. Strings are still escaped, without their quotes;
 * other values are the JSON text without surrounding white space. */
typedef struct envelope_text {
  const char *data;
  size_t size;
} envelope_text;

typedef enum envelope_type {
  ENVELOPE_REQUEST,      /* bare or {"type": "request", "payload": …} */
  ENVELOPE_REPLY,        /* {"id", "ok", …} */
  ENVELOPE_CANCELLATION, /* {"type": "cancellation", "payload": {"id", "reason"}} */
  ENVELOPE_OTHER         /* a wrapped one of unknown type: to be ignored */
} envelope_type;

struct envelope {
  envelope_type type;
  uint64_t id;         /* 0 where absent */
  bool ok;             /* reply */
  uint32_t code;       /* error reply: 0 where absent */
  bool interrupted;    /* error reply */
  uint64_t timeout_ms; /* request: 0 where absent */
  envelope_text method, body, error, error_type, traceback, reason;
};

/* Takes a payload apart. Returns NULL, or what is wrong with it (a static string such as "not valid JSON" or "member
 * \"id\" is no unsigned integer"). */
const char *envelope_parse(const char *payload, size_t size, struct envelope *ret_envelope);

/* The members of an error object (schema/wire.md), which has another use for "type" than an envelope. Returns NULL,
 * or what is wrong with it. */
const char *envelope_parse_error(const char *text, size_t size, envelope_text *ret_error, envelope_text *ret_type,
                                 envelope_text *ret_traceback, bool *ret_interrupted);

/* Whether the text is one valid JSON value, possibly within white space. Returns NULL, or what is wrong with it. */
const char *envelope_check_json(const char *text, size_t size);

/* The same for a body, which may travel in an envelope, possibly a wrapped one: these levels count. */
enum { ENVELOPE_LEVELS = 2 };
const char *envelope_check_body(const char *text, size_t size);

/* Undoes the escapes of a string's inside into `to`, which has room for text.size + 1 bytes, and ends it with a NUL.
 * Returns the number of bytes before the NUL. NULs in the text (\u0000) become U+FFFD; lone surrogates too. */
size_t envelope_unescape(envelope_text text, char *to);

/* Whether a string's inside has an escaped NUL. */
bool envelope_has_nul(envelope_text text);

/* Bytes that `size` bytes of `text` take as the inside of a JSON string, and the writing of them (returns the end).
 * The text must be valid UTF-8. */
size_t envelope_escaped_size(const char *text, size_t size);
char *envelope_escape(char *to, const char *text, size_t size);

/* Whether the bytes are valid UTF-8 (no surrogates, no overlong forms). */
bool envelope_is_utf8(const char *text, size_t size);

#endif
