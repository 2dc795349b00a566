/*
 * grpc_module.h - what libpyproc-grpc.so hands to the library that loads it.
 *
 * The library's own symbols are hidden, and a program may hold it statically, so that the module has copies of the code
 * below it (errors, calls, the lot, the platform) and shares nothing but the structs of protocol.h and call.h. Both are
 * made by one build: that is checked before anything is used. What either side allocates the other one may free.
 */
#ifndef PYPROC_GRPC_MODULE_H
#define PYPROC_GRPC_MODULE_H

#include "protocol.h"

#define GRPC_MODULE_FILE "libpyproc-grpc.so"
#define GRPC_MODULE_SYMBOL "pyproc_grpc_module"

typedef struct grpc_module {
  size_t size;         /* of this struct */
  const char *version; /* pyproc_version() */
  size_t call_size, connection_size, settings_size;
  const protocol *protocol;
} grpc_module;

/* Loads the module, once for the process, and gives its protocol. Any thread. NOT_FOUND: it is missing;
 * FAILED_PRECONDITION: it cannot be loaded, or belongs to another build. Both say what helps. */
int grpc_module_load(const protocol **ret_protocol, pyproc_error **reterr);

#endif
