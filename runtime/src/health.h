/*
 * health.h - whether a worker hangs, judged by what is seen of it now and then. Pure: no clock, no process.
 *
 * Every interval it is asked for a sign of life, a ping that its control thread, or whoever reads there, answers under any
 * handler, and looked at again a timeout later. It hangs when by then
 *   - the ping is not answered, and its control thread has not turned either: that one turns as long as a handler runs,
 *     also where the ping is stuck behind requests that the worker does not read yet;
 *   - or requests wait in it, none runs, and its loop has not turned.
 * A handler that runs is no reason, however long it takes: that is for the call's own deadline.
 */
#ifndef PYPROC_HEALTH_H
#define PYPROC_HEALTH_H

#include <stdbool.h>
#include <stdint.h>

/* What is seen of a worker. */
typedef struct health_facts {
  bool answers_pings;
  uint64_t pong;  /* number of the last ping that was answered */
  bool has_page;  /* what follows is known */
  uint64_t beats; /* turns of the control thread while a handler runs */
  uint64_t turns; /* of the dispatch loop */
  uint64_t replies;
  bool waits; /* requests that have not begun */
  bool runs;  /* a handler */
} health_facts;

typedef enum health_verdict {
  HEALTH_FINE,
  HEALTH_ASK,    /* `ping` is to be sent now, where it answers them */
  HEALTH_SILENT, /* it hangs: no answer */
  HEALTH_STILL   /* it hangs: nothing is begun */
} health_verdict;

typedef struct health {
  int64_t interval_ns, timeout_ns;
  int64_t due_ns; /* when to look; INT64_MAX: never */
  bool is_asked;
  uint64_t ping; /* number of the last one */
  health_facts seen;
} health;

/* For a process that is ready now. interval_ms 0: it is never looked at. `chance` is a random number: workers that were
 * started together are not all asked at once. */
void health_begin(health *self, int64_t interval_ms, int64_t timeout_ms, uint64_t chance, int64_t now_ns);

/* To be called when it is due. A look that comes much too late judges nothing: who looks was held up, and with it what
 * reads the answers. */
health_verdict health_look(health *self, const health_facts *facts, int64_t now_ns);

#endif
