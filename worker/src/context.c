#include "context.h"

#include <stddef.h>
#include <structmember.h>
#include <string.h>

#include "connection.h"

struct context *context_new(PyTypeObject *type, PyObject *make_event, long worker_index) {
  struct context *self = PyObject_GC_New(struct context, type);
  if (self == NULL) return NULL;
  Py_INCREF(make_event);
  Py_INCREF(Py_None);
  self->make_event = make_event;
  self->method = Py_None;
  self->event = self->metadata = NULL;
  self->added = (metadata_queue){0};
  self->initial = 0;
  self->answered = false;
  self->worker_index = worker_index;
  self->id = self->deadline_ns = 0;
  atomic_init(&self->event_wanted, false);
  atomic_init(&self->asked, false);
  atomic_init(&self->making_event, false);
  atomic_init(&self->cancelled, 0);
  self->reason[0] = '\0';
  PyObject_GC_Track(self);
  return self;
}

void context_begin(struct context *self, PyObject *method, uint64_t id, uint64_t deadline_ns, PyObject *metadata) {
  PyObject *const old = self->method;
  Py_INCREF(method);
  self->method = method;
  Py_XDECREF(old);
  Py_CLEAR(self->event);
  Py_CLEAR(self->metadata);
  Py_XINCREF(metadata);
  self->metadata = metadata;
  metadata_queue_clear(&self->added);
  self->initial = 0;
  self->answered = false;
  self->id = id;
  self->deadline_ns = deadline_ns;
  self->reason[0] = '\0';
  atomic_store_explicit(&self->event_wanted, false, memory_order_relaxed);
  atomic_store_explicit(&self->asked, false, memory_order_relaxed);
  atomic_store_explicit(&self->cancelled, 0, memory_order_relaxed);
}

/* Cuts at a character's end. */
static size_t cut_utf8(const char *text, size_t size, size_t most) {
  if (size <= most) return size;
  while (most > 0 && ((unsigned char)text[most] & 0xC0) == 0x80) most--;
  return most;
}

void context_cancel(struct context *self, unsigned code, const char *reason, size_t reason_size, const wake *events) {
  if (atomic_load(&self->cancelled) != 0) return;
  const size_t size = reason == NULL ? 0 : cut_utf8(reason, reason_size, CONTEXT_REASON_MAX - 1);
  if (size > 0) memcpy(self->reason, reason, size);
  self->reason[size] = '\0';
  atomic_store(&self->cancelled, code);
  if (atomic_load(&self->event_wanted)) wake_signal(events);
}

PyObject *context_explain(const struct context *self) {
  if (atomic_load(&self->cancelled) == 4) return PyUnicode_FromString("the deadline passed");
  return self->reason[0] == '\0' ? PyUnicode_FromString("Cancelled")
                                 : PyUnicode_FromFormat("Cancelled: %s", self->reason);
}

#ifndef Py_BEGIN_CRITICAL_SECTION /* a Python without free threading */
#define Py_BEGIN_CRITICAL_SECTION(object) {
#define Py_END_CRITICAL_SECTION() }
#endif

PyObject *context_event(struct context *self) {
  PyObject *event;
  Py_BEGIN_CRITICAL_SECTION((PyObject *)self);
  atomic_store(&self->asked, true);
  if (self->event == NULL) {
    atomic_store(&self->event_wanted, true); /* before make_event looks at `cancelled`, so that none is missed */
    atomic_store(&self->making_event, true);
    event = PyObject_CallFunctionObjArgs(self->make_event, (PyObject *)self, NULL);
    atomic_store(&self->making_event, false);
    if (self->event == NULL) /* another thread may have asked meanwhile */
      self->event = event;
    else
      Py_XDECREF(event);
  }
  event = self->event;
  Py_XINCREF(event);
  Py_END_CRITICAL_SECTION();
  return event;
}

metadata_queue context_take_metadata(struct context *self, size_t room, bool last) {
  metadata_queue taken = {0};
  Py_BEGIN_CRITICAL_SECTION((PyObject *)self);
  if (self->added.size > 0 && self->added.size <= room) {
    taken = self->added;
    self->added = (metadata_queue){0};
    self->initial = 0;
  }
  self->answered = self->answered || last;
  Py_END_CRITICAL_SECTION();
  return taken;
}

PyObject *context_take_initial(struct context *self) {
  PyObject *result;
  Py_BEGIN_CRITICAL_SECTION((PyObject *)self);
  result = metadata_to_tuple(self->added.data, self->initial);
  if (result != NULL && self->initial > 0) {
    self->added.size -= self->initial;
    memmove(self->added.data, self->added.data + self->initial, self->added.size);
    self->initial = 0;
  }
  Py_END_CRITICAL_SECTION();
  return result;
}

static PyObject *send_initial_metadata(struct context *self, PyObject *unused) {
  (void)unused;
  Py_BEGIN_CRITICAL_SECTION((PyObject *)self);
  self->initial = self->added.size;
  Py_END_CRITICAL_SECTION();
  Py_RETURN_NONE;
}

/* The tuple is made when it is asked for, and kept. */
static PyObject *get_metadata(struct context *self, void *closure) {
  PyObject *result;
  (void)closure;
  Py_BEGIN_CRITICAL_SECTION((PyObject *)self);
  result = self->metadata;
  if (result == NULL) {
    result = PyTuple_New(0);
  } else if (PyBytes_Check(result)) {
    result = metadata_to_tuple((const uint8_t *)PyBytes_AS_STRING(result), (size_t)PyBytes_GET_SIZE(result));
    if (result != NULL) Py_SETREF(self->metadata, result);
    Py_XINCREF(result);
  } else {
    Py_INCREF(result);
  }
  Py_END_CRITICAL_SECTION();
  return result;
}

