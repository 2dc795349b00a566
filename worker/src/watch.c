#define _GNU_SOURCE
#include "watch.h"

#include <errno.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

#include "context.h"
#include "control.h"
#include "exception.h"
#include "metadata_entries.h"
#include "module.h"
#include "signals.h"

struct watch {
  PyObject_HEAD struct control *control;
  PyObject *make_event, *forget_event, *cancelled;
  PyTypeObject *context_type, *run_type;
  long worker_index;
  bool abandoned; /* this is a forked child: nothing may be touched */
};

struct watched {
  PyObject_HEAD struct watch *watch;
  struct context *context;
  struct run run;
};

static void lock(struct watch *self) {
  (void)pthread_mutex_lock(&self->control->lock);
}
static void unlock(struct watch *self) {
  (void)pthread_mutex_unlock(&self->control->lock);
}

/* --- Run --- */

static PyObject *run_call(struct watched *self, PyObject *const *arguments, Py_ssize_t count) {
  struct watch *const watch = self->watch;
  if (count < 1) {
    PyErr_SetString(PyExc_TypeError, "call() needs a function");
    return NULL;
  }
  if (watch->abandoned || !self->run.listed || self->run.started) {
    PyErr_SetString(PyExc_RuntimeError, "the run has ended, or is entered already");
    return NULL;
  }
  lock(watch);
  self->run.kind = RUN_THREAD;
  control_run(watch->control, &self->run, false, 0);
  unlock(watch);
  control_rouse(watch->control);
  atomic_store(&self->run.armed, true);
  PyObject *value = PyObject_Vectorcall(arguments[0], arguments + 1, (size_t)(count - 1), NULL);
  if (!watch->abandoned) control_leave(watch->control, &self->run);
  if (value != NULL) return Py_BuildValue("(NO)", value, Py_None);
  PyObject *exception = exception_take();
  return Py_BuildValue("(ON)", Py_None, exception);
}

static PyObject *run_enter_task(struct watched *self, PyObject *unused) {
  (void)unused;
  struct watch *const watch = self->watch;
  if (watch->abandoned) Py_RETURN_NONE;
  lock(watch);
  self->run.kind = RUN_TASK;
  control_run(watch->control, &self->run, false, 0);
  unlock(watch);
  atomic_store(&self->run.armed, true);
  control_rouse(watch->control);
  Py_RETURN_NONE;
}

static PyObject *run_take_due(struct watched *self, PyObject *unused) {
  (void)unused;
  struct watch *const watch = self->watch;
  if (watch->abandoned) Py_RETURN_FALSE;
  lock(watch);
  const bool taken =
      self->run.listed && self->run.kind == RUN_TASK && run_take_interrupt(&self->run, watch->control->grace_ns);
  unlock(watch);
  return PyBool_FromLong(taken);
}

static PyObject *run_claim(struct watched *self, PyObject *unused) {
  (void)unused;
  struct watch *const watch = self->watch;
  if (watch->abandoned) Py_RETURN_FALSE;
  lock(watch);
  const bool first = self->run.raised == 0;
  if (first) self->run.raised = 1;
  unlock(watch);
  return PyBool_FromLong(first);
}

static PyObject *run_cancel_it(struct watched *self, PyObject *arguments) {
  struct watch *const watch = self->watch;
  unsigned code;
  const char *reason;
  Py_ssize_t size;
  if (!PyArg_ParseTuple(arguments, "Is#:cancel", &code, &reason, &size)) return NULL;
  if (watch->abandoned) Py_RETURN_NONE;
  lock(watch);
  if (self->run.listed) run_cancel(&self->run, code, reason, (size_t)size, &watch->control->events);
  unlock(watch);
  wake_signal(&watch->control->poke);
  Py_RETURN_NONE;
}

static PyObject *run_restart(struct watched *self, PyObject *unused) {
  (void)unused;
  struct watch *const watch = self->watch;
  if (watch->abandoned) Py_RETURN_NONE;
  lock(watch);
  self->run.raised = 0;
  atomic_store(&self->context->asked, true);
  if (self->run.cancelled_ns != 0) self->run.cancelled_ns = clock_ns();
  unlock(watch);
  Py_RETURN_NONE;
}

