"""What a failure says: codes, messages, types and tracebacks."""

from __future__ import annotations

import pytest

from support import JSON, REQUEST, Host, envelope, frame

wrappers = pytest.importorskip("google.protobuf.wrappers_pb2")

SCRIPT = '''
import os, sys
import json.decoder
from google.protobuf.wrappers_pb2 import DoubleValue, Int64Value
from pyproc_worker import Cancelled, Code, Error, Handler, Method, Service, expose, serve
from pyproc_worker.cancellation import CancellationError


class Base(Handler):
    pyproc_service = Service("shop.Math", tuple(
        Method(f"shop.Math/{name.title()}", name, DoubleValue, DoubleValue, kind, "00")
        for name, kind in (("wrong", "unary"), ("nothing", "unary"), ("fails", "unary"), ("refuses", "unary"),
                           ("absent", "unary"), ("watch", "server_stream"), ("lasts", "unary"))))

    def absent(self, request, context):
        """Not overridden."""


class Math(Base):
    def wrong(self, request, context):
        return Int64Value(value=1)

    def nothing(self, request, context):
        pass

    def fails(self, request, context):
        return {}["key"]

    def refuses(self, request, context):
        raise Error(Code.NOT_FOUND, "no such thing: é")

    def lasts(self, request, context):
        return request


class Odd(Exception):
    def __str__(self):
        raise RuntimeError("even this fails")


@expose
def odd(request):
    raise Odd


@expose
def library_error(request):
    json.loads("{")


@expose
def chained(request):
    try:
        return 1 / 0
    except ZeroDivisionError as error:
        raise ValueError("second") from error


@expose
def text(request):
    raise ValueError(eval(request))


@expose
def deep(request):
    return deep(request)


@expose
def value(request):
    return eval(request)


@expose
def gives_up(request):
    raise CancellationError(0, "had enough")


@expose
def cancelled(request):
    raise Cancelled("so it is")


@expose
def leaves(request):
    sys.exit(7)


@expose
def interrupted(request):
    raise KeyboardInterrupt


if __name__ == "__main__":
    serve(Math())
'''
EMPTY = b""


def test_handler_raises(host: Host) -> None:
    worker = host.start(SCRIPT)
    reply = worker.call("shop.Math/Fails", EMPTY)
    assert (reply.code, reply.flags) == (2, JSON)
    assert reply.json["error"] == "'key'" and reply.json["type"] == "KeyError"
    lines = reply.json["traceback"].splitlines()
    assert lines[0] == "Traceback (most recent call last):" and lines[-1] == "KeyError: 'key'"
    assert lines[1].endswith("in fails") and "pyproc_worker" not in reply.json["traceback"]
    assert worker.call("shop.Math/Lasts", EMPTY).code == 0


def test_type_is_bare_for_builtins_and_main_only(host: Host) -> None:
    worker = host.start(SCRIPT)
    reply = worker.call("odd", {}).json
    assert reply["type"] == "Odd" and "__str__ raised RuntimeError" in reply["error"]
    assert worker.call("library_error", {}).json["type"] == "json.decoder.JSONDecodeError"


def test_error_with_a_code(host: Host) -> None:
    reply = host.start(SCRIPT).call("shop.Math/Refuses", EMPTY)
    assert reply.code == 5
    assert (reply.json["error"], reply.json["type"]) == ("no such thing: é", "pyproc_worker.Error")


def test_chained_traceback(host: Host) -> None:
    reply = host.start(SCRIPT).call("chained", {}).json
    assert "ZeroDivisionError" in reply["traceback"] and "direct cause" in reply["traceback"]


@pytest.mark.parametrize("expression, check", [
    ("'a' * 200_000", lambda text: len(text.encode()) <= 65536 and "[... cut ...]" in text),
    ("'é' * 200_000", lambda text: len(text.encode()) <= 65536 and text[0] == text[-1] == "é"),
    ("'nul' + chr(0)", lambda text: text == "nul\ufffd"),
    ("chr(0xd800)", lambda text: text == "?"),
    ("''", lambda text: text == ""),
])
def test_text_of_a_message(host: Host, expression: str, check: object) -> None:
    worker = host.start(SCRIPT)
    assert callable(check) and check(worker.call("text", expression).json["error"])
    worker.wire.send(envelope({"id": 1, "method": "text", "body": expression}))
    assert check(worker.wire.read().json["error"])


def test_recursion_is_an_error_like_others(host: Host) -> None:
    worker = host.start(SCRIPT)
    reply = worker.call("deep", {})
    assert reply.code == 2 and reply.json["type"] == "RecursionError"
    assert worker.call("value", "1").json == 1


