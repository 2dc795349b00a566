#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "bulk.h"

#include <errno.h>
#include <stdint.h>
#include <sys/mman.h>

enum { BULK_MIN = 4 << 20, BULK_PAGE = 2 << 20 };

void bulk_expect(void *data, size_t size) {
#ifdef MADV_HUGEPAGE
  if (data == NULL || size < BULK_MIN) return;
  const int saved = errno;
  uint8_t *const begin = (uint8_t *)data + (BULK_PAGE - (uintptr_t)data % BULK_PAGE) % BULK_PAGE;
  uint8_t *const end = (uint8_t *)data + size - ((uintptr_t)data + size) % BULK_PAGE;
  (void)madvise(begin, (size_t)(end - begin), MADV_HUGEPAGE); /* refused: it is as before */
  errno = saved;
#else
  (void)data;
  (void)size;
#endif
}
