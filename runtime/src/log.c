#define _POSIX_C_SOURCE 200809L

#include "log.h"

#include "platform.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

enum { WRITE_LIMIT = 2048, READ_SIZE = 16384, REPLACEMENT_SIZE = 3 };

/* ---- text ---- */

/* How many bytes of well-formed UTF-8, NUL excluded, begin at `at`: 0 when it is malformed, and *ret_partial when it
   merely ends too early. */
static size_t character_size(const unsigned char *at, size_t left, bool *ret_partial) {
  unsigned char first = at[0];
  *ret_partial = false;
  if (first < 0x80) return first != 0;
  size_t size = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
  if (first < 0xC2 || first > 0xF4) return 0;
  unsigned char low = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;  /* no overlong forms */
  unsigned char high = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF; /* no surrogates, nothing above U+10FFFF */
  for (size_t i = 1; i < size; i++) {
    if (i == left) {
      *ret_partial = true;
      return 0;
    }
    if (at[i] < low || at[i] > high) return 0;
    low = 0x80;
    high = 0xBF;
  }
  return size;
}

/* Copies, with U+FFFD for each byte that is NUL or malformed. `to` holds three times `size`. Returns its size. */
static size_t sanitise(const char *from, size_t size, char *to) {
  size_t used = 0;
  bool partial;
  for (size_t at = 0; at < size;) {
    size_t good = character_size((const unsigned char *)from + at, size - at, &partial);
    memcpy(to + used, good > 0 ? from + at : "\xEF\xBF\xBD", good > 0 ? good : REPLACEMENT_SIZE);
    used += good > 0 ? good : REPLACEMENT_SIZE;
    at += good > 0 ? good : 1;
  }
  return used;
}

/* The largest part of a text that does not end within a character. */
static size_t whole_characters(const char *text, size_t size) {
  bool partial = false;
  for (size_t back = 1; back < 4 && back < size; back++) {
    unsigned char byte = (unsigned char)text[size - back];
    if (byte < 0x80) break;
    if (byte < 0xC0) continue;
    character_size((const unsigned char *)text + size - back, back, &partial);
    return partial ? size - back : size;
  }
  return size;
}

/* ---- queue ---- */

typedef struct record {
  struct record *next;
  int level;
  pid_t pid;
  const char *source;
  size_t size;
  char text[];
} record;

struct log_queue {
  /* constant */
  int level; /* above PYPROC_LOG_ERROR: nothing is wanted */
  size_t record_limit, text_limit;
  pyproc_log_callback *callback;
  void *userdata;
  void (*wake)(void *argument);
  void *wake_argument;
  /* under the mutex */
  pthread_mutex_t mutex;
  record *first, **last;
  size_t count, text_size;
  uint64_t dropped_pending, dropped_total; /* pending: not yet said in the queue */
  atomic_bool in_callback;
};

log_queue *log_queue_new(const log_queue_options *options) {
  log_queue *self = calloc(1, sizeof *self);
  if (self == NULL) return NULL;
  int64_t level = options->level == 0 ? PYPROC_LOG_INFO : options->level;
  bool off = level < 0 || level > PYPROC_LOG_ERROR || options->callback == NULL;
  self->level = off ? PYPROC_LOG_ERROR + 1 : (int)level;
  self->record_limit = options->record_limit == 0 ? LOG_RECORD_LIMIT : options->record_limit;
  self->text_limit = options->text_limit == 0 ? LOG_TEXT_LIMIT : options->text_limit;
  self->callback = options->callback;
  self->userdata = options->userdata;
  self->wake = options->wake;
  self->wake_argument = options->wake_argument;
  self->last = &self->first;
  pthread_mutex_init(&self->mutex, NULL);
  return self;
}

void log_queue_free(log_queue *self) {
  if (self == NULL) return;
  for (record *next, *item = self->first; item != NULL; item = next) {
    next = item->next;
    free(item);
  }
  pthread_mutex_destroy(&self->mutex);
  free(self);
}

bool log_wanted(const log_queue *self, int level) {
  return level >= self->level;
}

