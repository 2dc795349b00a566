/* The framed protocol against a worker that speaks schema/wire.md by hand: calls and how they end. */
#include "link.h"

#include "error.h"
#include "wire/envelope.h"
#include "wire/metadata.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* ---- calls ---- */

static void one_call(void **state) {
  (void)state;
  struct link self;
  struct call call;
  buffer body = {0};
  link_open(&self, &codec_protobuf, PAGE_HELLO);
  link_begin(&self, &call, "{\"value\":42}");
  assert_int_equal(atomic_load(&self.connection->load), 1);
  wire_header header = peer_take(&self, &body);
  assert_int_equal(header.kind, WIRE_REQUEST);
  assert_int_equal(header.flags, WIRE_FLAG_JSON);
  assert_int_equal(header.method, 1);
  assert_true(header.id == call.id && header.id >= STATUS_PAGE_SLOTS && header.id < UINT64_C(1) << 53);
  assert_in_range(header.timeout_ms, 1, LINK_PATIENCE_S * 1000);
  assert_string_equal((char *)body.data, "{\"value\":42}");
  assert_true(status_page_start(self.page, header.id));
  peer_reply(&self, header.id, "{\"result\":84}");
  link_finish(&self, &call, "{\"result\":84}");
  assert_int_equal(atomic_load(&self.connection->load), 0);
  assert_int_equal(atomic_load(&self.connection->good_calls), 1);
  assert_true(atomic_load(&self.freed) > 0);
  buffer_free(&body);
  link_close(&self);
}

static void replies_in_any_order_and_cut_anywhere(void **state) {
  (void)state;
  static const int orders[][3] = {{0, 1, 2}, {2, 1, 0}, {1, 2, 0}};
  static const char *const bodies[] = {"\"a\"", "\"bb\"", "\"\""};
  struct link self;
  link_open(&self, &codec_protobuf, PAGE_HELLO);
  for (size_t order = 0; order < 3; order++)
    for (size_t cut = 1; cut < 3 * (WIRE_LENGTH_SIZE + WIRE_HEADER_SIZE); cut += 7) {
      struct call calls[3];
      buffer bytes = {0};
      for (int i = 0; i < 3; i++) link_begin(&self, &calls[i], "1");
      for (int i = 0; i < 3; i++) peer_expect(&self, WIRE_REQUEST);
      for (int i = 0; i < 3; i++) {
        int which = orders[order][i];
        wire_header header = {.kind = WIRE_REPLY, .flags = WIRE_FLAG_JSON, .id = calls[which].id};
        append_frame(&bytes, &header, bodies[which], strlen(bodies[which]));
      }
      peer_write(&self, bytes.data, cut);
      assert_true(protocol_framed.pump(self.connection));
      peer_write(&self, bytes.data + cut, bytes.size - cut);
      for (int i = 0; i < 3; i++) link_finish(&self, &calls[i], bodies[i]);
      buffer_free(&bytes);
    }
  link_close(&self);
}

static void large_both_ways(void **state) {
  (void)state;
  enum { SIZE = 300000 };
  struct link self;
  struct call call;
  char *text = malloc(SIZE + 1);
  assert_non_null(text);
  memset(text, 'x', SIZE);
  text[0] = text[SIZE - 1] = '"';
  text[SIZE] = '\0';
  link_open(&self, &codec_protobuf, PAGE_HELLO);
  link_begin(&self, &call, text);
  bool for_write = false;
  assert_true(protocol_framed.fd(self.connection, &for_write) >= 0);
  assert_true(for_write); /* it does not fit into the socket */
  buffer body = {0};
  uint8_t head[WIRE_LENGTH_SIZE + WIRE_HEADER_SIZE];
  peer_read(&self, head, sizeof head);
  assert_true(buffer_reserve(&body, SIZE));
  while (body.size < SIZE) { /* in turns, as one thread plays both sides */
    ssize_t count = recv(self.peer, body.data + body.size, SIZE - body.size, MSG_DONTWAIT);
    if (count > 0) body.size += (size_t)count;
    assert_true(protocol_framed.pump(self.connection));
  }
  assert_memory_equal(body.data, text, SIZE);
  protocol_framed.fd(self.connection, &for_write);
  assert_false(for_write);
  buffer bytes = {0};
  append_frame(&bytes, &(wire_header){.kind = WIRE_REPLY, .flags = WIRE_FLAG_JSON, .id = call.id}, text, SIZE);
  for (size_t at = 0; at < bytes.size; at += 50000) {
    peer_write(&self, bytes.data + at, bytes.size - at < 50000 ? bytes.size - at : 50000);
    assert_true(protocol_framed.pump(self.connection));
  }
  link_finish(&self, &call, text);
  link_close(&self);
  buffer_free(&bytes);
  buffer_free(&body);
  free(text);
}

