#include "support.h"

#include <dirent.h>
#include <errno.h>
#include <grp.h>
#include <limits.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PATHS_MAX = 256 };

static int fds_before;
static bool child_before; /* of a test that failed */
static char *temporary_folder;
static char *paths[PATHS_MAX];
static int path_count;

int count_fds(void) {
  int count = 0;
  DIR *folder = opendir("/proc/self/fd");
  while (readdir(folder) != NULL) count++;
  closedir(folder);
  return count;
}

/* Field 4 of /proc/PID/stat; the name before it may hold anything but a newline. */
static long parent_of(const char *pid) {
  char path[300], text[512] = "";
  snprintf(path, sizeof path, "/proc/%s/stat", pid);
  FILE *file = fopen(path, "r");
  if (file == NULL) return -1;
  size_t size = fread(text, 1, sizeof text - 1, file);
  fclose(file);
  text[size] = '\0';
  const char *end = strrchr(text, ')');
  return end != NULL && strlen(end) > 4 ? strtol(end + 4, NULL, 10) : -1;
}

int count_children(long *ret_one) {
  int count = 0;
  DIR *folder = opendir("/proc");
  for (const struct dirent *entry; (entry = readdir(folder)) != NULL;) {
    if (entry->d_name[0] < '1' || entry->d_name[0] > '9' || parent_of(entry->d_name) != getpid()) continue;
    if (ret_one != NULL) *ret_one = strtol(entry->d_name, NULL, 10);
    count++;
  }
  closedir(folder);
  return count;
}

int support_setup(void **state) {
  (void)state;
  fds_before = count_fds();
  child_before = count_children(NULL) != 0;
  return 0;
}

/* Returns whether nothing is left. */
static bool remove_temporary(void) {
  bool is_removed = true;
  if (temporary_folder != NULL) {
    DIR *folder = opendir(temporary_folder);
    for (const struct dirent *entry; folder != NULL && (entry = readdir(folder)) != NULL;)
      unlinkat(dirfd(folder), entry->d_name, 0);
    if (folder != NULL) closedir(folder);
    is_removed = rmdir(temporary_folder) == 0;
    if (!is_removed) print_error("%s is left\n", temporary_folder);
    free(temporary_folder);
    temporary_folder = NULL;
  }
  while (path_count > 0) free(paths[--path_count]);
  return is_removed;
}

int support_teardown(void **state) {
  (void)state;
  bool is_clean = remove_temporary();
  int fds = count_fds();
  for (int i = 0; i < 2000 && fds > fds_before;
       i++) { /* libgrpc closes some in a thread of its own, also after the test before */
    pause_ms(5);
    fds = count_fds();
  }
  if (fds > fds_before) print_error("%d descriptors before the test, %d after it\n", fds_before, fds);
  is_clean &= fds <= fds_before;
  if (child_before) return is_clean ? 0 : -1;
  long child = 0;
  bool none = count_children(&child) == 0 && waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD;
  if (!none) print_error("a child process is left: %ld\n", child);
  return is_clean && none ? 0 : -1;
}

int scaled(int count) {
  const char *text = getenv("PYPROC_TEST_SCALE");
  long percent = text != NULL ? strtol(text, NULL, 10) : 100;
  long result = count * percent / 100;
  return result > 0 ? (int)result : 1;
}

void pause_ms(int ms) {
  struct timespec time = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};
  while (nanosleep(&time, &time) < 0 && errno == EINTR) {}
}

int64_t now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static const char *keep_path(const char *folder, const char *name) {
  char path[PATH_MAX];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  if (path_count == PATHS_MAX) abort();
  paths[path_count] = strdup(path);
  return paths[path_count++];
}

static const char *folder_of(const char *variable) {
  const char *folder = getenv(variable);
  if (folder != NULL) return folder;
  print_error("%s is not set: run the tests with ctest\n", variable);
  exit(2);
}

const char *gen_path(const char *name) {
  return keep_path(folder_of("PYPROC_TEST_GEN"), name);
}

const char *source_path(const char *name) {
  return keep_path(folder_of("PYPROC_TEST_SOURCE"), name);
}

const char *test_python(void) {
  const char *python = getenv("PYPROC_PYTHON");
  return python != NULL ? python : "python3";
}

