/*
 * http_client - JSON by POST over a Unix socket with libcurl: an easy handle for each thread, which is used again and so keeps
 * its connection. Usage: see client.h.
 */
#include <curl/curl.h>
#include <jansson.h>
#include <string.h>

#include "client.h"

typedef struct connection {
  CURL *curl;
  struct curl_slist *headers;
  char reply[256];
  size_t size;
} connection;

static size_t on_body(char *bytes, size_t one, size_t count, void *userdata) {
  connection *self = userdata;
  if (count > sizeof self->reply - self->size) return 0;
  memcpy(self->reply + self->size, bytes, count);
  self->size += count;
  return one * count;
}

static void *open_connection(const char *address) {
  connection *self = calloc(1, sizeof *self);
  if (self == NULL || (self->curl = curl_easy_init()) == NULL) exit(1);
  self->headers = curl_slist_append(NULL, "Content-Type: application/json");
  curl_easy_setopt(self->curl, CURLOPT_UNIX_SOCKET_PATH, address);
  curl_easy_setopt(self->curl, CURLOPT_URL, "http://localhost/predict");
  curl_easy_setopt(self->curl, CURLOPT_HTTPHEADER, self->headers);
  curl_easy_setopt(self->curl, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(self->curl, CURLOPT_WRITEFUNCTION, on_body);
  curl_easy_setopt(self->curl, CURLOPT_WRITEDATA, self);
  return self;
}

static double call(void *to, double value) {
  connection *self = to;
  char body[64];
  long status = 0;
  snprintf(body, sizeof body, "{\"value\":%.0f}", value);
  curl_easy_setopt(self->curl, CURLOPT_POSTFIELDS, body);
  self->size = 0;
  CURLcode code = curl_easy_perform(self->curl);
  curl_easy_getinfo(self->curl, CURLINFO_RESPONSE_CODE, &status);
  json_t *reply = code == CURLE_OK && status == 200 ? json_loadb(self->reply, self->size, 0, NULL) : NULL;
  if (reply == NULL) {
    fprintf(stderr, "http_client: %s, status %ld\n", curl_easy_strerror(code), status);
    exit(1);
  }
  double result = json_number_value(json_object_get(reply, "result"));
  json_decref(reply);
  return result;
}

static void close_connection(void *of) {
  connection *self = of;
  curl_easy_cleanup(self->curl);
  curl_slist_free_all(self->headers);
  free(self);
}

int main(int argc, char **argv) {
  static const client_ops ops = {open_connection, call, close_connection};
  curl_global_init(CURL_GLOBAL_DEFAULT);
  int result = client_main(argc, argv, &ops);
  curl_global_cleanup();
  return result;
}
