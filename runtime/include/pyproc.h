/*
 * pyproc.h - call Python functions from C through a supervised pool of Python processes. This header is the manual.
 *
 * CONTENTS
 *   Life of a pool, Threads, How waiting works, Ownership, Codes, What "may have run" means, Calls that are made again,
 *   How a handler is stopped, Workers that hang, Workers that crash, Requests that kill, Metadata, gRPC, Zygote, Workers
 *   without a handshake, Attached workers, Fork, Signals and other things of the process, Compatibility, Limits; then every
 *   function, struct, enumerator and macro in turn.
 *
 * LIFE OF A POOL
 *   pyproc_pool_open starts `workers` processes, each of which runs the user's Python script, and returns when all of
 *   them are ready to be called, or the first has failed. A supervisor, the one thread that a pool has, then watches
 *   them: one that dies is replaced, with growing pauses (0.1 s to 30 s, half of it random) where it dies again before
 *   it has answered anything. pyproc_pool_close lets calls end, stops the workers and the thread, and frees all.
 *   A program may have several pools. A whole program:
 *
 * ```c
 * #include <stdio.h>
 * #include <stdlib.h>
 * #include "quickstart.pyproc.h"
 *
 * static void die(pyproc_error *error) {
 *   fprintf(stderr, "%s: %s\n", pyproc_strerror(pyproc_error_code(error)), pyproc_error_message(error));
 *   pyproc_error_free(error);
 *   exit(1);
 * }
 *
 * int main(void) {
 *   pyproc_pool_options options = PYPROC_POOL_OPTIONS_INIT;
 *   options.script = "gen/worker.py";
 *   options.workers = 4;
 *   pyproc_pool *pool = NULL;
 *   pyproc_error *error = NULL;
 *   if (pyproc_pool_open(&options, &pool, &error) < 0) die(error);
 *
 *   Quickstart__PredictRequest request = QUICKSTART__PREDICT_REQUEST__INIT;
 *   request.value = 42;
 *   Quickstart__PredictReply *reply = NULL;
 *   if (quickstart_predictor_predict(pool, &request, &reply, &error) < 0) die(error);
 *   printf("%g\n", reply->result);
 *
 *   pyproc_reply_free(reply);
 *   pyproc_pool_close(pool);
 *   return 0;
 * }
 * ```
 *
 *   quickstart_predictor_predict and the messages come from pyproc-gen, which reads the schema; functions without a
 *   schema are called with pyproc_call_json.
 *
 * THREADS
 *   Any thread may call, fire a token, ask for health, read or free what it owns. Many calls may run at once over one
 *   pool; a thread waits for one at a time. pyproc_pool_close is called once, by any thread, when no other thread will
 *   begin a call: calls that are inside already are waited for. One error, reply or options struct is used by one
 *   thread at a time; nothing locks it. Log and event callbacks run on the supervisor's thread, one at a time, and must
 *   not call any function that takes the same pool. Callbacks of submitted calls run on the thread that dispatches, and
 *   may.
 *
 * HOW WAITING WORKS
 *   No thread stands between a caller and its worker. The calling thread writes the request to the worker's socket and
 *   reads the reply from it; of several callers that wait for one worker, one reads and hands the others theirs. A
 *   waiting thread first looks again and again for up to `spin_us` microseconds, where that has paid lately, and then
 *   blocks. A pool that nobody calls burns no processor time. The supervisor reads a socket only while a worker owes
 *   something that no caller waits for, such as the late reply to a call that was given up.
 *
 *   Who blocks does so in recv(2) at first, for 2 milliseconds, rounded up to a tick of the kernel's clock (4 ms on most
 *   systems), and then in poll(2). The former wakes up sooner, but only the worker can wake it: a token that is fired
 *   meanwhile is noticed that much later. A deadline is not: where it is near, poll comes first.
 *
 *   Callers that look again and again on the processor on which their worker wants to run keep it from that. So where the
 *   pool has at most one worker for two processors, such a caller may go on on another processor of those that it may
 *   use, by sched_setaffinity(2): at most one every 20 microseconds for each worker, and none for 5 milliseconds once one
 *   had to wait a millisecond for its turn there. Its set of processors is the same afterwards; a thread that is bound to
 *   one stays there. With `spin_us` PYPROC_OFF nothing of this happens, nor where the program's system calls are filtered
 *   (seccomp(2)), as they are in most containers.
 *
 *   A call goes to the ready worker with the fewest calls; a worker runs one handler at a time and may hold a few more
 *   calls, fewer the slower it answers. All others wait in the pool's queue, in order, until their deadlines; also
 *   while workers restart.
 *
 * OWNERSHIP
 *   `ret_x` is where a function puts its result. It must not be NULL. On failure it is not written.
 *   `reterr`, always last, may be NULL. It is written on failure only, and then never with NULL; what it held before is
 *   neither read nor freed. Free errors with pyproc_error_free.
 *   Replies and JSON bodies are freed with pyproc_reply_free and with nothing else: not with free(), not with
 *   protobuf-c's functions. A reply is one block: what it points to lives as long as it does. Do not change it.
 *   Replies, errors, tokens, futures and streams belong to no pool: they may be freed by any thread and after the pool is
 *   closed.
 *   Everything that is passed in is the caller's and only read: requests and call options until the call returns, pool
 *   options until pyproc_pool_open returns (strings are copied; `services` points to constant tables and is kept).
 *   Functions that free, and accessors, take NULL.
 *
 * CODES
 *   Functions that can fail return int: 0 (PYPROC_OK) or more is success, a PYPROC_E* is failure. The failures are
 *   gRPC's status codes, negated: -1 is CANCELLED, not EPERM, and a code is never an errno.
 *
 *     what happened                                                      code
 *     the handler raised                                                 UNKNOWN, or that of its pyproc_worker.Error
 *     an argument, an option or a request is wrong                       INVALID_ARGUMENT
 *     the worker has no such method; the system lacks what an option is  UNIMPLEMENTED
 *     the worker died under the call; the pool is being closed           UNAVAILABLE
 *     the deadline has passed; a worker was not ready in time            DEADLINE_EXCEEDED
 *     the token was fired, or the handler ended its call as cancelled    CANCELLED
 *     the queue is full; a message is too large; out of memory, files    RESOURCE_EXHAUSTED
 *     worker and program were generated from schemas that do not fit;    FAILED_PRECONDITION
 *       the script failed before it served; a pool used after a fork;
 *       a request that kills workers
 *     the worker sent bytes that make no sense                           DATA_LOSS
 *     the handler returned something that cannot be sent                 INTERNAL
 *     no such script, interpreter or folder; one that may not be read    NOT_FOUND, PERMISSION_DENIED
 *
 *   A handler may choose any code for itself, so test for the ones that matter and treat all others alike.
 *
 * WHAT "MAY HAVE RUN" MEANS
 *   pyproc_error_may_have_run answers whether the handler of a failed call may have begun. 0 is a promise: it has not
 *   and never will, so that the call may be made again whatever it does. 1: it has begun, or nobody can tell. Host and
 *   worker share a page of memory in which the worker claims a call right before it runs it and the host takes back one
 *   that it gives up; so the answer is right also when the worker was killed. Calls whose worker dies before they have
 *   begun are given to another one without the caller's doing, up to 5 workers in all.
 *
 * CALLS THAT ARE MADE AGAIN
 *   Where a method's schema has a retry policy (option (pyproc.method).retry, see pyproc/options.proto), or the caller
 *   sets max_attempts, a failed unary call is made again by the library: when its code is one of the policy's
 *   (UNAVAILABLE, where it names none), and the method is declared idempotent or the call certainly did not run.
 *   Between two attempts there is a pause, random between 0 and a bound that grows from attempt to attempt. Deadline
 *   and token are those of the call, not of an attempt: there is no attempt that could not begin before the deadline,
 *   and a token that is fired ends the pause at once, and so does pyproc_pool_close. The caller sees the last error
 *   alone. That holds for blocking, submitted and started calls; the pause of the latter two takes no thread. What
 *   fails before it is sent, from a bad argument to a full queue of a submitted call, and streams, are not made again.
 *
 * HOW A HANDLER IS STOPPED
 *   When a call's deadline passes, or its token is fired, its handler is stopped in three steps: it is asked, which it
 *   may see in its context; it is interrupted, by an exception that is raised in it, Cancelled, which ends a loop, a
 *   sleep or a wait within a millisecond where the handler is on the worker's main thread; and where it still runs
 *   cancel_grace_ms later, in C code say, the stacks of all its threads are written to the log, and the worker is killed
 *   and replaced. The caller does not wait for that. It stays up to 10 ms, and only where the handler had begun, to hear
 *   how the handler ended; pyproc_error_stop then says how far things had come. A reply that comes after the call was
 *   given up reaches nobody.
 *
 * WORKERS THAT HANG
 *   A worker hangs, and is ended and replaced, when
 *     - a handler goes on cancel_grace_ms after its call was given up, see above;
 *     - it gives no sign of life: every health_interval_ms it is sent a ping, which a thread of its own in C answers under
 *       any handler, also one that keeps the GIL, and it has not done so within health_timeout_ms;
 *     - it has requests, runs no handler, and has begun none of them for health_timeout_ms: something in it keeps the GIL.
 *   A handler that runs before its deadline is none of these, however long it takes. So a worker that was stopped by
 *   SIGSTOP, or by a debugger, is replaced after 35 seconds at the latest; health_interval_ms = PYPROC_OFF is for those who
 *   want to look at one.
 *   In the first case the process kills itself after its handler was asked and interrupted. In the others it is first made
 *   to write the stacks of its threads, which it can whatever it runs but not while it is stopped, then gets SIGTERM, and
 *   SIGKILL a second later, with all that is in its process group. The event WORKER_HUNG, the log and the error's crash have
 *   the stacks. Calls that had begun are UNAVAILABLE, others are given to another worker.
 *   Workers without a handshake are not sent pings, nor are those whose hello does not say that they know them.
 *
 * WORKERS THAT CRASH
 *   pyproc_error_crash, and the event WORKER_DIED, tell how a worker ended: the signal or exit status, memory and processor
 *   time, its last lines of output, the call that it ran, and the Python stacks of all its threads where it died of a fatal
 *   signal or hung. Python's faulthandler writes them, to memory that the library shares with the worker; a script that
 *   calls faulthandler.enable itself takes them away from there. A process that died of a SIGKILL which nobody here sent was
 *   most likely chosen by the system for want of memory where oom_killed is 1. Exit statuses that the program takes itself,
 *   see SIGNALS below, are not known: status_known is 0.
 *
 * REQUESTS THAT KILL
 *   A request that has killed poison_limit workers, one time after the other, is refused for poison_rest_ms:
 *   FAILED_PRECONDITION, with may_have_run 0, so that it is not made again by itself and does not take down worker after
 *   worker with all that they run. Afterwards it may be tried again, and once more is then enough. The same request is the
 *   same method with the same bytes in its body, whoever makes it; an answer to it, also an exception, has all forgotten.
 *   It has killed a worker when its handler ran as the worker died of an exit, a fatal signal, a lack of memory, or because
 *   the handler did not end when it was told to. SIGKILL, SIGTERM, SIGINT, SIGHUP and SIGQUIT else come from outside and count
 *   for nothing. In a worker that runs several handlers at once all of them are suspects, but where one did not end; with
 *   gRPC only a call that was alone. Streams are never refused. A pool remembers 256 such requests, each for ten times
 *   poison_rest_ms after it last killed.
 *
 * METADATA
 *   Beside a request and beside its reply or error travels metadata: entries of a key and a value, for what is not the
 *   method's business, such as who calls and on whose behalf. A handler finds that of the request in context.metadata,
 *   and answers by context.add_metadata(key, value) or pyproc_worker.Error(code, message, metadata). Nothing is added,
 *   changed or looked at on the way: W3C's traceparent is an entry like any other.
 *   A key has 1 to 128 of the characters a-z, 0-9, '-', '_' and '.', and begins neither with "grpc-" nor with "pyproc-".
 *   The values of keys that end in "-bin" may hold any bytes, all others printable ASCII (0x20 to 0x7e) without a blank
 *   at either end. A key may come twice; the order is kept. At most 64 entries and 16 KiB in all, where each entry counts
 *   its key, its value and 6 bytes.
 *
 * ```c
 * const pyproc_metadata metadata[] = {
 *   {"traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", 0}, // a text: its size may be 0
 *   {"x-blob-bin", "\0\1\2", 3},
 * };
 * pyproc_call_options options = PYPROC_CALL_OPTIONS_INIT;
 * options.metadata = metadata;
 * options.metadata_count = sizeof metadata / sizeof *metadata;
 * char *body = NULL;
 * pyproc_error *error = NULL;
 * size_t count = 0;
 * if (pyproc_call_json(pool, "predict", "{\"value\": 42}", &options, &body, &error) < 0) {
 *   const pyproc_metadata *beside = pyproc_error_metadata(error, &count);
 *   const char *after = pyproc_metadata_get(beside, count, "retry-after");
 *   printf("%s; retry after %s\n", pyproc_error_message(error), after != NULL ? after : "a while");
 * } else {
 *   const pyproc_metadata *beside = pyproc_reply_metadata(body, &count);
 *   for (size_t i = 0; i < count; i++) printf("%s (%zu bytes)\n", beside[i].key, beside[i].value_size);
 * }
 * pyproc_error_free(error);
 * pyproc_reply_free(body);
 * ```
 *
 * GRPC
 *   With the option protocol "grpc" the workers are gRPC servers (grpcio), each on a Unix socket in a folder of mode 0700
 *   below TMPDIR or /tmp that lives as long as the pool, and any gRPC tool can call them (they serve grpc.health.v1 and
 *   server reflection). Stubs, handlers, errors, metadata and streams are those of the other protocols; a call costs ten
 *   times as much or more. What differs: may_have_run is 1 for every call that was sent, since no page tells what has
 *   begun; a call whose worker dies is never given to another one; stacks and exit statuses are told as ever.
 *   With the option target the same stubs call any gRPC server, on this host or another one:
 *
 * ```c
 * pyproc_pool_options options = PYPROC_POOL_OPTIONS_INIT;
 * options.target = "dns:///models.example.com:443";
 * options.tls_ca_file = "/etc/ssl/certs/ca-certificates.crt";
 * options.authorization = "Bearer 2YotnFZFEjr1zCsicMWpAA";
 * pyproc_pool *models = NULL;
 * if (pyproc_pool_open(&options, &models, NULL) < 0) return -1;
 * ```
 *
 *   pyproc_pool_open then returns at once, without a connection; health.workers_ready says whether there is one, 1 or 0.
 *   gRPC resolves the name, connects, connects again (after 0.1 s, growing to 5 s) and calls all addresses in turn
 *   (round_robin). Calls do not wait for a server that cannot be reached: they are UNAVAILABLE with gRPC's reason.
 *   Errors have type and traceback only where the server is a pyproc worker. Methods are not compared with the server's;
 *   pyproc_call_json calls the handlers of pyproc workers alone. max_in_flight and queue_limit hold as ever.
 *
 *   The module. All this is in libpyproc-grpc.so beside the library, which the first pool that asks for it loads, with
 *   libgrpc and what that needs, and which stays loaded.
 *   Threads. libgrpc has threads of its own (about eight), from the first such pool to the last one's close, and the
 *   module has one, the poller, whatever the number of pools; all of them block all signals, but some that libgrpc
 *   starts later on a thread of the program. A blocking unary call is sent, waited for and read by its own thread. For
 *   asynchronous calls and for streams the poller reads, and runs nothing of the program's.
 *   Fork. A child that the program forks while such a pool is open cannot use gRPC: opening a pool with it there is
 *   FAILED_PRECONDITION. Fork before the first one is opened, or exec. Starting workers is safe at any time.
 *   Shutdown. pyproc_pool_close of the last such pool shuts libgrpc down and waits for that; it may close single
 *   descriptors a moment later. A program that uses gRPC itself, too, shares its libgrpc, which counts its users.
 *   Output. libgrpc writes some errors to standard error; GRPC_VERBOSITY=NONE in the program's environment stops it.
 *
 * ZYGOTE
 *   With the option preload, as in "numpy,pandas", a pool has one process more, the zygote: a Python that imports these
 *   modules once, and is then forked for every worker, which runs the script as ever. So a worker is there within
 *   milliseconds, and shares the memory of the modules with all others until it writes to it. pyproc_worker and the parts of
 *   protobuf's Python package that generated modules import are preloaded as well, where they are installed. The script
 *   itself is not; modules of one's own beside it may be. Name whatever the script imports, small modules of the standard
 *   library too: each one that is not preloaded costs every worker memory of its own, and time when it starts.
 *   A module that cannot be imported is FAILED_PRECONDITION at pyproc_pool_open or pyproc_pool_reload, with Python's type
 *   and traceback; start_timeout_ms holds for the zygote, and then for each worker. pyproc_pool_reload starts a new zygote, so
 *   that modules that have changed are imported anew.
 *   A worker is started by itself, as without the option, and a line in the log says why, where a fork would not be safe,
 *   which is so once a module has started a thread or has loaded CUDA or grpc; where the system does not allow it; and where
 *   the zygote has not answered within 2 seconds: it is then killed. A zygote that dies is replaced, at once where it has
 *   forked since its start, else after pauses as for workers (0.1 to 30 s, restart_max, restart_window_ms). Workers that it
 *   has forked go on; when they end later their exit status is not known. (Without pidfd, on systems other than Linux, they
 *   end with it, and are replaced.)
 *   What a module does when it is imported happens once, in the zygote: what it opens or computes is the same in all
 *   workers. Numeric libraries (OpenBLAS, OpenMP, MKL, BLIS, numexpr) are loaded with one thread and get their own number
 *   back in each worker, from its environment or the processors it may use. Python's and numpy's global random generators,
 *   uuid, OpenSSL's and multiprocessing's secrets differ in each worker; a generator that a module has made for itself does not,
 *   nor does the seed of hash(). Environment (but for what Python and libraries read only when they start), folder,
 *   arguments, limits and all else are as if the worker had been started by itself. With protocol "grpc" grpcio is
 *   imported in each worker.
 *
 * WORKERS WITHOUT A HANDSHAKE
 *   With handshake "none" a pool drives workers that were written for the Go library pyproc. `python script args…` is
 *   run as it is, with PYPROC_SOCKET_PATH in its environment and none of our packages. The path is in a folder of mode
 *   0700, made for this one process in TMPDIR (else /tmp) and removed once the library has connected, which it tries
 *   every 5 ms until start_timeout_ms. The worker is ready when it has answered the method "health".
 *   Calls are that library's JSON envelopes: any name can be called, also by a typed method, which then has protobuf's
 *   JSON mapping; nothing is checked before. A worker gets one call at a time, all others wait in the pool's queue.
 *   Errors of the worker have a message only and the code UNKNOWN, for a missing method too; there is no metadata, and
 *   there are no streams (UNIMPLEMENTED). Every call that was sent may have run.
 *   A call that was given up (deadline, token) cannot be stopped: its caller returns, and when it has not ended after
 *   cancel_grace_ms the worker is killed and replaced. At close workers get SIGINT, as from the Go library, and right
 *   after it the end of their connection; after drain_timeout_ms SIGTERM, then SIGKILL. On Linux they are killed when the
 *   program dies; elsewhere nothing ends them then.
 *   A reply that cannot be serialised in the worker makes the Go library's worker give its connection up: the call is
 *   INTERNAL and the worker is replaced.
 *
 * ATTACHED WORKERS
 *   With the option socket_path a pool starts no process. It connects to a worker that somebody else runs on this host: a
 *   service manager, a container of the same pod, a person. The worker is the same script; run by hand, with the worker
 *   package in its Python, it listens on its PYPROC_SOCKET_PATH with mode 0660, or on a socket that systemd passes.
 *
 * ```c
 * pyproc_pool_options options = PYPROC_POOL_OPTIONS_INIT;
 * options.socket_path = "/run/pyproc/worker.sock";
 * pyproc_pool *attached = NULL;
 * if (pyproc_pool_open(&options, &attached, NULL) < 0) return -1;
 * pyproc_pool_close(attached);
 * ```
 *
 *   Calls, streams, deadlines, cancels, codes and may_have_run are those of other workers. What differs:
 *   Who. Either side looks who the other is, beside the mode of the socket: the user who listens has to be the program's or
 *   root (peer_uid names another one), the one who connects the worker's or root (its PYPROC_PEER_UID names another one by
 *   number, or says "any").
 *   Connecting. The worker may be started later: the library tries again, after pauses of 5 ms that grow to a second, until
 *   start_timeout_ms, which then is one failure of a place in the sense of restart_max and breaker_failures. A connection
 *   that ends is made anew at once, or in the same way; calls wait meanwhile. The event is PYPROC_EVENT_WORKER_DIED without
 *   a crash, which nobody here can see, and health.restarts counts it.
 *   Number. `workers` are connections, 1 by default. A worker serves up to 128, of any number of pools and programs, one
 *   plain handler at a time all the same; more than one pay where several processes accept on one socket. A worker that
 *   has as many as it serves says that it is busy (FAILED_PRECONDITION).
 *   Nothing is killed. A handler that goes on when its call was given up costs the connection, twice cancel_grace_ms and a
 *   quarter of a second later, and so does a worker that hangs: what is in flight is UNAVAILABLE, what had not begun moves
 *   on and never begins there, and the process goes on. To end it is up to who runs it.
 *   Changing. pyproc_pool_reload makes all connections anew, also to another socket_path, before the old ones end: after a
 *   deployment calls move over and none fails. pyproc_pool_resize changes their number. recycle_… is refused.
 *   Output and environment are not the pool's; options about processes are INVALID_ARGUMENT. With handshake "none" the
 *   worker may be one of the Go library. A gRPC server is reached by the option target, "unix:/path".
 *
 * FORK
 *   A child that the program forks has no use for its parent's pools: every call on one is FAILED_PRECONDITION there,
 *   and pyproc_pool_close frees memory without touching the workers. It may open pools of its own.
 *
 * SIGNALS AND OTHER THINGS OF THE PROCESS
 *   The library installs no signal handler, never waits for any child but its own workers, changes neither environment
 *   nor folder, does not print and does not exit. No SIGPIPE reaches the program. Its thread blocks all signals. A
 *   signal that is handled on a calling thread does not end the call. No function may be called from a signal handler.
 *   Workers lead process groups of their own, so that Ctrl-C in a terminal does not reach them, and end when the
 *   program ends, however it ends. A program that ignores SIGCHLD or waits for any child takes exit statuses from the
 *   library: errors then say that the exit status is not known.
 *   The environment is read by pyproc_pool_open (PATH, PYPROC_PYTHON) and whenever a worker starts (also TMPDIR): as
 *   with getenv, the program must not change it at that moment. With a pool that is open that may be at any time.
 *
 * COMPATIBILITY
 *   Structs that a program fills in begin with `size` and are initialised with their _INIT, which sets it and makes all
 *   else 0; a size of 0 is INVALID_ARGUMENT. Later versions add members at the end: a program that was compiled with an
 *   older header keeps working, and one that was compiled with a newer header works with an older library as long as
 *   what that does not know is 0 (else INVALID_ARGUMENT). Structs that the library fills in for callbacks begin with
 *   their size too: a member is there when it lies within.
 *   In numeric options 0 means the default, PYPROC_OFF switches off what can be off, PYPROC_UNLIMITED lifts a bound
 *   that can be lifted; any other value must lie in the range that is given. Members marked "later" belong to later
 *   versions: they must be 0 or NULL, what is set is UNIMPLEMENTED.
 *   The header is C11 and C++17.
 *
 * LIMITS
 *   bytes of one request or reply    64 MiB (frame_limit_bytes), at most 2 GiB - 1
 *   memory of one unpacked reply     8 times frame_limit_bytes
 *   nesting of protobuf messages     100
 *   nesting of a JSON body           98
 *   workers of a pool                1024
 *   attempts of a call               10 (max_attempts), up to 5 workers each
 *   calls in flight on a worker      1024 (max_in_flight), at most 4096
 *   calls that wait in a pool        10,000 (queue_limit)
 *   streams open on a worker         64 (max_streams), at most 1024
 *   bytes on the way in a stream     256 KiB each way (stream_window_bytes), and one message
 *   shared memory with a worker      256 KiB each way (shm_ring_bytes), 4 KiB to 1 GiB
 *   methods of a worker              65,536
 *   a text in an error               64 KiB
 *   metadata of a message            64 entries, 16 KiB
 *   log lines not yet delivered      4096 and 1 MiB, what is more is dropped and counted; a line of more than 8 KiB is
 *                                    delivered in pieces
 */
