/*
 * submit.c - calls that end in a callback, on the thread that dispatches.
 */
#include "async.h"
#include "call_setup.h"
#include "error.h"

typedef struct submitted {
  async_call base; /* first: it is one block */
  completion completion;
  pyproc_trampoline *trampoline; /* of a typed call */
  void (*done)(void);            /* for the trampoline */
  pyproc_json_done *json_done;   /* of a JSON call */
  void *userdata;
} submitted;

static void on_ended(async_call *base) {
  completions_add(&base->pool->async.completions, &((submitted *)(void *)base)->completion);
}

static void deliver_typed(completion *item) {
  submitted *self = (submitted *)(void *)((char *)item - offsetof(submitted, completion));
  const pyproc_pool *pool = self->base.pool;
  pyproc_trampoline *trampoline = self->trampoline;
  void (*done)(void) = self->done;
  void *userdata = self->userdata;
  ProtobufCMessage *reply = NULL;
  pyproc_error *error = NULL;
  async_call_detach(&self->base);
  int result = call_setup_result(&self->base.call, &error);
  if (result >= 0)
    result = call_setup_take_message(&self->base.call, pool->options.codec, pool->options.frame_limit, &reply, &error);
  async_call_unref(&self->base);
  trampoline(done, result, reply, error, userdata);
}

static void deliver_json(completion *item) {
  submitted *self = (submitted *)(void *)((char *)item - offsetof(submitted, completion));
  const pyproc_pool *pool = self->base.pool;
  pyproc_json_done *done = self->json_done;
  void *userdata = self->userdata;
  char *body = NULL;
  pyproc_error *error = NULL;
  async_call_detach(&self->base);
  int result = call_setup_result(&self->base.call, &error);
  if (result >= 0)
    result = call_setup_take_json(&self->base.call, pool->options.codec, pool->options.frame_limit, &body, &error);
  async_call_unref(&self->base);
  done(result, body, error, userdata);
}

/* Sends a call whose frame, which it takes over, is encoded. `like` says what becomes of its end. */
static int submit(pyproc_pool *pool, call_method method, frame_block *frame, const pyproc_call_options *options,
                  const submitted *like, pyproc_error **reterr) {
  submitted *self = async_call_new(sizeof *self, pool, method, frame, options, reterr);
  if (self == NULL) return PYPROC_E_RESOURCE_EXHAUSTED;
  self->base.ended = on_ended;
  self->completion = like->completion;
  self->trampoline = like->trampoline;
  self->done = like->done;
  self->json_done = like->json_done;
  self->userdata = like->userdata;
  return async_call_start(&self->base, reterr);
}

/* A call that failed right away counts here, any other one when it ends. */
static int leave(pyproc_pool *pool, int result) {
  if (result < 0) pool_count(pool, result);
  pool_leave(pool);
  return result;
}

int pyproc_call_submit_generated(pyproc_pool *pool, const pyproc_method *method, const ProtobufCMessage *request,
                                 const pyproc_call_options *given, pyproc_trampoline *trampoline, void (*done)(void),
                                 void *userdata, pyproc_error **reterr) {
  submitted like = {.completion.deliver = deliver_typed, .trampoline = trampoline, .done = done, .userdata = userdata};
  pyproc_call_options options;
  frame_block *frame = NULL;
  int result = pool_enter(pool, reterr);
  if (result < 0) return result;
  if (trampoline == NULL || done == NULL) result = error_set(reterr, PYPROC_E_INVALID_ARGUMENT, "done is NULL");
  if (result >= 0) result = call_setup_message(pool, method, request, given, &options, &frame, reterr);
  if (result >= 0)
    result = submit(pool, (call_method){.name = method->name, .typed = method}, frame, &options, &like, reterr);
  return leave(pool, result);
}

/* Back to the type that it had in pyproc_call_submit. */
static void call_done(void (*done)(void), int result, ProtobufCMessage *reply, pyproc_error *error, void *userdata) {
  ((pyproc_done *)done)(result, reply, error, userdata);
}

int pyproc_call_submit(pyproc_pool *pool, const pyproc_method *method, const ProtobufCMessage *request,
                       const pyproc_call_options *options, pyproc_done *done, void *userdata, pyproc_error **reterr) {
  return pyproc_call_submit_generated(pool, method, request, options, call_done, (void (*)(void))done, userdata,
                                      reterr);
}

int pyproc_call_json_submit(pyproc_pool *pool, const char *method, const char *body, const pyproc_call_options *given,
                            pyproc_json_done *done, void *userdata, pyproc_error **reterr) {
  submitted like = {.completion.deliver = deliver_json, .json_done = done, .userdata = userdata};
  pyproc_call_options options;
  frame_block *frame = NULL;
  int result = pool_enter(pool, reterr);
  if (result < 0) return result;
  if (done == NULL) result = error_set(reterr, PYPROC_E_INVALID_ARGUMENT, "done is NULL");
  if (result >= 0) result = call_setup_json(pool, method, body, given, &options, &frame, reterr);
  if (result >= 0) result = submit(pool, (call_method){.name = method}, frame, &options, &like, reterr);
  return leave(pool, result);
}

int pyproc_pool_fd(pyproc_pool *pool) {
  int result = pool_enter(pool, NULL);
  if (result < 0) return result;
  result = completions_fd(&pool->async.completions);
  pool_leave(pool);
  return result;
}

static void attend(void *argument) {
  admission_attend(&((pyproc_pool *)argument)->admission);
}

static bool pump(void *argument) {
  return admission_pump(&((pyproc_pool *)argument)->admission);
}

static void leave_admission(void *argument) {
  admission_leave(&((pyproc_pool *)argument)->admission);
}

int pyproc_pool_dispatch(pyproc_pool *pool, int timeout_ms) {
  int result = pool_enter(pool, NULL);
  if (result < 0) return result;
  int64_t deadline_ns = timeout_ms < 0 ? PLATFORM_NO_DEADLINE : call_setup_deadline(timeout_ms, platform_now_ns());
  const completions_source source = {
      .attend = attend, .pump = pump, .leave = leave_admission, .argument = pool, .spin = &pool->async.spin};
  result = completions_dispatch(&pool->async.completions, &source, deadline_ns);
  pool_leave(pool);
  return result;
}
