#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#include "json_number.h"

#include <float.h>
#include <langinfo.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Powers of ten that a double holds exactly. */
static const double powers[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
enum { POWER_MAX = 22 };

size_t json_write_unsigned(char *to, uint64_t value) {
  char digits[20];
  size_t count = 0;
  do {
    digits[count++] = (char)('0' + value % 10);
    value /= 10;
  } while (value > 0);
  for (size_t i = 0; i < count; i++) to[i] = digits[count - 1 - i];
  return count;
}

size_t json_write_signed(char *to, int64_t value) {
  if (value >= 0) return json_write_unsigned(to, (uint64_t)value);
  *to = '-';
  return 1 + json_write_unsigned(to + 1, -(uint64_t)value);
}

/* Makes the decimal point, which is the locale's and may have several bytes, a '.'. */
static size_t mend_point(char *text, size_t size) {
  static const char known[] = "+-0123456789e";
  size_t from = strspn(text, known);
  if (from == size) return size;
  size_t to = from + strcspn(text + from, known);
  text[from] = '.';
  memmove(text + from + 1, text + to, size - to + 1);
  return size - (to - from) + 1;
}

/* Reads with strtod, which wants the locale's decimal point. */
static double read_slowly(const char *text, size_t size, bool as_float) {
  const char *point = memchr(text, '.', size);
  const char *local_point = nl_langinfo(RADIXCHAR);
  size_t local_size = strlen(local_point);
  char brief[128];
  char *copy = size + local_size < sizeof brief ? brief : malloc(size + local_size + 1);
  if (copy == NULL) return NAN;
  size_t front = point == NULL ? size : (size_t)(point - text);
  memcpy(copy, text, front);
  size_t end = front;
  if (point != NULL) {
    memcpy(copy + end, local_point, local_size);
    end += local_size;
    memcpy(copy + end, point + 1, size - front - 1);
    end += size - front - 1;
  }
  copy[end] = '\0';
  double value = as_float ? (double)strtof(copy, NULL) : strtod(copy, NULL);
  if (copy != brief) free(copy);
  return value;
}

/* Numbers of up to nine digits and six places, which most are. Reading them divides the same two exact numbers again,
 * and fifteen digits are never more than are needed. */
static size_t write_plainly(char *to, double value) {
  double magnitude = fabs(value);
  if (magnitude >= 1e9 || magnitude < 1e-5) return 0;
  double scaled = nearbyint(magnitude * 1e6);
  if (scaled / 1e6 != magnitude) return 0;
  uint64_t number = (uint64_t)scaled, whole = number / 1000000, places = number % 1000000;
  size_t size = 0;
  if (value < 0) to[size++] = '-';
  size += json_write_unsigned(to + size, whole);
  if (places == 0) return size;
  to[size++] = '.';
  for (uint64_t unit = 100000; places > 0; unit /= 10) {
    to[size++] = (char)('0' + places / unit);
    places %= unit;
  }
  return size;
}

static size_t write_slowly(char *to, double value, int digits, int digits_max, bool as_float) {
  for (;; digits++) {
    size_t size = mend_point(to, (size_t)snprintf(to, JSON_NUMBER_MAX, "%.*g", digits, value));
    if (digits == digits_max || read_slowly(to, size, as_float) == value) return size;
  }
}

/* Whole numbers that are exact; zero and minus zero too. */
static size_t write_whole(char *to, double value) {
  if (fabs(value) >= 1e15 || (double)(int64_t)value != value) return 0;
  if (signbit(value) && (int64_t)value == 0) {
    memcpy(to, "-0.0", 4);
    return 4;
  }
  return json_write_signed(to, (int64_t)value);
}

size_t json_write_double(char *to, double value) {
  size_t size = write_whole(to, value);
  if (size == 0) size = write_plainly(to, value);
  return size != 0 ? size : write_slowly(to, value, 15, 17, false);
}

size_t json_write_float(char *to, float value) {
  if (fabsf(value) == FLT_MAX)
    return json_write_double(to, (double)value); /* rounded up, Python's protobuf refuses it */
  size_t size = fabsf(value) < 1e6f ? write_whole(to, (double)value) : 0;
  return size != 0 ? size : write_slowly(to, (double)value, 6, 9, true);
}

static size_t count_digits(const char *text, size_t size) {
  size_t count = 0;
  while (count < size && text[count] >= '0' && text[count] <= '9') count++;
  return count;
}

/* A number taken apart: its digits without the point, as far as they fit, and the power of ten. */
typedef struct parts {
  bool negative, whole; /* whole: neither point nor exponent */
  bool exact;           /* all digits fit */
  uint64_t digits;
  int exponent;
} parts;

static void add_digits(parts *number, const char *text, size_t count, bool places) {
  for (size_t i = 0; i < count; i++) {
    unsigned digit = (unsigned)(text[i] - '0');
    if (number->digits > (UINT64_MAX - digit) / 10) {
      number->exact = false;
      return;
    }
    number->digits = number->digits * 10 + digit;
    if (places) number->exponent--;
  }
}

/* Adds an exponent, which stands at `text` as e, a sign and digits. False: it is none. */
static bool add_exponent(parts *number, const char *text, size_t size) {
  size_t at = 1;
  bool negative = at < size && text[at] == '-';
  if (at < size && (text[at] == '-' || text[at] == '+')) at++;
  size_t count = count_digits(text + at, size - at);
  if (count == 0 || at + count != size) return false;
  int exponent = 0;
  for (; at < size && exponent < 100000; at++) exponent = exponent * 10 + (text[at] - '0');
  number->exponent += negative ? -exponent : exponent;
  return true;
}

/* False: no number of JSON's grammar. */
static bool take_apart(const char *text, size_t size, parts *number) {
  *number = (parts){.whole = true, .exact = true};
  size_t at = 0;
  if (at < size && text[at] == '-') {
    number->negative = true;
    at++;
  }
  size_t count = count_digits(text + at, size - at);
  if (count == 0 || (count > 1 && text[at] == '0')) return false;
  add_digits(number, text + at, count, false);
  at += count;
  if (at < size && text[at] == '.') {
    number->whole = false;
    at++;
    count = count_digits(text + at, size - at);
    if (count == 0) return false;
    add_digits(number, text + at, count, true);
    at += count;
  }
  if (at == size) return true;
  number->whole = false;
  return (text[at] == 'e' || text[at] == 'E') && add_exponent(number, text + at, size - at);
}

/* The number without its sign, when it is an integer that 64 bits hold. */
static bool to_integer(const parts *number, uint64_t *ret_value) {
  if (!number->exact) return false;
  uint64_t value = number->digits;
  int exponent = value == 0 ? 0 : number->exponent;
  for (; exponent > 0; exponent--) {
    if (value > UINT64_MAX / 10) return false;
    value *= 10;
  }
  for (; exponent < 0; exponent++) {
    if (value % 10 != 0) return false;
    value /= 10;
  }
  *ret_value = value;
  return true;
}

bool json_read_unsigned(const char *text, size_t size, uint64_t *ret_value) {
  parts number;
  return take_apart(text, size, &number) && to_integer(&number, ret_value) && (!number.negative || *ret_value == 0);
}

bool json_read_signed(const char *text, size_t size, int64_t *ret_value) {
  parts number;
  uint64_t value;
  if (!take_apart(text, size, &number) || !to_integer(&number, &value)) return false;
  uint64_t most = (uint64_t)INT64_MAX + (number.negative ? 1 : 0);
  if (value > most) return false;
  *ret_value = !number.negative ? (int64_t)value : value == 0 ? 0 : -(int64_t)(value - 1) - 1;
  return true;
}

bool json_read_double(const char *text, size_t size, double *ret_value) {
  parts number;
  if (!take_apart(text, size, &number)) return false;
  double value;
  int exponent = number.exponent;
  if (number.exact && number.digits <= UINT64_C(1) << 53 && exponent >= -POWER_MAX && exponent <= POWER_MAX) {
    value = (double)number.digits; /* exact, and so is the power: one rounding */
    value = exponent < 0 ? value / powers[-exponent] : value * powers[exponent];
    if (number.negative) value = -value;
  } else {
    value = read_slowly(text, size, false);
  }
  *ret_value = value;
  return isfinite(value);
}

bool json_read_float(const char *text, size_t size, float *ret_value) {
  parts number;
  if (!take_apart(text, size, &number)) return false;
  *ret_value = (float)read_slowly(text, size, true);
  return isfinite(*ret_value);
}
