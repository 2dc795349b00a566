#include "call.h"

#include <stdlib.h>
#include <string.h>

#include "codec.h"
#include "envelope.h"
#include "exception.h"
#include "job.h"
#include "metadata_entries.h"
#include "reply.h"
#include "stream_job.h"

enum { SMALL_BODY = 4096 };

static const uint64_t stale_ns = 50000; /* replies do not wait longer than this for a handler that is about to run */

static int unknown_method(struct loop *self, const struct call *call) {
  if (call->name != NULL)
    return reply_error(self, call, 12, "there is no method '%U' in this worker: expose it, or check the name",
                       call->name);
  return reply_error(self, call, 12, "there is no method number %u in this worker, which has %u", call->number,
                     self->methods.count);
}

/* Says what is wrong with a request. */
static int refuse_request(struct loop *self, const struct call *call, const codec_problem *problem) {
  const struct method *const method = call->method;
  if (problem->wrong != NULL)
    return reply_error(self, call, problem->code, "%U: the request is %s", method->name, problem->wrong);
  if (problem->code != 3) return reply_exception(self, call, problem->code, "%U", method->name);
  if (method_is_typed(method))
    return reply_exception(self, call, 3, "%U: the request is no valid %s", method->name,
                           ((PyTypeObject *)method->request_type)->tp_name);
  return reply_exception(self, call, 3, "%U: the request cannot be decoded", method->name);
}

PyObject *call_parse(struct loop *self, const struct call *call, PyObject *bytes, bool whole, int *ret_result) {
  const codec_body body = {.data = call->body,
                           .size = call->body_size,
                           .bytes = whole ? bytes : NULL,
                           .json = call->json,
                           .checked = call->envelope};
  codec_problem problem;
  PyObject *value = codec_read(self, call->connection, call->method, &body, &problem);
  if (value == NULL) *ret_result = refuse_request(self, call, &problem);
  return value;
}

/* The spare one, where there is one. */
struct context *call_context(struct loop *self, const struct call *call) {
  struct context *borrowed = self->spare;
  self->spare = NULL;
  if (borrowed == NULL) borrowed = context_new(self->context_type, self->hooks.make_event, self->worker_index);
  if (borrowed == NULL) return NULL;
  borrowed->worker_index = self->worker_index;
  context_begin(borrowed, call->method->name, call->id, call->deadline_ns, call->metadata);
  return borrowed;
}

/* Keeps it for the next call unless somebody else holds it. */
void call_forget_context(struct loop *self, struct context *borrowed) {
  if (borrowed->event != NULL) {
    PyObject *done = PyObject_CallOneArg(self->hooks.forget_event, (PyObject *)borrowed);
    if (done == NULL) PyErr_Clear();
    Py_XDECREF(done);
  }
#ifndef Py_GIL_DISABLED
  if (!self->shared && self->spare == NULL && Py_REFCNT(borrowed) == 1) {
    self->spare = borrowed;
    return;
  }
#endif
  Py_DECREF(borrowed);
}

/* An exception that was raised in this thread's handler and has not come up in it must come up nowhere else. */
void call_disarm(struct loop *self, struct run *run) {
  control_disarm(self->control, run);
}

/* The handler's code, and nothing else, runs armed; a task's goes on after this. */
PyObject *call_handler(struct loop *self, const struct method *method, PyObject *request, struct run *run) {
  struct context *const context = run->context;
  PyObject *arguments[4] = {NULL, request};
  size_t count = 1;
  if (method->pass_context) arguments[1 + count++] = (PyObject *)context;
  const size_t positional = count;
  PyObject *event = NULL;
  PyObject *keywords = NULL;
  if (method->pass_event || method->pass_context_keyword) {
    keywords = self->keywords[(method->pass_event ? 2 : 0) | (method->pass_context_keyword ? 1 : 0)];
    if (method->pass_context_keyword) arguments[1 + count++] = (PyObject *)context;
    if (method->pass_event) {
      event = context_event(context);
      if (event == NULL) return NULL;
      arguments[1 + count++] = event;
    }
  }
  atomic_store_explicit(&run->armed, true, memory_order_release); /* read with the GIL, or on this thread */
  PyObject *result =
      PyObject_Vectorcall(method->handler, arguments + 1, positional | PY_VECTORCALL_ARGUMENTS_OFFSET, keywords);
  if (!self->abandoned && run->kind != RUN_TASK) call_disarm(self, run);
  Py_XDECREF(event);
  return result;
}

