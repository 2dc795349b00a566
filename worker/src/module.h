/*
 * module.h - the state of the module pyproc_worker._ext, one per interpreter.
 */
#ifndef PYPROC_WORKER_MODULE_H
#define PYPROC_WORKER_MODULE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

typedef struct module_state {
  PyTypeObject *context_type, *loop_type, *job_type, *watch_type, *run_type;
} module_state;

#endif
