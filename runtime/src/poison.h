/*
 * poison.h - requests that kill workers: how often each has, and which are refused for a while.
 *
 * A request is known by its key, a hash of its method's name and the bytes of its body with a seed of the pool's own; what
 * differs from call to call with the same arguments (id, deadline, metadata) is no part of it. The table is small: of too
 * many requests those are forgotten whose last kill is longest ago, and each is after MEMORY times the rest. As long as no
 * request has killed a worker lately nothing is hashed.
 *
 * Any thread; the lock is taken last and nothing is called under it.
 */
#ifndef PYPROC_POISON_H
#define PYPROC_POISON_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { POISON_ENTRIES = 256, POISON_MEMORY = 10, POISON_WHY_SIZE = 256 };

typedef struct poison_entry {
  uint64_t key;             /* 0: free */
  int64_t kills;            /* since it last succeeded */
  int64_t killed_ns;        /* the last time */
  int64_t refused_until_ns; /* 0: it is not */
  char why[POISON_WHY_SIZE];
} poison_entry;

struct poison {
  pthread_mutex_t lock;
  uint64_t seed;
  int64_t limit, rest_ns;
  _Atomic int count; /* entries in use */
  poison_entry entries[POISON_ENTRIES];
};
typedef struct poison poison;

/* What is known of a request that is refused. */
typedef struct poison_refusal {
  int64_t kills, left_ns;
  char why[POISON_WHY_SIZE]; /* how the last worker ended */
} poison_refusal;

/* limit 0: nothing is ever refused, and no other function does anything. */
void poison_init(poison *self, int64_t limit, int64_t rest_ms, uint64_t seed);
void poison_destroy(poison *self);

/* Whether any request is known; without the lock. `self` may be NULL. */
bool poison_is_armed(const poison *self);

/* Never 0. */
uint64_t poison_key(const poison *self, const char *method, const void *body, size_t size);

/* The request has killed a worker, `why` tells how. Returns whether it is refused from now on. */
bool poison_blame(poison *self, uint64_t key, const char *why, int64_t now_ns);

/* It has run, and its worker lives. */
void poison_absolve(poison *self, uint64_t key);

/* Whether it is refused now. Once its rest is over it may be tried again, and one more kill is enough. */
bool poison_refuses(poison *self, uint64_t key, int64_t now_ns, poison_refusal *ret_refusal);

#endif
