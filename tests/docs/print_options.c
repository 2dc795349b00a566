/* Prints docs/options.md from the library's table: build/bin/print_options >docs/options.md */
#include <inttypes.h>
#include <stdio.h>

#include "option_table.h"

static const char *const types[] = {
    [OPTION_NUMBER] = "number",       [OPTION_LEVEL] = "level",   [OPTION_TEXT] = "text",  [OPTION_LIST] = "list",
    [OPTION_ASSIGNMENTS] = "mapping", [OPTION_SWITCH] = "switch", [OPTION_MODE] = "octal",
};

static void print_row(const option_row *row) {
  char variable[OPTION_VARIABLE_SIZE];
  option_variable(row, variable, sizeof variable);
  printf("| `%s` | %s | ", row->name, types[row->type]);
  if (!option_is_number(row))
    printf("| |");
  else if (row->type == OPTION_SWITCH)
    printf("| yes, no |");
  else if (row->type == OPTION_MODE)
    printf("| %03" PRIo64 " … %03" PRIo64 " |", (uint64_t)row->lowest, (uint64_t)row->highest);
  else if (row->type == OPTION_LEVEL)
    printf("info | debug, info, warning, error, off |");
  else
    printf(row->fallback != 0 ? "%" PRId64 " |" : "|", row->fallback);
  if (row->type == OPTION_NUMBER)
    printf(" %" PRId64 " … %" PRId64 "%s%s |", row->lowest, row->highest, row->can_be_off ? ", off" : "",
           row->can_be_unlimited ? ", unlimited" : "");
  printf(" `%s`%s%s%s | %s |\n", variable, row->legacy != NULL ? ", `" : "", row->legacy != NULL ? row->legacy : "",
         row->legacy != NULL ? "`" : "", row->doc);
}

int main(void) {
  puts("# Options\n\n"
       "What `pyproc_pool_options` takes, a YAML file for `pyproc_options_load`, and the environment. The manual is\n"
       "[`pyproc.h`](../runtime/include/pyproc.h). This page is printed from the library's own table.\n\n"
       "In a file and in the environment `off`, `unlimited` and `default` stand for `PYPROC_OFF`, `PYPROC_UNLIMITED` "
       "and 0.\n\n"
       "| option | type | default | allowed | environment | what it is |\n|---|---|---|---|---|---|");
  for (size_t i = 0; i < option_table_size; i++) print_row(&option_table[i]);
  return 0;
}
