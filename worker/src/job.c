#include "job.h"

#include "exception.h"
#include "module.h"
#include "reply.h"

struct job {
  PyObject_HEAD struct loop *loop;
  struct call call;
  struct run run;
  PyObject *bytes;
  bool whole;
  bool begun, done;
};

/* The connection may be freed once no job holds it; the dispatching thread, which does that, is told. */
static void release_connection(struct loop *loop, const struct call *call) {
  struct control *const control = loop->control;
  (void)pthread_mutex_lock(&control->lock);
  const bool last = --call->connection->jobs == 0;
  if (call->elsewhere) call->connection->writers--;
  (void)pthread_mutex_unlock(&control->lock);
  const unsigned left = atomic_fetch_sub(&loop->jobs, 1) - 1;
  if (last || left == 0 || left == LOOP_JOBS_MAX - 1) wake_signal(&control->turn);
}

void job_end_run(struct loop *loop, struct call *call) {
  if (call->run == NULL) return;
  call_forget_context(loop, call->run->context);
  call->run->context = NULL;
  call->run = NULL;
  if (!loop->abandoned) release_connection(loop, call);
}

static void end_job(struct job *self) {
  if (self->done) return;
  self->done = true;
  job_end_run(self->loop, &self->call);
}

/* A cancel that was scanned after the last look at them found no run. The lock is held. */
static void cancel_if_remembered(struct control *control, struct run *run) {
  const unsigned code = connection_cancelled(run->connection, run->id);
  if (code == 0) return;
  control_cancel_run(control, run, code, "", 0);
  wake_signal(&control->poke);
}

int job_list_run(struct loop *loop, struct call *call, struct run *run, struct stream *stream) {
  struct control *const control = loop->control;
  struct context *context = call_context(loop, call);
  if (context == NULL) return -1;
  *run = (struct run){.connection = call->connection,
                      .context = context,
                      .id = call->id,
                      .method = call->method->text,
                      .stream = stream,
                      .kind = call->method->is_async ? RUN_TASK : RUN_THREAD};
  call->run = run;
  atomic_fetch_add(&loop->jobs, 1);
  (void)pthread_mutex_lock(&control->lock);
  call->connection->jobs++;
  if (call->elsewhere) call->connection->writers++;
  control_list(control, run, false);
  cancel_if_remembered(control, run);
  (void)pthread_mutex_unlock(&control->lock);
  control_rouse(control);
  return 0;
}

/* Submits it. Returns 0, or -1 with a Python exception. */
static int hand_over(struct job *self) {
  PyObject *const is_async = self->call.method->is_async ? Py_True : Py_False;
  PyObject *submitted = PyObject_CallFunctionObjArgs(self->loop->hooks.submit, (PyObject *)self, is_async, NULL);
  Py_XDECREF(submitted);
  return submitted == NULL ? -1 : 0;
}

int job_submit(struct loop *loop, const struct call *call, PyObject *bytes, bool whole) {
  struct job *self = (struct job *)loop->job_type->tp_alloc(loop->job_type, 0);
  if (self == NULL) {
    PyErr_Clear();
    return reply_error(loop, call, 8, "%U: no memory", call->method->name);
  }
  Py_INCREF(loop);
  self->loop = loop;
  self->call = *call;
  self->call.now_ns = 0;  /* it may wait */
  self->call.name = NULL; /* it served to find the method */
  Py_INCREF(bytes);
  self->bytes = bytes;
  self->whole = whole;
  int result = 0;
  if (job_list_run(loop, &self->call, &self->run, NULL) < 0 || hand_over(self) < 0) {
    result = reply_exception(loop, &self->call, 8, "%U: the call cannot be handed to a thread", call->method->name);
    end_job(self);
  }
  Py_DECREF(self);
  return result;
}

static int check_fresh(struct job *self) {
  if (!self->begun) {
    self->begun = true;
    return 0;
  }
  PyErr_SetString(PyExc_RuntimeError, "a job runs once");
  return -1;
}