static record *record_new(int level, pid_t pid, const char *source, const char *text, size_t size) {
  record *item = malloc(sizeof *item + size + 1);
  if (item == NULL) return NULL;
  *item = (record){.level = level, .pid = pid, .source = source, .size = size};
  memcpy(item->text, text, size);
  item->text[size] = '\0';
  return item;
}

/* What says that records were dropped; never below the level that is wanted. */
static record *notice_new(const log_queue *self, uint64_t dropped) {
  char text[64];
  int size = snprintf(text, sizeof text, "%llu log lines dropped", (unsigned long long)dropped);
  int level = self->level > PYPROC_LOG_WARNING ? self->level : PYPROC_LOG_WARNING;
  return record_new(level, 0, "pyproc", text, (size_t)size);
}

/* Mutex held. */
static void append(log_queue *self, record *item) {
  *self->last = item;
  self->last = &item->next;
  self->count++;
  self->text_size += item->size;
}

/* Mutex held. Appends the record, behind a notice where some were dropped before it; false when it does not fit. */
static bool append_if_room(log_queue *self, record *item) {
  size_t needed = self->dropped_pending > 0 ? 2 : 1;
  if (self->count + needed > self->record_limit || item->size > self->text_limit - self->text_size) return false;
  if (needed == 2) {
    record *notice = notice_new(self, self->dropped_pending);
    if (notice == NULL) return false;
    notice->size = 0; /* its few bytes do not count, or they might not fit */
    append(self, notice);
    self->dropped_pending = 0;
  }
  append(self, item);
  return true;
}

void log_put(log_queue *self, int level, pid_t pid, const char *source, const char *text, size_t size) {
  if (!log_wanted(self, level)) return;
  record *item = record_new(level, pid, source, text, size);
  pthread_mutex_lock(&self->mutex);
  bool was_empty = self->first == NULL && self->dropped_pending == 0;
  bool fits = item != NULL && append_if_room(self, item);
  if (!fits) {
    self->dropped_pending++;
    self->dropped_total++;
  }
  pthread_mutex_unlock(&self->mutex);
  if (!fits) free(item);
  if (was_empty && self->wake != NULL) self->wake(self->wake_argument);
}

void log_write(log_queue *self, int level, pid_t pid, const char *format, ...) {
  char text[WRITE_LIMIT];
  char clean[REPLACEMENT_SIZE * WRITE_LIMIT];
  if (!log_wanted(self, level)) return;
  va_list arguments;
  va_start(arguments, format);
  int wanted = vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  if (wanted < 0) return;
  size_t size = (size_t)wanted < sizeof text ? (size_t)wanted : whole_characters(text, sizeof text - 1);
  for (size_t i = 0; i < size; i++)
    if (text[i] == '\n') text[i] = ' ';
  log_put(self, level, pid, "pyproc", clean, sanitise(text, size, clean));
}

/* Takes the first record, or a notice of what was dropped after the last; NULL when there is nothing. */
static record *take(log_queue *self) {
  pthread_mutex_lock(&self->mutex);
  record *item = self->first;
  if (item != NULL) {
    self->first = item->next;
    if (self->first == NULL) self->last = &self->first;
    self->count--;
    self->text_size -= item->size;
  } else if (self->dropped_pending > 0) {
    item = notice_new(self, self->dropped_pending);
    if (item != NULL) self->dropped_pending = 0;
  }
  pthread_mutex_unlock(&self->mutex);
  return item;
}

bool log_deliver(log_queue *self, size_t max) {
  for (size_t i = 0; i < max; i++) {
    record *item = take(self);
    if (item == NULL) break;
    pyproc_log_record seen = {
        .size = sizeof seen, .level = item->level, .worker_pid = item->pid, .source = item->source, .text = item->text};
    atomic_store(&self->in_callback, true);
    self->callback(&seen, self->userdata);
    free(item);
  }
  atomic_store(&self->in_callback, false);
  pthread_mutex_lock(&self->mutex);
  bool more = self->first != NULL || self->dropped_pending > 0;
  pthread_mutex_unlock(&self->mutex);
  return more;
}