#ifndef PYPROC_H
#define PYPROC_H

#include <protobuf-c/protobuf-c.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The library is compiled with hidden visibility; what is declared here is what it exports. */
#if defined(__GNUC__)
#pragma GCC visibility push(default)
#endif

/* How the _INIT of a sized struct is made; not for programs. C++ has no designated initialisers before C++20. */
#ifdef __cplusplus
#define PYPROC_INIT_(type) type##_init_()
#else
#define PYPROC_INIT_(type) \
  { .size = sizeof(type) }
#endif
#define PYPROC_DEFINE_INIT_(type) \
  static inline type type##_init_(void) { \
    type o; \
    memset(&o, 0, sizeof o); \
    o.size = sizeof o; \
    return o; \
  }

/* ---- codes ---- */

/* What functions return: see CODES above. The numbers are gRPC's, negated, and never change. */
enum {
  PYPROC_OK = 0,                     /* success; larger values are success too */
  PYPROC_E_CANCELLED = -1,           /* the caller's token was fired, or the handler said so */
  PYPROC_E_UNKNOWN = -2,             /* the handler raised an exception */
  PYPROC_E_INVALID_ARGUMENT = -3,    /* an argument, option or request that cannot be right */
  PYPROC_E_DEADLINE_EXCEEDED = -4,   /* not done in time */
  PYPROC_E_NOT_FOUND = -5,           /* a file, an interpreter; or the handler's choice */
  PYPROC_E_ALREADY_EXISTS = -6,      /* the handler's choice */
  PYPROC_E_PERMISSION_DENIED = -7,   /* a file that may not be read or run; or the handler's choice */
  PYPROC_E_RESOURCE_EXHAUSTED = -8,  /* memory, descriptors, processes, the queue, a size limit */
  PYPROC_E_FAILED_PRECONDITION = -9, /* things that do not fit: schemas, versions, a script that cannot start, a fork */
  PYPROC_E_ABORTED = -10,            /* the handler's choice */
  PYPROC_E_OUT_OF_RANGE = -11,       /* the handler's choice */
  PYPROC_E_UNIMPLEMENTED = -12,      /* no such method; or an option of a later version */
  PYPROC_E_INTERNAL = -13,           /* the handler returned what cannot be sent */
  PYPROC_E_UNAVAILABLE = -14,        /* the worker died, or the pool is closing: another try may succeed */
  PYPROC_E_DATA_LOSS = -15,          /* bytes from the worker that make no sense */
  PYPROC_E_UNAUTHENTICATED = -16     /* the handler's choice */
};

