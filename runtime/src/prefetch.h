/*
 * prefetch.h - how many calls may wait in a worker beyond those that it runs.
 */
#ifndef PYPROC_PREFETCH_H
#define PYPROC_PREFETCH_H

#include "protocol.h"

/* Follows how fast the worker answers, in `service_ns` and `quick_ns`, and lets as many calls wait in it as it takes about
 * a millisecond to run. `now_ns`: CLOCK_MONOTONIC when the replies were read; `can_recall`: a call that waits behind a slow
 * one can be had back, so that one is always sent ahead. */
void prefetch_adapt(struct connection *connection, int replies, bool can_recall, int64_t now_ns);

#endif
