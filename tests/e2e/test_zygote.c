/*
 * Workers that are forked by a Python which has imported what they need: what they find, what becomes of them when they or it
 * die, and when workers are started without it.
 */
#include <libgen.h>
#include <limits.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "platform.h"
#include "support.h"

enum { READY_MAX = 256 };
static const char *const standard = "decimal,json,ssl,uuid,multiprocessing.process";

/* A pool, and what is heard from it. */
typedef struct watched {
  pyproc_pool *pool;
  log_lines lines;
  pthread_mutex_t lock;
  int ready_count;
  long ready[READY_MAX]; /* pids, in order */
} watched;

static watched heard;

static void on_event(const pyproc_event *event, void *userdata) {
  watched *self = userdata;
  if (event->kind != PYPROC_EVENT_WORKER_READY) return;
  pthread_mutex_lock(&self->lock);
  if (self->ready_count < READY_MAX) self->ready[self->ready_count++] = event->worker_pid;
  pthread_mutex_unlock(&self->lock);
}

static pyproc_pool_options options_of(const char *preload) {
  pyproc_pool_options options = options_for("zygote_worker.py");
  log_lines_init(&heard.lines);
  pthread_mutex_init(&heard.lock, NULL);
  heard.ready_count = 0;
  options.preload = preload;
  options.log = log_lines_callback;
  options.log_userdata = &heard.lines;
  options.log_level = PYPROC_LOG_DEBUG;
  options.event = on_event;
  options.event_userdata = &heard;
  return options;
}

static bool has_heard(const char *part) {
  return log_lines_have(&heard.lines, part);
}

static int count_heard(const char *part) {
  int count = 0;
  pthread_mutex_lock(&heard.lines.lock);
  for (const char *at = heard.lines.text; (at = strstr(at, part)) != NULL; at++) count++;
  pthread_mutex_unlock(&heard.lines.lock);
  return count;
}

/* A module of that text which the options' Python finds. */
static const char *add_module(pyproc_pool_options *options, const char *name, const char *text) {
  static char variable[PATH_MAX + 16], no_cache[] = "PYTHONDONTWRITEBYTECODE=1", *env[3] = {variable, no_cache};
  char file[64], folder[PATH_MAX];
  snprintf(file, sizeof file, "%s.py", name);
  const char *path = temporary_path(file);
  FILE *to = fopen(path, "w");
  assert_non_null(to);
  fputs(text, to);
  assert_int_equal(fclose(to), 0);
  snprintf(folder, sizeof folder, "%s", path);
  snprintf(variable, sizeof variable, "PYTHONPATH=%s", dirname(folder));
  options->env = (const char *const *)env;
  options->preload = name;
  return path;
}

static long parent_pid(pyproc_pool *pool) {
  return call_number(pool, "parent", "null");
}

/* A pool of one forked worker; *ret_zygote is who forked it. */
static pyproc_pool *open_forked(const pyproc_pool_options *options, long *ret_zygote) {
  pyproc_pool *pool = open_pool(options);
  *ret_zygote = parent_pid(pool);
  assert_int_not_equal(*ret_zygote, getpid());
  return pool;
}

/* Closes it; nothing is left. */
static void close_forked(pyproc_pool *pool, long zygote) {
  pyproc_pool_close(pool);
  assert_false(process_lives(zygote));
  for (int i = 0; i < heard.ready_count; i++) assert_false(process_lives(heard.ready[i]));
}

static void kill_worker(pyproc_pool *pool) {
  pyproc_error_free(call_failure(pool, "crash", "\"SIGKILL\"", 0));
}

/* ---- what a worker finds ---- */

