/* Streams of each kind, with threads and with callbacks, over each protocol, answered by plain and by async handlers. */
#include "chat.pyproc.h"

#include <pthread.h>
#include <stdio.h>

enum { LINES = 100, CHUNKS = 10 };

/* SHA-256 of all chunks. */
static const char digest_of_zeros[] = "02b1c2234680617802901a77eae606ad02e4ddb4282ccbc60061eac5b2d90bba";

static int failed(const char *what, pyproc_error *error) {
  fprintf(stderr, "%s: %s\n", what, error != NULL ? pyproc_error_message(error) : "not as wanted");
  pyproc_error_free(error);
  return -1;
}

static int read_history(pyproc_pool *pool) {
  pyproc_error *error = NULL;
  pyproc_stream *stream = NULL;
  Acme__Chat__V1__SayRequest request = ACME__CHAT__V1__SAY_REQUEST__INIT;
  Acme__Chat__V1__SayReply *message = NULL;
  char wanted[32];
  uint64_t count = 0;
  int wrong = 0;
  request.text = "line";
  int result = acme_chat_v1_chat_room_history_open(pool, &request, NULL, &stream, &error);
  while (result >= 0 && (result = acme_chat_v1_chat_room_history_recv(stream, &message, &error)) == 1) {
    snprintf(wanted, sizeof wanted, "line %d", (int)count);
    wrong += message->id != count || strcmp(message->text, wanted) != 0;
    count++;
    pyproc_reply_free(message);
  }
  acme_chat_v1_chat_room_history_close(stream);
  return result < 0 || count != 5 || wrong ? failed("history", error) : 0;
}

static void *talk(void *userdata) {
  pyproc_stream *stream = (pyproc_stream *)userdata;
  Acme__Chat__V1__SayRequest message = ACME__CHAT__V1__SAY_REQUEST__INIT;
  char text[32];
  message.text = text;
  for (int i = 0; i < LINES; i++) {
    snprintf(text, sizeof text, "line %d", i);
    if (acme_chat_v1_chat_room_converse_send(stream, &message, NULL) <= 0) break;
  }
  acme_chat_v1_chat_room_converse_done_sending(stream, NULL);
  return NULL;
}

static int converse(pyproc_pool *pool) {
  pyproc_error *error = NULL;
  pyproc_stream *stream = NULL;
  Acme__Chat__V1__SayReply *message = NULL;
  pthread_t thread;
  uint64_t count = 0, wrong = 0;
  pyproc_call_options options = PYPROC_CALL_OPTIONS_INIT;
  options.timeout_ms = PYPROC_TIMEOUT_NONE;
  int result = acme_chat_v1_chat_room_converse_open(pool, &options, &stream, &error);
  if (result < 0) return failed("open of converse", error);
  if (pthread_create(&thread, NULL, talk, stream)) {
    acme_chat_v1_chat_room_converse_close(stream);
    return failed("thread", NULL);
  }
  while ((result = acme_chat_v1_chat_room_converse_recv(stream, &message, &error)) == 1) {
    wrong += message->id != count++;
    pyproc_reply_free(message);
  }
  pthread_join(thread, NULL);
  acme_chat_v1_chat_room_converse_close(stream);
  return result < 0 || count != LINES || wrong ? failed("converse", error) : 0;
}

static int upload(pyproc_pool *pool) {
  pyproc_error *error = NULL;
  pyproc_stream *stream = NULL;
  Acme__Chat__V1__Summary *summary = NULL, *again = NULL;
  Acme__Chat__V1__Chunk chunk = ACME__CHAT__V1__CHUNK__INIT;
  static uint8_t data[4096];
  chunk.data.data = data;
  chunk.data.len = sizeof data;
  int result = acme_chat_v1_chat_room_upload_open(pool, NULL, &stream, &error);
  for (int i = 0; i < CHUNKS && result >= 0; i++) result = acme_chat_v1_chat_room_upload_send(stream, &chunk, &error);
  if (result >= 0) result = acme_chat_v1_chat_room_upload_done_sending(stream, &error);
  if (result >= 0) result = acme_chat_v1_chat_room_upload_recv(stream, &summary, &error);
  int right = result == 1 && summary->bytes == CHUNKS * sizeof data && strcmp(summary->digest, digest_of_zeros) == 0;
  if (right) right = acme_chat_v1_chat_room_upload_recv(stream, &again, &error) == 0 && again == NULL;
  pyproc_reply_free(summary);
  acme_chat_v1_chat_room_upload_close(stream);
  return right ? 0 : failed("upload", error);
}

