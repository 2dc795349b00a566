/*
 * sides.h - the sides on which tests of the wire run: the real worker and the pure Python one that was written from schema/wire.md, in
 * both codecs. A test is given its side as the state.
 */
#ifndef E2E_SIDES_H
#define E2E_SIDES_H

#include "support.h"

typedef struct side {
  const char *protocol;
  bool is_real;
  pyproc_pool *pool; /* the test's */
  pyproc_pool *shared;
} side;

enum { SIDES = 4 };
extern side sides[SIDES];

/* Options for one worker that serves tests/conformance/conformance.proto and what schema/wire.md has tests expose. */
pyproc_pool_options side_options(const side *self);

/* Set-up and teardown: a pool for all tests that leave their worker as it was. */
int side_share(void **state);
int side_leave(void **state);

/* Set-up and teardown: a pool of the test's own. */
int side_open(void **state);
int side_close(void **state);

/* A program's teardown: closes what tests have shared. */
int sides_close(void **state);

#define ON_SIDE(function, opens, closes, number) \
  { \
    .name = #function " " #number, .test_func = function, .setup_func = opens, .teardown_func = closes, \
    .initial_state = &sides[number] \
  }
#define ON_ALL_WITH(function, opens, closes) \
  ON_SIDE(function, opens, closes, 0), ON_SIDE(function, opens, closes, 1), ON_SIDE(function, opens, closes, 2), \
      ON_SIDE(function, opens, closes, 3)
#define ON_ALL(function) ON_ALL_WITH(function, side_share, side_leave)

#endif
