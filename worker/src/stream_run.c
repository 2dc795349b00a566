#include "stream_run.h"

#include "codec.h"
#include "exception.h"
#include "reply.h"
#include "requests.h"

static const uint64_t step_ns = 100000; /* how long a generator goes on before it is the others' turn */
static const uint64_t quick_ns = 10000; /* one that yields faster than this has its messages sent together */

/* --- Sending --- */

/* The stream is to end with an error of ours. Takes `message` (NULL: memory is short) and the current exception. */
static void set_failure(struct stream_job *self, unsigned code, PyObject *exception, PyObject *message) {
  if (message == NULL) PyErr_Clear();
  self->failure = (struct failure){.code = code, .message = message, .exception = exception};
}

int stream_answer_failure(struct stream_job *self) {
  struct failure failure = self->failure;
  self->failure = (struct failure){.code = 0};
  PyObject *const message = failure.message;
  int result;
  if (failure.exception != NULL) {
    exception_restore(failure.exception);
    result = message == NULL ? reply_exception(self->loop, &self->call, failure.code, "no memory")
                             : reply_exception(self->loop, &self->call, failure.code, "%U", message);
  } else if (message != NULL) {
    result = reply_error(self->loop, &self->call, failure.code, "%U", message);
  } else {
    result = reply_error(self->loop, &self->call, failure.code, "no memory");
  }
  Py_XDECREF(message);
  return result;
}

/* The message as it goes over the wire: a new reference to its owner, or NULL and a failure. */
static PyObject *encode(struct stream_job *self, PyObject *value, const char **ret_body, size_t *ret_size) {
  const struct method *const method = self->call.method;
  const int fits = PyObject_IsInstance(value, method->reply_type);
  if (fits < 0) {
    PyObject *const exception = exception_take();
    set_failure(self, 13, exception, PyUnicode_FromFormat("%U: a message cannot be looked at", method->name));
    return NULL;
  }
  if (!fits) {
    set_failure(self, 13, NULL,
                PyUnicode_FromFormat("%U: the handler yielded %.200s where it must yield %.200s", method->name,
                                     value == Py_None ? "None" : Py_TYPE(value)->tp_name,
                                     ((PyTypeObject *)method->reply_type)->tp_name));
    return NULL;
  }
  codec_problem problem;
  PyObject *owner =
      codec_write(self->loop, self->call.connection, method, self->call.json, value, ret_body, ret_size, &problem);
  if (owner == NULL) {
    PyObject *const exception = problem.wrong == NULL ? exception_take() : NULL;
    PyObject *const text = problem.wrong == NULL
                               ? PyUnicode_FromFormat("%U: a message cannot be serialised", method->name)
                               : PyUnicode_FromFormat("%U: a message is %s", method->name, problem.wrong);
    set_failure(self, problem.code, exception, text);
    return NULL;
  }
  const uint32_t limit = self->call.connection->frame_limit;
  if (*ret_size + WIRE_HEADER_SIZE > limit)
    set_failure(self, 8, NULL,
                PyUnicode_FromFormat("%U: a message of %zu bytes is larger than the frame limit of %u bytes: yield "
                                     "less, or raise the host's frame_limit_bytes",
                                     method->name, *ret_size, limit));
  else
    return owner;
  Py_DECREF(owner);
  return NULL;
}

bool stream_send(struct stream_job *self, PyObject *value, bool at_once) {
  const char *body = NULL;
  size_t size = 0;
  PyObject *owner = encode(self, value, &body, &size);
  if (owner == NULL) return false;
  const size_t room = self->call.connection->frame_limit - WIRE_HEADER_SIZE - size;
  metadata_queue metadata = context_take_metadata(self->run.context, room, false); /* else it goes with a later one */
  stream_job_lock(self);
  stream_put(self->call.connection, self->stream, &metadata, body, size);
  if (at_once) stream_job_flush(self);
  stream_job_unlock(self);
  metadata_queue_free(&metadata);
  Py_DECREF(owner);
  return true;
}

/* --- Handlers --- */

/* Whether the stream must not start any more: it has then been answered. */
static bool stream_is_over(struct stream_job *self, int *ret_result) {
  const struct context *const context = self->run.context;
  const unsigned cancelled = atomic_load(&context->cancelled);
  if (cancelled == 0 || cancelled == 1 || cancelled == 4) return call_is_over(self->loop, &self->call, ret_result);
  *ret_result = call_answer_cancelled(self->loop, &self->call, cancelled, context->reason);
  return true;
}

