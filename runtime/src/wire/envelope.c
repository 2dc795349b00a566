#include "envelope.h"

#include "frame.h"

#include <string.h>

/* One pass over untrusted text. `wrong` is set once, by whoever returns false first. */
typedef struct scanner {
  const uint8_t *at, *end;
  const char *wrong;
} scanner;

static const char not_json[] = "not valid JSON";
static const char not_utf8[] = "not valid UTF-8";
static const char too_deep[] = "nested deeper than 100";

static bool fail(scanner *scan, const char *wrong) {
  scan->wrong = wrong;
  return false;
}

/* --- Text --- */

#define EVERY(byte) (UINT64_C(0x0101010101010101) * (byte))

/* Bytes of the word that are zero have their high bit set in the result; none is set where there is none. */
static inline uint64_t zero_bytes(uint64_t word) {
  return (word - EVERY(1)) & ~word & EVERY(0x80);
}

/* Whether eight bytes have neither quote, backslash nor control character (nor, with `wide`, any byte above 0x7f). */
static inline bool is_plain8(const uint8_t *at, bool wide) {
  uint64_t word;
  memcpy(&word, at, sizeof word);
  uint64_t control = (word - EVERY(0x20)) & ~word;
  uint64_t stop = control | zero_bytes(word ^ EVERY('"')) | zero_bytes(word ^ EVERY('\\')) | (wide ? word : 0);
  return (stop & EVERY(0x80)) == 0;
}

static inline bool is_tail(uint8_t byte) {
  return (byte & 0xc0) == 0x80;
}

/* The number of bytes of the character above U+007F at `at`, 0 when it is none. */
static size_t wide_size(const uint8_t *at, const uint8_t *end) {
  uint8_t first = at[0];
  if (first < 0xc2 || first > 0xf4) return 0;
  size_t size = first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
  if ((size_t)(end - at) < size || !is_tail(at[1])) return 0;
  if (first == 0xe0 && at[1] < 0xa0) return 0; /* overlong */
  if (first == 0xed && at[1] > 0x9f) return 0; /* surrogate */
  if (first == 0xf0 && at[1] < 0x90) return 0; /* overlong */
  if (first == 0xf4 && at[1] > 0x8f) return 0; /* above U+10FFFF */
  for (size_t i = 2; i < size; i++)
    if (!is_tail(at[i])) return 0;
  return size;
}

bool envelope_is_utf8(const char *text, size_t size) {
  const uint8_t *at = (const uint8_t *)text, *end = at + size;
  while (at < end) {
    uint64_t word;
    if (end - at >= 8) {
      memcpy(&word, at, sizeof word);
      if ((word & EVERY(0x80)) == 0) {
        at += 8;
        continue;
      }
    }
    size_t step = *at < 0x80 ? 1 : wide_size(at, end);
    if (step == 0) return false;
    at += step;
  }
  return true;
}

static int hex_digit(uint8_t byte) {
  if (byte >= '0' && byte <= '9') return byte - '0';
  if (byte >= 'a' && byte <= 'f') return byte - 'a' + 10;
  return byte >= 'A' && byte <= 'F' ? byte - 'A' + 10 : -1;
}

/* The value of "\uXXXX" at `at`, -1 when it is none. */
static int32_t hex_escape(const uint8_t *at, const uint8_t *end) {
  if (end - at < 6 || at[0] != '\\' || at[1] != 'u') return -1;
  int32_t value = 0;
  for (int i = 2; i < 6; i++) {
    int digit = hex_digit(at[i]);
    if (digit < 0) return -1;
    value = value * 16 + digit;
  }
  return value;
}

/* The character that one or two "\uXXXX" at `at` stand for, and their size. -1: no escape; -2: a lone surrogate. */
static int32_t escaped_character(const uint8_t *at, const uint8_t *end, size_t *ret_size) {
  int32_t first = hex_escape(at, end);
  *ret_size = 6;
  if (first < 0xd800 || first > 0xdfff) return first;
  int32_t second = first < 0xdc00 ? hex_escape(at + 6, end) : -1;
  if (second < 0xdc00 || second > 0xdfff) return -2;
  *ret_size = 12;
  return 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
}

