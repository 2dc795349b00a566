#include "stream_job.h"

#include <stdlib.h>
#include <string.h>

#include "envelope.h"
#include "exception.h"
#include "job.h"
#include "module.h"
#include "reply.h"

static const uint64_t step_ns = 100000; /* how long a generator goes on before it is the others' turn */
static const uint64_t quick_ns = 10000; /* one that yields faster than this has its messages sent together */

/* Why a stream ends that its handler did not end. */
struct failure {
  unsigned code; /* 0: there is none */
  PyObject *message;
  PyObject *exception; /* NULL: what was yielded is wrong, nothing was raised */
};

struct stream_job {
  PyObject_HEAD struct loop *loop;
  struct call call;
  struct run run;
  struct stream *stream;
  PyObject *bytes;    /* the request */
  PyObject *producer; /* the iterator that the handler returned; NULL */
  struct failure failure;
  bool begun, done;
};

struct requests {
  PyObject_HEAD struct stream_job *job;
};

static void lock(const struct stream_job *self) {
  (void)pthread_mutex_lock(&self->loop->control->lock);
}
static void unlock(const struct stream_job *self) {
  (void)pthread_mutex_unlock(&self->loop->control->lock);
}

/* Sends what is queued, as far as the socket takes it; the dispatching thread sends the rest. With the lock. */
static void send_queued(const struct stream_job *self) {
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
static void end_job(struct stream_job *self) {
  if (self->done) return;
  self->done = true;
  if (self->loop->abandoned) return;
  lock(self);
  stream_dequeue(queue_of(self), self->stream);
  unlock(self);
  job_end_run(self->loop, &self->call);
  Py_CLEAR(self->producer);
  Py_CLEAR(self->failure.message);
  Py_CLEAR(self->failure.exception);
  if (self->stream->server == STREAM_BY_STEPS) Py_DECREF(self);
}

static int list_job(struct stream_job *self) {
  struct stream *const stream = self->stream;
  if (job_list_run(self->loop, &self->call, &self->run, stream) < 0) return -1;
  lock(self);
  if (stream->early_code != 0) {
    const char *const reason = stream->early_reason == NULL ? "" : stream->early_reason;
    control_cancel_run(self->loop->control, &self->run, stream->early_code, reason, strlen(reason));
  }
  unlock(self);
  return 0;
}

static int call_hook(PyObject *hook, struct stream_job *self, PyObject *more) {
  PyObject *result = PyObject_CallFunctionObjArgs(hook, (PyObject *)self, more, NULL);
  Py_XDECREF(result);
  return result == NULL ? -1 : 0;
}

/* Hands it to whoever serves it. */
static int hand_over(struct stream_job *self) {
  struct loop *const loop = self->loop;
  if (self->stream->server == STREAM_BY_TASK) return call_hook(loop->hooks.submit, self, Py_True);
  if (self->stream->server == STREAM_BY_THREAD) return call_hook(loop->hooks.start_stream, self, NULL);
  lock(self);
  stream_enqueue(&loop->control->due, self->stream);
  unlock(self);
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
  self->call.name = NULL;
  Py_INCREF(bytes);
  self->bytes = bytes;
  self->stream = stream;
  self->call.elsewhere = server_of(call->method) == STREAM_BY_THREAD;
  if (server_of(call->method) == STREAM_BY_STEPS) Py_INCREF(self); /* nobody else holds it between two steps */
  lock(self);
  stream->job = self;
  stream->server = server_of(call->method);
  unlock(self);
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
    end_job(self);
  }
  Py_DECREF(self);
  return result;
}

/* --- Sending --- */

/* The stream is to end with an error of ours. Takes `message` (NULL: memory is short) and the current exception. */
static void set_failure(struct stream_job *self, unsigned code, PyObject *exception, PyObject *message) {
  if (message == NULL) PyErr_Clear();
  self->failure = (struct failure){.code = code, .message = message, .exception = exception};
}

