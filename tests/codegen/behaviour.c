/* What generated code does when it runs, over a library of our own. Writes a serialised message to standard output. */
#include "chat.pyproc.h"
#include "proto2.pyproc.h"
#include "types.pyproc.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static int answer;
static const pyproc_method *called;
static const pyproc_call_options *given;
static ProtobufCMessage reply_message;

int pyproc_call(pyproc_pool *pool, const pyproc_method *method, const ProtobufCMessage *request,
                const pyproc_call_options *options, ProtobufCMessage **ret_reply, pyproc_error **reterr) {
  (void)pool;
  (void)reterr;
  called = method;
  given = options;
  if (request == NULL || ret_reply == NULL) return PYPROC_E_INVALID_ARGUMENT;
  if (answer == PYPROC_OK) *ret_reply = &reply_message;
  return answer;
}

int pyproc_call_submit_generated(pyproc_pool *pool, const pyproc_method *method, const ProtobufCMessage *request,
                                 const pyproc_call_options *options, pyproc_trampoline *trampoline, void (*done)(void),
                                 void *userdata, pyproc_error **reterr) {
  (void)pool;
  (void)reterr;
  called = method;
  given = options;
  if (request == NULL || done == NULL) return PYPROC_E_INVALID_ARGUMENT;
  trampoline(done, answer, answer == PYPROC_OK ? &reply_message : NULL, NULL, userdata);
  return PYPROC_OK;
}

int pyproc_call_start(pyproc_pool *pool, const pyproc_method *method, const ProtobufCMessage *request,
                      const pyproc_call_options *options, pyproc_future **ret_future, pyproc_error **reterr) {
  (void)pool;
  (void)reterr;
  (void)ret_future;
  called = method;
  given = options;
  return request == NULL ? PYPROC_E_INVALID_ARGUMENT : answer;
}

int pyproc_future_finish_generated(pyproc_future *future, const pyproc_method *method, ProtobufCMessage **ret_reply,
                                   pyproc_error **reterr) {
  (void)future;
  return pyproc_call(NULL, method, &reply_message, NULL, ret_reply, reterr);
}

int pyproc_stream_open(pyproc_pool *pool, const pyproc_method *method, const ProtobufCMessage *request,
                       const pyproc_call_options *options, pyproc_stream **ret_stream, pyproc_error **reterr) {
  (void)ret_stream;
  return pyproc_call_start(pool, method, request, options, NULL, reterr);
}

int pyproc_stream_send_generated(pyproc_stream *stream, const pyproc_method *method, const ProtobufCMessage *message,
                                 pyproc_error **reterr) {
  (void)stream;
  (void)reterr;
  called = method;
  return message == NULL ? PYPROC_E_INVALID_ARGUMENT : answer;
}

int pyproc_stream_done_sending_generated(pyproc_stream *stream, const pyproc_method *method, pyproc_error **reterr) {
  (void)stream;
  (void)reterr;
  called = method;
  return answer;
}

int pyproc_stream_recv_generated(pyproc_stream *stream, const pyproc_method *method, ProtobufCMessage **ret_message,
                                 pyproc_error **reterr) {
  (void)stream;
  (void)reterr;
  called = method;
  if (ret_message == NULL) return PYPROC_E_INVALID_ARGUMENT;
  if (answer == 1) *ret_message = &reply_message;
  return answer;
}

int pyproc_stream_send_submit_generated(pyproc_stream *stream, const pyproc_method *method,
                                        const ProtobufCMessage *message, pyproc_done *done, void *userdata,
                                        pyproc_error **reterr) {
  (void)stream;
  (void)reterr;
  called = method;
  if (message == NULL || done == NULL) return PYPROC_E_INVALID_ARGUMENT;
  done(answer, NULL, NULL, userdata);
  return PYPROC_OK;
}

