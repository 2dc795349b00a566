/*
 * bench_inprocess - a handler called in process: C, with Python inside, none of the library.
 *
 * bench_inprocess call METHOD BYTES SECONDS     calls it in a loop, and writes what peers/client.h says
 * bench_inprocess serve METHOD uds|shm spin|block   answers the messages of exchange.h from descriptor 3
 *
 * METHOD is echo: the bytes as they came, without Python; predict: parse, call bench.Predictor's handler, serialise;
 * blob: the same with Echo's message and BYTES bytes in its field; parse or serialise: nothing but that, of this message.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include "exchange.h"
#include "peers/client.h"
#include "samples.h"

enum { SOCKET = 3 };

/* What is called for each message. */
typedef struct handler {
  PyObject *parse, *function, *serialize; /* NULL: left out; all NULL: the bytes as they came */
  PyObject *message;                      /* that is not parsed */
} handler;

static void die(const char *what) {
  if (PyErr_Occurred()) PyErr_Print();
  fprintf(stderr, "bench_inprocess: %s\n", what);
  exit(1);
}

/* The program name decides which modules there are: without it Python looks for itself on PATH. */
static void start_python(void) {
  PyConfig config;
  PyConfig_InitPythonConfig(&config);
  if (PyStatus_Exception(PyConfig_SetBytesString(&config, &config.program_name, BENCH_PYTHON)) ||
      PyStatus_Exception(Py_InitializeFromConfig(&config)))
    die("no Python");
  PyConfig_Clear(&config);
  if (PyRun_SimpleString("import sys; sys.path[:0] = ['" BENCH_GEN "', '" BENCH_WORKER_PACKAGE "']") < 0)
    die("no path");
}

static PyObject *attribute(PyObject *of, const char *name) {
  PyObject *found = of != NULL ? PyObject_GetAttrString(of, name) : NULL;
  if (found == NULL) die(name);
  return found;
}

static handler find_handler(const char *method) {
  if (strcmp(method, "echo") == 0) return (handler){0};
  start_python();
  bool blob = strcmp(method, "predict") != 0;
  PyObject *messages = PyImport_ImportModule("bench_pb2"), *worker = PyImport_ImportModule("worker");
  PyObject *served = PyObject_CallNoArgs(attribute(worker, "Predictor"));
  PyObject *request = attribute(messages, blob ? "Blob" : "PredictRequest");
  PyObject *reply = attribute(messages, blob ? "Blob" : "PredictReply");
  handler self = {.parse = attribute(request, "FromString")};
  if (strcmp(method, "parse") != 0) self.serialize = attribute(reply, "SerializeToString");
  if (self.serialize != NULL && strcmp(method, "serialise") != 0)
    self.function = attribute(served, blob ? "echo" : "predict");
  return self;
}

static PyObject *parse(const handler *self, const char *body, size_t size) {
  PyObject *bytes = PyBytes_FromStringAndSize(body, (Py_ssize_t)size);
  PyObject *request = PyObject_CallOneArg(self->parse, bytes);
  Py_XDECREF(bytes);
  if (request == NULL) die("parse");
  return request;
}

static PyObject *again(PyObject *object) {
  Py_INCREF(object);
  return object;
}

/* One call; the reply is the caller's. */
static PyObject *handle(const handler *self, const char *body, size_t size) {
  PyObject *request = self->message != NULL ? again(self->message) : parse(self, body, size);
  if (self->serialize == NULL) return request;
  PyObject *const arguments[] = {request, Py_None};
  PyObject *reply = self->function != NULL ? PyObject_Vectorcall(self->function, arguments, 2, NULL) : again(request);
  Py_DECREF(request);
  PyObject *written = reply != NULL ? PyObject_CallOneArg(self->serialize, reply) : NULL;
  Py_XDECREF(reply);
  if (written == NULL) die("call");
  return written;
}

/* Puts the answer to the message at `message` there and returns its size. */
static size_t answer(const handler *self, const char *message, size_t size, char *to) {
  const char *body = message + EXCHANGE_HEAD;
  if (self->parse == NULL) return exchange_put(to, body, (uint32_t)(size - EXCHANGE_HEAD));
  PyObject *reply = handle(self, body, size - EXCHANGE_HEAD);
  size_t written = exchange_put(to, PyBytes_AS_STRING(reply), (uint32_t)PyBytes_GET_SIZE(reply));
  Py_DECREF(reply);
  return written;
}

