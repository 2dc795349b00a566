"""Calls of typed handlers and exposed functions, in frames and in envelopes."""

from __future__ import annotations

import json
import struct

import pytest

from support import JSON, PAGE_SIZE, Host, envelope, frame

wrappers = pytest.importorskip("google.protobuf.wrappers_pb2")

SCRIPT = '''
import os, sys
from google.protobuf.struct_pb2 import Struct
from google.protobuf.wrappers_pb2 import BytesValue, DoubleValue, Int64Value, StringValue
from pyproc_worker import Context, Handler, Method, Service, expose, on_start, on_stop, serve


class Base(Handler):
    pyproc_service = Service(
        "shop.Math",
        (
            Method("shop.Math/Twice", "twice", DoubleValue, DoubleValue, "unary", "0123456789abcdef", 500, True),
            Method("Blob", "blob", Int64Value, BytesValue, "unary", "0000000000000001"),
            Method("shop.Math/Wide", "wide", Int64Value, Int64Value, "unary", "0000000000000002"),
            Method("shop.Math/Absent", "absent", Int64Value, Int64Value, "unary", "0000000000000003"),
            Method("shop.Math/Watch", "watch", Int64Value, Int64Value, "server_stream", "0000000000000004"),
            Method("shop.Math/About", "about", StringValue, Struct, "unary", "0000000000000005"),
        ),
        {"google.protobuf.DoubleValue": ((1, "one", "double", "value"),)},
    )

    def absent(self, request, context):
        raise NotImplementedError

    def watch(self, request, context):
        raise NotImplementedError


class Math(Base):
    def twice(self, request: DoubleValue, context: Context) -> DoubleValue:
        return DoubleValue(value=request.value * 2)

    def blob(self, request, context):
        return BytesValue(value=b"x" * request.value)

    def wide(self, request, context):
        return request

    def about(self, request, context):
        reply = Struct()
        reply.update({"method": context.method, "id": context.call_id, "index": context.worker_index,
                      "deadline": context.deadline is not None, "cancelled": context.cancelled,
                      "reason": context.cancel_reason, "repr": repr(context), "remaining": context.time_remaining()})
        return reply


@expose
def predict(request):
    return {"result": request["value"] * 2}


@expose
def echo(request):
    return request


@expose
def who(request, context):
    return [context.method, context.worker_index, context.call_id]


@expose
def own_default(request, context=7):
    return context


@expose
def big(request):
    return "x" * request


@expose
def length(request):
    return len(request["text"])


if __name__ == "__main__":
    serve(Math())
'''


def double(value: float) -> bytes:
    return bytes(wrappers.DoubleValue(value=value).SerializeToString())


def test_hello_names_methods_and_shapes(host: Host) -> None:
    worker = host.start(SCRIPT)
    hello = worker.hello
    assert (hello["version"], hello["oldest"], hello["pid"]) == (1, 1, worker.process.pid)
    assert hello["features"] == ["status_page", "streams", "ping", "shm"] and hello["threads"] == 1
    assert hello["methods"][0] == {
        "name": "shop.Math/Twice", "kind": "unary", "request": "google.protobuf.DoubleValue",
        "reply": "google.protobuf.DoubleValue", "fingerprint": "0123456789abcdef"}
    assert hello["methods"][1]["name"] == "shop.Math/Blob"
    assert hello["methods"][4]["kind"] == "server_stream"
    assert {"name": "health", "kind": "unary"} in hello["methods"]
    assert {"name": "predict", "kind": "unary"} in hello["methods"]
    assert hello["messages"] == {"google.protobuf.DoubleValue": [[1, "one", "double", "value"]]}
    assert worker.stop() == 0


def test_typed_call(host: Host) -> None:
    reply = host.start(SCRIPT).call("shop.Math/Twice", double(21))
    assert (reply.code, reply.flags) == (0, 0)
    assert wrappers.DoubleValue.FromString(reply.body).value == 42


