/*
 * bulk.h - memory that is about to be filled with many megabytes.
 */
#ifndef PYPROC_WIRE_BULK_H
#define PYPROC_WIRE_BULK_H

#include <stddef.h>

/* Asks for large pages behind fresh memory, where the system has them: a page fault for each 4 KiB costs more than to
 * copy what goes there. Without effect on what is small. `data` may be NULL. */
void bulk_expect(void *data, size_t size);

#endif
