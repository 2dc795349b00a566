"""Streams over the wire: all kinds, plain and async, in both forms; credit, cancel, ends and errors."""

from __future__ import annotations

import os
import random
import socket
import struct
import time
from pathlib import Path
from typing import Any

import pytest

from stream_support import WINDOW, Stream, read_all, wrappers
from support import (CANCEL, CREDIT, END, FAILED, HELLO, PING, PONG, REPLY, REQUEST, STREAM_DATA, Frame, Host, Worker,
                     envelope, frame, wait_until)
from test_listen import Listener

SCRIPT = '''
import asyncio, functools, os, sys, threading, time
from google.protobuf.wrappers_pb2 import StringValue
from pyproc_worker import Cancelled, Code, Error, Handler, Method, Service, expose, on_stop, serve

KINDS = {"history": "server_stream", "upload": "client_stream", "converse": "bidi"}


def say(text="waiting"):
    print(text, flush=True)


class Base(Handler):
    pyproc_service = Service("chat.Room", tuple(
        Method(f"chat.Room/{prefix}{name.title()}", prefix.lower() + name, StringValue, StringValue, kind, "0" * 16)
        for name, kind in KINDS.items() for prefix in ("", "A")))


def message(text):
    return StringValue(value=text)


def wait_for(path):
    while not os.path.exists(path):
        time.sleep(0.005)


class Plain(Base):
    """Without async handlers: the main thread dispatches, and runs generators."""

    def history(self, request, context):
        command, _, rest = request.value.partition(" ")
        self.context = context
        if command == "fail":
            raise ValueError(rest)
        if command == "count":
            for number in range(int(rest)):
                yield message(str(number))
        elif command == "large":
            count, size = rest.split()
            for number in range(int(count)):
                yield message(chr(97 + number % 26) * int(size))
        elif command == "late":
            yield message("first")
            raise Error(Code.NOT_FOUND, "gone")
        elif command == "wrong":
            try:
                yield message("first")
                yield rest
            finally:
                say("clean")
        elif command == "endless":
            try:
                number = 0
                while True:
                    yield message(str(number))
                    number += 1
            except GeneratorExit:
                say("generator exit")
                raise
            finally:
                say("clean")
        elif command == "sleep":
            try:
                yield message("first")
                say()
                time.sleep(60)
            except Cancelled as error:
                say(f"cancelled: {error}")
                raise
        elif command == "file":
            yield message("first")
            wait_for(rest)
            yield message("second")
        elif command == "about":
            yield message(f"{context.method} {context.deadline is not None} {threading.current_thread().name}")
        elif command == "ignores":
            while True:
                try:
                    yield message("on")
                except GeneratorExit:
                    pass
        elif command == "exit":
            yield message("first")
            sys.exit(3)
        elif command == "fork":
            yield message("first")
            yield message(str(os.fork()))


    def upload(self, requests, context):
        """Commands are messages: what they say is done when they come."""
        count, text = 0, ""
        try:
            for request in requests:
                command, _, rest = request.value.partition(" ")
                if command == "return":
                    return message(rest)
                if command == "fail":
                    raise ValueError(rest)
                if command == "file":
                    say()
                    wait_for(rest)
                if command == "sleep":
                    say()
                    time.sleep(60)
                if command == "loop":
                    say()
                    while True:
                        pass
                if command == "spin":
                    wait_for_cancel(context)
                if command == "wrong":
                    return rest
                if command == "begin":
                    say("begun")
                if command == "exit":
                    sys.exit(3)
                if command == "fork":
                    child = os.fork()
                    if child == 0 and rest == "use":
                        next(requests)
                    return message(str(child))
                if command == "about":
                    return message(f"{context.method} {context.deadline is not None} {threading.current_thread().name}")
                if command == "tolerant":
                    try:
                        next(requests)
                    except Error as error:
                        return message(f"{error.code.name} {error}")
                count, text = count + 1, request.value
        except Cancelled as error:
            say(f"cancelled: {error}")
            raise
        finally:
            say("clean")
        return message(f"{count} {text}")

    def converse(self, requests, context):
        try:
            for request in requests:
                command, _, rest = request.value.partition(" ")
                if command == "fail":
                    raise ValueError(rest)
                if command == "return":
                    return
                if command == "begin":
                    say("begun")
                if command == "wrong":
                    yield rest
                if command == "endless":
                    while True:
                        yield message("x" * 1000)
                yield message("re: " + request.value)
            yield message("end")
        except GeneratorExit:
            say("generator exit")
            raise
        except Cancelled as error:
            say(f"cancelled: {error}")
            raise
        finally:
            say("clean")



class Room(Plain):
    """With them: a thread of its own dispatches."""

    async def ahistory(self, request, context):
        command, _, rest = request.value.partition(" ")
        try:
            if command == "fail":
                raise ValueError(rest)
            if command == "count":
                for number in range(int(rest)):
                    yield message(str(number))
            elif command == "large":
                count, size = rest.split()
                for number in range(int(count)):
                    yield message(chr(97 + number % 26) * int(size))
            elif command == "wrong":
                yield message("first")
                yield rest
            elif command == "endless":
                number = 0
                while True:
                    yield message(str(number))
                    number += 1
            elif command == "sleep":
                yield message("first")
                say()
                await asyncio.sleep(60)
            elif command == "late":
                yield message("first")
                raise Error(Code.NOT_FOUND, "gone")
        except GeneratorExit:
            say("generator exit")
            raise
        except asyncio.CancelledError:
            say("task cancelled")
            raise
        finally:
            say("clean")

    async def aupload(self, requests, context):
        count, text = 0, ""
        try:
            async for request in requests:
                command, _, rest = request.value.partition(" ")
                if command == "return":
                    return message(rest)
                if command == "fail":
                    raise ValueError(rest)
                if command == "sleep":
                    say()
                    await asyncio.sleep(60)
                if command == "file":
                    say()
                    while not os.path.exists(rest):
                        await asyncio.sleep(0.005)
                if command == "wrong":
                    return rest
                if command == "begin":
                    say("begun")
                if command == "tolerant":
                    try:
                        await requests.__anext__()
                    except Error as error:
                        return message(f"{error.code.name} {error}")
                count, text = count + 1, request.value
        except asyncio.CancelledError:
            say("task cancelled")
            raise
        finally:
            say("clean")
        return message(f"{count} {text}")

    async def aconverse(self, requests, context):
        try:
            async for request in requests:
                command, _, rest = request.value.partition(" ")
                if command == "fail":
                    raise ValueError(rest)
                if command == "return":
                    return
                if command == "begin":
                    say("begun")
                if command == "wrong":
                    yield rest
                if command == "endless":
                    while True:
                        yield message("x" * 1000)
                yield message("re: " + request.value)
            yield message("end")
        except (GeneratorExit, asyncio.CancelledError) as error:
            say(type(error).__name__)
            raise
        finally:
            say("clean")


def wait_for_cancel(context):
    say()
    while not context.cancelled:
        time.sleep(0.001)


@expose
def echo(request):
    return request


@expose
def hold(request):
    say("holding")
    wait_for(request)
    return "held"


@on_stop
def stopped():
    say("stopped")


if __name__ == "__main__":
    kinds = {"main": (Plain, 1), "crew": (Plain, 3), "async": (Room, 1)}
    kind, threads = kinds[sys.argv[1] if len(sys.argv) > 1 else "async"]
    serve(kind(), threads=threads)
'''


