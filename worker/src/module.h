/*
 * module.h - the state of the module pyproc_worker._ext, one per interpreter.
 */
#ifndef PYPROC_WORKER_MODULE_H
#define PYPROC_WORKER_MODULE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* Flags of types that Python code makes no objects of. */
#ifdef Py_TPFLAGS_DISALLOW_INSTANTIATION
#define MODULE_INTERNAL_FLAGS \
  (Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE)
#else
#define MODULE_INTERNAL_FLAGS (Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC)
#endif

typedef struct module_state {
  PyTypeObject *context_type, *loop_type, *job_type, *stream_job_type, *requests_type, *watch_type, *run_type;
} module_state;

#endif
