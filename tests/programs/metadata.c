/* What travels beside a request, and beside its reply or its error, on every protocol. */
#include "chat.pyproc.h"
#include <stdio.h>
#include <string.h>

#define TRACEPARENT "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

static const uint8_t blob[] = {0, 1, 2, 0};

static const pyproc_metadata sent[] = {
    {"traceparent", TRACEPARENT, 0},
    {"x-tenant", "acme", 4},
    {"x-blob-bin", (const char *)blob, sizeof blob},
};
enum { SENT = sizeof sent / sizeof *sent };

static int is_what_was_sent(const pyproc_metadata *got, size_t count) {
  if (count < SENT) return 0;
  const char *traceparent = pyproc_metadata_get(got, count, "traceparent");
  return traceparent != NULL && strcmp(traceparent, TRACEPARENT) == 0 && strcmp(got[1].key, "x-tenant") == 0 &&
         got[1].value_size == 4 && memcmp(got[1].value, "acme", 4) == 0 && got[2].value_size == sizeof blob &&
         memcmp(got[2].value, blob, sizeof blob) == 0;
}

/* Whether saying `text` ends with that code, and brings the metadata back. */
static int say(pyproc_pool *pool, const char *text, int wanted) {
  pyproc_call_options options = PYPROC_CALL_OPTIONS_INIT;
  Acme__Chat__V1__SayRequest request = ACME__CHAT__V1__SAY_REQUEST__INIT;
  Acme__Chat__V1__SayReply *reply = NULL;
  pyproc_error *error = NULL;
  size_t count = 0;
  options.metadata = sent;
  options.metadata_count = SENT;
  request.text = text;
  int result = acme_chat_v1_chat_room_say_with(pool, &request, &options, &reply, &error);
  const pyproc_metadata *got = result < 0 ? pyproc_error_metadata(error, &count) : pyproc_reply_metadata(reply, &count);
  int good = result == wanted && is_what_was_sent(got, count);
  if (result < 0) {
    const char *after = pyproc_metadata_get(got, count, "retry-after");
    good = good && after != NULL && strcmp(after, "3") == 0;
  }
  if (!good) fprintf(stderr, "%s: %d with %zu entries: %s\n", text, result, count, pyproc_error_message(error));
  pyproc_reply_free(reply);
  pyproc_error_free(error);
  return good;
}

static int run(const char *protocol) {
  pyproc_pool_options options = PYPROC_POOL_OPTIONS_INIT;
  const pyproc_service *const services[] = {&acme_chat_v1_chat_room_service, NULL};
  pyproc_pool *pool = NULL;
  options.script = "gen/worker.py";
  options.protocol = protocol;
  options.workers = 1;
  options.services = services;
  options.spin_us = PYPROC_OFF;
  if (pyproc_pool_open(&options, &pool, NULL) < 0) return 1;
  int good = say(pool, "hello", PYPROC_OK) && say(pool, "later", PYPROC_E_FAILED_PRECONDITION);
  pyproc_pool_close(pool);
  return !good;
}

int main(void) {
  return run("protobuf") + run("json") != 0;
}
