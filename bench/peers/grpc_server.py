"""A plain grpcio server, none of ours: sync with 4 threads, or aio, or sync on one processor.

Usage: grpc_server.py ADDRESS [aio|pinned]. Says "ready" and serves until its input ends.
"""
import asyncio
import os
import sys
from concurrent import futures
from typing import Any, Iterator

if sys.argv[2:] == ["pinned"]:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import server as common  # noqa: E402
import bench_pb2  # noqa: E402
import grpc  # noqa: E402

THREADS = 4


def predict(request: Any, context: Any) -> Any:
    """Answers with twice the value."""
    return bench_pb2.PredictReply(result=request.value * 2)


async def predict_async(request: Any, context: Any) -> Any:
    """Answers with twice the value."""
    return bench_pb2.PredictReply(result=request.value * 2)


def download(request: Any, context: Any) -> Iterator[Any]:
    """Sends so many messages."""
    blob = bench_pb2.Blob(data=bytes(request.size))
    for _ in range(request.count):
        yield blob


def upload(requests: Iterator[Any], context: Any) -> Any:
    """Counts the messages."""
    return bench_pb2.UploadReply(count=sum(1 for _ in requests))


def add_handler(server: Any, function: Any) -> None:
    """As the code that grpcio-tools generates does."""
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Predictor", {
        "Predict": grpc.unary_unary_rpc_method_handler(
            function, request_deserializer=bench_pb2.PredictRequest.FromString,
            response_serializer=bench_pb2.PredictReply.SerializeToString),
        "Download": grpc.unary_stream_rpc_method_handler(
            download, request_deserializer=bench_pb2.DownloadRequest.FromString,
            response_serializer=bench_pb2.Blob.SerializeToString),
        "Upload": grpc.stream_unary_rpc_method_handler(
            upload, request_deserializer=bench_pb2.Blob.FromString,
            response_serializer=bench_pb2.UploadReply.SerializeToString)}),))
    server.add_insecure_port(sys.argv[1])


def serve() -> None:
    """For ever."""
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=THREADS))
    add_handler(server, predict)
    server.start()
    common.say_ready()
    server.wait_for_termination()


async def serve_async() -> None:
    """For ever."""
    server = grpc.aio.server()
    add_handler(server, predict_async)
    await server.start()
    common.say_ready()
    await server.wait_for_termination()


if __name__ == "__main__":
    common.end_with_input()
    if sys.argv[2:] == ["aio"]:
        asyncio.run(serve_async())
    else:
        serve()
