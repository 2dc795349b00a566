"""Streams over the wire: all kinds, plain and async, in both forms; credit, cancel, ends and errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from stream_support import COST, WINDOW, Stream, read_all
from support import Host, Worker, wait_until

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


class Room(Base):
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
                say("closed")
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
                say("closed")
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
    serve(Room(), threads=int(sys.argv[1]) if len(sys.argv) > 1 else 1)
'''


@pytest.mark.parametrize("threads", ["1", "3"])
@pytest.mark.parametrize("json_form", [False, True])
def test_server_stream(host: Host, json_form: bool, threads: str) -> None:
    worker = host.start(SCRIPT, threads)
    assert "streams" in worker.hello["features"]
    stream = Stream(worker, "chat.Room/History", "count 1000", json_form=json_form)
    reply = stream.finish()
    assert (reply.code, reply.body, reply.flags) == (0, b"", 1 if json_form else 0)
    assert stream.received == [str(number) for number in range(1000)]
    assert worker.call("echo", 1).json == 1
    assert worker.stop() == 0
