/*
 * engine.h - this process's use of libgrpc: it is initialised with the first connection and shut down with the last.
 *
 * Who polls. libgrpc reads its sockets in whatever thread waits for a completion queue. A blocking call is waited for by
 * its own thread, which so reads its own reply. All else (calls that no thread waits for, streams, a connection that is
 * lost or made again while nobody calls) is seen to by one thread of ours, the poller. While it waits in libgrpc it is
 * the one that reads, for blocking calls too, which costs them a hand-over between threads; so it stays out of libgrpc
 * as long as blocking calls follow one another and nothing else is under way.
 *
 * libgrpc must not be used in a child that was forked while it was in use.
 */
#ifndef PYPROC_GRPC_ENGINE_H
#define PYPROC_GRPC_ENGINE_H

#include <grpc/grpc.h>
#include <pyproc.h>
#include <stdbool.h>
#include <stdint.h>

/* Something that libgrpc does for us; its address is the tag. */
typedef struct engine_task {
  void (*done)(struct engine_task *self, bool ok); /* the poller, no lock held; may free it */
} engine_task;

/* Each success needs engine_release, by any thread but the poller, when all tasks of its user have come back.
 * FAILED_PRECONDITION: this process was forked from one that used libgrpc; RESOURCE_EXHAUSTED: no thread. */
int engine_acquire(pyproc_error **reterr);
void engine_release(void);

/* Whether this process is a forked child of the one that acquired: nothing of libgrpc may be touched. */
bool engine_is_forked(void);

/* The queue that the poller takes tasks from. */
grpc_completion_queue *engine_queue(void);

/* More, or fewer, tasks are under way in the poller's queue. */
void engine_expect(int more);

/* A queue for one blocking call: NULL when out of memory. Given back once its tag has come. */
grpc_completion_queue *engine_take_queue(void);
void engine_give_queue(grpc_completion_queue *queue);

/* Waits, and reads, until the tag comes back (true) or until `deadline_ns` (CLOCK_MONOTONIC; INT64_MAX: none). */
bool engine_wait(grpc_completion_queue *queue, void *tag, int64_t deadline_ns);

/* That point in time for libgrpc. */
gpr_timespec engine_deadline(int64_t deadline_ns);

#endif
