/*
 * page.h - the host's status page, mapped into the worker (schema/wire.md, "Status page").
 */
#ifndef PYPROC_WORKER_PAGE_H
#define PYPROC_WORKER_PAGE_H

#include "status_page.h"

/* Maps the page behind `fd`, which stays the caller's to close. Returns NULL when it is no status page of this
 * version. */
status_page *page_map(int fd);
void page_unmap(status_page *page);

/* Whether the host waits on the processor that the calling thread is on. `page` may be NULL. */
bool page_shares_cpu(status_page *page);

#endif
