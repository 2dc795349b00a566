/* Which worker gets a call, and the queue: with connections that only keep what they are given. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "admission.h"
#include "error.h"
#include "platform.h"

#include <string.h>

enum { PLACES = 4, CALLS = 16, HELD = 16 };

/* A connection that keeps its calls until the test does something with them. */
struct place {
  struct connection base;
  struct call *held[HELD];
  int count;
  int closed_starts;   /* so many starts find it closed: it broke between the look and the start */
  bool refuses;        /* starts end the call with an error */
  int started_prefix;  /* that many of the held ones have started: not taken back */
  int withdraw_result; /* when it holds the call */
  int withdrawn_code, recalls, crowded;
};

static struct place *place_of(struct connection *self) {
  return (struct place *)self;
}

static connection_start place_start(struct connection *base, struct call *call) {
  struct place *self = place_of(base);
  if (atomic_load(&base->state) != CONNECTION_OPEN) return CONNECTION_CLOSED;
  if (self->closed_starts > 0) {
    if (--self->closed_starts == 0) atomic_store(&base->state, CONNECTION_BROKEN);
    return CONNECTION_CLOSED;
  }
  if (self->refuses) {
    call_fail(call, error_new(PYPROC_E_UNIMPLEMENTED, "refused"), false);
    return CONNECTION_REFUSED;
  }
  assert_in_range(self->count, 0, HELD - 1);
  self->held[self->count++] = call;
  call->attempts++;
  atomic_store(&call->connection, base);
  atomic_fetch_add(call->stream != NULL ? &base->streams : &base->load, 1);
  return CONNECTION_TAKEN;
}

static void let_go(struct place *self, int at) {
  atomic_fetch_sub(self->held[at]->stream != NULL ? &self->base.streams : &self->base.load, 1);
  self->count--;
  for (int i = at; i < self->count; i++) self->held[i] = self->held[i + 1];
}

static int place_withdraw(struct connection *base, struct call *call, int code) {
  struct place *self = place_of(base);
  self->withdrawn_code = code;
  for (int i = 0; i < self->count; i++)
    if (self->held[i] == call) {
      let_go(self, i);
      atomic_store(&call->connection, NULL);
      return self->withdraw_result;
    }
  return -1;
}

static void take_back(struct place *self, call_list *calls) {
  while (self->count > self->started_prefix) {
    struct call *call = self->held[self->started_prefix];
    let_go(self, self->started_prefix);
    atomic_store(&call->connection, NULL);
    call_list_append(calls, call);
  }
}

static void place_recall(struct connection *base, int64_t keep_ns, call_list *calls) {
  (void)keep_ns;
  place_of(base)->recalls++;
  take_back(place_of(base), calls);
}

static void place_fail(struct connection *base, const pyproc_error *error, call_list *unstarted) {
  struct place *self = place_of(base);
  take_back(self, unstarted);
  for (int i = 0; i < self->count; i++) call_fail(self->held[i], error_copy(error), true);
  self->count = 0;
  atomic_store(&base->load, 0);
}

static void place_crowded(void *owner) {
  ((struct place *)owner)->crowded++;
}

static const connection_owner place_owner = {.crowded = place_crowded};

static const protocol place_protocol = {
    .name = "place", .start = place_start, .withdraw = place_withdraw, .recall = place_recall, .fail = place_fail};

struct shop {
  struct admission admission;
  struct lot lot;
  struct place places[PLACES];
  struct connection *connections[PLACES];
  struct call calls[CALLS];
};

static struct shop shop;

