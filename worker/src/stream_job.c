#include "stream_job.h"

#include <string.h>

#include "exception.h"
#include "job.h"
#include "module.h"
#include "reply.h"
#include "requests.h"
#include "stream_run.h"

void stream_job_flush(const struct stream_job *self) {
  struct control *const control = self->loop->control;
  struct connection *const connection = self->call.connection;
  const int sent = connection_send(connection, NULL, NULL);
  if (sent > 0) return;
  if (sent < 0) connection->ended = true;
  wake_signal(&control->turn);
  if (atomic_load(&control->since_ns) != 0) wake_signal(&control->poke); /* or the control thread does, meanwhile */
}

/* --- Life --- */

static stream_queue *queue_of(const struct stream_job *self) {
  struct control *const control = self->loop->control;
  return self->stream->server == STREAM_BY_TASK ? &control->woken : &control->due;
}

/* The reply is queued: nobody may find the stream any more. */
void stream_job_end(struct stream_job *self) {
  if (self->done) return;
  self->done = true;
  if (self->loop->abandoned) return;
  stream_job_lock(self);
  stream_dequeue(queue_of(self), self->stream);
  stream_job_unlock(self);
  job_end_run(self->loop, &self->call);
  Py_CLEAR(self->producer);
  Py_CLEAR(self->failure.message);
  Py_CLEAR(self->failure.exception);
  if (self->stream->server == STREAM_BY_STEPS) Py_DECREF(self);
}

static int list_job(struct stream_job *self) {
  struct stream *const stream = self->stream;
  if (job_list_run(self->loop, &self->call, &self->run, stream) < 0) return -1;
  stream_job_lock(self);
  if (stream->early_code != 0) {
    const char *const reason = stream->early_reason == NULL ? "" : stream->early_reason;
    control_cancel_run(self->loop->control, &self->run, stream->early_code, reason, strlen(reason));
  }
  stream_job_unlock(self);
  return 0;
}

int stream_job_call_hook(PyObject *hook, struct stream_job *self, PyObject *more) {
  PyObject *result = PyObject_CallFunctionObjArgs(hook, (PyObject *)self, more, NULL);
  Py_XDECREF(result);
  return result == NULL ? -1 : 0;
}

/* Hands it to whoever serves it. */
static int hand_over(struct stream_job *self) {
  struct loop *const loop = self->loop;
  if (self->stream->server == STREAM_BY_TASK) return stream_job_call_hook(loop->hooks.submit, self, Py_True);
  if (self->stream->server == STREAM_BY_THREAD) return stream_job_call_hook(loop->hooks.start_stream, self, NULL);
  stream_job_lock(self);
  stream_enqueue(&loop->control->due, self->stream);
  stream_job_unlock(self);
  return 0;
}

static stream_server server_of(const struct method *method) {
  if (method->is_async) return STREAM_BY_TASK;
  return method->receives ? STREAM_BY_THREAD : STREAM_BY_STEPS;
}

static struct stream_job *new_job(struct loop *loop, const struct call *call, struct stream *stream, PyObject *bytes) {
  struct stream_job *self = (struct stream_job *)loop->stream_job_type->tp_alloc(loop->stream_job_type, 0);
  if (self == NULL) return NULL;
  Py_INCREF(loop);
  self->loop = loop;
  self->call = *call;
  self->call.now_ns = 0; /* it may wait */
  self->call.name = NULL;
  Py_INCREF(bytes);
  self->bytes = bytes;
  self->stream = stream;
  self->call.elsewhere = server_of(call->method) == STREAM_BY_THREAD;
  if (server_of(call->method) == STREAM_BY_STEPS) Py_INCREF(self); /* nobody else holds it between two steps */
  stream_job_lock(self);
  stream->job = self;
  stream->server = server_of(call->method);
  stream_job_unlock(self);
  return self;
}

static struct stream *find_new(struct loop *loop, const struct call *call) {
  (void)pthread_mutex_lock(&loop->control->lock);
  struct stream *const found = stream_find(call->connection, call->id);
  const bool fresh = found != NULL && found->job == NULL;
  (void)pthread_mutex_unlock(&loop->control->lock);
  return fresh ? found : NULL;
}

static void forget(struct loop *loop, const struct call *call, struct stream *stream) {
  (void)pthread_mutex_lock(&loop->control->lock);
  stream_free(call->connection, stream);
  (void)pthread_mutex_unlock(&loop->control->lock);
}

int stream_submit(struct loop *loop, const struct call *call, PyObject *bytes) {
  PyObject *const name = call->method->name;
  if (call->envelope)
    return reply_error(loop, call, 12, "%U is a stream, which a JSON envelope cannot open: send a REQUEST frame", name);
  struct stream *const stream = find_new(loop, call);
  if (stream == NULL)
    return reply_error(loop, call, 8,
                       "%U: %u streams are open, or memory is short: close some, or raise the host's "
                       "max_streams",
                       name, call->connection->streams.count);
  struct stream_job *self = new_job(loop, call, stream, bytes);
  if (self == NULL) {
    PyErr_Clear();
    forget(loop, call, stream);
    return reply_error(loop, call, 8, "%U: no memory", name);
  }
  int result = 0;
  if (list_job(self) < 0 || hand_over(self) < 0) {
    result = reply_exception(loop, &self->call, 8, "%U: the stream cannot be handed to a thread", name);
    stream_job_end(self);
  }
  Py_DECREF(self);
  return result;
}

