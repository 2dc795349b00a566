#include "grpc_module.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "error.h"

enum { PATH_SIZE = 4096 };

#ifndef PYPROC_MODULE_DIR
#define PYPROC_MODULE_DIR "/usr/local/lib"
#endif

/* It is never unloaded: libgrpc does not take that well. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const grpc_module *loaded;

/* Beside the library, or the program that holds it, or in its lib folder, or where it was installed. */
static bool find_file(char *path, size_t size) {
  char folder[PATH_SIZE];
  const char *own = platform_library_dir(folder, sizeof folder);
  const char *const places[] = {"", "../lib/"};
  for (size_t i = 0; own != NULL && i < sizeof places / sizeof *places; i++) {
    int length = snprintf(path, size, "%s/%s%s", own, places[i], GRPC_MODULE_FILE);
    if (length > 0 && (size_t)length < size && access(path, R_OK) == 0) return true;
  }
  snprintf(path, size, "%s/%s", PYPROC_MODULE_DIR, GRPC_MODULE_FILE);
  return access(path, R_OK) == 0;
}

static bool fits(const grpc_module *module) {
  return module->size == sizeof *module && strcmp(module->version, pyproc_version()) == 0 &&
         module->call_size == sizeof(struct call) && module->connection_size == sizeof(struct connection) &&
         module->settings_size == sizeof(connection_settings);
}

static int load(pyproc_error **reterr) {
  char path[PATH_SIZE];
  if (!find_file(path, sizeof path))
    return error_set(
        reterr, PYPROC_E_NOT_FOUND,
        "gRPC needs the module %s, which is missing: no %s. It is built with pyproc where Debian's libgrpc-dev "
        "is installed (CMake option PYPROC_GRPC): install that, then the library again with make install",
        GRPC_MODULE_FILE, path);
  void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (handle == NULL)
    return error_set(reterr, PYPROC_E_FAILED_PRECONDITION,
                     "gRPC's module %s cannot be loaded: %s; install Debian's libgrpc-dev", path, dlerror());
  const grpc_module *module = dlsym(handle, GRPC_MODULE_SYMBOL);
  if (module == NULL || !fits(module))
    return error_set(
        reterr, PYPROC_E_FAILED_PRECONDITION,
        "gRPC's module %s belongs to another build of the library than this one (%s): install both together", path,
        pyproc_version());
  loaded = module;
  return PYPROC_OK;
}

int grpc_module_load(const protocol **ret_protocol, pyproc_error **reterr) {
  pthread_mutex_lock(&lock);
  int result = loaded != NULL ? PYPROC_OK : load(reterr);
  if (result >= 0) *ret_protocol = loaded->protocol;
  pthread_mutex_unlock(&lock);
  return result;
}
