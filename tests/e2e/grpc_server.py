"""A plain grpcio server, none of ours.

Usage: grpc_server.py ADDRESS NAME [TLS_FOLDER]. Says "ready PORT" and serves until it is killed, or its input ends.
"""
import os
import sys
import threading
import time
from concurrent import futures
from typing import Any, Iterator

import grpc
import remote_pb2

Item = remote_pb2.Item
CODES = {code.value[0]: code for code in grpc.StatusCode}
name = sys.argv[2]


def call(request: Any, context: Any) -> Any:
    """Does as told."""
    word, _, rest = request.text.partition(" ")
    headers = dict(context.invocation_metadata())
    if word == "sleep":
        time.sleep(int(rest) / 1000)
    elif word == "fail":
        raise ValueError("no good")
    elif word == "refuse":
        context.set_trailing_metadata((("why", "because"),))
        context.abort(CODES[int(rest)], f"refused with {rest}")
    elif word == "name":
        return Item(text=name, number=os.getpid())
    elif word == "header":
        return Item(text=str(headers.get(rest, "")))
    elif word == "void":
        return Item(data=bytes(int(rest)))
    elif word == "deadline":
        return Item(number=int((context.time_remaining() or 0) * 1000))
    if "echo" in headers:
        context.send_initial_metadata((("first", headers["echo"]), ("echo-bin", headers.get("echo-bin", b""))))
        context.set_trailing_metadata((("last", headers["echo"]),))
    return request


def count(request: Any, context: Any) -> Iterator[Any]:
    """Answers many."""
    context.send_initial_metadata((("before", "the first"),))
    for number in range(request.number):
        if request.text == "fail" and number == 3:
            context.abort(grpc.StatusCode.ABORTED, "three is enough")
        yield Item(number=number, data=request.data)
    context.set_trailing_metadata((("after", "the last"),))


def add(requests: Iterator[Any], context: Any) -> Any:
    """Answers one."""
    total = items = 0
    for request in requests:
        total += request.number
        items += 1
        if request.text == "refuse":
            context.abort(grpc.StatusCode.OUT_OF_RANGE, "enough")
        if request.text == "sleep":
            time.sleep(request.number / 1000)
    return Item(number=total, text=str(items))


def chat(requests: Iterator[Any], context: Any) -> Iterator[Any]:
    """Answers each."""
    for request in requests:
        yield request
        if request.text == "end":
            return
        if request.text == "fail":
            context.abort(grpc.StatusCode.DATA_LOSS, "as told")


def serve() -> None:
    """Until the input ends."""
    codec = {"request_deserializer": Item.FromString, "response_serializer": Item.SerializeToString}
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=16), options=(
        ("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("remote.Echo", {
        "Call": grpc.unary_unary_rpc_method_handler(call, **codec),
        "Count": grpc.unary_stream_rpc_method_handler(count, **codec),
        "Sum": grpc.stream_unary_rpc_method_handler(add, **codec),
        "Chat": grpc.stream_stream_rpc_method_handler(chat, **codec),
    }),))
    if len(sys.argv) > 3:
        def read(file: str) -> bytes:
            with open(f"{sys.argv[3]}/{file}", "rb") as opened:
                return opened.read()
        credentials = grpc.ssl_server_credentials(
            [(read("server.key"), read("server.pem"))], root_certificates=read("ca.pem"), require_client_auth=True)
        port = server.add_secure_port(sys.argv[1], credentials)
    else:
        port = server.add_insecure_port(sys.argv[1])
    server.start()
    print("ready", port, flush=True)
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    ended.wait()
    server.stop(0)


if __name__ == "__main__":
    serve()
