#include <stdio.h>
#include <stdlib.h>

#include <pyproc.h>

#include "cases.h"

enum { TIMEOUT_MS = 5 };

/* One call after the other of a handler that does not end by itself; each sample is the time that the call took beyond
 * its deadline. */
void run_deadline(unary_pool *pool, const char *method, double seconds, measure *to) {
  pyproc_call_options options = PYPROC_CALL_OPTIONS_INIT;
  options.timeout_ms = TIMEOUT_MS;
  int64_t began = now_ns(), now = began;
  while (now - began < (int64_t)(seconds * 1e9)) {
    int64_t due = now + INT64_C(1000000) * TIMEOUT_MS;
    char *body = NULL;
    int result = pyproc_call_json(unary_handle(pool), method, "null", &options, &body, NULL);
    now = now_ns();
    if (result != PYPROC_E_DEADLINE_EXCEEDED) {
      fprintf(stderr, "bench: %s: %s\n", method, pyproc_strerror(result));
      exit(1);
    }
    samples_add(&to->samples, now - due);
    to->calls++;
  }
  to->seconds += (double)(now - began) / 1e9;
  to->fairness += 1;
  to->rounds++;
}