static bool scan_escape(scanner *scan, bool *ret_nul) {
  if (scan->end - scan->at < 2) return fail(scan, not_json);
  if (scan->at[1] != 'u') {
    if (scan->at[1] == '\0' || strchr("\"\\/bfnrt", scan->at[1]) == NULL) return fail(scan, not_json);
    scan->at += 2;
    return true;
  }
  size_t size;
  int32_t character = escaped_character(scan->at, scan->end, &size);
  if (character == -1) return fail(scan, not_json);
  if (character == -2) return fail(scan, "a lone surrogate in a string");
  if (character == 0) *ret_nul = true;
  scan->at += size;
  return true;
}

/* Steps over a string, whose opening quote is at `at`. Says whether it has an escaped NUL (else leaves *ret_nul). */
static bool scan_string(scanner *scan, bool *ret_nul) {
  scan->at++;
  for (;;) {
    while (scan->end - scan->at >= 8 && is_plain8(scan->at, true)) scan->at += 8;
    if (scan->at == scan->end) return fail(scan, not_json);
    uint8_t byte = *scan->at;
    if (byte == '"') break;
    if (byte == '\\') {
      if (!scan_escape(scan, ret_nul)) return false;
    } else if (byte < 0x20) {
      return fail(scan, not_json);
    } else {
      size_t size = byte < 0x80 ? 1 : wide_size(scan->at, scan->end);
      if (size == 0) return fail(scan, not_utf8);
      scan->at += size;
    }
  }
  scan->at++;
  return true;
}

/* --- Values --- */

static inline void skip_space(scanner *scan) {
  while (scan->at < scan->end && (*scan->at == ' ' || *scan->at == '\t' || *scan->at == '\n' || *scan->at == '\r'))
    scan->at++;
}

static inline bool is_at(const scanner *scan, char byte) {
  return scan->at < scan->end && *scan->at == (uint8_t)byte;
}

static bool scan_digits(scanner *scan) {
  const uint8_t *from = scan->at;
  while (scan->at < scan->end && *scan->at >= '0' && *scan->at <= '9') scan->at++;
  return scan->at > from || fail(scan, not_json);
}

static bool scan_number(scanner *scan) {
  if (is_at(scan, '-')) scan->at++;
  if (is_at(scan, 'I')) return fail(scan, "Infinity is not JSON");
  if (is_at(scan, '0'))
    scan->at++;
  else if (!scan_digits(scan))
    return false;
  if (is_at(scan, '.')) {
    scan->at++;
    if (!scan_digits(scan)) return false;
  }
  if (!is_at(scan, 'e') && !is_at(scan, 'E')) return true;
  scan->at++;
  if (is_at(scan, '+') || is_at(scan, '-')) scan->at++;
  return scan_digits(scan);
}

static bool scan_word(scanner *scan, const char *word, size_t size) {
  if ((size_t)(scan->end - scan->at) < size || memcmp(scan->at, word, size) != 0) return fail(scan, not_json);
  scan->at += size;
  return true;
}

static bool scan_scalar(scanner *scan) {
  bool nul = false;
  if (scan->at == scan->end) return fail(scan, not_json);
  switch (*scan->at) {
  case '"':
    return scan_string(scan, &nul);
  case 't':
    return scan_word(scan, "true", 4);
  case 'f':
    return scan_word(scan, "false", 5);
  case 'n':
    return scan_word(scan, "null", 4);
  case 'N':
    return fail(scan, "NaN is not JSON");
  case 'I':
    return fail(scan, "Infinity is not JSON");
  default:
    return scan_number(scan);
  }
}

/* Steps over a member's name and colon, to its value. */
static bool scan_name(scanner *scan) {
  bool nul = false;
  skip_space(scan);
  if (!is_at(scan, '"')) return fail(scan, not_json);
  if (!scan_string(scan, &nul)) return false;
  if (nul) return fail(scan, "a NUL in a name");
  skip_space(scan);
  if (!is_at(scan, ':')) return fail(scan, not_json);
  scan->at++;
  return true;
}

