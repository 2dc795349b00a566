/*
 * exception.h - the current exception as one object, on every version of Python.
 */
#ifndef PYPROC_WORKER_EXCEPTION_H
#define PYPROC_WORKER_EXCEPTION_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* Takes the current exception: a new reference with its traceback, or NULL where there is none. */
static inline PyObject *exception_take(void) {
#if PY_VERSION_HEX >= 0x030C0000
  return PyErr_GetRaisedException();
#else
  PyObject *type, *value, *traceback;
  PyErr_Fetch(&type, &value, &traceback);
  if (type == NULL) return NULL;
  PyErr_NormalizeException(&type, &value, &traceback);
  if (traceback != NULL) (void)PyException_SetTraceback(value, traceback);
  Py_DECREF(type);
  Py_XDECREF(traceback);
  return value;
#endif
}

/* Raises it again; takes the reference. */
static inline void exception_restore(PyObject *exception) {
#if PY_VERSION_HEX >= 0x030C0000
  PyErr_SetRaisedException(exception);
#else
  PyObject *type = (PyObject *)Py_TYPE(exception);
  Py_INCREF(type);
  PyErr_Restore(type, exception, PyException_GetTraceback(exception));
#endif
}

#endif