static void test_as_if_executed(void **state) {
  (void)state;
  static const char *const args[] = {"--size", "7", "", "ü", NULL};
  static const char *const env[] = {"E2E_VARIABLE=a=b\n", "OMP_NUM_THREADS=3", NULL};
  char *found[2];
  for (int i = 0; i < 2; i++) {
    pyproc_pool_options options = options_of(i == 0 ? NULL : standard);
    options.args = args;
    options.env = env;
    options.cwd = "/usr";
    pyproc_pool *pool = open_pool(&options);
    found[i] = call_json(pool, "about", "null");
    assert_answer(pool, "frozen", "null", i == 0 ? "false" : "true");
    assert_answer(pool, "found", "\"uuid\"", i == 0 ? "false" : "true");
    assert_answer(pool, "found", "\"pyproc_worker\"", i == 0 ? "false" : "true");
    assert_answer(pool, "found", "\"google.protobuf.internal.builder\"", i == 0 ? "false" : "true");
    assert_int_equal(parent_pid(pool) == getpid(), i == 0);
    assert_answer(pool, "say", "\"hello\"", "null");
    WAIT_FOR(has_heard("2 stdout: hello") && has_heard("3 stderr: hello"));
    pyproc_pool_close(pool);
  }
  assert_string_equal(found[0], found[1]);
  assert_contains(found[1], "\"leads\":true");
  for (int i = 0; i < 2; i++) pyproc_reply_free(found[i]);
}

static void test_descriptors(void **state) {
  (void)state;
  int count[2];
  for (int i = 0; i < 2; i++) {
    pyproc_pool_options options = options_of(i == 0 ? NULL : "decimal");
    pyproc_pool *pool = open_pool(&options);
    count[i] = (int)call_number(pool, "descriptors", "null");
    pyproc_pool_close(pool);
  }
#ifdef PYPROC_PLATFORM_LINUX
  assert_int_equal(count[0], count[1]);
#else /* each has the pipe of its end, a forked one the zygote's too */
  assert_int_equal(count[0] + 1, count[1]);
#endif
}

/* No part of the one is a part of the other, which are lists. */
static void assert_all_differ(const char *first, const char *second) {
  char *copy = strdup(first), *rest = NULL;
  int count = 0;
  for (char *part = strtok_r(copy, "[],", &rest); part != NULL; part = strtok_r(NULL, "[],", &rest), count++)
    if (strstr(second, part) != NULL) fail_msg("%s is in both %s and %s", part, first, second);
  assert_in_range(count, 4, 5);
  free(copy);
}

static void assert_seeds_differ(const char *preload) {
  char *seeds[3];
  long zygote;
  pyproc_pool_options options = options_of(preload);
  pyproc_pool *pool = open_forked(&options, &zygote);
  for (size_t i = 0; i < LENGTH(seeds); i++) {
    seeds[i] = call_json(pool, "seeds", "null");
    kill_worker(pool);
    assert_int_equal(parent_pid(pool), zygote);
  }
  close_forked(pool, zygote);
  for (size_t i = 0; i < LENGTH(seeds); i++) assert_all_differ(seeds[i], seeds[(i + 1) % LENGTH(seeds)]);
  for (size_t i = 0; i < LENGTH(seeds); i++) pyproc_reply_free(seeds[i]);
}

static void test_seeds(void **state) {
  (void)state;
  assert_seeds_differ(standard);
}

static bool has_numpy(void) {
  pyproc_pool *pool = NULL;
  pyproc_pool_options options = options_of("numpy");
  if (pyproc_pool_open(&options, &pool, NULL) < 0) return false;
  pyproc_pool_close(pool);
  return true;
}

static void test_numpy(void **state) {
  (void)state;
  if (!has_numpy()) skip();
  char *found[2];
  assert_seeds_differ("numpy,ssl,uuid,multiprocessing.process");
  for (int i = 0; i < 2; i++) {
    pyproc_pool_options options = options_of(i == 0 ? NULL : "numpy");
    pyproc_pool *pool = open_pool(&options);
    pyproc_reply_free(call_json(pool, "multiply", "10")); /* it may have to be imported */
    found[i] = call_json(pool, "multiply", "400");
    assert_int_equal(parent_pid(pool) == getpid(), i == 0);
    pyproc_pool_close(pool);
  }
  printf("threads before, product, threads after: %s executed, %s forked\n", found[0], found[1]);
  assert_string_equal(found[0], found[1]);
  for (int i = 0; i < 2; i++) pyproc_reply_free(found[i]);
}

