/* The wire's own source, see wire_envelope.c. */
#define _GNU_SOURCE
#include "blocking.c"
