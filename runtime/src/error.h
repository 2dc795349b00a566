/*
 * error.h - how an error is made; pyproc.h has the reading side.
 *
 * An error belongs to whoever holds it and is not locked. Making one never fails: without memory there is one static
 * object, RESOURCE_EXHAUSTED "out of memory", on which setters do nothing and which need not be freed (but may be).
 * What a setter cannot store for lack of memory it drops. Texts are copied and always valid UTF-8: bytes that are not
 * become U+FFFD.
 */
#ifndef PYPROC_ERROR_H
#define PYPROC_ERROR_H

#include <pyproc.h>
#include <stddef.h>
#include <stdint.h>

#define ERROR_PRINTF(format_index) __attribute__((format(printf, format_index, (format_index) + 1)))

/* Never NULL. `code` is a PYPROC_E*; any other value becomes PYPROC_E_UNKNOWN. */
pyproc_error *error_new(int code, const char *format, ...) ERROR_PRINTF(2);

/* Makes an error for the caller of a public function, unless reterr is NULL. Returns its code (of the error that was
 * asked for, also when out of memory), so that functions may `return error_set(…)`. */
int error_set(pyproc_error **reterr, int code, const char *format, ...) ERROR_PRINTF(3);

/* Hands an error over; frees it where reterr is NULL. Returns its code. */
int error_give(pyproc_error **reterr, pyproc_error *error);

/* Appends to the message, puts in front of it. */
void error_append(pyproc_error *error, const char *format, ...) ERROR_PRINTF(2);
void error_prefix(pyproc_error *error, const char *format, ...) ERROR_PRINTF(2);

/* What the Python side said. `type` and `traceback` may be NULL: none. */
void error_set_python(pyproc_error *error, const char *type, size_t type_size, const char *traceback,
                      size_t traceback_size);
void error_set_code(pyproc_error *error, int code);
void error_set_worker(pyproc_error *error, pid_t pid);
void error_set_log(pyproc_error *error, const char *text); /* the worker's last lines */
void error_set_may_have_run(pyproc_error *error, int may_have_run);
void error_set_attempts(pyproc_error *error, int attempts);
void error_set_stop(pyproc_error *error, int stop); /* PYPROC_STOP_* */
/* Encoded as in a frame, and checked. Size 0: none. */
void error_set_metadata(pyproc_error *error, const uint8_t *data, size_t size);
void error_set_crash(pyproc_error *error, const pyproc_crash *crash); /* copied with its texts; NULL takes it away */

/* Lets the error have what the worker told in another one, `word`: type, traceback, last lines, crash, metadata. */
void error_take_details(pyproc_error *error, pyproc_error *word);

/* A copy of everything, for a second caller. Never NULL. */
pyproc_error *error_copy(const pyproc_error *error);

/* The PYPROC_E* of a status on the wire: 1 … 16, all else (also 0, which is no error) is PYPROC_E_UNKNOWN. */
int error_from_wire(uint32_t status);

/* The error that an error object of schema/wire.md tells of. Untrusted: what is no such object is an error with the
 * same code and a message that says so. Never NULL. */
pyproc_error *error_from_object(int code, const char *json, size_t size);

#endif
