#include "method_table.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "shape.h"
#include "wire/frame.h"
#include "wire/status_page.h"

enum { FEATURES_MAX = 32, THREADS_MAX = 64, SIGNAL_MAX = 128, NO_ENTRY = -1 };

typedef struct known_method {
  const pyproc_method *method;
  uint32_t index;
} known_method;

struct method_table {
  bool has_any;     /* of a worker without a hello; nothing else is set */
  json_t *hello;    /* owns all text below */
  json_t *methods;  /* borrowed from hello */
  json_t *messages; /* borrowed from hello; NULL: none */
  int threads, concurrency;
  size_t bucket_count; /* a power of two, more than twice the methods */
  int32_t *buckets;    /* by name: index into methods, or NO_ENTRY */
  known_method *known; /* by address of the generated table, grows with use */
  size_t known_count, known_capacity;
};

static size_t hash_text(const char *text) {
  size_t hash = 1469598103934665603u; /* FNV-1a */
  for (; *text != '\0'; text++) hash = (hash ^ (unsigned char)*text) * 1099511628211u;
  return hash ^ (hash >> 29);
}

static size_t hash_address(const void *address) {
  return (size_t)(((uintptr_t)address >> 4) * UINT64_C(0x9E3779B97F4A7C15) >> 20);
}

static const char *method_text(const json_t *entry, const char *member) {
  const char *text = json_string_value(json_object_get(entry, member));
  return text != NULL ? text : "";
}

/* The bucket that holds the name, or the empty one where it would be. */
static size_t find_bucket(const method_table *table, const char *name) {
  size_t at = hash_text(name) & (table->bucket_count - 1);
  for (;; at = (at + 1) & (table->bucket_count - 1)) {
    if (table->buckets[at] == NO_ENTRY) return at;
    if (strcmp(method_text(json_array_get(table->methods, (size_t)table->buckets[at]), "name"), name) == 0) return at;
  }
}

static int index_names(method_table *table, pyproc_error **reterr) {
  size_t count = json_array_size(table->methods);
  for (table->bucket_count = 8; table->bucket_count < 2 * count + 2;) table->bucket_count *= 2;
  table->buckets = malloc(table->bucket_count * sizeof *table->buckets);
  if (table->buckets == NULL) return error_set(reterr, PYPROC_E_RESOURCE_EXHAUSTED, "out of memory");
  for (size_t i = 0; i < table->bucket_count; i++) table->buckets[i] = NO_ENTRY;
  for (size_t i = 0; i < count; i++) {
    const char *name = method_text(json_array_get(table->methods, i), "name");
    if (*name == '\0')
      return error_set(reterr, PYPROC_E_DATA_LOSS, "the worker's hello has a method without a name at index %zu", i);
    size_t at = find_bucket(table, name);
    if (table->buckets[at] == NO_ENTRY) table->buckets[at] = (int32_t)i; /* of two with a name the first counts */
  }
  return PYPROC_OK;
}

static int check_version(const json_t *hello, pyproc_error **reterr) {
  const json_t *version = json_object_get(hello, "version"), *oldest = json_object_get(hello, "oldest");
  if (!json_is_integer(version)) return error_set(reterr, PYPROC_E_DATA_LOSS, "the worker's hello has no version");
  json_int_t newest_spoken = json_integer_value(version);
  json_int_t oldest_spoken = json_is_integer(oldest) ? json_integer_value(oldest) : newest_spoken;
  if (oldest_spoken <= WIRE_VERSION && newest_spoken >= WIRE_VERSION) return PYPROC_OK;
  return error_set(
      reterr, PYPROC_E_FAILED_PRECONDITION,
      "the worker speaks versions %lld to %lld of the wire protocol and this library version %d; install the "
      "pyproc_worker that belongs to the library",
      (long long)oldest_spoken, (long long)newest_spoken, WIRE_VERSION);
}

