/* Envelopes and JSON texts, compared with what jansson takes for JSON. */
#include "wire/envelope.h"

#include "error.h"

#include <jansson.h>

#include "fuzz.h"

/* Whether the text is within the payload, and unescapes into the room that the contract asks for. */
static void check_text(const uint8_t *data, size_t size, envelope_text text, int escaped) {
  if (text.data == NULL) return;
  size_t from = (size_t)((const uint8_t *)text.data - data);
  FUZZ_CHECK(from <= size && text.size <= size - from);
  if (!escaped) {
    FUZZ_CHECK(envelope_check_json(text.data, text.size) == NULL);
    return;
  }
  char *plain = malloc(text.size + 1);
  FUZZ_CHECK(plain != NULL);
  size_t plain_size = envelope_unescape(text, plain);
  FUZZ_CHECK(plain_size <= text.size && plain[plain_size] == '\0' && strlen(plain) == plain_size);
  FUZZ_CHECK(envelope_is_utf8(plain, plain_size));
  size_t again_size = envelope_escaped_size(plain, plain_size);
  char *again = malloc(again_size + 2);
  FUZZ_CHECK(again != NULL);
  again[0] = again[again_size + 1] = '"';
  FUZZ_CHECK(envelope_escape(again + 1, plain, plain_size) == again + 1 + again_size);
  FUZZ_CHECK(envelope_check_json(again, again_size + 2) == NULL);
  free(again);
  free(plain);
}

/* Texts that one of the two refuses must break a rule that the other does not have. */
static void compare(const char *text, size_t size) {
  json_error_t error;
  const char *wrong = envelope_check_json(text, size);
  json_t *root = json_loadb(text, size, JSON_DECODE_ANY | JSON_ALLOW_NUL, &error);
  if (wrong == NULL && root == NULL) FUZZ_CHECK(json_error_code(&error) == json_error_numeric_overflow);
  if (wrong != NULL && root != NULL) /* jansson skips a bare NUL behind a number */
    FUZZ_CHECK(strstr(wrong, "nested deeper") != NULL || memchr(text, '\0', size) != NULL);
  json_decref(root);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct envelope got;
  const char *text = (const char *)data;
  compare(text, size);
  if (envelope_parse(text, size, &got) == NULL) {
    FUZZ_CHECK(envelope_check_json(text, size) == NULL);
    FUZZ_CHECK(got.id <= UINT64_C(1) << 53);
    check_text(data, size, got.method, 1);
    check_text(data, size, got.error, 1);
    check_text(data, size, got.error_type, 1);
    check_text(data, size, got.traceback, 1);
    check_text(data, size, got.reason, 1);
    check_text(data, size, got.body, 0);
  }
  pyproc_error *error = error_from_object(PYPROC_E_UNKNOWN, text, size);
  FUZZ_CHECK(pyproc_error_code(error) == PYPROC_E_UNKNOWN);
  FUZZ_CHECK(envelope_is_utf8(pyproc_error_message(error), strlen(pyproc_error_message(error))));
  pyproc_error_free(error);
  return 0;
}
