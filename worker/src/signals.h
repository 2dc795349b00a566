/*
 * signals.h - what Python says of signals: methods that Loop and Watch have in common.
 *
 * Each takes its arguments as the Python method has them, and a control, or NULL in a forked child, where nothing happens.
 * Returns None, or NULL with a Python exception. Needs the GIL.
 */
#ifndef PYPROC_WORKER_SIGNALS_H
#define PYPROC_WORKER_SIGNALS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "control.h"

/* use_signal(number): the calling thread's handlers are interrupted by it; 0: by none. */
PyObject *signals_use_interrupt(struct control *control, PyObject *arguments);

/* use_stop_signals(bits): those signals ask the dispatching thread to end; bit n is signal n. */
PyObject *signals_use_stop(struct control *control, PyObject *bits);

/* use_stacks(number, fd): the signal, 0: none, has all stacks written to the descriptor, -1: to standard error. */
PyObject *signals_use_stacks(struct control *control, PyObject *arguments);

#endif
