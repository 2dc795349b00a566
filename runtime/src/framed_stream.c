/*
 * Streams: messages and credit in both directions (schema/wire.md, Streams).
 */
#include "framed.h"

void framed_send(struct connection *base, struct call *call) {
  (void)base, (void)call;
}

void framed_taken(struct connection *base, struct call *call, size_t size) {
  (void)base, (void)call, (void)size;
}

void framed_attend(struct connection *base, struct call *call) {
  (void)base, (void)call;
}