/* In numeric options: switches off what can be off. */
#define PYPROC_OFF (-1)

/* In numeric options: lifts a bound that can be lifted. */
#define PYPROC_UNLIMITED (-2)

/* As a call's timeout_ms or a pool's call_timeout_ms: no deadline. The call then ends with its reply, its token, its
 * worker or its pool. Without asking for it every call has a deadline. */
#define PYPROC_TIMEOUT_NONE INT64_MAX

/* ---- handles ---- */

typedef struct pyproc_pool pyproc_pool;       /* worker processes and who watches them */
typedef struct pyproc_error pyproc_error;     /* what went wrong, in detail */
typedef struct pyproc_cancel pyproc_cancel;   /* a token that cancels calls and streams */
typedef struct pyproc_stream pyproc_stream;   /* a call with any number of messages in one or both directions */
typedef struct pyproc_method pyproc_method;   /* a generated table: one rpc; laid out in pyproc_generated.h */
typedef struct pyproc_service pyproc_service; /* a generated table: one service */

/* One entry of what travels beside a request, a reply or an error; see METADATA above. In what the library gives, key
 * and value are never NULL and end with a NUL, which value_size does not count. In what a program gives, a value_size of
 * 0 means a text that ends with a NUL, and a value that is NULL an empty one. */
typedef struct pyproc_metadata {
  const char *key;   /* lower-case ASCII, ends with a NUL */
  const char *value; /* value_size bytes */
  size_t value_size; /* bytes */
} pyproc_metadata;

/* The value of the first entry with that key, NULL where there is none. It ends with a NUL; one that may hold others is
 * better looked for by hand, for its size. Lives as long as the entries. `metadata` and `key` may be NULL. */
const char *pyproc_metadata_get(const pyproc_metadata *metadata, size_t count, const char *key);

/* The library's version, "major.minor.patch". Constant; any thread. */
const char *pyproc_version(void);

/* A code in a few English words, "deadline exceeded"; "ok" for 0 and above. Never NULL, constant; any thread. */
const char *pyproc_strerror(int code);

/* ---- errors ---- */

/*
 * An error says what went wrong. The accessors return what the error holds: texts are UTF-8, live until the error is
 * freed, and are not to be freed themselves. All accessors take NULL and then return as if there was nothing to tell.
 *
 * ```c
 * char *body = NULL;
 * pyproc_error *error = NULL;
 * if (pyproc_call_json(pool, "predict", "{\"value\": 42}", NULL, &body, &error) < 0) {
 *   const char *type = pyproc_error_type(error), *traceback = pyproc_error_traceback(error);
 *   const pyproc_crash *crash = pyproc_error_crash(error);
 *   fprintf(stderr, "%s: %s\n", type != NULL ? type : pyproc_strerror(pyproc_error_code(error)),
 *           pyproc_error_message(error));
 *   if (traceback != NULL) fputs(traceback, stderr);
 *   if (crash != NULL) fprintf(stderr, "signal %d in %s\n", crash->signal, crash->method);
 *   if (!pyproc_error_may_have_run(error)) fputs("it has not begun: safe to try again\n", stderr);
 *   pyproc_error_free(error);
 * }
 * pyproc_reply_free(body);
 * ```
 */

