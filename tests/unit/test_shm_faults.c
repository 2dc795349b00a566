/*
 * Shared memory with a worker that is killed at any instruction, or that writes anything anywhere: every call ends, with
 * its reply or with an error, and the host goes on.
 *
 * The worker is a forked child that speaks schema/wire.md. PYPROC_TEST_SCALE scales how many are killed, in percent of
 * 1,000, and how many words they spoil, of 10,000; PYPROC_TEST_SEED repeats a run.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "error.h"
#include "framed.h"
#include "request.h"
#include "wire/ring_link.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
  RING_BYTES = 4096,
  BODY_MAX = 3 * RING_BYTES,
  CALLERS = 2,
  KILLS = 1000,
  WORDS = 10000,
  WORDS_EACH = 100,
  KILL_WITHIN_US = 1500,
  PATIENCE_MS = 60000
};

#define HELLO "{\"version\":1,\"features\":[\"status_page\",\"shm\"],\"methods\":[{\"name\":\"predict\"}]}"

static int scaled(int count) {
  const char *text = getenv("PYPROC_TEST_SCALE");
  long result = count * (text != NULL ? strtol(text, NULL, 10) : 100) / 100;
  return result > 0 ? (int)result : 1;
}

static uint64_t seed_of_run(void) {
  const char *text = getenv("PYPROC_TEST_SEED");
  uint64_t seed = text != NULL ? strtoull(text, NULL, 10) : platform_random64() % 1000000;
  print_message("  PYPROC_TEST_SEED=%llu\n", (unsigned long long)seed);
  return seed;
}

/* xorshift64*, one for each thread. */
static uint64_t dice(uint64_t *state) {
  *state ^= *state >> 12;
  *state ^= *state << 25;
  *state ^= *state >> 27;
  return *state * UINT64_C(0x2545F4914F6CDD1D);
}

static uint64_t dice_new(uint64_t seed, uint64_t number) {
  uint64_t state = (seed + 1) * UINT64_C(0x9E3779B97F4A7C15) + number * UINT64_C(0xD1B54A32D192ED03) + 1;
  for (int i = 0; i < 4; i++) dice(&state);
  return state;
}

/* ---- the worker ---- */

typedef struct worker {
  ring_link rings;
  uint64_t state;
  int words; /* to spoil */
  size_t in_size, out_size;
  uint8_t in[2 * BODY_MAX], out[4 * BODY_MAX];
} worker;

static int take_rings(int socket) {
  char body[1024], control[CMSG_SPACE(2 * sizeof(int))];
  int fds[2];
  struct iovec part = {.iov_base = body, .iov_len = sizeof body};
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
  if (recvmsg(socket, &message, 0) <= 0) _exit(1);
  const struct cmsghdr *header = CMSG_FIRSTHDR(&message);
  if (header == NULL || header->cmsg_len != CMSG_LEN(sizeof fds)) _exit(2);
  memcpy(fds, CMSG_DATA(header), sizeof fds);
  close(fds[0]);
  return fds[1];
}

static void say_hello(worker *self, int socket) {
  uint8_t frame[WIRE_LENGTH_SIZE + WIRE_HEADER_SIZE + sizeof HELLO];
  wire_header header = {.kind = WIRE_HELLO, .flags = WIRE_FLAG_JSON};
  wire_put32(frame, WIRE_HEADER_SIZE + sizeof HELLO - 1);
  wire_header_put(frame + WIRE_LENGTH_SIZE, &header);
  memcpy(frame + WIRE_LENGTH_SIZE + WIRE_HEADER_SIZE, HELLO, sizeof HELLO - 1);
  if (write(socket, frame, sizeof frame - 1) != sizeof frame - 1) _exit(3);
  int fd = take_rings(socket);
  if (ring_link_open(&self->rings, socket, fd, RING_BYTES, RING_WORKER) < 0) _exit(4);
  close(fd);
}