/* `places` workers that take `capacity` calls each, and as many calls as there are. */
static void shop_open(int places, int capacity, int64_t queue_limit) {
  memset(&shop, 0, sizeof shop);
  lot_init(&shop.lot);
  admission_init(&shop.admission, &shop.lot, queue_limit, 8, 4);
  for (int i = 0; i < places; i++) {
    shop.places[i].base.protocol = &place_protocol;
    shop.places[i].base.owner_ops = &place_owner;
    shop.places[i].base.owner = &shop.places[i];
    atomic_store(&shop.places[i].base.state, CONNECTION_OPEN);
    atomic_store(&shop.places[i].base.capacity, capacity);
    atomic_store(&shop.places[i].base.good_calls, 1);
    shop.connections[i] = &shop.places[i].base;
  }
  shop.admission.connections = shop.connections;
  shop.admission.count = places;
  atomic_store(&shop.admission.workers, places);
  shop.admission.few = PLACES; /* all are used, however long the test takes */
  for (int i = 0; i < CALLS; i++) call_init(&shop.calls[i], &shop.lot, (call_method){.name = "m"}, NULL, INT64_MAX);
}

static void shop_close(void) {
  for (int i = 0; i < CALLS; i++) call_clear(&shop.calls[i]);
  admission_destroy(&shop.admission);
  lot_destroy(&shop.lot);
}

static void enter(int call) {
  pyproc_error *error = NULL;
  if (admission_enter(&shop.admission, &shop.calls[call], &error) < 0) fail_msg("%s", pyproc_error_message(error));
}

static void turned_away(int call, int code, const char *text) {
  pyproc_error *error = NULL;
  assert_int_equal(admission_enter(&shop.admission, &shop.calls[call], &error), code);
  if (strstr(pyproc_error_message(error), text) == NULL) fail_msg("%s", pyproc_error_message(error));
  pyproc_error_free(error);
  assert_false(shop.calls[call].queued);
  assert_null(atomic_load(&shop.calls[call].connection));
}

/* The place answers its oldest call. */
static void answer(int place) {
  struct place *self = &shop.places[place];
  assert_true(self->count > 0);
  struct call *call = self->held[0];
  let_go(self, 0);
  call_finish(call);
}

/* Which calls wait, in order, as letters. */
static void check_queue(const char *expected) {
  char text[CALLS + 1] = "";
  size_t count = 0;
  for (const struct call *call = shop.admission.queue.first; call != NULL; call = call->next) {
    assert_true(call->queued);
    text[count++] = (char)('a' + (call - shop.calls));
  }
  assert_string_equal(text, expected);
  assert_int_equal(atomic_load(&shop.admission.queued), count);
}

static void check_held(int place, const char *expected) {
  char text[HELD + 1] = "";
  for (int i = 0; i < shop.places[place].count; i++) text[i] = (char)('a' + (shop.places[place].held[i] - shop.calls));
  assert_string_equal(text, expected);
}

static void the_least_loaded_is_first(void **state) {
  (void)state;
  shop_open(3, 8, 10);
  atomic_store(&shop.places[0].base.load, 2);
  atomic_store(&shop.places[1].base.load, 1);
  atomic_store(&shop.places[2].base.load, 3);
  enter(0);
  check_held(1, "a");
  for (int i = 1; i < 6; i++) enter(i); /* 2 2 3 → evenly on */
  for (int i = 0; i < 3; i++) assert_in_range(atomic_load(&shop.places[i].base.load), 4, 4);
  check_queue("");
  shop_close();
}

static void few_calls_keep_to_few_workers(void **state) {
  (void)state;
  shop_open(3, 8, 10);
  for (int round = 0; round < 3; round++) {
    enter(0);
    enter(1);
    for (int i = 0; i < 3; i++) assert_int_equal(shop.places[i].count, i < 2);
    for (int i = 0; i < 2; i++) let_go(&shop.places[i], 0);
  }
  shop_close();
}

/* As if much had been called, and time had passed. */
static void wait_for_turn(void) {
  shop.admission.turned_ns -= INT64_C(1000000000);
  shop.admission.searches = 1000;
}

