"""Metadata beside requests, replies and errors."""

from __future__ import annotations

import json
import struct
from typing import Any, Iterable

import pytest
from pyproc_worker import Code, Error
from pyproc_worker._ext import decode_metadata, encode_metadata

from support import JSON, REPLY, REQUEST, Frame, Host, Worker, envelope, frame

wrappers = pytest.importorskip("google.protobuf.wrappers_pb2")

SCRIPT = '''
import asyncio, json, threading, time
from google.protobuf.wrappers_pb2 import StringValue
from pyproc_worker import Code, Context, Error, Handler, Method, Service, expose, serve


class Base(Handler):
    pyproc_service = Service("meta.Echo", tuple(
        Method(f"meta.Echo/{name.title()}", name, StringValue, StringValue, "unary", "00")
        for name in ("plain", "task")))


class Echo(Base):
    def plain(self, request: StringValue, context: Context) -> StringValue:
        echo(request.value, context)
        return StringValue(value=request.value * 2)

    async def task(self, request: StringValue, context: Context) -> StringValue:
        await asyncio.sleep(0)
        echo(request.value, context)
        await asyncio.sleep(0)
        return StringValue(value=request.value * 2)


@expose
def echo(request, context):
    """All that came goes back, each key with an "x" before it."""
    assert context.metadata is context.metadata
    for key, value in context.metadata:
        context.add_metadata("x" + key, value)
    return [[key, str(value)] for key, value in context.metadata]


@expose
async def echo_task(request, context):
    await asyncio.sleep(0)
    return echo(request, context)


@expose
def fails(request, context):
    context.add_metadata("first", "1")
    if request == "ValueError":
        raise ValueError("no")
    error = Error(Code.UNAVAILABLE, "busy", [("retry-after", "3"), ("first", "2"), ("blob-bin", b"\\0")])
    if request == "spoilt":
        error.metadata = (("Bad", 1),)
    raise error


@expose
def bulky(request, context):
    for _ in range(request["entries"]):
        context.add_metadata("k", "v" * request["size"])
    if request["fails"]:
        raise Error(Code.ABORTED, "too bad", [("last", "w" * 1000)])
    return "x" * request["reply"]


@expose
def tries(request, context):
    """What becomes of wrong entries."""
    said = []
    for key, value in eval(request):
        try:
            context.add_metadata(key, value)
            said.append("fine")
        except Exception as error:
            said.append(f"{type(error).__name__}: {error}")
    return said


kept = []


@expose
def keeps(request, context):
    kept.append(context)
    context.add_metadata(key="in-time", value="yes")


@expose
def late(request):
    try:
        kept.pop().add_metadata("late", "1")
    except RuntimeError as error:
        return str(error)


@expose
def without(request):
    return request


@expose
def sleeps(request, context):
    context.add_metadata("before", "sleep")
    for _ in range(6000):  # on a thread that is interrupted between two bytecodes
        time.sleep(0.01)


if __name__ == "__main__":
    serve(Echo(), threads=THREADS)
'''
PLAIN = SCRIPT.replace("THREADS", "1").replace("async def", "def").replace("await asyncio.sleep(0)", "pass")
CREW = SCRIPT.replace("THREADS", "3")
ENTRIES = [("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"), ("blob-bin", bytes(range(256))),
           ("empty", ""), ("empty-bin", b""), ("traceparent", "twice"), ("a_b.c-d", "a value, with ~ and \\ in it")]


def encoded(entries: Iterable[tuple[str, str | bytes]]) -> bytes:
    """By the page alone."""
    result = b""
    for key, value in entries:
        data = value if isinstance(value, bytes) else value.encode()
        result += struct.pack(">HI", len(key), len(data)) + key.encode() + data
    return result


def echoed(entries: Iterable[tuple[str, str | bytes]]) -> bytes:
    """What the script's echo answers."""
    return encoded(("x" + key, value) for key, value in entries)


def send(worker: Worker, name: str, body: Any, metadata: bytes) -> Frame:
    """A call with metadata."""
    worker.next_id += 4097
    flags, data = (0, body) if isinstance(body, bytes) else (JSON, json.dumps(body).encode())
    worker.wire.send(frame(REQUEST, data, flags=flags, method=worker.index(name), id=worker.next_id, metadata=metadata))
    return worker.reply(worker.next_id)


def text(value: str) -> bytes:
    """A StringValue."""
    return bytes(wrappers.StringValue(value=value).SerializeToString())


@pytest.fixture(name="worker", params=[PLAIN, CREW], ids=["plain", "crew"])
def _worker(host: Host, request: pytest.FixtureRequest) -> Worker:
    """One with plain handlers alone, one with threads and an event loop."""
    return host.start(str(request.param))