/* Turns whole requests into replies with the same body. */
static void answer(worker *self) {
  size_t at = 0;
  while (self->in_size - at >= WIRE_LENGTH_SIZE) {
    size_t size = WIRE_LENGTH_SIZE + (size_t)wire_get32(self->in + at);
    if (size > self->in_size - at || size > sizeof self->out - self->out_size) break;
    wire_header header;
    uint8_t *reply = self->out + self->out_size;
    if (wire_header_get(self->in + at + WIRE_LENGTH_SIZE, size - WIRE_LENGTH_SIZE, &header) < 0) break;
    memcpy(reply, self->in + at, size);
    header = (wire_header){.kind = WIRE_REPLY, .flags = header.flags, .id = header.id};
    wire_header_put(reply + WIRE_LENGTH_SIZE, &header);
    self->out_size += size;
    at += size;
  }
  self->in_size -= at;
  memmove(self->in, self->in + at, self->in_size);
}

/* Mostly where the other side looks: the words of the lanes, and the bytes around its index. */
static void spoil_one(worker *self) {
  static const size_t words[] = {0, 4, 128, 256, 384};
  uint64_t roll = dice(&self->state), value = dice(&self->state);
  _Atomic uint32_t *word;
  if (roll % 16 == 0) {
    size_t at = 512 + roll / 16 % 2 * 512 + words[roll / 32 % 5];
    word = (_Atomic uint32_t *)(void *)((uint8_t *)self->rings.memory + at);
    if (roll % 3 == 0) value = atomic_load(word) + value % 64 - 32;
    if (roll % 3 == 1) value = value % 2;
  } else {
    word = (_Atomic uint32_t *)(void *)((uint8_t *)self->rings.memory + (roll >> 8) % (self->rings.mapped / 4) * 4);
    if (roll % 3 == 0) value = value % 256;
  }
  atomic_store(word, (uint32_t)value);
}

static void spoil_some(worker *self) {
  if (dice(&self->state) % 4 != 0) return;
  spoil_one(self);
  if (--self->words == 0) _exit(0);
}

/* Sends what it has, at times less than it could. Returns whether it did. */
static bool send_some(worker *self) {
  size_t size = dice(&self->state) % 4 == 0 ? self->out_size / 2 : self->out_size;
  struct iovec part = {.iov_base = self->out, .iov_len = size};
  ptrdiff_t sent = size > 0 ? ring_link_write(&self->rings, &part, 1) : 0;
  if (sent <= 0) return false;
  self->out_size -= (size_t)sent;
  memmove(self->out, self->out + sent, self->out_size);
  return true;
}

/* Sleeps as a worker does; where words are spoilt nobody may ever wake it. */
static void sleep_until_woken(worker *self, bool is_spoiling) {
  struct pollfd polled = {.fd = self->rings.socket, .events = POLLIN};
  if (!ring_link_arm(&self->rings, true, self->out_size > 0)) poll(&polled, 1, is_spoiling ? 1 : PATIENCE_MS);
  ring_link_disarm(&self->rings);
  if ((polled.revents & POLLHUP) != 0) _exit(0);
}

static void work(int socket, uint64_t seed, uint64_t number, int words) {
  static worker self;
  self.words = words;
  self.state = dice_new(seed, number * 16);
  say_hello(&self, socket);
  for (;;) {
    if (words > 0) spoil_some(&self);
    ptrdiff_t got = ring_link_read(&self.rings, self.in + self.in_size, sizeof self.in - self.in_size);
    if (got == RING_END) _exit(0);
    if (got > 0) self.in_size += (size_t)got;
    answer(&self);
    if (self.in_size == sizeof self.in) self.in_size = 0; /* only what is spoilt is that long */
    bool sent = send_some(&self);
    if (got > 0 || sent || dice(&self.state) % (words > 0 ? 64 : 8) != 0) continue;
    sleep_until_woken(&self, words > 0);
  }
}

/* ---- the host ---- */

typedef struct host {
  struct lot lot;
  struct connection *connection;
  uint64_t seed, number;
  int64_t timeout_ns;
  bool is_honest; /* the worker answers what it was asked */
  atomic_int good, failed, late, wrong;
} host;

static void ignore(void *owner) {
  (void)owner;
}