const char *temporary_path(const char *name) {
  if (temporary_folder == NULL) {
    char folder[] = "/tmp/pyproc-e2e-XXXXXX";
    assert_non_null(mkdtemp(folder));
    temporary_folder = strdup(folder);
  }
  return keep_path(temporary_folder, name);
}

bool touch(const char *path) {
  FILE *file = fopen(path, "w");
  return file != NULL && fclose(file) == 0;
}

char *read_file(const char *path) {
  FILE *file = fopen(path, "r");
  if (file == NULL) return NULL;
  char *text = calloc(1, 1 << 16);
  if (text != NULL && fread(text, 1, (1 << 16) - 1, file) == 0) text[0] = '\0';
  fclose(file);
  return text;
}

/* ---- pools ---- */

pyproc_pool_options options_for(const char *script) {
  pyproc_pool_options options = PYPROC_POOL_OPTIONS_INIT;
  options.script = gen_path(script);
  options.workers = 1;
  options.channel = getenv("PYPROC_TEST_CHANNEL");
  if (getenv("PYPROC_TEST_VERBOSE") != NULL) {
    options.log = pyproc_log_to_stderr;
    options.log_level = PYPROC_LOG_DEBUG;
  }
  return options;
}

pyproc_pool *open_pool(const pyproc_pool_options *options) {
  pyproc_pool *pool = NULL;
  pyproc_error *error = NULL;
  int result = pyproc_pool_open(options, &pool, &error);
  if (result < 0) {
    print_error("open: %d %s\n%s\n", result, pyproc_error_message(error), pyproc_error_log(error));
    pyproc_error_free(error);
    fail_msg("the pool did not open");
  }
  assert_int_equal(result, 0);
  assert_null(error);
  assert_non_null(pool);
  return pool;
}

pyproc_error *open_failure(const pyproc_pool_options *options) {
  pyproc_pool *pool = NULL;
  pyproc_error *error = NULL;
  int result = pyproc_pool_open(options, &pool, &error);
  if (result >= 0) pyproc_pool_close(pool);
  assert_true(result < 0);
  assert_null(pool);
  assert_non_null(error);
  assert_int_equal(result, pyproc_error_code(error));
  return error;
}

/* ---- calls ---- */

char *call_json(pyproc_pool *pool, const char *method, const char *body) {
  char *reply = NULL;
  pyproc_error *error = NULL;
  int result = pyproc_call_json(pool, method, body, NULL, &reply, &error);
  if (result < 0) {
    print_error("%s(%.200s): %d %s\n%s\n%s\n", method, body, result, pyproc_error_message(error),
                pyproc_error_traceback(error), pyproc_error_log(error));
    pyproc_error_free(error);
    fail_msg("the call failed");
  }
  assert_null(error);
  assert_non_null(reply);
  return reply;
}

void assert_answer(pyproc_pool *pool, const char *method, const char *body, const char *expected) {
  char *reply = call_json(pool, method, body);
  assert_string_equal(reply, expected);
  pyproc_reply_free(reply);
}

pyproc_error *call_failure(pyproc_pool *pool, const char *method, const char *body, int64_t timeout_ms) {
  static char untouched;
  char *reply = &untouched;
  pyproc_error *error = NULL;
  pyproc_call_options options = PYPROC_CALL_OPTIONS_INIT;
  options.timeout_ms = timeout_ms;
  int result = pyproc_call_json(pool, method, body, &options, &reply, &error);
  if (result >= 0) print_error("%s(%.200s) answered %.200s\n", method, body, reply);
  assert_true(result < 0);
  assert_ptr_equal(reply, &untouched);
  assert_non_null(error);
  assert_int_equal(result, pyproc_error_code(error));
  return error;
}

long call_number(pyproc_pool *pool, const char *method, const char *body) {
  char *reply = call_json(pool, method, body);
  long number = strtol(reply, NULL, 10);
  pyproc_reply_free(reply);
  return number;
}

/* ---- errors ---- */

void assert_contains_at(const char *text, const char *part, const char *file, int line) {
  if (text != NULL && strstr(text, part) != NULL) return;
  print_error("\"%s\" does not contain \"%s\"\n", text != NULL ? text : "(NULL)", part);
  _fail(file, line);
}