/* The share of all workers together, in bytes. */
static long sum_of_pss(const char *preload, const char *imports) {
  enum { WORKERS = 8 };
  static char variable[128];
  static const char *const env[] = {variable, NULL};
  long sum = 0;
  snprintf(variable, sizeof variable, "E2E_IMPORT=%s", imports);
  pyproc_pool_options options = options_of(preload);
  options.workers = WORKERS;
  options.env = env;
  pyproc_pool *pool = open_pool(&options);
  WAIT_FOR(heard.ready_count == WORKERS);
  for (int i = 0; i < WORKERS; i++) {
    char path[64], line[256];
    long kib;
    snprintf(path, sizeof path, "/proc/%ld/smaps_rollup", heard.ready[i]);
    FILE *file = fopen(path, "r");
    while (file != NULL && fgets(line, sizeof line, file) != NULL)
      if (sscanf(line, "Pss: %ld", &kib) == 1) sum += kib * 1024;
    if (file != NULL) fclose(file);
  }
  pyproc_pool_close(pool);
  return sum;
}

static void test_memory(void **state) {
  (void)state;
  if (IS_SANITIZED) skip();
  const char *const imports = has_numpy() ? "numpy" : "decimal,json,ssl,email.message,xml.dom.minidom,asyncio,unittest";
  long executed = sum_of_pss(NULL, imports), forked = sum_of_pss(imports, imports);
  if (executed == 0) skip(); /* the kernel does not tell */
  printf("proportional set size of 8 workers with %s: %ld KiB executed, %ld KiB forked (%ld %%)\n", imports,
         executed / 1024, forked / 1024, forked * 100 / executed);
  assert_true(forked * 100 <= executed * 40);
}

/* ---- ends ---- */

static void test_a_worker_dies(void **state) {
  (void)state;
  long zygote;
  pyproc_pool_options options = options_of("decimal");
  options.poison_limit = PYPROC_OFF; /* the same request kills on and on */
  pyproc_pool *pool = open_forked(&options, &zygote);
  for (int i = 0; i < scaled(20); i++) {
    long before = worker_pid(pool);
    pyproc_error *error = call_failure(pool, "crash", "\"SIGABRT\"", 0);
    const pyproc_crash *crash = pyproc_error_crash(error);
    assert_non_null(crash);
    assert_int_equal(crash->signal, SIGABRT);
    assert_int_equal(crash->pid, before);
    assert_string_equal(crash->method, "crash");
    assert_true(crash->rss_bytes > (long)MIB);
    assert_error(error, PYPROC_E_UNAVAILABLE, "was killed by signal 6", RAN);
    assert_int_equal(parent_pid(pool), zygote);
    assert_int_not_equal(worker_pid(pool), before);
  }
  pyproc_error *error = call_failure(pool, "die", "7", 0);
  assert_int_equal(pyproc_error_crash(error)->exit_status, 7);
  assert_string_equal(pyproc_error_log(error), "last words");
  assert_error(error, PYPROC_E_UNAVAILABLE, "exited with status 7", RAN);
  long grandchild = call_number(pool, "child", "null");
  kill_worker(pool);
  assert_int_equal(parent_pid(pool), zygote);
  WAIT_FOR(!process_lives(grandchild));
  assert_false(has_heard("by exec"));
  close_forked(pool, zygote);
}