static int answer_failure(struct stream_job *self) {
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
static PyObject *encode(struct stream_job *self, PyObject *value, const char **ret_body, Py_ssize_t *ret_size) {
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
  PyObject *owner = call_serialise(self->loop, &self->call, value, ret_body, ret_size);
  if (owner == NULL) {
    PyObject *const exception = exception_take();
    set_failure(self, 13, exception, PyUnicode_FromFormat("%U: a message cannot be serialised", method->name));
    return NULL;
  }
  const char *wrong = self->call.json ? envelope_check_body(*ret_body, (size_t)*ret_size) : NULL;
  const uint32_t limit = self->call.connection->frame_limit;
  if (wrong != NULL)
    set_failure(self, 13, NULL, PyUnicode_FromFormat("%U: a message is %s", method->name, wrong));
  else if ((size_t)*ret_size + WIRE_HEADER_SIZE > limit)
    set_failure(self, 8, NULL,
                PyUnicode_FromFormat("%U: a message of %zd bytes is larger than the frame limit of %u bytes: yield "
                                     "less, or raise the host's frame_limit_bytes",
                                     method->name, *ret_size, limit));
  else
    return owner;
  Py_DECREF(owner);
  return NULL;
}

/* Queues a message, and sends it where `at_once`. Returns whether that is done; else there is a failure. */
static bool send_message(struct stream_job *self, PyObject *value, bool at_once) {
  const char *body = NULL;
  Py_ssize_t size = 0;
  PyObject *owner = encode(self, value, &body, &size);
  if (owner == NULL) return false;
  const size_t room = self->call.connection->frame_limit - WIRE_HEADER_SIZE - (size_t)size;
  metadata_queue metadata = context_take_metadata(self->run.context, room, false); /* else it goes with a later one */
  lock(self);
  stream_put(self->call.connection, self->stream, &metadata, body, (size_t)size);
  if (at_once) send_queued(self);
  unlock(self);
  metadata_queue_free(&metadata);
  Py_DECREF(owner);
  return true;
}

/* --- Receiving --- */

typedef enum taken { TAKEN_MESSAGE, TAKEN_NONE, TAKEN_END, TAKEN_CANCELLED } taken;

/* With the lock; the message is the caller's. */
static taken take(struct stream_job *self, bool tells_cancel, stream_message **ret_message) {
  struct stream *const stream = self->stream;
  if (!stream->open) return TAKEN_END; /* and the connection may be gone */
  if (tells_cancel && self->run.cancelled_ns != 0) return TAKEN_CANCELLED;
  *ret_message = stream_take(self->call.connection, stream);
  if (*ret_message != NULL) {
    if (connection_unsent(self->call.connection)) send_queued(self);
    return TAKEN_MESSAGE;
  }
  return stream->ended ? TAKEN_END : TAKEN_NONE;
}

/* Waits, without GIL and lock, until take() tells more. */
static void wait_for_message(struct stream_job *self) {
  struct stream *const stream = self->stream;
  Py_BEGIN_ALLOW_THREADS;
  lock(self);
  while (stream->first == NULL && !stream->ended && stream->open && self->run.cancelled_ns == 0) {
    stream->wants_message = true;
    (void)pthread_cond_wait(&stream->changed, &self->loop->control->lock);
  }
  unlock(self);
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

/* Frees the message. Returns what the handler is given, or NULL with a Python exception. */
static PyObject *parse_message(struct stream_job *self, stream_message *message) {
  struct call as = self->call;
  const char *wrong = NULL;
  PyObject *value = NULL;
  as.body = message->data;
  as.body_size = message->size;
  if (as.json) {
    wrong = envelope_check_body(as.body, as.body_size);
    if (wrong == NULL) value = call_parse_json(self->loop, &as);
  } else {
    PyObject *bytes = PyBytes_FromStringAndSize(as.body, (Py_ssize_t)as.body_size);
    if (bytes != NULL) value = PyObject_CallOneArg(as.method->from_string, bytes);
    Py_XDECREF(bytes);
  }
  free(message);
  if (value == NULL) raise_bad_message(self, wrong);
  return value;
}

/* The cancel is raised here, so it is not to come up once more as an asynchronous exception. */
static void raise_cancelled(struct stream_job *self) {
  PyObject *text = context_explain(self->run.context);
  lock(self);
  if (self->run.raised == 0) self->run.raised = 1;
  const bool own = self->run.listed && self->run.thread == PyThread_get_thread_ident();
  unlock(self);
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
    lock(job);
    const taken got = take(job, true, &message);
    unlock(job);
    if (got == TAKEN_MESSAGE) return parse_message(job, message);
    if (got == TAKEN_END) return NULL; /* StopIteration */
    if (got == TAKEN_CANCELLED) {
      raise_cancelled(job);
      return NULL;
    }
    wait_for_message(job);
  }
}

static PyObject *requests_new(struct stream_job *job) {
  struct requests *self = (struct requests *)job->loop->requests_type->tp_alloc(job->loop->requests_type, 0);
  if (self == NULL) return NULL;
  Py_INCREF(job);
  self->job = job;
  return (PyObject *)self;
}

/* --- Handlers --- */

/* Whether the stream must not start any more: it has then been answered. */
static bool is_over(struct stream_job *self, int *ret_result) {
  const struct context *const context = self->run.context;
  const unsigned cancelled = atomic_load(&context->cancelled);
  if (cancelled == 0 || cancelled == 1 || cancelled == 4) return call_is_over(self->loop, &self->call, ret_result);
  *ret_result = call_answer_cancelled(self->loop, &self->call, cancelled, context->reason);
  return true;
}

/* Claims the stream and calls its handler. `requests` may be NULL. Returns what the handler returned, or NULL: the
 * stream has been answered. */
static PyObject *call_it(struct stream_job *self, PyObject *requests, int *ret_result) {
  struct loop *const loop = self->loop;
  struct call *const call = &self->call;
  status_page *const page = call->connection->page;
  if (is_over(self, ret_result)) return NULL;
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
  if (value == NULL && !loop->abandoned) *ret_result = call_answer_outcome(loop, call, NULL);
  return value;
}

static bool is_iterator(PyObject *value, bool is_async) {
  if (!is_async) return PyIter_Check(value);
  const PyAsyncMethods *const methods = Py_TYPE(value)->tp_as_async;
  return methods != NULL && methods->am_anext != NULL;
}

static int refuse_result(struct stream_job *self, const PyObject *value) {
  const struct method *const method = self->call.method;
  return reply_error(self->loop, &self->call, 13,
                     "%U: the handler returned %.200s where it must return %s: yield the "
                     "messages",
                     method->name, value == Py_None ? "None" : Py_TYPE(value)->tp_name,
                     method->is_async ? "an asynchronous generator" : "a generator");
}

/* A generator that is given up runs its clean-up. What that raises is the current exception afterwards. */
static void close_producer(struct stream_job *self) {
  PyObject *close = PyObject_GetAttrString(self->producer, "close");
  if (close == NULL) {
    PyErr_Clear();
    return;
  }
  lock(self);
  if (self->run.raised == 0) self->run.raised = 1; /* this is the first time that it is interrupted */
  if (self->run.cancelled_ns != 0) self->run.cancelled_ns = clock_ns();
  unlock(self);
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
    return answer_failure(self);
  }
  if (PyErr_Occurred()) return call_answer_outcome(self->loop, &self->call, NULL);
  return call_answer_cancelled(self->loop, &self->call, atomic_load(&context->cancelled), context->reason);
}