void assert_error_at(pyproc_error *error, int code, const char *part, int may_have_run, const char *file, int line) {
  const char *message = pyproc_error_message(error);
  bool right = pyproc_error_code(error) == code && message != NULL && strstr(message, part) != NULL &&
               pyproc_error_may_have_run(error) == may_have_run;
  if (!right)
    print_error("expected %d \"… %s …\" may_have_run %d,\nfound    %d \"%s\" may_have_run %d\nlog: %s\n", code, part,
                may_have_run, pyproc_error_code(error), message, pyproc_error_may_have_run(error),
                pyproc_error_log(error));
  pyproc_error_free(error);
  if (!right) _fail(file, line);
}

/* ---- logs ---- */

void log_lines_init(log_lines *self) {
  memset(self, 0, sizeof *self);
  pthread_mutex_init(&self->lock, NULL);
}

void log_lines_callback(const pyproc_log_record *record, void *userdata) {
  log_lines *self = userdata;
  pthread_mutex_lock(&self->lock);
  size_t room = sizeof self->text - self->size;
  int length = snprintf(self->text + self->size, room, "%d %s: %s\n", record->level, record->source, record->text);
  if (length > 0 && (size_t)length < room)
    self->size += (size_t)length;
  else
    self->text[self->size] = '\0';
  self->count++;
  pthread_mutex_unlock(&self->lock);
}

bool log_lines_have(log_lines *self, const char *part) {
  pthread_mutex_lock(&self->lock);
  bool found = strstr(self->text, part) != NULL;
  pthread_mutex_unlock(&self->lock);
  return found;
}

/* ---- threads and processes ---- */

typedef struct one_thread {
  pthread_t thread;
  int number;
  void (*function)(int number, void *argument);
  void *argument;
} one_thread;

static void *run_one(void *argument) {
  one_thread *one = argument;
  one->function(one->number, one->argument);
  return NULL;
}

void run_threads(int count, void (*function)(int number, void *argument), void *argument) {
  one_thread *all = calloc((size_t)count, sizeof *all);
  assert_non_null(all);
  for (int i = 0; i < count; i++) {
    all[i] = (one_thread){.number = i, .function = function, .argument = argument};
    assert_int_equal(pthread_create(&all[i].thread, NULL, run_one, &all[i]), 0);
  }
  for (int i = 0; i < count; i++) pthread_join(all[i].thread, NULL);
  free(all);
}

/* As /proc/PID/stat has it; 0: there is no such process. */
static char state_of(long pid) {
  char path[64], state = 0;
  snprintf(path, sizeof path, "/proc/%ld/stat", pid);
  FILE *file = fopen(path, "r");
  if (file == NULL) return 0;
  if (fscanf(file, "%*d (%*[^)]) %c", &state) != 1) state = 0;
  fclose(file);
  return state;
}

bool process_lives(long pid) {
  char state = state_of(pid);
  return state != 0 && state != 'Z' && state != 'X';
}

bool is_under_valgrind(void) {
  const char *preloaded = getenv("LD_PRELOAD");
  return preloaded != NULL && strstr(preloaded, "vgpreload") != NULL;
}

bool is_child(long pid) {
  char name[32];
  snprintf(name, sizeof name, "%ld", pid);
  return parent_of(name) == getpid();
}

long status_of(long pid, const char *what) {
  char path[64], line[256];
  long number = -1;
  snprintf(path, sizeof path, "/proc/%ld/status", pid);
  FILE *file = fopen(path, "r");
  if (file == NULL) return -1;
  while (number < 0 && fgets(line, sizeof line, file) != NULL)
    if (strncmp(line, what, strlen(what)) == 0) number = strtol(line + strlen(what), NULL, 10);
  fclose(file);
  return number;
}

long worker_pid(pyproc_pool *pool) {
  return call_number(pool, "pid", "null");
}

bool nobody_can_run(const char *script) {
  int status = -1;
  pid_t pid = geteuid() == 0 ? fork() : -1;
  if (pid == 0) {
    if (setgroups(0, NULL) < 0 || setgid(NOBODY) < 0 || setuid(NOBODY) < 0 || access(script, R_OK) < 0) _exit(1);
    if (access(source_path("worker"), X_OK) < 0) _exit(1);
    execlp(test_python(), test_python(), "-c", "", (char *)NULL);
    _exit(1);
  }
  bool can = pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0;
  if (!can) print_message("this is not root, or the tree is closed to other users\n");
  return can;
}