static void ignore_call(void *owner, struct call *call) {
  (void)owner;
  atomic_store(&call->connection, NULL);
  call_fail(call, error_new(PYPROC_E_UNAVAILABLE, "given back"), false);
}

static bool ignore_watch(void *owner, bool for_write) {
  (void)owner;
  (void)for_write;
  return false;
}

static int no_logs(void *owner, int fds[2]) {
  (void)owner;
  (void)fds;
  return 0;
}

static const connection_owner owner_ops = {.ready = ignore,
                                           .freed = ignore,
                                           .returned = ignore_call,
                                           .broken = ignore,
                                           .watch = ignore_watch,
                                           .pump = ignore,
                                           .overdue = ignore,
                                           .crowded = ignore,
                                           .logs = no_logs,
                                           .drain = ignore};

static void host_init(host *self, int64_t timeout_ns, bool is_honest) {
  memset(self, 0, sizeof *self);
  lot_init(&self->lot);
  connection_settings settings = {.codec = &codec_protobuf,
                                  .lot = &self->lot,
                                  .frame_limit = 1 << 20,
                                  .spin_ns = 20000,
                                  .max_in_flight = 64,
                                  .channel = CHANNEL_CHOICE_SHM,
                                  .ring_bytes = RING_BYTES};
  self->connection = protocol_framed.create(&settings, &owner_ops, self, NULL);
  assert_non_null(self->connection);
  self->seed = seed_of_run();
  self->timeout_ns = timeout_ns;
  self->is_honest = is_honest;
}

static void host_clear(host *self) {
  protocol_framed.destroy(self->connection);
  lot_destroy(&self->lot);
}

static void check(host *self, const struct call *call, const char *body) {
  int code = pyproc_error_code(call->error);
  if (call->error != NULL) {
    atomic_fetch_add(&self->failed, 1);
    if (!self->is_honest || code == PYPROC_E_UNAVAILABLE) return;
    print_error("%d %s\n", code, pyproc_error_message(call->error));
    atomic_fetch_add(&self->wrong, 1);
    return;
  }
  atomic_fetch_add(&self->good, 1);
  if (self->is_honest && (call->body_size != strlen(body) || memcmp(call->body, body, call->body_size) != 0))
    atomic_fetch_add(&self->wrong, 1);
}

/* One call, as a blocking caller makes it. Returns false when the connection takes no more. */
static bool call_once(host *self, const char *body) {
  struct call call;
  frame_block *frame = NULL;
  int64_t deadline = platform_now_ns() + self->timeout_ns;
  if (request_encode_json(&codec_protobuf, "predict", body, NULL, &frame, NULL) < 0) return false;
  call_init(&call, &self->lot, (call_method){.name = "predict"}, frame, deadline);
  bool is_taken = protocol_framed.start(self->connection, &call) == CONNECTION_TAKEN;
  call_wait wait = {.call = &call, .waiter = &call.waiter, .deadline_ns = deadline};
  bool is_late = false;
  while (is_taken && !is_late && !atomic_load(&call.done)) {
    protocol_framed.progress(self->connection, &wait);
    if (atomic_load(&call.done)) break;
    if (platform_now_ns() >= deadline)
      is_late = protocol_framed.withdraw(self->connection, &call, PYPROC_E_DEADLINE_EXCEEDED) >= 0;
    platform_yield();
  }
  if (is_late) atomic_fetch_add(&self->late, 1);
  if (is_taken && !is_late) check(self, &call, body);
  call_clear(&call);
  return is_taken;
}

static atomic_int callers;

static void *call_until_closed(void *argument) {
  host *self = argument;
  uint64_t state = dice_new(self->seed, self->number * 16 + 1 + (uint64_t)atomic_fetch_add(&callers, 1) % CALLERS);
  char *body = malloc(BODY_MAX + 3);
  for (bool goes_on = body != NULL; goes_on;) {
    size_t size = dice(&state) % (dice(&state) % 4 == 0 ? BODY_MAX : 64);
    memset(body, 'a' + (int)(dice(&state) % 26), size + 1);
    body[0] = '"';
    body[size + 1] = '"';
    body[size + 2] = '\0';
    if (size == 0) body[1] = '"';
    goes_on = call_once(self, body);
  }
  free(body);
  return NULL;
}