/* How a worker process ended. No text is NULL; what is not known is 0 or "". */
typedef struct pyproc_crash {
  size_t size;        /* sizeof(pyproc_crash) of the library */
  pid_t pid;          /* the process */
  int signal;         /* that killed it, 0 when it exited by itself or the status is not known */
  int exit_status;    /* when signal is 0 */
  int oom_killed;     /* 1: it died of SIGKILL, nobody here sent it, and the count of processes that its cgroup, or the
                       * system, has killed for want of memory had grown since its start. Only on Linux */
  int64_t rss_bytes;  /* largest resident set, its waited-for children included */
  int64_t cpu_ms;     /* user and system time, likewise */
  int64_t call_id;    /* of the call that it ran, 0: none */
  const char *method; /* that it ran, "package.Service/Rpc" or a function's name */
  const char *log;    /* its last lines of output: at most 32 and 8 KiB, joined by newlines */
  const char *stacks; /* of all its Python threads, as faulthandler writes them: of a worker that hung, or died of
                       * SIGSEGV, SIGFPE, SIGABRT, SIGBUS or SIGILL. At most 64 KiB; newlines between and after them */
  int64_t status_known; /* 1: signal and exit_status are so; 0: the program took the status, or it has not ended yet */
} pyproc_crash;

/* The PYPROC_E*, the same that the function returned; PYPROC_OK for NULL. */
int pyproc_error_code(const pyproc_error *error);

/* What went wrong, where, and what helps, for a person to read. Where the handler raised it is the exception's text.
 * Never NULL; "" for NULL. */
const char *pyproc_error_message(const pyproc_error *error);

/* The class of the Python exception: bare for builtins and the script's own, "KeyError", else "module.qualname". NULL
 * where no exception was raised. */
const char *pyproc_error_type(const pyproc_error *error);

/* The traceback as Python prints it, newline at its end; NULL where there is none. */
const char *pyproc_error_traceback(const pyproc_error *error);

/* The last lines of output of a worker that died, as in pyproc_crash.log; NULL where no worker died. */
const char *pyproc_error_log(const pyproc_error *error);

/* The worker that the error is about, which may be gone by now; 0: none. */
pid_t pyproc_error_worker_pid(const pyproc_error *error);

/* 0: the handler has not begun and will not. 1: it may have run, partly or to its end. See above. */
int pyproc_error_may_have_run(const pyproc_error *error);

/* How many times the call was given to a worker, all attempts together; 0: never. */
int pyproc_error_attempts(const pyproc_error *error);

/* How far the library got in stopping a handler, when the error was made; see HOW A HANDLER IS STOPPED above. */
enum {
  PYPROC_STOP_NONE = 0,    /* there was nothing to stop: the call was not given up, or had not begun */
  PYPROC_STOP_ASKED,       /* the worker was told; the handler may still run, or has ended in its own way */
  PYPROC_STOP_INTERRUPTED, /* the handler was ended by the exception that was raised in it; the traceback says where */
  PYPROC_STOP_KILLED       /* a handler did not stop, this call's or another's, and the worker was killed for it */
};

/* PYPROC_STOP_*. The message says it too. */
int pyproc_error_stop(const pyproc_error *error);

/* The metadata that the handler sent beside its error, *ret_count entries; NULL and 0 where there is none. `ret_count`
 * may be NULL. Lives as long as the error. */
const pyproc_metadata *pyproc_error_metadata(const pyproc_error *error, size_t *ret_count);

/* How the worker ended, where that is why; else NULL. Lives as long as the error. */
const pyproc_crash *pyproc_error_crash(const pyproc_error *error);

/* Frees the error. Any thread, also after the pool is closed. NULL is fine. */
void pyproc_error_free(pyproc_error *error);

/* ---- log lines and events ---- */

/* Levels of log records, in ascending order. */
enum {
  PYPROC_LOG_DEBUG = 1, /* the library: workers that become ready, or end as asked */
  PYPROC_LOG_INFO,      /* lines of a worker's standard output */
  PYPROC_LOG_WARNING,   /* lines of its standard error; dropped lines */
  PYPROC_LOG_ERROR      /* the library: workers that died or could not be started */
};

/* One line. Valid during the callback only. */
typedef struct pyproc_log_record {
  size_t size;        /* sizeof(pyproc_log_record) of the library */
  int level;          /* PYPROC_LOG_* */
  pid_t worker_pid;   /* whose line it is, or whom it is about; 0: no worker */
  const char *source; /* "stdout", "stderr" (the worker's), or "pyproc" (the library's) */
  const char *text;   /* UTF-8 without newline; what is not UTF-8, and NUL, has become U+FFFD */
} pyproc_log_record;

/* Gets log records: on the supervisor's thread, one at a time, in the order of each worker's lines. It must not call
 * the pool and must not let a C++ exception out. One that blocks delays no worker, and no calls but asynchronous ones:
 * up to 4096 records wait, what is more is dropped, and a WARNING from "pyproc" says how many. Deaths and restarts of
 * workers are seen to when it returns. */
typedef void pyproc_log_callback(const pyproc_log_record *record, void *userdata);

/* What events tell. */
enum {
  PYPROC_EVENT_WORKER_READY = 1, /* a worker can be called */
  PYPROC_EVENT_WORKER_DIED,     /* a worker has ended although nobody closed the pool; `crash` is set unless attached */
  PYPROC_EVENT_WORKER_HUNG,     /* a worker hangs and is ended: see WORKERS THAT HANG; `crash` is set as far as known */
  PYPROC_EVENT_WORKER_RECYCLED, /* a worker has been replaced by a new one that is ready, and will leave */
  PYPROC_EVENT_BREAKER_OPEN,    /* calls fail at once from now on: see breaker_failures */
  PYPROC_EVENT_BREAKER_HALF_OPEN, /* a worker is tried again */
  PYPROC_EVENT_BREAKER_CLOSED,    /* a worker has answered: all is as before */
  PYPROC_EVENT_RELOADED           /* all workers were replaced by pyproc_pool_reload */
};

/* One event. Valid during the callback only. */
typedef struct pyproc_event {
  size_t size;               /* sizeof(pyproc_event) of the library */
  int kind;                  /* PYPROC_EVENT_*; ignore the ones that you do not know */
  pid_t worker_pid;          /* 0: no worker is meant */
  const char *text;          /* for a person to read; never NULL */
  const pyproc_crash *crash; /* how the worker ended, or NULL */
} pyproc_event;

/* Gets events: on the supervisor's thread, under the rules of pyproc_log_callback. Events are not queued: while it
 * blocks no worker is started or replaced, and calls whose worker has died wait for their error. */
typedef void pyproc_event_callback(const pyproc_event *event, void *userdata);

/* A ready log callback: writes "pyproc: [PID] level source: text" to standard error, one write for each line.
 * `userdata` is ignored. */
pyproc_log_callback pyproc_log_to_stderr;

/* ---- options ---- */

