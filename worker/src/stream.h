/*
 * stream.h - one stream on the wire: the messages that came and nobody has taken yet, and who may send how much.
 *
 * A stream is made by the thread that reads its connection, without the GIL, as soon as that sees its REQUEST: messages
 * may come right behind it, while the dispatching thread is busy. It is open until its reply is queued. The control's
 * lock guards all of it; the caller of every function here holds that.
 */
#ifndef PYPROC_WORKER_STREAM_H
#define PYPROC_WORKER_STREAM_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "frame.h"
#include "metadata_entries.h"

struct connection;
struct methods;
struct run;
struct stream;

enum {
  STREAM_WINDOW_DEFAULT = 256 << 10, /* bytes, as long as the welcome names no other window */
  STREAM_MAX_DEFAULT = 64,           /* streams of a connection, likewise */
  STREAM_MESSAGE_COST = 64,          /* what a message costs beside its bytes */
  STREAM_BUCKETS = 64
};

/* Who does the work of a stream, and how it is woken. */
typedef enum stream_server {
  STREAM_BY_NOBODY, /* it has not been dispatched yet */
  STREAM_BY_STEPS,  /* a thread of plain handlers, in steps: it is queued as due */
  STREAM_BY_THREAD, /* a thread of its own, which waits for `changed` */
  STREAM_BY_TASK    /* the event loop: it is queued as woken */
} stream_server;

typedef struct stream_message {
  struct stream_message *next;
  size_t size;
  char data[];
} stream_message;

typedef struct stream_queue {
  struct stream *first, *last;
} stream_queue;

struct stream {
  struct stream *next;        /* in its bucket */
  struct stream *next_queued; /* in the queue of those that are due, or woken */
  struct run *run;            /* NULL before it is dispatched */
  void *job;                  /* the PyObject that serves it, likewise */
  uint64_t id;
  stream_server server;
  bool open;                        /* in the connection's table */
  bool queued;                      /* in a queue */
  bool json;                        /* its messages are JSON text */
  bool sends;                       /* the worker sends messages */
  bool receives;                    /* the host sends messages */
  bool ended;                       /* and has sent the last one */
  bool wants_message, wants_credit; /* who serves it waits for that */
  unsigned early_code;              /* it was cancelled, or broken, before it was dispatched */
  const char *early_reason;         /* static, or NULL */
  stream_message *first, *last;     /* not taken yet */
  int64_t send_credit;              /* what may be sent: while it is above 0 */
  int64_t receive_credit;           /* what the host may send, likewise */
  uint32_t taken;                   /* bytes that were taken and are to be granted anew */
  pthread_cond_t changed;
};

/* The open streams of a connection. */
struct streams {
  struct stream *buckets[STREAM_BUCKETS];
  unsigned count, max;
  uint32_t window;
  const struct methods *methods; /* tells which are streams; NULL: none */
};

/* A REQUEST has been seen: makes the stream where its method is one, and nothing speaks against it. */
void stream_receive_request(struct connection *connection, const wire_header *header);

/* A STREAM_DATA, CREDIT or END has been seen. One for a stream that is not open is dropped. */
void stream_receive(struct connection *connection, const wire_header *header, const uint8_t *body, size_t size);

/* NULL where no such stream is open. */
struct stream *stream_find(const struct connection *connection, uint64_t id);

/* Takes the next message, which the caller frees, and queues the credit for it. NULL: there is none. */
stream_message *stream_take(struct connection *connection, struct stream *self);

/* Queues a message for the host, if the stream is still open. */
void stream_put(struct connection *connection, struct stream *self, const metadata_queue *metadata, const void *body,
                size_t size);

/* Frames for the stream are dropped from now on, and its place may be taken by another one. */
void stream_close(struct connection *connection, struct stream *self);

/* Closes and frees it; it is in no queue. */
void stream_free(struct connection *connection, struct stream *self);
void streams_free(struct connection *connection);

void stream_enqueue(stream_queue *queue, struct stream *self);
void stream_dequeue(stream_queue *queue, struct stream *self);

#endif
