#include "error.h"

#include "metadata.h"
#include "wire/envelope.h"
#include "wire/frame.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct pyproc_error {
  bool is_static; /* a library's own, for want of memory; told by a flag, since its module has one of its own */
  int code;
  int may_have_run, attempts, stop;
  pid_t worker_pid;
  char *message, *type, *traceback, *log;
  pyproc_crash *crash; /* its texts are owned too */
  metadata_set *metadata;
};

static char out_of_memory_message[] = "out of memory";
static pyproc_error out_of_memory = {
    .is_static = true, .code = PYPROC_E_RESOURCE_EXHAUSTED, .message = out_of_memory_message, .may_have_run = 1};

static const char *const code_texts[] = {
    "ok",        "cancelled",       "unknown error",     "invalid argument",   "deadline exceeded",
    "not found", "already exists",  "permission denied", "resource exhausted", "failed precondition",
    "aborted",   "out of range",    "unimplemented",     "internal error",     "unavailable",
    "data loss", "unauthenticated",
};

const char *pyproc_strerror(int code) {
  if (code >= 0) return code_texts[0];
  return code >= PYPROC_E_UNAUTHENTICATED ? code_texts[-code] : "not a code of pyproc";
}

int error_from_wire(uint32_t status) {
  return status >= 1 && status <= -PYPROC_E_UNAUTHENTICATED ? -(int)status : PYPROC_E_UNKNOWN;
}

static bool is_writable(const pyproc_error *error) {
  return error != NULL && !error->is_static;
}

/* The number of bytes of the character at `text`, 0 when it is none or a NUL. */
static size_t character_size(const char *text, size_t size) {
  if (*text == '\0') return 0;
  for (size_t length = 1; length <= 4 && length <= size; length++)
    if (envelope_is_utf8(text, length)) return length;
  return 0;
}

/* A NUL-terminated copy with U+FFFD for what is not UTF-8, cut at WIRE_ERROR_TEXT_MAX bytes. NULL when out of memory.
 * */
static char *text_new(const char *text, size_t size) {
  size_t room = size < WIRE_ERROR_TEXT_MAX ? size * 3 : WIRE_ERROR_TEXT_MAX;
  if (room > WIRE_ERROR_TEXT_MAX) room = WIRE_ERROR_TEXT_MAX;
  bool clean = size <= room && memchr(text, '\0', size) == NULL && envelope_is_utf8(text, size);
  char *copy = malloc((clean ? size : room) + 1);
  if (copy == NULL) return NULL;
  size_t end = 0;
  if (clean) {
    memcpy(copy, text, size);
    end = size;
  } else {
    for (size_t at = 0; at < size;) {
      size_t length = character_size(text + at, size - at);
      const char *from = length == 0 ? "\xef\xbf\xbd" : text + at;
      size_t count = length == 0 ? 3 : length;
      if (end + count > room) break;
      memcpy(copy + end, from, count);
      end += count;
      at += length == 0 ? 1 : length;
    }
  }
  copy[end] = '\0';
  return copy;
}

static char *text_copy(const char *text) {
  return text == NULL ? NULL : text_new(text, strlen(text));
}

/* What the format says, or NULL when out of memory. */
static char *text_format(const char *format, va_list arguments) {
  va_list again;
  va_copy(again, arguments);
  char brief[512];
  int size = vsnprintf(brief, sizeof brief, format, arguments);
  char *text = NULL;
  if (size >= 0 && (size_t)size < sizeof brief) {
    text = text_new(brief, (size_t)size);
  } else if (size >= 0) {
    char *whole = malloc((size_t)size + 1);
    if (whole != NULL && vsnprintf(whole, (size_t)size + 1, format, again) == size)
      text = text_new(whole, (size_t)size);
    free(whole);
  } else {
    text = text_copy(format);
  }
  va_end(again);
  return text;
}

static pyproc_error *error_make(int code, const char *format, va_list arguments) {
  pyproc_error *error = calloc(1, sizeof *error);
  if (error == NULL) return &out_of_memory;
  error->code = code < 0 && code >= PYPROC_E_UNAUTHENTICATED ? code : PYPROC_E_UNKNOWN;
  error->message = text_format(format, arguments);
  if (error->message != NULL) return error;
  free(error);
  return &out_of_memory;
}