static void no_worker_is_left_unused(void **state) {
  (void)state;
  enum { TURNS = 8 };
  int calls[3] = {0};
  shop_open(3, 8, 10);
  atomic_store(&shop.places[2].base.good_calls, 0); /* it has not answered yet */
  enter(0);
  assert_int_equal(shop.places[2].count, 1);
  let_go(&shop.places[2], 0);
  atomic_store(&shop.places[2].base.good_calls, 1);
  shop.admission.turned_ns -= INT64_C(1000000000); /* however rare calls are, most go to the first */
  for (int call = 0; call < 10; call++) {
    enter(0);
    assert_int_equal(shop.places[0].count, 1);
    let_go(&shop.places[0], 0);
  }
  for (int turn = 0; turn < TURNS; turn++) {
    wait_for_turn();
    for (int call = 0; call < 2; call++) {
      enter(0);
      for (int i = 0; i < 3; i++)
        for (; shop.places[i].count > 0; calls[i]++) let_go(&shop.places[i], 0);
    }
  }
  assert_int_equal(calls[0], TURNS);
  assert_true(calls[1] > 0 && calls[2] > 0);
  shop_close();
}

/* Four workers, of which the first alone answers short calls best. */
static void shop_open_narrow(void) {
  shop_open(4, 1, 10);
  shop.admission.few = 1;
  shop.admission.narrow = (trial){.way = true, .since_ns = platform_now_ns() + INT64_C(1000000000000)};
  atomic_store(&shop.places[0].base.prefetch, 3);
  atomic_store(&shop.places[0].base.quick_ns, 2000);
  atomic_store(&shop.places[0].base.progress_ns, INT64_MAX / 2); /* just now, however slow this machine is */
}

static void short_calls_share_few_workers(void **state) {
  (void)state;
  shop_open_narrow();
  assert_false(admission_is_narrow(&shop.admission));
  enter(0);
  assert_true(admission_is_narrow(&shop.admission));
  assert_int_equal(shop.places[0].crowded, 0);
  for (int call = 1; call < 4; call++) enter(call);
  assert_int_equal(shop.places[0].count, 4);
  assert_int_equal(shop.places[0].crowded, 3);
  enter(4); /* there is no more room */
  assert_int_equal(shop.places[1].count, 1);
  shop_close();
}

static void long_calls_do_not(void **state) {
  (void)state;
  for (int stuck = 0; stuck < 2; stuck++) {
    shop_open_narrow();
    enter(0);
    enter(1);
    assert_int_equal(shop.places[0].count, 2);
    if (stuck > 0)
      atomic_store(&shop.places[0].base.progress_ns, platform_now_ns() - 10000000);
    else
      atomic_store(&shop.places[0].base.quick_ns, 1000000);
    assert_false(admission_is_narrow(&shop.admission)); /* nobody joins these any more */
    enter(2);
    enter(3);
    assert_int_equal(shop.places[0].count, 2);
    assert_int_equal(shop.places[1].count + shop.places[2].count, 2);
    shop_close();
  }
}

/* Others take the place of one that stops, or is gone. */
static void few_that_are_there(void **state) {
  (void)state;
  shop_open_narrow();
  atomic_store(&shop.places[0].base.capacity, 0);
  atomic_store(&shop.places[1].base.state, CONNECTION_DOWN);
  atomic_store(&shop.places[2].base.prefetch, 3);
  atomic_store(&shop.places[2].base.progress_ns, INT64_MAX / 2);
  for (int call = 0; call < 4; call++) enter(call);
  assert_int_equal(shop.places[2].count, 4);
  enter(4);
  assert_int_equal(shop.places[3].count, 1);
  shop_close();
}

/* One that has not answered yet gets a call now and then, however few are used. */
static void few_workers_are_not_all(void **state) {
  (void)state;
  shop_open_narrow();
  atomic_store(&shop.places[3].base.good_calls, 0);
  enter(0);
  assert_int_equal(shop.places[0].count, 1);
  wait_for_turn();
  enter(1);
  assert_int_equal(shop.places[3].count, 1);
  shop_close();
}

