#include "call_setup.h"

#include <inttypes.h>

#include "error.h"
#include "reply.h"
#include "request.h"
#include "retry.h"
#include "wire/envelope.h"
#include "wire/frame.h"

enum { BUDGET_PER_FRAME_BYTE = 8 }; /* memory of an unpacked reply, as a multiple of the frame limit */

static int check_options(const pyproc_call_options *given, pyproc_call_options *options, pyproc_error **reterr) {
  *options = (pyproc_call_options)PYPROC_CALL_OPTIONS_INIT;
  if (given == NULL) return PYPROC_OK;
  int result = options_copy_sized(options, sizeof *options, given, "pyproc_call_options", reterr);
  if (result < 0) return result;
  return retry_check(options->max_attempts, reterr);
}

static int check_table(const pyproc_method *method, pyproc_error **reterr) {
  if (method == NULL) return error_set(reterr, PYPROC_E_INVALID_ARGUMENT, "method is NULL");
  if (method->size != sizeof *method || (method->retry != NULL && method->retry->size != sizeof *method->retry))
    return error_set(reterr, PYPROC_E_FAILED_PRECONDITION,
                     "the code of this method was generated for another version of the library: run pyproc-gen again");
  return PYPROC_OK;
}

int call_setup_check_message(const pyproc_method *method, const ProtobufCMessage *message, pyproc_error **reterr) {
  const char *what =
      method->kind == PYPROC_RPC_UNARY || method->kind == PYPROC_RPC_SERVER_STREAM ? "request" : "message";
  if (message == NULL) return error_set(reterr, PYPROC_E_INVALID_ARGUMENT, "%s is NULL", what);
  if (message->descriptor != method->request->descriptor)
    return error_set(reterr, PYPROC_E_INVALID_ARGUMENT, "the %s of %s is no %s: initialise it with its INIT macro",
                     what, method->name, method->request->name);
  return PYPROC_OK;
}

static int check_method(const pyproc_method *method, const ProtobufCMessage *request, pyproc_error **reterr) {
  int result = check_table(method, reterr);
  if (result < 0) return result;
  if (method->kind != PYPROC_RPC_UNARY)
    return error_set(reterr, PYPROC_E_INVALID_ARGUMENT, "%s is a stream, not a unary method", method->name);
  return call_setup_check_message(method, request, reterr);
}

static int check_stream(const pyproc_method *method, const ProtobufCMessage *request, pyproc_error **reterr) {
  int result = check_table(method, reterr);
  if (result < 0) return result;
  if (method->kind == PYPROC_RPC_UNARY)
    return error_set(reterr, PYPROC_E_INVALID_ARGUMENT, "%s is a unary method, not a stream", method->name);
  if (method->kind == PYPROC_RPC_SERVER_STREAM) return call_setup_check_message(method, request, reterr);
  if (request != NULL)
    return error_set(reterr, PYPROC_E_INVALID_ARGUMENT, "request is not NULL: what %s takes is sent when it is open",
                     method->name);
  return PYPROC_OK;
}

int call_setup_message(const pyproc_pool *pool, const pyproc_method *method, const ProtobufCMessage *request,
                       const pyproc_call_options *given, pyproc_call_options *options, frame_block **ret_frame,
                       pyproc_error **reterr) {
  int result = check_method(method, request, reterr);
  if (result >= 0) result = check_options(given, options, reterr);
  return result >= 0 ? request_encode_message(pool->options.codec, method, request, options, ret_frame, reterr)
                     : result;
}

int call_setup_stream(const pyproc_pool *pool, const pyproc_method *method, const ProtobufCMessage *request,
                      const pyproc_call_options *given, pyproc_call_options *options, frame_block **ret_frame,
                      pyproc_error **reterr) {
  int result = check_stream(method, request, reterr);
  if (result >= 0) result = check_options(given, options, reterr);
  return result >= 0 ? request_encode_stream(pool->options.codec, method, request, options, ret_frame, reterr) : result;
}

