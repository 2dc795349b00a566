/*
 * json_well_known.h - the texts that protobuf's JSON mapping has for Timestamp, Duration and FieldMask.
 */
#ifndef PYPROC_JSON_WELL_KNOWN_H
#define PYPROC_JSON_WELL_KNOWN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { JSON_TIME_MAX = 48 }; /* room for any text of a Timestamp or a Duration */

/* Write without a NUL and return the number of bytes, 0 where the values are out of the type's range. */
size_t json_write_timestamp(char *to, int64_t seconds, int32_t nanos);
size_t json_write_duration(char *to, int64_t seconds, int32_t nanos);

/* Read a whole text (untrusted). False: it is none. */
bool json_read_timestamp(const char *text, size_t size, int64_t *ret_seconds, int32_t *ret_nanos);
bool json_read_duration(const char *text, size_t size, int64_t *ret_seconds, int32_t *ret_nanos);

/* Between the paths "user.display_name" of a FieldMask and its "user.displayName". `to` has room for size bytes, or for
 * 2 * size. Return the number of bytes, SIZE_MAX where the path would not come back the same. */
size_t json_write_mask_path(char *to, const char *path, size_t size);
size_t json_read_mask_path(char *to, const char *text, size_t size);

#endif