/* How a pool is opened. Only `script` is required. Text options are NULL for their defaults and copied at open. */
typedef struct pyproc_pool_options {
  /* Set by PYPROC_POOL_OPTIONS_INIT. */
  size_t size;

  /* What pyproc_options_load allocated, for pyproc_options_clear; yours never. */
  void *loaded;

  /* Path of the worker's Python file. Required. Give an absolute path where the program changes its folder, or sets
   * `cwd`: it is looked at when the pool opens and whenever a worker starts. */
  const char *script;

  /* The Python interpreter: a path, or a name to be found on PATH. Default: the environment's PYPROC_PYTHON, else
   * "python3". */
  const char *python;

  /* The workers' working folder. Default: the program's. */
  const char *cwd;

  /* How calls are encoded: "protobuf" (default), "json", or a codec of the program's own (pyproc_protocol.h); or "grpc":
   * see GRPC above. Typed calls and pyproc_call_json work with all of them. */
  const char *protocol;

  /* What carries them: "uds": a Unix stream socket; "shm": memory that the program and the worker share, shm_ring_bytes
   * each way, beside that socket; "auto" (default): shared memory where the system and the worker's pyproc_worker have
   * it, else the socket. "shm" needs Linux (UNIMPLEMENTED), a worker that has it (FAILED_PRECONDITION) and memory for it
   * (RESOURCE_EXHAUSTED), and goes with neither gRPC nor `handshake` "none" (INVALID_ARGUMENT). */
  const char *channel;

  /* What makes a worker ready: "auto" (default): it says hello. "none": a worker of the Go library pyproc, see WORKERS
   * WITHOUT A HANDSHAKE; `protocol` must be NULL or "json" then, and `services` NULL. */
  const char *handshake;

  /* A gRPC server elsewhere, in gRPC's syntax: "dns:///host:port", "ipv4:address:port[,…]", "unix:path". No workers are
   * started: calls go there, to all of its addresses in turn; see GRPC above. Of the options above and below, those that
   * are about processes must then be left alone (INVALID_ARGUMENT names them), and `script` is not needed. Default: workers. */
  const char *target;

  /* Path of a Unix socket on which a worker listens that somebody else runs: see ATTACHED WORKERS above. No process is
   * started, so that options about processes must be left alone (INVALID_ARGUMENT names them), and `script` is not needed.
   * A relative path means the program's folder at open. Default: workers of the pool's own. */
  const char *socket_path;

  /* Modules that are imported once, for all workers, which are then forked: "numpy,pandas", up to 4095 bytes; see ZYGOTE
   * above. Not with handshake "none". Default: every worker is started by itself and imports what it needs. */
  const char *preload;

  /* What the script finds in sys.argv[1:]; NULL-terminated, at most 65,536. Default: nothing. */
  const char *const *args;

  /* Environment of the workers, "NAME=value", added to the program's or replacing variables of it; NULL-terminated, at
   * most 65,536. Default: nothing. The library adds variables whose names begin with PYPROC_, and, where neither the
   * program's environment nor this names it, GLIBC_TUNABLES=glibc.malloc.hugetlb=1: memory of messages above 2 MiB comes in
   * large pages then, which takes a third less time and up to 2 MiB more for each worker. "GLIBC_TUNABLES=" leaves that off. */
  const char *const *env;

  /* Generated services that workers must fit, checked when they start; NULL-terminated. Without it a method is checked
   * at its first call. The tables are kept, not copied. */
  const pyproc_service *const *services;

  /* Number of processes, 1 to 1024. Default: the processors that this process may use (affinity, cgroup quota). Where calls
   * take less than 0.2 ms and half as many workers as processors answer more of them than all do, which is tried now and
   * then, the others get a call only now and then. */
  int64_t workers;

  /* Calls that one worker may hold, 1 to 4096. Default: 1024. It is an upper bound: how many more than it runs a worker
   * gets adapts to how fast it answers, up to 64. */
  int64_t max_in_flight;

  /* Calls of the pool that may wait for a worker, 1 to 2^31 - 1, PYPROC_UNLIMITED, or PYPROC_OFF: a call that no worker
   * can take at once is RESOURCE_EXHAUSTED, also while workers restart. Default: 10,000. */
  int64_t queue_limit;

  /* Milliseconds from a worker's start to its being ready, 1 to 86,400,000 (a day). Default: 30,000. A worker that
   * takes longer is killed; at open that is DEADLINE_EXCEEDED. */
  int64_t start_timeout_ms;

  /* Milliseconds that a call may take where neither its options nor its schema say so, 1 to PYPROC_TIMEOUT_NONE.
   * Default: 60,000. */
  int64_t call_timeout_ms;

  /* Milliseconds, 1 to 86,400,000, default 1000, that a handler may go on after its call was given up and Cancelled was
   * raised in it, before its worker is killed and replaced; one that looks for a cancel itself, by its cancel_event or
   * context.cancelled, has as long before that. */
  int64_t cancel_grace_ms;

  /* Milliseconds that pyproc_pool_close leaves calls to end, and then workers to stop, 1 to 86,400,000, or PYPROC_OFF:
   * none. Default: 5000. */
  int64_t drain_timeout_ms;

  /* Microseconds that a waiting side looks for more in vain before it blocks, 1 to 1,000,000, or PYPROC_OFF: never.
   * Default: 50. Nobody spins where there is one processor. See HOW WAITING WORKS. */
  int64_t spin_us;

  /* Bytes of the largest request or reply in its encoding, 1024 to 2^31 - 1. Default: 67,108,864 (64 MiB). What is
   * larger is RESOURCE_EXHAUSTED. */
  int64_t frame_limit_bytes;

  /* A worker is replaced by a new one once it has answered so many calls, 1 or more; looked at four times a second. 0
   * (default) and PYPROC_OFF: never. Like for the next two, the bound is drawn anew for each process, up to a tenth
   * lower, one worker is replaced at a time, and no call fails for it: see pyproc_pool_reload. */
  int64_t recycle_calls;

  /* The same once its resident set takes more than so many bytes, 1 MiB or more. 0 (default) and PYPROC_OFF: never. Only
   * on Linux. */
  int64_t recycle_rss_bytes;

  /* The same once it has been ready for so many milliseconds, 1 or more. 0 (default) and PYPROC_OFF: never. */
  int64_t recycle_age_ms;

  /* The lowest level that `log` gets, PYPROC_LOG_DEBUG to PYPROC_LOG_ERROR, or PYPROC_OFF. Default: PYPROC_LOG_INFO. */
  int64_t log_level;

  /* Gets log lines; NULL (default): nobody. pyproc_log_to_stderr is ready to be used. */
  pyproc_log_callback *log;
  void *log_userdata; /* passed to `log`, never looked at */

  /* Gets events; NULL (default): nobody. */
  pyproc_event_callback *event;
  void *event_userdata; /* passed to `event`, never looked at */

  /* Streams that one worker has open at once, 1 to 1024. Default: 64. A pool has at most as many as its workers
   * together; one more is RESOURCE_EXHAUSTED. */
  int64_t max_streams;

  /* Bytes of messages, 64 more than its encoding for each, that may be on their way in each direction of each stream,
   * not yet taken by the other side, 4096 to 1,073,741,824. Default: 262,144 (256 KiB). One message, of any size, may go
   * beyond. */
  int64_t stream_window_bytes;

  /* Milliseconds without a message in either direction after which a stream is DEADLINE_EXCEEDED, 1 to 86,400,000, or
   * PYPROC_OFF. Default: 300,000 (5 minutes). Not counted while messages wait for the program to take them. */
  int64_t stream_idle_timeout_ms;

  /* With `target`: PEM file of the authorities that the server's certificate is checked against, which switches TLS on
   * (the system's own are in /etc/ssl/certs/ca-certificates.crt). Read by pyproc_pool_open, as the next two. Default:
   * no TLS. */
  const char *tls_ca_file;

  /* With `tls_ca_file`: PEM file of the program's own certificate, for a server that asks for one. Default: none. */
  const char *tls_cert_file;

  /* With `tls_cert_file`, which needs it: PEM file of its key. */
  const char *tls_key_file;

  /* With `target`: sent with every call as its `authorization` header, "Bearer …"; printable ASCII. Only with TLS, or to a
   * "unix:" target, as nothing else keeps it secret. Default: none. */
  const char *authorization;

  /* How often a worker may fail, 1 to 2^31 - 1, within restart_window_ms: with one failure more its place rests for as
   * long as that. PYPROC_OFF: it never does. Default: 3. To fail is not to become ready, or to die before the first
   * answer; between failures it is started after pauses that grow from 0.1 to 30 s, half of it random. A worker that dies
   * after it has answered is replaced at once and counts nowhere. */
  int64_t restart_max;

  /* Milliseconds, 1 to 86,400,000. Default: 60,000. */
  int64_t restart_window_ms;

  /* After so many failures in a row, 1 to 2^31 - 1, of any of its workers, the pool's breaker opens, where no worker is
   * ready that has answered a call: nothing is started any more, and calls are UNAVAILABLE at once, with the cause.
   * PYPROC_OFF: never. Default: 10. */
  int64_t breaker_failures;

  /* Milliseconds, 1 to 86,400,000, default 30,000, that it stays open. Then it is half open: one worker is started, and
   * its first answer closes the breaker, while another failure opens it again. pyproc_pool_reload and _resize try at
   * once. */
  int64_t breaker_cooldown_ms;

  /* Milliseconds, 1 to 86,400,000, between two looks whether a worker hangs, or PYPROC_OFF: nobody looks (where one is
   * debugged, say). Default: 30,000. See WORKERS THAT HANG. */
  int64_t health_interval_ms;

  /* Milliseconds, 1 to 86,400,000, without a sign of life after which it does. Default: 5000. */
  int64_t health_timeout_ms;

  /* A request that has killed so many workers, one time after the other, 1 to 2^31 - 1, is refused for a while. PYPROC_OFF:
   * it never is. Default: 3. See REQUESTS THAT KILL. */
  int64_t poison_limit;

  /* Milliseconds, 1 to 86,400,000, that it is refused. Default: 60,000. */
  int64_t poison_rest_ms;

  /* Bytes of shared memory in each direction between the program and a worker, a power of two, 4096 to 1,073,741,824.
   * Default: 262,144 (256 KiB). Larger messages pass through it in parts. Memory is taken as it is first written to. */
  int64_t shm_ring_bytes;

  /* What a worker's process may take, and as whom it runs. All of it is applied to the process before the interpreter
   * starts, holds for what that starts too, and may differ with pyproc_pool_reload, but for uid and gid. What the system
   * refuses fails the start with the option's name and the system's reason.
   *
   * Bytes of address space (RLIMIT_AS), 1 MiB or more. It counts all that is mapped, shared libraries and the stacks of
   * threads among it, so that it is above what is resident, by gigabytes where numpy or torch are loaded: try it. What does
   * not fit is a MemoryError in the handler, and where a library does not expect that the end of the worker. To have a
   * worker that has grown replaced without a failure use recycle_rss_bytes. Default: the program's limit. */
  int64_t memory_limit_bytes;

  /* Seconds of processor time (RLIMIT_CPU), 1 to 2^31 - 1, in the worker's whole life, after which SIGXCPU ends it, and
   * SIGKILL a second later. Default: the program's limit. */
  int64_t cpu_limit_seconds;

  /* Open files (RLIMIT_NOFILE), 16 to 2^31 - 1. Default: the program's limit. */
  int64_t files_limit;

  /* Bytes of a core file (RLIMIT_CORE), 1 or more, PYPROC_UNLIMITED, or PYPROC_OFF: none. Default: the program's limit. */
  int64_t core_limit_bytes;

  /* How much nicer than the program, 1 to 19: where processors are busy a worker then gets less of them. Default: 0. */
  int64_t nice;

  /* "none" (default), or "spread": worker i runs on the i-th, round and round, of the processors that the program may use
   * when it starts, and on no other. It pays where workers have one thread each and there are as many as processors. Only
   * on Linux; elsewhere without effect. */
  const char *affinity;

  /* The user that workers run as, 1 to 4,294,967,294. Needs `gid`, and a program that runs as root, else
   * PERMISSION_DENIED. Script, interpreter, modules and `cwd` have to be accessible to that user. Default: the program's. */
  int64_t uid;

  /* The group that workers run as, 1 to 4,294,967,294, with no other beside it. Needs a program that runs as root.
   * Default: the program's groups. */
  int64_t gid;

  /* The bits that files which workers make do not have, 1 to 0777, octal in C and, without a need for the leading 0, in
   * files: `umask: 027`. Default: the program's. */
  int64_t umask;

  /* 1: whatever the worker executes has no more rights than it has itself: set-user-ID bits and file capabilities are
   * without effect (PR_SET_NO_NEW_PRIVS). Only on Linux; elsewhere UNIMPLEMENTED. PYPROC_OFF and 0 (default): not. */
  int64_t no_new_privs;

  /* 1: workers get no variable of the program's environment, only those of `env` and the library's own. PATH and HOME
   * are then for `env` to set, where the script needs them. PYPROC_OFF and 0 (default): they get all. */
  int64_t clear_env;

  /* With `socket_path`: the user who may listen there beside root, 1 to 4,294,967,294, or PYPROC_OFF: any. Another one is
   * PERMISSION_DENIED. Of a socket that systemd made root is the one. Default: the program's own effective user. */
  int64_t peer_uid;
} pyproc_pool_options;