PyObject *stream_call(struct stream_job *self, PyObject *requests, int *ret_result) {
  struct loop *const loop = self->loop;
  struct call *const call = &self->call;
  status_page *const page = call->connection->page;
  if (stream_is_over(self, ret_result)) return NULL;
  PyObject *request = requests;
  if (request == NULL)
    request = call->method->receives ? requests_new(self) : call_parse(loop, call, self->bytes, true, ret_result);
  else
    Py_INCREF(request);
  Py_CLEAR(self->bytes);
  if (request == NULL) {
    if (call->method->receives) *ret_result = reply_exception(loop, call, 8, "%U: no memory", call->method->name);
    return NULL;
  }
  if (page != NULL && !status_page_start(page, call->id)) {
    Py_DECREF(request);
    *ret_result = call_answer_cancelled(loop, call, 1, "the host revoked the call before it started");
    return NULL;
  }
  call_begin(loop, call);
  PyObject *value = call_handler(loop, call->method, request, call->run);
  Py_DECREF(request);
  if (value != NULL) return value;
  if (loop->abandoned)
    PyErr_Clear();
  else
    *ret_result = call_answer_outcome(loop, call, NULL);
  return NULL;
}

bool stream_is_iterator(PyObject *value, bool is_async) {
  if (!is_async) return PyIter_Check(value);
  const PyAsyncMethods *const methods = Py_TYPE(value)->tp_as_async;
  return methods != NULL && methods->am_anext != NULL;
}

int stream_refuse_result(struct stream_job *self, const PyObject *value) {
  const struct method *const method = self->call.method;
  return reply_error(self->loop, &self->call, 13,
                     "%U: the handler returned %.200s where it must return %s: yield the messages", method->name,
                     value == Py_None ? "None" : Py_TYPE(value)->tp_name,
                     method->is_async ? "an asynchronous generator" : "a generator");
}

/* A generator that is given up runs its clean-up. What that raises is the current exception afterwards. */
static void close_producer(struct stream_job *self) {
  PyObject *close = PyObject_GetAttrString(self->producer, "close");
  if (close == NULL) {
    PyErr_Clear();
    return;
  }
  stream_job_lock(self);
  if (self->run.raised == 0) self->run.raised = 1; /* this is the first time that it is interrupted */
  if (self->run.cancelled_ns != 0) self->run.cancelled_ns = clock_ns();
  stream_job_unlock(self);
  atomic_store(&self->run.armed, true);
  PyObject *result = PyObject_CallNoArgs(close);
  if (!self->loop->abandoned) call_disarm(self->loop, &self->run);
  Py_XDECREF(result);
  Py_DECREF(close);
}

/* Ends the generator that was cancelled, or that yielded what cannot be sent, and answers. */
static int stop_producer(struct stream_job *self) {
  const struct context *const context = self->run.context;
  close_producer(self);
  if (self->loop->abandoned) {
    PyErr_Clear();
    return 0;
  }
  if (self->failure.code != 0) {
    if (PyErr_Occurred()) PyErr_WriteUnraisable(self->producer);
    return stream_answer_failure(self);
  }
  if (PyErr_Occurred()) return call_answer_outcome(self->loop, &self->call, NULL);
  return call_answer_cancelled(self->loop, &self->call, atomic_load(&context->cancelled), context->reason);
}

int stream_answer_end(struct stream_job *self) {
  const struct context *const context = self->run.context;
  if (PyErr_Occurred()) return call_answer_outcome(self->loop, &self->call, NULL);
  const unsigned cancelled = atomic_load(&context->cancelled);
  if (cancelled != 0) return call_answer_cancelled(self->loop, &self->call, cancelled, context->reason);
  return reply_body(self->loop, &self->call, "", 0);
}

static PyObject *next_message(struct stream_job *self) {
  atomic_store(&self->run.armed, true);
  PyObject *value = Py_TYPE(self->producer)->tp_iternext(self->producer);
  if (self->loop->abandoned) return value;
  call_disarm(self->loop, &self->run);
  if (value == NULL && PyErr_ExceptionMatches(PyExc_StopIteration)) PyErr_Clear();
  return value;
}

typedef enum turn_of { TURN_PRODUCE, TURN_STOP, TURN_SUSPEND } turn_of;

