/*
 * spin.h - whether to look for more for a while before blocking, and how.
 *
 * Waking an idle processor costs tens of microseconds, so that who waits for something that comes sooner looks again
 * and again. A gauge follows how long its waits take, and advises against it once they take longer than the limit, but
 * for a try now and then. All functions may be called by any thread.
 */
#ifndef PYPROC_SPIN_H
#define PYPROC_SPIN_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct spin_gauge {
  int64_t limit_ns;          /* how long to look in vain; 0: not at all */
  _Atomic int64_t waited_ns; /* moving average of how long the wait for the next event takes */
  _Atomic uint32_t probes;   /* times it was asked while spinning did not pay */
} spin_gauge;

/* No limit where there is no second processor to wait for. */
void spin_init(spin_gauge *self, int64_t limit_ns);

/* Forgets what was learnt. */
void spin_reset(spin_gauge *self);

/* Whether spinning is likely to see the next event before the limit. */
bool spin_pays(spin_gauge *self);

/* A wait took so long. */
void spin_learn(spin_gauge *self, int64_t waited_ns);

/* Spinning has paid, however long it took: others had the time meanwhile. */
void spin_paid(spin_gauge *self);

/* Between two looks, `spent_ns` after the first one: lets the processor rest, then lets other threads run. `shared`:
 * who is waited for is on this processor, so that they have to run at once. Returns whether it took no time to speak of. */
bool spin_pause(int64_t spent_ns, bool shared);

#endif