static void errors_of_the_worker(void **state) {
  (void)state;
  static const struct {
    uint16_t status;
    const char *body;
    int code;
    const char *text;
  } cases[] = {{2, "{\"error\":\"boom\",\"type\":\"ValueError\",\"traceback\":\"tb\"}", PYPROC_E_UNKNOWN, "boom"},
               {3, "{\"error\":\"bad\"}", PYPROC_E_INVALID_ARGUMENT, "bad"},
               {16, "{\"error\":\"who\"}", PYPROC_E_UNAUTHENTICATED, "who"},
               {17, "{\"error\":\"later\"}", PYPROC_E_UNKNOWN, "later"},
               {65535, "{\"error\":\"x\"}", PYPROC_E_UNKNOWN, "x"},
               {5, "", PYPROC_E_NOT_FOUND, ""},
               {5, "garbage", PYPROC_E_NOT_FOUND, ""}};
  struct link self;
  link_open(&self, &codec_protobuf, PAGE_HELLO);
  self.connection->peer_pid = 4711;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct call call;
    link_begin(&self, &call, "1");
    wire_header header = peer_expect(&self, WIRE_REQUEST);
    if (i > 0) assert_true(status_page_start(self.page, header.id));
    peer_send(&self, (wire_header){.kind = WIRE_REPLY, .code = cases[i].status, .id = header.id}, cases[i].body);
    link_progress(self.connection, &call);
    assert_int_equal(call.may_have_run, i > 0);
    assert_int_equal(pyproc_error_worker_pid(call.error), 4711);
    if (i == 0) assert_string_equal(pyproc_error_type(call.error), "ValueError");
    link_finish_badly(&self, &call, cases[i].code, cases[i].text);
  }
  assert_int_equal(atomic_load(&self.connection->state), CONNECTION_OPEN);
  link_close(&self);
}

static void refused_calls(void **state) {
  (void)state;
  struct link self;
  struct call call;
  link_open(&self, &codec_protobuf, PAGE_HELLO);
  link_prepare(&self, &call, "nope", "1");
  assert_int_equal(protocol_framed.start(self.connection, &call), CONNECTION_REFUSED);
  assert_false(call.may_have_run);
  link_finish_badly(&self, &call, PYPROC_E_UNIMPLEMENTED, "nope");
  assert_int_equal(atomic_load(&self.connection->load), 0);
  assert_true(peer_is_quiet(&self));
  link_close(&self);
}

/* Slots end at 4,096 calls in flight; used again, they never make the same id. */
static void slots_and_ids(void **state) {
  (void)state;
  struct link self;
  struct call one;
  struct call *calls = calloc(STATUS_PAGE_SLOTS, sizeof *calls);
  assert_non_null(calls);
  link_open(&self, &codec_protobuf, PAGE_HELLO);
  uint64_t before = 0;
  for (int i = 0; i < 50; i++) {
    link_begin(&self, &one, "1");
    peer_expect(&self, WIRE_REQUEST);
    assert_true(one.id > before);
    before = one.id;
    peer_reply(&self, one.id, "1");
    link_finish(&self, &one, "1");
  }
  for (int i = 0; i < STATUS_PAGE_SLOTS; i++) link_begin(&self, &calls[i], "1");
  uint8_t seen[STATUS_PAGE_SLOTS] = {0};
  for (int i = 0; i < STATUS_PAGE_SLOTS; i++) assert_int_equal(seen[calls[i].id % STATUS_PAGE_SLOTS]++, 0);
  link_prepare(&self, &one, "predict", "1");
  assert_int_equal(protocol_framed.start(self.connection, &one), CONNECTION_REFUSED);
  link_finish_badly(&self, &one, PYPROC_E_RESOURCE_EXHAUSTED, "in flight");
  assert_true(status_page_start(self.page, calls[7].id));
  call_list unstarted = link_lose(&self);
  int count = 0;
  for (const struct call *call = unstarted.first; call != NULL; call = call->next) count++;
  assert_int_equal(count, STATUS_PAGE_SLOTS - 1);
  assert_ptr_equal(unstarted.first, &calls[0]); /* oldest first */
  assert_true(calls[7].may_have_run && atomic_load(&calls[7].done));
  for (int i = 0; i < STATUS_PAGE_SLOTS; i++) call_clear(&calls[i]);
  free(calls);
  protocol_framed.destroy(self.connection);
  lot_destroy(&self.lot);
}

