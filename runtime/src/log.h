/*
 * log.h - from the output of workers, and the library's own remarks, to the user's log callback.
 *
 * A log_stream splits one captured pipe into lines and puts them into the pool's log_queue and into the worker's
 * log_tail. The supervisor alone empties the queue into the callback. While it is stuck there (log_in_callback),
 * calling threads keep the pipes empty by log_stream_read, so that no worker stalls on its output and no call on a
 * callback.
 *
 * Everything here may be called by any thread unless it says otherwise. No function here calls out under a lock.
 */
#ifndef PYPROC_LOG_H
#define PYPROC_LOG_H

#include "pyproc.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define LOG_RECORD_LIMIT 4096u     /* records that wait in a queue */
#define LOG_TEXT_LIMIT (1u << 20)  /* bytes of their text */
#define LOG_LINE_LIMIT 8192u       /* bytes of a line; longer ones are cut into pieces */
#define LOG_READ_LIMIT (64u << 10) /* bytes taken by one log_stream_read */
#define LOG_LAST_READS 32          /* of one log_stream_take_last: more than a pipe holds */
#define LOG_TAIL_LINES 32u
#define LOG_TAIL_BYTES 8192u

/* ---- queue ---- */

typedef struct log_queue log_queue;

typedef struct log_queue_options {
  int64_t level;                 /* PYPROC_LOG_*: records below are left out; 0: INFO; PYPROC_OFF: all are */
  size_t record_limit;           /* 0: LOG_RECORD_LIMIT */
  size_t text_limit;             /* 0: LOG_TEXT_LIMIT */
  pyproc_log_callback *callback; /* NULL: as PYPROC_OFF */
  void *userdata;
  void (*wake)(void *argument); /* called by the thread that put a record into an empty queue; may be NULL */
  void *wake_argument;
} log_queue_options;

/* NULL when out of memory. */
log_queue *log_queue_new(const log_queue_options *options);

/* Drops what was not delivered. Nobody may use the queue any more. */
void log_queue_free(log_queue *queue);

/* Whether records of that level are wanted at all. */
bool log_wanted(const log_queue *queue, int level);

/* Adds a record: `source` is a constant string, `size` bytes of `text` are copied, and must be valid UTF-8 without NUL.
   When the queue is full the record is dropped and counted. `pid` is 0 where no worker is meant. */
void log_put(log_queue *queue, int level, pid_t pid, const char *source, const char *text, size_t size);

/* The library's own line, source "pyproc"; made valid UTF-8 and cut at 2 KiB. */
void log_write(log_queue *queue, int level, pid_t pid, const char *format, ...) __attribute__((format(printf, 4, 5)));

/* Supervisor only: runs the callback for at most `max` records, outside the lock. Returns true when more are waiting.
   Where records were dropped, a WARNING from "pyproc" says how many, in their place. */
bool log_deliver(log_queue *queue, size_t max);

/* Whether the supervisor is in the callback right now. A look without a lock. */
bool log_in_callback(const log_queue *queue);

/* How many records were dropped since the queue was made. */
uint64_t log_dropped(log_queue *queue);

/* ---- tail: a worker's last lines, for error reports ---- */

typedef struct log_tail log_tail;

log_tail *log_tail_new(void);
void log_tail_free(log_tail *tail);
void log_tail_add(log_tail *tail, const char *text, size_t size);

/* The lines, oldest first, joined by "\n" without one at the end; "" when there are none. Freed with free(); NULL
   when out of memory. */
char *log_tail_text(log_tail *tail);

/* ---- stream: one captured pipe ---- */

typedef struct log_stream log_stream;

/* Takes `fd` over (and makes it nonblocking), but not `tail`, which may be NULL and must outlive the stream. `level`
   and `source` are those of every line: INFO "stdout", WARNING "stderr". NULL when out of memory; `fd` is closed
   then. */
log_stream *log_stream_new(int fd, int level, const char *source, log_tail *tail);

/* Says whose lines they are; before the first read. */
void log_stream_set_pid(log_stream *stream, pid_t pid);

int log_stream_fd(const log_stream *stream);

/*
 * Reads what is there, at most about LOG_READ_LIMIT bytes, without blocking. Lines end with "\n" or "\r\n"; NUL and
 * what is no UTF-8 become U+FFFD. `queue` may be NULL: the tail alone is filled.
 * Returns more than 0 when something was read (there may be more), 0 at the end of the pipe (an unfinished last line
 * has been passed on), below 0 when nothing is there.
 */
int log_stream_read(log_stream *stream, log_queue *queue);

/*
 * For a process that ends: reads what is there, LOG_LAST_READS times at most, and passes an unfinished line on without
 * waiting for its end, as a child of the process may keep the pipe open. NULL is fine.
 */
void log_stream_take_last(log_stream *stream, log_queue *queue);

/* Closes the descriptor. NULL is fine. */
void log_stream_free(log_stream *stream);

#endif