static int answer(struct loop *self, const struct call *call, PyObject *value) {
  const struct method *const method = call->method;
  if (method_is_typed(method)) {
    const int fits = PyObject_IsInstance(value, method->reply_type);
    if (fits < 0) return reply_exception(self, call, 13, "%U: the reply cannot be looked at", method->name);
    if (!fits)
      return reply_error(self, call, 13, "%U: the handler returned %.200s where it must return %.200s", method->name,
                         value == Py_None ? "None" : Py_TYPE(value)->tp_name,
                         ((PyTypeObject *)method->reply_type)->tp_name);
  }
  const char *body = NULL;
  size_t size = 0;
  codec_problem problem;
  PyObject *owner = codec_write(self, call->connection, method, call->json, value, &body, &size, &problem);
  if (owner == NULL)
    return problem.wrong == NULL
               ? reply_exception(self, call, problem.code, "%U: the reply cannot be serialised", method->name)
               : reply_error(self, call, problem.code, "%U: the reply is %s", method->name, problem.wrong);
  const int result = reply_body(self, call, body, size);
  Py_DECREF(owner);
  return result;
}

/* Gives the current exception, a Cancelled that nobody gave a text, the one that it has elsewhere. */
static void explain(const struct context *context) {
  PyObject *const exception = exception_take();
  PyObject *const old = PyObject_GetAttrString(exception, "args");
  PyObject *text = old != NULL && PyTuple_Check(old) && PyTuple_GET_SIZE(old) == 0 ? context_explain(context) : NULL;
  PyObject *const arguments = text == NULL ? NULL : PyTuple_Pack(1, text);
  if (arguments != NULL) (void)PyObject_SetAttrString(exception, "args", arguments);
  Py_XDECREF(arguments);
  Py_XDECREF(text);
  Py_XDECREF(old);
  PyErr_Clear();
  exception_restore(exception);
}

/* Whether the current exception is the one that was raised in the handler to end it. */
static bool was_interrupted(struct loop *self, const struct call *call) {
  if (!PyErr_ExceptionMatches(self->hooks.cancelled)) return false;
  (void)pthread_mutex_lock(&self->control->lock);
  const bool raised = call->run->raised > 0;
  (void)pthread_mutex_unlock(&self->control->lock);
  return raised;
}

/* The handler raised. SystemExit and KeyboardInterrupt are answered, and then end the worker. */
static int answer_exception(struct loop *self, const struct call *call, unsigned cancelled) {
  if (cancelled != 0 && PyErr_ExceptionMatches(self->hooks.cancelled)) explain(call->run->context);
  PyObject *ending = NULL;
  if (PyErr_ExceptionMatches(PyExc_SystemExit) || PyErr_ExceptionMatches(PyExc_KeyboardInterrupt)) {
    ending = exception_take();
    Py_INCREF(ending);
    exception_restore(ending);
  }
  const int result = reply_raised(self, call, cancelled, cancelled != 0 && was_interrupted(self, call));
  if (ending == NULL) return result;
  if (result < 0)
    Py_DECREF(ending);
  else
    exception_restore(ending);
  return -1;
}

int call_answer_cancelled(struct loop *self, const struct call *call, unsigned code, const char *reason) {
  if (code == 4) return reply_error(self, call, 4, "the deadline passed");
  if (code != 1) return reply_error(self, call, code, "%s", reason); /* a stream that was broken */
  return reply_error(self, call, 1, *reason == '\0' ? "Cancelled" : "Cancelled: %s", reason);
}

/* The thread record of the status page; the call's id last, since it says that the other is right. */
void call_record_thread(const struct call *call, uint64_t id, uint64_t now_ns) {
  if (call->connection->page == NULL || call->thread >= STATUS_PAGE_THREADS) return;
  status_page_thread *const record = &call->connection->page->threads[call->thread];
  atomic_store_explicit(&record->since_ns, now_ns, memory_order_relaxed);
  atomic_store_explicit(&record->call_id, id, memory_order_release);
}

void call_forget_thread(const struct call *call) {
  const status_page *const page = call->connection->page;
  if (page == NULL || call->thread >= STATUS_PAGE_THREADS) return;
  if (atomic_load_explicit(&page->threads[call->thread].call_id, memory_order_relaxed) == call->id)
    call_record_thread(call, 0, 0);
}

void call_begin(struct loop *self, const struct call *call) {
  struct control *const control = self->control;
  struct run *const run = call->run;
  const uint64_t now_ns = call->now_ns != 0 ? call->now_ns : clock_ns();
  if (run->kind != RUN_TASK) call_record_thread(call, call->id, now_ns);
  (void)pthread_mutex_lock(&control->lock);
  const bool dispatching = !self->shared && !call->elsewhere;
  if (!run->listed) control_list(control, run, dispatching);
  control_run(control, run, dispatching, now_ns);
  (void)pthread_mutex_unlock(&control->lock);
  control_rouse(control);
}

