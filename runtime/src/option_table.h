/*
 * option_table.h - what can be set about a pool by name: one row for each number and text of pyproc_pool_options. It
 * drives the checks at open, what a configuration file and the environment may say, and docs/options.md.
 */
#ifndef PYPROC_OPTION_TABLE_H
#define PYPROC_OPTION_TABLE_H

#include <pyproc.h>
#include <stdbool.h>

enum { OPTION_LIST_MAX = 65536, OPTION_DESCRIPTION_SIZE = 160, OPTION_VARIABLE_SIZE = 64 };

typedef enum option_type {
  OPTION_NUMBER,
  OPTION_LEVEL,       /* a number with a name: a log level */
  OPTION_SWITCH,      /* a number: 1 or 0; in a file also yes, no and the like */
  OPTION_MODE,        /* a number, in a file in octal: bits of a file's mode */
  OPTION_TEXT,        /* const char * */
  OPTION_LIST,        /* const char *const *, NULL-terminated */
  OPTION_ASSIGNMENTS, /* the same, each "NAME=value" */
} option_type;

typedef struct option_row {
  const char *name; /* of the member, and of the key in a file */
  option_type type;
  size_t offset;                     /* of the member */
  int64_t fallback, lowest, highest; /* of numbers; fallback 0: it is no constant */
  bool can_be_off, can_be_unlimited;
  bool is_for_processes; /* says how a process is started or what it may do: there has to be one */
  const char *legacy;    /* the environment variable that the Go library has for it, or NULL */
  const char *doc;       /* what it is, with its unit */
} option_row;

extern const option_row option_table[];
extern const size_t option_table_size;

/* The row of that name, or NULL. */
const option_row *option_find(const char *name);

/* The variable of the environment: "PYPROC_" and the name in upper case. Returns whether it fits into `size`. */
bool option_variable(const option_row *row, char *variable, size_t size);

/* Whether it is a number, of whatever kind. */
bool option_is_number(const option_row *row);

/* Whether the options have anything but the default. */
bool option_is_set(const option_row *row, const pyproc_pool_options *options);

/* Whether a number may be given. */
bool option_allows(const option_row *row, int64_t value);

/* Appends, as snprintf, what is allowed: "allowed are 1 to 1024, 0 (default 4), PYPROC_OFF". */
int option_describe(const option_row *row, char *text, size_t size);

/* The same in the words of a file: "allowed are 1 to 1024, default, off". */
int option_describe_words(const option_row *row, char *text, size_t size);

#endif
