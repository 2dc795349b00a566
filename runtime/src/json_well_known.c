#include "json_well_known.h"

#include "json_number.h"

#include <string.h>

enum { SECONDS_A_DAY = 86400, NANOS_A_SECOND = 1000000000 };

static const int64_t timestamp_first = INT64_C(-62135596800); /* 0001-01-01T00:00:00Z */
static const int64_t timestamp_last = INT64_C(253402300799);  /* 9999-12-31T23:59:59Z */
static const int64_t duration_most = INT64_C(315576000000);   /* 10,000 years */

/* Days since 1970-01-01 of a day of the Gregorian calendar. Years begin in March, so that the leap day is their last.
 * */
static int64_t days_of(int64_t year, int64_t month, int64_t day) {
  if (month <= 2) year--;
  int64_t century = year / 100;
  int64_t day_of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
  return year * 365 + year / 4 - century + century / 4 + day_of_year - 719468;
}

static int month_days(int64_t year, int64_t month) {
  static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
  bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
  return days[month - 1] + (month == 2 && leap ? 1 : 0);
}

static char *put_digits(char *to, int64_t value, int count) {
  for (int i = count - 1; i >= 0; i--) {
    to[i] = (char)('0' + value % 10);
    value /= 10;
  }
  return to + count;
}

/* A point and three, six or nine digits; nothing for zero. */
static char *put_nanos(char *to, int32_t nanos) {
  if (nanos == 0) return to;
  *to++ = '.';
  if (nanos % 1000000 == 0) return put_digits(to, nanos / 1000000, 3);
  if (nanos % 1000 == 0) return put_digits(to, nanos / 1000, 6);
  return put_digits(to, nanos, 9);
}

size_t json_write_timestamp(char *to, int64_t seconds, int32_t nanos) {
  if (seconds < timestamp_first || seconds > timestamp_last || nanos < 0 || nanos >= NANOS_A_SECOND) return 0;
  int64_t days = (seconds - timestamp_first) / SECONDS_A_DAY; /* since 0001-01-01 */
  int64_t rest = (seconds - timestamp_first) % SECONDS_A_DAY;
  int64_t since_epoch = days + days_of(1, 1, 1);
  int64_t year = 2 + days * 400 / 146097; /* at most two too many */
  while (days_of(year, 1, 1) > since_epoch) year--;
  int64_t month = 1, day = since_epoch - days_of(year, 1, 1);
  for (; day >= month_days(year, month); month++) day -= month_days(year, month);
  char *at = put_digits(to, year, 4);
  *at++ = '-';
  at = put_digits(at, month, 2);
  *at++ = '-';
  at = put_digits(at, day + 1, 2);
  *at++ = 'T';
  at = put_digits(at, rest / 3600, 2);
  *at++ = ':';
  at = put_digits(at, rest / 60 % 60, 2);
  *at++ = ':';
  at = put_nanos(put_digits(at, rest % 60, 2), nanos);
  *at++ = 'Z';
  return (size_t)(at - to);
}

size_t json_write_duration(char *to, int64_t seconds, int32_t nanos) {
  if (seconds < -duration_most || seconds > duration_most || nanos <= -NANOS_A_SECOND || nanos >= NANOS_A_SECOND)
    return 0;
  if ((seconds > 0 && nanos < 0) || (seconds < 0 && nanos > 0)) return 0;
  char *at = to;
  if (seconds < 0 || nanos < 0) *at++ = '-';
  at += json_write_unsigned(at, (uint64_t)(seconds < 0 ? -seconds : seconds));
  at = put_nanos(at, nanos < 0 ? -nanos : nanos);
  *at++ = 's';
  return (size_t)(at - to);
}

/* What is left to read. */
typedef struct cursor {
  const char *at, *end;
} cursor;

static bool take_byte(cursor *from, char byte) {
  if (from->at == from->end || *from->at != byte) return false;
  from->at++;
  return true;
}

static bool take_digits(cursor *from, int count, int64_t *ret_value) {
  int64_t value = 0;
  for (int i = 0; i < count; i++, from->at++) {
    if (from->at == from->end || *from->at < '0' || *from->at > '9') return false;
    value = value * 10 + (*from->at - '0');
  }
  *ret_value = value;
  return true;
}