bool log_in_callback(const log_queue *self) {
  return atomic_load_explicit(&self->in_callback, memory_order_relaxed);
}

uint64_t log_dropped(log_queue *self) {
  pthread_mutex_lock(&self->mutex);
  uint64_t dropped = self->dropped_total;
  pthread_mutex_unlock(&self->mutex);
  return dropped;
}

/* ---- tail ---- */

struct log_tail {
  pthread_mutex_t mutex;
  size_t size, lines;
  char text[LOG_TAIL_BYTES]; /* each line with its "\n" */
};

log_tail *log_tail_new(void) {
  log_tail *self = malloc(sizeof *self);
  if (self == NULL) return NULL;
  self->size = self->lines = 0;
  pthread_mutex_init(&self->mutex, NULL);
  return self;
}

void log_tail_free(log_tail *self) {
  if (self == NULL) return;
  pthread_mutex_destroy(&self->mutex);
  free(self);
}

void log_tail_add(log_tail *self, const char *text, size_t size) {
  if (size >= LOG_TAIL_BYTES) { /* its end tells more */
    size_t cut = size - (LOG_TAIL_BYTES - 1);
    while (cut < size && ((unsigned char)text[cut] & 0xC0) == 0x80) cut++;
    text += cut;
    size -= cut;
  }
  pthread_mutex_lock(&self->mutex);
  size_t cut = 0;
  while (self->lines >= LOG_TAIL_LINES || self->size - cut + size + 1 > LOG_TAIL_BYTES) {
    const char *end = memchr(self->text + cut, '\n', self->size - cut);
    cut = (size_t)(end - self->text) + 1;
    self->lines--;
  }
  memmove(self->text, self->text + cut, self->size - cut);
  self->size -= cut;
  memcpy(self->text + self->size, text, size);
  self->text[self->size + size] = '\n';
  self->size += size + 1;
  self->lines++;
  pthread_mutex_unlock(&self->mutex);
}

char *log_tail_text(log_tail *self) {
  char *copy = malloc(LOG_TAIL_BYTES + 1);
  if (copy == NULL) return NULL;
  pthread_mutex_lock(&self->mutex);
  size_t size = self->size > 0 ? self->size - 1 : 0;
  memcpy(copy, self->text, size);
  pthread_mutex_unlock(&self->mutex);
  copy[size] = '\0';
  return copy;
}

/* ---- stream ---- */

struct log_stream {
  int fd, level;
  const char *source;
  log_tail *tail;
  pthread_mutex_t mutex; /* of all below, and of reading */
  pid_t pid;
  bool at_end;
  bool cut; /* a piece of this line has been passed on already */
  size_t line_size;
  char line[LOG_LINE_LIMIT]; /* what has come of the line so far */
  char block[READ_SIZE];
  char clean[REPLACEMENT_SIZE * LOG_LINE_LIMIT];
};

log_stream *log_stream_new(int fd, int level, const char *source, log_tail *tail) {
  log_stream *self = malloc(sizeof *self);
  if (self == NULL || platform_set_nonblocking(fd) < 0) {
    free(self);
    platform_close_fd(fd);
    return NULL;
  }
  self->fd = fd;
  self->level = level;
  self->source = source;
  self->tail = tail;
  pthread_mutex_init(&self->mutex, NULL);
  self->pid = 0;
  self->at_end = self->cut = false;
  self->line_size = 0;
  return self;
}

void log_stream_set_pid(log_stream *self, pid_t pid) {
  pthread_mutex_lock(&self->mutex);
  self->pid = pid;
  pthread_mutex_unlock(&self->mutex);
}

int log_stream_fd(const log_stream *self) {
  return self->fd;
}

/* Mutex held, as in the functions below. Passes the first `size` bytes of the line on, and keeps the rest. */
static void pass_on(log_stream *self, log_queue *queue, size_t size) {
  size_t clean_size = sanitise(self->line, size, self->clean);
  if (self->tail != NULL) log_tail_add(self->tail, self->clean, clean_size);
  if (queue != NULL) log_put(queue, self->level, self->pid, self->source, self->clean, clean_size);
  memmove(self->line, self->line + size, self->line_size - size);
  self->line_size -= size;
}