static void test_the_zygote_dies(void **state) {
  (void)state;
  long zygote;
  pyproc_pool_options options = options_of("decimal");
  pyproc_pool *pool = open_forked(&options, &zygote);
#ifdef PYPROC_PLATFORM_LINUX
  long worker = worker_pid(pool);
#endif
  kill((pid_t)zygote, SIGKILL);
  WAIT_FOR(count_heard("zygote: ready") == 2);
  WAIT_FOR(has_heard("zygote: was killed by signal 9"));
#ifdef PYPROC_PLATFORM_LINUX
  assert_int_equal(worker_pid(pool), worker); /* it lives on */
  assert_error(call_failure(pool, "die", "7", 0), PYPROC_E_UNAVAILABLE, "its exit status is unknown, as the zygote",
               RAN);
#endif
  pyproc_call_options patient = PYPROC_CALL_OPTIONS_INIT;
  patient.max_attempts = 10;
  char *reply = NULL;
  assert_int_equal(pyproc_call_json(pool, "parent", "null", &patient, &reply, NULL), 0);
  long successor = strtol(reply, NULL, 10);
  pyproc_reply_free(reply);
  assert_int_not_equal(successor, zygote);
  assert_int_not_equal(successor, getpid());
  kill_worker(pool);
  assert_int_equal(parent_pid(pool), successor);
  close_forked(pool, successor);
}

/* It is killed again and again before it has forked: workers are started without it meanwhile. */
static void test_a_zygote_that_keeps_dying(void **state) {
  (void)state;
  long zygote;
  pyproc_pool_options options = options_of("decimal");
  options.restart_window_ms = 500;
  const char *mark = temporary_path("mark");
  char text[PATH_MAX + 128];
  snprintf(text, sizeof text, "import os\nif os.path.exists('%s'):\n    os._exit(9)\n", mark);
  add_module(&options, "sometimes", text);
  pyproc_pool *pool = open_forked(&options, &zygote);
  assert_true(touch(mark));
  kill((pid_t)zygote, SIGKILL);
  WAIT_FOR(has_heard("zygote: exited with status 9"));
  pyproc_call_options patient = PYPROC_CALL_OPTIONS_INIT;
  patient.max_attempts = 10;
  for (int i = 0; i < 3; i++) {
    char *reply = NULL;
    pyproc_call_json(pool, "crash", "\"SIGKILL\"", NULL, &reply, NULL);
    assert_int_equal(pyproc_call_json(pool, "ping", "1", &patient, &reply, NULL), 0);
    pyproc_reply_free(reply);
  }
  WAIT_FOR(has_heard("started by exec, without option preload: the zygote "));
  assert_int_equal(unlink(mark), 0);
  WAIT_FOR(count_heard("zygote: ready") == 2);
  kill_worker(pool);
  long successor = parent_pid(pool);
  assert_int_not_equal(successor, getpid());
  close_forked(pool, successor);
}

static void test_the_zygote_is_stopped(void **state) {
  (void)state;
  long zygote;
  pyproc_pool_options options = options_of("decimal");
  pyproc_pool *pool = open_forked(&options, &zygote);
  kill((pid_t)zygote, SIGSTOP);
  assert_int_equal(pyproc_pool_resize(pool, 2, NULL), 0); /* asks for a fork */
  WAIT_FOR(has_heard("worker 1: started by exec, without option preload: the zygote "));
  WAIT_FOR(has_heard("did not answer within"));
  assert_false(process_lives(zygote));
  assert_int_equal(pyproc_pool_resize(pool, 1, NULL), 0);
  WAIT_FOR(count_heard("zygote: ready") == 2);
#ifdef PYPROC_PLATFORM_LINUX /* elsewhere the end of a child may be seen late */
  kill_worker(pool);         /* its status is not known any more */
  long second = parent_pid(pool);
  assert_true(second != zygote && second != getpid());
  kill((pid_t)second, SIGSTOP);
  assert_error(call_failure(pool, "die", "7", 0), PYPROC_E_UNAVAILABLE, "its exit status is unknown, as the zygote",
               RAN);
  WAIT_FOR(has_heard("did not say how a worker had ended"));
  assert_answer(pool, "ping", "1", "1");
  pyproc_pool_close(pool);
  assert_false(process_lives(second));
#else
  pyproc_pool_close(pool);
#endif
}