int pyproc_stream_recv_submit_generated(pyproc_stream *stream, const pyproc_method *method,
                                        pyproc_trampoline *trampoline, void (*done)(void), void *userdata,
                                        pyproc_error **reterr) {
  (void)stream;
  (void)reterr;
  called = method;
  if (done == NULL) return PYPROC_E_INVALID_ARGUMENT;
  trampoline(done, answer, answer == 1 ? &reply_message : NULL, NULL, userdata);
  return PYPROC_OK;
}

static pyproc_stream *closed;

void pyproc_stream_close(pyproc_stream *stream) {
  closed = stream;
}

static void check(int condition, const char *what) {
  if (condition) return;
  fprintf(stderr, "failed: %s\n", what);
  exit(1);
}

static Golden__Types__Optionals *delivered;
static int delivered_result;

static golden_types_types_scalar_done on_done;
static void on_done(int result, Golden__Types__Optionals *reply, pyproc_error *error, void *userdata) {
  check(error == NULL && userdata == &answer, "the callback gets what it was given");
  delivered_result = result;
  delivered = reply;
}

static void check_asynchronous_calls(void) {
  Golden__Types__Scalars request = GOLDEN__TYPES__SCALARS__INIT;
  Golden__Types__Optionals untouched, *reply = &untouched;
  pyproc_call_options options;
  pyproc_future *future = NULL;
  memset(&options, 0, sizeof options);

  answer = PYPROC_OK;
  check(golden_types_types_scalar_submit(NULL, &request, &options, on_done, &answer, NULL) == PYPROC_OK, "submit");
  check(called == &golden_types_types_scalar_method && given == &options, "submit passes method and options on");
  check(delivered_result == PYPROC_OK && (void *)delivered == (void *)&reply_message, "the callback has the reply");
  answer = PYPROC_E_UNAVAILABLE;
  check(golden_types_types_scalar_submit(NULL, &request, NULL, on_done, &answer, NULL) == PYPROC_OK, "submit");
  check(delivered_result == PYPROC_E_UNAVAILABLE && delivered == NULL, "the callback has the result");
  check(golden_types_types_scalar_submit(NULL, NULL, NULL, on_done, &answer, NULL) < 0, "NULL request of submit");
  check(golden_types_types_scalar_submit(NULL, &request, NULL, NULL, &answer, NULL) < 0, "NULL callback");

  check(golden_types_types_scalar_start(NULL, NULL, &options, &future, NULL) < 0, "NULL request of start");
  check(golden_types_types_scalar_start(NULL, &request, &options, &future, NULL) == answer, "start");
  check(called == &golden_types_types_scalar_method && given == &options, "start passes method and options on");
  check(golden_types_types_scalar_finish(future, &reply, NULL) == answer && reply == &untouched, "a failed finish");
  answer = PYPROC_OK;
  check(golden_types_types_scalar_finish(future, &reply, NULL) == PYPROC_OK, "finish");
  check((void *)reply == (void *)&reply_message, "finish gives the reply");
  check(golden_types_types_scalar_finish(future, NULL, NULL) < 0, "NULL ret_reply of finish");
}

static Acme__Chat__V1__SayReply *received;
static int stream_result;

static acme_chat_v1_chat_room_converse_done on_message;
static void on_message(int result, Acme__Chat__V1__SayReply *message, pyproc_error *error, void *userdata) {
  check(error == NULL && userdata == &answer, "a receive's callback gets what it was given");
  stream_result = result;
  received = message;
}

static pyproc_done on_sent;
static void on_sent(int result, ProtobufCMessage *reply, pyproc_error *error, void *userdata) {
  check(reply == NULL && error == NULL && userdata == &answer, "a send's callback gets what it was given");
  stream_result = result;
}

static void check_opened_streams(void) {
  Acme__Chat__V1__SayRequest request = ACME__CHAT__V1__SAY_REQUEST__INIT;
  pyproc_call_options options;
  pyproc_stream *stream = NULL;
  memset(&options, 0, sizeof options);
  answer = PYPROC_OK;
  check(acme_chat_v1_chat_room_history_open(NULL, &request, &options, &stream, NULL) == PYPROC_OK, "open");
  check(called == &acme_chat_v1_chat_room_history_method && given == &options, "open passes method and options on");
  check(acme_chat_v1_chat_room_history_open(NULL, NULL, NULL, &stream, NULL) < 0, "NULL request of open");
  check(acme_chat_v1_chat_room_upload_open(NULL, &options, &stream, NULL) < 0, "a client stream has no request");
  check(called == &acme_chat_v1_chat_room_upload_method && given == &options, "open of a client stream");
}

