#include <pyproc.h>

#ifndef PYPROC_VERSION
#define PYPROC_VERSION "0.1.0"
#endif

const char *pyproc_version(void) {
  return PYPROC_VERSION;
}