/* The containers that a value is in, one bit each: set for objects. */
typedef struct nesting {
  uint64_t objects[2];
  size_t depth;
} nesting;

_Static_assert(WIRE_NESTING_MAX <= 128, "the containers have a bit each");

static inline bool in_object(const nesting *in) {
  return ((in->objects[(in->depth - 1) / 64] >> ((in->depth - 1) % 64)) & 1) != 0;
}

static bool enter(scanner *scan, nesting *in, bool object) {
  if (in->depth == WIRE_NESTING_MAX) return fail(scan, too_deep);
  uint64_t bit = UINT64_C(1) << (in->depth % 64);
  if (object)
    in->objects[in->depth / 64] |= bit;
  else
    in->objects[in->depth / 64] &= ~bit;
  in->depth++;
  scan->at++;
  return true;
}

/* Behind a value: leaves the containers that end there, down to `outer`; at the next value when there is one. */
static bool scan_after(scanner *scan, nesting *in, size_t outer) {
  while (in->depth > outer) {
    skip_space(scan);
    bool object = in_object(in);
    if (is_at(scan, ',')) {
      scan->at++;
      return !object || scan_name(scan);
    }
    if (!is_at(scan, object ? '}' : ']')) return fail(scan, not_json);
    scan->at++;
    in->depth--;
  }
  return true;
}

/* Steps over one value, that stands in `outer` containers, and the white space in front of it. */
static bool scan_value(scanner *scan, size_t outer) {
  nesting in = {{0, 0}, outer};
  do {
    skip_space(scan);
    bool object = is_at(scan, '{');
    if (object || is_at(scan, '[')) {
      if (!enter(scan, &in, object)) return false;
      skip_space(scan);
      if (!is_at(scan, object ? '}' : ']')) {
        if (object && !scan_name(scan)) return false;
        continue;
      }
      scan->at++;
      in.depth--;
    } else if (!scan_scalar(scan)) {
      return false;
    }
    if (!scan_after(scan, &in, outer)) return false;
  } while (in.depth > outer);
  return true;
}

static bool scan_end(scanner *scan) {
  skip_space(scan);
  return scan->at == scan->end || fail(scan, "text behind the JSON value");
}

const char *envelope_check_json(const char *text, size_t size) {
  scanner scan = {(const uint8_t *)text, (const uint8_t *)text + size, NULL};
  return scan_value(&scan, 0) && scan_end(&scan) ? NULL : scan.wrong;
}

const char *envelope_check_body(const char *text, size_t size) {
  scanner scan = {(const uint8_t *)text, (const uint8_t *)text + size, NULL};
  return scan_value(&scan, ENVELOPE_LEVELS) && scan_end(&scan) ? NULL : scan.wrong;
}

/* --- Envelopes --- */

typedef enum member {
  MEMBER_ID,
  MEMBER_METHOD,
  MEMBER_BODY,
  MEMBER_OK,
  MEMBER_ERROR,
  MEMBER_CODE,
  MEMBER_TIMEOUT_MS,
  MEMBER_TYPE,
  MEMBER_TRACEBACK,
  MEMBER_INTERRUPTED,
  MEMBER_REASON,
  MEMBER_PAYLOAD,
  MEMBER_COUNT
} member;

static const struct {
  const char *name;
  size_t size;
} members[MEMBER_COUNT] = {
    [MEMBER_ID] = {"id", 2},
    [MEMBER_METHOD] = {"method", 6},
    [MEMBER_BODY] = {"body", 4},
    [MEMBER_OK] = {"ok", 2},
    [MEMBER_ERROR] = {"error", 5},
    [MEMBER_CODE] = {"code", 4},
    [MEMBER_TIMEOUT_MS] = {"timeout_ms", 10},
    [MEMBER_TYPE] = {"type", 4},
    [MEMBER_TRACEBACK] = {"traceback", 9},
    [MEMBER_INTERRUPTED] = {"interrupted", 11},
    [MEMBER_REASON] = {"reason", 6},
    [MEMBER_PAYLOAD] = {"payload", 7},
};