@pytest.fixture(params=["main", "crew", "async"])
def plain(request: pytest.FixtureRequest, host: Host) -> Worker:
    """A worker whose dispatching thread runs handlers, and two where others do."""
    return host.start(SCRIPT, request.param)


BOTH = pytest.mark.parametrize("prefix", ["", "A"])
FORMS = pytest.mark.parametrize("json_form", [False, True], ids=["protobuf", "json"])


def open_stream(worker: Worker, name: str, request: Any = None, **options: Any) -> Stream:
    return Stream(worker, f"chat.Room/{name}", request, **options)


def wait_output(worker: Worker, text: str, count: int = 1) -> None:
    wait_until(lambda: worker.output().count(text) >= count, text)


def numbers(count: int) -> list[str]:
    return [str(number) for number in range(count)]


def test_hello_has_streams(plain: Worker) -> None:
    assert "streams" in plain.hello["features"]
    kinds = {method["name"]: method["kind"] for method in plain.hello["methods"]}
    assert kinds["chat.Room/History"] == "server_stream" and kinds["chat.Room/Converse"] == "bidi"


@FORMS
def test_server_stream(plain: Worker, json_form: bool) -> None:
    stream = open_stream(plain, "History", "count 20000", json_form=json_form)
    reply = stream.finish()
    assert (reply.code, reply.body, reply.flags) == (0, b"", 1 if json_form else 0)
    assert stream.received == numbers(20000)
    assert plain.call("echo", 1).json == 1
    assert plain.stop() == 0


@FORMS
def test_client_stream(plain: Worker, json_form: bool) -> None:
    stream = open_stream(plain, "Upload", json_form=json_form)
    stream.send(*numbers(20000))
    stream.end()
    reply = stream.finish()
    assert reply.code == 0 and stream.decode(reply.body) == "20000 19999"
    assert plain.call("echo", 1).json == 1
    assert plain.stop() == 0


@FORMS
def test_bidi_stream(plain: Worker, json_form: bool) -> None:
    stream = open_stream(plain, "Converse", json_form=json_form)
    for number in range(300):
        stream.send(str(number))
        assert stream.read(number + 1)[-1] == f"re: {number}"
    stream.end()
    reply = stream.finish()
    assert (reply.code, reply.body) == (0, b"") and stream.received[-1] == "end" and len(stream.received) == 301
    assert plain.stop() == 0


@FORMS
def test_async_streams(host: Host, json_form: bool) -> None:
    worker = host.start(SCRIPT)
    stream = open_stream(worker, "AHistory", "count 20000", json_form=json_form)
    assert stream.finish().code == 0 and stream.received == numbers(20000)
    stream = open_stream(worker, "AUpload", json_form=json_form)
    stream.send(*numbers(20000))
    stream.end()
    assert stream.decode(stream.finish().body) == "20000 19999"
    stream = open_stream(worker, "AConverse", json_form=json_form)
    for number in range(300):
        stream.send(str(number))
        assert stream.read(number + 1)[-1] == f"re: {number}"
    stream.end()
    assert stream.finish().code == 0 and stream.received[-1] == "end"
    assert worker.stop() == 0