/* Initialises a pyproc_pool_options: all defaults. */
#define PYPROC_POOL_OPTIONS_INIT PYPROC_INIT_(pyproc_pool_options)
PYPROC_DEFINE_INIT_(pyproc_pool_options)

/*
 * Sets options from a file and from the environment. What the program has set stays where neither names it: the
 * environment beats the file, and the file beats the program. `path` is a YAML file of at most 1 MiB with one mapping
 * of options to values, or NULL: the environment alone.
 *
 *   script: worker.py
 *   workers: 4
 *   call_timeout_ms: 500
 *   queue_limit: unlimited      # PYPROC_UNLIMITED; also off (PYPROC_OFF) and default (0)
 *   log_level: warning          # or debug, info, error, off
 *   args: [--model, small]
 *   env: {OMP_NUM_THREADS: 1}   # or a list of NAME=value
 *
 * In the environment the option `call_timeout_ms` is PYPROC_CALL_TIMEOUT_MS, and so are all others; lists and mappings
 * are written as in YAML, PYPROC_ARGS="[--model, small]". An empty variable counts as none. The Go library's
 * PYPROC_POOL_WORKERS and PYPROC_POOL_MAX_IN_FLIGHT are taken where PYPROC_WORKERS and PYPROC_MAX_IN_FLIGHT are not
 * set. A process that has more rights than who started it (set-user-ID) sees no environment. docs/options.md lists all
 * options. Paths are relative to the program's folder, not the file's. Callbacks and `services` are the program's to set.
 *
 * `options` must have been initialised. Texts that were loaded belong to it: free them with pyproc_options_clear, at any
 * time after pyproc_pool_open. On failure `options` is unchanged and holds nothing new. One thread at a time; the
 * environment must not change meanwhile.
 *
 * Errors: INVALID_ARGUMENT: "file:line: key: what is wrong and what is allowed", or the same with the variable's name;
 * NOT_FOUND, PERMISSION_DENIED: the file; RESOURCE_EXHAUSTED: memory.
 */
int pyproc_options_load(pyproc_pool_options *options, const char *path, pyproc_error **reterr);

/* Frees what pyproc_options_load allocated; texts of `options` that lie there become NULL, all else stays. Options that
 * were never loaded, and NULL, are fine. */
void pyproc_options_clear(pyproc_pool_options *options);

/*
 * How one call is made.
 *
 * ```c
 * pyproc_call_options options = PYPROC_CALL_OPTIONS_INIT;
 * options.timeout_ms = 200;
 * if (pyproc_cancel_new(&options.cancel) < 0) return -1; // another thread may now fire it
 * Quickstart__PredictRequest request = QUICKSTART__PREDICT_REQUEST__INIT;
 * Quickstart__PredictReply *reply = NULL;
 * pyproc_error *error = NULL;
 * switch (quickstart_predictor_predict_with(pool, &request, &options, &reply, &error)) {
 * case PYPROC_OK: printf("%g\n", reply->result); break;
 * case PYPROC_E_CANCELLED: puts("cancelled"); break;
 * case PYPROC_E_DEADLINE_EXCEEDED: puts("too late"); break;
 * default: puts(pyproc_error_message(error));
 * }
 * pyproc_reply_free(reply);
 * pyproc_error_free(error);
 * pyproc_cancel_free(options.cancel);
 * ```
 */
typedef struct pyproc_call_options {
  /* Set by PYPROC_CALL_OPTIONS_INIT. */
  size_t size;

  /* Milliseconds that the call may take, waiting for a worker included, 1 to PYPROC_TIMEOUT_NONE. 0 (default): the
   * schema's timeout_ms, else the pool's call_timeout_ms. Negative: the deadline has passed already, so that a program
   * may pass what is left of its own; nothing is sent. (What is left may be 0: pass -1 then.) */
  int64_t timeout_ms;

  /* How often the call may be made in all, where it fails and another attempt may help: 2 to 10, by the schema's retry
   * policy or, where it has none, with pauses of up to 100 ms, then 200, and so on to 5000, and for UNAVAILABLE alone.
   * 1: it is never made again. 0 (default): as the schema says, else once. One that may have run is made again only
   * where the schema declares the method idempotent, which pyproc_call_json does not know. Without effect on
   * streams. */
  int64_t max_attempts;

  /* Cancels the call when it is fired; NULL (default): nothing does. */
  pyproc_cancel *cancel;

  /* What travels beside the request, metadata_count entries, at most 64 and 16 KiB; see METADATA above. Default: nothing.
   * Copied before the function returns. An entry that may not be sent is INVALID_ARGUMENT, whose message names its key
   * and what is allowed. */
  const pyproc_metadata *metadata;

  /* Number of entries, 0 to 64. */
  size_t metadata_count;
} pyproc_call_options;

/* Initialises a pyproc_call_options: all defaults. */
#define PYPROC_CALL_OPTIONS_INIT PYPROC_INIT_(pyproc_call_options)
PYPROC_DEFINE_INIT_(pyproc_call_options)

/* What a pool is doing. The numbers are read one after the other while the pool goes on, so that they need not add
 * up. */
typedef struct pyproc_health {
  size_t size;           /* set by PYPROC_HEALTH_INIT */
  int64_t workers;       /* that shall run, as opened or resized */
  int64_t workers_ready; /* that can be called now */
  int64_t in_flight;     /* calls that workers hold, given-up ones among them until they are answered */
  int64_t queued;        /* calls that wait for a worker */
  int64_t restarts;      /* workers that ended since the pool was opened, each of which is replaced */
  int64_t calls;         /* that have returned, with whatever result */
  int64_t failures;      /* of these, the ones that failed */
  int64_t breaker_open;  /* 1 while calls fail at once because of breaker_failures, else 0 */
} pyproc_health;

/* Initialises a pyproc_health. */
#define PYPROC_HEALTH_INIT PYPROC_INIT_(pyproc_health)
PYPROC_DEFINE_INIT_(pyproc_health)

/* ---- pools ---- */

/*
 * Opens a pool: starts its thread and its workers, and waits until all workers are ready, at most start_timeout_ms.
 * When a worker fails, all are ended and the error is that worker's, with its type and traceback where its script
 * raised, and with its exit status and last lines where it died.
 *
 * Errors: INVALID_ARGUMENT and UNIMPLEMENTED name the option; NOT_FOUND, PERMISSION_DENIED: script, interpreter, cwd,
 * or the installed worker package; FAILED_PRECONDITION: the script raised or ended before it served, or does not fit
 * `services`; UNIMPLEMENTED: it lacks a method of them; UNAVAILABLE: a worker died; DEADLINE_EXCEEDED: one was not
 * ready in time; DATA_LOSS: one spoke another language; RESOURCE_EXHAUSTED: memory, descriptors, processes, threads.
 */
int pyproc_pool_open(const pyproc_pool_options *options, pyproc_pool **ret_pool, pyproc_error **reterr);

/*
 * Closes the pool and frees it. Calls that are inside have drain_timeout_ms to end, waiting ones among them; then those
 * that wait end with UNAVAILABLE and the workers are told to stop. A worker ends the handler that it runs, then runs
 * its on_stop and atexit hooks; after another drain_timeout_ms it gets SIGTERM, a second later SIGKILL, and what it ran
 * is UNAVAILABLE. Then the callbacks of submitted calls that were not dispatched run, on this thread. Returns when no
 * worker, thread or descriptor of the pool is left. Log lines up to the end are delivered; no callback runs afterwards.
 *
 * No thread may begin a call on the pool once this was called. Not from a callback. NULL is fine. In a forked child it
 * frees memory only.
 */
void pyproc_pool_close(pyproc_pool *pool);

/* Tells what the pool is doing. `ret_health` must have been initialised (PYPROC_HEALTH_INIT) and may be used again. Any
 * thread; never blocks. Errors: INVALID_ARGUMENT, FAILED_PRECONDITION (in a forked child); no pyproc_error. */
int pyproc_pool_health(pyproc_pool *pool, pyproc_health *ret_health);

/*
 * Replaces all workers, one after the other, by new ones that run what the script is by now: with `options`, or with
 * the present ones where it is NULL. A new worker is started beside the old one; as soon as it is ready the old one gets
 * no more calls, ends those that it has (at most drain_timeout_ms), and leaves. No call fails for it, and once this has
 * returned 0 no old worker is left. Blocks until then; other threads go on calling. Reloads and resizes of one pool
 * happen one after the other.
 *
 * Where a new worker does not start the reload stops there, the old ones that are left serve on, and the error is the
 * one that pyproc_pool_open would give. It says how many workers had been replaced by then, if any.
 *
 * Of the options script, python, cwd, args, env, workers, start_timeout_ms and recycle_… may differ from those of the
 * pool; another one that does is INVALID_ARGUMENT naming it. Any thread, but no log or event callback.
 *
 * Errors: those of pyproc_pool_open; UNAVAILABLE: the pool is being closed.
 */
int pyproc_pool_reload(pyproc_pool *pool, const pyproc_pool_options *options, pyproc_error **reterr);

/*
 * Changes the number of workers, 1 to 1024, and waits until it is reached: until new ones are ready, or those with the
 * highest indices have ended their calls (at most drain_timeout_ms) and left. No call fails for it. Any thread, but no
 * log or event callback.
 *
 * Errors: INVALID_ARGUMENT; those of pyproc_pool_open where a new worker does not start: it is given up, those that were
 * added before stay; UNAVAILABLE: the pool is being closed.
 */