/* Room is capacity and prefetch, but never more than max_in_flight. */
static void room(void **state) {
  (void)state;
  shop_open(1, 2, 10);
  atomic_store(&shop.places[0].base.prefetch, 1);
  for (int i = 0; i < 4; i++) enter(i);
  check_held(0, "abc");
  check_queue("d");
  atomic_store(&shop.places[0].base.prefetch, 64);
  for (int i = 4; i < 10; i++) enter(i);
  check_held(0, "abcdefgh"); /* max_in_flight is 8 */
  check_queue("ij");
  shop_close();
}

static void only_open_connections_get_calls(void **state) {
  (void)state;
  static const connection_state states[] = {CONNECTION_DOWN, CONNECTION_HANDSHAKE, CONNECTION_BROKEN};
  shop_open(3, 8, 10);
  for (int i = 0; i < 3; i++) atomic_store(&shop.places[i].base.state, states[i]);
  enter(0);
  enter(1);
  check_queue("ab");
  admission_dispatch(&shop.admission);
  check_queue("ab");
  atomic_store(&shop.places[1].base.state, CONNECTION_OPEN);
  admission_dispatch(&shop.admission);
  check_queue("");
  check_held(1, "ab");
  shop_close();
}

static void the_queue_is_bounded(void **state) {
  (void)state;
  shop_open(1, 1, 2);
  for (int i = 0; i < 3; i++) enter(i);
  check_held(0, "a");
  check_queue("bc");
  turned_away(3, PYPROC_E_RESOURCE_EXHAUSTED, "queue_limit");
  assert_int_equal(admission_enter(&shop.admission, &shop.calls[3], NULL), PYPROC_E_RESOURCE_EXHAUSTED);
  answer(0);
  admission_dispatch(&shop.admission);
  check_held(0, "b");
  enter(3);
  check_queue("cd");
  shop_close();
}

/* Without a queue a call is turned away when all are busy, and taken when one is not. */
static void no_queue_at_all(void **state) {
  (void)state;
  shop_open(1, 1, 0);
  enter(0);
  turned_away(1, PYPROC_E_RESOURCE_EXHAUSTED, "queue_limit");
  answer(0);
  enter(1);
  check_held(0, "b");
  shop_close();
}

static void nobody_overtakes_the_queue(void **state) {
  (void)state;
  shop_open(1, 1, 10);
  for (int i = 0; i < 4; i++) enter(i);
  answer(0); /* there is room, and nobody has dispatched yet */
  enter(4);
  check_held(0, "b");
  check_queue("cde");
  for (int i = 0; i < 3; i++) {
    answer(0);
    admission_dispatch(&shop.admission);
  }
  check_held(0, "e");
  for (int i = 0; i < 4; i++) assert_true(atomic_load(&shop.calls[i].done));
  shop_close();
}

/* The connection broke between the look and the start: the next one is tried, or the call waits. */
static void closed_under_the_hands(void **state) {
  (void)state;
  shop_open(2, 1, 10);
  shop.places[0].closed_starts = 1;
  enter(0);
  enter(1);
  assert_int_equal(shop.places[0].count, 0);
  check_held(1, "a");
  check_queue("b");
  shop.places[1].closed_starts = 1;
  let_go(&shop.places[1], 0);
  admission_dispatch(&shop.admission);
  check_queue("b"); /* it kept its place */
  shop_close();
}

static void a_refused_call_is_over(void **state) {
  (void)state;
  shop_open(1, 1, 10);
  enter(0);
  enter(1);
  enter(2);
  shop.places[0].refuses = true;
  answer(0);
  admission_dispatch(&shop.admission);
  check_queue("");
  for (int i = 1; i < 3; i++) {
    assert_true(atomic_load(&shop.calls[i].done));
    assert_int_equal(pyproc_error_code(shop.calls[i].error), PYPROC_E_UNIMPLEMENTED);
  }
  shop_close();
}

