#include <errno.h>
#include <unistd.h>

#include "loop_parts.h"
#include "module.h"
#include "peer.h"
#include "signals.h"
#include "stream_job.h"

static PyObject *run(struct loop *self, PyObject *unused) {
  (void)unused;
  return loop_run(self);
}

static PyObject *stop(struct loop *self, PyObject *unused) {
  (void)unused;
  if (!self->abandoned) control_stop(self->control);
  Py_RETURN_NONE;
}

static struct control *control_of(const struct loop *self) {
  return self->abandoned ? NULL : self->control;
}

static PyObject *use_signal(struct loop *self, PyObject *arguments) {
  return signals_use_interrupt(control_of(self), arguments);
}

static PyObject *use_stop_signals(struct loop *self, PyObject *bits) {
  return signals_use_stop(control_of(self), bits);
}

static PyObject *use_stacks(struct loop *self, PyObject *arguments) {
  return signals_use_stacks(control_of(self), arguments);
}

static PyObject *interrupt(struct loop *self, PyObject *unused) {
  (void)unused;
  if (self->abandoned) Py_RETURN_NONE;
  return control_interrupt(self->control, self->hooks.cancelled);
}

static PyObject *interrupt_threads(struct loop *self, PyObject *unused) {
  (void)unused;
  if (!self->abandoned) control_interrupt_threads(self->control, self->hooks.cancelled);
  Py_RETURN_NONE;
}

static PyObject *abandon(struct loop *self, PyObject *unused) {
  (void)unused;
  self->abandoned = true;
  for (size_t i = 0; i < self->connection_count; i++) connection_abandon(self->connections[i]);
  if (self->listen_fd >= 0) (void)close(self->listen_fd);
  self->listen_fd = -1;
  control_abandon(self->control);
  Py_RETURN_NONE;
}

static int make_keywords(struct loop *self) {
  static const char *const names[] = {"context", "cancel_event"};
  self->keywords[1] = Py_BuildValue("(s)", names[0]);
  self->keywords[2] = Py_BuildValue("(s)", names[1]);
  self->keywords[3] = Py_BuildValue("(ss)", names[0], names[1]);
  self->serialize = PyUnicode_InternFromString("SerializeToString");
  return self->keywords[1] == NULL || self->keywords[2] == NULL || self->keywords[3] == NULL || self->serialize == NULL
             ? -1
             : 0;
}

/* Takes the descriptors over once nothing can fail any more. */
static int open_wire(struct loop *self, int fd, int listen_fd, int host_fd) {
  self->control = control_new(host_fd);
  if (self->control == NULL) {
    (void)PyErr_SetFromErrno(PyExc_OSError);
    return -1;
  }
  self->control->connections = self->connections;
  self->inherited = fd >= 0;
  if (fd >= 0 && loop_add_connection(self, fd, CONNECTION_WELCOMING) < 0) {
    self->control->host_fd = -1;
    (void)PyErr_SetFromErrno(PyExc_OSError);
    return -1;
  }
  self->listen_fd = listen_fd;
  return 0;
}

static int set_hooks(struct loop *self, PyObject *hooks) {
  loop_hooks *const to = &self->hooks;
  PyObject **const all[] = {&to->describe, &to->welcome,      &to->codec,      &to->decode,       &to->encode,
                            &to->parse,    &to->print,        &to->make_event, &to->forget_event, &to->cancelled,
                            &to->submit,   &to->start_stream, &to->bad_message};
  static const char *const names[] = {"describe", "welcome",      "codec",      "decode",       "encode",
                                      "parse",    "print",        "make_event", "forget_event", "cancelled",
                                      "submit",   "start_stream", "bad_message"};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
    *all[i] = PyObject_GetAttrString(hooks, names[i]);
    if (*all[i] == NULL) return -1;
  }
  return 0;
}

