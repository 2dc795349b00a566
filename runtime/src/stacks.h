/*
 * stacks.h - where a worker's process writes the stacks of its threads, for its host to read: memory of a fixed size
 * that both have open, so that nothing can be held up by a full pipe, and what was written is there after any death.
 *
 * faulthandler writes there on fatal signals and when it is asked to, and the extension before it kills its process.
 * Untrusted: it is read as text up to its size or the first NUL.
 */
#ifndef PYPROC_STACKS_H
#define PYPROC_STACKS_H

#include <stdbool.h>
#include <stddef.h>

enum { STACKS_SIZE = 64 << 10 };

/* A descriptor for one process; -1 where the system has no such memory, or none is left. To be closed by the caller. */
int stacks_open(void);

/* What was written so far, to be freed; NULL: nothing, or out of memory. `fd` may be -1. */
char *stacks_read(int fd);

/* How many bytes that is. */
size_t stacks_size(int fd);

/* Whether the text begins with the extension's own remark that a handler did not end when it was told to. */
bool stacks_tell_of_stuck(const char *text);

#endif