static PyObject *run(struct job *self, PyObject *number) {
  const long thread = PyLong_AsLong(number);
  if (thread < 0 || thread >= STATUS_PAGE_THREADS) {
    if (!PyErr_Occurred()) PyErr_Format(PyExc_ValueError, "there is no thread %ld", thread);
    return NULL;
  }
  if (check_fresh(self) < 0) return NULL;
  self->call.thread = (unsigned)thread;
  const int result = call_run(self->loop, &self->call, self->bytes, self->whole);
  end_job(self);
  if (result < 0) return NULL;
  Py_RETURN_NONE;
}

static PyObject *begin(struct job *self, PyObject *unused) {
  (void)unused;
  PyObject *awaitable = NULL;
  if (check_fresh(self) < 0) return NULL;
  const int result = call_begin_task(self->loop, &self->call, self->bytes, self->whole, &awaitable);
  if (awaitable != NULL) return awaitable;
  end_job(self);
  if (result < 0) return NULL;
  Py_RETURN_NONE;
}

static PyObject *end_task(struct job *self, PyObject *value) {
  if (self->done || !self->run.started) {
    PyErr_SetString(PyExc_RuntimeError, "the job has no task that runs");
    return NULL;
  }
  const int result = call_end_task(self->loop, &self->call, value);
  end_job(self);
  if (result < 0) return NULL;
  Py_RETURN_NONE;
}

static PyObject *fail(struct job *self, PyObject *exception) {
  if (!PyExceptionInstance_Check(exception)) {
    PyErr_SetString(PyExc_TypeError, "a job fails with an exception");
    return NULL;
  }
  if (self->done || !self->run.started) return end_task(self, NULL);
  Py_INCREF(exception);
  exception_restore(exception);
  return end_task(self, NULL);
}

static PyObject *take_interrupt(struct job *self, PyObject *unused) {
  (void)unused;
  struct control *const control = self->loop->control;
  if (self->loop->abandoned) Py_RETURN_FALSE;
  (void)pthread_mutex_lock(&control->lock);
  const bool taken = self->run.listed && run_take_interrupt(&self->run, control->grace_ns);
  (void)pthread_mutex_unlock(&control->lock);
  return PyBool_FromLong(taken);
}

static int traverse(struct job *self, visitproc visit, void *arg) {
  Py_VISIT(Py_TYPE(self));
  Py_VISIT(self->loop);
  return 0;
}

static void dealloc(struct job *self) {
  PyTypeObject *const type = Py_TYPE(self);
  PyObject_GC_UnTrack(self);
  if (self->loop != NULL) {
    if (!self->done) call_drop(self->loop, &self->call);
    end_job(self);
  }
  Py_CLEAR(self->loop);
  Py_CLEAR(self->bytes);
  type->tp_free(self);
  Py_DECREF(type);
}

static PyMethodDef job_methods[] = {
    {"run", (PyCFunction)(void (*)(void))run, METH_O,
     "Runs the handler on this thread, the worker's thread of the given number, and answers."},
    {"begin", (PyCFunction)(void (*)(void))begin, METH_NOARGS,
     "Calls the handler; returns its coroutine, or None where the call has been answered."},
    {"finish", (PyCFunction)(void (*)(void))end_task, METH_O, "Answers with what the coroutine returned."},
    {"fail", (PyCFunction)(void (*)(void))fail, METH_O, "Answers with what the coroutine raised."},
    {"take_interrupt", (PyCFunction)(void (*)(void))take_interrupt, METH_NOARGS,
     "Whether the task is to be cancelled now."},
    {NULL, NULL, 0, NULL},
};

__extension__ static PyType_Slot job_slots[] = {
    {Py_tp_doc, "A call that another thread than the dispatching one runs."},
    {Py_tp_dealloc, dealloc},
    {Py_tp_traverse, traverse},
    {Py_tp_methods, job_methods},
    {0, NULL},
};

PyType_Spec job_spec = {
    .name = "pyproc_worker._ext.Job",
    .basicsize = sizeof(struct job),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC
#ifdef Py_TPFLAGS_DISALLOW_INSTANTIATION
             | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE
#endif
    ,
    .slots = job_slots,
};