/* ---- giving up ---- */

static void a_late_reply_reaches_nobody(void **state) {
  (void)state;
  struct link self;
  struct call first, second;
  link_open(&self, &codec_protobuf, PAGE_HELLO);
  link_begin(&self, &first, "1");
  uint64_t id = first.id;
  peer_expect(&self, WIRE_REQUEST);
  assert_int_equal(protocol_framed.withdraw(self.connection, &first, PYPROC_E_DEADLINE_EXCEEDED), 0);
  assert_null(atomic_load(&first.connection));
  assert_int_equal(protocol_framed.withdraw(self.connection, &first, PYPROC_E_DEADLINE_EXCEEDED), -1);
  call_clear(&first);
  assert_false(status_page_start(self.page, id)); /* revoked: the worker will not run it */
  wire_header cancel = peer_expect(&self, WIRE_CANCEL);
  assert_true(cancel.id == id);
  assert_int_equal(cancel.code, 4);
  assert_true(protocol_framed.owes(self.connection)); /* the reply; and nobody waits for it */
  assert_true(atomic_load(&self.watched) > 0);
  assert_int_equal(atomic_load(&self.connection->load), 1);
  link_begin(&self, &second, "2");
  assert_int_not_equal(second.id % STATUS_PAGE_SLOTS, id % STATUS_PAGE_SLOTS);
  peer_expect(&self, WIRE_REQUEST);
  peer_reply(&self, id, "\"late\"");
  peer_reply(&self, id, "\"twice\"");
  peer_reply(&self, id + STATUS_PAGE_SLOTS, "\"next generation\"");
  peer_reply(&self, 0, "\"nobody\"");
  peer_reply(&self, UINT64_MAX, "\"nobody\"");
  peer_reply(&self, second.id, "\"second\"");
  link_finish(&self, &second, "\"second\"");
  assert_false(protocol_framed.owes(self.connection));
  assert_int_equal(atomic_load(&self.connection->load), 0);
  link_close(&self);
}

/* Whether a call may have run, by page, by STARTED, and where nothing is known. */
static void whether_it_may_have_run(void **state) {
  (void)state;
  static const struct {
    const char *hello;
    bool starts;
    int ran;
  } cases[] = {{PAGE_HELLO, false, 0},
               {PAGE_HELLO, true, 1},
               {STARTED_HELLO, false, 0},
               {STARTED_HELLO, true, 1},
               {PLAIN_HELLO, false, 1}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct link self;
    struct call withdrawn, lost;
    link_open(&self, &codec_protobuf, cases[i].hello);
    link_begin(&self, &withdrawn, "1");
    link_begin(&self, &lost, "1");
    if (cases[i].starts && self.page != NULL) {
      assert_true(status_page_start(self.page, withdrawn.id));
      assert_true(status_page_start(self.page, lost.id));
    } else if (cases[i].starts) {
      peer_send(&self, (wire_header){.kind = WIRE_STARTED, .id = withdrawn.id + STATUS_PAGE_SLOTS}, "");
      peer_send(&self, (wire_header){.kind = WIRE_STARTED, .id = withdrawn.id}, "");
      assert_true(protocol_framed.pump(self.connection));
      peer_send(&self, (wire_header){.kind = WIRE_STARTED, .id = lost.id}, ""); /* read by drain */
    }
    assert_int_equal(protocol_framed.withdraw(self.connection, &withdrawn, PYPROC_E_CANCELLED), cases[i].ran);
    call_list unstarted = link_lose(&self);
    if (cases[i].ran) {
      assert_null(unstarted.first);
      assert_true(lost.may_have_run);
      link_finish_badly(&self, &lost, PYPROC_E_UNAVAILABLE, "the worker died");
    } else {
      assert_ptr_equal(unstarted.first, &lost);
      assert_null(atomic_load(&lost.connection));
      assert_false(atomic_load(&lost.done));
      call_clear(&lost);
    }
    call_clear(&withdrawn);
    protocol_framed.destroy(self.connection);
    lot_destroy(&self.lot);
  }
}

