/* A bytes field of some size there and back, one call at a time. */
#include <stdlib.h>
#include <string.h>

#include "bench.pyproc.h"
#include "caller.h"
#include "case.h"

typedef struct payload {
  char *bytes;
  size_t size;
} payload;

static void echo(pyproc_pool *pool, const void *what) {
  const payload *sent = what;
  Bench__Blob request = BENCH__BLOB__INIT, *reply = NULL;
  pyproc_error *error = NULL;
  request.data = (ProtobufCBinaryData){.len = sent->size, .data = (uint8_t *)sent->bytes};
  if (bench_predictor_echo(pool, &request, &reply, &error) < 0) bench_die("payload", error);
  size_t size = sent->size;
  if (reply->data.len != size || (size > 0 && reply->data.data[size - 1] != (uint8_t)sent->bytes[size - 1]))
    bench_die("payload", NULL);
  pyproc_reply_free(reply);
}

static const char *run(const bench_case *self, double seconds, figures *to) {
  const char *why = NULL;
  const bench_pool *pool = pools_get(&self->pool, &why);
  if (pool == NULL) return why;
  payload sent = {.bytes = malloc(self->bytes + 1), .size = self->bytes};
  if (sent.bytes == NULL) bench_die("out of memory", NULL);
  memset(sent.bytes, 7, self->bytes + 1);
  caller_measure(pool, echo, &sent, 0, seconds, to);
  figures_set_bytes(to, self->bytes);
  free(sent.bytes);
  return NULL;
}

/* Channel and size as in the name, and bytes. */
#define PAYLOAD(over, size, count) \
  .name = "payload, " over ", " size, .run = run, .pool.channel = over, .bytes = (count), \
  .limit = "limit: " size " in process"
#define KIB ((size_t)1 << 10)
#define MIB ((size_t)1 << 20)

static const bench_case cases[] = {
    {PAYLOAD("uds", "0", 0)},
    {PAYLOAD("uds", "1 KiB", KIB)},
    {PAYLOAD("uds", "64 KiB", 64 * KIB)},
    {PAYLOAD("uds", "1 MiB", MIB)},
    {PAYLOAD("uds", "64 MiB", 64 * MIB)},
    {PAYLOAD("uds", "16 KiB", 16 * KIB), .full = true},
    {PAYLOAD("uds", "256 KiB", 256 * KIB), .full = true},
    {PAYLOAD("uds", "16 MiB", 16 * MIB), .full = true},
    {PAYLOAD("uds", "256 MiB", 256 * MIB), .full = true},
    {PAYLOAD("shm", "0", 0)},
    {PAYLOAD("shm", "1 KiB", KIB)},
    {PAYLOAD("shm", "64 KiB", 64 * KIB)},
    {PAYLOAD("shm", "1 MiB", MIB)},
    {PAYLOAD("shm", "64 MiB", 64 * MIB)},
    {PAYLOAD("shm", "16 KiB", 16 * KIB), .full = true},
    {PAYLOAD("shm", "256 KiB", 256 * KIB), .full = true},
    {PAYLOAD("shm", "16 MiB", 16 * MIB), .full = true},
    {PAYLOAD("shm", "256 MiB", 256 * MIB), .full = true},
};

CASE_TABLE(payload_cases, cases);
