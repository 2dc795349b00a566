/*
 * A request is answered by a submitted call: MHD's thread suspends the connection, and the callback, on the thread that
 * dispatches, resumes it. So two threads serve any number of clients, and one that waits for Python costs memory only; a pool of
 * threads would have to be as large as the number of requests that may wait. What may wait is bounded by the pool's queue_limit,
 * and each by its deadline.
 */
#include "request.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BODY_MAX = 64 * 1024, TEXT_MAX = 512 };

typedef struct route {
  const char *path, *method, *call; /* call: the Python method; NULL: health */
} route;

static const route routes[] = {
    {"/predict", MHD_HTTP_METHOD_POST, "iris.Classifier/Predict"},
    {"/batch", MHD_HTTP_METHOD_POST, "iris.Classifier/BatchPredict"},
    {"/health", MHD_HTTP_METHOD_GET, NULL},
};

typedef struct request {
  struct service *service;
  struct MHD_Connection *connection;
  const route *route;
  char *body;
  size_t size, dropped;
  unsigned status; /* once it is known: the response can be sent */
  char *answer;    /* to be freed with pyproc_reply_free */
  char text[TEXT_MAX];
} request;

/* ---- responses ---- */

/* {"error": "…"}, cut between two characters where there is no room. */
static void fail(request *self, unsigned status, const char *message) {
  size_t at = (size_t)snprintf(self->text, sizeof self->text, "{\"error\": \"");
  for (; *message != '\0' && (at < TEXT_MAX - 16 || (*message & 0xC0) == 0x80); message++) {
    if ((unsigned char)*message < 0x20) {
      at += (size_t)snprintf(self->text + at, sizeof self->text - at, "\\u%04x", (unsigned)*message);
      continue;
    }
    if (*message == '"' || *message == '\\') self->text[at++] = '\\';
    self->text[at++] = *message;
  }
  snprintf(self->text + at, sizeof self->text - at, "\"}");
  self->status = status;
}

static unsigned status_of(int code) {
  switch (code) {
  case PYPROC_E_INVALID_ARGUMENT:
    return MHD_HTTP_BAD_REQUEST;
  case PYPROC_E_UNAVAILABLE:
  case PYPROC_E_RESOURCE_EXHAUSTED:
    return MHD_HTTP_SERVICE_UNAVAILABLE;
  case PYPROC_E_DEADLINE_EXCEEDED:
    return MHD_HTTP_GATEWAY_TIMEOUT;
  default:
    return MHD_HTTP_INTERNAL_SERVER_ERROR;
  }
}

/* What is the client's fault it is told; what is ours goes to our log, but not that there is too much to do. Frees the
 * error. */
static void fail_call(request *self, pyproc_error *error) {
  int code = pyproc_error_code(error);
  unsigned status = status_of(code);
  if (status == MHD_HTTP_INTERNAL_SERVER_ERROR || code == PYPROC_E_UNAVAILABLE)
    fprintf(stderr, "%s: %s\n", self->route->path, pyproc_error_message(error));
  fail(self, status, status == MHD_HTTP_BAD_REQUEST ? pyproc_error_message(error) : pyproc_strerror(code));
  pyproc_error_free(error);
}

static enum MHD_Result respond(request *self) {
  const char *text = self->answer != NULL ? self->answer : self->text;
  struct MHD_Response *response =
      MHD_create_response_from_buffer(strlen(text), (void *)(uintptr_t)text, MHD_RESPMEM_MUST_COPY);
  if (response == NULL) return MHD_NO;
  MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, "application/json");
  if (self->status == MHD_HTTP_METHOD_NOT_ALLOWED)
    MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, self->route->method);
  if (self->status == MHD_HTTP_SERVICE_UNAVAILABLE) MHD_add_response_header(response, MHD_HTTP_HEADER_RETRY_AFTER, "1");
  if (atomic_load(&self->service->is_stopping)) MHD_add_response_header(response, MHD_HTTP_HEADER_CONNECTION, "close");
  enum MHD_Result result = MHD_queue_response(self->connection, self->status, response);
  MHD_destroy_response(response);
  return result;
}

/* ---- answers ---- */

static void answer_health(request *self) {
  pyproc_health health = PYPROC_HEALTH_INIT;
  int result = pyproc_pool_health(self->service->pool, &health);
  snprintf(self->text, sizeof self->text,
           "{\"workers\": %" PRId64 ", \"ready\": %" PRId64 ", \"calls\": %" PRId64 ", \"failures\": %" PRId64 "}",
           health.workers, health.workers_ready, health.calls, health.failures);
  self->status = result < 0 || health.workers_ready == 0 ? MHD_HTTP_SERVICE_UNAVAILABLE : MHD_HTTP_OK;
}