/* What a call's owner hears of a handler that was told to stop: its end, the worker's death, or nothing. */
static void asked_to_stop(void **state) {
  (void)state;
  for (int i = 0; i < 4; i++) {
    struct link self;
    struct call call;
    buffer body = {0};
    link_open(&self, &codec_protobuf, PAGE_HELLO);
    link_begin(&self, &call, "1");
    peer_expect(&self, WIRE_REQUEST);
    uint64_t id = call.id;
    assert_true(status_page_start(self.page, id));
    for (int times = 0; times < 2; times++)
      assert_int_equal(protocol_framed.ask(self.connection, &call, PYPROC_E_DEADLINE_EXCEEDED), CONNECTION_ASKED);
    assert_int_equal(call.asked, PYPROC_E_DEADLINE_EXCEEDED);
    wire_header told = peer_take(&self, &body);
    assert_int_equal(told.kind, WIRE_CANCEL);
    assert_int_equal(told.code, 4);
    assert_true(told.id == id);
    if (i == 0) {
      peer_send(&self, (wire_header){.kind = WIRE_REPLY, .flags = WIRE_FLAG_JSON, .code = 4, .id = id},
                "{\"error\":\"the deadline passed\",\"interrupted\":true}");
      link_progress(self.connection, &call);
      assert_int_equal(pyproc_error_stop(call.error), PYPROC_STOP_INTERRUPTED);
      link_finish_badly(&self, &call, PYPROC_E_DEADLINE_EXCEEDED, "passed");
    } else if (i == 1) { /* one that is not begun is not given to another worker then */
      atomic_store(&self.page->slots[id % STATUS_PAGE_SLOTS], 0);
      call_list unstarted = link_lose(&self);
      assert_null(unstarted.first);
      assert_false(call.may_have_run);
      link_finish_badly(&self, &call, PYPROC_E_UNAVAILABLE, "died");
    } else {
      assert_int_equal(protocol_framed.withdraw(self.connection, &call, PYPROC_E_DEADLINE_EXCEEDED), 1);
      call_clear(&call);
      link_begin(&self, &call, "2"); /* the worker is not told twice */
      assert_int_equal(peer_take(&self, &body).kind, WIRE_REQUEST);
      if (i == 2) peer_reply(&self, id, "\"late\"");
      peer_reply(&self, call.id, "2");
      link_finish(&self, &call, "2");
    }
    buffer_free(&body);
    if (i != 1) {
      link_close(&self);
    } else {
      protocol_framed.destroy(self.connection);
      lot_destroy(&self.lot);
    }
  }
}

/* One that has not begun is withdrawn at once. */
static void asked_in_time(void **state) {
  (void)state;
  struct link self;
  struct call call;
  link_open(&self, &codec_protobuf, PAGE_HELLO);
  link_begin(&self, &call, "1");
  peer_expect(&self, WIRE_REQUEST);
  assert_int_equal(protocol_framed.ask(self.connection, &call, PYPROC_E_CANCELLED), 0);
  assert_int_equal(call.asked, 0);
  assert_null(atomic_load(&call.connection));
  assert_false(status_page_start(self.page, call.id));
  assert_int_equal(protocol_framed.ask(self.connection, &call, PYPROC_E_CANCELLED), -1);
  call_clear(&call);
  link_close(&self);
}

static void append_entry(buffer *to, const char *key, const char *value, size_t value_size) {
  wire_metadata entry = {key, value, strlen(key), value_size};
  assert_true(buffer_reserve(to, wire_metadata_size(&entry)));
  to->size = (size_t)(wire_metadata_put(to->data + to->size, &entry) - to->data);
}