/* ---- with callbacks ---- */

struct dialogue {
  pyproc_stream *stream;
  int sent, received, over, wrong;
};

static acme_chat_v1_chat_room_converse_done on_reply;
static pyproc_done on_sent;

static void say_next(struct dialogue *self) {
  Acme__Chat__V1__SayRequest message = ACME__CHAT__V1__SAY_REQUEST__INIT;
  message.text = "again"; /* copied */
  if (self->sent == LINES)
    self->wrong += acme_chat_v1_chat_room_converse_done_sending(self->stream, NULL) < 0;
  else
    self->wrong += acme_chat_v1_chat_room_converse_send_submit(self->stream, &message, on_sent, self, NULL) < 0;
}

static void on_sent(int result, ProtobufCMessage *reply, pyproc_error *error, void *userdata) {
  struct dialogue *self = (struct dialogue *)userdata;
  self->wrong += result != 1 || reply != NULL || error != NULL;
  self->sent++;
  if (result == 1) say_next(self);
  pyproc_error_free(error);
}

static void on_reply(int result, Acme__Chat__V1__SayReply *message, pyproc_error *error, void *userdata) {
  struct dialogue *self = (struct dialogue *)userdata;
  if (result == 1) {
    self->wrong += message->id != (uint64_t)self->received++ || strcmp(message->text, "again") != 0;
    self->wrong += acme_chat_v1_chat_room_converse_recv_submit(self->stream, on_reply, self, NULL) < 0;
  } else {
    self->wrong += result < 0 || error != NULL;
    self->over = 1;
    acme_chat_v1_chat_room_converse_close(self->stream);
  }
  pyproc_reply_free(message);
  pyproc_error_free(error);
}

static int dispatch_dialogue(pyproc_pool *pool) {
  struct dialogue self = {NULL, 0, 0, 0, 0};
  pyproc_error *error = NULL;
  if (acme_chat_v1_chat_room_converse_open(pool, NULL, &self.stream, &error) < 0) return failed("open", error);
  if (acme_chat_v1_chat_room_converse_recv_submit(self.stream, on_reply, &self, &error) < 0)
    return failed("recv_submit", error);
  say_next(&self);
  while (!self.over && !self.wrong && pyproc_pool_dispatch(pool, -1) > 0) {}
  return self.wrong || self.received != LINES ? failed("dialogue", NULL) : 0;
}

static int refuse_another_rpc(pyproc_pool *pool) {
  pyproc_stream *stream = NULL;
  pyproc_error *error = NULL;
  Acme__Chat__V1__SayReply *message = NULL;
  if (acme_chat_v1_chat_room_converse_open(pool, NULL, &stream, &error) < 0) return failed("open", error);
  int result = acme_chat_v1_chat_room_history_recv(stream, &message, &error);
  int named = strstr(pyproc_error_message(error), "ChatRoom/Converse") != NULL &&
              strstr(pyproc_error_message(error), "ChatRoom/History") != NULL;
  acme_chat_v1_chat_room_converse_close(stream);
  pyproc_error_free(error);
  return result == PYPROC_E_INVALID_ARGUMENT && named ? 0 : failed("another rpc", NULL);
}

static int run(const char *protocol, const char *handlers) {
  const char *const args[] = {handlers, NULL};
  const pyproc_service *const services[] = {&acme_chat_v1_chat_room_service, NULL};
  pyproc_pool_options options = PYPROC_POOL_OPTIONS_INIT;
  options.script = "gen/worker.py";
  options.workers = 1;
  options.protocol = protocol;
  options.args = args;
  options.services = services;
  pyproc_pool *pool = NULL;
  pyproc_error *error = NULL;
  if (pyproc_pool_open(&options, &pool, &error) < 0) return failed("open", error);
  int result = read_history(pool);
  if (result >= 0) result = converse(pool);
  if (result >= 0) result = upload(pool);
  if (result >= 0) result = dispatch_dialogue(pool);
  if (result >= 0) result = refuse_another_rpc(pool);
  pyproc_pool_close(pool);
  if (result < 0) fprintf(stderr, "with %s and %s handlers\n", protocol, handlers);
  return result;
}

int main(void) {
  static const char *const protocols[] = {"protobuf", "json"};
  for (size_t i = 0; i < sizeof protocols / sizeof *protocols; i++)
    if (run(protocols[i], "plain") < 0 || run(protocols[i], "async") < 0) return 1;
  return 0;
}
