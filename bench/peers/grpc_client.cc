/*
 * grpc_client - a plain gRPC C++ client. Usage: grpc_client TARGET THREADS SECONDS; or grpc_client TARGET IN_FLIGHT SECONDS
 * async, with one thread and a completion queue; or grpc_client TARGET 1 SECONDS down|up BYTES, messages of a stream.
 * All calls share a channel and a stub, as gRPC's performance guide says.
 */
#include <chrono>
#include <cstring>
#include <memory>

#include <grpcpp/grpcpp.h>

#include "bench.grpc.pb.h"
#include "client.h"

namespace {

std::unique_ptr<bench::Predictor::Stub> stub;

void check(const grpc::Status &status) {
  if (status.ok()) return;
  std::fprintf(stderr, "grpc_client: %s\n", status.error_message().c_str());
  std::exit(1);
}

void set_deadline(grpc::ClientContext *context) {
  context->set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
}

void *open(const char *) {
  return stub.get();
}

double call(void *connection, double value) {
  grpc::ClientContext context;
  bench::PredictRequest request;
  bench::PredictReply reply;
  set_deadline(&context);
  request.set_value(value);
  check(static_cast<bench::Predictor::Stub *>(connection)->Predict(&context, request, &reply));
  return reply.result();
}

void close(void *) {}

struct Call {
  int64_t begin = client_now();
  grpc::ClientContext context;
  bench::PredictReply reply;
  grpc::Status status;
  std::unique_ptr<grpc::ClientAsyncResponseReader<bench::PredictReply>> reader;

  Call(grpc::CompletionQueue *queue, double value) {
    bench::PredictRequest request;
    request.set_value(value);
    set_deadline(&context);
    reader = stub->AsyncPredict(&context, request, queue);
    reader->Finish(&reply, &status, this);
  }
};

void pipeline(int in_flight, int64_t end, client_times *times) {
  grpc::CompletionQueue queue;
  double value = 0;
  int open = 0;
  for (; open < in_flight; open++) new Call(&queue, value++);
  void *tag = nullptr;
  bool ok = false;
  while (open > 0 && queue.Next(&tag, &ok)) {
    std::unique_ptr<Call> call(static_cast<Call *>(tag));
    int64_t now = client_now();
    check(call->status);
    client_times_add(times, now - call->begin);
    open--;
    if (now >= end) continue;
    new Call(&queue, value++);
    open++;
  }
  queue.Shutdown();
}

int run_async(int in_flight, double seconds) {
  client_times times;
  client_times_init(&times);
  pipeline(in_flight, client_now() + static_cast<int64_t>(seconds * 2e8), &times); /* connects, warms up */
  times.count = 0;
  int64_t began = client_now(), cpu = client_clock(CLOCK_PROCESS_CPUTIME_ID);
  pipeline(in_flight, began + static_cast<int64_t>(seconds * 1e9), &times);
  times.seconds = static_cast<double>(client_now() - began) / 1e9;
  times.cpu_seconds = static_cast<double>(client_clock(CLOCK_PROCESS_CPUTIME_ID) - cpu) / 1e9;
  return client_times_write(&times, 1);
}

/* Takes messages until `end`, then gives the stream up. */
int64_t download(size_t size, int64_t end) {
  grpc::ClientContext context;
  bench::DownloadRequest request;
  bench::Blob blob;
  request.set_count(UINT64_MAX >> 1);
  request.set_size(static_cast<uint32_t>(size));
  auto reader = stub->Download(&context, request);
  int64_t count = 0;
  for (; client_now() < end; count++)
    if (!reader->Read(&blob) || blob.data().size() != size) std::exit(1);
  context.TryCancel();
  reader->Finish();
  return count;
}

/* Sends messages until `end`, and hears how many came. */
int64_t upload(size_t size, int64_t end) {
  grpc::ClientContext context;
  bench::UploadReply reply;
  bench::Blob blob;
  blob.set_data(std::string(size, '\0'));
  auto writer = stub->Upload(&context, &reply);
  int64_t count = 0;
  for (; client_now() < end; count++)
    if (!writer->Write(blob)) std::exit(1);
  writer->WritesDone();
  check(writer->Finish());
  if (reply.count() != static_cast<uint64_t>(count)) std::exit(1);
  return count;
}

int run_stream(bool is_down, double seconds, size_t size) {
  int64_t (*transfer)(size_t, int64_t) = is_down ? download : upload;
  transfer(size, client_now() + static_cast<int64_t>(seconds * 2e8)); /* connects, warms up */
  int64_t began = client_now(), cpu = client_clock(CLOCK_PROCESS_CPUTIME_ID);
  int64_t count = transfer(size, began + static_cast<int64_t>(seconds * 1e9));
  double took = static_cast<double>(client_now() - began) / 1e9;
  std::printf("%lld %.9f %.9f 1\n", static_cast<long long>(count), took,
              static_cast<double>(client_clock(CLOCK_PROCESS_CPUTIME_ID) - cpu) / 1e9);
  return 0;
}

} // namespace

int main(int argc, char **argv) {
  if (argc < 4) return 2;
  stub = bench::Predictor::NewStub(grpc::CreateChannel(argv[1], grpc::InsecureChannelCredentials()));
  const char *mode = argc > 4 ? argv[4] : "";
  if (std::strcmp(mode, "async") == 0) return run_async(std::atoi(argv[2]), std::atof(argv[3]));
  if (argc == 6)
    return run_stream(std::strcmp(mode, "down") == 0, std::atof(argv[3]), std::strtoul(argv[5], nullptr, 10));
  const client_ops ops = {open, call, close};
  return client_main(argc, argv, &ops);
}
