#include "prefetch.h"

enum { PREFETCH_MAX = 64, AVERAGE_SHIFT = 3, SHORTER_WEIGHS = 4, LONGER_WEIGHS = 64 /* one in so many */ };
#define SLOW_HANDLER_NS INT64_C(1000000)

void prefetch_adapt(struct connection *connection, int replies, bool can_recall, int64_t now_ns) {
  int64_t since = atomic_load_explicit(&connection->progress_ns, memory_order_relaxed);
  int64_t average = atomic_load_explicit(&connection->service_ns, memory_order_relaxed);
  int64_t sample = replies > 1 ? (now_ns - since) / replies : now_ns - since; /* a division takes its time */
  average = average == 0 ? sample : average + ((sample - average) >> AVERAGE_SHIFT);
  if (average < 1) average = 1;
  atomic_store_explicit(&connection->service_ns, average, memory_order_relaxed);
  atomic_store_explicit(&connection->progress_ns, now_ns, memory_order_relaxed);
  int64_t quick = atomic_load_explicit(&connection->quick_ns, memory_order_relaxed);
  quick = quick == 0 ? sample : quick + (sample - quick) / (sample < quick ? SHORTER_WEIGHS : LONGER_WEIGHS);
  atomic_store_explicit(&connection->quick_ns, quick < 1 ? 1 : quick, memory_order_relaxed);
  int64_t prefetch = average <= SLOW_HANDLER_NS / PREFETCH_MAX ? PREFETCH_MAX : SLOW_HANDLER_NS / average;
  if (prefetch < 1) prefetch = can_recall ? 1 : 0;
  atomic_store_explicit(&connection->prefetch, (int)prefetch, memory_order_relaxed);
}