int call_answer_outcome(struct loop *self, const struct call *call, PyObject *value) {
  const struct context *const context = call->run->context;
  const unsigned cancelled = atomic_load(&context->cancelled);
  if (value == NULL) return answer_exception(self, call, cancelled);
  if (cancelled != 0) return call_answer_cancelled(self, call, cancelled, context->reason);
  return answer(self, call, value);
}

/* Runs the handler and answers. Consumes `request`. */
static int run_handler(struct loop *self, struct call *call, PyObject *request) {
  struct run own = {.kind = RUN_THREAD};
  if (call->run == NULL) {
    own.context = call_context(self, call);
    if (own.context == NULL) {
      Py_DECREF(request);
      return reply_exception(self, call, 8, "%U: no memory", call->method->name);
    }
    own.connection = call->connection;
    own.id = call->id;
    own.method = call->method->text;
    call->run = &own;
  }
  call_begin(self, call);
  PyObject *value = call_handler(self, call->method, request, call->run);
  /* A large one gives its memory to the reply; for the freeing of a small one the caller need not wait. */
  if (call->body_size > SMALL_BODY) Py_CLEAR(request);
  if (self->abandoned) { /* this is a forked child that came back from the handler */
    PyErr_Clear();
    Py_XDECREF(request);
    Py_XDECREF(value);
    return 0;
  }
  const int result = call_answer_outcome(self, call, value);
  Py_XDECREF(request);
  Py_XDECREF(value);
  if (call->run == &own) call_forget_context(self, own.context);
  return result;
}

/* Replies of calls before this one shall not wait for long. */
static int flush_stale(struct loop *self, const struct call *call) {
  if (self->shared || self->unflushed == 0) return 0;
  if (self->unflushed_since_ns == 0) self->unflushed_since_ns = call->now_ns;
  if (self->unflushed < LOOP_FLUSH_REPLIES && call->now_ns - self->unflushed_since_ns < stale_ns) return 0;
  return loop_flush(self, call->connection);
}

/* Whether the call was cancelled while it waited: the code, and 0 where it was not. */
static unsigned cancelled_before(struct loop *self, const struct call *call) {
  struct connection *const connection = call->connection;
  if (call->run != NULL) return atomic_load(&call->run->context->cancelled);
  if (!self->shared && connection->cancel_count == 0) return 0; /* only this thread changes it now */
  (void)pthread_mutex_lock(&self->control->lock);
  const unsigned cancelled = connection_cancelled(connection, call->id);
  (void)pthread_mutex_unlock(&self->control->lock);
  return cancelled;
}

bool call_is_over(struct loop *self, struct call *call, int *ret_result) {
  if (call->now_ns == 0) call->now_ns = clock_ns();
  const unsigned cancelled = cancelled_before(self, call);
  if (self->stopping)
    *ret_result = reply_error(self, call, 14, "the worker stops; the call has not been started");
  else if (cancelled != 0)
    *ret_result = call_answer_cancelled(self, call, cancelled, "before it started");
  else if (call->deadline_ns != 0 && call->now_ns >= call->deadline_ns)
    *ret_result = reply_error(self, call, 4, "the deadline passed before %U was started", call->method->name);
  else
    return false;
  return true;
}

/* What the handler is to be called with, which is certain to happen then: a new reference. NULL as call_parse(). */
static PyObject *prepare(struct loop *self, struct call *call, PyObject *bytes, bool whole, int *ret_result) {
  if (call_is_over(self, call, ret_result) || (*ret_result = flush_stale(self, call)) < 0) return NULL;
  PyObject *request = call_parse(self, call, bytes, whole, ret_result);
  if (request == NULL) return NULL;
  if (call->connection->page == NULL || status_page_start(call->connection->page, call->id)) return request;
  *ret_result = call_answer_cancelled(self, call, 1, "the host revoked the call before it started");
  Py_DECREF(request);
  return NULL;
}

int call_run(struct loop *self, struct call *call, PyObject *bytes, bool whole) {
  int result = 0;
  PyObject *request = prepare(self, call, bytes, whole, &result);
  return request == NULL ? result : run_handler(self, call, request);
}