int call_setup_json(const pyproc_pool *pool, const char *method, const char *body, const pyproc_call_options *given,
                    pyproc_call_options *options, frame_block **ret_frame, pyproc_error **reterr) {
  if (method == NULL || body == NULL)
    return error_set(reterr, PYPROC_E_INVALID_ARGUMENT, "%s is NULL", method == NULL ? "method" : "body");
  int result = check_options(given, options, reterr);
  return result >= 0 ? request_encode_json(pool->options.codec, method, body, options, ret_frame, reterr) : result;
}

int64_t call_setup_timeout(const pyproc_pool *pool, const pyproc_method *method, const pyproc_call_options *options) {
  if (options->timeout_ms != 0) return options->timeout_ms;
  if (method != NULL && method->timeout_ms > 0) return method->timeout_ms;
  return method != NULL && method->kind != PYPROC_RPC_UNARY ? PYPROC_TIMEOUT_NONE : pool->options.call_timeout_ms;
}

int64_t call_setup_deadline(int64_t timeout_ms, int64_t now_ns) {
  if (timeout_ms < 0) return now_ns;
  return timeout_ms >= (INT64_MAX - now_ns) / 1000000 ? INT64_MAX : now_ns + timeout_ms * 1000000;
}

int call_setup_check_size(const frame_block *frame, int64_t frame_limit, const char *what, const char *method,
                          pyproc_error **reterr) {
  size_t size = frame->bytes.size - WIRE_LENGTH_SIZE;
  if (size <= (size_t)frame_limit) return PYPROC_OK;
  return error_set(reterr, PYPROC_E_RESOURCE_EXHAUSTED,
                   "the %s of %s takes %zu bytes, more than option frame_limit_bytes (%" PRId64 ")", what, method, size,
                   frame_limit);
}

int call_setup_check(const pyproc_pool *pool, const struct call *call, int64_t timeout_ms, pyproc_error **reterr) {
  int result = call_setup_check_size(call->frame, pool->options.frame_limit, "request", call->method.name, reterr);
  if (result < 0) return result;
  if (timeout_ms < 0)
    return error_set(reterr, PYPROC_E_DEADLINE_EXCEEDED, "the deadline of %s had passed before it was sent",
                     call->method.name);
  return PYPROC_OK;
}

static pyproc_error *given_up_error(const struct call *call, int code, int64_t timeout_ms) {
  if (code == PYPROC_E_CANCELLED) return error_new(code, "%s was cancelled", call->method.name);
  return error_new(code, "%s %s within %" PRId64 " ms", call->method.name,
                   call->stream != NULL ? "was not over" : "had no answer", timeout_ms);
}

/* How far the handler was made to stop. */
static void set_stop(pyproc_error *error, int stop) {
  static const char *const texts[] = {
      [PYPROC_STOP_ASKED] = "; its handler was asked to stop",
      [PYPROC_STOP_INTERRUPTED] = "; its handler was interrupted",
      [PYPROC_STOP_KILLED] = "; its handler did not stop, and its worker was killed",
  };
  error_set_stop(error, stop);
  if (stop != PYPROC_STOP_NONE) error_append(error, "%s", texts[stop]);
}

pyproc_error *call_setup_given_up(pyproc_pool *pool, const struct call *call, int code, const struct connection *last,
                                  int64_t timeout_ms, int may_have_run) {
  pyproc_error *error = given_up_error(call, code, timeout_ms);
  bool none_ready = last == NULL && supervisor_ready_workers(pool->supervisor) == 0;
  pyproc_error *failure = none_ready ? supervisor_last_error(pool->supervisor) : NULL;
  if (failure != NULL) error_append(error, "; no worker is ready: %s", pyproc_error_message(failure));
  pyproc_error_free(failure);
  set_stop(error, may_have_run ? PYPROC_STOP_ASKED : PYPROC_STOP_NONE);
  if (last != NULL) error_set_worker(error, call->worker_pid);
  error_set_may_have_run(error, may_have_run);
  error_set_attempts(error, call->attempts);
  return error;
}