/* What a generator is to do. One that has no credit is woken by it from now on. */
static turn_of look(struct stream_job *self) {
  struct stream *const stream = self->stream;
  stream_job_lock(self);
  turn_of result = TURN_PRODUCE;
  if (self->run.cancelled_ns != 0) {
    result = TURN_STOP;
  } else if (stream->send_credit <= 0) {
    result = TURN_SUSPEND;
    if (stream->server == STREAM_BY_STEPS) {
      control_pause(self->loop->control, &self->run);
      stream->wants_credit = true;
    }
  }
  stream_job_unlock(self);
  return result;
}

static void wait_for_credit(struct stream_job *self) {
  struct stream *const stream = self->stream;
  Py_BEGIN_ALLOW_THREADS;
  stream_job_lock(self);
  while (stream->send_credit <= 0 && self->run.cancelled_ns == 0) {
    stream->wants_credit = true;
    (void)pthread_cond_wait(&stream->changed, &self->loop->control->lock);
  }
  stream_job_unlock(self);
  Py_END_ALLOW_THREADS;
}

/* The step is over, the generator is not. */
static int yield_turn(struct stream_job *self) {
  stream_job_lock(self);
  control_pause(self->loop->control, &self->run);
  if (!self->loop->shared) stream_enqueue(&self->loop->control->due, self->stream);
  stream_job_unlock(self);
  return self->loop->shared ? stream_job_call_hook(self->loop->hooks.submit, self, Py_False) : 0;
}

bool stream_is_clogged(const struct connection *connection) {
  return connection->output_end - connection->output_start > CONNECTION_LARGE;
}

/* Whether it is the others' turn. */
static bool step_is_over(const struct stream_job *self, uint64_t since_ns, uint64_t now_ns) {
  if (now_ns - since_ns >= step_ns) return true;
  stream_job_lock(self);
  const bool clogged = stream_is_clogged(self->call.connection);
  stream_job_unlock(self);
  return clogged;
}

/* Runs the generator until it ends or, where it runs in steps, until it is suspended or others' turn. `*ret_done`: the
 * stream has been answered. Returns 0, or -1 with a Python exception that ends the loop. */
static int produce(struct stream_job *self, bool *ret_done) {
  const bool steps = self->stream->server == STREAM_BY_STEPS;
  const bool waits = !steps || self->loop->shared; /* else the dispatching thread sends after each step */
  const uint64_t since_ns = clock_ns();
  uint64_t before_ns = since_ns;
  for (;;) {
    const turn_of turn = look(self);
    if (turn == TURN_STOP) return stop_producer(self);
    if (turn == TURN_SUSPEND && !steps) wait_for_credit(self);
    if (turn == TURN_SUSPEND && !steps) continue;
    if (turn == TURN_SUSPEND) break;
    PyObject *value = next_message(self);
    if (self->loop->abandoned) {
      PyErr_Clear();
      Py_XDECREF(value);
      return 0;
    }
    if (value == NULL) return stream_answer_end(self);
    const bool sent = stream_send(self, value, waits || clock_ns() - before_ns > quick_ns);
    Py_DECREF(value);
    if (!sent) return stop_producer(self);
    before_ns = clock_ns();
    if (!steps || !step_is_over(self, since_ns, before_ns)) continue;
    *ret_done = false;
    return yield_turn(self);
  }
  *ret_done = false;
  return 0;
}

/* The first time: calls the handler. Returns as produce(), and `*ret_done` false where a generator is to run now. */
static int begin_run(struct stream_job *self, bool *ret_done) {
  int result = 0;
  PyObject *value = stream_call(self, NULL, &result);
  *ret_done = true;
  if (value == NULL) return result;
  if (self->loop->abandoned) {
    Py_DECREF(value);
    return 0;
  }
  if (!self->call.method->sends) {
    result = call_answer_outcome(self->loop, &self->call, value);
  } else if (!stream_is_iterator(value, false)) {
    result = stream_refuse_result(self, value);
  } else {
    Py_INCREF(value);
    self->producer = value;
    *ret_done = false;
  }
  Py_DECREF(value);
  return result;
}

int stream_run(struct stream_job *self, unsigned thread) {
  bool done = false;
  int result = 0;
  self->call.thread = thread;
  if (!self->begun) {
    self->begun = true;
    result = begin_run(self, &done);
  } else {
    call_begin(self->loop, &self->call);
  }
  if (!done) {
    done = true;
    result = produce(self, &done);
  }
  if (self->loop->abandoned) return result;
  call_record_thread(&self->call, 0, 0);
  if (done) stream_job_end(self);
  return result;
}
