#include "requests.h"

#include <stdlib.h>

#include "codec.h"
#include "exception.h"
#include "module.h"

struct requests {
  PyObject_HEAD struct stream_job *job;
};

taken requests_take(struct stream_job *self, bool tells_cancel, stream_message **ret_message) {
  struct stream *const stream = self->stream;
  if (!stream->open) return TAKEN_END; /* and the connection may be gone */
  if (tells_cancel && self->run.cancelled_ns != 0) return TAKEN_CANCELLED;
  *ret_message = stream_take(self->call.connection, stream);
  if (*ret_message != NULL) {
    if (connection_unsent(self->call.connection)) stream_job_flush(self);
    return TAKEN_MESSAGE;
  }
  return stream->ended ? TAKEN_END : TAKEN_NONE;
}

/* Waits, without GIL and lock, until requests_take() tells more. */
static void wait_for_message(struct stream_job *self) {
  struct stream *const stream = self->stream;
  Py_BEGIN_ALLOW_THREADS;
  stream_job_lock(self);
  while (stream->first == NULL && !stream->ended && stream->open && self->run.cancelled_ns == 0) {
    stream->wants_message = true;
    (void)pthread_cond_wait(&stream->changed, &self->loop->control->lock);
  }
  stream_job_unlock(self);
  Py_END_ALLOW_THREADS;
}

/* The exception that the handler is given for a message that it cannot be given. */
static void raise_bad_message(struct stream_job *self, const char *wrong) {
  const struct method *const method = self->call.method;
  PyObject *cause = wrong == NULL ? exception_take() : PyUnicode_FromString(wrong);
  PyObject *error = cause == NULL ? NULL
                                  : PyObject_CallFunction(self->loop->hooks.bad_message, "OsO", method->name,
                                                          ((PyTypeObject *)method->request_type)->tp_name, cause);
  Py_XDECREF(cause);
  if (error == NULL) return;
  PyErr_SetObject((PyObject *)Py_TYPE(error), error);
  Py_DECREF(error);
}

PyObject *requests_parse(struct stream_job *self, stream_message *message) {
  const codec_body body = {.data = message->data, .size = message->size, .json = self->call.json};
  codec_problem problem;
  PyObject *value = codec_read(self->loop, self->call.connection, self->call.method, &body, &problem);
  free(message);
  if (value == NULL && problem.code == 3) raise_bad_message(self, problem.wrong);
  return value;
}

/* The cancel is raised here, so it is not to come up once more as an asynchronous exception. */
static void raise_cancelled(struct stream_job *self) {
  PyObject *text = context_explain(self->run.context);
  stream_job_lock(self);
  if (self->run.raised == 0) self->run.raised = 1;
  const bool own = self->run.listed && self->run.thread == PyThread_get_thread_ident();
  stream_job_unlock(self);
  if (own) (void)PyThreadState_SetAsyncExc(self->run.thread, NULL);
  if (text != NULL) PyErr_SetObject(self->loop->hooks.cancelled, text);
  Py_XDECREF(text);
}

static PyObject *requests_next(struct requests *self) {
  struct stream_job *const job = self->job;
  for (;;) {
    if (job->loop->abandoned) {
      PyErr_SetString(PyExc_RuntimeError, "this process was forked from a worker, whose streams it does not have");
      return NULL;
    }
    stream_message *message = NULL;
    stream_job_lock(job);
    const taken got = requests_take(job, true, &message);
    stream_job_unlock(job);
    if (got == TAKEN_MESSAGE) return requests_parse(job, message);
    if (got == TAKEN_END) return NULL; /* StopIteration */
    if (got == TAKEN_CANCELLED) {
      raise_cancelled(job);
      return NULL;
    }
    wait_for_message(job);
  }
}

PyObject *requests_new(struct stream_job *job) {
  struct requests *self = (struct requests *)job->loop->requests_type->tp_alloc(job->loop->requests_type, 0);
  if (self == NULL) return NULL;
  Py_INCREF(job);
  self->job = job;
  return (PyObject *)self;
}

static int requests_traverse(struct requests *self, visitproc visit, void *arg) {
  Py_VISIT(Py_TYPE(self));
  Py_VISIT(self->job);
  return 0;
}

static void requests_dealloc(struct requests *self) {
  PyTypeObject *const type = Py_TYPE(self);
  PyObject_GC_UnTrack(self);
  Py_CLEAR(self->job);
  type->tp_free(self);
  Py_DECREF(type);
}

__extension__ static PyType_Slot requests_slots[] = {
    {Py_tp_doc, "The messages that the host sends, one after the other; waits for the next one."},
    {Py_tp_dealloc, requests_dealloc},
    {Py_tp_traverse, requests_traverse},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, requests_next},
    {0, NULL},
};

PyType_Spec requests_spec = {
    .name = "pyproc_worker._ext.Requests",
    .basicsize = sizeof(struct requests),
    .flags = MODULE_INTERNAL_FLAGS,
    .slots = requests_slots,
};