/* Metadata of replies, small and large, and of errors. */
static void metadata_of_replies(void **state) {
  (void)state;
  for (int i = 0; i < 3; i++) {
    struct link self;
    struct call call;
    buffer bytes = {0}, payload = {0};
    char long_value[8000];
    memset(long_value, 'v', sizeof long_value);
    link_open(&self, &codec_protobuf, PAGE_HELLO);
    link_begin(&self, &call, "1");
    peer_expect(&self, WIRE_REQUEST);
    append_entry(&bytes, "x-blob-bin", "\0\1", 2);
    if (i == 1) append_entry(&bytes, "x-long", long_value, sizeof long_value);
    size_t metadata_size = bytes.size;
    wire_header header = {.kind = WIRE_REPLY, .flags = WIRE_FLAG_JSON, .id = call.id};
    header.metadata_size = (uint32_t)metadata_size;
    header.code = i == 2 ? 5 : 0;
    assert_true(buffer_append_text(&bytes, i == 2 ? "{\"error\":\"no\"}" : "84"));
    append_frame(&payload, &header, (const char *)bytes.data, bytes.size);
    peer_write(&self, payload.data, payload.size);
    link_progress(self.connection, &call);
    if (i < 2) {
      assert_int_equal(call.metadata_size, metadata_size);
      assert_memory_equal(call.body - metadata_size, bytes.data, metadata_size);
      link_finish(&self, &call, "84");
    } else {
      size_t count;
      const pyproc_metadata *got = pyproc_error_metadata(call.error, &count);
      assert_int_equal(count, 1);
      assert_string_equal(got->key, "x-blob-bin");
      assert_int_equal(got->value_size, 2);
      assert_memory_equal(got->value, "\0\1\0", 3);
      link_finish_badly(&self, &call, PYPROC_E_NOT_FOUND, "no");
    }
    buffer_free(&payload);
    buffer_free(&bytes);
    link_close(&self);
  }
}

/* What is wrong with metadata costs the call, not the worker; sizes beyond the frame are no frame. */
static void broken_metadata(void **state) {
  (void)state;
  static const struct {
    uint32_t size;
    const char *text;
  } cases[] = {{3, "abc1"}, {13, "ab\x7f\x7f\x7f\x7fxyz1234567"}, {9, "\x7f\x7f\x7f\x7f\x7f\x7fxyz1"}};
  struct link self;
  struct call call;
  link_open(&self, &codec_protobuf, PAGE_HELLO);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    link_begin(&self, &call, "1");
    peer_expect(&self, WIRE_REQUEST);
    peer_send(&self, (wire_header){.kind = WIRE_REPLY, .id = call.id, .metadata_size = cases[i].size}, cases[i].text);
    link_finish_badly(&self, &call, PYPROC_E_DATA_LOSS, "metadata");
  }
  link_begin(&self, &call, "1");
  peer_expect(&self, WIRE_REQUEST);
  assert_true(status_page_start(self.page, call.id));
  peer_send(&self, (wire_header){.kind = WIRE_REPLY, .id = call.id, .metadata_size = 2}, "1");
  link_expect_broken(&self, PYPROC_E_DATA_LOSS);
  link_close(&self);
  link_finish_badly(&self, &call, PYPROC_E_UNAVAILABLE, "died");
}