/* --- The dispatching thread's part --- */

/* The first that is due and whose connection takes more, off the queue; NULL. A new reference. */
static struct stream_job *take_due(struct loop *loop) {
  struct control *const control = loop->control;
  struct stream_job *job = NULL;
  (void)pthread_mutex_lock(&control->lock);
  for (struct stream *at = control->due.first; at != NULL && job == NULL; at = at->next_queued) {
    struct stream_job *const candidate = at->job;
    if (loop->shared || candidate->run.cancelled_ns != 0 || !stream_is_clogged(candidate->call.connection))
      job = candidate;
  }
  if (job != NULL) stream_dequeue(&control->due, job->stream);
  (void)pthread_mutex_unlock(&control->lock);
  Py_XINCREF(job);
  return job;
}

int stream_step(struct loop *loop) {
  struct stream_job *job;
  while ((job = take_due(loop)) != NULL) {
    const int result = loop->shared ? stream_job_call_hook(loop->hooks.submit, job, Py_False) : stream_run(job, 0);
    struct connection *const connection = job->call.connection;
    if (!loop->shared && !loop->abandoned && result == 0) {
      stream_job_lock(job);
      if (connection_unsent(connection) && connection_send(connection, NULL, NULL) < 0) connection->ended = true;
      stream_job_unlock(job);
    }
    Py_DECREF(job);
    if (result < 0) return -1;
    if (!loop->shared) return 1;
  }
  return 0;
}

PyObject *stream_take_woken(struct loop *loop) {
  struct control *const control = loop->control;
  PyObject *result = PyList_New(0);
  if (result == NULL || loop->abandoned) return result;
  wake_drain(&control->tasks);
  for (;;) {
    (void)pthread_mutex_lock(&control->lock);
    struct stream *const stream = control->woken.first;
    if (stream != NULL) stream_dequeue(&control->woken, stream);
    (void)pthread_mutex_unlock(&control->lock);
    if (stream == NULL) return result;
    if (PyList_Append(result, stream->job) < 0) break;
  }
  Py_DECREF(result);
  return NULL;
}

/* --- Types --- */

static PyObject *run(struct stream_job *self, PyObject *number) {
  const long thread = PyLong_AsLong(number);
  if (thread < 0) {
    if (!PyErr_Occurred()) PyErr_Format(PyExc_ValueError, "there is no thread %ld", thread);
    return NULL;
  }
  if (self->done || self->stream->server == STREAM_BY_TASK) {
    PyErr_SetString(PyExc_RuntimeError, "the stream is over, or a task");
    return NULL;
  }
  if (stream_run(self, (unsigned)thread) < 0) return NULL;
  Py_RETURN_NONE;
}

static PyObject *begin(struct stream_job *self, PyObject *requests) {
  int result = 0;
  if (self->begun || self->done) {
    PyErr_SetString(PyExc_RuntimeError, "a stream begins once");
    return NULL;
  }
  self->begun = true;
  PyObject *value = stream_call(self, self->call.method->receives ? requests : NULL, &result);
  if (value != NULL && (!self->call.method->sends || stream_is_iterator(value, true))) return value;
  if (value != NULL && !self->loop->abandoned) {
    atomic_store(&self->run.armed, false);
    result = stream_refuse_result(self, value);
  }
  Py_XDECREF(value);
  stream_job_end(self);
  if (result < 0) return NULL;
  Py_RETURN_NONE;
}

static int check_task(const struct stream_job *self) {
  if (!self->loop->abandoned && !self->done && self->begun && self->stream->server == STREAM_BY_TASK) return 0;
  PyErr_SetString(PyExc_RuntimeError, "the stream is over, or no task");
  return -1;
}

static PyObject *take_message(struct stream_job *self, PyObject *unused) {
  (void)unused;
  if (self->loop->abandoned || self->done) {
    PyErr_SetNone(PyExc_StopAsyncIteration);
    return NULL;
  }
  stream_message *message = NULL;
  stream_job_lock(self);
  const taken got = requests_take(self, false, &message);
  if (got == TAKEN_NONE) self->stream->wants_message = true;
  stream_job_unlock(self);
  if (got == TAKEN_MESSAGE) return requests_parse(self, message);
  if (got == TAKEN_NONE) Py_RETURN_NONE;
  PyErr_SetNone(PyExc_StopAsyncIteration);
  return NULL;
}