static void withdrawing(void **state) {
  (void)state;
  shop_open(1, 1, 10);
  for (int i = 0; i < 4; i++) enter(i);
  assert_int_equal(admission_withdraw(&shop.admission, &shop.calls[2], PYPROC_E_CANCELLED), 0); /* it only waited */
  assert_false(shop.calls[2].queued);
  check_queue("bd");
  shop.places[0].withdraw_result = 1;
  assert_int_equal(admission_withdraw(&shop.admission, &shop.calls[0], PYPROC_E_DEADLINE_EXCEEDED), 1);
  assert_int_equal(shop.places[0].withdrawn_code, PYPROC_E_DEADLINE_EXCEEDED);
  check_held(0, "b"); /* the room that it left is used at once: nobody else would notice it */
  check_queue("d");
  answer(0);
  assert_int_equal(admission_withdraw(&shop.admission, &shop.calls[1], PYPROC_E_CANCELLED), -1); /* done already */
  shop_close();
}

static void lopsided(void **state) {
  (void)state;
  shop_open(2, 1, 10);
  assert_false(admission_is_lopsided(&shop.admission));
  atomic_store(&shop.places[0].base.load, 1);
  assert_false(admission_is_lopsided(&shop.admission)); /* it runs that one */
  atomic_store(&shop.places[0].base.load, 2);
  assert_true(admission_is_lopsided(&shop.admission));
  atomic_store(&shop.places[1].base.load, 1);
  assert_false(admission_is_lopsided(&shop.admission)); /* nobody is idle */
  atomic_store(&shop.places[1].base.load, 0);
  atomic_store(&shop.places[1].base.state, CONNECTION_BROKEN);
  assert_false(admission_is_lopsided(&shop.admission)); /* the idle one is of no use */
  atomic_store(&shop.places[1].base.state, CONNECTION_OPEN);
  atomic_store(&shop.places[0].base.state, CONNECTION_BROKEN);
  assert_false(admission_is_lopsided(&shop.admission));
  shop_close();
}

/* Calls that wait behind a slow one are started where nothing runs, before those of the queue, in their order. */
static void balancing(void **state) {
  (void)state;
  shop_open(2, 1, 10);
  atomic_store(&shop.places[1].base.state, CONNECTION_HANDSHAKE);
  atomic_store(&shop.places[0].base.prefetch, 3);
  for (int i = 0; i < 6; i++) enter(i);
  check_held(0, "abcd");
  check_queue("ef");
  shop.places[0].started_prefix = 1;
  atomic_store(&shop.places[0].base.prefetch, 0);
  atomic_store(&shop.places[1].base.state, CONNECTION_OPEN);
  atomic_store(&shop.places[0].base.progress_ns, platform_now_ns());
  admission_balance(&shop.admission, INT64_C(60000000000)); /* it has just answered: patience */
  assert_int_equal(shop.places[0].recalls, 0);
  let_go(&shop.places[1], 0); /* what the queue gave it meanwhile is answered */
  check_queue("f");
  atomic_store(&shop.places[0].base.progress_ns, platform_now_ns() - 2000);
  admission_balance(&shop.admission, 1000);
  assert_int_equal(shop.places[0].recalls, 1);
  assert_int_equal(shop.places[1].recalls, 0);
  check_held(0, "a");
  check_held(1, "b");
  check_queue("cdf");
  admission_balance(&shop.admission, 0); /* nobody is idle any more: nothing to do */
  assert_int_equal(shop.places[0].recalls, 1);
  shop_close();
}

