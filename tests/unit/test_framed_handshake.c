/* The handshake of the framed protocol, with workers that do it well and badly. */
#include "link.h"

#include "wire/metadata.h"

#include <string.h>
#include <unistd.h>

static void a_handshake(void **state) {
  (void)state;
  struct link self;
  link_open(&self, &codec_protobuf, PAGE_HELLO);
  assert_int_equal(json_integer_value(json_object_get(self.welcome, "version")), 1);
  assert_string_equal(json_string_value(json_object_get(self.welcome, "codec")), "protobuf");
  assert_int_equal(json_integer_value(json_object_get(self.welcome, "frame_limit")), LINK_LIMIT);
  assert_int_equal(json_integer_value(json_object_get(self.welcome, "worker_index")), 3);
  assert_int_equal(json_integer_value(json_object_get(self.welcome, "cancel_grace_ms")), 1234);
  assert_int_equal(json_integer_value(json_object_get(self.welcome, "spin_us")), 0);
  assert_int_equal(atomic_load(&self.connection->capacity), 2);
  assert_non_null(self.page);
  assert_ptr_equal(self.connection->page, framed_of(self.connection)->page_memory);
  assert_int_equal(self.page->magic, STATUS_PAGE_MAGIC);
  assert_int_equal(self.page->version, STATUS_PAGE_VERSION);
  assert_int_equal(self.page->thread_count, STATUS_PAGE_THREADS);
  assert_int_equal(self.page->slot_count, STATUS_PAGE_SLOTS);
  assert_false(protocol_framed.owes(self.connection));
  link_close(&self);
}

static void no_page_for_a_worker_that_has_no_use_for_it(void **state) {
  (void)state;
  struct link self;
  link_open(&self, &codec_json, PLAIN_HELLO);
  assert_null(self.page);
  assert_null(self.connection->page);
  assert_string_equal(json_string_value(json_object_get(self.welcome, "codec")), "json");
  assert_int_equal(atomic_load(&self.connection->prefetch), 0); /* what waits in it could not be taken back */
  link_close(&self);
}

/* Byte by byte; and nothing starts before it is over. */
static void a_hello_in_pieces(void **state) {
  (void)state;
  struct link self;
  struct call call;
  buffer bytes = {0};
  append_frame(&bytes, &(wire_header){.kind = WIRE_HELLO, .flags = WIRE_FLAG_JSON}, PAGE_HELLO, strlen(PAGE_HELLO));
  link_create(&self, &codec_protobuf, LINK_LIMIT, 0);
  link_prepare(&self, &call, "predict", "1");
  assert_int_equal(protocol_framed.start(self.connection, &call), CONNECTION_CLOSED);
  link_connect(&self);
  for (size_t i = 0; i < bytes.size; i++) {
    assert_int_equal(atomic_load(&self.ready), 0);
    assert_int_equal(protocol_framed.start(self.connection, &call), CONNECTION_CLOSED);
    peer_write(&self, bytes.data + i, 1);
    assert_true(protocol_framed.pump(self.connection));
  }
  assert_int_equal(atomic_load(&self.ready), 1);
  peer_take_welcome(&self);
  assert_null(atomic_load(&call.connection));
  assert_int_equal(call.attempts, 0);
  call_clear(&call);
  link_close(&self);
  buffer_free(&bytes);
}

/* The limit holds from the handshake on: a hello that is larger is fine, a reply is not. */
static void a_hello_above_the_frame_limit(void **state) {
  (void)state;
  struct link self;
  struct call call;
  buffer hello = {0};
  assert_true(buffer_append_text(&hello, "{\"version\":1,\"methods\":[{\"name\":\"predict\"}"));
  for (int i = 0; i < 5000; i++) assert_true(buffer_append_text(&hello, ",{\"name\":\"predict\",\"kind\":\"unary\"}"));
  assert_true(buffer_append(&hello, "]}", 3));
  link_create(&self, &codec_protobuf, WIRE_FRAME_LIMIT_MIN, 0);
  link_connect(&self);
  buffer bytes = {0};
  append_frame(&bytes, &(wire_header){.kind = WIRE_HELLO, .flags = WIRE_FLAG_JSON}, hello.data, hello.size - 1);
  for (size_t at = 0; at < bytes.size; at += 4096) {
    peer_write(&self, bytes.data + at, bytes.size - at < 4096 ? bytes.size - at : 4096);
    assert_true(protocol_framed.pump(self.connection));
  }
  assert_int_equal(atomic_load(&self.ready), 1);
  peer_take_welcome(&self);
  link_begin(&self, &call, "1");
  peer_send(&self, (wire_header){.kind = WIRE_REPLY, .id = call.id}, (const char *)hello.data);
  link_expect_broken(&self, PYPROC_E_DATA_LOSS);
  platform_close_fd(self.peer);
  self.peer = -1;
  link_close(&self); /* no page, no STARTED: the call may have run and is over */
  assert_true(call.may_have_run);
  call_clear(&call);
  buffer_free(&hello);
  buffer_free(&bytes);
}

