"""A plain grpcio client, and the worker script that the tests of the gRPC server call."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable

import grpc
from google.protobuf.wrappers_pb2 import BytesValue, DoubleValue, Int64Value, StringValue

from support import Host, Worker

SCRIPT = (Path(__file__).parent / "grpc_worker.py").read_text()
SERVICE = "shop.Math"
PATIENCE_S = 30


class Client:
    """Calls a worker by plain grpcio."""

    def __init__(self, address: str, **options: Any) -> None:
        self.address = address
        self.channel = grpc.insecure_channel(address, options=[(name.replace("__", "."), value)
                                                               for name, value in options.items()])

    def close(self) -> None:
        self.channel.close()

    def callable(self, name: str, request: Any, reply: Any, kind: str = "unary_unary") -> Any:
        """A multi-callable of the test's service, or of a full method."""
        method = name if name.startswith("/") else f"/{SERVICE}/{name}"
        return getattr(self.channel, kind)(method, request_serializer=request.SerializeToString,
                                           response_deserializer=reply.FromString)

    def number(self, name: str, value: float, **options: Any) -> float:
        """A unary call with DoubleValues."""
        function = self.callable(name, DoubleValue, DoubleValue)
        options.setdefault("timeout", PATIENCE_S)
        result: float = function(DoubleValue(value=value), **options).value
        return result

    def dynamic(self, name: str, body: Any) -> Any:
        """A call by name with a JSON value."""
        return json.loads(self.dynamic_text(name, json.dumps(body)))

    def dynamic_text(self, name: str, body: str) -> str:
        """A call by name."""
        function = self.channel.unary_unary("/pyproc.Dynamic/Call")
        return take_text(function(put_text(1, name) + put_text(2, body), timeout=PATIENCE_S))


def put_text(number: int, text: str) -> bytes:
    """A string field, written by hand: the test knows nothing of the worker's own messages."""
    data = text.encode()
    size, length = len(data), b""
    while True:
        length += bytes([size & 127 | (128 if size > 127 else 0)])
        size >>= 7
        if not size:
            break
    return bytes([number << 3 | 2]) + length + data


def take_text(data: bytes) -> str:
    """The text of a message whose only field is the string 1."""
    message = StringValue.FromString(data)
    return str(message.value)


def error_object(error: Any) -> Any:
    """What the worker says of a failure."""
    return json.loads(dict(error.trailing_metadata())["pyproc-error-bin"])


@contextmanager
def failing() -> Iterator[list[Any]]:
    """Collects the RpcError that must come."""
    found: list[Any] = []
    try:
        yield found
    except grpc.RpcError as error:
        found.append(error)
    assert found, "the call has not failed"


class GrpcHost:
    """Starts workers that serve gRPC, and clients of theirs."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.clients: list[Client] = []

    def spawn(self, script: str = SCRIPT, *arguments: str, environ: dict[str, str] | None = None,
              **options: Any) -> tuple[Worker, str]:
        """A worker on an inherited socket, without a handshake yet, and its address."""
        path = self.host.folder / f"socket{len(self.host.workers)}"
        variables = {"PYPROC_PROTOCOL": "grpc", "PYPROC_GRPC_SOCKET": str(path), **(environ or {})}
        return self.host.spawn(script, *arguments, environ=variables, **options), f"unix:{path}"

    def start(self, script: str = SCRIPT, *arguments: str, welcome: dict[str, Any] | None = None,
              **options: Any) -> tuple[Worker, Client]:
        """A worker that is ready, and a client."""
        worker, address = self.spawn(script, *arguments, **options)
        worker.greet(codec="protobuf", **(welcome or {}))
        return worker, self.connect(address)

    def connect(self, address: str, **options: Any) -> Client:
        client = Client(address, **options)
        self.clients.append(client)
        return client

    def close(self) -> None:
        for client in self.clients:
            client.close()


def in_thread(function: Callable[..., Any], *arguments: Any) -> threading.Thread:
    thread = threading.Thread(target=function, args=arguments)
    thread.start()
    return thread


__all__ = ["BytesValue", "DoubleValue", "Int64Value", "StringValue"]
