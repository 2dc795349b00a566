/* peers.h - programs of others that do the same, each with a server in Python. */
#ifndef BENCH_PEERS_H
#define BENCH_PEERS_H

/* Stops the servers that were started. */
void peers_stop(void);

#endif