/* A point and one to nine digits, if there is a point. */
static bool take_nanos(cursor *from, int32_t *ret_nanos) {
  int32_t nanos = 0, unit = NANOS_A_SECOND;
  if (take_byte(from, '.')) {
    for (; from->at < from->end && *from->at >= '0' && *from->at <= '9' && unit > 1; from->at++) {
      unit /= 10;
      nanos += (*from->at - '0') * unit;
    }
    if (unit == NANOS_A_SECOND) return false;
  }
  *ret_nanos = nanos;
  return true;
}

/* "Z", or hours and minutes that the text is ahead of it. */
static bool take_offset(cursor *from, int64_t *ret_seconds) {
  int64_t hours, minutes;
  *ret_seconds = 0;
  if (take_byte(from, 'Z')) return true;
  int sign = take_byte(from, '+') ? 1 : take_byte(from, '-') ? -1 : 0;
  if (sign == 0 || !take_digits(from, 2, &hours) || !take_byte(from, ':') || !take_digits(from, 2, &minutes))
    return false;
  *ret_seconds = sign * (hours * 3600 + minutes * 60);
  return hours < 24 && minutes < 60;
}

bool json_read_timestamp(const char *text, size_t size, int64_t *ret_seconds, int32_t *ret_nanos) {
  cursor from = {text, text + size};
  int64_t year, month, day, hour, minute, second, offset;
  if (!take_digits(&from, 4, &year) || !take_byte(&from, '-') || !take_digits(&from, 2, &month) ||
      !take_byte(&from, '-') || !take_digits(&from, 2, &day) || !take_byte(&from, 'T'))
    return false;
  if (!take_digits(&from, 2, &hour) || !take_byte(&from, ':') || !take_digits(&from, 2, &minute) ||
      !take_byte(&from, ':') || !take_digits(&from, 2, &second))
    return false;
  if (!take_nanos(&from, ret_nanos) || !take_offset(&from, &offset) || from.at != from.end) return false;
  if (year < 1 || month < 1 || month > 12 || day < 1 || day > month_days(year, month)) return false;
  if (hour > 23 || minute > 59 || second > 59) return false;
  *ret_seconds = days_of(year, month, day) * SECONDS_A_DAY + hour * 3600 + minute * 60 + second - offset;
  return *ret_seconds >= timestamp_first && *ret_seconds <= timestamp_last;
}

bool json_read_duration(const char *text, size_t size, int64_t *ret_seconds, int32_t *ret_nanos) {
  cursor from = {text, text + size};
  bool negative = take_byte(&from, '-');
  const char *digits = from.at;
  int64_t seconds = 0;
  for (; from.at < from.end && *from.at >= '0' && *from.at <= '9'; from.at++) {
    seconds = seconds * 10 + (*from.at - '0');
    if (seconds > duration_most) return false;
  }
  if (from.at == digits || !take_nanos(&from, ret_nanos) || !take_byte(&from, 's') || from.at != from.end) return false;
  *ret_seconds = negative ? -seconds : seconds;
  if (negative) *ret_nanos = -*ret_nanos;
  return true;
}

size_t json_write_mask_path(char *to, const char *path, size_t size) {
  char *out = to;
  for (size_t i = 0; i < size; i++) {
    if (path[i] >= 'A' && path[i] <= 'Z') return SIZE_MAX;
    if (path[i] != '_') {
      *out++ = path[i];
      continue;
    }
    i++;
    if (i == size || path[i] < 'a' || path[i] > 'z') return SIZE_MAX;
    *out++ = (char)(path[i] - 'a' + 'A');
  }
  return (size_t)(out - to);
}

size_t json_read_mask_path(char *to, const char *text, size_t size) {
  char *out = to;
  for (size_t i = 0; i < size; i++) {
    if (text[i] == '_') return SIZE_MAX;
    if (text[i] >= 'A' && text[i] <= 'Z') {
      *out++ = '_';
      *out++ = (char)(text[i] - 'A' + 'a');
    } else {
      *out++ = text[i];
    }
  }
  return (size_t)(out - to);
}
