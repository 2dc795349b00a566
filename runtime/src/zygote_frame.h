/*
 * zygote_frame.h - what host and zygote say to each other, byte for byte as docs/design.md has it under "The zygote".
 *
 * Frames have the length and the header of wire/frame.h, with kinds of their own. What comes from the zygote is
 * untrusted: it has imported what somebody else wrote.
 */
#ifndef PYPROC_ZYGOTE_FRAME_H
#define PYPROC_ZYGOTE_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "buffer.h"
#include "platform.h"

enum {
  ZYGOTE_REQUEST_MAX = 16 << 20, /* payload of what it is sent */
  ZYGOTE_ANSWER_MAX = 256 << 10, /* payload of what it sends */
  ZYGOTE_TEXT_MAX = 512          /* of a reason; longer ones are cut */
};

typedef enum zygote_kind {
  ZYGOTE_FORK = 1,   /* to it: a worker is wanted */
  ZYGOTE_REAP,       /* to it: that child has ended, so wait for it */
  ZYGOTE_READY,      /* from it: all is imported */
  ZYGOTE_UNFIT,      /* it must not be forked, and ends */
  ZYGOTE_FORKED,     /* here is the child */
  ZYGOTE_NOT_FORKED, /* there is none */
  ZYGOTE_ENDED,      /* how the child has ended */
  ZYGOTE_RUNS,       /* it has not */
  ZYGOTE_FAILED      /* a module cannot be imported; it ends */
} zygote_kind;

/* What a forked worker is given; nothing is kept. */
typedef struct zygote_request {
  int processor;     /* it is bound to; -1: none */
  const char *cwd;   /* absolute; "": that of the zygote */
  char *const *argv; /* script and arguments, NULL-terminated */
  char *const *envp; /* the whole environment, NULL-terminated */
} zygote_request;

typedef struct zygote_answer {
  zygote_kind kind;
  uint64_t id;                /* of the request; pid of ENDED, RUNS */
  bool has_pidfds;            /* READY */
  pid_t pid;                  /* FORKED; above 1 */
  int errnum;                 /* NOT_FORKED */
  platform_exit exit;         /* ENDED */
  char text[ZYGOTE_TEXT_MAX]; /* UNFIT, NOT_FORKED */
  const char *object;         /* FAILED: an error object, in the buffer that was read */
  size_t object_size;
} zygote_answer;

/* Append a frame. False: out of memory, or more than ZYGOTE_REQUEST_MAX; nothing is appended then. */
bool zygote_frame_fork(buffer *out, uint64_t id, const zygote_request *request);
bool zygote_frame_reap(buffer *out, pid_t pid);

/* Reads the first frame of `size` bytes. Returns how many bytes it takes, 0: it is not all there, -1: it makes no sense. */
ptrdiff_t zygote_frame_read(const uint8_t *data, size_t size, zygote_answer *ret);

#endif
