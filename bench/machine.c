#include "machine.h"

#include <protobuf-c/protobuf-c.h>
#include <pyproc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

static void read_processor(char *to, size_t size) {
  char line[256];
  FILE *file = fopen("/proc/cpuinfo", "r");
  snprintf(to, size, "unknown");
  while (file != NULL && fgets(line, sizeof line, file) != NULL) {
    const char *colon = strchr(line, ':');
    if (strncmp(line, "model name", 10) != 0 || colon == NULL) continue;
    snprintf(to, size, "%.*s", (int)strcspn(colon + 2, "\n"), colon + 2);
    break;
  }
  if (file != NULL) fclose(file);
}

json_t *machine_describe(void) {
  struct utsname system;
  char processor[128];
  double load = 0;
  uname(&system);
  read_processor(processor, sizeof processor);
  if (getloadavg(&load, 1) < 1) load = -1;
  double memory = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE) / (1 << 30);
  return json_pack("{s:s, s:s, s:s, s:s, s:i, s:f, s:f}", "system", system.sysname, "release", system.release,
                   "machine", system.machine, "processor", processor, "processors", (int)sysconf(_SC_NPROCESSORS_ONLN),
                   "memory_gib", memory, "load_before", load);
}

/* What the interpreter says of its packages: a JSON object. */
static void add_python(json_t *to) {
  const char *python = getenv("PYPROC_PYTHON");
  char command[512];
  snprintf(command, sizeof command, "'%s' '%s/versions.py'", python != NULL ? python : "python3", BENCH_PEERS);
  FILE *output = popen(command, "r");
  json_t *found = output != NULL ? json_loadf(output, 0, NULL) : NULL;
  if (output != NULL) pclose(output);
  if (found != NULL) json_object_update(to, found);
  json_decref(found);
}

/* The Go library's checkout, where there is one. */
static void add_original(json_t *to) {
  const char *source = getenv("PYPROC_GO_SRC");
  char command[512], commit[64] = "";
  if (source == NULL || source[0] == '\0') return;
  snprintf(command, sizeof command, "git -C '%s' rev-parse --short HEAD 2>/dev/null", source);
  FILE *output = popen(command, "r");
  if (output == NULL) return;
  if (fgets(commit, sizeof commit, output) != NULL) commit[strcspn(commit, "\n")] = '\0';
  pclose(output);
  json_object_set_new(to, "original", json_string(commit[0] != '\0' ? commit : "a copy without git"));
}

json_t *machine_versions(void) {
  json_t *versions = json_pack("{s:s, s:s, s:s}", "pyproc", pyproc_version(), "protobuf-c", protobuf_c_version(),
                               "compiler", __VERSION__);
  static const char *const built[][2] = {{"gRPC C++", BENCH_GRPC_VERSION},
                                         {"Thrift c_glib", BENCH_THRIFT_VERSION},
                                         {"libzmq", BENCH_ZMQ_VERSION},
                                         {"libcurl", BENCH_CURL_VERSION}};
  for (size_t i = 0; i < sizeof built / sizeof *built; i++)
    if (built[i][1][0] != '\0') json_object_set_new(versions, built[i][0], json_string(built[i][1]));
  add_python(versions);
  add_original(versions);
  return versions;
}
