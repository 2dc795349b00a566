/* request.h - one HTTP request: its body, the call that answers it, its response. */
#ifndef REQUEST_H
#define REQUEST_H

#include <microhttpd.h>
#include <pyproc.h>
#include <stdatomic.h>

struct service {
  pyproc_pool *pool;
  int64_t timeout_ms;
  atomic_bool is_stopping;
  atomic_int open_requests;
};

/* For MHD_start_daemon; `context` is the service. */
enum MHD_Result request_handle(void *context, struct MHD_Connection *connection, const char *url, const char *method,
                               const char *version, const char *upload, size_t *upload_size, void **state);
void request_completed(void *context, struct MHD_Connection *connection, void **state,
                       enum MHD_RequestTerminationCode why);

#endif
