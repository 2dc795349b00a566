/* A bytes field of some size there and back, one call at a time. */
#include <stdlib.h>
#include <string.h>

#include "bench.pyproc.h"
#include "case.h"
#include "meter.h"

enum { SAMPLES_MAX = 1 << 18 };

static double loop(pyproc_pool *pool, char *bytes, size_t size, int64_t end, samples *to) {
  double calls = 0;
  for (int64_t before = now_ns(); before < end || calls == 0; calls++) {
    Bench__Blob request = BENCH__BLOB__INIT, *reply = NULL;
    pyproc_error *error = NULL;
    request.data = (ProtobufCBinaryData){.len = size, .data = (uint8_t *)bytes};
    if (bench_predictor_echo(pool, &request, &reply, &error) < 0) bench_die("payload", error);
    if (reply->data.len != size || (size > 0 && reply->data.data[size - 1] != (uint8_t)bytes[size - 1]))
      bench_die("payload", NULL);
    pyproc_reply_free(reply);
    int64_t now = now_ns();
    samples_add(to, now - before);
    before = now;
  }
  return calls;
}

static const char *run(const bench_case *self, double seconds, figures *to) {
  const char *why = NULL;
  bench_pool *pool = pools_get(&self->pool, &why);
  samples times;
  meter cost;
  if (pool == NULL) return why;
  char *bytes = malloc(self->bytes + 1);
  if (bytes == NULL) bench_die("out of memory", NULL);
  memset(bytes, 7, self->bytes + 1);
  samples_init(&times, SAMPLES_MAX);
  loop(pool->pool, bytes, self->bytes, 0, &times); /* to warm up */
  times.count = 0;
  meter_begin(&cost, pool->pids, pool->pid_count);
  int64_t began = now_ns();
  double calls = loop(pool->pool, bytes, self->bytes, began + (int64_t)(seconds * 1e9), &times);
  double took = (double)(now_ns() - began) / 1e9;
  meter_end(&cost, calls, to);
  to->of[METRIC_RATE] = calls / took;
  to->of[METRIC_BYTES_RATE] = calls / took * (double)self->bytes / (1 << 20);
  figures_set_times(to, &times);
  samples_free(&times);
  free(bytes);
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
