/*
 * connection.h - one socket with its receive buffer and its send queue.
 *
 * Two threads use a connection: the dispatching one, and the control thread while a handler runs. The caller of every
 * function here holds the control's lock, unless it says otherwise. Nothing here blocks but connection_wait_writable() and
 * connection_receive_blocking(), and nothing needs the GIL but what says so.
 *
 * Frames stay in the receive buffer until they are taken; connection_scan() looks ahead, so that cancels and pings
 * are seen while requests that came before them still wait, and so are the frames of streams, which it takes out.
 */
#ifndef PYPROC_WORKER_CONNECTION_H
#define PYPROC_WORKER_CONNECTION_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "frame.h"
#include "ring_link.h"
#include "status_page.h"
#include "stream.h"

enum {
  CONNECTION_INPUT = 128 << 10,  /* bytes that are read at once */
  CONNECTION_LARGE = 64 << 10,   /* a longer body is received into, and sent from, an object of its own */
  CONNECTION_BACKLOG = 1 << 20,  /* nothing is read while more than this waits to be handled or sent */
  CONNECTION_CANCELS_MAX = 4096, /* ids that are remembered as cancelled before they start */
  CONNECTION_PING_MAX = 64,
  CONNECTION_FDS_MAX = 2 /* that may come with the welcome */
};

typedef enum connection_stage {
  CONNECTION_GREETING,  /* a path's client has not spoken yet */
  CONNECTION_WELCOMING, /* our hello is out, the welcome is awaited */
  CONNECTION_OPEN
} connection_stage;

struct connection;

/* Told of each cancel that is received: `code` as in wire.md, `reason` is not NUL-terminated. Returns whether that
 * call runs. */
typedef bool connection_cancel_callback(void *userdata, struct connection *self, uint64_t id, uint16_t code,
                                        const char *reason, size_t reason_size);

/* Told of a stream for which something has come that it waits for. */
typedef void connection_stream_callback(void *userdata, struct stream *stream);

typedef struct connection_cancel_entry {
  uint64_t id;
  uint16_t code;
} connection_cancel_entry;

struct connection {
  int fd;
  int fds[CONNECTION_FDS_MAX]; /* that came with the welcome */
  int fd_count;
  status_page *page; /* NULL where the host has none */
  ring_link *rings;  /* carry the frames in place of the socket (rings.h); NULL: there are none */
  PyObject *codec;   /* the registered codec that the welcome chose, a tuple (codec.c); NULL: none */
  connection_stage stage;
  bool greeted;      /* a frame of the handshake is being handled: what follows is not looked at before that is done */
  bool original;     /* a client of the Go library: no handshake, short errors */
  bool told;         /* its calls were told of its end */
  unsigned jobs;     /* that hold it: it is not freed before they are done */
  unsigned writers;  /* jobs among them whose threads queue frames while the dispatching one sends */
  bool ended;        /* end of file or an error: nothing more can be read */
  const char *fault; /* what the peer did wrong; the connection is to be closed */
  uint32_t frame_limit;
  uint64_t received_ns; /* CLOCK_MONOTONIC of the latest receive */

  uint8_t *input;
  size_t input_start, input_scanned, input_end, input_capacity;

  PyObject *large; /* bytes object that an unfinished large frame's body is received into */
  PyObject *large_metadata;
  size_t large_got, large_size;
  wire_header large_header; /* kind 0: the body is a JSON struct envelope */
  uint64_t large_deadline_ns;

  uint8_t *output;
  size_t output_start, output_end, output_capacity;

  connection_cancel_entry *cancels; /* calls that have not started yet */
  size_t cancel_count, cancel_capacity;
  struct streams streams;
  connection_cancel_callback *on_cancel;
  connection_stream_callback *on_stream;
  void *userdata;
};

/* A frame taken off the receive buffer; the caller owns `body` and `metadata`. */
typedef struct connection_frame {
  wire_header header;   /* kind 0: `body` is a JSON struct envelope */
  PyObject *body;       /* bytes: what follows header and metadata */
  PyObject *metadata;   /* bytes, unchecked: of a request that has some; NULL */
  uint64_t deadline_ns; /* CLOCK_MONOTONIC; 0: none */
  uint64_t now_ns;      /* CLOCK_MONOTONIC, where it was received just now; 0: look again */
} connection_frame;

uint64_t clock_ns(void);

/* Takes the socket over, and makes it blocking. Returns NULL with errno set. Needs no lock. */
struct connection *connection_new(int fd, connection_stage stage, connection_cancel_callback *on_cancel,
                                  connection_stream_callback *on_stream, void *userdata);

/* Closes the socket and frees everything. Needs the GIL, and no lock: no other thread may know it any more. */
void connection_free(struct connection *self);

/* Closes the socket only: in a forked child, where locks mean nothing. */
void connection_abandon(struct connection *self);

/* Reads once what is there. Returns the number of bytes, 0 for none or when the backlog is full, -1 at the end. Needs no lock
 * where no other thread may use the connection. */
ptrdiff_t connection_receive(struct connection *self);

enum { CONNECTION_INTERRUPTED = -2 };

/* The same; where nothing is there it waits for BLOCKING_MS (blocking.h), or a little longer, at most. Returns
 * CONNECTION_INTERRUPTED when a signal's handler has run meanwhile. Needs no lock: no other thread may use the connection. */
ptrdiff_t connection_receive_blocking(struct connection *self);

/* Whether connection_receive() would take anything. */
bool connection_has_room(const struct connection *self);

/* What to poll the socket for, POLLIN and POLLOUT, after rings_arm(). */
short connection_events(const struct connection *self);

/* Handles cancels, pings and frames of streams among those that have become complete, and checks the others' framing. */
void connection_scan(struct connection *self);

/* Takes the next frame. Returns 1, 0 when none is complete, or -1 with a Python exception. Needs the GIL. */
int connection_take(struct connection *self, connection_frame *ret_frame);

/* Whether nothing has come that is not dealt with, not even the beginning of a frame. */
bool connection_is_clear(const struct connection *self);

/* Whether connection_take() finds a frame that has been scanned. */
bool connection_has_frame(const struct connection *self);

/* Whether CANCEL came for a call that has not started. Returns its code, or 0. */
uint16_t connection_cancelled(const struct connection *self, uint64_t id);

/* Appends to the send queue. Returns 0, or -1 when memory is short: the connection then has a fault. */
int connection_put(struct connection *self, const void *data, size_t size);

static inline bool connection_unsent(const struct connection *self) {
  return self->output_start < self->output_end;
}

/* Writes what the socket takes: the queue, then `*rest`, which is moved on (NULL: the queue alone). Returns 1 when
 * all is written, 0 when the socket is full, -1 when the peer is gone. */
int connection_send(struct connection *self, const uint8_t **rest, size_t *rest_size);

/* Waits until the socket takes more or `timeout_ms` is over. Needs neither lock nor GIL. Returns 1, 0 on timeout, -1
 * with errno EINTR or when the peer is gone. */
int connection_wait_writable(const struct connection *self, int timeout_ms);

#endif
