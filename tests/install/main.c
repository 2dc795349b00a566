/* A program outside the project: it knows what is installed and nothing else. */
#include "shop.pyproc.h"
#include <stdio.h>

int main(void) {
  pyproc_pool_options options = PYPROC_POOL_OPTIONS_INIT;
  options.script = "gen/worker.py";
  options.workers = 1;
  options.log = pyproc_log_to_stderr;
  pyproc_pool *pool = NULL;
  pyproc_error *error = NULL;
  Google__Protobuf__Timestamp placed = GOOGLE__PROTOBUF__TIMESTAMP__INIT;
  placed.seconds = 1700000000;
  Shop__Order order = SHOP__ORDER__INIT;
  order.article = "lamp";
  order.quantity = 2;
  order.placed = &placed;
  Shop__Receipt *receipt = NULL;
  int result = pyproc_pool_open(&options, &pool, &error);
  if (result >= 0) result = shop_till_pay(pool, &order, &receipt, &error);
  if (result < 0)
    fprintf(stderr, "%s: %s\n", pyproc_strerror(result), pyproc_error_message(error));
  else
    printf("%lld at %lld\n", receipt->total ? (long long)receipt->total->cents / 100 : -1,
           receipt->placed ? (long long)receipt->placed->seconds : -1);
  pyproc_reply_free(receipt);
  pyproc_error_free(error);
  pyproc_pool_close(pool);
  return result < 0;
}
