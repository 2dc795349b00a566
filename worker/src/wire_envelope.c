/* The wire's own source, from the folder that the library shares with the worker: found by the include path, wherever
 * that folder lies (the tree, or the copy in a source distribution). */
#include "envelope.c"