static PyObject *add_metadata(struct context *self, PyObject *arguments, PyObject *keywords) {
  static char *names[] = {"key", "value", NULL};
  PyObject *key, *value;
  int result;
  if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "OO:add_metadata", names, &key, &value)) return NULL;
  Py_BEGIN_CRITICAL_SECTION((PyObject *)self);
  result = self->answered ? 1 : metadata_queue_add(&self->added, key, value);
  Py_END_CRITICAL_SECTION();
  if (result == 0) Py_RETURN_NONE;
  if (result > 0) PyErr_SetString(PyExc_RuntimeError, "the call has been answered: metadata can be added no more");
  return NULL;
}

static PyObject *get_cancel_event(struct context *self, void *closure) {
  (void)closure;
  return context_event(self);
}

static PyObject *get_cancelled(struct context *self, void *closure) {
  (void)closure;
  atomic_store(&self->asked, true);
  return PyBool_FromLong(atomic_load(&self->cancelled) != 0);
}

static PyObject *get_cancel_reason(struct context *self, void *closure) {
  (void)closure;
  if (atomic_load(&self->cancelled) == 0) return PyUnicode_FromString("");
  return PyUnicode_DecodeUTF8(self->reason, (Py_ssize_t)strlen(self->reason), "replace");
}

static PyObject *get_deadline(struct context *self, void *closure) {
  (void)closure;
  if (self->deadline_ns == 0) Py_RETURN_NONE;
  return PyFloat_FromDouble((double)self->deadline_ns / 1e9);
}

static PyObject *get_call_id(struct context *self, void *closure) {
  (void)closure;
  return PyLong_FromUnsignedLongLong(self->id);
}

static PyObject *time_remaining(struct context *self, PyObject *unused) {
  (void)unused;
  if (self->deadline_ns == 0) Py_RETURN_NONE;
  const uint64_t now = clock_ns();
  return PyFloat_FromDouble(now >= self->deadline_ns ? 0.0 : (double)(self->deadline_ns - now) / 1e9);
}

static PyObject *repr(struct context *self) {
  return PyUnicode_FromFormat("<Context of call %llu of %R>", (unsigned long long)self->id, self->method);
}

static int traverse(struct context *self, visitproc visit, void *arg) {
  Py_VISIT(Py_TYPE(self));
  Py_VISIT(self->event);
  Py_VISIT(self->make_event);
  return 0;
}

static int clear(struct context *self) {
  Py_CLEAR(self->event);
  return 0;
}

static void dealloc(struct context *self) {
  PyTypeObject *const type = Py_TYPE(self);
  PyObject_GC_UnTrack(self);
  Py_CLEAR(self->event);
  Py_CLEAR(self->make_event);
  Py_CLEAR(self->method);
  Py_CLEAR(self->metadata);
  metadata_queue_free(&self->added);
  PyObject_GC_Del(self);
  Py_DECREF(type);
}

static PyMethodDef methods[] = {
    {"time_remaining", (PyCFunction)(void (*)(void))time_remaining, METH_NOARGS,
     "Seconds until the call's deadline, 0.0 once it is over; None where it has none."},
    {"send_initial_metadata", (PyCFunction)(void (*)(void))send_initial_metadata, METH_NOARGS,
     "By gRPC, what has been added so far is sent ahead of the reply, as initial metadata; else this does nothing."},
    {"add_metadata", (PyCFunction)(void (*)(void))add_metadata, METH_VARARGS | METH_KEYWORDS,
     "Adds an entry to what is sent beside the reply or the error: a str, or bytes where the key ends in \"-bin\"."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef members[] = {
    {"method", T_OBJECT_EX, offsetof(struct context, method), READONLY, "Name of the method that is called."},
    {"worker_index", T_LONG, offsetof(struct context, worker_index), READONLY,
     "Index of this worker in its pool, from 0."},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef getters[] = {
    {"call_id", (getter)get_call_id, NULL, "The call's number on its connection.", NULL},
    {"deadline", (getter)get_deadline, NULL, "When the call is over, in time.monotonic()'s seconds; None: never.",
     NULL},
    {"metadata", (getter)get_metadata, NULL,
     "What came beside the request: pairs of a key and a str, or bytes where the key ends in \"-bin\".", NULL},
    {"cancelled", (getter)get_cancelled, NULL, "Whether the caller has given the call up.", NULL},
    {"cancel_reason", (getter)get_cancel_reason, NULL, "Why the call was cancelled; empty where nothing is known.",
     NULL},
    {"cancel_event", (getter)get_cancel_event, NULL, "A threading.Event that is set once the call is cancelled.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

__extension__ static PyType_Slot slots[] = {
    {Py_tp_doc, "What a handler may ask about the call that it runs."},
    {Py_tp_dealloc, dealloc},
    {Py_tp_traverse, traverse},
    {Py_tp_clear, clear},
    {Py_tp_repr, repr},
    {Py_tp_methods, methods},
    {Py_tp_members, members},
    {Py_tp_getset, getters},
    {0, NULL},
};

PyType_Spec context_spec = {
    .name = "pyproc_worker.Context",
    .basicsize = sizeof(struct context),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC
#ifdef Py_TPFLAGS_DISALLOW_INSTANTIATION
             | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE
#endif
    ,
    .slots = slots,
};