/* The values of an object's members that matter here, as JSON text. */
typedef struct member_set {
  envelope_text values[MEMBER_COUNT];
} member_set;

static bool text_equals(envelope_text text, const char *literal, size_t size) {
  if (memchr(text.data, '\\', text.size) == NULL) return text.size == size && memcmp(text.data, literal, size) == 0;
  char plain[6 * 16 + 1]; /* the longest literal with every character escaped fits */
  if (text.size >= sizeof plain) return false;
  return envelope_unescape(text, plain) == size && memcmp(plain, literal, size) == 0;
}

static member find_member(envelope_text name) {
  bool escaped = memchr(name.data, '\\', name.size) != NULL;
  size_t found = 0;
  for (; found < MEMBER_COUNT; found++) {
    if (escaped ? text_equals(name, members[found].name, members[found].size)
                : name.size == members[found].size && memcmp(name.data, members[found].name, name.size) == 0)
      break;
  }
  return (member)found;
}

/* Takes an object apart; `payload` gets the members of the member of that name, where that is an object. */
static bool scan_members(scanner *scan, size_t depth, member_set *set, member_set *payload) {
  memset(set, 0, sizeof *set);
  scan->at++;
  skip_space(scan);
  for (bool more = !is_at(scan, '}'); more;) {
    skip_space(scan);
    const uint8_t *name = scan->at;
    if (!scan_name(scan)) return false;
    const uint8_t *name_end = scan->at - 1;
    while (*--name_end != '"') continue;
    member found = find_member((envelope_text){(const char *)name + 1, (size_t)(name_end - name) - 1});
    skip_space(scan);
    const uint8_t *from = scan->at;
    bool inside = found == MEMBER_PAYLOAD && payload != NULL && is_at(scan, '{');
    if (!(inside ? scan_members(scan, depth + 1, payload, NULL) : scan_value(scan, depth))) return false;
    if (found < MEMBER_COUNT) set->values[found] = (envelope_text){(const char *)from, (size_t)(scan->at - from)};
    skip_space(scan);
    more = is_at(scan, ',');
    if (more) scan->at++;
  }
  if (!is_at(scan, '}')) return fail(scan, not_json);
  scan->at++;
  return true;
}

/* Whether the member is there; null is as good as absent. */
static bool has(const member_set *set, member which) {
  const envelope_text *value = &set->values[which];
  return value->data != NULL && *value->data != 'n';
}

static bool take_unsigned(const member_set *set, member which, uint64_t most, uint64_t *ret_value) {
  if (!has(set, which)) return true;
  envelope_text value = set->values[which];
  uint64_t number = 0;
  for (size_t i = 0; i < value.size; i++) {
    if (value.data[i] < '0' || value.data[i] > '9') return false;
    number = number * 10 + (uint64_t)(value.data[i] - '0');
    if (number > most) return false; /* most is far below 2^60: no overflow before */
  }
  *ret_value = number;
  return true;
}

static bool take_string(const member_set *set, member which, envelope_text *ret_text) {
  if (!has(set, which)) return true;
  envelope_text value = set->values[which];
  if (*value.data != '"') return false;
  *ret_text = (envelope_text){value.data + 1, value.size - 2};
  return true;
}

bool envelope_has_nul(envelope_text text) {
  for (size_t i = 0; i + 1 < text.size; i++) {
    if (text.data[i] != '\\') continue;
    if (text.data[i + 1] == 'u' && memcmp(text.data + i + 2, "0000", 4) == 0) return true;
    i++;
  }
  return false;
}

static const char *take_request(const member_set *set, struct envelope *to) {
  to->type = ENVELOPE_REQUEST;
  if (!take_unsigned(set, MEMBER_TIMEOUT_MS, UINT32_MAX, &to->timeout_ms))
    return "member \"timeout_ms\" is no unsigned integer";
  if (!take_string(set, MEMBER_METHOD, &to->method)) return "member \"method\" is no string";
  if (envelope_has_nul(to->method)) return "a NUL in a name";
  to->body = set->values[MEMBER_BODY];
  return NULL;
}

