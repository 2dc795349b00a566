/* machine.h - what the figures are of. */
#ifndef BENCH_MACHINE_H
#define BENCH_MACHINE_H

#include <jansson.h>

/* System, processor, memory. New references. */
json_t *machine_describe(void);

/* Of the library and of what is compared with it. */
json_t *machine_versions(void);

#endif
