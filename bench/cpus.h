/* cpus.h - where threads and processes run. */
#ifndef BENCH_CPUS_H
#define BENCH_CPUS_H

#include <sys/types.h>

/* Puts a process (its main thread), or a thread, onto the first, the second … of the processors that this program may
 * use; 0 is the calling thread. Where there are fewer it stays where it is. */
void cpus_pin(pid_t who, int place);

/* Has each of them work for so long: afterwards none runs more slowly, or elsewhere, as an idle one does for a while. */
void cpus_work(double seconds);

/* Lets it use all of them again. */
void cpus_free(pid_t who);

#endif