int call_begin_task(struct loop *self, struct call *call, PyObject *bytes, bool whole, PyObject **ret_coroutine) {
  int result = 0;
  PyObject *request = prepare(self, call, bytes, whole, &result);
  if (request == NULL) return result;
  call_begin(self, call);
  *ret_coroutine = call_handler(self, call->method, request, call->run);
  Py_DECREF(request);
  return *ret_coroutine != NULL ? 0 : call_end_task(self, call, NULL);
}

int call_end_task(struct loop *self, struct call *call, PyObject *value) {
  if (self->abandoned) {
    PyErr_Clear();
    return 0;
  }
  atomic_store(&call->run->armed, false);
  return call_answer_outcome(self, call, value);
}

void call_drop(struct loop *self, struct call *call) {
  if (self->abandoned) return;
  PyObject *exception = exception_take();
  if (reply_error(self, call, 14, "the worker dropped the call: its thread has ended") < 0) PyErr_Clear();
  if (exception != NULL) exception_restore(exception);
}

/* Runs it here, or hands it to the thread that will. */
static int start_call(struct loop *self, struct call *call, PyObject *bytes, bool whole) {
  int result = 0;
  if (call->method == NULL) return unknown_method(self, call);
  if (call->method->handler == Py_None) return reply_error(self, call, 12, "%U", call->method->missing);
  if (method_is_stream(call->method)) return stream_submit(self, call, bytes);
  if (!self->shared) return call_run(self, call, bytes, whole);
  return call_is_over(self, call, &result) ? result : job_submit(self, call, bytes, whole);
}

int call_frame(struct loop *self, struct connection *connection, const connection_frame *frame) {
  struct call call = {
      .connection = connection,
      .method = methods_by_index(&self->methods, frame->header.method),
      .id = frame->header.id,
      .deadline_ns = frame->deadline_ns,
      .now_ns = frame->now_ns,
      .number = frame->header.method,
      .json = (frame->header.flags & WIRE_FLAG_JSON) != 0,
      .metadata = frame->metadata,
      .body = PyBytes_AS_STRING(frame->body),
      .body_size = (size_t)PyBytes_GET_SIZE(frame->body),
  };
  const char *wrong = metadata_check_bytes(frame->metadata);
  if (wrong != NULL) return reply_error(self, &call, 3, "the metadata of the request has %s", wrong);
  return start_call(self, &call, frame->body, true);
}

/* A JSON string's content as a str: a new reference, or NULL with a Python exception. */
static PyObject *unescaped(envelope_text text) {
  if (text.data == NULL) return PyUnicode_FromString("");
  if (memchr(text.data, '\\', text.size) == NULL)
    return PyUnicode_DecodeUTF8(text.data, (Py_ssize_t)text.size, "replace");
  char *plain = malloc(text.size + 1);
  if (plain == NULL) return PyErr_NoMemory();
  const size_t size = envelope_unescape(text, plain);
  PyObject *result = PyUnicode_DecodeUTF8(plain, (Py_ssize_t)size, "replace");
  free(plain);
  return result;
}

static int run_envelope(struct loop *self, struct connection *connection, const struct envelope *envelope,
                        PyObject *bytes) {
  PyObject *name = unescaped(envelope->method);
  if (name == NULL) return -1;
  struct call call = {
      .connection = connection,
      .method = methods_by_name(&self->methods, name),
      .name = name,
      .id = envelope->id,
      .envelope = true,
      .json = true,
      .body = envelope->body.data == NULL ? "{}" : envelope->body.data,
      .body_size = envelope->body.data == NULL ? 2 : envelope->body.size,
  };
  if (!connection->original && envelope->timeout_ms != 0)
    call.deadline_ns = connection->received_ns + envelope->timeout_ms * 1000000u;
  const int result = PyErr_Occurred() ? -1 : start_call(self, &call, bytes, false);
  Py_DECREF(name);
  return result;
}

int call_envelope(struct loop *self, struct connection *connection, const connection_frame *frame) {
  struct envelope envelope;
  const char *wrong = envelope_parse(PyBytes_AS_STRING(frame->body), (size_t)PyBytes_GET_SIZE(frame->body), &envelope);
  if (wrong != NULL) {
    const int result = reply_bad_envelope(self, connection, wrong);
    loop_set_fault(self, connection, "it sent a payload that is no valid envelope");
    return result;
  }
  switch (envelope.type) {
  case ENVELOPE_REQUEST:
  case ENVELOPE_REPLY:
    return run_envelope(self, connection, &envelope, frame->body);
  case ENVELOPE_CANCELLATION: /* connection_scan() has seen it */
  case ENVELOPE_OTHER:
    break;
  }
  return 0;
}
