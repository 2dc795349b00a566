#include "prefetch.h"

enum { PREFETCH_MAX = 64, AVERAGE_SHIFT = 3, SHORTER_WEIGHS = 4, LONGER_WEIGHS = 64 /* one in so many */ };
#define SLOW_HANDLER_NS INT64_C(1000000)

void prefetch_adapt(struct connection *connection, int replies, bool can_recall, int64_t now_ns) {
  int64_t since = atomic_load(&connection->progress_ns);
  int64_t sample = (now_ns - since) / replies, average = atomic_load(&connection->service_ns);
  average = average == 0 ? sample : average + ((sample - average) >> AVERAGE_SHIFT);
  if (average < 1) average = 1;
  atomic_store(&connection->service_ns, average);
  atomic_store(&connection->progress_ns, now_ns);
  int64_t quick = atomic_load(&connection->quick_ns);
  quick = quick == 0 ? sample : quick + (sample - quick) / (sample < quick ? SHORTER_WEIGHS : LONGER_WEIGHS);
  atomic_store(&connection->quick_ns, quick < 1 ? 1 : quick);
  int64_t prefetch = SLOW_HANDLER_NS / average;
  if (prefetch > PREFETCH_MAX) prefetch = PREFETCH_MAX;
  if (prefetch < 1) prefetch = can_recall ? 1 : 0;
  atomic_store(&connection->prefetch, (int)prefetch);
}
