/*
 * private_dir.h - a folder that only this user may enter, with a path short enough for the sockets in it.
 *
 * It is in TMPDIR where that is short enough and usable, else in /tmp. No function is thread-safe for one folder.
 */
#ifndef PYPROC_PRIVATE_DIR_H
#define PYPROC_PRIVATE_DIR_H

#include "pyproc.h"

#include <stddef.h>

/* Of a whole path, its NUL included: what sun_path takes on every system. */
enum { PRIVATE_PATH_SIZE = 104, PRIVATE_DIR_SIZE = PRIVATE_PATH_SIZE - 24 };

typedef struct private_dir {
  char path[PRIVATE_DIR_SIZE]; /* absolute; "": there is none. All zero is a folder that is not there */
} private_dir;

/* Makes a new folder with a name of its own and mode 0700. The environment is read: see getenv. RESOURCE_EXHAUSTED,
 * PERMISSION_DENIED, NOT_FOUND: no place could be written to; the error names the last one. */
int private_dir_open(private_dir *self, pyproc_error **reterr);

/* Writes the path of `name` in the folder: at most 22 characters, else it is cut. */
void private_dir_name(const private_dir *self, const char *name, char path[PRIVATE_PATH_SIZE]);

/* Removes the folder, and the files, sockets and links in it; folders in it are left. Again, or without one, is fine.
 * Not in a forked child of the host, whose parent uses it: there it is simply forgotten. */
void private_dir_remove(private_dir *self);

#endif
