"""Workers that serve gRPC, called by a plain grpcio client: calls of all kinds, errors, metadata, calls by name."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from support import FAILED, JSON, WELCOME, frame, wait_until

grpc = pytest.importorskip("grpc")
pytest.importorskip("google.protobuf")

from grpc_support import (SCRIPT, BytesValue, Client, DoubleValue, GrpcHost, Int64Value, PATIENCE_S,  # noqa: E402
                          StringValue, error_object, failing)

BOTH = pytest.mark.parametrize("prefix", ["", "Async"])


def numbers(*values: int) -> Iterator[Int64Value]:
    return iter([Int64Value(value=value) for value in values])


@BOTH
def test_unary(grpc_host: GrpcHost, prefix: str) -> None:
    worker, client = grpc_host.start()
    assert "grpc" in worker.hello["features"] and "status_page" not in worker.hello["features"]
    for number in range(20):
        assert client.number(prefix + "Twice", number) == number * 2
    assert worker.stop() == 0
    assert worker.output() == "started\nstopped\n"


@BOTH
def test_server_stream(grpc_host: GrpcHost, prefix: str) -> None:
    _, client = grpc_host.start()
    count = client.callable(prefix + "Count", Int64Value, Int64Value, "unary_stream")
    for size in (0, 1, 100):
        call = count(Int64Value(value=size), timeout=PATIENCE_S)
        assert [message.value for message in call] == list(range(size))
        assert call.code() is grpc.StatusCode.OK
        assert ("first", "initial") in (call.initial_metadata() if size else call.trailing_metadata())
        assert ("last", "trailing") in call.trailing_metadata()


@BOTH
def test_client_stream(grpc_host: GrpcHost, prefix: str) -> None:
    _, client = grpc_host.start()
    add = client.callable(prefix + "Sum", Int64Value, Int64Value, "stream_unary")
    for values in ((), (1,), tuple(range(90))):
        assert add(numbers(*values), timeout=PATIENCE_S).value == sum(values)
    assert add(numbers(99, 1, 2, 3), timeout=PATIENCE_S).value == -1  # it does not read them all


@BOTH
def test_bidi(grpc_host: GrpcHost, prefix: str) -> None:
    _, client = grpc_host.start()
    echo = client.callable(prefix + "Echo", Int64Value, Int64Value, "stream_stream")
    assert [message.value for message in echo(numbers(*range(50)), timeout=PATIENCE_S)] == list(range(50))
    assert list(echo(numbers(), timeout=PATIENCE_S)) == []
    assert [message.value for message in echo(numbers(1, 99, 3), timeout=PATIENCE_S)] == [1, 99]


def test_ping_pong(grpc_host: GrpcHost) -> None:
    """Each message is answered before the next one is sent."""
    _, client = grpc_host.start()
    for name in ("Echo", "AsyncEcho"):
        answered: list[int] = []

        def send() -> Iterator[Int64Value]:
            for number in range(10):
                wait_until(lambda: len(answered) == number, "the answer")
                yield Int64Value(value=number)

        for message in client.callable(name, Int64Value, Int64Value, "stream_stream")(send(), timeout=PATIENCE_S):
            answered.append(message.value)
        assert answered == list(range(10))


# --- Errors ---

@BOTH
def test_handler_raises(grpc_host: GrpcHost, prefix: str) -> None:
    _, client = grpc_host.start()
    fails = client.callable(prefix + "Fails", StringValue, StringValue)
    with failing() as found:
        fails(StringValue(value="{}['key']"), timeout=PATIENCE_S)
    error, = found
    assert (error.code(), error.details()) == (grpc.StatusCode.UNKNOWN, "'key'")
    assert ("beside", "error") in error.trailing_metadata()
    told = error_object(error)
    assert (told["error"], told["type"]) == ("'key'", "KeyError")
    lines = told["traceback"].splitlines()
    assert lines[0] == "Traceback (most recent call last):" and lines[-1] == "KeyError: 'key'"
    assert f"in {prefix.lower()}fails" in lines[1] and "pyproc_worker" not in told["traceback"]
    with failing() as found:
        fails(StringValue(value="Error"), timeout=PATIENCE_S)
    assert (found[0].code(), found[0].details()) == (grpc.StatusCode.NOT_FOUND, "no such thing: é")
    assert error_object(found[0])["type"] == "pyproc_worker.Error"
    assert client.number("Twice", 1) == 2


@BOTH
@pytest.mark.parametrize("length", [1000, 100_000])
def test_long_texts_are_cut(grpc_host: GrpcHost, prefix: str, length: int) -> None:
    """Into what every client takes beside a status."""
    _, client = grpc_host.start()
    for text in (f"'x' * {length}", f"'é' * {length}", f"chr(10) * {length}"):
        with failing() as found:
            client.callable(prefix + "Fails", StringValue, StringValue)(StringValue(value=text), timeout=PATIENCE_S)
        error, = found
        assert error.code() is grpc.StatusCode.UNKNOWN
        assert 100 < len(error.details()) <= 1024 and error_object(error)["type"] == "ValueError"


@BOTH
def test_streams_fail(grpc_host: GrpcHost, prefix: str) -> None:
    _, client = grpc_host.start()
    count = client.callable(prefix + "Count", Int64Value, Int64Value, "unary_stream")
    got = []
    with failing() as found:
        for message in count(Int64Value(value=13), timeout=PATIENCE_S):
            got.append(message.value)
    assert got == list(range(13))
    assert (found[0].code(), found[0].details()) == (grpc.StatusCode.UNKNOWN, "unlucky")
    assert error_object(found[0])["type"] == "ValueError"
    with failing() as found:
        list(count(Int64Value(value=-1), timeout=PATIENCE_S))
    assert found[0].code() is grpc.StatusCode.OUT_OF_RANGE
    with failing() as found:
        client.callable(prefix + "Sum", Int64Value, Int64Value, "stream_unary")(numbers(1, -1), timeout=PATIENCE_S)
    assert found[0].code() is grpc.StatusCode.OUT_OF_RANGE
    with failing() as found:
        list(client.callable(prefix + "Echo", Int64Value, Int64Value, "stream_stream")(numbers(1, -1),
                                                                                       timeout=PATIENCE_S))
    assert found[0].code() is grpc.StatusCode.OUT_OF_RANGE
    assert client.number("Twice", 1) == 2


def test_wrong_messages(grpc_host: GrpcHost) -> None:
    _, client = grpc_host.start()
    for name, kind in (("Twice", "unary_unary"), ("AsyncTwice", "unary_unary"), ("Count", "unary_stream"),
                       ("AsyncCount", "unary_stream")):
        with failing() as found:
            list([getattr(client.channel, kind)(f"/shop.Math/{name}")(b"\xff\xff", timeout=PATIENCE_S)]
                 if kind == "unary_unary" else client.channel.unary_stream(f"/shop.Math/{name}")(b"\xff\xff"))
        assert found[0].code() is grpc.StatusCode.INVALID_ARGUMENT and name in found[0].details()
    for name in ("Sum", "AsyncSum"):
        with failing() as found:
            client.channel.stream_unary(f"/shop.Math/{name}")(iter([b"\xff\xff"]), timeout=PATIENCE_S)
        assert found[0].code() is grpc.StatusCode.INVALID_ARGUMENT
    for value, says in ((1, "Int64Value"), (0, "None")):
        with failing() as found:
            client.number("Wrong", value)
        assert found[0].code() is grpc.StatusCode.INTERNAL
        assert says in found[0].details() and "DoubleValue" in found[0].details()


@pytest.mark.parametrize("name, says", [("Absent", "def absent(self, request, context)"), ("Nonsense", "Nonsense"),
                                        ("/no.Such/Thing", "/no.Such/Thing"), ("/", "''"), ("Missing", "def missing")])
@pytest.mark.parametrize("kind", ["unary_unary", "stream_stream"])
def test_unimplemented(grpc_host: GrpcHost, name: str, says: str, kind: str) -> None:
    _, client = grpc_host.start()
    function = client.callable(name, DoubleValue, DoubleValue, kind)
    with failing() as found:
        if kind == "unary_unary":
            function(DoubleValue(), timeout=PATIENCE_S)
        else:
            list(function(iter([DoubleValue()]), timeout=PATIENCE_S))
    assert found[0].code() is grpc.StatusCode.UNIMPLEMENTED
    assert says in found[0].details() or name == "/"


def test_size_limits(grpc_host: GrpcHost) -> None:
    _, client = grpc_host.start(welcome={"frame_limit": 100_000})
    size = client.callable("Size", BytesValue, Int64Value)
    blob = client.callable("Blob", Int64Value, BytesValue)
    assert size(BytesValue(value=bytes(90_000)), timeout=PATIENCE_S).value == 90_000
    assert len(blob(Int64Value(value=90_000), timeout=PATIENCE_S).value) == 90_000
    for function, request in ((size, BytesValue(value=bytes(100_000))), (blob, Int64Value(value=100_000))):
        with failing() as found:
            function(request, timeout=PATIENCE_S)
        assert found[0].code() is grpc.StatusCode.RESOURCE_EXHAUSTED and "frame limit of 100000" in found[0].details()


def test_large_messages(grpc_host: GrpcHost) -> None:
    worker, _ = grpc_host.start()
    client = grpc_host.connect(grpc_host.clients[0].address, grpc__max_receive_message_length=-1)
    data = os.urandom(1 << 20) * 24
    size = client.callable("Size", BytesValue, Int64Value)
    assert size(BytesValue(value=data), timeout=PATIENCE_S).value == len(data)
    blob = client.callable("Blob", Int64Value, BytesValue)
    assert len(blob(Int64Value(value=24 << 20), timeout=PATIENCE_S).value) == 24 << 20


# --- Context ---

@BOTH
def test_context_and_metadata(grpc_host: GrpcHost, prefix: str) -> None:
    _, client = grpc_host.start(welcome={"worker_index": 5})
    about = client.callable(prefix + "About", StringValue, StringValue)
    sent = (("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), ("data-bin", bytes(range(256))),
            ("twice", "1"), ("twice", "2"))
    reply, call = about.with_call(StringValue(), timeout=PATIENCE_S, metadata=sent)
    on_main = not prefix
    assert eval(reply.value) == (f"shop.Math/{prefix}About", 5, True, True, False, on_main)
    assert [tuple(entry) for entry in call.trailing_metadata()] == list(sent)
    with failing() as found:
        about(StringValue(value="bad"), timeout=PATIENCE_S)
    assert error_object(found[0])["type"] == "ValueError" and "'Bad Key'" in found[0].details()


@BOTH
def test_initial_metadata(grpc_host: GrpcHost, prefix: str) -> None:
    _, client = grpc_host.start()
    about = client.callable(prefix + "About", StringValue, StringValue)
    sent = (("one", "1"), ("two-bin", b"2"))
    _, call = about.with_call(StringValue(value="ahead"), timeout=PATIENCE_S, metadata=sent)
    initial = [tuple(entry) for entry in call.initial_metadata()]
    assert ("one", "1") in initial and ("two-bin", b"2") in initial
    assert [tuple(entry) for entry in call.trailing_metadata()] == [("behind", "it")]


def test_too_much_metadata(grpc_host: GrpcHost) -> None:
    _, client = grpc_host.start()
    with failing() as found:
        client.callable("About", StringValue, StringValue)(StringValue(), timeout=PATIENCE_S,
                                                           metadata=[("key", "value")] * 65)
    assert found[0].code() is grpc.StatusCode.INVALID_ARGUMENT


def test_no_deadline(grpc_host: GrpcHost) -> None:
    _, client = grpc_host.start()
    assert eval(client.callable("About", StringValue, StringValue)(StringValue()).value)[2] is False


# --- Calls by name ---

def test_dynamic(grpc_host: GrpcHost) -> None:
    worker, client = grpc_host.start()
    assert client.dynamic("plain", {"a": [1, "é"]}) == {"got": {"a": [1, "é"]}}
    assert client.dynamic("awaited", 5) == [5, "awaited"]
    assert client.dynamic("with_event", None) is False
    assert client.dynamic("health", {}) == {"status": "healthy", "pid": worker.process.pid}
    assert client.dynamic("shop.Math/Twice", 21) == 42
    assert client.dynamic("shop.Math/AsyncTwice", 21) == 42


@pytest.mark.parametrize("name, body, code, says", [
    ("nothing", "1", "UNIMPLEMENTED", "'nothing'"), ("shop.Math/Count", "1", "UNIMPLEMENTED", "stream"),
    ("shop.Math/Absent", "1", "UNIMPLEMENTED", "def absent"), ("plain", "{", "INVALID_ARGUMENT", "plain"),
    ("plain", "NaN", "INVALID_ARGUMENT", "plain"), ("plain", "[" * 101 + "]" * 101, "INVALID_ARGUMENT", "plain"),
    ("shop.Math/Twice", '"text"', "INVALID_ARGUMENT", "DoubleValue"), ("value", '"{1}"', "INTERNAL", "value"),
    ("value", "\"float('nan')\"", "INTERNAL", "value"), ("value", '"1 / 0"', "UNKNOWN", "division"),
    ("value", '"chr(0xdc00)"', "INTERNAL", "value")])
def test_dynamic_fails(grpc_host: GrpcHost, name: str, body: str, code: str, says: str) -> None:
    _, client = grpc_host.start()
    with failing() as found:
        client.dynamic_text(name, body)
    assert found[0].code().name == code and says in found[0].details()
    assert says in error_object(found[0])["error"]
    assert client.dynamic("plain", 1) == {"got": 1}


def test_bad_dynamic_request(grpc_host: GrpcHost) -> None:
    _, client = grpc_host.start()
    with failing() as found:
        client.channel.unary_unary("/pyproc.Dynamic/Call")(b"\xff\xff", timeout=PATIENCE_S)
    assert found[0].code() is grpc.StatusCode.INVALID_ARGUMENT and "pyproc.DynamicRequest" in found[0].details()


# --- Starting ---

def test_threads(grpc_host: GrpcHost) -> None:
    _, client = grpc_host.start(SCRIPT, "3")
    futures = [client.channel.unary_unary("/pyproc.Dynamic/Call").future(b"\n\x04meet\x12\x04null", timeout=PATIENCE_S)
               for _ in range(3)]
    assert sorted(future.result() for future in futures) == [b"\n\x010", b"\n\x011", b"\n\x012"]


def test_failing_start_is_told(grpc_host: GrpcHost) -> None:
    path = "x" * 200
    worker = grpc_host.host.spawn(SCRIPT, environ={"PYPROC_PROTOCOL": "grpc", "PYPROC_GRPC_SOCKET": path})
    told = worker.wire.read()
    assert told.kind == FAILED and "cannot listen on" in told.json["error"]
    assert worker.process.wait(PATIENCE_S) == 1


def test_nothing_to_serve_on(grpc_host: GrpcHost) -> None:
    worker = grpc_host.host.spawn(SCRIPT, environ={"PYPROC_PROTOCOL": "grpc"})
    told = worker.wire.read()
    assert told.kind == FAILED and "PYPROC_GRPC_SOCKET" in told.json["error"]


def test_missing_grpcio(grpc_host: GrpcHost) -> None:
    script = "import sys\nsys.modules['grpc'] = None\n" + SCRIPT
    worker, _ = grpc_host.spawn(script.replace("from __future__ import annotations\n", ""))
    told = worker.wire.read()
    assert told.kind == FAILED
    assert "-m pip install grpcio protobuf" in told.json["error"]


def test_others_do_not_import_grpc(grpc_host: GrpcHost) -> None:
    worker = grpc_host.host.start(SCRIPT + "\n")
    assert worker.call("value", "[name for name in sys.modules if 'grpc' in name]").json == []


def test_calls_wait_for_the_welcome(grpc_host: GrpcHost) -> None:
    worker, address = grpc_host.spawn()
    hello = worker.wire.read()
    client = Client(address)
    future = client.callable("Twice", DoubleValue, DoubleValue).future(DoubleValue(value=4), timeout=PATIENCE_S)
    worker.hello = hello.json
    worker.wire.send(welcome())
    assert future.result().value == 8
    client.close()


def welcome() -> bytes:
    return frame(WELCOME, b'{"version": 1, "codec": "protobuf"}', flags=JSON)


@pytest.mark.parametrize("body", [b"{", b"{}", b'{"version": 7}', b'{"version": 1, "max_streams": 0}'])
def test_bad_welcome_ends_the_worker(grpc_host: GrpcHost, body: bytes) -> None:
    worker, _ = grpc_host.spawn()
    worker.wire.read()
    worker.wire.send(frame(WELCOME, body, flags=JSON))
    assert worker.process.wait(PATIENCE_S) == 1
    assert "welcome" in worker.output()
