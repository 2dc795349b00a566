/*
 * status_page.h - the memory that a host and its worker share to agree on which calls have started (schema/wire.md).
 *
 * Compiled into the library and into the worker's extension. Neither side believes the other's values beyond what the
 * functions here return.
 */
#ifndef PYPROC_WIRE_STATUS_PAGE_H
#define PYPROC_WIRE_STATUS_PAGE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum { STATUS_PAGE_MAGIC = 0x50595350, STATUS_PAGE_VERSION = 1, STATUS_PAGE_THREADS = 64, STATUS_PAGE_SLOTS = 4096 };

#define STATUS_PAGE_REVOKED (UINT64_C(1) << 63)

typedef struct status_page_thread {
  _Atomic uint64_t call_id;
  _Atomic uint64_t since_ns;
} status_page_thread;

typedef struct status_page {
  uint32_t magic, version, thread_count, slot_count;
  _Atomic uint64_t loop_counter;
  _Atomic uint64_t stuck_id; /* of the call for whose handler the worker kills itself; 0: it does not */
  _Atomic uint64_t beats;    /* turns of the worker's control thread while a handler runs */
  uint64_t reserved_0[3];
  status_page_thread threads[STATUS_PAGE_THREADS];
  uint64_t reserved_1[8];
  /* Where each side waits for the other: processor + 1; 0: unknown. Both read it for each call, and it rarely changes:
   * nothing that the worker writes for each call is near it. */
  _Atomic uint32_t host_cpu, worker_cpu;
  uint64_t reserved_2[111];
  _Atomic uint64_t slots[STATUS_PAGE_SLOTS];
} status_page;

_Static_assert(sizeof(status_page) == 34816, "the status page is laid out as in schema/wire.md");
_Static_assert(sizeof(_Atomic uint64_t) == 8, "atomic words are plain words");

/* Either side: says on which processor it is (-1: unknown), and returns whether the other one is on the same. */
static inline bool status_page_meet(_Atomic uint32_t *mine, _Atomic uint32_t *others, int cpu) {
  uint32_t here = cpu < 0 ? 0 : (uint32_t)cpu + 1;
  if (atomic_load_explicit(mine, memory_order_relaxed) != here) atomic_store_explicit(mine, here, memory_order_relaxed);
  return here != 0 && atomic_load_explicit(others, memory_order_relaxed) == here;
}

/* Host: whether the worker waited on that processor when it last did. */
static inline bool status_page_is_worker_at(const status_page *page, int cpu) {
  return cpu >= 0 && atomic_load_explicit(&page->worker_cpu, memory_order_relaxed) == (uint32_t)cpu + 1;
}

/* Worker: claims the call before its handler runs. False: the host has revoked it, it must not run. */
static inline bool status_page_start(status_page *page, uint64_t id) {
  return atomic_exchange(&page->slots[id % STATUS_PAGE_SLOTS], id) != (id | STATUS_PAGE_REVOKED);
}

/* Host: takes the call back unless its handler has started. True: it has not and never will. */
static inline bool status_page_revoke(status_page *page, uint64_t id) {
  _Atomic uint64_t *slot = &page->slots[id % STATUS_PAGE_SLOTS];
  uint64_t seen = atomic_load(slot);
  for (int tries = 0; seen != id && tries < 64; tries++) /* bounded: the page is the worker's to scribble on */
    if (atomic_compare_exchange_weak(slot, &seen, id | STATUS_PAGE_REVOKED)) return true;
  return false;
}

/* Host: whether the handler of the call has started. */
static inline bool status_page_started(const status_page *page, uint64_t id) {
  return atomic_load((_Atomic uint64_t *)&page->slots[id % STATUS_PAGE_SLOTS]) == id;
}

#endif