def test_typed_call_as_json(host: Host) -> None:
    worker = host.start(SCRIPT)
    reply = worker.call("shop.Math/Twice", 21)
    assert (reply.code, reply.flags, reply.json) == (0, JSON, 42)
    assert worker.call("shop.Math/Wide", "9223372036854775807").json == "9223372036854775807"
    assert worker.call("shop.Math/Twice", "NaN").json == "NaN"


def test_dynamic_call(host: Host) -> None:
    worker = host.start(SCRIPT)
    reply = worker.call("predict", {"value": 21})
    assert (reply.code, reply.flags, reply.json) == (0, JSON, {"result": 42})
    text = {"text": "grüße 世界 \U0001f30d \" \\ \n", "list": [1, 2.5, None, True, {}], "wide": 2**63}
    assert worker.call("echo", text).json == text


def test_health_is_always_there(host: Host) -> None:
    worker = host.start("import pyproc_worker\npyproc_worker.serve()\n")
    assert worker.call("health", {}).json == {"status": "healthy", "pid": worker.process.pid}


def test_context(host: Host) -> None:
    worker = host.start(SCRIPT, welcome={"worker_index": 5})
    about = worker.call("shop.Math/About", b"").body
    from google.protobuf.struct_pb2 import Struct
    facts = Struct.FromString(about)
    assert facts["method"] == "shop.Math/About" and facts["id"] == worker.next_id and facts["index"] == 5
    assert facts["deadline"] is False and facts["remaining"] is None and facts["cancelled"] is False
    assert facts["reason"] == "" and facts["repr"] == f"<Context of call {worker.next_id} of 'shop.Math/About'>"
    facts = Struct.FromString(worker.call("shop.Math/About", b"", timeout_ms=60_000).body)
    assert facts["deadline"] is True and 0 < facts["remaining"] <= 60
    assert worker.call("who", {}).json == ["who", 5, worker.next_id]
    assert worker.call("own_default", {}).json == 7


def test_worker_index_of_the_environment(host: Host) -> None:
    assert host.start(SCRIPT).call("who", {}).json[1] == 3


def test_envelopes_on_a_connection_with_handshake(host: Host) -> None:
    worker = host.start(SCRIPT, welcome={"codec": "json"})
    worker.wire.send(envelope({"id": 7, "method": "predict", "body": {"value": 42}}))
    assert worker.wire.read().body == b'{"id":7,"ok":true,"body":{"result":84}}'
    worker.wire.send(envelope({"id": 2**53, "method": "shop.Math/Twice", "body": 1.5}))
    assert worker.wire.read().json == {"id": 2**53, "ok": True, "body": 3}
    worker.wire.send(envelope({"type": "request", "payload": {"id": 8, "method": "echo", "body": [1]}}))
    assert worker.wire.read().json == {"id": 8, "ok": True, "body": [1]}
    worker.wire.send(envelope({"id": 9, "method": "echo"}))
    assert worker.wire.read().json == {"id": 9, "ok": True, "body": {}}
    worker.wire.send(envelope(b'{"id":10,"method":"pr\\u0065dict","body":{"value":1},"extra":{"id":3}}'))
    assert worker.wire.read().json == {"id": 10, "ok": True, "body": {"result": 2}}
    worker.wire.send(envelope({"type": "gossip", "payload": {}}), envelope({"id": 11, "method": "nope"}))
    reply = worker.wire.read().json
    assert (reply["id"], reply["ok"], reply["code"]) == (11, False, 12) and "'nope'" in reply["error"]


