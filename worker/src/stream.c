#include "stream.h"

#include <stdlib.h>
#include <string.h>

#include "connection.h"
#include "methods.h"

static struct stream **bucket_of(struct connection *connection, uint64_t id) {
  return &connection->streams.buckets[id % STREAM_BUCKETS];
}

struct stream *stream_find(const struct connection *connection, uint64_t id) {
  struct stream *found = connection->streams.buckets[id % STREAM_BUCKETS];
  while (found != NULL && found->id != id) found = found->next;
  return found;
}

/* A stream that is not made here is refused when its request is dispatched. */
void stream_receive_request(struct connection *connection, const wire_header *header) {
  struct streams *const all = &connection->streams;
  const struct method *method = all->methods == NULL ? NULL : methods_by_index(all->methods, header->method);
  if (method == NULL || !method_is_stream(method) || method->handler == Py_None) return;
  if (stream_find(connection, header->id) != NULL) {
    connection->fault = "it opened a stream with the id of one that is open";
    return;
  }
  if (all->count >= all->max) return;
  struct stream *self = calloc(1, sizeof *self);
  if (self == NULL) return;
  if (pthread_cond_init(&self->changed, NULL) != 0) {
    free(self);
    return;
  }
  self->id = header->id;
  self->json = (header->flags & WIRE_FLAG_JSON) != 0;
  self->receives = method->receives;
  self->sends = method->sends;
  self->send_credit = self->receive_credit = all->window;
  self->open = true;
  self->next = *bucket_of(connection, self->id);
  *bucket_of(connection, self->id) = self;
  all->count++;
}

/* The host broke the stream's rules: the stream ends, the connection lives on. */
static void break_stream(struct connection *connection, struct stream *self, const char *why) {
  enum { DATA_LOSS = 15 };
  if (connection->on_cancel(connection->userdata, connection, self->id, DATA_LOSS, why, strlen(why))) return;
  if (self->early_code != 0) return;
  self->early_code = DATA_LOSS;
  self->early_reason = why;
}

static void receive_message(struct connection *connection, struct stream *self, const wire_header *header,
                            const uint8_t *body, size_t size) {
  const bool json = (header->flags & WIRE_FLAG_JSON) != 0;
  const char *wrong = NULL;
  if (!self->receives || self->ended)
    wrong = "the host sent a message where none may come";
  else if (json != self->json)
    wrong = "the host sent a message in another form than that of its request";
  else if (self->receive_credit <= 0)
    wrong = "the host sent more than its credit";
  if (wrong != NULL) {
    break_stream(connection, self, wrong);
    return;
  }
  stream_message *message = malloc(sizeof *message + size);
  if (message == NULL) {
    break_stream(connection, self, "the worker has no memory left for a message");
    return;
  }
  message->next = NULL;
  message->size = size;
  if (size > 0) memcpy(message->data, body, size);
  if (self->first == NULL)
    self->first = message;
  else
    self->last->next = message;
  self->last = message;
  self->receive_credit -= (int64_t)size + STREAM_MESSAGE_COST;
  if (self->wants_message) connection->on_stream(connection->userdata, self);
}

static void receive_credit(struct connection *connection, struct stream *self, const uint8_t *body, size_t size) {
  const int64_t granted = size == 4 ? wire_get32(body) : 0;
  if (!self->sends || size != 4 || granted > connection->streams.window - self->send_credit) {
    break_stream(connection, self, "the host sent a credit that it cannot have");
    return;
  }
  self->send_credit += granted;
  if (self->wants_credit && self->send_credit > 0) connection->on_stream(connection->userdata, self);
}

void stream_receive(struct connection *connection, const wire_header *header, const uint8_t *body, size_t size) {
  struct stream *const self = stream_find(connection, header->id);
  if (self == NULL) return;
  if (header->kind == WIRE_STREAM_DATA) {
    receive_message(connection, self, header, body, size);
  } else if (header->kind == WIRE_CREDIT) {
    receive_credit(connection, self, body, size);
  } else {
    self->ended = true;
    if (self->wants_message) connection->on_stream(connection->userdata, self);
  }
}

static void put_frame(struct connection *connection, const wire_header *header, const void *metadata, const void *body,
                      size_t size) {
  uint8_t head[WIRE_LENGTH_SIZE + WIRE_HEADER_SIZE];
  wire_put32(head, (uint32_t)(WIRE_HEADER_SIZE + header->metadata_size + size));
  wire_header_put(head + WIRE_LENGTH_SIZE, header);
  if (connection_put(connection, head, sizeof head) != 0) return;
  if (connection_put(connection, metadata, header->metadata_size) == 0) (void)connection_put(connection, body, size);
}

stream_message *stream_take(struct connection *connection, struct stream *self) {
  stream_message *const message = self->first;
  if (message == NULL) return NULL;
  self->first = message->next;
  self->taken += (uint32_t)message->size + STREAM_MESSAGE_COST;
  if (self->ended || !self->open || self->taken < (connection->streams.window + 3) / 4) return message;
  uint8_t granted[4];
  wire_put32(granted, self->taken);
  put_frame(connection, &(wire_header){.kind = WIRE_CREDIT, .id = self->id}, NULL, granted, sizeof granted);
  self->receive_credit += self->taken;
  self->taken = 0;
  return message;
}

void stream_put(struct connection *connection, struct stream *self, const metadata_queue *metadata, const void *body,
                size_t size) {
  if (!self->open || connection->ended) return;
  const wire_header header = {.kind = WIRE_STREAM_DATA,
                              .flags = self->json ? WIRE_FLAG_JSON : 0,
                              .id = self->id,
                              .metadata_size = (uint32_t)metadata->size};
  put_frame(connection, &header, metadata->data, body, size);
  self->send_credit -= (int64_t)size + STREAM_MESSAGE_COST;
}

void stream_close(struct connection *connection, struct stream *self) {
  if (!self->open) return;
  struct stream **at = bucket_of(connection, self->id);
  while (*at != self) at = &(*at)->next;
  *at = self->next;
  connection->streams.count--;
  self->open = false;
  (void)pthread_cond_broadcast(&self->changed); /* somebody else may still wait for a message */
}

void stream_free(struct connection *connection, struct stream *self) {
  if (self->open) stream_close(connection, self);
  while (self->first != NULL) {
    stream_message *const message = self->first;
    self->first = message->next;
    free(message);
  }
  (void)pthread_cond_destroy(&self->changed);
  free(self);
}

void streams_free(struct connection *connection) {
  for (size_t i = 0; i < STREAM_BUCKETS; i++)
    while (connection->streams.buckets[i] != NULL) stream_free(connection, connection->streams.buckets[i]);
}

void stream_enqueue(stream_queue *queue, struct stream *self) {
  if (self->queued) return;
  self->queued = true;
  self->next_queued = NULL;
  if (queue->first == NULL)
    queue->first = self;
  else
    queue->last->next_queued = self;
  queue->last = self;
}

void stream_dequeue(stream_queue *queue, struct stream *self) {
  if (!self->queued) return;
  struct stream *previous = NULL;
  for (struct stream *at = queue->first; at != self; at = at->next_queued) previous = at;
  if (previous == NULL)
    queue->first = self->next_queued;
  else
    previous->next_queued = self->next_queued;
  if (queue->last == self) queue->last = previous;
  self->queued = false;
}
