/*
 * json_any.h - which message the type URL of a google.protobuf.Any names.
 */
#ifndef PYPROC_JSON_ANY_H
#define PYPROC_JSON_ANY_H

#include <pyproc_generated.h>

/* The message of a URL such as "type.googleapis.com/package.Message": one that `root` reaches through its fields, or a
 * well-known one. NULL where there is none, or no memory to look for it. */
const pyproc_message_info *json_any_find(const pyproc_message_info *root, const char *type_url);

#endif
