/*
 * options_load.c - options from a YAML file and from the environment. Both are texts from outside: everything is checked
 * here, with the place where it stands, before anything of the caller's is changed.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "error.h"
#include "option_table.h"
#include "options.h"
#include "platform.h"

enum { FILE_SIZE_MAX = 1 << 20 };

/* A block that options point to. They are freed together, by pyproc_options_clear. */
typedef struct loaded {
  struct loaded *next;
  max_align_t data[];
} loaded;

/* Where something stands, for messages. */
typedef struct place {
  const char *file; /* NULL: the environment */
  size_t line;      /* from 1 */
  const char *key;  /* or variable */
} place;

typedef struct load {
  pyproc_pool_options options;
  loaded *first;
  size_t known; /* bytes of the struct that the caller's header knows of */
  yaml_document_t *document;
  uint32_t seen[8]; /* rows that the file has set, a bit each */
  pyproc_error **reterr;
} load;

static int refuse(const load *self, const place *at, const char *format, ...) ERROR_PRINTF(3);

static int refuse(const load *self, const place *at, const char *format, ...) {
  char what[1024];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(what, sizeof what, format, arguments);
  va_end(arguments);
  if (at->file == NULL) return error_set(self->reterr, PYPROC_E_INVALID_ARGUMENT, "environment: %s: %s", at->key, what);
  return error_set(self->reterr, PYPROC_E_INVALID_ARGUMENT, "%s:%zu: %s%s%s", at->file, at->line,
                   at->key != NULL ? at->key : "", at->key != NULL ? ": " : "", what);
}

static int no_memory(const load *self) {
  return error_set(self->reterr, PYPROC_E_RESOURCE_EXHAUSTED, "out of memory");
}

/* ---- memory ---- */

static void *take(load *self, size_t size) {
  loaded *block = calloc(1, sizeof *block + size);
  if (block == NULL) return NULL;
  block->next = self->first;
  self->first = block;
  return block->data;
}

static void free_until(loaded *first, const loaded *end) {
  for (loaded *next; first != end; first = next) {
    next = first->next;
    free(first);
  }
}

static bool is_loaded(const loaded *first, const void *pointer) {
  for (; first != NULL; first = first->next)
    if ((const void *)first->data == pointer) return true;
  return false;
}

/* ---- values ---- */

static void *member(load *self, const option_row *row) {
  return (char *)&self->options + row->offset;
}

static bool has_nul(const char *text, size_t size) {
  return memchr(text, '\0', size) != NULL;
}

static int set_text(load *self, const option_row *row, const place *at, const char *text, size_t size) {
  if (has_nul(text, size)) return refuse(self, at, "holds a NUL byte; write plain text");
  char *copy = take(self, size + 1);
  if (copy == NULL) return no_memory(self);
  memcpy(copy, text, size);
  *(const char **)member(self, row) = copy;
  return PYPROC_OK;
}

static bool read_switch(const char *text, int64_t *ret_value) {
  static const char *const words[2][4] = {{"no", "off", "false", "0"}, {"yes", "on", "true", "1"}};
  for (int64_t value = 0; value < 2; value++)
    for (size_t i = 0; i < 4; i++)
      if (strcmp(text, words[value][i]) == 0) return *ret_value = value, true;
  return false;
}

/* A whole number, or one of the words that stand for one. */
static bool read_number(const option_row *row, const char *text, int64_t *ret_value) {
  static const char *const levels[] = {"debug", "info", "warning", "error"};
  if (row->type == OPTION_LEVEL)
    for (size_t i = 0; i < sizeof levels / sizeof *levels; i++)
      if (strcmp(text, levels[i]) == 0) return *ret_value = PYPROC_LOG_DEBUG + (int64_t)i, true;
  if (row->type == OPTION_SWITCH && strcmp(text, "default") != 0) return read_switch(text, ret_value);
  if (strcmp(text, "off") == 0) return *ret_value = PYPROC_OFF, true;
  if (strcmp(text, "unlimited") == 0) return *ret_value = PYPROC_UNLIMITED, true;
  if (strcmp(text, "default") == 0) return *ret_value = 0, true;
  if (row->type == OPTION_MODE && strncmp(text, "0o", 2) == 0) text += 2; /* YAML 1.2 writes it so */
  if (*text != '-' && (*text < '0' || *text > '9')) return false;         /* strtoll takes blanks and signs, too */
  char *end;
  errno = 0;
  *ret_value = strtoll(text, &end, row->type == OPTION_MODE ? 8 : 10);
  return errno == 0 && *end == '\0' && end != text;
}

