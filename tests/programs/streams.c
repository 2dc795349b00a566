/* All kinds of streams, blocking: one that is read to its end, one that is left early, a conversation of two threads, and
   an upload. */
#include "chat.pyproc.h"
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

enum { LINES = 1000, MESSAGES = 100, CHUNKS = 64, CHUNK_SIZE = 64 << 10 };

static int fail(const char *what, pyproc_error *error) {
  fprintf(stderr, "%s: %s\n", what, pyproc_error_message(error));
  pyproc_error_free(error);
  return 1;
}

/* Reads `wanted` lines, or to the end where that is -1; the number of lines, or -1. */
static int read_history(pyproc_pool *pool, int wanted) {
  Acme__Chat__V1__SayRequest request = ACME__CHAT__V1__SAY_REQUEST__INIT;
  Acme__Chat__V1__SayReply *line = NULL;
  pyproc_stream *stream = NULL;
  pyproc_error *error = NULL;
  char expected[64];
  int count = 0, wrong = 0, result;
  request.room = "hall";
  if (acme_chat_v1_chat_room_history_open(pool, &request, NULL, &stream, &error) < 0) return -fail("history", error);
  while (count != wanted && (result = acme_chat_v1_chat_room_history_recv(stream, &line, &error)) == 1) {
    snprintf(expected, sizeof expected, "hall %d", count);
    wrong += strcmp(line->text, expected) != 0 || line->id != (uint64_t)count;
    count++;
    pyproc_reply_free(line);
  }
  if (count != wanted && result < 0) return -fail("history", error);
  acme_chat_v1_chat_room_history_close(stream);
  return wrong == 0 ? count : -1;
}

static void *talk(void *argument) {
  pyproc_stream *stream = argument;
  Acme__Chat__V1__SayRequest message = ACME__CHAT__V1__SAY_REQUEST__INIT;
  char text[32];
  message.text = text;
  for (int i = 0;; i++) { /* until the other side has had enough */
    snprintf(text, sizeof text, i == MESSAGES ? "good-bye" : "line %d", i);
    if (acme_chat_v1_chat_room_converse_send(stream, &message, NULL) <= 0) break;
  }
  return NULL;
}

static int converse(pyproc_pool *pool) {
  pyproc_call_options options = PYPROC_CALL_OPTIONS_INIT;
  Acme__Chat__V1__SayReply *reply = NULL;
  pyproc_stream *stream = NULL;
  pyproc_error *error = NULL;
  pthread_t thread;
  int count = 0, result;
  options.timeout_ms = PYPROC_TIMEOUT_NONE;
  if (acme_chat_v1_chat_room_converse_open(pool, &options, &stream, &error) < 0) return fail("converse", error);
  if (pthread_create(&thread, NULL, talk, stream)) {
    acme_chat_v1_chat_room_converse_close(stream);
    return 1;
  }
  while ((result = acme_chat_v1_chat_room_converse_recv(stream, &reply, &error)) == 1) {
    count++;
    pyproc_reply_free(reply);
  }
  pthread_join(thread, NULL); /* the end has woken it */
  acme_chat_v1_chat_room_converse_close(stream);
  if (result < 0) return fail("converse", error);
  printf("%d messages\n", count);
  return count != MESSAGES + 1;
}

static int upload(pyproc_pool *pool) {
  static uint8_t data[CHUNK_SIZE];
  Acme__Chat__V1__Chunk chunk = ACME__CHAT__V1__CHUNK__INIT;
  Acme__Chat__V1__Summary *summary = NULL;
  pyproc_stream *stream = NULL;
  pyproc_error *error = NULL;
  chunk.data.data = data;
  chunk.data.len = sizeof data;
  int result = acme_chat_v1_chat_room_upload_open(pool, NULL, &stream, &error);
  for (int i = 0; i < CHUNKS && result >= 0; i++) result = acme_chat_v1_chat_room_upload_send(stream, &chunk, &error);
  if (result >= 0) result = acme_chat_v1_chat_room_upload_done_sending(stream, &error);
  if (result >= 0) result = acme_chat_v1_chat_room_upload_recv(stream, &summary, &error);
  acme_chat_v1_chat_room_upload_close(stream);
  if (result < 0) return fail("upload", error);
  int wrong = result != 1 || summary->bytes != (uint64_t)CHUNKS * CHUNK_SIZE || strlen(summary->digest) != 64;
  if (result == 1) printf("%" PRIu64 " bytes, %s\n", summary->bytes, summary->digest);
  pyproc_reply_free(summary);
  return wrong;
}

static int run(const char *protocol) {
  pyproc_pool_options options = PYPROC_POOL_OPTIONS_INIT;
  options.script = "gen/worker.py";
  options.protocol = protocol;
  options.workers = 2;
  pyproc_pool *pool = NULL;
  pyproc_error *error = NULL;
  if (pyproc_pool_open(&options, &pool, &error) < 0) return fail("open", error);
  int wrong = read_history(pool, -1) != LINES;
  wrong += read_history(pool, 10) != 10;
  wrong += converse(pool);
  wrong += upload(pool);
  pyproc_pool_close(pool);
  return wrong;
}

int main(void) {
  return run("protobuf") + run("json") != 0;
}