int pyproc_pool_resize(pyproc_pool *pool, int64_t workers, pyproc_error **reterr);

/*
 * Lets the pool come to rest: from now on new calls are UNAVAILABLE, and those that are inside, waiting ones among them,
 * have `timeout_ms` milliseconds to end (negative: no limit). Callbacks of submitted calls that have ended may be
 * dispatched before, during and after it. Only pyproc_pool_close is left to do then, which finds nothing to wait for.
 * Any thread, but not from within a callback.
 *
 * Errors: DEADLINE_EXCEEDED: calls are still inside; call it again, or close.
 */
int pyproc_pool_drain(pyproc_pool *pool, int64_t timeout_ms, pyproc_error **reterr);

/* ---- cancellation ---- */

/*
 * A token cancels all calls that were made with it, now or later, and stays fired. A cancelled call that has not begun
 * never will, and returns CANCELLED as soon as its thread notices, at once or in a few milliseconds (HOW WAITING WORKS).
 * One whose handler runs stays up to 10 ms more, to return what its handler's end told where that came soon enough; see
 * HOW A HANDLER IS STOPPED above.
 */

/* Makes a token, to be freed with pyproc_cancel_free. Errors: RESOURCE_EXHAUSTED. Any thread. */
int pyproc_cancel_new(pyproc_cancel **ret_cancel);

/* Fires the token; again is fine, and so is NULL. Any thread, but no signal handler. */
void pyproc_cancel_fire(pyproc_cancel *cancel);

/* 1 when the token was fired, else 0; 0 for NULL. Any thread. */
int pyproc_cancel_fired(const pyproc_cancel *cancel);

/* Gives the token up; calls that were made with it keep what they need. NULL is fine. Any thread. */
void pyproc_cancel_free(pyproc_cancel *cancel);

/* ---- calls ---- */

/*
 * Calls a typed method and waits for its reply; what the generated functions are made of. `request` is of the method's
 * request type, *ret_reply of its reply type; free that with pyproc_reply_free. `options` may be NULL. Any
 * thread.
 *
 * Errors: INVALID_ARGUMENT names the field that cannot be sent (a required string that is NULL, a string that is not
 * UTF-8), or the argument; DATA_LOSS: the reply is no such message; else see CODES above.
 */
int pyproc_call(pyproc_pool *pool, const pyproc_method *method, const ProtobufCMessage *request,
                const pyproc_call_options *options, ProtobufCMessage **ret_reply, pyproc_error **reterr);

/*
 * Calls a method by its name, with JSON text in and out, whatever the pool's protocol, and waits for its reply.
 * `method` is the name of a function that the script exposes (@expose), or "package.Service/Rpc" of a typed handler,
 * whose messages then have protobuf's JSON mapping. `body` is one JSON value: UTF-8, nested at most 98 deep, no NaN or
 * Infinity. *ret_body is one JSON value, NUL-terminated; free it with pyproc_reply_free. `options` may be NULL; the
 * schema's timeout_ms is not known here. Any thread.
 *
 * Errors: INVALID_ARGUMENT: `body` is no JSON, or not what the method takes; else see CODES.
 *
 * ```c
 * char *body = NULL;
 * if (pyproc_call_json(pool, "quickstart.Predictor/Predict", "{\"value\": 42}", NULL, &body, NULL) >= 0) puts(body);
 * pyproc_reply_free(body);
 * ```
 */
int pyproc_call_json(pyproc_pool *pool, const char *method, const char *body, const pyproc_call_options *options,
                     char **ret_body, pyproc_error **reterr);

/* ---- asynchronous calls ---- */

/*
 * Calls that no thread waits for. A submitted call ends in a callback, which runs when the program dispatches: from its
 * event loop, whenever the pool's descriptor is readable, or from a thread that does nothing else. A started call ends
 * in a future, for which any thread can wait. Both are sent by the calling thread, which never waits for a worker. The
 * thread that dispatches reads replies by itself while it waits, and for a while (`spin_us`) spins; while it is elsewhere,
 * and for futures, the supervisor does, which also minds deadlines; no other thread takes part.
 *
 * All that is passed in (request, options, name, body) is copied or sent before the function returns. Deadline, token,
 * queue_limit and codes are those of blocking calls. What is wrong from the outset fails right away, with a negative
 * result and *reterr, and then there is no callback and no future: a bad argument, a request that cannot be sent, a
 * deadline that has passed, a token that was fired, a full queue, a pool that is being closed.
 *
 * The supervisor runs the log and event callbacks, too: one of these that blocks holds up the end of asynchronous
 * calls.
 *
 * With an event loop:
 *
 * ```c
 * #include <poll.h>
 * #include <stdio.h>
 * #include "quickstart.pyproc.h"
 *
 * static quickstart_predictor_predict_done on_predicted;
 * static void on_predicted(int result, Quickstart__PredictReply *reply, pyproc_error *error, void *userdata) {
 *   int *open_calls = (int *)userdata;
 *   if (result < 0) fprintf(stderr, "%s\n", pyproc_error_message(error));
 *   else printf("%g\n", reply->result);
 *   pyproc_reply_free(reply);
 *   pyproc_error_free(error);
 *   (*open_calls)--;
 * }
 *
 * int main(void) {
 *   pyproc_pool_options options = PYPROC_POOL_OPTIONS_INIT;
 *   options.script = "gen/worker.py";
 *   pyproc_pool *pool = NULL;
 *   if (pyproc_pool_open(&options, &pool, NULL) < 0) return 1;
 *   int open_calls = 0;
 *   for (int i = 0; i < 8; i++) {
 *     Quickstart__PredictRequest request = QUICKSTART__PREDICT_REQUEST__INIT;
 *     request.value = i;
 *     open_calls += quickstart_predictor_predict_submit(pool, &request, NULL, on_predicted, &open_calls, NULL) == 0;
 *   }
 *   struct pollfd readable = {pyproc_pool_fd(pool), POLLIN, 0};
 *   while (open_calls > 0 && poll(&readable, 1, -1) >= 0 && pyproc_pool_dispatch(pool, 0) >= 0) {}
 *   pyproc_pool_close(pool);
 *   return 0;
 * }
 * ```
 *
 * With futures:
 *
 * ```c
 * pyproc_future *futures[4] = {NULL};
 * for (int i = 0; i < 4; i++) {
 *   Quickstart__PredictRequest request = QUICKSTART__PREDICT_REQUEST__INIT;
 *   request.value = i;
 *   if (quickstart_predictor_predict_start(pool, &request, NULL, &futures[i], NULL) < 0) return -1;
 * }
 * if (pyproc_future_wait_all(futures, 4, 1000) < 0) puts("not all within a second");
 * for (int i = 0; i < 4; i++) {
 *   Quickstart__PredictReply *reply = NULL;
 *   if (quickstart_predictor_predict_finish(futures[i], &reply, NULL) == 0) printf("%g\n", reply->result);
 *   pyproc_reply_free(reply);
 *   pyproc_future_free(futures[i]);
 * }
 * ```
 */

/* A call that was started, and its result once it is over. One thread at a time uses a future. */
typedef struct pyproc_future pyproc_future;

/*
 * The end of a submitted call, on the thread that dispatches. `result` is 0 and `reply` not NULL, or `result` is a
 * PYPROC_E* and `error` not NULL; the other one is NULL. Both are the callback's, which frees them with
 * pyproc_reply_free and pyproc_error_free, or keeps them. No lock is held: a callback may call the pool, submit, start,
 * fire tokens, and block, which holds up the callbacks after it. It must not close the pool, and must return (no
 * longjmp, no exception).
 */
typedef void pyproc_done(int result, ProtobufCMessage *reply, pyproc_error *error, void *userdata);

/* The same for a call with a JSON body, which is freed with pyproc_reply_free, too. */
typedef void pyproc_json_done(int result, char *body, pyproc_error *error, void *userdata);

/*
 * Sends a typed call whose end `done` is told; what the generated _submit functions are made of. Returns 0, and then
 * `done` runs exactly once with `userdata`, which is never looked at: in pyproc_pool_dispatch, possibly on another
 * thread before this returns, or in pyproc_pool_close. On failure it never runs. `options` may be NULL. Any thread;
 * never waits.
 *
 * Errors: those of pyproc_call that show before the call is sent; all others reach the callback.
 */
int pyproc_call_submit(pyproc_pool *pool, const pyproc_method *method, const ProtobufCMessage *request,
                       const pyproc_call_options *options, pyproc_done *done, void *userdata, pyproc_error **reterr);

/* pyproc_call_json whose end `done` is told; see pyproc_call_submit. */
int pyproc_call_json_submit(pyproc_pool *pool, const char *method, const char *body, const pyproc_call_options *options,
                            pyproc_json_done *done, void *userdata, pyproc_error **reterr);

/*
 * The descriptor to poll for reading: readable as long as callbacks wait to be run, whatever ended their calls, a
 * deadline included, so that no timer is needed beside it. Level-triggered, the same for the pool's life, and the
 * pool's: do not read, write or close it; take it out of the event loop before the pool is closed. Any thread.
 *
 * Errors: INVALID_ARGUMENT, FAILED_PRECONDITION (in a forked child); no pyproc_error.
 */
int pyproc_pool_fd(pyproc_pool *pool);

/*
 * Runs the callbacks of the calls that are over, in the order in which they ended, and returns how many. When there are
 * none it waits for one: up to `timeout_ms` milliseconds, 0: not at all, negative: without limit, also when no call is in
 * flight. Returns 0 when the time has passed. Unless `timeout_ms` is 0 it goes on with calls that end right after,
 * up to 256 callbacks and those that were there with the last of them; the rest is left for the next time. What
 * callbacks submit is sent together, at the latest when it returns. Any thread, but one at a time.
 *
 * Errors: INVALID_ARGUMENT; FAILED_PRECONDITION: another thread dispatches, or a callback calls this, or in a forked
 * child; UNAVAILABLE: the pool is being closed; no pyproc_error.
 */
int pyproc_pool_dispatch(pyproc_pool *pool, int timeout_ms);