/* What it forks while the pool is closed already ends as well; the teardown sees whether all is let go of. */
static void test_closed_while_it_forks(void **state) {
  (void)state;
  long zygote;
  char text[PATH_MAX + 256];
  pyproc_pool_options options = options_of(NULL);
  const char *mark = temporary_path("mark"), *forked = temporary_path("forked");
  snprintf(text, sizeof text,
           "import os, time\nreal = os.fork\n"
           "def fork():\n"
           "    if os.path.exists('%s'):\n"
           "        time.sleep(0.3)\n"
           "        open('%s', 'w').close()\n"
           "    return real()\n"
           "os.fork = fork\n",
           mark, forked);
  add_module(&options, "slow", text);
  pyproc_pool *pool = open_forked(&options, &zygote);
  assert_true(touch(mark));
  kill((pid_t)heard.ready[0], SIGKILL);
  WAIT_FOR(has_heard("was killed by signal 9"));
  pause_ms(100);
  close_forked(pool, zygote);
  assert_int_equal(access(forked, F_OK), 0);
}

/* A place that waits for it is given up, and taken again. */
static void test_resized_while_it_imports(void **state) {
  (void)state;
  long zygote;
  char text[PATH_MAX + 128];
  pyproc_pool_options options = options_of(NULL);
  const char *mark = temporary_path("mark");
  snprintf(text, sizeof text, "import os, time\nif os.path.exists('%s'):\n    time.sleep(1)\n", mark);
  add_module(&options, "slow", text);
  pyproc_pool *pool = open_forked(&options, &zygote);
  assert_int_equal(pyproc_pool_resize(pool, 2, NULL), 0);
  WAIT_FOR(heard.ready_count == 2);
  assert_true(touch(mark));
  kill((pid_t)zygote, SIGKILL);
  WAIT_FOR(has_heard("zygote: was killed by signal 9"));
  kill((pid_t)heard.ready[1], SIGKILL);
  WAIT_FOR(has_heard("worker 1: worker "));
  pause_ms(300); /* past its backoff */
  assert_int_equal(pyproc_pool_resize(pool, 1, NULL), 0);
  assert_int_equal(pyproc_pool_resize(pool, 2, NULL), 0);
  WAIT_FOR(count_heard("zygote: ready") == 2);
  assert_answer(pool, "ping", "1", "1");
  pyproc_pool_close(pool);
}

/* ---- when it is not to be had ---- */

static void assert_executed(const pyproc_pool_options *options, const char *why) {
  pyproc_pool *pool = open_pool(options);
  assert_int_equal(parent_pid(pool), getpid());
  pyproc_error_free(call_failure(pool, "die", "1", 0));
  assert_int_equal(parent_pid(pool), getpid());
  assert_int_equal(count_heard("worker 0: started by exec, without option preload: "), 2);
  if (!has_heard(why)) fail_msg("\"%s\" is not in the log:\n%s", why, heard.lines.text);
  pyproc_pool_close(pool);
}

static void test_threads(void **state) {
  (void)state;
  pyproc_pool_options options = options_of(NULL);
  add_module(&options, "threaded",
             "import threading, time\n"
             "threading.Thread(target=time.sleep, args=(600,), name='ticker', daemon=True).start()\n");
  if (IS_SANITIZED) skip(); /* there are more */
  assert_executed(&options, "a fork is not safe: 1 more thread runs in it (ticker)");
}

static void test_a_thread_appears_later(void **state) {
  (void)state;
  if (IS_SANITIZED) skip();
  long zygote;
  pyproc_pool_options options = options_of(NULL);
  add_module(&options, "late",
             "import os, threading, time\n"
             "def tick():\n"
             "    threading.Thread(target=time.sleep, args=(600,), name='ticker', daemon=True).start()\n"
             "os.register_at_fork(after_in_parent=tick)\n");
  pyproc_pool *pool = open_forked(&options, &zygote);
  kill_worker(pool);
  assert_int_equal(parent_pid(pool), getpid());
  WAIT_FOR(has_heard("the zygote cannot fork: 1 more thread runs in it (ticker)"));
  close_forked(pool, zygote);
}

