"""The plain grpcio server of the comparison, none of ours.

Usage: grpc_server.py ADDRESS THREADS [CPU]. Says "ready" and serves until its input ends.
"""
import os
import sys
from concurrent import futures
from typing import Any

if len(sys.argv) > 3:
    os.sched_setaffinity(0, {int(sys.argv[3])})

import bench_pb2  # noqa: E402
import grpc  # noqa: E402


def predict(request: Any, context: Any) -> Any:
    """Answers with twice the value."""
    return bench_pb2.PredictReply(result=request.value * 2)


def serve() -> None:
    """Until the input ends."""
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=int(sys.argv[2])))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Predictor", {
        "Predict": grpc.unary_unary_rpc_method_handler(
            predict, request_deserializer=bench_pb2.PredictRequest.FromString,
            response_serializer=bench_pb2.PredictReply.SerializeToString)}),))
    server.add_insecure_port(sys.argv[1])
    server.start()
    print("ready", flush=True)
    sys.stdin.read()
    server.stop(0)


if __name__ == "__main__":
    serve()