/* The handler has ended the stream by itself: by an exception where one is set. */
static int answer_end(struct stream_job *self) {
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
  lock(self);
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
  unlock(self);
  return result;
}

static void wait_for_credit(struct stream_job *self) {
  struct stream *const stream = self->stream;
  Py_BEGIN_ALLOW_THREADS;
  lock(self);
  while (stream->send_credit <= 0 && self->run.cancelled_ns == 0) {
    stream->wants_credit = true;
    (void)pthread_cond_wait(&stream->changed, &self->loop->control->lock);
  }
  unlock(self);
  Py_END_ALLOW_THREADS;
}

/* The step is over, the generator is not. */
static int yield_turn(struct stream_job *self) {
  lock(self);
  control_pause(self->loop->control, &self->run);
  if (!self->loop->shared) stream_enqueue(&self->loop->control->due, self->stream);
  unlock(self);
  return self->loop->shared ? call_hook(self->loop->hooks.submit, self, Py_False) : 0;
}

/* Whether a connection has so much unsent that streams are to wait. With the lock. */
static bool is_clogged(const struct connection *connection) {
  return connection->output_end - connection->output_start > CONNECTION_LARGE;
}

/* Whether it is the others' turn. */
static bool step_is_over(const struct stream_job *self, uint64_t since_ns, uint64_t now_ns) {
  if (now_ns - since_ns >= step_ns) return true;
  lock(self);
  const bool clogged = is_clogged(self->call.connection);
  unlock(self);
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
    if (value == NULL) return answer_end(self);
    const bool sent = send_message(self, value, waits || clock_ns() - before_ns > quick_ns);
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
  PyObject *value = call_it(self, NULL, &result);
  *ret_done = true;
  if (value == NULL) return result;
  if (self->loop->abandoned) {
    Py_DECREF(value);
    return 0;
  }
  if (!self->call.method->sends) {
    result = call_answer_outcome(self->loop, &self->call, value);
  } else if (!is_iterator(value, false)) {
    result = refuse_result(self, value);
  } else {
    Py_INCREF(value);
    self->producer = value;
    *ret_done = false;
  }
  Py_DECREF(value);
  return result;
}