static void test_fork_fails(void **state) {
  (void)state;
  pyproc_pool_options options = options_of(NULL);
  add_module(&options, "unable",
             "import os\n"
             "def fork():\n"
             "    raise BlockingIOError(11, 'no process')\n"
             "os.fork = fork\n");
  assert_executed(&options, "the zygote cannot fork: [Errno 11] no process");
}

static void test_not_in_a_folder(void **state) {
  (void)state;
  pyproc_pool_options options = options_of(NULL);
  options.cwd = temporary_path("nowhere");
  options.preload = "decimal";
  assert_error(open_failure(&options), PYPROC_E_NOT_FOUND, "nowhere", NOT_RUN);
}

/* A pool whose zygote is spoilt by a module answers all the same, and its log says what it heard. */
static void assert_serves_beside(const char *name, const char *module, const char *line) {
  pyproc_pool_options options = options_of(NULL);
  add_module(&options, name, module);
  pyproc_pool *pool = open_pool(&options);
  assert_answer(pool, "ping", "1", "1");
  pyproc_pool_close(pool);
  WAIT_FOR(has_heard(line));
}

/* A zygote that names another process as its child would have us kill that one. */
static void test_a_lie(void **state) {
  (void)state;
  static const char *const lies[] = {"real() and os.getppid()", "real() and 1", "real() and os.getpid()",
                                     "real() and 2 ** 31 - 1"};
#ifndef PYPROC_PLATFORM_LINUX
  skip(); /* the system does not tell whose child a process is */
#endif
  for (size_t i = 0; i < LENGTH(lies); i++) {
    char text[256];
    snprintf(text, sizeof text, "import os\nreal = os.fork\nos.fork = lambda: %s\n", lies[i]);
    assert_serves_beside("lies", text, "started by exec");
  }
}

static void test_nonsense(void **state) {
  (void)state;
  static const char *const texts[] = {"b'\\xff' * 99", "bytes(4)", "bytes([0, 0, 0, 24]) + bytes(24)",
                                      "bytes([0, 0, 0, 24, 5]) + bytes(23)", "bytes([0, 0, 0, 24, 7]) + bytes(23)"};
  for (size_t i = 0; i < LENGTH(texts); i++) {
    char text[256];
    snprintf(text, sizeof text, "import os\nos.write(3, %s)\n", texts[i]);
    assert_serves_beside("nonsense", text, "sent what makes no sense");
  }
}

static void test_modules_that_fail(void **state) {
  (void)state;
  pyproc_pool_options options = options_of("decimal,no_such_module");
  pyproc_error *error = open_failure(&options);
  assert_string_equal(pyproc_error_type(error), "ModuleNotFoundError");
  assert_contains(pyproc_error_message(error), "option preload");
  assert_error(error, PYPROC_E_FAILED_PRECONDITION, "cannot import 'no_such_module': ModuleNotFoundError", NOT_RUN);
  options = options_of(NULL);
  const char *path =
      add_module(&options, "failing", "print('so far')\ndef load():\n    raise OSError('disk')\nload()\n");
  error = open_failure(&options);
  assert_string_equal(pyproc_error_type(error), "OSError");
  assert_contains(pyproc_error_traceback(error), path);
  assert_contains(pyproc_error_traceback(error), "line 3, in load");
  assert_null(strstr(pyproc_error_traceback(error), "_zygote.py"));
  assert_contains(pyproc_error_log(error), "so far");
  assert_error(error, PYPROC_E_FAILED_PRECONDITION, "cannot import 'failing': OSError: disk", NOT_RUN);
  options = options_of(NULL);
  add_module(&options, "leaving", "import sys\nsys.exit(3)\n");
  assert_error(open_failure(&options), PYPROC_E_FAILED_PRECONDITION, "cannot import 'leaving': SystemExit: 3", NOT_RUN);
  options = options_of(NULL);
  add_module(&options, "dying", "import os\nos.kill(os.getpid(), 9)\n");
  assert_error(open_failure(&options), PYPROC_E_UNAVAILABLE, "was killed by signal 9 (Killed) while it imported dying",
               NOT_RUN);
  options = options_of(NULL);
  add_module(&options, "endless", "import time\ntime.sleep(600)\n");
  options.start_timeout_ms = 300;
  assert_error(open_failure(&options), PYPROC_E_DEADLINE_EXCEEDED, "it imports endless", NOT_RUN);
}

