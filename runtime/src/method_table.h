/*
 * method_table.h - what a worker offers: its hello, taken apart, and the check of our methods against it
 * (schema/wire.md, Handshake).
 */
#ifndef PYPROC_METHOD_TABLE_H
#define PYPROC_METHOD_TABLE_H

#include "call.h"

typedef struct method_table method_table;

/* Reads the JSON body of a worker's hello, which is untrusted. FAILED_PRECONDITION: no common version; DATA_LOSS:
 * anything else that is wrong with it. */
int method_table_parse(const char *json, size_t size, method_table **ret_table, pyproc_error **reterr);

/* The table of a worker that says nothing about its methods: every unary method is found, at index 0, unchecked. NULL:
 * out of memory. */
method_table *method_table_any(void);

/* Whether the hello lists the feature, how many plain handlers the worker runs at once (1 … 64), and how many handlers
 * of any kind (at least as many, at most 4096). */
bool method_table_has_feature(const method_table *table, const char *feature);
int method_table_stacks_signal(const method_table *table); /* a signal's number, 0 where it names none */
int method_table_threads(const method_table *table);
int method_table_concurrency(const method_table *table);

/* The process id that the hello tells, which may be one of another container; 0: none. For people to read, nothing else. */
pid_t method_table_pid(const method_table *table);

/* Whether the worker can speak the codec: FAILED_PRECONDITION where a registered one is not among its own. */
int method_table_check_codec(const method_table *table, const struct codec *codec, pyproc_error **reterr);

/* Finds the method and, where it is typed, checks that both sides mean the same by it; the verdict on a typed one is
 * remembered. UNIMPLEMENTED: the worker lacks it. FAILED_PRECONDITION: it differs, the message names method and
 * field. The connection's lock is held. */
int method_table_find(method_table *table, const call_method *method, uint32_t *ret_index, pyproc_error **reterr);

/* The name of the worker's method of that index, which method_table_find gave. Lives as long as the table. */
const char *method_table_name(const method_table *table, uint32_t index);

/* method_table_find for all methods of the services (NULL-terminated; NULL: none). */
int method_table_check(method_table *table, const pyproc_service *const *services, pyproc_error **reterr);

void method_table_free(method_table *table);

#endif
