#include "methods.h"

#include "frame.h"

static int method_init(struct method *self, PyObject *item) {
  PyObject *name, *handler, *missing, *request_type, *reply_type;
  int flags;
  if (!PyArg_ParseTuple(item, "UOOOOi:method", &name, &handler, &missing, &request_type, &reply_type, &flags))
    return -1;
  Py_INCREF(name);
  PyUnicode_InternInPlace(&name);
  self->name = name;
  self->text = PyUnicode_AsUTF8(name);
  Py_INCREF(handler);
  self->handler = handler;
  Py_INCREF(missing);
  self->missing = missing;
  Py_INCREF(request_type);
  self->request_type = request_type;
  Py_INCREF(reply_type);
  self->reply_type = reply_type;
  self->pass_context = (flags & METHOD_CONTEXT) != 0;
  self->pass_context_keyword = (flags & METHOD_CONTEXT_KEYWORD) != 0;
  self->pass_event = (flags & METHOD_EVENT_KEYWORD) != 0;
  self->is_async = (flags & METHOD_ASYNC) != 0;
  self->sends = (flags & METHOD_SENDS) != 0;
  self->receives = (flags & METHOD_RECEIVES) != 0;
  if (self->text == NULL) return -1;
  if (request_type == Py_None) return 0;
  if (!PyType_Check(reply_type)) {
    PyErr_Format(PyExc_TypeError, "%U: the reply's message class is %R, which is no class", name, reply_type);
    return -1;
  }
  self->from_string = PyObject_GetAttrString(request_type, "FromString");
  self->to_string = PyObject_GetAttrString(reply_type, (flags & METHOD_COMPLETE) != 0 ? "SerializePartialToString"
                                                                                      : "SerializeToString");
  return self->from_string == NULL || self->to_string == NULL ? -1 : 0;
}

static int enter_name(struct methods *self, uint32_t index) {
  PyObject *number = PyLong_FromUnsignedLong(index);
  if (number == NULL) return -1;
  const int result = PyDict_SetItem(self->by_name, self->items[index].name, number);
  Py_DECREF(number);
  return result;
}

int methods_init(struct methods *self, PyObject *sequence) {
  PyObject *fast = PySequence_Fast(sequence, "methods must be a sequence");
  if (fast == NULL) return -1;
  int result = -1;
  const Py_ssize_t count = PySequence_Fast_GET_SIZE(fast);
  if (count > WIRE_METHODS_MAX) {
    PyErr_Format(PyExc_ValueError, "a worker can have at most %d methods, not %zd", WIRE_METHODS_MAX, count);
    goto end;
  }
  self->by_name = PyDict_New();
  self->items = PyMem_Calloc(count > 0 ? (size_t)count : 1, sizeof *self->items);
  if (self->by_name == NULL || self->items == NULL) {
    if (!PyErr_Occurred()) PyErr_NoMemory();
    goto end;
  }
  for (Py_ssize_t i = 0; i < count; i++) {
    self->count = (uint32_t)i + 1;
    if (method_init(&self->items[i], PySequence_Fast_GET_ITEM(fast, i)) < 0) goto end;
    if (enter_name(self, (uint32_t)i) < 0) goto end;
  }
  result = 0;
end:
  Py_DECREF(fast);
  return result;
}

int methods_traverse(struct methods *self, visitproc visit, void *arg) {
  for (uint32_t i = 0; i < self->count; i++) {
    Py_VISIT(self->items[i].handler);
    Py_VISIT(self->items[i].request_type);
    Py_VISIT(self->items[i].reply_type);
    Py_VISIT(self->items[i].from_string);
    Py_VISIT(self->items[i].to_string);
  }
  Py_VISIT(self->by_name);
  return 0;
}

void methods_clear(struct methods *self) {
  struct method *const items = self->items;
  const uint32_t count = self->count;
  self->items = NULL;
  self->count = 0;
  for (uint32_t i = 0; i < count; i++) {
    Py_XDECREF(items[i].name);
    Py_XDECREF(items[i].handler);
    Py_XDECREF(items[i].missing);
    Py_XDECREF(items[i].request_type);
    Py_XDECREF(items[i].reply_type);
    Py_XDECREF(items[i].from_string);
    Py_XDECREF(items[i].to_string);
  }
  PyMem_Free(items);
  Py_CLEAR(self->by_name);
}

const struct method *methods_by_index(const struct methods *self, uint32_t index) {
  return index < self->count ? &self->items[index] : NULL;
}

const struct method *methods_by_name(const struct methods *self, PyObject *name) {
  PyObject *number = self->by_name == NULL ? NULL : PyDict_GetItemWithError(self->by_name, name);
  if (number == NULL) return NULL;
  return methods_by_index(self, (uint32_t)PyLong_AsUnsignedLong(number));
}