static void check_streams(void) {
  Acme__Chat__V1__SayRequest message = ACME__CHAT__V1__SAY_REQUEST__INIT;
  Acme__Chat__V1__SayReply untouched, *reply = &untouched;
  pyproc_stream *const stream = (pyproc_stream *)(void *)&reply_message;
  for (answer = PYPROC_E_DATA_LOSS; answer <= 1; answer++) {
    reply = &untouched;
    check(acme_chat_v1_chat_room_converse_send(stream, &message, NULL) == answer, "send");
    check(called == &acme_chat_v1_chat_room_converse_method, "send knows its method");
    check(acme_chat_v1_chat_room_converse_done_sending(stream, NULL) == answer, "done_sending");
    check(acme_chat_v1_chat_room_converse_recv(stream, &reply, NULL) == answer, "recv");
    check(answer == 1 ? (void *)reply == (void *)&reply_message : reply == &untouched, "a message, or untouched");
    check(acme_chat_v1_chat_room_converse_recv_submit(stream, on_message, &answer, NULL) == PYPROC_OK, "recv_submit");
    check(stream_result == answer && (received != NULL) == (answer == 1), "what a receive's callback is told");
    stream_result = 2;
    check(acme_chat_v1_chat_room_converse_send_submit(stream, &message, on_sent, &answer, NULL) == PYPROC_OK,
          "send_submit");
    check(stream_result == answer, "what a send's callback is told");
  }
  check(acme_chat_v1_chat_room_converse_send(stream, NULL, NULL) < 0, "NULL message of send");
  check(acme_chat_v1_chat_room_converse_send_submit(stream, NULL, on_sent, NULL, NULL) < 0, "of send_submit");
  check(acme_chat_v1_chat_room_converse_recv(stream, NULL, NULL) < 0, "NULL ret_message");
  check(acme_chat_v1_chat_room_converse_recv_submit(stream, NULL, NULL, NULL) < 0, "NULL callback");
  acme_chat_v1_chat_room_converse_close(stream);
  check(closed == stream, "close");
}

static void check_calls(void) {
  Golden__Types__Scalars request = GOLDEN__TYPES__SCALARS__INIT;
  Golden__Types__Optionals untouched, *reply = &untouched;
  pyproc_call_options options;
  memset(&options, 0, sizeof options);

  answer = PYPROC_E_UNAVAILABLE;
  check(golden_types_types_scalar(NULL, &request, &reply, NULL) == PYPROC_E_UNAVAILABLE, "result is passed on");
  check(reply == &untouched, "reply is untouched on failure");
  check(called == &golden_types_types_scalar_method && given == NULL, "plain call has no options");
  answer = PYPROC_OK;
  check(golden_types_types_scalar_with(NULL, &request, &options, &reply, NULL) == PYPROC_OK, "success");
  check((void *)reply == (void *)&reply_message && given == &options, "reply and options are passed on");
  check(golden_types_types_scalar(NULL, NULL, &reply, NULL) == PYPROC_E_INVALID_ARGUMENT, "NULL request");
  check(golden_types_types_scalar(NULL, &request, NULL, NULL) == PYPROC_E_INVALID_ARGUMENT, "NULL ret_reply");
}

static void check_table(const pyproc_message_info *info) {
  for (unsigned i = 0; i < info->descriptor->n_fields; i++) {
    const ProtobufCFieldDescriptor *field = &info->descriptor->fields[i];
    const pyproc_field_info *extra = &info->fields[i];
    if (field->type != PROTOBUF_C_TYPE_MESSAGE) {
      check(extra->message == NULL, "no table for a scalar");
    } else {
      check(extra->message->descriptor == field->descriptor, "table and descriptor agree");
    }
    check(strcmp(extra->name, field->name) == 0, "tables are in the same order");
  }
}

