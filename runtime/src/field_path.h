/*
 * field_path.h - where in a message something is wrong: "items[3].name".
 *
 * A walk over a message keeps one step per level on its stack, linked to the step above.
 */
#ifndef PYPROC_FIELD_PATH_H
#define PYPROC_FIELD_PATH_H

#include "error.h"

#include <pyproc_protocol.h>
#include <stddef.h>

#define FIELD_PATH_NO_INDEX PYPROC_NO_INDEX

typedef pyproc_field_path field_path;

/* Sets an error "MESSAGE: field \"PATH\": WHAT", without the middle where path is NULL. Returns the code. */
int field_path_error(pyproc_error **reterr, int code, const char *message_name, const field_path *path,
                     const char *format, ...) ERROR_PRINTF(5);

#endif