static const char *take_error(const member_set *set, envelope_text *ret_error, envelope_text *ret_type,
                              envelope_text *ret_traceback, bool *ret_interrupted) {
  *ret_interrupted = has(set, MEMBER_INTERRUPTED) && *set->values[MEMBER_INTERRUPTED].data == 't';
  if (!take_string(set, MEMBER_ERROR, ret_error)) return "member \"error\" is no string";
  if (!take_string(set, MEMBER_TYPE, ret_type)) return "member \"type\" is no string";
  if (!take_string(set, MEMBER_TRACEBACK, ret_traceback)) return "member \"traceback\" is no string";
  return NULL;
}

static const char *take_reply(const member_set *set, struct envelope *to) {
  to->type = ENVELOPE_REPLY;
  to->ok = *set->values[MEMBER_OK].data == 't';
  if (!to->ok && *set->values[MEMBER_OK].data != 'f') return "member \"ok\" is neither true nor false";
  uint64_t code = 0;
  if (!take_unsigned(set, MEMBER_CODE, UINT32_MAX, &code)) return "member \"code\" is no unsigned integer";
  to->code = (uint32_t)code;
  to->body = set->values[MEMBER_BODY];
  return take_error(set, &to->error, &to->error_type, &to->traceback, &to->interrupted);
}

/* Takes a message apart that has no "ok". */
static const char *take_message(const member_set *set, const member_set *payload, struct envelope *to) {
  envelope_text type = {NULL, 0};
  if (!take_string(set, MEMBER_TYPE, &type) || type.data == NULL) { /* a "type" that is no string is nothing to us */
    if (!take_unsigned(set, MEMBER_ID, UINT64_C(1) << 53, &to->id)) return "member \"id\" is no unsigned integer";
    return take_request(set, to);
  }
  bool request = text_equals(type, "request", 7);
  to->type = ENVELOPE_OTHER;
  if (!request && !text_equals(type, "cancellation", 12)) return NULL;
  if (!has(set, MEMBER_PAYLOAD) || *set->values[MEMBER_PAYLOAD].data != '{') return "member \"payload\" is no object";
  if (!take_unsigned(payload, MEMBER_ID, UINT64_C(1) << 53, &to->id)) return "member \"id\" is no unsigned integer";
  if (request) return take_request(payload, to);
  to->type = ENVELOPE_CANCELLATION;
  return take_string(payload, MEMBER_REASON, &to->reason) ? NULL : "member \"reason\" is no string";
}

/* The members of a text that is one object. Returns NULL, or what is wrong with it. */
static const char *scan_object(const char *text, size_t size, member_set *set, member_set *payload) {
  scanner scan = {(const uint8_t *)text, (const uint8_t *)text + size, NULL};
  skip_space(&scan);
  if (!is_at(&scan, '{')) return "not a JSON object";
  return scan_members(&scan, 1, set, payload) && scan_end(&scan) ? NULL : scan.wrong;
}

const char *envelope_parse(const char *payload, size_t size, struct envelope *ret_envelope) {
  member_set set, inner;
  memset(ret_envelope, 0, sizeof *ret_envelope);
  const char *wrong = scan_object(payload, size, &set, &inner);
  if (wrong != NULL) return wrong;
  if (!has(&set, MEMBER_OK)) return take_message(&set, &inner, ret_envelope);
  if (!take_unsigned(&set, MEMBER_ID, UINT64_C(1) << 53, &ret_envelope->id))
    return "member \"id\" is no unsigned integer";
  return take_reply(&set, ret_envelope);
}