static PyObject *loop_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords) {
  static char *names[] = {"methods",      "hello",   "hooks",  "fd",       "listen_fd", "host_fd",
                          "worker_index", "spin_us", "shared", "peer_uid", NULL};
  PyObject *method_list, *hello, *hooks;
  int fd = -1, listen_fd = -1, host_fd = -1;
  long worker_index = 0;
  unsigned spin_us = 0;
  int shared = 0;
  long long peer_uid = PEER_ANY;
  if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "OSO|$iiilIpL:Loop", names, &method_list, &hello, &hooks, &fd,
                                   &listen_fd, &host_fd, &worker_index, &spin_us, &shared, &peer_uid))
    return NULL;
  if ((fd < 0) == (listen_fd < 0)) {
    PyErr_SetString(PyExc_ValueError, "a loop needs either fd or listen_fd");
    return NULL;
  }
  struct loop *self = (struct loop *)type->tp_alloc(type, 0);
  if (self == NULL) return NULL;
  self->listen_fd = -1;
  self->worker_index = worker_index;
  self->shared = shared != 0;
  self->peer_uid = peer_uid;
  self->spin_ns = (uint64_t)spin_us * 1000u;
  Py_INCREF(hello);
  self->hello = hello;
  module_state *state = PyType_GetModuleState(type);
  if (state == NULL || make_keywords(self) < 0 || set_hooks(self, hooks) < 0 ||
      methods_init(&self->methods, method_list) < 0)
    goto fail;
  Py_INCREF(state->context_type);
  self->context_type = state->context_type;
  Py_INCREF(state->job_type);
  self->job_type = state->job_type;
  Py_INCREF(state->stream_job_type);
  self->stream_job_type = state->stream_job_type;
  Py_INCREF(state->requests_type);
  self->requests_type = state->requests_type;
  if (open_wire(self, fd, listen_fd, host_fd) < 0) goto fail;
  return (PyObject *)self;
fail:
  Py_DECREF(self);
  return NULL;
}

static int traverse(struct loop *self, visitproc visit, void *arg) {
  Py_VISIT(Py_TYPE(self));
  Py_VISIT(self->hooks.describe);
  Py_VISIT(self->hooks.welcome);
  Py_VISIT(self->hooks.decode);
  Py_VISIT(self->hooks.encode);
  Py_VISIT(self->hooks.parse);
  Py_VISIT(self->hooks.print);
  Py_VISIT(self->hooks.codec);
  Py_VISIT(self->hooks.make_event);
  Py_VISIT(self->hooks.forget_event);
  Py_VISIT(self->hooks.cancelled);
  Py_VISIT(self->hooks.submit);
  Py_VISIT(self->hooks.start_stream);
  Py_VISIT(self->hooks.bad_message);
  Py_VISIT(self->context_type);
  Py_VISIT(self->job_type);
  Py_VISIT(self->stream_job_type);
  Py_VISIT(self->requests_type);
  Py_VISIT(self->spare);
  return methods_traverse(&self->methods, visit, arg);
}

static int clear(struct loop *self) {
  Py_CLEAR(self->hooks.describe);
  Py_CLEAR(self->hooks.welcome);
  Py_CLEAR(self->hooks.decode);
  Py_CLEAR(self->hooks.encode);
  Py_CLEAR(self->hooks.parse);
  Py_CLEAR(self->hooks.print);
  Py_CLEAR(self->hooks.codec);
  Py_CLEAR(self->hooks.make_event);
  Py_CLEAR(self->hooks.forget_event);
  Py_CLEAR(self->hooks.cancelled);
  Py_CLEAR(self->hooks.submit);
  Py_CLEAR(self->hooks.start_stream);
  Py_CLEAR(self->hooks.bad_message);
  Py_CLEAR(self->context_type);
  Py_CLEAR(self->job_type);
  Py_CLEAR(self->stream_job_type);
  Py_CLEAR(self->requests_type);
  Py_CLEAR(self->spare);
  methods_clear(&self->methods);
  return 0;
}

