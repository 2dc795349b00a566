#include "field_path.h"

#include "buffer.h"
#include "wire/frame.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* Deeper than any walk goes: a map takes two steps for each level of nesting. */
enum { STEPS_MAX = 4 * WIRE_NESTING_MAX };

/* protobuf-c leaves names out of files with optimize_for = CODE_SIZE. */
static const char *step_name(const field_path *step) {
  return step->name == NULL ? "?" : step->name;
}

static bool append_step(buffer *text, const field_path *step, bool first) {
  char index[32];
  if (!first && !buffer_append(text, ".", 1)) return false;
  if (!buffer_append_text(text, step_name(step))) return false;
  if (step->index == FIELD_PATH_NO_INDEX) return true;
  snprintf(index, sizeof index, "[%zu]", step->index);
  return buffer_append_text(text, index);
}

static bool append_path(buffer *text, const field_path *path) {
  const field_path *steps[STEPS_MAX];
  size_t count = 0;
  for (; path != NULL && count < STEPS_MAX; path = path->parent) steps[count++] = path;
  for (size_t i = count; i > 0; i--)
    if (!append_step(text, steps[i - 1], i == count)) return false;
  return buffer_append(text, "", 1);
}

int field_path_error(pyproc_error **reterr, int code, const char *message_name, const field_path *path,
                     const char *format, ...) {
  if (reterr == NULL) return code;
  char what[512];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(what, sizeof what, format, arguments);
  va_end(arguments);
  buffer text = {0};
  if (message_name == NULL) message_name = "message";
  if (path == NULL)
    error_set(reterr, code, "%s: %s", message_name, what);
  else
    error_set(reterr, code, "%s: field \"%s\": %s", message_name,
              append_path(&text, path) ? (const char *)text.data : step_name(path), what);
  buffer_free(&text);
  return code;
}
