#define _GNU_SOURCE
#include "page.h"

#include <sched.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/stat.h>

status_page *page_map(int fd) {
  struct stat facts;
  if (fstat(fd, &facts) < 0 || facts.st_size < (off_t)sizeof(status_page))
    return NULL; /* a shorter one would be SIGBUS */
  void *memory = mmap(NULL, sizeof(status_page), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (memory == MAP_FAILED) return NULL;
  status_page *page = memory;
  if (page->magic == STATUS_PAGE_MAGIC && page->version == STATUS_PAGE_VERSION &&
      page->thread_count == STATUS_PAGE_THREADS && page->slot_count == STATUS_PAGE_SLOTS)
    return page;
  page_unmap(page);
  return NULL;
}

void page_unmap(status_page *page) {
  if (page != NULL) (void)munmap(page, sizeof(status_page));
}

bool page_shares_cpu(status_page *page) {
#ifdef __linux__
  return page != NULL && status_page_meet(&page->worker_cpu, &page->host_cpu, sched_getcpu());
#else
  (void)page;
  return false;
#endif
}