def test_many_streams_at_once(host: Host) -> None:
    worker = host.start(SCRIPT, welcome={"stream_window": 4096})
    streams = [open_stream(worker, name, request, window=4096) for _ in range(8) for name, request in
               [("History", "count 500"), ("AHistory", "count 500"), ("Converse", None), ("AConverse", None),
                ("Upload", None), ("AUpload", None)]]
    for stream in streams[2::6] + streams[3::6] + streams[4::6] + streams[5::6]:
        worker.wire.send(stream.data("one"), stream.data("two"), stream.end_frame())
    read_all(worker, *streams)
    assert all(stream.reply is not None and stream.reply.code == 0 for stream in streams)
    for place, stream in enumerate(streams):
        if place % 6 < 2:
            assert stream.received == numbers(500)
        elif place % 6 < 4:
            assert stream.received == ["re: one", "re: two", "end"]
        else:
            assert stream.reply is not None and stream.decode(stream.reply.body) == "2 two"
    assert worker.stop() == 0


@BOTH
def test_errors(host: Host, prefix: str) -> None:
    worker = host.start(SCRIPT)
    for name, kind in (("History", 0), ("Upload", 1), ("Converse", 1)):
        stream = open_stream(worker, prefix + name, None if kind else "fail it broke")
        if kind:
            stream.send("fail it broke")
        reply = stream.finish()
        assert (reply.code, reply.flags) == (2, 1)
        assert (reply.json["error"], reply.json["type"]) == ("it broke", "ValueError")
        assert "script.py" in reply.json["traceback"]
    stream = open_stream(worker, prefix + "History", "late")
    assert stream.finish().code == 5 and stream.received == ["first"]
    stream = open_stream(worker, prefix + "History", "wrong text")
    reply = stream.finish()
    assert reply.code == 13 and "yielded str where it must yield StringValue" in reply.json["error"]
    assert stream.received == ["first"]
    wait_output(worker, "clean")
    stream = open_stream(worker, prefix + "Converse")
    stream.send("wrong text")
    assert stream.finish().code == 13
    stream = open_stream(worker, prefix + "Upload")
    stream.send("wrong text")
    reply = stream.finish()
    assert reply.code == 13 and "returned str where it must return StringValue" in reply.json["error"]
    assert worker.stop() == 0


@BOTH
@pytest.mark.parametrize("name, body", [("History", b"\xff"), ("History", b'5')])
def test_request_that_does_not_parse(host: Host, prefix: str, name: str, body: bytes) -> None:
    worker = host.start(SCRIPT)
    flags = 1 if body == b"5" else 0
    worker.wire.send(frame(REQUEST, body, flags=flags, method=worker.index(f"chat.Room/{prefix}{name}"), id=4097))
    reply = worker.reply(4097)
    assert reply.code == 3 and "no valid StringValue" in reply.json["error"]


@BOTH
@FORMS
def test_message_that_does_not_parse(host: Host, prefix: str, json_form: bool) -> None:
    worker = host.start(SCRIPT)
    stream = open_stream(worker, prefix + "Upload", json_form=json_form)
    worker.wire.send(stream.data(b"\xff"))
    reply = stream.finish()
    assert reply.code == 3 and "chat.Room" in reply.json["error"] and reply.json["type"] == "pyproc_worker.Error"
    stream = open_stream(worker, prefix + "Upload", json_form=json_form)
    worker.wire.send(stream.data("tolerant"), stream.data(b"\xff"))
    assert stream.decode(stream.finish().body).startswith("INVALID_ARGUMENT chat.Room")
    assert worker.stop() == 0


def test_envelope_opens_no_stream(plain: Worker) -> None:
    plain.wire.send(envelope({"id": 7, "method": "chat.Room/History", "body": "count 3"}))
    reply = plain.wire.read().json
    assert (reply["id"], reply["code"]) == (7, 12) and "REQUEST" in reply["error"]


@BOTH
def test_message_above_the_frame_limit(host: Host, prefix: str) -> None:
    worker = host.start(SCRIPT, welcome={"frame_limit": 4096})
    stream = open_stream(worker, prefix + "History", "large 1 5000")
    reply = stream.finish()
    assert reply.code == 8 and "frame limit" in reply.json["error"]
    stream = open_stream(worker, prefix + "History", "large 2 4000")
    assert stream.finish().code == 0 and [len(text) for text in stream.received] == [4000, 4000]


# --- Credit ---


