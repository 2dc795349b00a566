// The same in C++.
#include "shop.pyproc.h"
#include <iostream>

int main() {
  pyproc_pool_options options = PYPROC_POOL_OPTIONS_INIT;
  options.script = "gen/worker.py";
  options.workers = 1;
  options.log = pyproc_log_to_stderr;
  pyproc_pool *pool = nullptr;
  pyproc_error *error = nullptr;
  Google__Protobuf__Timestamp placed = GOOGLE__PROTOBUF__TIMESTAMP__INIT;
  placed.seconds = 1700000000;
  Shop__Order order = SHOP__ORDER__INIT;
  order.article = "lamp";
  order.quantity = 2;
  order.placed = &placed;
  Shop__Receipt *receipt = nullptr;
  int result = pyproc_pool_open(&options, &pool, &error);
  if (result >= 0) result = shop_till_pay(pool, &order, &receipt, &error);
  if (result < 0)
    std::cerr << pyproc_strerror(result) << ": " << pyproc_error_message(error) << "\n";
  else
    std::cout << receipt->total->cents / 100 << " at " << receipt->placed->seconds << "\n";
  pyproc_reply_free(receipt);
  pyproc_error_free(error);
  pyproc_pool_close(pool);
  return result < 0;
}