/* Reads all there is, and answers a batch by one write. */
static void serve_socket(const handler *self, bool spin) {
  static char in[EXCHANGE_BUFFER], out[EXCHANGE_BATCH * (EXCHANGE_HEAD + EXCHANGE_BODY_MAX)];
  size_t there = 0, at, size;
  for (ssize_t count; (count = exchange_receive(SOCKET, in + there, sizeof in - there, spin)) > 0;) {
    size_t waiting = 0;
    int batch = 0;
    there += (size_t)count;
    for (at = 0; (size = exchange_size(in + at, there - at)) > 0; at += size) {
      waiting += answer(self, in + at, size, out + waiting);
      if (++batch < EXCHANGE_BATCH) continue;
      if (!exchange_send(SOCKET, out, waiting)) return;
      waiting = 0;
      batch = 0;
    }
    if (!exchange_send(SOCKET, out, waiting)) return;
    memmove(in, in + at, there - at);
    there -= at;
  }
}

static void serve_memory(const handler *self) {
  exchange_memory *memory = mmap(NULL, sizeof *memory, PROT_READ | PROT_WRITE, MAP_SHARED, SOCKET, 0);
  if (memory == MAP_FAILED) die("no memory");
  const exchange_cell *cell;
  for (uint32_t place = 0; (cell = exchange_wait(memory, &memory->requests, place)) != NULL; place++) {
    if (self->parse == NULL) {
      exchange_push(&memory->replies, place, cell->body, cell->size);
      continue;
    }
    PyObject *reply = handle(self, cell->body, cell->size);
    exchange_push(&memory->replies, place, PyBytes_AS_STRING(reply), (uint32_t)PyBytes_GET_SIZE(reply));
    Py_DECREF(reply);
  }
}

/* A request in its encoding: PredictRequest is field 1 with eight bytes, Blob field 1 with `size` bytes. */
static char *make_request(bool blob, size_t size, size_t *ret_size) {
  enum { HEAD_MAX = 11 };
  char *request = calloc(1, HEAD_MAX + size + sizeof(double)), *at = request;
  if (request == NULL) die("no memory");
  double value = 21;
  *at++ = blob ? (1 << 3 | 2) : (1 << 3 | 1);
  if (blob) {
    size_t rest = size;
    for (; rest > 0x7f; rest >>= 7) *at++ = (char)(rest | 0x80);
    *at++ = (char)rest;
    at += size;
  } else {
    memcpy(at, &value, sizeof value);
    at += sizeof value;
  }
  *ret_size = (size_t)(at - request);
  return request;
}

static int call(handler *self, bool blob, size_t bytes, double seconds) {
  size_t size;
  char *request = make_request(blob, bytes, &size);
  if (self->function == NULL && self->serialize != NULL) self->message = parse(self, request, size);
  client_times times;
  client_times_init(&times);
  for (int i = 0; i < 2; i++) { /* the first time to warm up */
    times.count = 0;
    int64_t began = client_now(), before = began, end = began + (int64_t)(seconds * 1e9 / (i == 0 ? 5 : 1));
    int calls = 0;
    do {
      PyObject *reply = handle(self, request, size);
      Py_DECREF(reply);
      int64_t now = client_now();
      client_times_add(&times, now - before);
      before = now;
    } while (++calls < CALLS_MIN || before < end);
    times.seconds = (double)(before - began) / 1e9;
  }
  times.cpu_seconds = times.seconds;
  return client_times_write(&times, 1);
}

int main(int argc, char **argv) {
  if (argc != 5) return 2;
  prctl(PR_SET_PDEATHSIG, SIGKILL); /* in shared memory nothing tells that the other side has died */
  handler called = find_handler(argv[2]);
  bool serve = strcmp(argv[1], "serve") == 0;
  if (!serve) return call(&called, strcmp(argv[2], "predict") != 0, (size_t)atol(argv[3]), atof(argv[4]));
  if (strcmp(argv[3], "uds") == 0)
    serve_socket(&called, strcmp(argv[4], "spin") == 0);
  else
    serve_memory(&called);
  return 0;
}