bool call_setup_stopped(struct call *call, int64_t timeout_ms) {
  pyproc_error *word = call->error; /* NULL: it answered all the same */
  if (pyproc_error_code(word) == PYPROC_E_DEADLINE_EXCEEDED && pyproc_error_stop(word) == PYPROC_STOP_INTERRUPTED)
    call->asked = PYPROC_E_DEADLINE_EXCEEDED;
  if (call->asked == 0) return false;
  pyproc_error *error = given_up_error(call, call->asked, timeout_ms);
  int stop = pyproc_error_stop(word);
  if (stop == PYPROC_STOP_NONE && call->may_have_run) stop = PYPROC_STOP_ASKED;
  set_stop(error, stop);
  if (pyproc_error_crash(word) != NULL) error_append(error, "; %s", pyproc_error_message(word));
  error_take_details(error, word);
  error_set_worker(error, call->worker_pid);
  pyproc_error_free(word);
  call->error = error;
  return true;
}

int call_setup_result(struct call *call, pyproc_error **reterr) {
  pyproc_error *error = call->error;
  if (error == NULL) return PYPROC_OK;
  call->error = NULL;
  error_set_may_have_run(error, call->may_have_run);
  error_set_attempts(error, call->attempts);
  return error_give(reterr, error);
}

/* The reply came and cannot be used. */
static int give_reply_error(const struct call *call, pyproc_error *error, pyproc_error **reterr) {
  error_prefix(error, call->stream != NULL ? "a message of %s: " : "the reply of %s: ", call->method.name);
  error_set_worker(error, call->worker_pid);
  error_set_may_have_run(error, call->may_have_run);
  error_set_attempts(error, call->attempts);
  return error_give(reterr, error);
}

/* The message is unpacked; its metadata goes with it. */
static int give_metadata(const struct call *call, const uint8_t *metadata, size_t size, void *message,
                         pyproc_error **reterr) {
  if (size == 0 || reply_set_metadata(message, metadata, size)) return PYPROC_OK;
  pyproc_reply_free(message);
  return give_reply_error(call, error_new(PYPROC_E_RESOURCE_EXHAUSTED, "out of memory"), reterr);
}

static int unpack(const struct call *call, const struct codec *codec, int64_t frame_limit,
                  const stream_message *message, ProtobufCMessage **ret_message, pyproc_error **reterr) {
  pyproc_error *error = NULL;
  ProtobufCMessage *unpacked;
  int result = codec_unpack(codec, call->method.typed->reply, message->body, message->size,
                            (size_t)frame_limit * BUDGET_PER_FRAME_BYTE, &unpacked, &error);
  if (result < 0) return give_reply_error(call, error, reterr);
  result = give_metadata(call, message->metadata, message->metadata_size, unpacked, reterr);
  if (result >= 0) *ret_message = unpacked;
  return result;
}

int call_setup_take_message(const struct call *call, const struct codec *codec, int64_t frame_limit,
                            ProtobufCMessage **ret_reply, pyproc_error **reterr) {
  const stream_message reply = {.metadata = call->body - call->metadata_size,
                                .metadata_size = call->metadata_size,
                                .body = call->body,
                                .size = call->body_size};
  return unpack(call, codec, frame_limit, &reply, ret_reply, reterr);
}

int call_setup_unpack_message(const struct call *call, const struct codec *codec, int64_t frame_limit,
                              const stream_message *message, ProtobufCMessage **ret_message, pyproc_error **reterr) {
  return unpack(call, codec, frame_limit, message, ret_message, reterr);
}

int call_setup_take_json(const struct call *call, const struct codec *codec, int64_t frame_limit, char **ret_body,
                         pyproc_error **reterr) {
  if (call->frame->encoding == CALL_BODY_CODEC) {
    pyproc_error *error = NULL;
    int result = codec_unpack_json(codec, call->body, call->body_size, (size_t)frame_limit * BUDGET_PER_FRAME_BYTE,
                                   ret_body, &error);
    return result < 0 ? give_reply_error(call, error, reterr) : result;
  }
  const char *body = (const char *)call->body;
  const char *wrong = call->is_checked ? NULL : envelope_check_body(body, call->body_size);
  if (wrong != NULL) return give_reply_error(call, error_new(PYPROC_E_DATA_LOSS, "%s", wrong), reterr);
  char *text = reply_text_new(body, call->body_size);
  if (text == NULL) return give_reply_error(call, error_new(PYPROC_E_RESOURCE_EXHAUSTED, "out of memory"), reterr);
  int result = give_metadata(call, call->body - call->metadata_size, call->metadata_size, text, reterr);
  if (result >= 0) *ret_body = text;
  return result;
}