static void dealloc(struct loop *self) {
  PyTypeObject *const type = Py_TYPE(self);
  PyObject_GC_UnTrack(self);
  (void)clear(self);
  Py_CLEAR(self->hello);
  Py_CLEAR(self->serialize);
  for (size_t i = 0; i < sizeof self->keywords / sizeof *self->keywords; i++) Py_CLEAR(self->keywords[i]);
  if (!self->abandoned) { /* a forked child leaves be what its parent's other thread may have been changing */
    for (size_t i = 0; i < self->connection_count; i++) connection_free(self->connections[i]);
    if (self->listen_fd >= 0) (void)close(self->listen_fd);
    if (self->control != NULL) control_release(self->control);
  }
  type->tp_free(self);
  Py_DECREF(type);
}

static PyObject *take_woken(struct loop *self, PyObject *unused) {
  (void)unused;
  return stream_take_woken(self);
}

static PyObject *get_stream_fd(struct loop *self, void *closure) {
  (void)closure;
  return PyLong_FromLong(self->control->tasks.read_fd);
}

static PyObject *get_event_fd(struct loop *self, void *closure) {
  (void)closure;
  return PyLong_FromLong(self->control->events.read_fd);
}

static PyObject *get_wakeup_fd(struct loop *self, void *closure) {
  (void)closure;
  return PyLong_FromLong(self->control->turn.write_fd);
}

static PyObject *get_abandoned(struct loop *self, void *closure) {
  (void)closure;
  return PyBool_FromLong(self->abandoned);
}

static PyMethodDef loop_methods[] = {
    {"run", (PyCFunction)(void (*)(void))run, METH_NOARGS, "Serves until stop(), or the end of the inherited socket."},
    {"stop", (PyCFunction)(void (*)(void))stop, METH_NOARGS, "Lets run() return once the running handler has."},
    {"use_signal", (PyCFunction)(void (*)(void))use_signal, METH_VARARGS,
     "The calling thread's handlers are interrupted by the signal; 0: by none."},
    {"use_stop_signals", (PyCFunction)(void (*)(void))use_stop_signals, METH_O,
     "The signals of these bits, bit n is number n, do as stop() when they come by wakeup_fd."},
    {"use_stacks", (PyCFunction)(void (*)(void))use_stacks, METH_VARARGS,
     "The signal, 0: none, has all stacks written to the descriptor, -1: to standard error."},
    {"interrupt", (PyCFunction)(void (*)(void))interrupt, METH_VARARGS,
     "The signal's handler: raises Cancelled inside a cancelled handler."},
    {"interrupt_threads", (PyCFunction)(void (*)(void))interrupt_threads, METH_NOARGS,
     "Raises Cancelled inside the cancelled handlers of threads that take no signals."},
    {"take_woken", (PyCFunction)(void (*)(void))take_woken, METH_NOARGS,
     "The streams of the event loop for which something has come."},
    {"abandon", (PyCFunction)(void (*)(void))abandon, METH_NOARGS, "Closes all descriptors: in a forked child."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef loop_getters[] = {
    {"event_fd", (getter)get_event_fd, NULL, "Becomes readable when a context with an event is cancelled.", NULL},
    {"stream_fd", (getter)get_stream_fd, NULL, "Becomes readable when take_woken() has something.", NULL},
    {"wakeup_fd", (getter)get_wakeup_fd, NULL, "A byte written to it ends run()'s wait.", NULL},
    {"abandoned", (getter)get_abandoned, NULL, "Whether this is a forked child.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

__extension__ static PyType_Slot loop_slots[] = {
    {Py_tp_doc, "Waits for requests, drains sockets, dispatches to handlers, flushes replies."},
    {Py_tp_new, loop_new},
    {Py_tp_dealloc, dealloc},
    {Py_tp_traverse, traverse},
    {Py_tp_clear, clear},
    {Py_tp_methods, loop_methods},
    {Py_tp_getset, loop_getters},
    {0, NULL},
};

PyType_Spec loop_spec = {
    .name = "pyproc_worker._ext.Loop",
    .basicsize = sizeof(struct loop),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = loop_slots,
};