const char *envelope_parse_error(const char *text, size_t size, envelope_text *ret_error, envelope_text *ret_type,
                                 envelope_text *ret_traceback, bool *ret_interrupted) {
  member_set set;
  *ret_interrupted = false;
  *ret_error = *ret_type = *ret_traceback = (envelope_text){NULL, 0};
  const char *wrong = scan_object(text, size, &set, NULL);
  if (wrong == NULL) wrong = take_error(&set, ret_error, ret_type, ret_traceback, ret_interrupted);
  return wrong == NULL && ret_error->data == NULL ? "member \"error\" is missing" : wrong;
}

/* --- Escapes --- */

static char *put_character(char *to, uint32_t character) {
  if (character < 0x80) {
    *to++ = (char)character;
  } else if (character < 0x800) {
    *to++ = (char)(0xc0 | (character >> 6));
    *to++ = (char)(0x80 | (character & 0x3f));
  } else if (character < 0x10000) {
    *to++ = (char)(0xe0 | (character >> 12));
    *to++ = (char)(0x80 | ((character >> 6) & 0x3f));
    *to++ = (char)(0x80 | (character & 0x3f));
  } else {
    *to++ = (char)(0xf0 | (character >> 18));
    *to++ = (char)(0x80 | ((character >> 12) & 0x3f));
    *to++ = (char)(0x80 | ((character >> 6) & 0x3f));
    *to++ = (char)(0x80 | (character & 0x3f));
  }
  return to;
}

static char unescaped_letter(uint8_t letter) {
  switch (letter) {
  case 'b':
    return '\b';
  case 'f':
    return '\f';
  case 'n':
    return '\n';
  case 'r':
    return '\r';
  case 't':
    return '\t';
  default:
    return (char)letter;
  }
}

size_t envelope_unescape(envelope_text text, char *to) {
  const uint8_t *at = (const uint8_t *)text.data, *end = at + text.size;
  char *out = to;
  while (at < end) {
    const uint8_t *escape = memchr(at, '\\', (size_t)(end - at));
    size_t plain = (size_t)((escape == NULL ? end : escape) - at);
    memcpy(out, at, plain);
    out += plain;
    at += plain;
    if (end - at < 2) break;
    if (at[1] != 'u') {
      *out++ = unescaped_letter(at[1]);
      at += 2;
      continue;
    }
    size_t size;
    int32_t character = escaped_character(at, end, &size);
    if (character == -1) break;
    out = put_character(out, character <= 0 ? 0xfffd : (uint32_t)character);
    at += size;
  }
  *out = '\0';
  return (size_t)(out - to);
}

/* What stands behind the backslash for a control character; 'u' for \u00XX. */
static const char control_letters[] = "uuuuuuuubtnufruuuuuuuuuuuuuuuuuu";

static inline bool is_plain(uint8_t byte) {
  return byte >= 0x20 && byte != '"' && byte != '\\';
}

/* The bytes up to the first that needs an escape. */
static size_t plain_run(const uint8_t *from, const uint8_t *end) {
  const uint8_t *at = from;
  while (end - at >= 8 && is_plain8(at, false)) at += 8;
  while (at < end && is_plain(*at)) at++;
  return (size_t)(at - from);
}

size_t envelope_escaped_size(const char *text, size_t size) {
  const uint8_t *at = (const uint8_t *)text, *end = at + size;
  size_t total = size;
  for (;;) {
    at += plain_run(at, end);
    if (at == end) return total;
    total += *at < 0x20 && control_letters[*at] == 'u' ? 5 : 1;
    at++;
  }
}

char *envelope_escape(char *to, const char *text, size_t size) {
  static const char hex[] = "0123456789abcdef";
  const uint8_t *at = (const uint8_t *)text, *end = at + size;
  for (;;) {
    size_t run = plain_run(at, end);
    if (run > 0) memcpy(to, at, run);
    to += run;
    at += run;
    if (at == end) return to;
    *to++ = '\\';
    if (*at >= 0x20) {
      *to++ = (char)*at;
    } else {
      *to++ = control_letters[*at];
      if (control_letters[*at] == 'u') {
        memcpy(to, "00", 2);
        to[2] = hex[*at >> 4];
        to[3] = hex[*at & 15];
        to += 4;
      }
    }
    at++;
  }
}
