/*
 * admission.h - which worker gets a call, and the queue of those that wait for one.
 *
 * Knows connections, not processes. One lock for queues and moves; the lock order is in protocol.h.
 *
 * Streams have places of their own, `max_streams` for each connection, and a queue of their own, so that neither they nor
 * unary calls hold up the others. No more are let in than there are places, counted over all connections: what waits, waits
 * for a worker that restarts, or that has yet to end a stream that was given up.
 */
#ifndef PYPROC_ADMISSION_H
#define PYPROC_ADMISSION_H

#include <pthread.h>

#include "protocol.h"
#include "trial.h"

struct admission {
  pthread_mutex_t lock;
  struct lot *lot;
  struct connection **connections; /* borrowed */
  _Atomic int count;               /* it only grows */
  atomic_int attendants;           /* threads that pump all connections now, and will do so once more when they stop */
  _Atomic int workers;             /* that shall run; the other connections are spare. Set by the supervisor */
  int max_in_flight;               /* per connection */
  int max_streams;                 /* per connection */
  uint32_t turn;                   /* counts the searches for a worker that did not begin with the first */
  int64_t turned_ns, searches;     /* when the last one was, and how many have been since */
  int few;                         /* workers that may have a processor each beside those that call */
  trial narrow;                    /* whether calls go to these alone */
  call_list queue, stream_queue;
  int64_t queue_limit;
  _Atomic int64_t queued;       /* in both */
  _Atomic int64_t open_streams; /* that have entered and are not over */
  bool closed;
  struct poison *poison; /* NULL: no request is refused */
  pyproc_error *broken;  /* what calls fail with at once; NULL: nothing */
};

void admission_init(struct admission *self, struct lot *lot, int64_t queue_limit, int max_in_flight, int max_streams);
void admission_destroy(struct admission *self);

/* These are the connections from now on: the same as before, and maybe more. Any thread. */
void admission_use(struct admission *self, struct connection **connections, int count);

/* Gives the call to the worker with the least to do, or queues it. UNAVAILABLE: closed; RESOURCE_EXHAUSTED: the queue
 * is full, or all places for streams are taken; FAILED_PRECONDITION: its request kills workers. The call's own thread. */
int admission_enter(struct admission *self, struct call *call, pyproc_error **reterr);

/* The call was answered: its request does not kill workers. Its owner. */
void admission_absolve(struct admission *self, struct call *call);

/* A stream that has entered is over. Any thread, any lock may be held. */
void admission_leave_stream(struct admission *self);

/* The call's own thread gives up, because of `code`. Returns whether it may have run, or -1 when it is done after
 * all. */
int admission_withdraw(struct admission *self, struct call *call, int code);

/* The same, but a call that runs stays, for its worker's word: CONNECTION_ASKED, see protocol.h, ask. */
int admission_ask(struct admission *self, struct call *call, int code);

/* Starts queued calls where there is room. Any thread. */
void admission_dispatch(struct admission *self);

/* The thread attends: until admission_leave it reads for all, by admission_pump, and the supervisor need not. */
void admission_attend(struct admission *self);
void admission_leave(struct admission *self);

/* Reads and writes for all calls what is possible without blocking. False: there are none. */
bool admission_pump(struct admission *self);

/* Whether one worker has calls waiting while another has nothing to do. */
bool admission_is_lopsided(const struct admission *self);

/* Whether calls go to few of the workers alone, and are being answered. */
bool admission_is_narrow(struct admission *self);

/* Takes calls back from workers that have not answered for `patience_ns`, where another one has nothing to do, and
 * starts them there. */
void admission_balance(struct admission *self, int64_t patience_ns);

/* The worker has given the call back, not started; it is in no table. Queues it again, in front. */
void admission_return(struct admission *self, struct call *call);

/* The connection is lost, see protocol.h, fail: its calls end with `error`, but those that have not started are
 * queued again, in front. */
void admission_lose(struct admission *self, struct connection *lost, const pyproc_error *error);

/* Calls fail at once with (copies of) the error, which it takes over, those that wait in the queue among them; NULL: no
 * longer. Any thread. */
void admission_break(struct admission *self, pyproc_error *error);
bool admission_is_broken(struct admission *self);

/* No call enters any more; with `error` those that wait in the queue end, too. */
void admission_close(struct admission *self, const pyproc_error *error);

#endif