static int read_hello(method_table *table, pyproc_error **reterr) {
  if (!json_is_object(table->hello))
    return error_set(reterr, PYPROC_E_DATA_LOSS, "the worker's hello is no JSON object");
  int result = check_version(table->hello, reterr);
  if (result < 0) return result;
  table->methods = json_object_get(table->hello, "methods");
  table->messages = json_object_get(table->hello, "messages");
  if (!json_is_array(table->methods) || json_array_size(table->methods) > WIRE_METHODS_MAX)
    return error_set(reterr, PYPROC_E_DATA_LOSS, "the worker's hello has no list of at most %d methods",
                     WIRE_METHODS_MAX);
  json_int_t threads = json_integer_value(json_object_get(table->hello, "threads"));
  table->threads = threads < 1 ? 1 : threads > THREADS_MAX ? THREADS_MAX : (int)threads;
  json_int_t concurrency = json_integer_value(json_object_get(table->hello, "concurrency"));
  if (concurrency > STATUS_PAGE_SLOTS) concurrency = STATUS_PAGE_SLOTS;
  table->concurrency = concurrency > table->threads ? (int)concurrency : table->threads;
  return index_names(table, reterr);
}

int method_table_parse(const char *json, size_t size, method_table **ret_table, pyproc_error **reterr) {
  json_error_t why;
  method_table *table = calloc(1, sizeof *table);
  if (table == NULL) return error_set(reterr, PYPROC_E_RESOURCE_EXHAUSTED, "out of memory");
  table->hello = json_loadb(json, size, 0, &why);
  int result = table->hello == NULL
                   ? error_set(reterr, PYPROC_E_DATA_LOSS, "the worker's hello is not valid JSON: %s", why.text)
                   : read_hello(table, reterr);
  if (result < 0)
    method_table_free(table);
  else
    *ret_table = table;
  return result;
}

method_table *method_table_any(void) {
  method_table *table = calloc(1, sizeof *table);
  if (table != NULL) *table = (method_table){.has_any = true, .threads = 1, .concurrency = 1};
  return table;
}

/* Whether a list of the hello has the text among its first. */
static bool lists(const method_table *table, const char *member, const char *wanted) {
  const json_t *list = json_object_get(table->hello, member);
  for (size_t i = 0; i < json_array_size(list) && i < FEATURES_MAX; i++) {
    const char *text = json_string_value(json_array_get(list, i));
    if (text != NULL && strcmp(text, wanted) == 0) return true;
  }
  return false;
}

bool method_table_has_feature(const method_table *table, const char *feature) {
  return lists(table, "features", feature);
}

int method_table_stacks_signal(const method_table *table) {
  json_int_t number = json_integer_value(json_object_get(table->hello, "stacks_signal"));
  return number > 0 && number <= SIGNAL_MAX ? (int)number : 0;
}

int method_table_check_codec(const method_table *table, const struct codec *codec, pyproc_error **reterr) {
  if (!codec->registered || lists(table, "codecs", codec->name)) return PYPROC_OK;
  return error_set(reterr, PYPROC_E_FAILED_PRECONDITION,
                   "the worker has no codec \"%s\": call pyproc_worker.register_codec(\"%s\", ...) in its script "
                   "before it serves",
                   codec->name, codec->name);
}

int method_table_threads(const method_table *table) {
  return table->threads;
}

int method_table_concurrency(const method_table *table) {
  return table->concurrency;
}

pid_t method_table_pid(const method_table *table) {
  json_int_t pid = json_integer_value(json_object_get(table->hello, "pid"));
  return pid > 0 && pid <= INT32_MAX ? (pid_t)pid : 0;
}

const char *method_table_name(const method_table *table, uint32_t index) {
  const char *name = json_string_value(json_object_get(json_array_get(table->methods, index), "name"));
  return name == NULL ? "" : name;
}

/* The place of the generated table among the known ones, or the empty one where it would be. */
static known_method *find_known(const method_table *table, const pyproc_method *method) {
  size_t at = hash_address(method) & (table->known_capacity - 1);
  while (table->known[at].method != NULL && table->known[at].method != method)
    at = (at + 1) & (table->known_capacity - 1);
  return &table->known[at];
}

