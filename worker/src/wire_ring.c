/* The wire's own source, see wire_envelope.c. */
#include "ring.c"