@BOTH
def test_without_credit_a_sender_waits_and_others_go_on(host: Host, prefix: str) -> None:
    worker = host.start(SCRIPT)
    stream = open_stream(worker, prefix + "History", "endless", grants=False)
    while stream.costs < WINDOW:
        stream.take(worker.wire.read())
    for number in range(50):
        assert worker.call("echo", number).json == number  # and no message between
    count = len(stream.received)
    stream.grant(stream.costs - WINDOW + 1)
    stream.read(count + 1)
    assert worker.call("echo", 0).json == 0
    stream.grant(WINDOW // 2)
    stream.read(count + 1000)
    stream.cancel()
    assert stream.finish().code == 1
    wait_output(worker, "clean")
    assert worker.stop() == 0


@pytest.mark.parametrize("kind", ["main", "crew"])
def test_credit_of_plain_generators(host: Host, kind: str) -> None:
    worker = host.start(SCRIPT, kind, welcome={"stream_window": 4096})
    streams = [open_stream(worker, "History", "endless", grants=False, window=4096) for _ in range(5)]
    by_id = {stream.id: stream for stream in streams}
    while any(stream.costs < 4096 for stream in streams):
        got = worker.wire.read()
        by_id[got.id].take(got)
    assert worker.call("echo", 1).json == 1
    for stream in streams:
        assert stream.costs < 4096 + 128
        count = len(stream.received)
        stream.grant(1000)
        stream.read(count + 10)
        while stream.costs < 4096 + 1000:
            stream.take(worker.wire.read())
        assert worker.call("echo", 2).json == 2
    for stream in streams:
        stream.cancel(reason=b"enough")
        reply = stream.finish()
        assert reply.code == 1 and reply.json["error"] == "Cancelled: enough"
    assert worker.output().count("generator exit") == 5
    assert worker.stop() == 0


def test_stream_with_credit_does_not_starve_calls(plain: Worker) -> None:
    stream = open_stream(plain, "History", "endless")
    stream.read(1)
    for number in range(30):
        id = plain.start_call("echo", number)
        while True:
            got = plain.wire.read()
            if got.id == id:
                break
            stream.take(got)
        assert got.json == number
    stream.cancel()
    assert stream.finish().code == 1
    assert plain.stop() == 0


@BOTH
@pytest.mark.parametrize("name", ["Upload", "Converse"])
def test_handler_that_does_not_read_blocks_nobody(host: Host, prefix: str, name: str, tmp_path: Path) -> None:
    worker = host.start(SCRIPT)
    stream = open_stream(worker, prefix + "Upload")
    flag = tmp_path / "flag"
    worker.wire.send(stream.data(f"file {flag}"))
    wait_output(worker, "waiting")
    count = 0
    while stream.credit > 0:
        worker.wire.send(stream.data("x" * 1000))
        count += 1
    other = open_stream(worker, name)
    other.send("first", "return second")
    other.end()
    assert other.finish().code == 0
    assert worker.call("echo", 1).json == 1
    flag.touch()
    stream.send(*numbers(1000))
    stream.end()
    assert stream.decode(stream.finish().body) == f"{count + 1001} 999"
    assert worker.stop() == 0


@BOTH
def test_abandoned_sender_is_closed(host: Host, prefix: str) -> None:
    worker = host.start(SCRIPT)
    stream = open_stream(worker, prefix + "Converse", grants=False)
    stream.send("endless")
    while stream.costs < WINDOW:
        stream.take(worker.wire.read())
    assert worker.call("echo", 1).json == 1
    stream.cancel()
    assert stream.finish().code == 1
    wait_output(worker, "clean")
    assert ("generator exit" if not prefix else "GeneratorExit") in worker.output()
    assert worker.stop() == 0


@BOTH
def test_bidi_sender_waits_for_credit(host: Host, prefix: str) -> None:
    worker = host.start(SCRIPT)
    stream = open_stream(worker, prefix + "Converse", grants=False)
    stream.send("endless")
    while stream.costs < WINDOW:
        stream.take(worker.wire.read())
    assert worker.call("echo", 1).json == 1
    count = len(stream.received)
    stream.grant(10_000)
    stream.read(count + 9)
    stream.cancel()
    assert stream.finish().code == 1
    wait_output(worker, "clean")
    assert worker.stop() == 0


@pytest.mark.parametrize("size", [1000, 1 << 20, 5 << 20])
@BOTH
def test_large_messages(host: Host, prefix: str, size: int) -> None:
    worker = host.start(SCRIPT)
    stream = open_stream(worker, prefix + "History", f"large 8 {size}")
    assert stream.finish().code == 0 and [len(text) for text in stream.received] == [size] * 8
    stream = open_stream(worker, prefix + "Converse")
    for number in range(4):
        stream.send(str(number) * size)
        assert stream.read(number + 1)[-1] == "re: " + str(number) * size
    stream.end()
    assert stream.finish().code == 0
    assert worker.stop() == 0


# --- While the main thread is busy ---


def test_threads_go_on_while_the_main_thread_is_busy(host: Host, tmp_path: Path) -> None:
    worker = host.start(SCRIPT, "main")
    stream = open_stream(worker, "Converse")
    upload = open_stream(worker, "Upload")
    flag = tmp_path / "flag"
    held = worker.start_call("hold", str(flag))
    waiting = [worker.start_call("echo", "x" * size) for size in (10, 1000, 60_000, 200_000)]
    wait_output(worker, "holding")
    for number in range(3000):
        stream.send(str(number))
        assert stream.read(number + 1)[-1] == f"re: {number}"
    late = worker.start_call("echo", "late")
    for number in range(3000):
        while upload.credit <= 0:
            upload.take(worker.wire.read())
        worker.wire.send(upload.data("x" * 1000))
    stream.end()
    upload.end()
    read_all(worker, stream, upload)
    reply = upload.finish()
    assert upload.decode(reply.body) == "3000 " + "x" * 1000
    flag.touch()
    assert worker.reply(held).json == "held"
    assert [len(worker.reply(id).json) for id in waiting] == [10, 1000, 60_000, 200_000]
    assert worker.reply(late).json == "late"
    assert worker.stop() == 0


def test_message_is_sent_while_its_generator_goes_on(plain: Worker, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    stream = open_stream(plain, "History", f"file {flag}")
    assert stream.read(1) == ["first"]
    flag.touch()
    assert stream.finish().code == 0 and stream.received == ["first", "second"]


# --- Cancel and deadline ---


def test_cancel_before_it_starts(host: Host, tmp_path: Path) -> None:
    worker = host.start(SCRIPT, "main")
    flag = tmp_path / "flag"
    held = worker.start_call("hold", str(flag))
    stream = open_stream(worker, "History", "count 5")
    upload = open_stream(worker, "Upload")
    stream.cancel()
    upload.cancel(4)
    wait_output(worker, "holding")
    worker.wire.send(frame(PING, id=1))
    assert worker.wire.read().kind == PONG  # so what came before the ping has been seen
    flag.touch()
    assert read_all(worker, stream, upload)[held].code == 0
    assert stream.reply is not None and stream.reply.code == 1 and stream.received == []
    assert upload.reply is not None and upload.reply.code == 4
    assert worker.stop() == 0


@pytest.mark.parametrize("how", ["cancel", "deadline"])
def test_cancel_in_a_generator(host: Host, how: str) -> None:
    plain = host.start(SCRIPT, "main")
    stream = open_stream(plain, "History", "sleep", timeout_ms=300 if how == "deadline" else 0)
    stream.read(1)
    wait_output(plain, "waiting")
    if how == "cancel":
        stream.cancel(reason=b"why")
    reply = stream.finish()
    assert reply.code == (1 if how == "cancel" else 4) and reply.json["type"] == "pyproc_worker.Cancelled"
    wait_output(plain, "cancelled: Cancelled: why" if how == "cancel" else "cancelled: the deadline passed")
    assert plain.call("echo", 1).json == 1
    assert plain.stop() == 0


def test_deadline_of_a_suspended_generator(plain: Worker) -> None:
    stream = open_stream(plain, "History", "endless", grants=False, timeout_ms=200)
    reply = stream.finish()
    assert reply.code == 4
    wait_output(plain, "generator exit")
    assert plain.stop() == 0


@pytest.mark.parametrize("name", ["Upload", "Converse"])
@pytest.mark.parametrize("how", ["cancel", "deadline"])
def test_cancel_wakes_who_waits_for_a_message(plain: Worker, name: str, how: str) -> None:
    stream = open_stream(plain, name, timeout_ms=500 if how == "deadline" else 0)
    stream.send("begin")
    wait_output(plain, "begun")
    if how == "cancel":
        stream.cancel(reason=b"why")
    reply = stream.finish()
    assert reply.code == (1 if how == "cancel" else 4), reply
    wait_output(plain, "clean")
    assert plain.output().count("cancelled: ") <= 1
    assert plain.call("echo", 1).json == 1
    assert plain.stop() == 0


def test_cancel_of_a_thread_that_computes(plain: Worker) -> None:
    stream = open_stream(plain, "Upload")
    stream.send("loop")
    wait_output(plain, "waiting")
    stream.cancel(reason=b"why")
    reply = stream.finish()
    assert reply.code == 1 and reply.json["error"] == "Cancelled: why"
    wait_output(plain, "clean")
    assert plain.output().count("cancelled: ") == 1
    assert plain.stop() == 0


def test_thread_that_polls_is_asked(plain: Worker) -> None:
    stream = open_stream(plain, "Upload")
    stream.send("spin")
    wait_output(plain, "waiting")
    stream.cancel(reason=b"why")
    assert stream.finish().code == 1
    wait_output(plain, "clean")
    assert plain.output().count("cancelled: Cancelled: why") == 1
    assert plain.stop() == 0


@pytest.mark.parametrize("name", ["History", "Upload"])
@pytest.mark.parametrize("how", ["cancel", "deadline"])
def test_cancel_of_tasks(host: Host, name: str, how: str) -> None:
    worker = host.start(SCRIPT)
    options = {"timeout_ms": 300 if how == "deadline" else 0}
    stream = open_stream(worker, "A" + name, "sleep" if name == "History" else None, **options)
    if name == "Upload":
        stream.send("sleep")
    wait_output(worker, "waiting")
    if how == "cancel":
        stream.cancel()
    assert stream.finish().code == (1 if how == "cancel" else 4)
    wait_output(worker, "task cancelled")
    assert worker.stop() == 0


@pytest.mark.parametrize("name", ["Upload", "Converse"])
def test_cancel_of_tasks_that_wait_for_a_message(host: Host, name: str) -> None:
    worker = host.start(SCRIPT)
    stream = open_stream(worker, "A" + name)
    stream.send("begin")
    wait_output(worker, "begun")
    stream.cancel()
    assert stream.finish().code == 1
    assert worker.stop() == 0


def test_stuck_stream_is_killed(host: Host) -> None:
    worker = host.start(SCRIPT, "main", welcome={"cancel_grace_ms": 100})
    stream = open_stream(worker, "Upload")
    stream.send("sleep")
    wait_output(worker, "waiting")
    stream.cancel()
    assert worker.process.wait(30) == -9
    assert "chat.Room/Upload still runs" in worker.output()


def test_generator_that_ignores_its_end(plain: Worker) -> None:
    stream = open_stream(plain, "History", "ignores", grants=False)
    while stream.costs < WINDOW:
        stream.take(plain.wire.read())
    stream.cancel()
    reply = stream.finish()
    assert reply.code == 1 and "ignored GeneratorExit" in reply.json["error"]
    assert plain.stop() == 0


def test_cancels_raced(plain: Worker) -> None:
    rounds = 2 * int(os.environ.get("PYPROC_TEST_SCALE", "100"))
    outcomes = {0: 0, 1: 0}
    for number in range(rounds):
        streams = [open_stream(plain, "History", "count 200"), open_stream(plain, "Converse"),
                   open_stream(plain, "Upload")]
        for stream in streams[1:]:
            plain.wire.send(*(stream.data(str(place)) for place in range(20)), stream.end_frame())
        time.sleep(0.0003 * (number % 8))
        for stream in streams:
            stream.cancel()
        id = plain.start_call("echo", number)
        others = read_all(plain, *streams)
        assert (others[id] if id in others else plain.reply(id)).json == number
        for stream in streams:
            assert stream.reply is not None
            outcomes[stream.reply.code] += 1
    assert outcomes[0] > 0 and outcomes[1] > 0
    assert plain.stop() == 0


# --- How many, and what breaks the rules ---


def test_max_streams(host: Host) -> None:
    worker = host.start(SCRIPT, welcome={"max_streams": 3})
    streams = [open_stream(worker, "Upload"), open_stream(worker, "AUpload"), open_stream(worker, "Converse")]
    for name in ("Upload", "AConverse", "History"):
        reply = open_stream(worker, name, "count 1" if name == "History" else None).finish()
        assert reply.code == 8 and "max_streams" in reply.json["error"]
    for number in range(20):
        streams[0].end()
        assert streams[0].finish().code == 0
        streams[0] = open_stream(worker, "Upload")
    assert {f"pyproc-stream-{n}" for n in (1, 2)} >= {about(worker, streams, "Upload")}
    assert worker.stop() == 0


def about(worker: Worker, streams: list[Stream], name: str) -> str:
    """The thread of the first."""
    streams[0].send("about")
    return str(streams[0].decode(streams[0].finish().body)).split()[-1]


@pytest.mark.parametrize("kind", ["main", "crew", "async"])
def test_where_handlers_run(host: Host, kind: str) -> None:
    worker = host.start(SCRIPT, kind, page=True)
    stream = open_stream(worker, "History", "about")
    assert stream.finish().code == 0
    assert stream.received[0].startswith("chat.Room/History False ")
    if kind == "main":
        assert stream.received[0].endswith("MainThread")
    stream = open_stream(worker, "Upload", timeout_ms=60_000)
    stream.send("about")
    assert stream.decode(stream.finish().body) == "chat.Room/Upload True pyproc-stream-1"
    assert worker.page is not None
    slot, = struct.unpack_from("=Q", worker.page, 2048 + 8 * (stream.id % 4096))
    assert slot == stream.id
    assert worker.stop() == 0


@pytest.mark.parametrize("name", ["History", "Upload", "Converse"])
@BOTH
def test_revoked_stream(host: Host, name: str, prefix: str) -> None:
    worker = host.start(SCRIPT, page=True)
    assert worker.page is not None
    id = worker.next_id + 4097
    struct.pack_into("=Q", worker.page, 2048 + 8 * (id % 4096), id | 1 << 63)
    stream = open_stream(worker, prefix + name, "count 3" if name == "History" else None)
    reply = stream.finish()
    assert reply.code == 1 and "revoked" in reply.json["error"] and stream.received == []


def broken(worker: Worker, stream: Stream) -> Frame:
    """The reply of a stream that broke the rules; what came before may come."""
    reply = stream.finish()
    assert worker.call("echo", 1).json == 1
    return reply


@BOTH
def test_overdrawn_credit(host: Host, prefix: str, tmp_path: Path) -> None:
    worker = host.start(SCRIPT, "async")
    stream = open_stream(worker, prefix + "Upload")
    worker.wire.send(stream.data(f"file {tmp_path / 'never'}"))
    wait_output(worker, "waiting")
    while stream.credit > 0:
        worker.wire.send(stream.data("x" * 10_000))
    worker.wire.send(stream.data("one too many"))
    reply = broken(worker, stream)
    assert reply.code == 15 and "more than its credit" in reply.json["error"]
    assert worker.stop() == 0


def test_credit_that_cannot_be(plain: Worker) -> None:
    for size in (1, WINDOW, 0xFFFFFFFF):
        stream = open_stream(plain, "Converse")
        stream.grant(size)
        assert broken(plain, stream).code == 15
    stream = open_stream(plain, "Upload")
    stream.grant(1)
    assert broken(plain, stream).code == 15
    stream = open_stream(plain, "Converse")
    plain.wire.send(frame(CREDIT, b"123", id=stream.id))
    assert broken(plain, stream).code == 15
    stream = open_stream(plain, "History", "endless", grants=False)
    stream.grant(0x7FFFFFFF)
    assert broken(plain, stream).code == 15
    assert plain.stop() == 0


def test_messages_where_none_may_come(plain: Worker) -> None:
    stream = open_stream(plain, "History", "endless", grants=False)
    plain.wire.send(stream.data("why"))
    assert broken(plain, stream).code == 15
    stream = open_stream(plain, "Converse")
    stream.end()
    plain.wire.send(stream.data("late"))
    assert broken(plain, stream).code in (0, 15)  # it may have ended before
    stream = open_stream(plain, "Upload")
    plain.wire.send(frame(STREAM_DATA, b'"text"', flags=1, id=stream.id))
    assert broken(plain, stream).code == 15
    assert plain.stop() == 0


def test_frames_that_no_stream_gets(plain: Worker) -> None:
    id, request = plain.request("echo", "unary")
    stray = [frame(kind, b"\0\0\0\1", id=number) for kind in (STREAM_DATA, CREDIT, END)
             for number in (id, 0, 12345, 2**64 - 1)]
    plain.wire.send(*stray, request, *stray)
    assert plain.reply(id).json == "unary"
    stream = open_stream(plain, "Upload")
    stream.send("return now")
    assert stream.finish().code == 0
    plain.wire.send(stream.data("late"), stream.end_frame(), frame(CREDIT, b"\0\0\0\1", id=stream.id))
    stream.cancel()
    assert plain.call("echo", 2).json == 2
    assert plain.stop() == 0


def test_stream_that_comes_while_the_welcome_is_handled(host: Host, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    slow = f'''
from pyproc_worker import _hooks
quick = _hooks.Hooks.welcome

def slow(self, body):
    import pathlib, time
    pathlib.Path({str(begun)!r}).touch()
    end = time.monotonic() + 0.3
    while time.monotonic() < end:  # holds the GIL, so that the control thread takes over reading
        pass
    return quick(self, body)

_hooks.Hooks.welcome = slow
'''
    worker = host.start(slow + SCRIPT)
    wait_until(begun.exists, "the welcome")
    stream = open_stream(worker, "AHistory", "count 3")
    assert stream.finish().code == 0 and stream.received == numbers(3)


def test_id_of_an_open_stream(host: Host) -> None:
    worker = host.start(SCRIPT, "main")
    stream = open_stream(worker, "Upload")
    worker.wire.send(frame(REQUEST, b"", method=worker.index("chat.Room/Upload"), id=stream.id))
    assert worker.process.wait(30) == 1
    assert "id of one that is open" in worker.output()


@BOTH
@pytest.mark.parametrize("name", ["Upload", "Converse"])
def test_messages_behind_the_request_in_one_write(host: Host, name: str, prefix: str) -> None:
    worker = host.start(SCRIPT)
    id, request = worker.request(f"chat.Room/{prefix}{name}", b"")
    messages = [frame(STREAM_DATA, bytes(wrappers.StringValue(value=str(n)).SerializeToString()), id=id)
                for n in range(100)]
    worker.wire.send(request, *messages, frame(END, id=id))
    replies = 0
    while True:
        got = worker.wire.read()
        if got.kind == REPLY:
            break
        replies += got.kind == STREAM_DATA
    assert got.code == 0 and replies == (101 if name == "Converse" else 0)
    assert worker.stop() == 0


def test_frames_split_anywhere(plain: Worker) -> None:
    plain.wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    for step in (1, 3, 7):
        id, request = plain.request("chat.Room/Converse", b"")
        unary, call = plain.request("echo", "between")
        body = bytes(wrappers.StringValue(value="hello").SerializeToString())
        data = (request + frame(STREAM_DATA, body, id=id) + call + frame(STREAM_DATA, body, id=id)
                + frame(END, id=id))
        for at in range(0, len(data), step):
            plain.wire.sock.sendall(data[at:at + step])
            if at % 5 == 0:
                time.sleep(0.0005)
        got = [plain.wire.read() for _ in range(5)]
        assert sum(one.kind == STREAM_DATA for one in got) == 3
        assert {one.id for one in got if one.kind == REPLY} == {id, unary}
    assert plain.stop() == 0


@pytest.mark.parametrize("seed", range(6))
def test_random_frames(host: Host, seed: int) -> None:
    """Whatever comes, the worker ends in order: with status 0 or 1, never by a signal."""
    randomness = random.Random(seed)
    worker = host.start(SCRIPT, ["main", "crew", "async"][seed % 3], welcome={"stream_window": 4096, "max_streams": 5})
    ids = [4096 * (1 + n) + n for n in range(12)]
    methods = [worker.index(f"chat.Room/{name}") for name in ("History", "Upload", "Converse", "AUpload", "AConverse")]
    bodies = [b"", b"\x0a\x01x", b"\xff", b"\0\0\x01\0", b"\x0a\x08count 50"]
    pieces = []
    for _ in range(600):
        kind = randomness.choice([REQUEST, STREAM_DATA, STREAM_DATA, STREAM_DATA, CREDIT, END, CANCEL, PING])
        pieces.append(frame(kind, randomness.choice(bodies), id=randomness.choice(ids),
                            flags=1 if randomness.random() < 0.05 else 0, code=1 if kind == CANCEL else 0,
                            method=randomness.choice(methods) if kind == REQUEST else 0))
        if kind == REQUEST:
            ids[randomness.randrange(len(ids))] += 4096 * 100
    worker.wire.sock.settimeout(None)
    try:
        worker.wire.send(*pieces)
        worker.wire.sock.shutdown(socket.SHUT_WR)
        while worker.wire.sock.recv(65536):
            pass
    except ConnectionError:
        pass
    assert worker.process.wait(30) in (0, 1)


# --- Ends ---


@pytest.mark.parametrize("name", ["History", "AHistory", "Upload", "AUpload", "Converse", "AConverse"])
@pytest.mark.parametrize("how", ["hang up", "sigterm"])
def test_worker_stops_while_streams_are_open(host: Host, name: str, how: str) -> None:
    worker = host.start(SCRIPT, "async" if name[0] == "A" else "main")
    stream = open_stream(worker, name, "endless" if name.endswith("History") else None, grants=False)
    if name.endswith("History"):
        stream.read(1)
    else:
        stream.send("begin")
        wait_output(worker, "begun")
    if how == "sigterm":
        worker.process.terminate()
        reply = stream.finish()
        assert reply.code == 14 and "the worker stops" in reply.json["error"], reply
        assert worker.process.wait(30) == 0
    else:
        assert worker.stop() == 0
    output = worker.output()
    assert output.splitlines()[-1] == "stopped" and output.count("clean") == 1


@pytest.mark.parametrize("kind", ["main", "crew"])
@pytest.mark.parametrize("name", ["History", "Upload"])
def test_exit_of_a_handler_ends_the_worker(host: Host, name: str, kind: str) -> None:
    worker = host.start(SCRIPT, kind)
    stream = open_stream(worker, name, "exit" if name == "History" else None)
    if name == "Upload":
        stream.send("exit")
    reply = stream.finish()
    assert reply.json["type"] == "SystemExit"
    assert worker.wire.is_closed()
    assert worker.process.wait(30) == 3


@pytest.mark.parametrize("name, command", [("History", "fork"), ("Upload", "fork"), ("Upload", "fork use")])
def test_forked_child_ends(plain: Worker, name: str, command: str) -> None:
    stream = open_stream(plain, name, command if name == "History" else None)
    if name == "Upload":
        stream.send(command)
    reply = stream.finish()
    assert reply.code == 0
    child = int(stream.received[1] if name == "History" else stream.decode(reply.body))
    assert child > 0
    assert plain.call("echo", 1).json == 1
    assert plain.stop() == 0
    assert plain.output().count("stopped") == 1


def test_streams_of_a_listening_worker(tmp_path: Path) -> None:
    listener = Listener(tmp_path, script=SCRIPT.replace('else "async"', 'else "main"'))
    flag = tmp_path / "flag"
    try:
        clients = []
        for _ in range(3):
            client = Worker(listener.process, listener.connect(), tmp_path, None)
            client.wire.send(frame(HELLO, b'{"version": 1}', flags=1))
            client.greet()
            clients.append(client)
        held = clients[0].start_call("hold", str(flag))
        wait_until(lambda: "holding" in listener.output(), "the handler")
        for client in clients[1:]:
            stream = open_stream(client, "Converse")
            for number in range(100):
                stream.send(str(number))
                assert stream.read(number + 1)[-1] == f"re: {number}"
        clients[1].wire.close()
        wait_until(lambda: listener.output().count("clean") == 1, "the end of its stream")
        flag.touch()
        assert clients[0].reply(held).json == "held"
        listener.process.terminate()
        assert listener.process.wait(30) == 0
        assert listener.output().count("clean") == 2
    finally:
        listener.close()


# --- Memory ---


def rss(worker: Worker) -> int:
    """Bytes of the worker's resident memory."""
    return int(Path(f"/proc/{worker.process.pid}/statm").read_text().split()[1]) * 4096


@pytest.mark.parametrize("kind, prefix", [("main", ""), ("crew", ""), ("async", "A")])
def test_memory_stays_flat(host: Host, kind: str, prefix: str) -> None:
    worker = host.start(SCRIPT, kind)
    size, count = 65_536, 16 * int(os.environ.get("PYPROC_TEST_SCALE", "100"))
    before = 0
    for rounds in (20, count):
        stream = open_stream(worker, prefix + "History", f"large {rounds} {size}")
        while stream.reply is None:
            stream.take(worker.wire.read())
            stream.received.clear()
        assert stream.reply.code == 0
        stream = open_stream(worker, prefix + "Upload")
        for _ in range(rounds):
            stream.send("x" * size)
        stream.end()
        assert stream.finish().code == 0
        before = before or rss(worker)
    assert rss(worker) - before < 16 << 20
    assert worker.stop() == 0


# --- What serve() refuses ---


BASE = """
from google.protobuf.wrappers_pb2 import StringValue
from pyproc_worker import Handler, Method, Service, serve
import functools
class Base(Handler):
    service = Service("a.B", (Method("a.B/C", "c", StringValue, StringValue, KIND, "0"),))
def wrap(function):
    @functools.wraps(function)
    def wrapper(self, request, context):
        return function(self, request, context)
    return wrapper
def bare(function):
    return lambda self, request, context: function(self, request, context)
class Room(Base):
"""


@pytest.mark.parametrize("kind, body, says", [
    ("server_stream", "async def c(self, request, context): return 1", "yield the messages"),
    ("bidi", "async def c(self, requests, context): return 1", "yield the messages"),
    ("client_stream", "def c(self, requests, context): yield 1", "return that instead of yielding"),
    ("client_stream", "async def c(self, requests, context): yield 1", "return that instead of yielding"),
    ("unary", "def c(self, request, context): yield 1", "return that instead of yielding"),
    ("bidi", "c = 5", "it must be a method"),
])
def test_handlers_that_are_refused(host: Host, kind: str, body: str, says: str) -> None:
    worker = host.spawn(BASE.replace("KIND", repr(kind)) + "    " + body + "\nserve(Room())\n")
    failed = worker.wire.read()
    assert failed.kind == FAILED and "Room.c" in failed.json["error"] and says in failed.json["error"]


@pytest.mark.parametrize("body", [
    "@wrap\n    def c(self, request, context): yield request",
    "@wrap\n    async def c(self, request, context): yield request",
    "@bare\n    def c(self, request, context): yield request",
    "def c(self, request, context): return iter([request])",
    "def c(self, request, context): return map(lambda x: x, [request])",
])
def test_handlers_that_are_taken(host: Host, body: str) -> None:
    worker = host.start(BASE.replace("KIND", "'server_stream'") + "    " + body + "\nserve(Room())\n")
    stream = Stream(worker, "a.B/C", "text")
    assert stream.finish().code == 0 and stream.received == ["text"]


@pytest.mark.parametrize("body, says", [
    ("def c(self, request, context): return [request]", "returned list where it must return a generator"),
    ("def c(self, request, context): pass", "returned None where it must return a generator"),
    ("@bare\n    async def c(self, request, context): yield request", "returned async_generator"),
])
def test_handlers_that_return_no_iterator(host: Host, body: str, says: str) -> None:
    worker = host.start(BASE.replace("KIND", "'server_stream'") + "    " + body + "\nserve(Room())\n")
    reply = Stream(worker, "a.B/C", "text").finish()
    assert reply.code == 13 and says in reply.json["error"]