@pytest.mark.parametrize("name", ["echo", "echo_task"])
def test_round_trip_of_exposed_functions(worker: Worker, name: str) -> None:
    for _ in range(3):
        reply = send(worker, name, 1, encoded(ENTRIES))
        assert (reply.code, reply.flags) == (0, JSON)
        assert reply.json == [[key, str(value)] for key, value in ENTRIES]
        assert reply.metadata == echoed(ENTRIES)
        reply = worker.call(name, 1)  # nothing of it is left
        assert (reply.json, reply.metadata) == ([], b"")


@pytest.mark.parametrize("name", ["meta.Echo/Plain", "meta.Echo/Task"])
def test_round_trip_of_typed_handlers(worker: Worker, name: str) -> None:
    reply = send(worker, name, text("a"), encoded(ENTRIES))
    assert (reply.code, reply.flags, reply.body) == (0, 0, text("aa"))
    assert reply.metadata == echoed(ENTRIES)
    reply = send(worker, name, "b", encoded(ENTRIES))  # the JSON mapping
    assert (reply.code, reply.flags, reply.json) == (0, JSON, "bb")
    assert reply.metadata == echoed(ENTRIES)


def test_large_bodies(worker: Worker) -> None:
    for size in (1000, 200_000, 5_000_000):
        reply = send(worker, "meta.Echo/Plain", text("x" * size), encoded(ENTRIES))
        assert reply.body == text("x" * 2 * size) and reply.metadata == echoed(ENTRIES)
    full = [("k", "v" * (16384 - 7))]
    reply = send(worker, "without", "y" * 200_000, encoded(full))
    assert (reply.json, reply.metadata) == ("y" * 200_000, b"")


def test_envelope_is_answered_by_a_frame(worker: Worker) -> None:
    worker.wire.send(envelope({"id": 9, "method": "keeps", "body": 1}))
    reply = worker.wire.read()
    assert (reply.kind, reply.flags, reply.id, reply.json) == (REPLY, JSON, 9, None)
    assert reply.metadata == encoded([("in-time", "yes")])
    worker.wire.send(envelope({"id": 10, "method": "fails", "body": "ValueError"}))
    reply = worker.wire.read()
    assert (reply.kind, reply.flags, reply.code, reply.id) == (REPLY, JSON, 2, 10)
    assert reply.json["type"] == "ValueError" and reply.metadata == encoded([("first", "1")])
    worker.wire.send(envelope({"id": 11, "method": "without", "body": 1}))
    assert worker.wire.read().json == {"id": 11, "ok": True, "body": 1}


def test_errors(worker: Worker) -> None:
    reply = worker.call("fails", "")
    assert (reply.code, reply.json["error"], reply.json["type"]) == (14, "busy", "pyproc_worker.Error")
    assert reply.metadata == encoded([("first", "1"), ("retry-after", "3"), ("first", "2"), ("blob-bin", b"\0")])
    reply = worker.call("fails", "ValueError")
    assert (reply.code, reply.metadata) == (2, encoded([("first", "1")]))
    reply = worker.call("fails", "spoilt")
    assert (reply.code, reply.metadata) == (14, encoded([("first", "1")]))


def test_cancelled_handler_sends_what_it_added(worker: Worker) -> None:
    id = worker.start_call("sleeps", 1, timeout_ms=30)
    reply = worker.reply(id)
    assert (reply.code, reply.metadata) == (4, encoded([("before", "sleep")]))
    assert reply.json["interrupted"] is True and "in sleeps" in reply.json["traceback"]


@pytest.mark.parametrize("metadata, says", [
    (b"\0", "an entry that reaches beyond its end"),
    (struct.pack(">HI", 1, 2) + b"kv", "an entry that reaches beyond its end"),
    (struct.pack(">HI", 3, 0xFFFFFFFF) + b"kkk", "an entry that reaches beyond its end"),
    (encoded([("", "v")]), "a key that is not allowed"),
    (encoded([("Key", "v")]), "a key that is not allowed"),
    (encoded([("grpc-timeout", "v")]), "a key that is not allowed"),
    (encoded([("pyproc-x", "v")]), "a key that is not allowed"),
    (encoded([("k" * 129, "v")]), "a key that is not allowed"),
    (encoded([("k", " v")]), "a value that is not allowed"),
    (encoded([("k", "v\0")]), "a value that is not allowed"),
    (encoded([("k", b"\xff")]), "a value that is not allowed"),
    (encoded([("k", "v")] * 65), "more than 64 entries"),
    (encoded([("k-bin", "v" * 16384)]), "more than 16 KiB"),
    (b"m" * 100_000, "more than 16 KiB"),
])
def test_broken_metadata_of_a_request(host: Host, metadata: bytes, says: str) -> None:
    worker = host.start(PLAIN)
    for body in (1, "x" * 200_000):
        reply = send(worker, "without", body, metadata)
        assert reply.code == 3 and reply.json["error"] == f"the metadata of the request has {says}"
    assert worker.call("without", 2).json == 2


