#include "private_dir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "error.h"
#include "platform.h"

enum { ENTRIES_MAX = 4096 };
#define PATTERN "/pyproc-XXXXXX"

static int error_code_of(int errnum) {
  switch (errnum) {
  case EACCES:
  case EPERM:
  case EROFS:
    return PYPROC_E_PERMISSION_DENIED;
  case ENOENT:
  case ENOTDIR:
    return PYPROC_E_NOT_FOUND;
  default:
    return PYPROC_E_RESOURCE_EXHAUSTED;
  }
}

/* True: the folder was made. A relative place is none: workers have another current folder. */
static bool make_in(private_dir *self, const char *place) {
  size_t size = strlen(place);
  if (place[0] != '/' || size + sizeof PATTERN > sizeof self->path) return false;
  memcpy(self->path, place, size);
  memcpy(self->path + size, PATTERN, sizeof PATTERN);
  if (mkdtemp(self->path) != NULL) return true;
  self->path[0] = '\0';
  return false;
}

int private_dir_open(private_dir *self, pyproc_error **reterr) {
  const char *chosen = getenv("TMPDIR");
  char text[128];
  self->path[0] = '\0';
  if ((chosen != NULL && make_in(self, chosen)) || make_in(self, "/tmp")) return PYPROC_OK;
  int errnum = errno;
  return error_set(reterr, error_code_of(errnum),
                   "no private folder for sockets in /tmp: %s: set TMPDIR to a folder that can be written to, with a "
                   "path of at most %d characters",
                   platform_error_text(errnum, text, sizeof text), (int)(sizeof self->path - sizeof PATTERN));
}

void private_dir_name(const private_dir *self, const char *name, char path[PRIVATE_PATH_SIZE]) {
  snprintf(path, PRIVATE_PATH_SIZE, "%s/%.22s", self->path, name);
}

static void remove_entries(DIR *folder) {
  const struct dirent *entry;
  for (int i = 0; i < ENTRIES_MAX && (entry = readdir(folder)) != NULL; i++)
    if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) unlinkat(dirfd(folder), entry->d_name, 0);
}

void private_dir_remove(private_dir *self) {
  if (self->path[0] == '\0') return;
  int fd = open(self->path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  DIR *folder = fd >= 0 ? fdopendir(fd) : NULL;
  if (folder != NULL) {
    remove_entries(folder);
    closedir(folder);
  } else {
    platform_close_fd(fd);
  }
  rmdir(self->path);
  self->path[0] = '\0';
}