static PyObject *run_explain(struct watched *self, PyObject *unused) {
  (void)unused;
  return context_explain(self->context);
}

static void unlist(struct watched *self) {
  if (self->watch == NULL || self->watch->abandoned) return;
  lock(self->watch);
  atomic_store(&self->run.armed, false);
  control_end(self->watch->control, &self->run);
  unlock(self->watch);
}

static PyObject *run_end(struct watched *self, PyObject *unused) {
  (void)unused;
  unlist(self);
  if (self->context->event == NULL) Py_RETURN_NONE;
  return PyObject_CallOneArg(self->watch->forget_event, (PyObject *)self->context);
}

static PyObject *run_take_metadata(struct watched *self, PyObject *last) {
  const int is_last = PyObject_IsTrue(last);
  if (is_last < 0) return NULL;
  metadata_queue taken = context_take_metadata(self->context, SIZE_MAX, is_last != 0);
  PyObject *result = metadata_to_tuple(taken.data, taken.size);
  metadata_queue_free(&taken);
  return result;
}

static PyObject *run_take_initial(struct watched *self, PyObject *unused) {
  (void)unused;
  return context_take_initial(self->context);
}

static PyObject *run_get_added(struct watched *self, void *closure) {
  (void)closure;
  return PyLong_FromSize_t(self->context->added.size);
}

static PyObject *run_get_context(struct watched *self, void *closure) {
  (void)closure;
  Py_INCREF(self->context);
  return (PyObject *)self->context;
}

static PyObject *run_get_code(struct watched *self, void *closure) {
  (void)closure;
  return PyLong_FromUnsignedLong(atomic_load(&self->context->cancelled));
}

static int run_traverse(struct watched *self, visitproc visit, void *arg) {
  Py_VISIT(Py_TYPE(self));
  Py_VISIT(self->watch);
  Py_VISIT(self->context);
  return 0;
}

static void run_dealloc(struct watched *self) {
  PyTypeObject *const type = Py_TYPE(self);
  PyObject_GC_UnTrack(self);
  unlist(self);
  Py_CLEAR(self->context);
  Py_CLEAR(self->watch);
  type->tp_free(self);
  Py_DECREF(type);
}