pyproc_error *error_new(int code, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  pyproc_error *error = error_make(code, format, arguments);
  va_end(arguments);
  return error;
}

int error_set(pyproc_error **reterr, int code, const char *format, ...) {
  if (reterr != NULL) {
    va_list arguments;
    va_start(arguments, format);
    *reterr = error_make(code, format, arguments);
    va_end(arguments);
  }
  return code < 0 && code >= PYPROC_E_UNAUTHENTICATED ? code : PYPROC_E_UNKNOWN;
}

int error_give(pyproc_error **reterr, pyproc_error *error) {
  int code = error->code;
  if (reterr != NULL)
    *reterr = error;
  else
    pyproc_error_free(error);
  return code;
}

static void text_replace(char **text, char *by) {
  free(*text);
  *text = by;
}

/* Makes the message `front` and `back` together; takes neither. */
static void message_join(pyproc_error *error, const char *front, const char *back) {
  if (front == NULL || back == NULL) return;
  size_t front_size = strlen(front), back_size = strlen(back);
  char *whole = malloc(front_size + back_size + 1);
  if (whole == NULL) return;
  memcpy(whole, front, front_size);
  memcpy(whole + front_size, back, back_size + 1);
  text_replace(&error->message, whole);
}

void error_append(pyproc_error *error, const char *format, ...) {
  if (!is_writable(error)) return;
  va_list arguments;
  va_start(arguments, format);
  char *more = text_format(format, arguments);
  va_end(arguments);
  message_join(error, error->message, more);
  free(more);
}

void error_prefix(pyproc_error *error, const char *format, ...) {
  if (!is_writable(error)) return;
  va_list arguments;
  va_start(arguments, format);
  char *more = text_format(format, arguments);
  va_end(arguments);
  message_join(error, more, error->message);
  free(more);
}

void error_set_python(pyproc_error *error, const char *type, size_t type_size, const char *traceback,
                      size_t traceback_size) {
  if (!is_writable(error)) return;
  text_replace(&error->type, type == NULL ? NULL : text_new(type, type_size));
  text_replace(&error->traceback, traceback == NULL ? NULL : text_new(traceback, traceback_size));
}

void error_set_code(pyproc_error *error, int code) {
  if (is_writable(error)) error->code = code;
}

void error_set_worker(pyproc_error *error, pid_t pid) {
  if (is_writable(error)) error->worker_pid = pid;
}

void error_set_log(pyproc_error *error, const char *text) {
  if (is_writable(error)) text_replace(&error->log, text_copy(text));
}

void error_set_may_have_run(pyproc_error *error, int may_have_run) {
  if (is_writable(error)) error->may_have_run = may_have_run != 0;
}

void error_set_attempts(pyproc_error *error, int attempts) {
  if (is_writable(error)) error->attempts = attempts;
}

void error_set_stop(pyproc_error *error, int stop) {
  if (is_writable(error)) error->stop = stop;
}

void error_set_metadata(pyproc_error *error, const uint8_t *data, size_t size) {
  if (!is_writable(error)) return;
  free(error->metadata);
  error->metadata = size > 0 ? malloc(metadata_set_size(data, size)) : NULL;
  if (error->metadata != NULL) metadata_set_init(error->metadata, data, size);
}

static void crash_free(pyproc_crash *crash) {
  if (crash == NULL) return;
  free((char *)crash->method);
  free((char *)crash->log);
  free((char *)crash->stacks);
  free(crash);
}

void error_set_crash(pyproc_error *error, const pyproc_crash *crash) {
  if (!is_writable(error)) return;
  pyproc_crash *copy = crash == NULL ? NULL : malloc(sizeof *copy);
  if (copy != NULL) {
    *copy = *crash;
    copy->size = sizeof *copy;
    copy->method = text_copy(crash->method);
    copy->log = text_copy(crash->log);
    copy->stacks = text_copy(crash->stacks);
  }
  crash_free(error->crash);
  error->crash = copy;
}