/* ---- changes ---- */

static void test_reload(void **state) {
  (void)state;
  long zygote;
  pyproc_error *error = NULL;
  pyproc_pool_options options = options_of(NULL);
  const char *path = add_module(&options, "changing", "CONSTANT = 1\n");
  pyproc_pool *pool = open_forked(&options, &zygote);
  assert_answer(pool, "constant", "\"changing\"", "1");
  add_module(&options, "changing", "CONSTANT = 22\n");
  assert_int_equal(pyproc_pool_reload(pool, NULL, NULL), 0);
  assert_answer(pool, "constant", "\"changing\"", "22");
  long second = parent_pid(pool);
  assert_true(second != zygote && second != getpid());
  WAIT_FOR(!process_lives(zygote));

  add_module(&options, "changing", "raise ValueError('half written')\n");
  assert_int_equal(pyproc_pool_reload(pool, NULL, &error), PYPROC_E_FAILED_PRECONDITION);
  assert_error(error, PYPROC_E_FAILED_PRECONDITION, "cannot import 'changing': ValueError: half written", NOT_RUN);
  kill_worker(pool);
  assert_answer(pool, "constant", "\"changing\"", "22");
  assert_int_equal(parent_pid(pool), second);

  add_module(&options, "changing", "CONSTANT = 333\n");
  assert_int_equal(pyproc_pool_reload(pool, NULL, NULL), 0);
  assert_answer(pool, "constant", "\"changing\"", "333");
  options.preload = "decimal,changing";
  assert_int_equal(pyproc_pool_reload(pool, &options, NULL), 0);
  WAIT_FOR(has_heard("it has imported decimal,changing"));
  options.preload = NULL;
  assert_int_equal(pyproc_pool_reload(pool, &options, NULL), 0);
  assert_int_equal(parent_pid(pool), getpid());
  WAIT_FOR(!process_lives(second));
  pyproc_pool_close(pool);
  assert_int_equal(unlink(path), 0);
}

static void test_resize_and_recycle(void **state) {
  (void)state;
  long zygote;
  pyproc_pool_options options = options_of("decimal");
  options.recycle_age_ms = 300;
  pyproc_pool *pool = open_forked(&options, &zygote);
  assert_int_equal(pyproc_pool_resize(pool, 6, NULL), 0);
  assert_int_equal(pyproc_pool_resize(pool, 2, NULL), 0);
  WAIT_FOR(heard.ready_count > 12);
  for (int i = 0; i < 10; i++) assert_int_equal(parent_pid(pool), zygote);
  assert_false(has_heard("by exec"));
  pyproc_pool_close(pool);
  assert_false(process_lives(zygote));
}

static void test_limits(void **state) {
  (void)state;
  char *found[2];
  for (int i = 0; i < 2; i++) {
    pyproc_pool_options options = options_of(i == 0 ? NULL : "decimal");
    options.script = gen_path("limits_worker.py");
    options.nice = 3;
    options.files_limit = 99;
    options.umask = 0027;
    options.affinity = "spread";
    options.core_limit_bytes = PYPROC_OFF;
    options.cpu_limit_seconds = 500;
#ifdef PYPROC_PLATFORM_LINUX
    options.no_new_privs = 1;
#endif
    options.clear_env = 1;
    pyproc_pool *pool = open_pool(&options);
    assert_int_equal(has_heard("zygote: ready"), i);
    found[i] = call_json(pool, "facts", "null");
    pyproc_reply_free(call_json(pool, "environment", "null"));
    pyproc_pool_close(pool);
  }
  assert_string_equal(found[0], found[1]);
  for (int i = 0; i < 2; i++) pyproc_reply_free(found[i]);
}

/* ---- the host ---- */

