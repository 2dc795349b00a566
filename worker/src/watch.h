/*
 * watch.h - the types Watch and Run: the control thread, for a server in Python that starts handlers itself.
 *
 * A watch is a control (control.h) without a connection: it watches the host's death and the deadlines of runs, has
 * cancelled handlers interrupted, and kills the process where one does not end. A run is one call's handler, which may
 * be entered several times, as the steps of a generator are, on any thread.
 */
#ifndef PYPROC_WORKER_WATCH_H
#define PYPROC_WORKER_WATCH_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

extern PyType_Spec watch_spec;
extern PyType_Spec run_spec;

#endif