static void a_lost_connection(void **state) {
  (void)state;
  shop_open(2, 3, 10);
  atomic_store(&shop.places[1].base.state, CONNECTION_DOWN);
  for (int i = 0; i < 5; i++) enter(i);
  check_held(0, "abc");
  check_queue("de");
  shop.places[0].started_prefix = 1;
  pyproc_error *error = error_new(PYPROC_E_UNAVAILABLE, "the worker died");
  atomic_store(&shop.places[0].base.state, CONNECTION_BROKEN);
  admission_lose(&shop.admission, &shop.places[0].base, error);
  assert_true(atomic_load(&shop.calls[0].done));
  assert_true(shop.calls[0].may_have_run);
  assert_string_equal(pyproc_error_message(shop.calls[0].error), "the worker died");
  check_queue("bcde"); /* in front, in their order */
  atomic_store(&shop.places[1].base.state, CONNECTION_OPEN);
  admission_lose(&shop.admission, &shop.places[0].base, error); /* nothing is left there; the queue moves on */
  check_held(1, "bcd");
  check_queue("e");
  pyproc_error_free(error);
  shop_close();
}

/* A call that kills every worker before it has started does not go round for ever. */
static void attempts_are_bounded(void **state) {
  (void)state;
  shop_open(1, 1, 10);
  pyproc_error *error = error_new(PYPROC_E_UNAVAILABLE, "the worker died");
  enter(0);
  int losses = 0;
  for (; losses < 100 && !atomic_load(&shop.calls[0].done); losses++) {
    check_held(0, "a");
    admission_lose(&shop.admission, &shop.places[0].base, error);
  }
  assert_in_range(losses, 2, 20);
  assert_int_equal(shop.calls[0].attempts, losses);
  assert_false(shop.calls[0].may_have_run);
  assert_int_equal(pyproc_error_code(shop.calls[0].error), PYPROC_E_UNAVAILABLE);
  pyproc_error_free(error);
  shop_close();
}

static void closing(void **state) {
  (void)state;
  shop_open(1, 1, 10);
  pyproc_error *error = error_new(PYPROC_E_UNAVAILABLE, "the pool was closed");
  for (int i = 0; i < 4; i++) enter(i);
  admission_close(&shop.admission, NULL);
  turned_away(5, PYPROC_E_UNAVAILABLE, "closed");
  check_queue("bcd"); /* those that are in may still be answered */
  answer(0);
  admission_dispatch(&shop.admission);
  check_held(0, "b");
  admission_close(&shop.admission, error);
  check_queue("");
  for (int i = 2; i < 4; i++) {
    assert_true(atomic_load(&shop.calls[i].done));
    assert_false(shop.calls[i].may_have_run);
    assert_string_equal(pyproc_error_message(shop.calls[i].error), "the pool was closed");
  }
  admission_lose(&shop.admission, &shop.places[0].base, error); /* what had not started is not queued again */
  assert_true(atomic_load(&shop.calls[1].done));
  assert_false(shop.calls[1].may_have_run);
  check_queue("");
  pyproc_error_free(error);
  shop_close();
}

/* A worker that stops gives a call back: it goes to another one, and a worker that is stopping gets nothing. */
static void a_call_given_back_goes_elsewhere(void **state) {
  (void)state;
  shop_open(2, 1, 4);
  struct call *call = &shop.calls[0];
  assert_int_equal(admission_enter(&shop.admission, call, NULL), PYPROC_OK);
  struct place *first = place_of(atomic_load(&call->connection));
  struct place *second = first == &shop.places[0] ? &shop.places[1] : &shop.places[0];
  let_go(first, 0);
  atomic_store(&first->base.capacity, 0);
  atomic_store(&first->base.prefetch, 8);
  admission_return(&shop.admission, call);
  assert_ptr_equal(atomic_load(&call->connection), &second->base);
  assert_int_equal(first->count, 0);
  shop_close();
}

/* Not for ever: workers that give everything back end the call. */
static void a_call_given_back_too_often_ends(void **state) {
  (void)state;
  shop_open(1, 1, 4);
  struct call *call = &shop.calls[0];
  assert_int_equal(admission_enter(&shop.admission, call, NULL), PYPROC_OK);
  for (int i = 0; i < 100 && !atomic_load(&call->done); i++) {
    let_go(&shop.places[0], 0);
    admission_return(&shop.admission, call);
  }
  assert_true(atomic_load(&call->done));
  assert_int_equal(pyproc_error_code(call->error), PYPROC_E_UNAVAILABLE);
  assert_false(call->may_have_run);
  shop_close();
}