static int set_number(load *self, const option_row *row, const place *at, const char *text) {
  char allowed[OPTION_DESCRIPTION_SIZE];
  int64_t value = 0;
  bool is_number = read_number(row, text, &value);
  if (!is_number || !option_allows(row, value)) {
    option_describe_words(row, allowed, sizeof allowed);
    return refuse(self, at, "is \"%.100s\"; %s", text, allowed);
  }
  memcpy(member(self, row), &value, sizeof value);
  return PYPROC_OK;
}

/* ---- YAML ---- */

static const char *kind_of(const yaml_node_t *node) {
  return node->type == YAML_SEQUENCE_NODE ? "a list" : node->type == YAML_MAPPING_NODE ? "a mapping" : "a text";
}

static const char *text_of(const yaml_node_t *node) {
  return (const char *)node->data.scalar.value;
}

static bool is_empty(const yaml_node_t *node) {
  return node->type == YAML_SCALAR_NODE && node->data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
         (node->data.scalar.length == 0 || strcmp(text_of(node), "~") == 0 || strcmp(text_of(node), "null") == 0);
}

/* `NAME: value` of a mapping, as "NAME=value"; or an item of a list. */
static int set_item(load *self, const place *at, const yaml_node_t *name, const yaml_node_t *value, bool is_assignment,
                    const char **ret_item) {
  const yaml_node_t *both[] = {name, value};
  for (size_t i = 0; i < 2; i++)
    if (both[i] != NULL && both[i]->type != YAML_SCALAR_NODE)
      return refuse(self, at, "has %s in it; write plain texts", kind_of(both[i]));
  size_t name_size = name != NULL ? name->data.scalar.length + 1 : 0, size = value->data.scalar.length;
  if ((name != NULL && has_nul(text_of(name), name_size - 1)) || has_nul(text_of(value), size))
    return refuse(self, at, "holds a NUL byte; write plain text");
  if (name != NULL && (name_size < 2 || strchr(text_of(name), '=') != NULL))
    return refuse(self, at, "has the name \"%.100s\"; it must not be empty or hold a =", text_of(name));
  if (name == NULL && is_assignment && (strchr(text_of(value), '=') == NULL || *text_of(value) == '='))
    return refuse(self, at, "has \"%.100s\"; write NAME=value, or a mapping", text_of(value));
  char *item = take(self, name_size + size + 1);
  if (item == NULL) return no_memory(self);
  if (name != NULL) {
    memcpy(item, text_of(name), name_size - 1);
    item[name_size - 1] = '=';
  }
  memcpy(item + name_size, text_of(value), size);
  *ret_item = item;
  return PYPROC_OK;
}

static int set_list(load *self, const option_row *row, const place *at, const yaml_node_t *node) {
  bool is_assignment = row->type == OPTION_ASSIGNMENTS, is_mapping = node->type == YAML_MAPPING_NODE;
  if (node->type == YAML_SCALAR_NODE || (is_mapping && !is_assignment))
    return refuse(self, at, "is %s; write a list%s", kind_of(node), is_assignment ? " or a mapping" : "");
  size_t count = is_mapping ? (size_t)(node->data.mapping.pairs.top - node->data.mapping.pairs.start)
                            : (size_t)(node->data.sequence.items.top - node->data.sequence.items.start);
  if (count > OPTION_LIST_MAX) return refuse(self, at, "has %zu entries; %d are allowed", count, OPTION_LIST_MAX);
  const char **items = take(self, (count + 1) * sizeof *items);
  if (items == NULL) return no_memory(self);
  int result = PYPROC_OK;
  for (size_t i = 0; i < count && result >= 0; i++) {
    const yaml_node_pair_t *pair = is_mapping ? &node->data.mapping.pairs.start[i] : NULL;
    const yaml_node_t *name = is_mapping ? yaml_document_get_node(self->document, pair->key) : NULL;
    const yaml_node_t *value =
        yaml_document_get_node(self->document, is_mapping ? pair->value : node->data.sequence.items.start[i]);
    place item = {.file = at->file, .line = value->start_mark.line + 1, .key = at->key};
    result = set_item(self, &item, name, value, is_assignment, &items[i]);
  }
  *(const char *const **)member(self, row) = items;
  return result;
}