def test_what_may_be_added(host: Host) -> None:
    worker = host.start(PLAIN)
    tried = [("ok", "v"), ("Upper", "v"), ("", "v"), ("grpc-x", "v"), ("k" * 129, "v"), (1, "v"), ("k", b"v"),
             ("k-bin", "v"), ("k", "v "), ("k", "é"), ("k", "\n"), ("k", None), ("k", "\ud800"), ("k-bin", b""),
             ("k-bin", b"v" * 16385)]
    wanted = ["fine", "ValueError: the metadata key 'Upper' may hold lower-case", "is empty", "'grpc-x' begins with",
              "longer than 128", "TypeError: a metadata key must be a str, not int",
              "TypeError: the metadata key 'k' must", "must have a value of type bytes",
              "begins or ends with a blank", "not printable ASCII", "not printable ASCII", "TypeError",
              "UnicodeEncodeError", "fine", "more than 16 KiB"]
    reply = worker.call("tries", repr(tried))
    for said, want in zip(reply.json, wanted):
        assert want in said
    assert reply.metadata == encoded([("ok", "v"), ("k-bin", b"")])
    reply = worker.call("tries", "[('k', str(n)) for n in range(66)]")
    assert reply.json[:64] == ["fine"] * 64
    assert all("'k' finds no room: allowed are 64 entries and 16384 bytes" in said for said in reply.json[64:])
    reply = worker.call("tries", "[('k', 'v' * 8000), ('k', 'v' * 8000), ('k', 'v' * 8000)]")
    assert reply.json[:2] == ["fine", "fine"] and "finds no room" in reply.json[2]
    assert len(reply.metadata) == 2 * 8007


def test_added_too_late(host: Host) -> None:
    worker = host.start(PLAIN)
    assert worker.call("keeps").metadata == encoded([("in-time", "yes")])
    reply = worker.call("late")
    assert reply.metadata == b"" and "has been answered" in reply.json


def test_frame_limit_counts_metadata(host: Host) -> None:
    worker = host.start(PLAIN, welcome={"frame_limit": 4096})
    one = len(encoded([("k", "v" * 993)]))
    fits = 4096 - 24 - one - 2
    reply = worker.call("bulky", {"entries": 1, "size": 993, "reply": fits, "fails": False})
    assert (reply.code, len(reply.metadata), len(reply.json)) == (0, one, fits)
    reply = worker.call("bulky", {"entries": 1, "size": 993, "reply": fits + 1, "fails": False})
    assert (reply.code, len(reply.metadata)) == (8, one) and "4096" in reply.json["error"]
    reply = worker.call("bulky", {"entries": 3, "size": 993, "reply": 0, "fails": True})
    assert (reply.code, reply.json["error"]) == (10, "too bad")
    assert reply.metadata == encoded([("last", "w" * 1000)])  # the other takes more than half of the frame
    reply = worker.call("bulky", {"entries": 2, "size": 993, "reply": 0, "fails": True})
    assert (reply.code, reply.json["error"]) == (10, "too bad") and reply.metadata == encoded([("k", "v" * 993)] * 2)


def test_errors_of_the_exception() -> None:
    assert Error(Code.NOT_FOUND, "m").metadata == ()
    assert Error(Code.NOT_FOUND, "m", iter([("k", "v")])).metadata == (("k", "v"),)
    for wrong in ([("K", "v")], [("k", b"v")], ["kv1"], [("k", "v")] * 65, [("k",)]):
        with pytest.raises((ValueError, TypeError)):
            Error(Code.NOT_FOUND, "m", wrong)  # type: ignore[arg-type]


def test_functions_for_other_servers() -> None:
    data = encode_metadata(ENTRIES)
    assert data == encoded(ENTRIES)
    assert decode_metadata(data) == tuple(ENTRIES)
    assert (encode_metadata(()), decode_metadata(b"")) == (b"", ())
    with pytest.raises(ValueError, match="'Key' may hold"):
        encode_metadata([("Key", "v")])
    with pytest.raises(ValueError, match="the metadata has more than 64 entries"):
        decode_metadata(encoded([("k", "v")] * 65))
    with pytest.raises(TypeError):
        decode_metadata("text")  # type: ignore[arg-type]