static void taking_calls_back(void **state) {
  (void)state;
  struct link self;
  struct call calls[3];
  call_list taken = {0};
  link_open(&self, &codec_protobuf, PAGE_HELLO);
  for (int i = 0; i < 3; i++) {
    link_begin(&self, &calls[i], "1");
    peer_expect(&self, WIRE_REQUEST);
  }
  assert_true(status_page_start(self.page, calls[0].id));
  protocol_framed.recall(self.connection, INT64_C(60000000000), &taken);
  assert_null(taken.first); /* they were sent just now */
  protocol_framed.recall(self.connection, 0, &taken);
  assert_ptr_equal(taken.first, &calls[1]);
  assert_ptr_equal(taken.last, &calls[2]);
  assert_ptr_equal(calls[1].next, &calls[2]);
  for (int i = 1; i < 3; i++) {
    assert_null(atomic_load(&calls[i].connection));
    assert_false(atomic_load(&calls[i].done));
    assert_false(status_page_start(self.page, calls[i].id));
    peer_send(&self, (wire_header){.kind = WIRE_REPLY, .code = 1, .id = calls[i].id}, "{\"error\":\"revoked\"}");
  }
  assert_int_equal(atomic_load(&self.connection->load), 3); /* it owes two answers */
  peer_reply(&self, calls[0].id, "1");
  link_finish(&self, &calls[0], "1");
  assert_int_equal(atomic_load(&self.connection->load), 0);
  assert_int_equal(protocol_framed.start(self.connection, &calls[1]), CONNECTION_TAKEN); /* as on any other */
  assert_int_equal(calls[1].attempts, 1); /* one that was taken back is none */
  wire_header header = peer_expect(&self, WIRE_REQUEST);
  assert_true(header.id == calls[1].id);
  peer_reply(&self, header.id, "2");
  link_finish(&self, &calls[1], "2");
  call_clear(&calls[2]);
  link_close(&self);
}

static void without_a_page_nothing_is_taken_back(void **state) {
  (void)state;
  struct link self;
  struct call call;
  call_list taken = {0};
  link_open(&self, &codec_protobuf, STARTED_HELLO);
  link_begin(&self, &call, "1");
  protocol_framed.recall(self.connection, 0, &taken);
  assert_null(taken.first);
  peer_reply(&self, call.id, "1");
  link_finish(&self, &call, "1");
  link_close(&self);
}

/* Gives up in the middle of a frame, and before the first byte of another. */
static void giving_up_what_is_being_written(void **state) {
  (void)state;
  enum { SIZE = 4 << 20 };
  struct link self;
  struct call partly, unsent, after;
  char *text = malloc(SIZE + 1);
  assert_non_null(text);
  memset(text, '1', SIZE);
  text[SIZE] = '\0';
  link_open(&self, &codec_protobuf, PAGE_HELLO);
  link_begin(&self, &partly, text);
  link_begin(&self, &unsent, text);
  uint64_t id = partly.id;
  assert_int_equal(protocol_framed.withdraw(self.connection, &unsent, PYPROC_E_CANCELLED), 0);
  assert_int_equal(atomic_load(&self.connection->load), 1); /* the worker never hears of it */
  call_clear(&unsent);
  assert_int_equal(protocol_framed.withdraw(self.connection, &partly, PYPROC_E_CANCELLED), 0);
  call_clear(&partly); /* its bytes are still needed */
  assert_true(protocol_framed.owes(self.connection));
  size_t got = 0, total = WIRE_LENGTH_SIZE + WIRE_HEADER_SIZE + SIZE;
  uint8_t *bytes = malloc(total);
  assert_non_null(bytes);
  while (got < total) {
    ssize_t count = recv(self.peer, bytes + got, total - got, MSG_DONTWAIT);
    if (count > 0) got += (size_t)count;
    assert_true(protocol_framed.pump(self.connection));
  }
  assert_memory_equal(bytes + total - SIZE, text, SIZE);
  wire_header cancel = peer_expect(&self, WIRE_CANCEL);
  assert_true(cancel.id == id);
  assert_int_equal(cancel.code, 1);
  peer_send(&self, (wire_header){.kind = WIRE_REPLY, .code = 1, .id = id}, "{\"error\":\"x\"}");
  link_begin(&self, &after, "1");
  peer_expect(&self, WIRE_REQUEST); /* the stream is still in step */
  peer_reply(&self, after.id, "1");
  link_finish(&self, &after, "1");
  link_close(&self);
  free(bytes);
  free(text);
}

