/*
 * grpc_peer - a plain gRPC C++ client, for comparison. Usage: grpc_peer TARGET IN_FLIGHT SECONDS; 0 in flight: blocking
 * calls, one after the other. Writes "CALLS SECONDS" and the time of each call in nanoseconds, a line each.
 */
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include <grpcpp/grpcpp.h>

#include "bench.grpc.pb.h"

namespace {

using Clock = std::chrono::steady_clock;

std::vector<long long> times;

long long since(Clock::time_point begin) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - begin).count();
}

void check(const grpc::Status &status, double value, const bench::PredictReply &reply) {
  if (status.ok() && reply.result() == 2 * value) return;
  std::fprintf(stderr, "grpc_peer: %s\n", status.ok() ? "wrong answer" : status.error_message().c_str());
  std::exit(1);
}

void set_deadline(grpc::ClientContext *context) {
  context->set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
}

void block(bench::Predictor::Stub *stub, Clock::time_point end) {
  for (double value = 0; Clock::now() < end; value++) {
    auto begin = Clock::now();
    grpc::ClientContext context;
    set_deadline(&context);
    bench::PredictRequest request;
    bench::PredictReply reply;
    request.set_value(value);
    grpc::Status status = stub->Predict(&context, request, &reply);
    check(status, value, reply);
    times.push_back(since(begin));
  }
}

struct Call {
  double value;
  Clock::time_point begin = Clock::now();
  grpc::ClientContext context;
  bench::PredictReply reply;
  grpc::Status status;
  std::unique_ptr<grpc::ClientAsyncResponseReader<bench::PredictReply>> reader;

  Call(bench::Predictor::Stub *stub, grpc::CompletionQueue *queue, double number) : value(number) {
    bench::PredictRequest request;
    request.set_value(value);
    set_deadline(&context);
    reader = stub->AsyncPredict(&context, request, queue);
    reader->Finish(&reply, &status, this);
  }
};

void pipeline(bench::Predictor::Stub *stub, int in_flight, Clock::time_point end) {
  grpc::CompletionQueue queue;
  double value = 0;
  int open = 0;
  for (; open < in_flight; open++) new Call(stub, &queue, value++);
  void *tag = nullptr;
  bool ok = false;
  while (open > 0 && queue.Next(&tag, &ok)) {
    std::unique_ptr<Call> call(static_cast<Call *>(tag));
    check(call->status, call->value, call->reply);
    times.push_back(since(call->begin));
    open--;
    if (Clock::now() >= end) continue;
    new Call(stub, &queue, value++);
    open++;
  }
  queue.Shutdown();
}

} // namespace

int main(int argc, char **argv) {
  if (argc != 4) return 2;
  auto channel = grpc::CreateChannel(argv[1], grpc::InsecureChannelCredentials());
  auto stub = bench::Predictor::NewStub(channel);
  block(stub.get(), Clock::now() + std::chrono::milliseconds(50)); /* connects */
  times.clear();
  auto begin = Clock::now();
  auto end = begin + std::chrono::nanoseconds(static_cast<long long>(std::atof(argv[3]) * 1e9));
  if (std::atoi(argv[2]) == 0)
    block(stub.get(), end);
  else
    pipeline(stub.get(), std::atoi(argv[2]), end);
  std::printf("%zu %.9f\n", times.size(), static_cast<double>(since(begin)) / 1e9);
  for (long long ns : times) std::printf("%lld\n", ns);
  return 0;
}
