// The headers, the INIT macros and the stubs in C++.
#include "chat.pyproc.h"
#include "quickstart.pyproc.h"
#include <cstdio>

int main() {
  pyproc_pool_options options = PYPROC_POOL_OPTIONS_INIT;
  options.script = "gen/worker.py";
  options.workers = 1;
  pyproc_pool *pool = nullptr;
  pyproc_error *error = nullptr;
  if (pyproc_pool_open(&options, &pool, &error) < 0) {
    std::fprintf(stderr, "%s\n", pyproc_error_message(error));
    pyproc_error_free(error);
    return 1;
  }
  pyproc_call_options call = PYPROC_CALL_OPTIONS_INIT;
  call.timeout_ms = 30000;
  Quickstart__PredictRequest request = QUICKSTART__PREDICT_REQUEST__INIT;
  request.value = 42;
  Quickstart__PredictReply *reply = nullptr;
  int result = quickstart_predictor_predict_with(pool, &request, &call, &reply, nullptr);
  bool right = result == 0 && static_cast<int>(reply->result) == 84;
  pyproc_reply_free(reply);

  int answers = 0;
  result = quickstart_predictor_predict_submit(
      pool, &request, &call,
      [](int code, Quickstart__PredictReply *answer, pyproc_error *failure, void *count) {
        if (code == 0 && static_cast<int>(answer->result) == 84) ++*static_cast<int *>(count);
        pyproc_reply_free(answer);
        pyproc_error_free(failure);
      },
      &answers, nullptr);
  while (result == 0 && pyproc_pool_dispatch(pool, -1) == 0) {}
  pyproc_pool_close(pool);
  return right && answers == 1 ? 0 : 1;
}