def test_many_calls_are_answered_in_order_with_few_writes(host: Host) -> None:
    worker = host.start(SCRIPT)
    calls = [worker.request("shop.Math/Twice", double(number)) for number in range(1000)]
    worker.wire.send(*(data for _, data in calls))
    for number, (id, _) in enumerate(calls):
        assert wrappers.DoubleValue.FromString(worker.reply(id).body).value == number * 2


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 200_000, 5_000_000])
def test_large_requests_and_replies(host: Host, size: int) -> None:
    worker = host.start(SCRIPT)
    assert worker.call("length", {"text": "x" * size}).json == size
    assert worker.call("big", size).json == "x" * size
    reply = worker.call("shop.Math/Blob", bytes(wrappers.Int64Value(value=size).SerializeToString()))
    assert wrappers.BytesValue.FromString(reply.body).value == b"x" * size
    worker.wire.send(envelope({"id": 1, "method": "echo", "body": "y" * size}))
    assert worker.wire.read().json == {"id": 1, "ok": True, "body": "y" * size}


def test_large_request_among_small_ones(host: Host) -> None:
    worker = host.start(SCRIPT)
    calls = [worker.request("length", {"text": "x" * size}) for size in (1, 300_000, 2, 70_000, 3)]
    worker.wire.send(*(data for _, data in calls))
    assert [worker.reply(id).json for id, _ in calls] == [1, 300_000, 2, 70_000, 3]


def test_request_that_arrives_byte_by_byte(host: Host) -> None:
    worker = host.start(SCRIPT)
    id, data = worker.request("predict", {"value": 4})
    for position in range(len(data)):
        worker.wire.send(data[position:position + 1])
    assert worker.reply(id).json == {"result": 8}


def test_frames_of_later_versions_are_ignored(host: Host) -> None:
    worker = host.start(SCRIPT)
    worker.wire.send(*(frame(kind, b"later", id=9) for kind in range(10, 0x20)))
    assert worker.call("predict", {"value": 1}).json == {"result": 2}


def test_frame_limit_of_the_welcome(host: Host) -> None:
    worker = host.start(SCRIPT, welcome={"frame_limit": 4096})
    assert worker.call("big", 4096 - 24 - 2).json == "x" * 4070
    reply = worker.call("big", 4096 - 24 - 1)
    assert reply.code == 8 and "4096" in reply.json["error"]
    assert worker.call("shop.Math/Blob", bytes(wrappers.Int64Value(value=5000).SerializeToString())).code == 8
    worker.wire.send(envelope({"id": 4, "method": "big", "body": 5000}))
    assert worker.wire.read().json["code"] == 8
    assert worker.call("big", 3).json == "xxx"


def test_frame_limit_above_the_default_holds_at_once(host: Host) -> None:
    worker = host.spawn(SCRIPT)
    worker.hello = worker.wire.read().json
    id, data = worker.request("length", {"text": "x" * (65 << 20)})
    worker.wire.send(frame(2, json.dumps({"version": 1, "frame_limit": 128 << 20}).encode(), flags=JSON), data)
    assert worker.reply(id).json == 65 << 20


def test_status_page(host: Host) -> None:
    worker = host.start(SCRIPT, page=True)
    page = worker.page
    assert page is not None and len(page) == PAGE_SIZE
    for _ in range(2):  # the first may come in the turn of the welcome, before there is a page
        assert worker.call("predict", {"value": 1}).code == 0
    slot = 2048 + worker.next_id % 4096 * 8
    assert struct.unpack_from("=Q", page, slot)[0] == worker.next_id
    assert struct.unpack_from("=Q", page, 16)[0] > 0
    assert struct.unpack_from("=Q", page, 64)[0] == 0
    id, data = worker.request("predict", {"value": 1})
    slot = 2048 + id % 4096 * 8
    struct.pack_into("=Q", page, slot, id | 1 << 63)
    worker.wire.send(data)
    reply = worker.reply(id)
    assert reply.code == 1 and "revoked" in reply.json["error"]
    assert worker.call("predict", {"value": 3}).json == {"result": 6}


def test_status_page_of_another_shape_is_not_used(host: Host) -> None:
    worker = host.spawn(SCRIPT, page=True)
    assert worker.page is not None
    struct.pack_into("=I", worker.page, 4, 2)
    worker.greet()
    assert worker.call("predict", {"value": 1}).code == 0
    assert worker.page[16:] == bytes(PAGE_SIZE - 16)