void error_take_details(pyproc_error *error, pyproc_error *word) {
  if (!is_writable(error) || !is_writable(word)) return;
  text_replace(&error->type, word->type);
  text_replace(&error->traceback, word->traceback);
  text_replace(&error->log, word->log);
  crash_free(error->crash);
  free(error->metadata);
  error->crash = word->crash;
  error->metadata = word->metadata;
  word->type = word->traceback = word->log = NULL;
  word->crash = NULL;
  word->metadata = NULL;
}

pyproc_error *error_copy(const pyproc_error *error) {
  if (!is_writable(error)) return &out_of_memory;
  pyproc_error *copy = error_new(error->code, "%s", error->message);
  if (!is_writable(copy)) return copy;
  copy->type = text_copy(error->type);
  copy->traceback = text_copy(error->traceback);
  copy->log = text_copy(error->log);
  copy->worker_pid = error->worker_pid;
  copy->may_have_run = error->may_have_run;
  copy->attempts = error->attempts;
  copy->stop = error->stop;
  if (error->metadata != NULL) copy->metadata = malloc(error->metadata->size);
  if (copy->metadata != NULL) metadata_set_copy(copy->metadata, error->metadata);
  error_set_crash(copy, error->crash);
  return copy;
}

/* The unescaped member, or NULL when it is absent or memory is out. */
static char *member_text(envelope_text member, size_t *ret_size) {
  *ret_size = 0;
  char *text = member.data == NULL ? NULL : malloc(member.size + 1);
  if (text != NULL) *ret_size = envelope_unescape(member, text);
  return text;
}

pyproc_error *error_from_object(int code, const char *json, size_t size) {
  envelope_text message, type, traceback;
  bool interrupted;
  const char *wrong = envelope_parse_error(json, size, &message, &type, &traceback, &interrupted);
  if (wrong != NULL) return error_new(code, "the worker failed, and its error object is broken: %s", wrong);
  size_t message_size, type_size, traceback_size;
  char *message_text = member_text(message, &message_size);
  char *type_text = member_text(type, &type_size);
  char *traceback_text = member_text(traceback, &traceback_size);
  pyproc_error *error = error_new(code, "%s", message_text == NULL ? pyproc_strerror(code) : message_text);
  error_set_python(error, type_text, type_size, traceback_text, traceback_size);
  error_set_stop(error, interrupted ? PYPROC_STOP_INTERRUPTED : PYPROC_STOP_NONE);
  free(message_text);
  free(type_text);
  free(traceback_text);
  return error;
}

int pyproc_error_code(const pyproc_error *error) {
  return error == NULL ? PYPROC_OK : error->code;
}

const char *pyproc_error_message(const pyproc_error *error) {
  return error == NULL ? "" : error->message;
}

const char *pyproc_error_type(const pyproc_error *error) {
  return error == NULL ? NULL : error->type;
}

const char *pyproc_error_traceback(const pyproc_error *error) {
  return error == NULL ? NULL : error->traceback;
}

const char *pyproc_error_log(const pyproc_error *error) {
  return error == NULL ? NULL : error->log;
}

pid_t pyproc_error_worker_pid(const pyproc_error *error) {
  return error == NULL ? 0 : error->worker_pid;
}

int pyproc_error_may_have_run(const pyproc_error *error) {
  return error == NULL ? 0 : error->may_have_run;
}

int pyproc_error_attempts(const pyproc_error *error) {
  return error == NULL ? 0 : error->attempts;
}

int pyproc_error_stop(const pyproc_error *error) {
  return error == NULL ? PYPROC_STOP_NONE : error->stop;
}

const pyproc_metadata *pyproc_error_metadata(const pyproc_error *error, size_t *ret_count) {
  return metadata_set_entries(error == NULL ? NULL : error->metadata, ret_count);
}

const pyproc_crash *pyproc_error_crash(const pyproc_error *error) {
  return error == NULL ? NULL : error->crash;
}

void pyproc_error_free(pyproc_error *error) {
  if (!is_writable(error)) return;
  free(error->message);
  free(error->type);
  free(error->traceback);
  free(error->log);
  free(error->metadata);
  crash_free(error->crash);
  free(error);
}
