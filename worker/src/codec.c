#include "codec.h"

#include "envelope.h"

/* What register_codec() was given; see pyproc_worker/_codecs.py. */
enum { CODEC_NAME, CODEC_PACK, CODEC_UNPACK, CODEC_DUMPS, CODEC_LOADS, CODEC_PARTS };

int codec_choose(struct loop *self, struct connection *connection, PyObject *welcome) {
  PyObject *codec = PyObject_CallOneArg(self->hooks.codec, welcome);
  if (codec == NULL) return -1;
  if (codec == Py_None) {
    Py_DECREF(codec);
    return 0;
  }
  if (!PyTuple_Check(codec) || PyTuple_GET_SIZE(codec) != CODEC_PARTS) {
    Py_DECREF(codec);
    PyErr_SetString(PyExc_TypeError, "a codec must be a tuple of a name and four functions");
    return -1;
  }
  Py_XDECREF(connection->codec);
  connection->codec = codec;
  return 0;
}

static PyObject *part(const struct connection *of, int which) {
  return PyTuple_GET_ITEM(of->codec, which);
}

/* Says that the codec's function gave something else than it must; consumes `value`. */
static PyObject *refuse(const struct connection *of, const char *function, PyObject *value, const char *wanted) {
  PyErr_Format(PyExc_TypeError, "%s of the codec %R returned %.200s where it must return %.200s", function,
               part(of, CODEC_NAME), value == Py_None ? "None" : Py_TYPE(value)->tp_name, wanted);
  Py_DECREF(value);
  return NULL;
}

static PyObject *read_registered(const struct connection *from, const struct method *method, PyObject *bytes,
                                 codec_problem *ret_problem) {
  if (!method_is_typed(method)) return PyObject_CallOneArg(part(from, CODEC_LOADS), bytes);
  PyObject *const arguments[] = {bytes, method->request_type};
  PyObject *value = PyObject_Vectorcall(part(from, CODEC_UNPACK), arguments, 2, NULL);
  if (value == NULL) return NULL;
  const int fits = PyObject_IsInstance(value, method->request_type);
  if (fits > 0) return value;
  ret_problem->code = 13; /* the codec's fault, not the caller's */
  if (fits == 0) return refuse(from, "unpack", value, ((PyTypeObject *)method->request_type)->tp_name);
  Py_DECREF(value);
  return NULL;
}

static PyObject *read_json(struct loop *self, const struct method *method, const codec_body *body) {
  PyObject *text = PyUnicode_DecodeUTF8(body->data, (Py_ssize_t)body->size, "strict");
  if (text == NULL) return NULL;
  PyObject *const arguments[] = {text, method->request_type};
  PyObject *const parser = method_is_typed(method) ? self->hooks.parse : self->hooks.decode;
  PyObject *value = PyObject_Vectorcall(parser, arguments, method_is_typed(method) ? 2 : 1, NULL);
  Py_DECREF(text);
  return value;
}

/* Not JSON. */
static PyObject *read_bytes(const struct connection *from, const struct method *method, PyObject *bytes,
                            codec_problem *ret_problem) {
  if (from->codec != NULL) return read_registered(from, method, bytes, ret_problem);
  if (method_is_typed(method)) return PyObject_CallOneArg(method->from_string, bytes);
  ret_problem->wrong = "not in JSON: it must have the flag JSON";
  return NULL;
}

PyObject *codec_read(struct loop *self, const struct connection *from, const struct method *method,
                     const codec_body *body, codec_problem *ret_problem) {
  *ret_problem = (codec_problem){.code = 3};
  if (body->json) {
    if (!body->checked) ret_problem->wrong = envelope_check_body(body->data, body->size);
    return ret_problem->wrong == NULL ? read_json(self, method, body) : NULL;
  }
  if (body->bytes != NULL) return read_bytes(from, method, body->bytes, ret_problem);
  PyObject *bytes = PyBytes_FromStringAndSize(body->data, (Py_ssize_t)body->size);
  if (bytes == NULL) return NULL;
  PyObject *value = read_bytes(from, method, bytes, ret_problem);
  Py_DECREF(bytes);
  return value;
}

/* The bytes object's inside; consumes `owner` on failure. */
static PyObject *give_bytes(PyObject *owner, const char **ret_data, size_t *ret_size) {
  *ret_data = PyBytes_AS_STRING(owner);
  *ret_size = (size_t)PyBytes_GET_SIZE(owner);
  return owner;
}

static PyObject *write_registered(const struct connection *to, const struct method *method, PyObject *value,
                                  const char **ret_data, size_t *ret_size) {
  const bool typed = method_is_typed(method);
  PyObject *owner = PyObject_CallOneArg(part(to, typed ? CODEC_PACK : CODEC_DUMPS), value);
  if (owner == NULL) return NULL;
  if (!PyBytes_Check(owner)) return refuse(to, typed ? "pack" : "dumps", owner, "bytes");
  return give_bytes(owner, ret_data, ret_size);
}

/* A derived class may have a serialiser of its own. */
static PyObject *write_protobuf(struct loop *self, const struct method *method, PyObject *value, const char **ret_data,
                                size_t *ret_size) {
  PyObject *owner = (PyObject *)Py_TYPE(value) == method->reply_type
                        ? PyObject_CallOneArg(method->to_string, value)
                        : PyObject_VectorcallMethod(self->serialize, &value, 1 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
  if (owner == NULL) return NULL;
  if (PyBytes_Check(owner)) return give_bytes(owner, ret_data, ret_size);
  PyErr_Format(PyExc_TypeError, "expected bytes, %.200s found", Py_TYPE(owner)->tp_name);
  Py_DECREF(owner);
  return NULL;
}

static PyObject *write_json(struct loop *self, const struct method *method, PyObject *value, const char **ret_data,
                            size_t *ret_size, codec_problem *ret_problem) {
  PyObject *owner = PyObject_CallOneArg(method_is_typed(method) ? self->hooks.print : self->hooks.encode, value);
  if (owner == NULL) return NULL;
  Py_ssize_t size = 0;
  *ret_data = PyUnicode_AsUTF8AndSize(owner, &size);
  *ret_size = (size_t)size;
  if (*ret_data != NULL) ret_problem->wrong = envelope_check_body(*ret_data, *ret_size);
  if (*ret_data != NULL && ret_problem->wrong == NULL) return owner;
  Py_DECREF(owner);
  return NULL;
}

PyObject *codec_write(struct loop *self, const struct connection *to, const struct method *method, bool json,
                      PyObject *value, const char **ret_data, size_t *ret_size, codec_problem *ret_problem) {
  *ret_problem = (codec_problem){.code = 13};
  if (json) return write_json(self, method, value, ret_data, ret_size, ret_problem);
  if (to->codec != NULL) return write_registered(to, method, value, ret_data, ret_size);
  return write_protobuf(self, method, value, ret_data, ret_size);
}