static int set_node(load *self, const option_row *row, const place *at, const yaml_node_t *node) {
  if (row->type == OPTION_LIST || row->type == OPTION_ASSIGNMENTS) return set_list(self, row, at, node);
  if (node->type != YAML_SCALAR_NODE)
    return refuse(self, at, "is %s; write %s", kind_of(node), row->type == OPTION_TEXT ? "a text" : "a number");
  const char *text = text_of(node);
  size_t size = node->data.scalar.length;
  if (is_empty(node)) return refuse(self, at, "has no value; leave the key out for its default");
  if (row->type == OPTION_TEXT) return set_text(self, row, at, text, size);
  if (node->data.scalar.style != YAML_PLAIN_SCALAR_STYLE && row->type != OPTION_MODE)
    return refuse(self, at, "is the text \"%.100s\"; write a number, without quotes", text);
  return set_number(self, row, at, text);
}

static int set_pair(load *self, const char *file, const yaml_node_t *key, const yaml_node_t *value) {
  place at = {.file = file, .line = key->start_mark.line + 1};
  if (key->type != YAML_SCALAR_NODE) return refuse(self, &at, "a key is %s; write an option's name", kind_of(key));
  at.key = text_of(key);
  const option_row *row = option_find(at.key);
  if (row == NULL) return refuse(self, &at, "no such option; docs/options.md lists them");
  if (row->offset + sizeof(int64_t) > self->known)
    return refuse(self, &at, "the program was compiled with a header that does not have this option: compile it again");
  size_t number = (size_t)(row - option_table);
  if ((self->seen[number / 32] >> (number % 32) & 1) != 0) return refuse(self, &at, "stands there twice");
  self->seen[number / 32] |= UINT32_C(1) << (number % 32);
  return set_node(self, row, &at, value);
}

static int set_document(load *self, const yaml_node_t *root, const void *argument) {
  const char *file = argument;
  place at = {.file = file, .line = root->start_mark.line + 1};
  if (is_empty(root)) return PYPROC_OK;
  if (root->type != YAML_MAPPING_NODE)
    return refuse(self, &at, "this is %s; write lines `option: value`", kind_of(root));
  int result = PYPROC_OK;
  const yaml_node_pair_t *end = root->data.mapping.pairs.top;
  for (const yaml_node_pair_t *pair = root->data.mapping.pairs.start; pair < end && result >= 0; pair++)
    result = set_pair(self, file, yaml_document_get_node(self->document, pair->key),
                      yaml_document_get_node(self->document, pair->value));
  return result;
}

static int refuse_syntax(const load *self, place at, const yaml_parser_t *parser) {
  if (parser->error == YAML_MEMORY_ERROR) return no_memory(self);
  at.line = parser->problem_mark.line + 1;
  return refuse(self, &at, "this is no YAML: %s", parser->problem != NULL ? parser->problem : "it cannot be read");
}

static int refuse_second(const load *self, place at, yaml_parser_t *parser) {
  yaml_document_t document;
  if (!yaml_parser_load(parser, &document)) return refuse_syntax(self, at, parser);
  const yaml_node_t *root = yaml_document_get_root_node(&document);
  if (root != NULL) at.line = root->start_mark.line + 1;
  int result = root != NULL ? refuse(self, &at, "a second document begins here; one is allowed") : PYPROC_OK;
  yaml_document_delete(&document);
  return result;
}

/* Parses one document, which `at` is the place of, and gives its root to `use`; nothing for an empty one. */
static int parse(load *self, place at, const char *text, size_t size,
                 int (*use)(load *self, const yaml_node_t *root, const void *argument), const void *argument) {
  yaml_parser_t parser;
  yaml_document_t document;
  if (!yaml_parser_initialize(&parser)) return no_memory(self);
  yaml_parser_set_input_string(&parser, (const unsigned char *)text, size);
  int result = PYPROC_OK;
  if (!yaml_parser_load(&parser, &document)) {
    result = refuse_syntax(self, at, &parser);
  } else {
    const yaml_node_t *root = yaml_document_get_root_node(&document);
    self->document = &document;
    if (root != NULL) result = use(self, root, argument);
    yaml_document_delete(&document);
    if (result >= 0 && root != NULL) result = refuse_second(self, at, &parser);
  }
  yaml_parser_delete(&parser);
  return result;
}

