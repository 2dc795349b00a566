/*
 * breaker.h - when a pool stops trying: how often a place may fail before it rests, and when so many failures in a row
 * mean that the cause lies elsewhere, so that calls had better fail at once.
 *
 * A failure is a process that could not be started, or that died before it had answered a call. All functions run on
 * the supervisor's thread.
 */
#ifndef PYPROC_BREAKER_H
#define PYPROC_BREAKER_H

#include <stdbool.h>
#include <stdint.h>

/* How one place is started anew. */
typedef struct backoff {
  int in_a_row;      /* failures since the last good call */
  int in_window;     /* failures since `window_ns` */
  int64_t window_ns; /* when the window began */
} backoff;

typedef struct backoff_policy {
  int64_t max, window_ms; /* so many failures in a window, then the place rests for a window. max 0: without bound */
} backoff_policy;

/* A failure: returns the milliseconds to wait, half of them random. *ret_rests: it is the place's rest. */
int64_t backoff_next(backoff *self, const backoff_policy *policy, int64_t now_ns, bool *ret_rests);

/* A call was answered. */
void backoff_reset(backoff *self);

typedef enum breaker_state {
  BREAKER_CLOSED,   /* all is well, or not yet bad enough */
  BREAKER_OPEN,     /* nothing is started, and calls fail at once, until `due_ns` */
  BREAKER_HALF_OPEN /* one process is started: what becomes of it decides */
} breaker_state;

typedef struct breaker {
  breaker_state state;
  int in_a_row;        /* failures of any worker, since one has answered */
  int64_t failures;    /* that open it; 0: it never opens */
  int64_t cooldown_ms; /* that it stays open */
  int64_t due_ns;
} breaker;

/* Each returns whether the state has changed. */
bool breaker_failed(breaker *self, int64_t now_ns);
bool breaker_answered(breaker *self);
bool breaker_wait(breaker *self, int64_t now_ns); /* open for long enough: half open */

#endif
