/*
 * shape.h - whether the messages of a method mean the same on both sides (schema/wire.md, HELLO of a worker).
 */
#ifndef PYPROC_SHAPE_H
#define PYPROC_SHAPE_H

#include <jansson.h>
#include <pyproc_generated.h>

/* Compares the method's messages with those that the worker calls `request` and `reply`; `messages` is the member of
 * its hello, untrusted, or NULL. FAILED_PRECONDITION names method and field; DATA_LOSS: the worker's shapes make no
 * sense. */
int shape_check_method(const pyproc_method *method, const json_t *messages, const char *request, const char *reply,
                       pyproc_error **reterr);

#endif