/* The last frame that waited is withdrawn: waiting for room to write would be a busy loop. */
static void nothing_left_to_write(void **state) {
  (void)state;
  enum { SIZE = 9000, MANY = 2000 };
  struct link self;
  struct call *calls = calloc(MANY, sizeof *calls);
  char text[SIZE + 1];
  bool for_write = false;
  int count = 0;
  assert_non_null(calls);
  memset(text, '1', SIZE);
  text[SIZE] = '\0';
  link_open(&self, &codec_protobuf, PAGE_HELLO);
  while (!for_write && count < MANY) {
    link_begin(&self, &calls[count++], text);
    protocol_framed.fd(self.connection, &for_write);
  }
  assert_true(for_write);
  struct call *last = &calls[count - 1];
  assert_int_equal(protocol_framed.withdraw(self.connection, last, PYPROC_E_CANCELLED), 0);
  if (send_queue_is_empty(&framed_of(self.connection)->queue)) { /* the system took frames as a whole */
    assert_true(protocol_framed.pump(self.connection));
    protocol_framed.fd(self.connection, &for_write);
    assert_false(for_write);
  }
  link_lose(&self);
  for (int i = 0; i < count; i++) call_clear(&calls[i]);
  free(calls);
  protocol_framed.destroy(self.connection);
  lot_destroy(&self.lot);
}

static void a_deadline_ends_progress(void **state) {
  (void)state;
  for (int spin = 0; spin < 2; spin++) {
    struct link self;
    struct call call;
    link_create(&self, &codec_protobuf, LINK_LIMIT, spin * INT64_C(2000000));
    link_connect(&self);
    link_shake_hands(&self, PAGE_HELLO);
    link_prepare(&self, &call, "predict", "1");
    call.deadline_ns = platform_now_ns() + 20000000;
    assert_int_equal(protocol_framed.start(self.connection, &call), CONNECTION_TAKEN);
    wire_header header = peer_expect(&self, WIRE_REQUEST);
    assert_in_range(header.timeout_ms, 1, 20);
    link_progress(self.connection, &call);
    assert_false(atomic_load(&call.done));
    assert_true(platform_now_ns() >= call.deadline_ns);
    assert_int_equal(protocol_framed.withdraw(self.connection, &call, PYPROC_E_DEADLINE_EXCEEDED), 0);
    call_clear(&call);
    link_close(&self);
  }
}

static void no_deadline_is_none_on_the_wire(void **state) {
  (void)state;
  struct link self;
  struct call call;
  link_open(&self, &codec_protobuf, PAGE_HELLO);
  link_prepare(&self, &call, "predict", "1");
  call.deadline_ns = INT64_MAX;
  assert_int_equal(protocol_framed.start(self.connection, &call), CONNECTION_TAKEN);
  wire_header header = peer_expect(&self, WIRE_REQUEST);
  assert_int_equal(header.timeout_ms, 0);
  peer_reply(&self, call.id, "1");
  link_finish(&self, &call, "1");
  link_close(&self);
}

/* A worker that stops gives back what it has not begun; what it has begun may say UNAVAILABLE for itself. */
static void a_call_given_back(void **state) {
  (void)state;
  struct link self;
  struct call begun, waiting;
  const char *error = "{\"error\":\"the worker stops\"}";
  link_open(&self, &codec_protobuf, PAGE_HELLO);
  link_begin(&self, &begun, "1");
  link_begin(&self, &waiting, "2");
  assert_true(status_page_start(self.page, begun.id));
  peer_send(&self, (wire_header){.kind = WIRE_REPLY, .flags = WIRE_FLAG_JSON, .code = 14, .id = begun.id}, error);
  peer_send(&self, (wire_header){.kind = WIRE_REPLY, .flags = WIRE_FLAG_JSON, .code = 14, .id = waiting.id}, error);
  link_finish_badly(&self, &begun, PYPROC_E_UNAVAILABLE, "the worker stops");
  protocol_framed.pump(self.connection);
  assert_ptr_equal(self.returned, &waiting);
  assert_false(atomic_load(&waiting.done));
  assert_int_equal(atomic_load(&self.connection->load), 0);
  assert_int_equal(atomic_load(&self.connection->capacity), 0);
  call_clear(&waiting);
  link_close(&self);
}

/* A call taken back before its caller came to read leaves a reply that somebody has to read. */
static void a_recalled_call_leaves_a_debt(void **state) {
  (void)state;
  struct link self;
  struct call call;
  call_list calls = {0};
  link_open(&self, &codec_protobuf, PAGE_HELLO);
  link_begin(&self, &call, "1");
  int watched = atomic_load(&self.watched);
  protocol_framed.recall(self.connection, 0, &calls);
  assert_ptr_equal(calls.first, &call);
  assert_true(protocol_framed.owes(self.connection));
  assert_int_equal(atomic_load(&self.watched), watched + 1);
  call_clear(&call);
  link_close(&self);
}