/* A step, or, on a thread of its own, the whole of it. */
static int run_on(struct stream_job *self, unsigned thread) {
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
  if (done) end_job(self);
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
    if (loop->shared || candidate->run.cancelled_ns != 0 || !is_clogged(candidate->call.connection)) job = candidate;
  }
  if (job != NULL) stream_dequeue(&control->due, job->stream);
  (void)pthread_mutex_unlock(&control->lock);
  Py_XINCREF(job);
  return job;
}

int stream_step(struct loop *loop) {
  struct stream_job *job;
  while ((job = take_due(loop)) != NULL) {
    const int result = loop->shared ? call_hook(loop->hooks.submit, job, Py_False) : run_on(job, 0);
    struct connection *const connection = job->call.connection;
    if (!loop->shared && !loop->abandoned && result == 0) {
      lock(job);
      if (connection_unsent(connection) && connection_send(connection, NULL, NULL) < 0) connection->ended = true;
      unlock(job);
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
  if (run_on(self, (unsigned)thread) < 0) return NULL;
  Py_RETURN_NONE;
}

static PyObject *begin(struct stream_job *self, PyObject *requests) {
  int result = 0;
  if (self->begun || self->done) {
    PyErr_SetString(PyExc_RuntimeError, "a stream begins once");
    return NULL;
  }
  self->begun = true;
  PyObject *value = call_it(self, self->call.method->receives ? requests : NULL, &result);
  if (value != NULL && (!self->call.method->sends || is_iterator(value, true))) return value;
  if (value != NULL && !self->loop->abandoned) {
    atomic_store(&self->run.armed, false);
    result = refuse_result(self, value);
  }
  Py_XDECREF(value);
  end_job(self);
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
  lock(self);
  const taken got = take(self, false, &message);
  if (got == TAKEN_NONE) self->stream->wants_message = true;
  unlock(self);
  if (got == TAKEN_MESSAGE) return parse_message(self, message);
  if (got == TAKEN_NONE) Py_RETURN_NONE;
  PyErr_SetNone(PyExc_StopAsyncIteration);
  return NULL;
}

static PyObject *may_send(struct stream_job *self, PyObject *unused) {
  (void)unused;
  if (check_task(self) < 0) return NULL;
  lock(self);
  const bool may = self->stream->send_credit > 0;
  if (!may) self->stream->wants_credit = true;
  unlock(self);
  return PyBool_FromLong(may);
}

static PyObject *send(struct stream_job *self, PyObject *value) {
  if (check_task(self) < 0) return NULL;
  return PyBool_FromLong(send_message(self, value, true));
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
    result = answer_failure(self);
  } else if (value == NULL || self->call.method->sends) {
    result = answer_end(self);
  } else {
    result = call_answer_outcome(self->loop, &self->call, value);
  }
  end_job(self);
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
  lock(self);
  const bool interrupted = self->run.listed && run_take_interrupt(&self->run, control->grace_ns);
  unlock(self);
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
    end_job(self);
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

#ifdef Py_TPFLAGS_DISALLOW_INSTANTIATION
#define INTERNAL_FLAGS \
  (Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE)
#else
#define INTERNAL_FLAGS (Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC)
#endif

PyType_Spec stream_job_spec = {
    .name = "pyproc_worker._ext.StreamJob",
    .basicsize = sizeof(struct stream_job),
    .flags = INTERNAL_FLAGS,
    .slots = job_slots,
};

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
    .flags = INTERNAL_FLAGS,
    .slots = requests_slots,
};
