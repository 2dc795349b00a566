/*
 * worker_report.h - what is told of a worker that hangs or has ended: to its calls, the log, the event callback, and those
 * who count which requests kill. On the supervisor's thread.
 */
#ifndef PYPROC_WORKER_REPORT_H
#define PYPROC_WORKER_REPORT_H

#include "worker.h"

/* Why it is thought to hang. */
void worker_report_hang_text(const struct worker *self, char *text, size_t size);

/* The error that calls in flight and the opener of the pool get, with the crash report. It may find out that it hung. */
pyproc_error *worker_report_error(struct worker *self, const platform_exit *exit, bool was_ready);

/* Writes the stacks that the log does not have yet, line by line. */
void worker_report_stacks(struct worker *self);

/* Tells once that it hangs, where it does; `crash` NULL: it has not ended, and what is known so far is told. */
void worker_report_hang(struct worker *self, const pyproc_crash *crash);

/* Counts the death against the requests whose handlers ran. The connection was drained, and its calls are still in it. */
void worker_report_blame(struct worker *self, const platform_exit *exit, const pyproc_error *error, int64_t now_ns);

#endif
