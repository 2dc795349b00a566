"""Codecs that a script registers, on connections whose welcome chooses them, and on others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from pyproc_worker import _codecs, register_codec
from support import FAILED, HELLO, JSON, REPLY, WELCOME, Host, Worker, envelope, frame

wrappers = pytest.importorskip("google.protobuf.wrappers_pb2")

SCRIPT = '''
import json, os, sys
from google.protobuf.wrappers_pb2 import Int64Value, StringValue
from pyproc_worker import Handler, Method, Service, expose, register_codec, serve


def turned(data):
    return bytes(byte ^ 0x55 for byte in data)


def pack(message):
    if message.value == 1:
        return "text"
    if message.value == 2:
        raise OverflowError("too much")
    return turned(message.SerializeToString())


def unpack(data, message_class):
    if data == b"none":
        return None
    if data == b"other":
        return StringValue()
    if data == b"exit":
        raise SystemExit(3)
    return message_class.FromString(turned(data))


def dumps(value):
    return value["raw"] if isinstance(value, dict) and "raw" in value else turned(json.dumps(value).encode())


def loads(data):
    return json.loads(turned(data))


register_codec("turned", pack=pack, unpack=unpack, dumps=dumps, loads=loads)
register_codec("other", pack=pack, unpack=unpack, dumps=dumps, loads=loads)


class Base(Handler):
    pyproc_service = Service("shop.Math", (
        Method("shop.Math/Same", "same", Int64Value, Int64Value, "unary", "0000000000000001"),
        Method("shop.Math/Later", "later", Int64Value, Int64Value, "unary", "0000000000000002")))


class Math(Base):
    def same(self, request, context):
        return request

    def later(self, request, context):
        return request


class AsyncMath(Math):
    async def later(self, request, context):
        return request


@expose
def echo(request):
    return request


@expose
def wrong(request):
    return {"raw": None}


if __name__ == "__main__":
    serve(AsyncMath() if "async" in sys.argv else Math(), threads=2 if "threads" in sys.argv else 1)
'''


def turned(data: bytes) -> bytes:
    """The encoding of the script's codec."""
    return bytes(byte ^ 0x55 for byte in data)


def number(value: int) -> bytes:
    """A request or a reply in it."""
    return turned(wrappers.Int64Value(value=value).SerializeToString())


@pytest.fixture(params=[(), ("threads",), ("async",)], ids=["main", "threads", "async"])
def worker(request: Any, host: Host) -> Worker:
    """One that speaks it, on each way of running handlers."""
    return host.start(SCRIPT, *request.param, welcome={"codec": "turned"})


def test_hello_lists_codecs(host: Host) -> None:
    assert host.start(SCRIPT).hello["codecs"] == ["turned", "other"]
    assert "codecs" not in host.start("from pyproc_worker import run_worker; run_worker()").hello


def test_typed_and_dynamic_calls(worker: Worker) -> None:
    for name in ("shop.Math/Same", "shop.Math/Later"):
        reply = worker.call(name, number(77))
        assert (reply.code, reply.flags, reply.body) == (0, 0, number(77))
    for value in (None, [1, {"a": "\u20ac"}], "x" * 200_000):
        reply = worker.call("echo", turned(json.dumps(value).encode()))
        assert (reply.code, reply.flags, json.loads(turned(reply.body))) == (0, 0, value)


def test_json_stays_json(worker: Worker) -> None:
    reply = worker.call("shop.Math/Same", "8")
    assert (reply.code, reply.flags, reply.body) == (0, JSON, b'"8"')
    reply = worker.call("echo", {"a": 1})
    assert (reply.code, reply.flags, reply.body) == (0, JSON, b'{"a":1}')
    worker.wire.send(envelope({"id": 9, "method": "shop.Math/Same", "body": "5"}))
    assert worker.wire.read().body == b'{"id":9,"ok":true,"body":"5"}'


@pytest.mark.parametrize(("name", "body", "code", "text"), [
    ("shop.Math/Same", b"\x00\x01", 3, "shop.Math/Same: the request is no valid Int64Value"),
    ("shop.Math/Same", b"none", 13, "unpack of the codec 'turned' returned None where it must return Int64Value"),
    ("shop.Math/Same", b"other", 13, "unpack of the codec 'turned' returned StringValue where it must return"),
    ("shop.Math/Same", number(1), 13, "pack of the codec 'turned' returned str where it must return bytes"),
    ("shop.Math/Same", number(2), 13, "the reply cannot be serialised: too much"),
    ("echo", b"\xff", 3, "echo: the request cannot be decoded"),
    ("wrong", turned(b"0"), 13, "dumps of the codec 'turned' returned None where it must return bytes"),
])
def test_what_a_codec_does_wrong(worker: Worker, name: str, body: bytes, code: int, text: str) -> None:
    reply = worker.call(name, body)
    assert (reply.code, reply.flags) == (code, JSON)
    assert text in reply.json["error"]
    assert worker.call("shop.Math/Same", number(5)).body == number(5)


def test_other_connections_have_no_codec(host: Host) -> None:
    worker = host.start(SCRIPT, welcome={"codec": "protobuf"})
    plain = wrappers.Int64Value(value=5).SerializeToString()
    assert worker.call("shop.Math/Same", plain).body == plain
    reply = worker.call("echo", b"x")
    assert reply.code == 3 and "flag JSON" in reply.json["error"]


def test_unknown_codec_is_refused_on_both_sides(host: Host) -> None:
    for codec in ("missing", 5):
        worker = host.spawn(SCRIPT)
        assert worker.wire.read().kind == HELLO
        worker.wire.send(frame(WELCOME, json.dumps({"version": 1, "codec": codec}).encode(), flags=JSON))
        failed = worker.wire.read()
        assert failed.kind == FAILED
        assert f"pyproc_worker.register_codec({codec!r}, ...)" in failed.json["error"]
        assert worker.wire.is_closed()
        assert worker.process.wait(30) != 0
        assert "register_codec" in worker.output()


def test_unpack_that_ends_the_worker_is_answered(host: Host) -> None:
    worker = host.start(SCRIPT, welcome={"codec": "turned"})
    id = worker.start_call("shop.Math/Same", b"exit")
    reply = worker.wire.read()
    assert (reply.kind, reply.id, reply.code) == (REPLY, id, 3)


@pytest.fixture()
def registry() -> Iterator[dict[str, Any]]:
    """The registry of this process, empty before and after."""
    before = dict(_codecs.registered)
    _codecs.registered.clear()
    yield _codecs.registered
    _codecs.registered.clear()
    _codecs.registered.update(before)


def register(name: Any, **functions: Any) -> None:
    """Registers functions that do nothing."""
    register_codec(name, **{"pack": bytes, "unpack": lambda data, kind: kind(), "dumps": repr, "loads": eval,
                            **functions})


def test_registry(registry: dict[str, Any]) -> None:
    register("a" * 32)
    register("a_0")
    assert list(registry) == ["a" * 32, "a_0"]
    for name in ("", "A", "0a", "_a", "a-b", "a" * 33, "a\n", None, 3):
        with pytest.raises(ValueError, match="is no name of a codec"):
            register(name)
    for name in ("protobuf", "json", "grpc", "a_0"):
        with pytest.raises(ValueError, match=f"there is a codec {name} already"):
            register(name)
    with pytest.raises(TypeError, match="loads of the codec b is None: it must be a function"):
        register("b", loads=None)
    for i in range(30):
        register(f"c{i}")
    with pytest.raises(ValueError, match="at most 32 codecs"):
        register("d")