static int remember(method_table *table, const pyproc_method *method, uint32_t index, pyproc_error **reterr) {
  if (2 * (table->known_count + 1) > table->known_capacity) {
    method_table grown = *table;
    grown.known_capacity = table->known_capacity == 0 ? 16 : 2 * table->known_capacity;
    grown.known = calloc(grown.known_capacity, sizeof *grown.known);
    if (grown.known == NULL) return error_set(reterr, PYPROC_E_RESOURCE_EXHAUSTED, "out of memory");
    for (size_t i = 0; i < table->known_capacity; i++)
      if (table->known[i].method != NULL) *find_known(&grown, table->known[i].method) = table->known[i];
    free(table->known);
    *table = grown;
  }
  *find_known(table, method) = (known_method){.method = method, .index = index};
  table->known_count++;
  return PYPROC_OK;
}

static int check_typed(const method_table *table, const pyproc_method *method, const json_t *entry,
                       pyproc_error **reterr) {
  static const char *const kinds[] = {"unary", "server_stream", "client_stream", "bidi"};
  const char *kind = method->kind < 4 ? kinds[method->kind] : "unknown";
  if (strcmp(method_text(entry, "kind"), kind) != 0)
    return error_set(reterr, PYPROC_E_FAILED_PRECONDITION,
                     "%s is %s here and %s in the worker: generate both sides from the same schema", method->name, kind,
                     method_text(entry, "kind"));
  if (strcmp(method_text(entry, "fingerprint"), method->fingerprint) == 0) return PYPROC_OK;
  return shape_check_method(method, table->messages, method_text(entry, "request"), method_text(entry, "reply"),
                            reterr);
}

static int find_any(const call_method *method, uint32_t *ret_index, pyproc_error **reterr) {
  if (method->typed != NULL && method->typed->kind != PYPROC_RPC_UNARY)
    return error_set(reterr, PYPROC_E_UNIMPLEMENTED, "%s is a stream, which a worker without a handshake does not have",
                     method->name);
  *ret_index = 0;
  return PYPROC_OK;
}

int method_table_find(method_table *table, const call_method *method, uint32_t *ret_index, pyproc_error **reterr) {
  if (table->has_any) return find_any(method, ret_index, reterr);
  if (method->typed != NULL && table->known_capacity > 0) {
    const known_method *known = find_known(table, method->typed);
    if (known->method != NULL) {
      *ret_index = known->index;
      return PYPROC_OK;
    }
  }
  int32_t index = table->buckets[find_bucket(table, method->name)];
  if (index == NO_ENTRY)
    return error_set(reterr, PYPROC_E_UNIMPLEMENTED, "the worker has no method %s%s", method->name,
                     strchr(method->name, '/') != NULL ? ": pass its handler to serve()"
                                                       : ": expose a function of that name");
  if (method->typed != NULL) {
    int result = check_typed(table, method->typed, json_array_get(table->methods, (size_t)index), reterr);
    if (result >= 0) result = remember(table, method->typed, (uint32_t)index, reterr);
    if (result < 0) return result;
  }
  *ret_index = (uint32_t)index;
  return PYPROC_OK;
}

int method_table_check(method_table *table, const pyproc_service *const *services, pyproc_error **reterr) {
  for (size_t i = 0; services != NULL && services[i] != NULL; i++) {
    if (services[i]->size != sizeof *services[i])
      return error_set(
          reterr, PYPROC_E_FAILED_PRECONDITION,
          "option services: entry %zu was generated for another version of the library: run pyproc-gen again", i);
    for (size_t j = 0; j < services[i]->method_count; j++) {
      const pyproc_method *method = services[i]->methods[j];
      uint32_t index;
      int result = method_table_find(table, &(call_method){.name = method->name, .typed = method}, &index, reterr);
      if (result < 0) return result;
    }
  }
  return PYPROC_OK;
}

void method_table_free(method_table *table) {
  if (table == NULL) return;
  json_decref(table->hello);
  free(table->buckets);
  free(table->known);
  free(table);
}