/* Opens a pool, tells the pids, and is killed. */
static void be_killed(int report, long pids[3]) {
  pyproc_pool *pool = NULL;
  pyproc_pool_options options = options_of("decimal");
  options.workers = 2;
  if (pyproc_pool_open(&options, &pool, NULL) < 0) _exit(1);
  WAIT_FOR(heard.ready_count == 2);
  pids[0] = heard.ready[0];
  pids[1] = heard.ready[1];
  pids[2] = parent_pid(pool);
  if (write(report, pids, 3 * sizeof *pids) < 0) _exit(2);
  pause_ms(600000);
  _exit(3);
}

static void test_the_host_is_killed(void **state) {
  (void)state;
  int report[2], status = 0;
  long pids[3] = {0};
  assert_int_equal(pipe(report), 0);
  fflush(stdout);
  assert_int_equal(prctl(PR_SET_CHILD_SUBREAPER, 1), 0); /* what is left becomes ours */
  pid_t host = fork();
  assert_true(host >= 0);
  if (host == 0) be_killed(report[1], pids);
  close(report[1]);
  assert_int_equal(read(report[0], pids, sizeof pids), sizeof pids);
  for (int i = 0; i < 3; i++) assert_true(process_lives(pids[i]));
  kill(host, SIGKILL);
  for (int i = 0; i < 3; i++) WAIT_FOR(!process_lives(pids[i]));
  assert_int_equal(waitpid(host, &status, 0), host);
  WAIT_FOR(waitpid(-1, &status, WNOHANG) < 0); /* all that became ours has ended */
  assert_int_equal(prctl(PR_SET_CHILD_SUBREAPER, 0), 0);
  close(report[0]);
}

static void test_the_host_forks(void **state) {
  (void)state;
  long zygote;
  int status = 0;
  pyproc_pool_options options = options_of("decimal");
  pyproc_pool *pool = open_forked(&options, &zygote);
  fflush(stdout);
  pid_t child = fork();
  if (child == 0) {
    char *reply = NULL;
    int result = pyproc_call_json(pool, "ping", "1", NULL, &reply, NULL);
    pyproc_pool_close(pool);
    _exit(result == PYPROC_E_FAILED_PRECONDITION ? 0 : 1);
  }
  assert_int_equal(waitpid(child, &status, 0), child);
  assert_int_equal(status, 0);
  assert_int_equal(parent_pid(pool), zygote);
  kill_worker(pool);
  assert_int_equal(parent_pid(pool), zygote);
  close_forked(pool, zygote);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      E2E_TEST(test_as_if_executed),
      E2E_TEST(test_descriptors),
      E2E_TEST(test_seeds),
      E2E_TEST(test_numpy),
      E2E_TEST(test_memory),
      E2E_TEST(test_a_worker_dies),
      E2E_TEST(test_the_zygote_dies),
      E2E_TEST(test_a_zygote_that_keeps_dying),
      E2E_TEST(test_the_zygote_is_stopped),
      E2E_TEST(test_closed_while_it_forks),
      E2E_TEST(test_resized_while_it_imports),
      E2E_TEST(test_a_thread_appears_later),
      E2E_TEST(test_reload),
      E2E_TEST(test_resize_and_recycle),
      E2E_TEST(test_limits),
      E2E_TEST(test_the_host_forks),
      E2E_TEST(test_the_host_is_killed),
      E2E_TEST(test_threads),
      E2E_TEST(test_fork_fails),
      E2E_TEST(test_not_in_a_folder),
      E2E_TEST(test_a_lie),
      E2E_TEST(test_nonsense),
      E2E_TEST(test_modules_that_fail),
  };
#ifdef __SANITIZE_THREAD__ /* it has a thread of its own in every Python, so that nothing is ever forked */
  const struct CMUnitTest without[] = {
      E2E_TEST(test_nonsense),
      E2E_TEST(test_modules_that_fail),
      E2E_TEST(test_not_in_a_folder),
  };
  return RUN_TESTS(sizeof tests == 0 ? tests : without);
#endif
  return RUN_TESTS(tests);
}