/* ---- envelopes ---- */

static void envelopes(void **state) {
  (void)state;
  struct link self;
  struct call call;
  char text[256];
  link_open(&self, &codec_json, PAGE_HELLO);
  for (int i = 0; i < 5; i++) {
    link_begin(&self, &call, "{\"value\":42}");
    uint8_t length[WIRE_LENGTH_SIZE];
    char request[512];
    struct envelope envelope;
    peer_read(&self, length, sizeof length);
    assert_in_range(wire_get32(length), 2, sizeof request);
    peer_read(&self, request, wire_get32(length));
    assert_null(envelope_parse(request, wire_get32(length), &envelope));
    assert_true(envelope.id == call.id);
    peer_envelope(&self, "{\"id\":0,\"ok\":false,\"error\":\"whose?\"}");
    if (i == 3) { /* the other form */
      peer_send(&self, (wire_header){.kind = WIRE_REPLY, .id = call.id}, "\"\\u0000 unchecked");
      link_finish_badly(&self, &call, PYPROC_E_DATA_LOSS, "form");
      continue;
    }
    if (i == 4) { /* as with metadata */
      peer_reply(&self, call.id, "84");
      link_finish(&self, &call, "84");
      continue;
    }
    static const char *const replies[] = {"\"ok\":true,\"body\":{\"result\":84}", "\"ok\":true",
                                          "\"ok\":false,\"error\":\"b\\u00f6om\",\"code\":5,\"type\":\"KeyError\""};
    snprintf(text, sizeof text, "{\"id\":%llu,%s}", (unsigned long long)call.id, replies[i]);
    peer_envelope(&self, text);
    if (i == 0) link_finish(&self, &call, "{\"result\":84}");
    if (i == 1) {
      link_progress(self.connection, &call);
      assert_true(atomic_load(&call.done));
      assert_null(call.error);
      assert_null(envelope_check_json((const char *)call.body, call.body_size)); /* absent: still a JSON value */
      call_clear(&call);
    }
    if (i == 2) link_finish_badly(&self, &call, PYPROC_E_NOT_FOUND, "b\xc3\xb6om");
  }
  link_close(&self);
}

static void an_envelope_for_a_frame(void **state) {
  (void)state;
  struct link self;
  struct call call;
  char text[128];
  link_open(&self, &codec_protobuf, PAGE_HELLO);
  link_begin(&self, &call, "1");
  snprintf(text, sizeof text, "{\"id\":%llu,\"ok\":true,\"body\":1}", (unsigned long long)call.id);
  peer_envelope(&self, text);
  link_finish_badly(&self, &call, PYPROC_E_DATA_LOSS, "form");
  link_close(&self);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_call_given_back),
      cmocka_unit_test(a_recalled_call_leaves_a_debt),
      cmocka_unit_test(one_call),
      cmocka_unit_test(replies_in_any_order_and_cut_anywhere),
      cmocka_unit_test(large_both_ways),
      cmocka_unit_test(errors_of_the_worker),
      cmocka_unit_test(refused_calls),
      cmocka_unit_test(slots_and_ids),
      cmocka_unit_test(a_late_reply_reaches_nobody),
      cmocka_unit_test(whether_it_may_have_run),
      cmocka_unit_test(asked_to_stop),
      cmocka_unit_test(asked_in_time),
      cmocka_unit_test(metadata_of_replies),
      cmocka_unit_test(broken_metadata),
      cmocka_unit_test(taking_calls_back),
      cmocka_unit_test(without_a_page_nothing_is_taken_back),
      cmocka_unit_test(giving_up_what_is_being_written),
      cmocka_unit_test(nothing_left_to_write),
      cmocka_unit_test(a_deadline_ends_progress),
      cmocka_unit_test(no_deadline_is_none_on_the_wire),
      cmocka_unit_test(envelopes),
      cmocka_unit_test(an_envelope_for_a_frame),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
