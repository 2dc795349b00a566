#include "module.h"

#include <stdlib.h>

#include "context.h"
#include "envelope.h"
#include "job.h"
#include "loop.h"
#include "metadata_entries.h"
#include "watch.h"
#include "requests.h"
#include "rings.h"
#include "stream_job.h"

static int add_type(PyObject *module, PyType_Spec *spec, PyTypeObject **ret_type) {
  *ret_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, NULL);
  return *ret_type == NULL ? -1 : PyModule_AddType(module, *ret_type);
}

static PyObject *check_json(PyObject *module, PyObject *text) {
  (void)module;
  char *body;
  Py_ssize_t size;
  if (PyBytes_AsStringAndSize(text, &body, &size) < 0) return NULL;
  const char *wrong = envelope_check_body(body, (size_t)size);
  if (wrong == NULL) Py_RETURN_NONE;
  return PyUnicode_FromString(wrong);
}

static PyMethodDef functions[] = {
    {"check_json", check_json, METH_O, "What is wrong with a text as the JSON of a body, None where nothing is."},
    {NULL, NULL, 0, NULL},
};

/* glibc gives the top of its heap back as soon as 128 KiB are free there, and takes it again, page by page, for the next long
   message. With the largest mapping that was ever freed two bounds rise, unless the environment sets them (mallopt(3),
   M_MMAP_THRESHOLD): up to LARGE bytes come from the heap then, whose top keeps twice as many. */
static void keep_heap(void) {
  enum { LARGE = 8 << 20 };
  void *volatile large = malloc(LARGE);
  free(large);
}

static int execute(PyObject *module) {
  keep_heap();
  module_state *const state = PyModule_GetState(module);
  if (add_type(module, &context_spec, &state->context_type) < 0) return -1;
  if (add_type(module, &job_spec, &state->job_type) < 0) return -1;
  if (add_type(module, &run_spec, &state->run_type) < 0) return -1;
  if (add_type(module, &stream_job_spec, &state->stream_job_type) < 0) return -1;
  if (add_type(module, &requests_spec, &state->requests_type) < 0) return -1;
#if PY_VERSION_HEX < 0x030A0000 /* later ones have a flag for it */
  state->job_type->tp_new = NULL;
  state->stream_job_type->tp_new = NULL;
  state->requests_type->tp_new = NULL;
  state->context_type->tp_new = NULL;
  state->run_type->tp_new = NULL;
#endif
  if (add_type(module, &watch_spec, &state->watch_type) < 0) return -1;
  if (PyModule_AddFunctions(module, functions) < 0) return -1;
  if (PyModule_AddIntConstant(module, "HAS_RINGS", rings_are_possible()) < 0) return -1;
  return add_type(module, &loop_spec, &state->loop_type);
}

static int traverse(PyObject *module, visitproc visit, void *arg) {
  module_state *const state = PyModule_GetState(module);
  Py_VISIT(state->context_type);
  Py_VISIT(state->loop_type);
  Py_VISIT(state->job_type);
  Py_VISIT(state->watch_type);
  Py_VISIT(state->run_type);
  Py_VISIT(state->stream_job_type);
  Py_VISIT(state->requests_type);
  return 0;
}

static int clear(PyObject *module) {
  module_state *const state = PyModule_GetState(module);
  Py_CLEAR(state->context_type);
  Py_CLEAR(state->loop_type);
  Py_CLEAR(state->job_type);
  Py_CLEAR(state->watch_type);
  Py_CLEAR(state->run_type);
  Py_CLEAR(state->stream_job_type);
  Py_CLEAR(state->requests_type);
  return 0;
}

__extension__ static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, execute},
#ifdef Py_mod_multiple_interpreters
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#ifdef Py_mod_gil
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "pyproc_worker._ext",
    .m_doc = "The wire of a pyproc worker: read, framing, dispatch, write.",
    .m_size = sizeof(module_state),
    .m_methods = metadata_functions,
    .m_slots = slots,
    .m_traverse = traverse,
    .m_clear = clear,
};

PyMODINIT_FUNC PyInit__ext(void);

PyMODINIT_FUNC PyInit__ext(void) {
  return PyModuleDef_Init(&definition);
}
