/* Messages of a stream, from the worker or to it. The first tenth of a second's worth warms up. */
#include <math.h>
#include <stdlib.h>

#include "bench.pyproc.h"
#include "case.h"
#include "meter.h"

enum { KIND_DOWN, KIND_UP };

/* Takes messages until `end`, then gives the stream up. */
static double download(pyproc_pool *pool, size_t size, int64_t end) {
  Bench__DownloadRequest request = BENCH__DOWNLOAD_REQUEST__INIT;
  pyproc_stream *stream = NULL;
  pyproc_error *error = NULL;
  double count = 0;
  request.count = UINT64_MAX >> 1;
  request.size = (uint32_t)size;
  if (bench_predictor_download_open(pool, &request, NULL, &stream, &error) < 0) bench_die("stream", error);
  for (; now_ns() < end; count++) {
    Bench__Blob *blob = NULL;
    if (bench_predictor_download_recv(stream, &blob, &error) != 1) bench_die("stream", error);
    if (blob->data.len != size) bench_die("stream", NULL);
    pyproc_reply_free(blob);
  }
  bench_predictor_download_close(stream);
  return count;
}

/* Sends messages until `end`, and hears how many came. */
static double upload(pyproc_pool *pool, size_t size, int64_t end) {
  pyproc_stream *stream = NULL;
  pyproc_error *error = NULL;
  Bench__UploadReply *reply = NULL;
  Bench__Blob blob = BENCH__BLOB__INIT;
  double count = 0;
  blob.data = (ProtobufCBinaryData){.len = size, .data = calloc(1, size)};
  if (bench_predictor_upload_open(pool, NULL, &stream, &error) < 0) bench_die("stream", error);
  for (; now_ns() < end; count++)
    if (bench_predictor_upload_send(stream, &blob, &error) != 1) bench_die("stream", error);
  if (bench_predictor_upload_done_sending(stream, &error) < 0) bench_die("stream", error);
  if (bench_predictor_upload_recv(stream, &reply, &error) != 1) bench_die("stream", error);
  if ((double)reply->count < count) bench_die("stream", NULL);
  pyproc_reply_free(reply);
  bench_predictor_upload_close(stream);
  free(blob.data.data);
  return count;
}

static const char *run(const bench_case *self, double seconds, figures *to) {
  const char *why = NULL;
  bench_pool *pool = pools_get(&self->pool, &why);
  meter cost;
  if (pool == NULL) return why;
  double (*transfer)(pyproc_pool *, size_t, int64_t) = self->kind == KIND_DOWN ? download : upload;
  transfer(pool->pool, self->bytes, now_ns() + (int64_t)(seconds * 1e8));
  meter_begin(&cost, pool->pids, pool->pid_count);
  int64_t began = now_ns();
  double count = transfer(pool->pool, self->bytes, began + (int64_t)(seconds * 1e9));
  double took = (double)(now_ns() - began) / 1e9;
  meter_end(&cost, count, to);
  to->of[METRIC_RATE] = count / took;
  figures_set_bytes(to, self->bytes);
  return NULL;
}

/* Direction, channel and size as in the name, and bytes. The worker cannot be faster than Python is with the message. */
#define DOWN(over, size, count) \
  .name = "stream down, " over ", " size, .run = run, .pool.channel = over, .kind = KIND_DOWN, .bytes = (count), \
  .limit = "limit: " size " serialised in process", .peer = "gRPC stream down, " size
#define UP(over, size, count) \
  .name = "stream up, " over ", " size, .run = run, .pool.channel = over, .kind = KIND_UP, .bytes = (count), \
  .limit = "limit: " size " parsed in process", .peer = "gRPC stream up, " size

static const bench_case cases[] = {
    {DOWN("uds", "16 B", 16)}, {DOWN("uds", "64 KiB", 65536)}, {UP("uds", "16 B", 16)}, {UP("uds", "64 KiB", 65536)},
    {DOWN("shm", "16 B", 16)}, {DOWN("shm", "64 KiB", 65536)}, {UP("shm", "16 B", 16)}, {UP("shm", "64 KiB", 65536)},
};

CASE_TABLE(stream_cases, cases);
