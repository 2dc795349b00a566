#include "stacks.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "platform.h"

int stacks_open(void) {
  return platform_shared_memory(STACKS_SIZE);
}

/* Never from the descriptor's position, which it shares with the worker's. */
static size_t read_into(int fd, char *text, size_t size) {
  size_t used = 0;
  while (fd >= 0 && used < size) {
    ssize_t count = pread(fd, text + used, size - used, (off_t)used);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) break;
    used += (size_t)count;
  }
  return strnlen(text, used);
}

char *stacks_read(int fd) {
  char first;
  if (read_into(fd, &first, 1) == 0) return NULL;
  char *text = malloc(STACKS_SIZE + 1);
  if (text != NULL) text[read_into(fd, text, STACKS_SIZE)] = '\0';
  return text;
}

size_t stacks_size(int fd) {
  char *text = stacks_read(fd);
  size_t size = text != NULL ? strlen(text) : 0;
  free(text);
  return size;
}

bool stacks_tell_of_stuck(const char *text) {
  static const char front[] = "pyproc_worker: ", middle[] = " still runs ";
  if (text == NULL || strncmp(text, front, sizeof front - 1) != 0) return false;
  const char *end = strchr(text, '\n'), *found = strstr(text, middle);
  return found != NULL && (end == NULL || found < end);
}