/* What a worker may say instead of a hello. After each the same place is used again. */
static void handshakes_that_fail(void **state) {
  (void)state;
  static const struct {
    wire_header header;
    const char *body;
    int code;
    const char *text;
  } cases[] = {
      {{.kind = WIRE_HELLO}, "{\"version\":2," LINK_METHODS "}", PYPROC_E_FAILED_PRECONDITION, "version"},
      {{.kind = WIRE_HELLO}, "{\"version\":", PYPROC_E_DATA_LOSS, "JSON"},
      {{.kind = WIRE_HELLO}, "", PYPROC_E_DATA_LOSS, "JSON"},
      {{.kind = WIRE_HELLO, .flags = 2}, PLAIN_HELLO, PYPROC_E_DATA_LOSS, "no frame"},
      {{.kind = WIRE_HELLO, .metadata_size = 1000000}, PLAIN_HELLO, PYPROC_E_DATA_LOSS, "no frame"},
      {{.kind = WIRE_REPLY, .id = 4096}, "{}", PYPROC_E_DATA_LOSS, "before its hello"},
      {{.kind = WIRE_GOODBYE}, "", PYPROC_E_DATA_LOSS, "before its hello"},
      {{.kind = 0}, "", PYPROC_E_DATA_LOSS, "no frame"},
      {{.kind = '{'}, "", PYPROC_E_DATA_LOSS, "no frame"},
      {{.kind = WIRE_FAILED},
       "{\"error\":\"no such module\",\"type\":\"ImportError\"}",
       PYPROC_E_FAILED_PRECONDITION,
       "no such module"},
      {{.kind = WIRE_FAILED}, "nonsense", PYPROC_E_FAILED_PRECONDITION, ""},
  };
  struct link self;
  link_create(&self, &codec_protobuf, LINK_LIMIT, 0);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    atomic_store(&self.broken, 0);
    link_connect(&self);
    peer_send(&self, cases[i].header, cases[i].body);
    link_expect_broken(&self, cases[i].code);
    const char *text = pyproc_error_message(self.connection->reason);
    if (strstr(text, cases[i].text) == NULL) fail_msg("no \"%s\" in: %s", cases[i].text, text);
    assert_null(link_lose(&self).first);
  }
  assert_int_equal(atomic_load(&self.ready), 0);
  atomic_store(&self.broken, 0);
  link_connect(&self);
  link_shake_hands(&self, PAGE_HELLO);
  assert_int_equal(atomic_load(&self.ready), 1);
  link_close(&self);
}

static void a_peer_that_goes_at_any_byte_of_its_hello(void **state) {
  (void)state;
  struct link self;
  buffer bytes = {0};
  append_frame(&bytes, &(wire_header){.kind = WIRE_HELLO}, PLAIN_HELLO, strlen(PLAIN_HELLO));
  link_create(&self, &codec_protobuf, LINK_LIMIT, 0);
  for (size_t size = 0; size < bytes.size; size += 5) {
    atomic_store(&self.broken, 0);
    link_connect(&self);
    peer_write(&self, bytes.data, size);
    close(self.peer);
    self.peer = -1;
    link_expect_broken(&self, PYPROC_E_UNAVAILABLE);
    assert_null(link_lose(&self).first);
  }
  atomic_store(&self.broken, 0);
  link_connect(&self);
  link_close(&self);
  buffer_free(&bytes);
}

/* Who listens ends before it is greeted; then somebody else does. */
static void a_hello_that_nobody_took(void **state) {
  (void)state;
  struct link link;
  int fds[2];
  link_create_with(&link, (connection_settings){.codec = &codec_json, .frame_limit = LINK_LIMIT, .attached = true});
  assert_int_equal(platform_socketpair(fds), 0);
  platform_close_fd(fds[1]);
  assert_int_equal(protocol_framed.open(link.connection, fds[0], NULL), PYPROC_OK);
  assert_int_equal(atomic_load(&link.connection->state), CONNECTION_BROKEN);
  assert_true(protocol_framed.close(link.connection));
  link_connect(&link);
  (void)peer_expect(&link, WIRE_HELLO);
  assert_true(peer_is_quiet(&link));
  link_close(&link);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_handshake),
      cmocka_unit_test(no_page_for_a_worker_that_has_no_use_for_it),
      cmocka_unit_test(a_hello_in_pieces),
      cmocka_unit_test(a_hello_above_the_frame_limit),
      cmocka_unit_test(handshakes_that_fail),
      cmocka_unit_test(a_peer_that_goes_at_any_byte_of_its_hello),
      cmocka_unit_test(a_hello_that_nobody_took),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