static PyObject *may_send(struct stream_job *self, PyObject *unused) {
  (void)unused;
  if (check_task(self) < 0) return NULL;
  stream_job_lock(self);
  const bool may = self->stream->send_credit > 0;
  if (!may) self->stream->wants_credit = true;
  stream_job_unlock(self);
  return PyBool_FromLong(may);
}

static PyObject *send(struct stream_job *self, PyObject *value) {
  if (check_task(self) < 0) return NULL;
  return PyBool_FromLong(stream_send(self, value, true));
}

/* Ends a task; `value` NULL: by the current exception. */
static PyObject *end_task(struct stream_job *self, PyObject *value) {
  if (self->loop->abandoned) {
    PyErr_Clear();
    Py_RETURN_NONE;
  }
  atomic_store(&self->run.armed, false);
  int result;
  if (self->failure.code != 0) {
    PyErr_Clear();
    result = stream_answer_failure(self);
  } else if (value == NULL || self->call.method->sends) {
    result = stream_answer_end(self);
  } else {
    result = call_answer_outcome(self->loop, &self->call, value);
  }
  stream_job_end(self);
  if (result < 0) return NULL;
  Py_RETURN_NONE;
}

static PyObject *finish(struct stream_job *self, PyObject *value) {
  if (!self->loop->abandoned && check_task(self) < 0) return NULL;
  return end_task(self, value);
}

static PyObject *fail(struct stream_job *self, PyObject *exception) {
  if (!self->loop->abandoned && check_task(self) < 0) return NULL;
  if (!PyExceptionInstance_Check(exception)) {
    PyErr_SetString(PyExc_TypeError, "a stream fails with an exception");
    return NULL;
  }
  Py_INCREF(exception);
  exception_restore(exception);
  return end_task(self, NULL);
}

static PyObject *take_interrupt(struct stream_job *self, PyObject *unused) {
  (void)unused;
  struct control *const control = self->loop->control;
  if (self->loop->abandoned) Py_RETURN_FALSE;
  stream_job_lock(self);
  const bool interrupted = self->run.listed && run_take_interrupt(&self->run, control->grace_ns);
  stream_job_unlock(self);
  return PyBool_FromLong(interrupted);
}

static PyObject *get_sends(struct stream_job *self, void *closure) {
  (void)closure;
  return PyBool_FromLong(self->call.method->sends);
}

static int traverse(struct stream_job *self, visitproc visit, void *arg) {
  Py_VISIT(Py_TYPE(self));
  Py_VISIT(self->loop);
  Py_VISIT(self->producer);
  Py_VISIT(self->failure.exception);
  return 0;
}

static void dealloc(struct stream_job *self) {
  PyTypeObject *const type = Py_TYPE(self);
  PyObject_GC_UnTrack(self);
  if (self->loop != NULL) {
    if (!self->done) call_drop(self->loop, &self->call);
    stream_job_end(self);
    if (!self->loop->abandoned) forget(self->loop, &self->call, self->stream);
  }
  Py_CLEAR(self->producer);
  Py_CLEAR(self->bytes);
  Py_CLEAR(self->loop);
  type->tp_free(self);
  Py_DECREF(type);
}

static PyMethodDef job_methods[] = {
    {"run", (PyCFunction)(void (*)(void))run, METH_O,
     "Runs the handler on this thread, the worker's thread of the given number: to its end, or, where the stream only "
     "sends, for a step."},
    {"begin", (PyCFunction)(void (*)(void))begin, METH_O,
     "Calls the handler, with these requests where it takes a stream; returns its coroutine or asynchronous generator, "
     "or None where the stream has been answered."},
    {"take", (PyCFunction)(void (*)(void))take_message, METH_NOARGS,
     "The next message; None where none is there yet; StopAsyncIteration at the end."},
    {"may_send", (PyCFunction)(void (*)(void))may_send, METH_NOARGS, "Whether there is credit for a message."},
    {"send", (PyCFunction)(void (*)(void))send, METH_O,
     "Sends a message. Returns whether it could be sent; else the stream is to be finished."},
    {"finish", (PyCFunction)(void (*)(void))finish, METH_O,
     "Answers: with what the coroutine returned, or that the generator has ended."},
    {"fail", (PyCFunction)(void (*)(void))fail, METH_O, "Answers with what was raised."},
    {"take_interrupt", (PyCFunction)(void (*)(void))take_interrupt, METH_NOARGS,
     "Whether the task is to be cancelled now."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef job_getters[] = {
    {"sends", (getter)get_sends, NULL, "Whether the handler answers with a stream of messages.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

__extension__ static PyType_Slot job_slots[] = {
    {Py_tp_doc, "A stream that is served."},
    {Py_tp_dealloc, dealloc},
    {Py_tp_traverse, traverse},
    {Py_tp_methods, job_methods},
    {Py_tp_getset, job_getters},
    {0, NULL},
};

PyType_Spec stream_job_spec = {
    .name = "pyproc_worker._ext.StreamJob",
    .basicsize = sizeof(struct stream_job),
    .flags = MODULE_INTERNAL_FLAGS,
    .slots = job_slots,
};