/* ---- streams ---- */

static call_stream stream;

static void make_stream(int call) {
  shop.calls[call].stream = &stream;
}

/* They have places of their own: neither they nor calls wait for each other. */
static void streams_and_calls_wait_apart(void **state) {
  (void)state;
  shop_open(1, 1, 10);
  atomic_store(&shop.admission.workers, 2); /* of which one is just restarting */
  for (int i = 0; i < 6; i++) make_stream(i);
  for (int i = 0; i < 6; i++) enter(i); /* 4 a worker */
  check_held(0, "abcd");
  assert_true(shop.calls[4].queued && shop.calls[5].queued);
  assert_int_equal(atomic_load(&shop.admission.queued), 2);
  enter(6); /* a call, past the streams that wait */
  check_held(0, "abcdg");
  enter(7);
  assert_true(shop.calls[7].queued);
  let_go(&shop.places[0], 1); /* a stream ends */
  admission_leave_stream(&shop.admission);
  admission_dispatch(&shop.admission);
  check_held(0, "acdge");
  assert_true(shop.calls[7].queued); /* its end makes no room for a call */
  let_go(&shop.places[0], 3);        /* the call ends */
  admission_dispatch(&shop.admission);
  check_held(0, "acdeh");
  assert_int_equal(admission_withdraw(&shop.admission, &shop.calls[5], PYPROC_E_CANCELLED), 0);
  assert_int_equal(atomic_load(&shop.admission.queued), 0);
  shop_close();
}

static void no_more_streams_than_places(void **state) {
  (void)state;
  shop_open(2, 1, 10);
  atomic_store(&shop.admission.workers, 2);
  for (int i = 0; i < 9; i++) make_stream(i);
  for (int i = 0; i < 8; i++) enter(i);
  check_held(0, "aceg");
  check_held(1, "bdfh");
  turned_away(8, PYPROC_E_RESOURCE_EXHAUSTED, "8 streams are open, as many as 2 workers may have (option max_streams)");
  admission_leave_stream(&shop.admission); /* one is over, but its worker has not yet said so */
  enter(8);
  assert_true(shop.calls[8].queued);
  let_go(&shop.places[1], 0);
  admission_dispatch(&shop.admission);
  check_held(1, "dfhi");
  shop_close();
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(streams_and_calls_wait_apart),
      cmocka_unit_test(no_more_streams_than_places),
      cmocka_unit_test(a_call_given_back_goes_elsewhere),
      cmocka_unit_test(a_call_given_back_too_often_ends),
      cmocka_unit_test(the_least_loaded_is_first),
      cmocka_unit_test(few_calls_keep_to_few_workers),
      cmocka_unit_test(no_worker_is_left_unused),
      cmocka_unit_test(short_calls_share_few_workers),
      cmocka_unit_test(long_calls_do_not),
      cmocka_unit_test(few_that_are_there),
      cmocka_unit_test(few_workers_are_not_all),
      cmocka_unit_test(room),
      cmocka_unit_test(only_open_connections_get_calls),
      cmocka_unit_test(the_queue_is_bounded),
      cmocka_unit_test(no_queue_at_all),
      cmocka_unit_test(nobody_overtakes_the_queue),
      cmocka_unit_test(closed_under_the_hands),
      cmocka_unit_test(a_refused_call_is_over),
      cmocka_unit_test(withdrawing),
      cmocka_unit_test(lopsided),
      cmocka_unit_test(balancing),
      cmocka_unit_test(a_lost_connection),
      cmocka_unit_test(attempts_are_bounded),
      cmocka_unit_test(closing),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
