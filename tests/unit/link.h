/*
 * link.h - a connection of the framed protocol, its owner, and the worker's end of the socket, which tests speak on by hand.
 */
#ifndef UNIT_LINK_H
#define UNIT_LINK_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>

#include "framed.h"
#include "wire/frame.h"

enum { LINK_PATIENCE_S = 30, LINK_LIMIT = 32 << 20 };

#define LINK_FAR_NS (platform_now_ns() + LINK_PATIENCE_S * INT64_C(1000000000))
#define LINK_METHODS "\"methods\":[{\"name\":\"health\"},{\"name\":\"predict\"}]"
#define PAGE_HELLO "{\"version\":1,\"threads\":2,\"features\":[\"status_page\",\"started\"]," LINK_METHODS "}"
#define STARTED_HELLO "{\"version\":1,\"features\":[\"started\"]," LINK_METHODS "}"
#define PLAIN_HELLO "{\"version\":1," LINK_METHODS "}"

struct link {
  struct lot lot;
  struct connection *connection;
  int peer;
  status_page *page; /* as the worker maps it */
  json_t *welcome;
  atomic_int ready, freed, broken, watched;
  struct call *returned;
};

/* ---- the worker's side ---- */

void peer_write(const struct link *self, const void *data, size_t size);
void peer_read(const struct link *self, void *data, size_t size);

/* A frame as bytes. */
void append_frame(buffer *bytes, const wire_header *header, const void *body, size_t size);

void peer_send(const struct link *self, wire_header header, const char *body);
void peer_reply(const struct link *self, uint64_t id, const char *body);
void peer_envelope(const struct link *self, const char *text);

/* The next frame; its body goes to `body`, with a NUL behind it. */
wire_header peer_take(const struct link *self, buffer *body);

/* The next frame, which must be of that kind. */
wire_header peer_expect(const struct link *self, uint8_t kind);

/* Whether nothing is there to be read. */
bool peer_is_quiet(const struct link *self);

/* Maps the status page that comes along. */
void peer_take_welcome(struct link *self);

/* ---- both together ---- */

/* Down; connecting it begins the handshake; shaking hands ends that. Opening does all three. */
void link_create_with(struct link *self, connection_settings settings);
void link_create(struct link *self, const struct codec *codec, int64_t limit, int64_t spin_ns);
void link_connect(struct link *self);
void link_shake_hands(struct link *self, const char *hello);
void link_open(struct link *self, const struct codec *codec, const char *hello);

/* The end of the process: returns the calls that have not started. */
call_list link_lose(struct link *self);

/* There must be none. Frees all. */
void link_close(struct link *self);

/* A call: made, started, waited for as a blocking caller does, and ended as it must. */
void link_prepare(struct link *self, struct call *call, const char *method, const char *body);
void link_begin(struct link *self, struct call *call, const char *body);
void link_progress(struct connection *connection, struct call *call);
void link_finish(struct link *self, struct call *call, const char *body);
void link_finish_badly(struct link *self, struct call *call, int code, const char *text);

/* Reads what is there until the connection is broken, and checks why. */
void link_expect_broken(struct link *self, int code);

#endif