/* The handshake, by whoever is the supervisor. False: the worker died first. */
static bool shake_hands(host *self) {
  int64_t until = platform_now_ns() + PATIENCE_MS * INT64_C(1000000);
  while (atomic_load(&self->connection->state) == CONNECTION_HANDSHAKE) {
    bool for_write = false;
    struct pollfd polled = {.fd = protocol_framed.fd(self->connection, &for_write), .events = POLLIN};
    assert_true(platform_now_ns() < until);
    poll(&polled, 1, 1000);
    protocol_framed.pump(self->connection);
  }
  return atomic_load(&self->connection->state) == CONNECTION_OPEN;
}

/* What the supervisor does when a process has ended. */
static void lose(host *self, pthread_t threads[CALLERS], int thread_count) {
  call_list unstarted = {0};
  pyproc_error *error = error_new(PYPROC_E_UNAVAILABLE, "the worker died");
  protocol_framed.drain(self->connection);
  (protocol_framed.fail)(self->connection, error, &unstarted);
  while (unstarted.first != NULL) {
    struct call *call = unstarted.first;
    call_list_remove(&unstarted, call);
    lot_wake(&self->lot, call_fail(call, error_copy(error), false));
  }
  pyproc_error_free(error);
  for (int i = 0; i < thread_count; i++) pthread_join(threads[i], NULL);
  assert_true(protocol_framed.close(self->connection));
}

/* A worker's life: forked, called, and killed after so many microseconds, -1: it ends by itself. */
static void live(host *self, int words, int kill_after_us) {
  int fds[2], count = 0;
  pthread_t threads[CALLERS];
  assert_int_equal(platform_socketpair(fds), 0);
  pid_t pid = fork();
  assert_true(pid >= 0);
  if (pid == 0) {
    close(fds[0]);
    work(fds[1], self->seed, self->number, words);
  }
  close(fds[1]);
  assert_int_equal(protocol_framed.open(self->connection, fds[0], NULL), PYPROC_OK);
  if (shake_hands(self))
    for (; count < CALLERS; count++)
      assert_int_equal(pthread_create(&threads[count], NULL, call_until_closed, self), 0);
  if (kill_after_us >= 0) {
    if (kill_after_us > 0) usleep((useconds_t)kill_after_us);
    kill(pid, SIGKILL);
  }
  assert_int_equal(waitpid(pid, NULL, 0), pid);
  lose(self, threads, count);
}

static void workers_killed_at_random(void **state) {
  (void)state;
  host self;
  if (!platform_can_seal()) skip();
  host_init(&self, PATIENCE_MS * INT64_C(1000000), true);
  uint64_t times = dice_new(self.seed, 99);
  int kills = scaled(KILLS);
  for (int i = 0; i < kills; i++) {
    self.number++;
    live(&self, 0, (int)(dice(&times) % KILL_WITHIN_US));
  }
  print_message("  %d kills: %d calls answered, %d failed\n", kills, atomic_load(&self.good),
                atomic_load(&self.failed));
  assert_int_equal(atomic_load(&self.wrong), 0);
  assert_int_equal(atomic_load(&self.late), 0);
  assert_true(atomic_load(&self.good) > 0 && atomic_load(&self.failed) > 0);
  host_clear(&self);
}

static void workers_that_write_anything_anywhere(void **state) {
  (void)state;
  host self;
  if (!platform_can_seal()) skip();
  host_init(&self, 20 * INT64_C(1000000), false);
  int words = scaled(WORDS);
  for (int spoilt = 0; spoilt < words; spoilt += WORDS_EACH) {
    self.number++;
    live(&self, WORDS_EACH, -1);
  }
  print_message("  %d words: %d calls answered, %d failed, %d late\n", words, atomic_load(&self.good),
                atomic_load(&self.failed), atomic_load(&self.late));
  assert_true(atomic_load(&self.good) + atomic_load(&self.failed) + atomic_load(&self.late) > 0);
  host_clear(&self);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(workers_killed_at_random),
      cmocka_unit_test(workers_that_write_anything_anywhere),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