/* On the thread that dispatches. The connection's thread goes on once it is resumed, and not before. */
static void on_answer(int result, char *body, pyproc_error *error, void *userdata) {
  request *self = userdata;
  self->answer = body;
  if (result < 0)
    fail_call(self, error);
  else
    self->status = MHD_HTTP_OK;
  MHD_resume_connection(self->connection);
}

/* The body is JSON in protobuf's mapping of the method's request, and so is the reply: neither is looked at here. True: the
 * connection is suspended, or was; this thread looks at the request again when MHD asks for the response. */
static bool answer_call(request *self) {
  pyproc_call_options options = PYPROC_CALL_OPTIONS_INIT;
  pyproc_error *error = NULL;
  options.timeout_ms = self->service->timeout_ms;
  if (self->size == 0 || memchr(self->body, '\0', self->size) != NULL) {
    fail(self, MHD_HTTP_BAD_REQUEST, "the body is no JSON");
    return false;
  }
  MHD_suspend_connection(self->connection); /* the callback may come before the next line has returned */
  if (pyproc_call_json_submit(self->service->pool, self->route->call, self->body, &options, on_answer, self, &error) >=
      0)
    return true;
  fail_call(self, error);
  MHD_resume_connection(self->connection);
  return true;
}

/* ---- what comes in ---- */

static void find_route(request *self, const char *url, const char *method) {
  for (size_t i = 0; i < sizeof routes / sizeof *routes && self->route == NULL; i++)
    if (strcmp(routes[i].path, url) == 0) self->route = &routes[i];
  if (self->route == NULL)
    fail(self, MHD_HTTP_NOT_FOUND, "there is nothing here");
  else if (strcmp(self->route->method, method) != 0)
    fail(self, MHD_HTTP_METHOD_NOT_ALLOWED, "another method is wanted");
}

/* As far as it can be refused before its body has come. */
static enum MHD_Result begin(struct service *service, struct MHD_Connection *connection, const char *url,
                             const char *method, void **state) {
  request *self = calloc(1, sizeof *self);
  if (self == NULL) return MHD_NO;
  atomic_fetch_add(&service->open_requests, 1);
  *state = self;
  self->service = service;
  self->connection = connection;
  const char *size = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_CONTENT_LENGTH);
  find_route(self, url, method);
  if (self->status == 0 && size != NULL && strtoull(size, NULL, 10) > BODY_MAX)
    fail(self, MHD_HTTP_CONTENT_TOO_LARGE, "the body is too large");
  if (self->status == 0 && atomic_load(&service->is_stopping))
    fail(self, MHD_HTTP_SERVICE_UNAVAILABLE, "the service stops");
  return self->status != 0 ? respond(self) : MHD_YES;
}

/* Of a body without Content-Length nobody knows its size before. The rest is read and dropped, but not for ever. */
static enum MHD_Result take(request *self, const char *data, size_t size) {
  if (self->status == 0 && size > BODY_MAX - self->size)
    fail(self, MHD_HTTP_CONTENT_TOO_LARGE, "the body is too large");
  if (self->status != 0) {
    self->dropped += size;
    return self->dropped <= 16 * (size_t)BODY_MAX ? MHD_YES : MHD_NO;
  }
  char *grown = realloc(self->body, self->size + size + 1);
  if (grown == NULL) return MHD_NO;
  memcpy(grown + self->size, data, size);
  self->body = grown;
  self->size += size;
  self->body[self->size] = '\0';
  return MHD_YES;
}

enum MHD_Result request_handle(void *context, struct MHD_Connection *connection, const char *url, const char *method,
                               const char *version, const char *upload, size_t *upload_size, void **state) {
  (void)version;
  if (*state == NULL) return begin(context, connection, url, method, state);
  request *self = *state;
  if (*upload_size > 0) {
    size_t size = *upload_size;
    *upload_size = 0;
    return take(self, upload, size);
  }
  if (self->status == 0 && self->route->call == NULL) answer_health(self);
  if (self->status == 0 && answer_call(self)) return MHD_YES;
  return respond(self);
}

void request_completed(void *context, struct MHD_Connection *connection, void **state,
                       enum MHD_RequestTerminationCode why) {
  struct service *service = context;
  request *self = *state;
  (void)connection;
  (void)why;
  if (self == NULL) return;
  pyproc_reply_free(self->answer);
  free(self->body);
  free(self);
  *state = NULL;
  atomic_fetch_sub(&service->open_requests, 1);
}