/*
 * Sends a typed call and gives a future for its reply; what the generated _start functions are made of. Free
 * *ret_future with pyproc_future_free, whatever becomes of it. `options` may be NULL. Any thread; never waits.
 *
 * Errors: as pyproc_call_submit.
 */
int pyproc_call_start(pyproc_pool *pool, const pyproc_method *method, const ProtobufCMessage *request,
                      const pyproc_call_options *options, pyproc_future **ret_future, pyproc_error **reterr);

/*
 * Waits until one of `count` futures, which may be of several pools, is over, with whatever result. Returns the lowest
 * index of those that are; once its result is taken put NULL there: NULL entries are skipped. Waits up to `timeout_ms`
 * milliseconds, 0: not at all, negative: without limit. That it takes too long ends no call. Any thread.
 *
 * Errors: DEADLINE_EXCEEDED: none is over yet; INVALID_ARGUMENT: all entries are NULL, or there are more than INT_MAX;
 * FAILED_PRECONDITION: a call was started before this process was forked; no pyproc_error.
 */
int pyproc_future_wait_any(pyproc_future *const *futures, size_t count, int64_t timeout_ms);

/* The same until all of them are over; then, and where there are none, returns 0. */
int pyproc_future_wait_all(pyproc_future *const *futures, size_t count, int64_t timeout_ms);

/*
 * Takes the result of a started call, once: its reply, which is the caller's, or its error. Waits where the call is not
 * over, at most until its deadline. The future is still to be freed. Legal after the pool is closed.
 *
 * Errors: those of pyproc_call; FAILED_PRECONDITION: the result was taken before. The generated _finish functions also
 * refuse the future of another rpc (INVALID_ARGUMENT).
 */
int pyproc_future_finish(pyproc_future *future, ProtobufCMessage **ret_reply, pyproc_error **reterr);

/* Frees a future. A call that is not over is cancelled; a result that was not taken is lost. Legal after the pool is
 * closed. NULL is fine. */
void pyproc_future_free(pyproc_future *future);

/* ---- streams ---- */

/*
 * A call with any number of messages: those that the worker sends (`returns (stream Message)`, a server stream), those
 * that the program sends (a client stream), or both (bidirectional). pyproc-gen writes typed functions for each, which
 * are made of the ones below: _open, _send, _done_sending, _recv, _close, and _recv_submit and _send_submit for event
 * loops. The handler is a Python generator, or takes an iterator, or both.
 *
 * ```c
 * extern const pyproc_method *history;       // generated code passes these itself
 * extern const ProtobufCMessage *request;
 * pyproc_stream *stream = NULL;
 * pyproc_error *error = NULL;
 * int result = pyproc_stream_open(pool, history, request, NULL, &stream, &error);
 * ProtobufCMessage *message = NULL;
 * while (result >= 0 && (result = pyproc_stream_recv(stream, &message, &error)) == 1) {
 *   // … message is of the method's reply type …
 *   pyproc_reply_free(message);
 * }
 * if (result < 0) fprintf(stderr, "%s\n", pyproc_error_message(error));
 * pyproc_error_free(error);
 * pyproc_stream_close(stream);
 * ```
 *
 * The end. A stream ends with its handler, whose error or, for a client stream, whose reply comes by pyproc_stream_recv
 * after all messages that came before; likewise with its deadline, its token, its worker or its pool. Whatever ended it,
 * sending then returns 0, also a sending that waits, and receiving tells why. A stream has no deadline unless its options
 * or its schema set one (the pool's call_timeout_ms is for other calls), but stream_idle_timeout_ms.
 *
 * Flow control. Both sides may be ahead of each other by stream_window_bytes. A sender that is further ahead waits: the
 * program in pyproc_stream_send, a handler in its `yield`. So memory does not grow with the stream, and a stream that
 * nobody reads holds up nobody else.
 *
 * Workers. A stream belongs to one worker, the one with the fewest. Streams do not count towards max_in_flight and are
 * bounded by max_streams instead. While workers restart a stream waits for one, as calls do. When its worker dies a
 * stream goes on with another one if it had not begun and nothing but its request was sent; else it is UNAVAILABLE.
 *
 * Threads. One thread may send on a stream while another one receives; a second one that sends, or receives, meanwhile
 * is FAILED_PRECONDITION. pyproc_stream_close is called once, when no other thread is in a function of the stream. A
 * waiting thread takes part in reading the worker's socket, as with any call. Ownership is as for calls: what is sent is
 * copied before the function returns; what is received is the program's and freed with pyproc_reply_free.
 *
 * A stream may be closed after its pool: pyproc_pool_close ends streams that no thread waits in, nor has for 0.1 s, lets
 * the others go on for drain_timeout_ms, and leaves in each what the program has not yet received, and the error. In a
 * forked child every function is FAILED_PRECONDITION, and pyproc_stream_close frees memory only.
 */

/*
 * Opens a stream of a method that is not unary. For a server stream `request` is the one message that is sent, of the
 * method's request type; for others it must be NULL. `options` may be NULL. Free *ret_stream with pyproc_stream_close,
 * whatever becomes of the stream. Any thread; never waits.
 *
 * Errors: INVALID_ARGUMENT: an argument, or a field of the request that cannot be sent; RESOURCE_EXHAUSTED: as many
 * streams are open as max_streams allows, or too much waits; UNIMPLEMENTED: the worker lacks the method, or is too old for
 * streams; FAILED_PRECONDITION: the schemas do not fit; a deadline that has passed, a token that was fired, a pool that is
 * being closed. Others reach pyproc_stream_recv.
 */
int pyproc_stream_open(pyproc_pool *pool, const pyproc_method *method, const ProtobufCMessage *request,
                       const pyproc_call_options *options, pyproc_stream **ret_stream, pyproc_error **reterr);

/*
 * Sends one message, of the method's request type, on a client or bidirectional stream. Waits as long as the worker has
 * not taken enough of what was sent before. Returns 1: the message is on its way; 0: the stream is over and nothing
 * will be sent any more: pyproc_stream_recv has its result, or its error.
 *
 * Errors, after which the stream goes on: INVALID_ARGUMENT names the field that cannot be sent, or the argument;
 * RESOURCE_EXHAUSTED: the message is larger than frame_limit_bytes, or out of memory; FAILED_PRECONDITION: another
 * thread sends, a submitted message is not yet taken, or pyproc_stream_done_sending was called.
 */
int pyproc_stream_send(pyproc_stream *stream, const ProtobufCMessage *message, pyproc_error **reterr);

/*
 * Says that no more messages follow: the handler's iterator ends behind those that were sent. Returns 0, also when the
 * stream is over, or this was said before. Never waits.
 *
 * Errors: INVALID_ARGUMENT: a server stream; FAILED_PRECONDITION: another thread sends.
 */
int pyproc_stream_done_sending(pyproc_stream *stream, pyproc_error **reterr);

/*
 * Receives one message of the method's reply type, and waits for it. Returns 1: *ret_message is the caller's, to be
 * freed with pyproc_reply_free; 0: the stream has ended well; negative: it has ended with that error. Once it is not 1,
 * it is the same again for ever (each time with an error of its own). A client stream's reply comes as 1, then 0.
 *
 * Errors: those of a call, see CODES; DATA_LOSS: what came is no such message, which ends the stream. Errors after which
 * the stream goes on: INVALID_ARGUMENT: an argument; FAILED_PRECONDITION: another thread receives, or a submitted receive
 * is outstanding.
 */
int pyproc_stream_recv(pyproc_stream *stream, ProtobufCMessage **ret_message, pyproc_error **reterr);

/*
 * pyproc_stream_send that does not wait: `done` is told, when the program dispatches, with result 1, 0 or an error, and
 * `reply` always NULL. Until `done` runs nothing else may be sent (FAILED_PRECONDITION); it may send again itself. Returns
 * 0, and then `done` runs exactly once, in pyproc_pool_dispatch or pyproc_pool_close; what is wrong from the outset fails
 * right away and `done` never runs. A stream that is closed meanwhile: CANCELLED.
 */
int pyproc_stream_send_submit(pyproc_stream *stream, const ProtobufCMessage *message, pyproc_done *done, void *userdata,
                              pyproc_error **reterr);

/*
 * pyproc_stream_recv that does not wait: `done` is told, when the program dispatches, with result 1 and the message, 0
 * (then both others are NULL), or an error. Else as pyproc_stream_send_submit. A callback may submit the next receive,
 * and close the stream.
 *
 * Errors besides: UNAVAILABLE: the pool is being closed, and the end of the stream was told before.
 */
int pyproc_stream_recv_submit(pyproc_stream *stream, pyproc_done *done, void *userdata, pyproc_error **reterr);

/*
 * The metadata that the handler has sent so far: beside the messages that were received, and, once the end was received,
 * beside that; in this order, *ret_count entries, at most 64 and 16 KiB (what is more is left out). NULL and 0 where there
 * is none. What it sent beside a message is that message's, too (pyproc_reply_metadata), what it sent beside an error the
 * error's. `ret_count` may be NULL. Valid until this is called again, or the stream is closed; the thread that receives.
 */
const pyproc_metadata *pyproc_stream_metadata(pyproc_stream *stream, size_t *ret_count);

/*
 * Frees a stream. One that is not over is abandoned: its handler is stopped (GeneratorExit in a generator, Cancelled in
 * what iterates over requests, cancellation of a task), and messages that were not received are lost. Callbacks that are
 * outstanding run all the same, with CANCELLED. Never waits. Legal after the pool is closed. NULL is fine.
 */
void pyproc_stream_close(pyproc_stream *stream);

/* The metadata that the handler sent beside its reply, *ret_count entries; NULL and 0 where there is none. `reply` is
 * anything that pyproc_reply_free takes. `ret_count` may be NULL. Lives as long as the reply; one thread at a time. */
const pyproc_metadata *pyproc_reply_metadata(const void *reply, size_t *ret_count);

/* Frees a reply, a stream's message, or a JSON body, with all that it points to. Any thread, also after the pool is
 * closed. NULL is fine. */
void pyproc_reply_free(void *reply);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif

#ifdef __cplusplus
}
#endif
#endif
