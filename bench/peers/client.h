/*
 * client.h - what the programs that call a peer have in common: time, and how they tell what they found.
 *
 * A program writes one line to its output: calls, seconds, CPU seconds of itself, and calls of the slowest thread ÷ those
 * of the fastest; then the time of each call in nanoseconds, as int64_t of this machine; no times where messages
 * of a stream are counted.
 */
#ifndef BENCH_PEERS_CLIENT_H
#define BENCH_PEERS_CLIENT_H

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { CLIENT_TIMES_MAX = 1 << 20, CLIENT_THREADS_MAX = 64 };

static inline int64_t client_clock(clockid_t clock) {
  struct timespec now;
  clock_gettime(clock, &now);
  return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static inline int64_t client_now(void) {
  return client_clock(CLOCK_MONOTONIC);
}

typedef struct client_times {
  int64_t *ns;
  int64_t count;
  double seconds, cpu_seconds;
} client_times;

static inline void client_times_init(client_times *self) {
  self->ns = (int64_t *)malloc(CLIENT_TIMES_MAX * sizeof *self->ns);
  self->count = 0;
  self->seconds = self->cpu_seconds = 0;
  if (self->ns == NULL) exit(1);
}

static inline void client_times_add(client_times *self, int64_t ns) {
  if (self->count < CLIENT_TIMES_MAX) self->ns[self->count] = ns;
  self->count++;
}

/* Returns what main returns. */
static inline int client_times_write(const client_times *self, double fairness) {
  int64_t kept = self->count < CLIENT_TIMES_MAX ? self->count : CLIENT_TIMES_MAX;
  printf("%lld %.9f %.9f %.3f\n", (long long)self->count, self->seconds, self->cpu_seconds, fairness);
  fwrite(self->ns, sizeof *self->ns, (size_t)kept, stdout);
  return fflush(stdout) == 0 ? 0 : 1;
}

/* How a peer is called, each thread by a connection of its own. */
typedef struct client_ops {
  void *(*open)(const char *address);
  double (*call)(void *connection, double value); /* twice the value; ends the program when it fails */
  void (*close)(void *connection);
} client_ops;

typedef struct client_thread {
  const client_ops *ops;
  const char *address;
  pthread_barrier_t *start;
  double seconds;
  client_times times;
  pthread_t thread;
} client_thread;

static inline void client_loop(client_thread *self, void *connection, double seconds) {
  int64_t before = client_now(), end = before + (int64_t)(seconds * 1e9);
  for (double value = 0; before < end; value++) {
    double result = self->ops->call(connection, value);
    if (result < 2 * value || result > 2 * value) {
      fputs("wrong answer\n", stderr);
      exit(1);
    }
    int64_t now = client_now();
    client_times_add(&self->times, now - before);
    before = now;
  }
}

static inline void *client_run(void *argument) {
  client_thread *self = (client_thread *)argument;
  void *connection = self->ops->open(self->address);
  client_loop(self, connection, self->seconds / 5); /* connects, warms up */
  self->times.count = 0;
  pthread_barrier_wait(self->start);
  client_loop(self, connection, self->seconds);
  pthread_barrier_wait(self->start);
  self->ops->close(connection);
  return NULL;
}

static inline void client_join(client_thread *threads, int count, client_times *all, double *ret_fairness) {
  int64_t least = INT64_MAX, most = 0;
  for (int i = 0; i < count; i++) {
    client_times *one = &threads[i].times;
    pthread_join(threads[i].thread, NULL);
    for (int64_t j = 0; j < one->count && j < CLIENT_TIMES_MAX; j++) client_times_add(all, one->ns[j]);
    if (one->count < least) least = one->count;
    if (one->count > most) most = one->count;
    free(one->ns);
  }
  *ret_fairness = most > 0 ? (double)least / (double)most : 0;
}

/* All of a program whose arguments are ADDRESS THREADS SECONDS: closed loops, one for each thread. */
static inline int client_main(int argc, char **argv, const client_ops *ops) {
  static client_thread threads[CLIENT_THREADS_MAX];
  int count = argc == 4 ? atoi(argv[2]) : 0;
  if (count < 1 || count > CLIENT_THREADS_MAX) return 2;
  pthread_barrier_t start;
  pthread_barrier_init(&start, NULL, (unsigned)count + 1);
  for (int i = 0; i < count; i++) {
    threads[i].ops = ops;
    threads[i].address = argv[1];
    threads[i].start = &start;
    threads[i].seconds = atof(argv[3]);
    client_times_init(&threads[i].times);
    if (pthread_create(&threads[i].thread, NULL, client_run, &threads[i]) != 0) return 1;
  }
  client_times all;
  double fairness = 0;
  client_times_init(&all);
  pthread_barrier_wait(&start);
  int64_t began = client_now(), cpu = client_clock(CLOCK_PROCESS_CPUTIME_ID);
  pthread_barrier_wait(&start);
  all.seconds = (double)(client_now() - began) / 1e9;
  all.cpu_seconds = (double)(client_clock(CLOCK_PROCESS_CPUTIME_ID) - cpu) / 1e9;
  client_join(threads, count, &all, &fairness);
  return client_times_write(&all, fairness);
}

#endif