static void pass_on_unfinished(log_stream *self, log_queue *queue) {
  if (self->line_size > 0) pass_on(self, queue, self->line_size);
}

/* A whole line has come. */
static void end_line(log_stream *self, log_queue *queue) {
  if (self->line_size > 0 && self->line[self->line_size - 1] == '\r') self->line_size--;
  if (self->line_size > 0 || !self->cut) pass_on(self, queue, self->line_size);
  self->cut = false;
}

static void split(log_stream *self, log_queue *queue, const char *text, size_t size) {
  while (size > 0) {
    const char *end = memchr(text, '\n', size);
    size_t part = end == NULL ? size : (size_t)(end - text);
    size_t room = LOG_LINE_LIMIT - self->line_size;
    size_t taken = part < room ? part : room;
    memcpy(self->line + self->line_size, text, taken);
    self->line_size += taken;
    text += taken;
    size -= taken;
    if (taken == part && end != NULL) {
      text++;
      size--;
      end_line(self, queue);
    } else if (self->line_size == LOG_LINE_LIMIT) {
      pass_on(self, queue, whole_characters(self->line, LOG_LINE_LIMIT));
      self->cut = true;
    }
  }
}

int log_stream_read(log_stream *self, log_queue *queue) {
  size_t total = 0;
  ssize_t got = -1;
  int result = -1;
  pthread_mutex_lock(&self->mutex);
  while (!self->at_end && total < LOG_READ_LIMIT) {
    got = read(self->fd, self->block, sizeof self->block);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) break;
    if (got <= 0) {
      self->at_end = true;
      pass_on_unfinished(self, queue);
      break;
    }
    split(self, queue, self->block, (size_t)got);
    total += (size_t)got;
    if ((size_t)got < sizeof self->block) break; /* most likely all; the poller tells if not */
  }
  if (total > 0)
    result = (int)total;
  else if (self->at_end)
    result = 0;
  pthread_mutex_unlock(&self->mutex);
  return result;
}

void log_stream_take_last(log_stream *self, log_queue *queue) {
  if (self == NULL) return;
  for (int i = 0; i < LOG_LAST_READS && log_stream_read(self, queue) > 0; i++) {}
  pthread_mutex_lock(&self->mutex);
  pass_on_unfinished(self, queue);
  pthread_mutex_unlock(&self->mutex);
}

void log_stream_free(log_stream *self) {
  if (self == NULL) return;
  platform_close_fd(self->fd);
  pthread_mutex_destroy(&self->mutex);
  free(self);
}

/* ---- the ready callback ---- */

static const char *level_name(int level) {
  static const char *const names[] = {"log", "debug", "info", "warning", "error"};
  return names[level >= PYPROC_LOG_DEBUG && level <= PYPROC_LOG_ERROR ? level : 0];
}

/* One system call and no stdio: a line is not mixed with others', and no lock of the host's is taken. */
void pyproc_log_to_stderr(const pyproc_log_record *line, void *userdata) {
  char head[128];
  (void)userdata;
  if (line == NULL || line->text == NULL) return;
  const char *source = line->source == NULL ? "" : line->source;
  int size = line->worker_pid > 0 ? snprintf(head, sizeof head, "pyproc: [%ld] %s %s: ", (long)line->worker_pid,
                                             level_name(line->level), source)
                                  : snprintf(head, sizeof head, "pyproc: %s %s: ", level_name(line->level), source);
  if (size < 0) return;
  size_t head_size = (size_t)size < sizeof head ? (size_t)size : sizeof head - 1;
  struct iovec parts[3] = {{.iov_base = head, .iov_len = head_size},
                           {.iov_base = (void *)(uintptr_t)line->text, .iov_len = strlen(line->text)},
                           {.iov_base = (void *)(uintptr_t) "\n", .iov_len = 1}};
  int saved = errno;
  ssize_t written = writev(STDERR_FILENO, parts, 3);
  (void)written;
  errno = saved;
}