def test_error_object_fits_the_frame_limit(host: Host) -> None:
    worker = host.start(SCRIPT, welcome={"frame_limit": 1024})
    reply = worker.call("text", "'\\n' * 5000")
    assert reply.code == 2 and len(reply.body) + 24 <= 1024
    assert reply.json["type"] == "ValueError"


@pytest.mark.parametrize("method, says", [("Wrong", "Int64Value"), ("Nothing", "None")])
def test_wrong_type_returned(host: Host, method: str, says: str) -> None:
    reply = host.start(SCRIPT).call(f"shop.Math/{method}", EMPTY)
    assert reply.code == 13 and set(reply.json) == {"error"}
    assert says in reply.json["error"] and "DoubleValue" in reply.json["error"]
    assert f"shop.Math/{method}" in reply.json["error"]


@pytest.mark.parametrize("expression", ["{1}", "object()", "float('nan')", "[float('inf')]", "chr(0xdc00)",
                                        "__import__('functools').reduce(lambda inner, _: [inner], range(101), 1)"])
def test_value_that_is_no_json(host: Host, expression: str) -> None:
    worker = host.start(SCRIPT)
    reply = worker.call("value", expression)
    assert reply.code == 13 and "value" in reply.json["error"]
    assert worker.call("value", "[1]").json == [1]


def test_unknown_methods(host: Host) -> None:
    worker = host.start(SCRIPT)
    worker.wire.send(frame(REQUEST, b"{}", flags=JSON, method=999, id=4097))
    reply = worker.reply(4097)
    assert reply.code == 12 and "999" in reply.json["error"]
    worker.wire.send(envelope({"id": 3, "method": "no/such"}))
    reply = worker.wire.read()
    assert reply.json["code"] == 12 and "no/such" in reply.json["error"]


def test_handler_without_its_method(host: Host) -> None:
    worker = host.start(SCRIPT)
    reply = worker.call("shop.Math/Absent", EMPTY)
    assert reply.code == 12
    assert "shop.Math/Absent" in reply.json["error"] and "def absent(self, request, context)" in reply.json["error"]
    assert "class Math" in reply.json["error"]


def test_stream_without_its_method(host: Host) -> None:
    reply = host.start(SCRIPT).call("shop.Math/Watch", EMPTY)
    assert reply.code == 12 and "def watch(self, request, context)" in reply.json["error"]


@pytest.mark.parametrize("name, body, flags", [
    ("shop.Math/Lasts", b"\xff\xff\xff", 0),
    ("shop.Math/Lasts", b'"no number"', JSON),
    ("shop.Math/Lasts", b'{', JSON),
    ("shop.Math/Lasts", b"", JSON),
    ("value", b"{", JSON),
    ("value", b"NaN", JSON),
    ("value", b'"\xff"', JSON),
    ("value", b'"1"', 0),
    ("value", b"[" * 101 + b"]" * 101, JSON),
    ("value", b"", JSON),
])
def test_request_that_is_not_what_the_method_takes(host: Host, name: str, body: bytes, flags: int) -> None:
    worker = host.start(SCRIPT)
    worker.wire.send(frame(REQUEST, body, flags=flags, method=worker.index(name), id=4097))
    reply = worker.reply(4097)
    assert reply.code == 3 and name in reply.json["error"] and "traceback" not in reply.json
    assert worker.call("value", "1").json == 1


def test_cancelled_by_itself(host: Host) -> None:
    worker = host.start(SCRIPT)
    reply = worker.call("gives_up", {})
    assert reply.code == 1 and reply.json["error"] == "Cancelled: had enough"
    assert reply.json["type"] == "pyproc_worker.cancellation.CancellationError"
    reply = worker.call("cancelled", {})
    assert reply.code == 1 and reply.json["type"] == "pyproc_worker.Cancelled"


def test_exit_in_a_handler_is_answered_first(host: Host) -> None:
    worker = host.start(SCRIPT)
    reply = worker.call("leaves", {})
    assert reply.code == 2 and reply.json["type"] == "SystemExit"
    assert worker.wire.is_closed()
    assert worker.process.wait(30) == 7


def test_interrupt_in_a_handler_stops_in_order(host: Host) -> None:
    worker = host.start(SCRIPT)
    assert worker.call("interrupted", {}).json["type"] == "KeyboardInterrupt"
    assert worker.process.wait(30) == 0


def test_errors_in_envelopes_after_a_handshake(host: Host) -> None:
    worker = host.start(SCRIPT)
    worker.wire.send(envelope({"id": 5, "method": "shop.Math/Refuses", "body": 0}))
    reply = worker.wire.read().json
    assert {name: reply[name] for name in ("id", "ok", "error", "code", "type")} == {
        "id": 5, "ok": False, "error": "no such thing: é", "code": 5, "type": "pyproc_worker.Error"}
    assert reply["traceback"].startswith("Traceback")
