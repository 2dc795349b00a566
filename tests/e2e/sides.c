#include "sides.h"

side sides[SIDES] = {{"protobuf", true, NULL, NULL},
                     {"json", true, NULL, NULL},
                     {"protobuf", false, NULL, NULL},
                     {"json", false, NULL, NULL}};

pyproc_pool_options side_options(const side *self) {
  pyproc_pool_options options = options_for("conformance_worker.py");
  if (!self->is_real) options.script = source_path("tests/conformance/worker.py");
  options.protocol = self->protocol;
  return options;
}

int side_share(void **state) {
  side *self = *state;
  pyproc_pool_options options = side_options(self);
  if (self->shared == NULL) self->shared = open_pool(&options);
  self->pool = self->shared;
  return support_setup(state);
}

int side_leave(void **state) {
  ((side *)*state)->pool = NULL;
  return support_teardown(state);
}

int side_open(void **state) {
  side *self = *state;
  if (support_setup(state) < 0) return -1;
  pyproc_pool_options options = side_options(self);
  self->pool = open_pool(&options);
  return 0;
}

int side_close(void **state) {
  side *self = *state;
  pyproc_pool_close(self->pool);
  self->pool = NULL;
  return support_teardown(state);
}

int sides_close(void **state) {
  (void)state;
  for (size_t i = 0; i < SIDES; i++) pyproc_pool_close(sides[i].shared);
  return count_children(NULL) == 0 ? 0 : -1;
}
