#include "signals.h"

PyObject *signals_use_interrupt(struct control *control, PyObject *arguments) {
  int interrupt_signal;
  if (!PyArg_ParseTuple(arguments, "i:use_signal", &interrupt_signal)) return NULL;
  if (control != NULL) control_use_signal(control, interrupt_signal);
  Py_RETURN_NONE;
}

PyObject *signals_use_stop(struct control *control, PyObject *bits) {
  const unsigned long long stop_signals = PyLong_AsUnsignedLongLong(bits);
  if (PyErr_Occurred()) return NULL;
  if (control != NULL) control_use_stop_signals(control, stop_signals);
  Py_RETURN_NONE;
}

PyObject *signals_use_stacks(struct control *control, PyObject *arguments) {
  int dump_signal, fd;
  if (!PyArg_ParseTuple(arguments, "ii:use_stacks", &dump_signal, &fd)) return NULL;
  if (control != NULL) control_use_stacks(control, dump_signal, fd);
  Py_RETURN_NONE;
}