static void check_tables(void) {
  const pyproc_service *service = &golden_types_types_service;
  check(service->size == sizeof *service && service->method_count == 6, "service");
  for (size_t i = 0; i < service->method_count; i++) {
    check_table(service->methods[i]->request);
    check_table(service->methods[i]->reply);
  }
  check(golden_types_empty_service.method_count == 0 && golden_types_empty_service.methods == NULL, "empty service");
  check(golden__types__nothing__info.fields == NULL, "empty message");

  const pyproc_message_info *optionals = &golden__types__optionals__info;
  check(strcmp(optionals->fields[0].name, "number") == 0, "fields are sorted by number");
  check(optionals->fields[0].flags == PYPROC_FIELD_OPTIONAL, "optional is marked");
  check(strcmp(optionals->fields[5].json_name, "custom \"name\"") == 0, "json_name");
  check(golden__types__maps__info.fields[0].flags == PYPROC_FIELD_MAP, "map is marked");
  check(golden__types__oneofs__info.fields[6].flags == PYPROC_FIELD_NULL_VALUE, "NullValue is marked");
  check(golden__types__oneofs__info.fields[0].flags == 0, "a real oneof is not marked optional");
  const pyproc_field_info *fields = golden__types__well_known__info.fields;
  check(fields[0].message->well_known == PYPROC_WELL_KNOWN_ANY, "Any");
  check(fields[3].message->well_known == PYPROC_WELL_KNOWN_STRUCT, "Struct");
  check(fields[9].message->well_known == PYPROC_WELL_KNOWN_WRAPPER, "BytesValue");
  check(optionals->well_known == PYPROC_WELL_KNOWN_NONE, "others");
}

static void check_defaults(void) {
  Golden__Proto2__Defaults message = GOLDEN__PROTO2__DEFAULTS__INIT;
  check(strcmp(message.name, "h\"i\n\303\244 ?\?/ inf") == 0, "string");
  check(message.number == -5 && message.least32 == INT32_MIN && message.least64 == INT64_MIN, "signed");
  check(message.most64 == UINT64_MAX && message.flag && message.level == GOLDEN__PROTO2__LEVEL__LOW, "other");
  check(!(message.exact < 0.1234567890123456789) && !(message.exact > 0.1234567890123456789), "double");
  check(!(message.whole < 16777216.0f) && !(message.whole > 16777216.0f), "float");
  check(isinf(message.infinite) && message.infinite < 0 && isnan(message.undefined), "not finite");
  check(message.data.len == 6 && memcmp(message.data.data, "a\0b?\?/", 6) == 0, "bytes");
  check(message.empty[0] == '\0' && !message.has_number, "absent");
  const ProtobufCFieldDescriptor *field =
      protobuf_c_message_descriptor_get_field(&golden__proto2__defaults__descriptor, 7);
  check(*(const float *)field->default_value >= 16777216.0f, "constant of the descriptor");
}

static void write_optionals(void) {
  Golden__Types__Optionals message = GOLDEN__TYPES__OPTIONALS__INIT;
  message._text_case = GOLDEN__TYPES__OPTIONALS___TEXT_TEXT;
  message.text = "";
  message._number_case = GOLDEN__TYPES__OPTIONALS___NUMBER_NUMBER;
  message.number = 0;
  message.colour = GOLDEN__TYPES__COLOUR__RED; /* not set: no case */
  uint8_t buffer[64];
  check(golden__types__optionals__get_packed_size(&message) <= sizeof buffer, "size");
  size_t size = golden__types__optionals__pack(&message, buffer);
  fwrite(buffer, 1, size, stdout);
}

int main(void) {
  check_calls();
  check_asynchronous_calls();
  check_opened_streams();
  check_streams();
  check_tables();
  check_defaults();
  write_optionals();
  return 0;
}
