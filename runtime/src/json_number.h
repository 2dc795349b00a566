/*
 * json_number.h - numbers as JSON has them, whatever the locale of the host is.
 */
#ifndef PYPROC_JSON_NUMBER_H
#define PYPROC_JSON_NUMBER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { JSON_NUMBER_MAX = 32 }; /* room for any number that is written here */

/* Write without a NUL and return the number of bytes. Doubles and floats must be finite; they get the fewest digits
 * from which the same value is read again. */
size_t json_write_unsigned(char *to, uint64_t value);
size_t json_write_signed(char *to, int64_t value);
size_t json_write_double(char *to, double value);
size_t json_write_float(char *to, float value);

/* Read what is a number of JSON's grammar as a whole (untrusted). False: it is none, or none that the type can hold;
 * integers may be written as 1.0 or 1e3. */
bool json_read_unsigned(const char *text, size_t size, uint64_t *ret_value);
bool json_read_signed(const char *text, size_t size, int64_t *ret_value);
bool json_read_double(const char *text, size_t size, double *ret_value);
bool json_read_float(const char *text, size_t size, float *ret_value);

#endif