static PyMethodDef run_methods[] = {
    {"call", (PyCFunction)(void (*)(void))run_call, METH_FASTCALL,
     "Calls a function, interrupted where the run is cancelled. Returns what it returned, and what it raised or None."},
    {"enter_task", (PyCFunction)(void (*)(void))run_enter_task, METH_NOARGS,
     "From now to end() a task of an event loop is the handler."},
    {"take_interrupt", (PyCFunction)(void (*)(void))run_take_due, METH_NOARGS,
     "Whether the task is to be cancelled now."},
    {"claim_interrupt", (PyCFunction)(void (*)(void))run_claim, METH_NOARGS,
     "Whether nothing has been raised in the handler: the caller raises Cancelled then."},
    {"cancel", (PyCFunction)(void (*)(void))run_cancel_it, METH_VARARGS,
     "Marks the call as cancelled, with a code (1 or 4) and a reason; only the first time counts."},
    {"restart", (PyCFunction)(void (*)(void))run_restart, METH_NOARGS,
     "The clean-up of a cancelled run gets a time of its own, as if it was cancelled now and had asked for it."},
    {"explain", (PyCFunction)(void (*)(void))run_explain, METH_NOARGS, "Why it was cancelled, as errors say it."},
    {"take_metadata", (PyCFunction)(void (*)(void))run_take_metadata, METH_O,
     "What the handler has added, as pairs; True: it can add no more."},
    {"take_initial", (PyCFunction)(void (*)(void))run_take_initial, METH_NOARGS,
     "What the handler wants to be sent ahead of the reply, as pairs."},
    {"end", (PyCFunction)(void (*)(void))run_end, METH_NOARGS, "The call is over."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef run_getters[] = {
    {"context", (getter)run_get_context, NULL, "The Context of the call.", NULL},
    {"added", (getter)run_get_added, NULL, "How many bytes take_metadata() would give.", NULL},
    {"code", (getter)run_get_code, NULL, "0, or why it was cancelled: 1 cancelled, 4 deadline exceeded.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

__extension__ static PyType_Slot run_slots[] = {
    {Py_tp_doc, "A handler that a watch watches."},
    {Py_tp_dealloc, run_dealloc},
    {Py_tp_traverse, run_traverse},
    {Py_tp_methods, run_methods},
    {Py_tp_getset, run_getters},
    {0, NULL},
};

PyType_Spec run_spec = {
    .name = "pyproc_worker._ext.Run",
    .basicsize = sizeof(struct watched),
    .flags = MODULE_INTERNAL_FLAGS,
    .slots = run_slots,
};

/* --- Watch --- */

/* Seconds of time.monotonic(), or None. Returns 0, or -1 with a Python exception. */
static int parse_deadline(PyObject *deadline, uint64_t *ret_ns) {
  *ret_ns = 0;
  if (deadline == Py_None) return 0;
  const double seconds = PyFloat_AsDouble(deadline);
  if (seconds == -1.0 && PyErr_Occurred()) return -1;
  if (isnan(seconds) || seconds > 9e9) return 0; /* as good as none */
  *ret_ns = seconds <= 0 ? 1 : (uint64_t)(seconds * 1e9);
  return 0;
}

static PyObject *watch_begin(struct watch *self, PyObject *arguments) {
  PyObject *method, *deadline, *metadata;
  unsigned long long id;
  uint64_t deadline_ns;
  if (!PyArg_ParseTuple(arguments, "UKOS:begin", &method, &id, &deadline, &metadata)) return NULL;
  const char *text = PyUnicode_AsUTF8(method);
  if (text == NULL || parse_deadline(deadline, &deadline_ns) < 0) return NULL;
  struct watched *made = (struct watched *)self->run_type->tp_alloc(self->run_type, 0);
  if (made == NULL) return NULL;
  Py_INCREF(self);
  made->watch = self;
  made->context = context_new(self->context_type, self->make_event, self->worker_index);
  if (made->context == NULL) {
    Py_DECREF(made);
    return NULL;
  }
  context_begin(made->context, method, id, deadline_ns, PyBytes_GET_SIZE(metadata) > 0 ? metadata : NULL);
  made->run = (struct run){.context = made->context, .id = id, .method = text, .kind = RUN_THREAD};
  if (self->abandoned) return (PyObject *)made;
  lock(self);
  control_list(self->control, &made->run, false);
  unlock(self);
  control_rouse(self->control);
  return (PyObject *)made;
}

static PyObject *watch_start(struct watch *self, PyObject *unused) {
  (void)unused;
  errno = self->control->started ? EALREADY : control_start(self->control);
  if (errno != 0) return PyErr_SetFromErrno(PyExc_OSError);
  Py_RETURN_NONE;
}

static PyObject *watch_set_welcome(struct watch *self, PyObject *arguments) {
  long worker_index, grace_ms;
  if (!PyArg_ParseTuple(arguments, "ll:set_welcome", &worker_index, &grace_ms)) return NULL;
  if (worker_index >= 0) self->worker_index = worker_index;
  if (grace_ms <= 0 || self->abandoned) Py_RETURN_NONE;
  lock(self);
  self->control->grace_ns = (uint64_t)grace_ms * 1000000u;
  self->control->kills = true;
  unlock(self);
  Py_RETURN_NONE;
}

static PyObject *watch_cancel_all(struct watch *self, PyObject *reason) {
  Py_ssize_t size;
  const char *text = PyUnicode_AsUTF8AndSize(reason, &size);
  if (text == NULL) return NULL;
  if (self->abandoned) Py_RETURN_NONE;
  lock(self);
  control_cancel_all(self->control, NULL, text);
  unlock(self);
  Py_RETURN_NONE;
}

static PyObject *watch_stop(struct watch *self, PyObject *unused) {
  (void)unused;
  if (!self->abandoned) control_stop(self->control);
  Py_RETURN_NONE;
}

static PyObject *watch_drain(struct watch *self, PyObject *unused) {
  (void)unused;
  if (!self->abandoned) control_take_turn(self->control);
  return PyBool_FromLong(atomic_load(&self->control->stop));
}

static struct control *control_of(const struct watch *self) {
  return self->abandoned ? NULL : self->control;
}

static PyObject *watch_use_signal(struct watch *self, PyObject *arguments) {
  return signals_use_interrupt(control_of(self), arguments);
}

static PyObject *watch_use_stop_signals(struct watch *self, PyObject *bits) {
  return signals_use_stop(control_of(self), bits);
}

static PyObject *watch_use_stacks(struct watch *self, PyObject *arguments) {
  return signals_use_stacks(control_of(self), arguments);
}

static PyObject *watch_take_wire(struct watch *self, PyObject *number) {
  const long fd = PyLong_AsLong(number);
  if (fd == -1 && PyErr_Occurred()) return NULL;
  if (!self->abandoned && control_take_wire(self->control, (int)fd) < 0) return PyErr_SetFromErrno(PyExc_OSError);
  Py_RETURN_NONE;
}

static PyObject *watch_interrupt(struct watch *self, PyObject *unused) {
  (void)unused;
  if (self->abandoned) Py_RETURN_NONE;
  return control_interrupt(self->control, self->cancelled);
}

static PyObject *watch_interrupt_threads(struct watch *self, PyObject *unused) {
  (void)unused;
  if (!self->abandoned) control_interrupt_threads(self->control, self->cancelled);
  Py_RETURN_NONE;
}

static PyObject *watch_abandon(struct watch *self, PyObject *unused) {
  (void)unused;
  self->abandoned = true;
  control_abandon(self->control);
  Py_RETURN_NONE;
}

static int set_hooks(struct watch *self, PyObject *hooks) {
  self->make_event = PyObject_GetAttrString(hooks, "make_event");
  if (self->make_event == NULL) return -1;
  self->forget_event = PyObject_GetAttrString(hooks, "forget_event");
  if (self->forget_event == NULL) return -1;
  self->cancelled = PyObject_GetAttrString(hooks, "cancelled");
  return self->cancelled == NULL ? -1 : 0;
}

static PyObject *watch_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords) {
  static char *names[] = {"hooks", "host_fd", "worker_index", NULL};
  PyObject *hooks;
  int host_fd = -1;
  long worker_index = 0;
  if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "O|$il:Watch", names, &hooks, &host_fd, &worker_index))
    return NULL;
  const module_state *const state = PyType_GetModuleState(type);
  struct watch *self = state == NULL ? NULL : (struct watch *)type->tp_alloc(type, 0);
  if (self == NULL) return NULL;
  self->worker_index = worker_index;
  Py_INCREF(state->context_type);
  self->context_type = state->context_type;
  Py_INCREF(state->run_type);
  self->run_type = state->run_type;
  if (set_hooks(self, hooks) < 0) goto fail;
  self->control = control_new(host_fd);
  if (self->control != NULL) return (PyObject *)self;
  (void)PyErr_SetFromErrno(PyExc_OSError);
fail:
  Py_DECREF(self);
  return NULL;
}

static int watch_traverse(struct watch *self, visitproc visit, void *arg) {
  Py_VISIT(Py_TYPE(self));
  Py_VISIT(self->make_event);
  Py_VISIT(self->forget_event);
  Py_VISIT(self->cancelled);
  Py_VISIT(self->context_type);
  Py_VISIT(self->run_type);
  return 0;
}

static int watch_clear(struct watch *self) {
  Py_CLEAR(self->make_event);
  Py_CLEAR(self->forget_event);
  Py_CLEAR(self->cancelled);
  return 0;
}

static void watch_dealloc(struct watch *self) {
  PyTypeObject *const type = Py_TYPE(self);
  PyObject_GC_UnTrack(self);
  (void)watch_clear(self);
  Py_CLEAR(self->context_type);
  Py_CLEAR(self->run_type);
  if (!self->abandoned && self->control != NULL) control_release(self->control);
  type->tp_free(self);
  Py_DECREF(type);
}

static PyObject *watch_get_event_fd(struct watch *self, void *closure) {
  (void)closure;
  return PyLong_FromLong(self->control->events.read_fd);
}

static PyObject *watch_get_turn_fd(struct watch *self, void *closure) {
  (void)closure;
  return PyLong_FromLong(self->control->turn.read_fd);
}

static PyObject *watch_get_wakeup_fd(struct watch *self, void *closure) {
  (void)closure;
  return PyLong_FromLong(self->control->turn.write_fd);
}

static PyObject *watch_get_abandoned(struct watch *self, void *closure) {
  (void)closure;
  return PyBool_FromLong(self->abandoned);
}

static PyMethodDef watch_methods[] = {
    {"start", (PyCFunction)(void (*)(void))watch_start, METH_NOARGS, "Starts the thread that watches."},
    {"begin", (PyCFunction)(void (*)(void))watch_begin, METH_VARARGS,
     "A Run for a call: the method's name, the call's number, its deadline in time.monotonic()'s seconds or None, and "
     "what encode_metadata() made of its metadata."},
    {"set_welcome", (PyCFunction)(void (*)(void))watch_set_welcome, METH_VARARGS,
     "Worker index and cancel_grace_ms of the host's welcome, -1 where it says nothing."},
    {"cancel_all", (PyCFunction)(void (*)(void))watch_cancel_all, METH_O, "Cancels all runs, for a reason."},
    {"stop", (PyCFunction)(void (*)(void))watch_stop, METH_NOARGS, "Asks the server to stop, by turn_fd."},
    {"drain", (PyCFunction)(void (*)(void))watch_drain, METH_NOARGS,
     "Empties turn_fd. Returns whether the server is to stop."},
    {"take_wire", (PyCFunction)(void (*)(void))watch_take_wire, METH_O,
     "Has the thread read the host's socket from now on: it answers pings, and stops at its end."},
    {"use_signal", (PyCFunction)(void (*)(void))watch_use_signal, METH_VARARGS,
     "The calling thread's handlers are interrupted by the signal; 0: by none."},
    {"use_stop_signals", (PyCFunction)(void (*)(void))watch_use_stop_signals, METH_O,
     "The signals of these bits, bit n is number n, do as stop() when they come by wakeup_fd."},
    {"use_stacks", (PyCFunction)(void (*)(void))watch_use_stacks, METH_VARARGS,
     "The signal, 0: none, has all stacks written to the descriptor, -1: to standard error."},
    {"interrupt", (PyCFunction)(void (*)(void))watch_interrupt, METH_VARARGS, "As Loop.interrupt()."},
    {"interrupt_threads", (PyCFunction)(void (*)(void))watch_interrupt_threads, METH_NOARGS,
     "As Loop.interrupt_threads()."},
    {"abandon", (PyCFunction)(void (*)(void))watch_abandon, METH_NOARGS, "Closes all descriptors: in a forked child."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef watch_getters[] = {
    {"event_fd", (getter)watch_get_event_fd, NULL, "As Loop.event_fd.", NULL},
    {"turn_fd", (getter)watch_get_turn_fd, NULL, "Becomes readable when the server is to stop, or a signal came.",
     NULL},
    {"wakeup_fd", (getter)watch_get_wakeup_fd, NULL, "The end of turn_fd's pipe that a signal is written to.", NULL},
    {"abandoned", (getter)watch_get_abandoned, NULL, "Whether this is a forked child.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

__extension__ static PyType_Slot watch_slots[] = {
    {Py_tp_doc, "Watches handlers that Python runs: deadlines, cancels, the host's death."},
    {Py_tp_new, watch_new},
    {Py_tp_dealloc, watch_dealloc},
    {Py_tp_traverse, watch_traverse},
    {Py_tp_clear, watch_clear},
    {Py_tp_methods, watch_methods},
    {Py_tp_getset, watch_getters},
    {0, NULL},
};

PyType_Spec watch_spec = {
    .name = "pyproc_worker._ext.Watch",
    .basicsize = sizeof(struct watch),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = watch_slots,
};