static int read_file(load *self, const char *path, char **ret_text, size_t *ret_size) {
  char reason[128];
  int problem = 0;
  char *text = malloc(FILE_SIZE_MAX + 1);
  if (text == NULL) return no_memory(self);
  FILE *file = fopen(path, "re");
  size_t size = file != NULL ? fread(text, 1, FILE_SIZE_MAX + 1, file) : 0;
  if (file == NULL || ferror(file)) problem = errno;
  if (file != NULL) fclose(file);
  if (problem == 0 && size <= FILE_SIZE_MAX) {
    *ret_text = text;
    *ret_size = size;
    return PYPROC_OK;
  }
  free(text);
  if (problem == 0)
    return error_set(self->reterr, PYPROC_E_INVALID_ARGUMENT, "%s: a configuration file takes at most %d bytes", path,
                     FILE_SIZE_MAX);
  int code = problem == ENOENT || problem == ENOTDIR ? PYPROC_E_NOT_FOUND
             : problem == EACCES || problem == EPERM ? PYPROC_E_PERMISSION_DENIED
                                                     : PYPROC_E_INVALID_ARGUMENT;
  return error_set(self->reterr, code, "%s: %s", path, platform_error_text(problem, reason, sizeof reason));
}

static int load_file(load *self, const char *path) {
  char *text = NULL;
  size_t size = 0;
  int result = read_file(self, path, &text, &size);
  if (result >= 0) result = parse(self, (place){.file = path}, text, size, set_document, path);
  free(text);
  return result;
}

/* ---- the environment ---- */

typedef struct variable {
  const option_row *row;
  place at;
} variable;

static int use_variable(load *self, const yaml_node_t *root, const void *argument) {
  const variable *given = argument;
  return set_list(self, given->row, &given->at, root);
}

static int set_variable(load *self, const option_row *row, const char *name, const char *value) {
  variable given = {.row = row, .at = {.key = name}};
  if (*value == '\0') return PYPROC_OK; /* as if it was not set */
  if (row->type == OPTION_LIST || row->type == OPTION_ASSIGNMENTS)
    return parse(self, given.at, value, strlen(value), use_variable, &given);
  if (row->type == OPTION_TEXT) return set_text(self, row, &given.at, value, strlen(value));
  return set_number(self, row, &given.at, value);
}

static int load_environment(load *self) {
  for (size_t i = 0; i < option_table_size; i++) {
    const option_row *row = &option_table[i];
    char name[OPTION_VARIABLE_SIZE];
    if (row->offset + sizeof(int64_t) > self->known || !option_variable(row, name, sizeof name)) continue;
    const char *used = name, *value = platform_getenv(name);
    if (value == NULL && row->legacy != NULL) value = platform_getenv(used = row->legacy);
    int result = value != NULL ? set_variable(self, row, used, value) : PYPROC_OK;
    if (result < 0) return result;
  }
  return PYPROC_OK;
}

/* ---- */

int pyproc_options_load(pyproc_pool_options *options, const char *path, pyproc_error **reterr) {
  if (options == NULL) return error_set(reterr, PYPROC_E_INVALID_ARGUMENT, "options is NULL");
  load self = {.reterr = reterr};
  int result = options_copy_sized(&self.options, sizeof self.options, options, "pyproc_pool_options", reterr);
  if (result < 0) return result;
  loaded *before = self.options.loaded;
  self.first = before;
  self.known = options->size < sizeof self.options ? options->size : sizeof self.options;
  if (path != NULL) result = load_file(&self, path);
  if (result >= 0) result = load_environment(&self);
  if (result < 0) {
    free_until(self.first, before);
    return result;
  }
  self.options.loaded = self.first;
  memcpy(options, &self.options, self.known);
  return PYPROC_OK;
}

void pyproc_options_clear(pyproc_pool_options *options) {
  pyproc_pool_options copy;
  if (options == NULL || options_copy_sized(&copy, sizeof copy, options, "pyproc_pool_options", NULL) < 0) return;
  loaded *first = copy.loaded;
  size_t known = options->size < sizeof copy ? options->size : sizeof copy;
  for (size_t i = 0; i < option_table_size; i++) {
    const option_row *row = &option_table[i];
    const void *pointer;
    if (option_is_number(row)) continue;
    memcpy(&pointer, (char *)&copy + row->offset, sizeof pointer);
    if (is_loaded(first, pointer)) memset((char *)&copy + row->offset, 0, sizeof pointer);
  }
  copy.loaded = NULL;
  memcpy(options, &copy, known);
  free_until(first, NULL);
}
