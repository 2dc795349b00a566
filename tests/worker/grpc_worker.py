"""Handlers of every kind, plain and async, for the tests of the gRPC server."""

from __future__ import annotations

import asyncio
import collections
import ctypes
import itertools
import os
import signal
import sys
import threading
import time
import warnings

from google.protobuf.wrappers_pb2 import BytesValue, DoubleValue, Int64Value, StringValue
from pyproc_worker import Cancelled, Code, Error, Handler, Method, Service, expose, on_start, on_stop, serve

warnings.filterwarnings("ignore", "This process .* is multi-threaded")  # Python 3.12 warns of os.fork()


def say(*words):
    print(" ".join(map(str, words)) + "\n", end="", flush=True)  # at once: other threads print too


def method(name, kind, request, reply):
    return Method(f"shop.Math/{name}", name.lower(), request, reply, kind, "00")


class Base(Handler):
    pyproc_service = Service("shop.Math", (
        method("Twice", "unary", DoubleValue, DoubleValue), method("AsyncTwice", "unary", DoubleValue, DoubleValue),
        method("Fails", "unary", StringValue, StringValue), method("AsyncFails", "unary", StringValue, StringValue),
        method("Wrong", "unary", DoubleValue, DoubleValue), method("Absent", "unary", DoubleValue, DoubleValue),
        method("Blob", "unary", Int64Value, BytesValue), method("Size", "unary", BytesValue, Int64Value),
        method("About", "unary", StringValue, StringValue), method("AsyncAbout", "unary", StringValue, StringValue),
        method("Block", "unary", StringValue, StringValue), method("AsyncBlock", "unary", StringValue, StringValue),
        method("Count", "server_stream", Int64Value, Int64Value),
        method("AsyncCount", "server_stream", Int64Value, Int64Value),
        method("Sum", "client_stream", Int64Value, Int64Value),
        method("AsyncSum", "client_stream", Int64Value, Int64Value),
        method("Echo", "bidi", Int64Value, Int64Value), method("AsyncEcho", "bidi", Int64Value, Int64Value),
        method("Flood", "server_stream", Int64Value, BytesValue),
        method("AsyncFlood", "server_stream", Int64Value, BytesValue),
        method("Drink", "client_stream", BytesValue, Int64Value),
        method("AsyncDrink", "client_stream", BytesValue, Int64Value),
        method("Missing", "bidi", Int64Value, Int64Value)))

    def absent(self, request, context):
        """Not overridden."""

    def missing(self, requests, context):
        """Not overridden."""


def blocked(how):
    say("waiting", how)
    if how == "sleep":
        time.sleep(60)
    elif how == "lock":
        lock = threading.Lock()
        lock.acquire()
        lock.acquire()
    elif how == "loop":
        while True:
            pass
    elif how == "stuck":  # holds the GIL
        collections.deque(itertools.repeat(0), maxlen=0)
    elif how == "stuck_in_c":  # does not, and looks at no signal
        mutex = ctypes.create_string_buffer(64)
        for _ in range(2):
            ctypes.CDLL(None).pthread_mutex_lock(mutex)


class Math(Base):
    def twice(self, request, context):
        return DoubleValue(value=request.value * 2)

    async def asynctwice(self, request, context):
        await asyncio.sleep(0)
        return DoubleValue(value=request.value * 2)

    def fails(self, request, context):
        context.add_metadata("beside", "error")
        if request.value == "Error":
            raise Error(Code.NOT_FOUND, "no such thing: é")
        if request.value == "exit":
            sys.exit(7)
        raise ValueError(eval(request.value))

    async def asyncfails(self, request, context):
        await asyncio.sleep(0)
        return self.fails(request, context)

    def wrong(self, request, context):
        return Int64Value(value=1) if request.value else None

    def blob(self, request, context):
        return BytesValue(value=bytes(request.value))

    def size(self, request, context):
        return Int64Value(value=len(request.value))

    def about(self, request, context):
        if request.value == "bad":
            context.add_metadata("Bad Key", "x")
        for key, value in context.metadata:
            context.add_metadata(key, value)
        if request.value == "ahead":
            context.send_initial_metadata()
            context.add_metadata("behind", "it")
        return StringValue(value=repr((context.method, context.worker_index, context.deadline is not None,
                                       0 < (context.time_remaining() or 1) <= 60, context.cancelled,
                                       threading.current_thread() is threading.main_thread())))

    async def asyncabout(self, request, context):
        return self.about(request, context)

    def block(self, request, context):
        how, _, event = request.value.partition(" ")
        if event:
            say("waiting", "event")
            context.cancel_event.wait(60)
            say("asked", context.cancelled)
            if event == "stay":
                time.sleep(60)
            return StringValue(value="late")
        try:
            blocked(how)
        except BaseException as error:
            say("ended by", type(error).__name__, error)
            raise
        return request

    async def asyncblock(self, request, context):
        say("waiting", "async")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            say("ended by CancelledError", context.cancelled)
            raise

    def count(self, request, context):
        if request.value < 0:
            raise Error(Code.OUT_OF_RANGE, "below 0")
        context.add_metadata("first", "initial")
        try:
            for number in range(request.value):
                yield Int64Value(value=number)
            context.add_metadata("last", "trailing")
            if request.value == 13:
                raise ValueError("unlucky")
        except GeneratorExit:
            say("closed", context.cancelled)
            raise
        except Cancelled:
            say("interrupted")
            raise

    async def asynccount(self, request, context):
        if request.value < 0:
            raise Error(Code.OUT_OF_RANGE, "below 0")
        context.add_metadata("first", "initial")
        try:
            for number in range(request.value):
                await asyncio.sleep(0)
                yield Int64Value(value=number)
            context.add_metadata("last", "trailing")
            if request.value == 13:
                raise ValueError("unlucky")
        except BaseException as error:
            if not isinstance(error, Exception):
                say("closed", context.cancelled)
            raise

    def sum(self, requests, context):
        context.add_metadata("thread", threading.current_thread().name)
        total = 0
        try:
            for request in requests:
                if request.value < 0:
                    raise Error(Code.OUT_OF_RANGE, "below 0")
                if request.value == 99:
                    return Int64Value(value=-1)
                total += request.value
                say("got", request.value)
        except BaseException as error:
            say("ended by", type(error).__name__)
            raise
        return Int64Value(value=total)

    async def asyncsum(self, requests, context):
        total = 0
        try:
            async for request in requests:
                if request.value < 0:
                    raise Error(Code.OUT_OF_RANGE, "below 0")
                if request.value == 99:
                    return Int64Value(value=-1)
                total += request.value
                say("got", request.value)
        except BaseException as error:
            say("ended by", type(error).__name__)
            raise
        return Int64Value(value=total)

    def echo(self, requests, context):
        try:
            for request in requests:
                if request.value < 0:
                    raise Error(Code.OUT_OF_RANGE, "below 0")
                yield request
                if request.value == 99:
                    return
        except BaseException as error:
            say("ended by", type(error).__name__)
            raise

    async def asyncecho(self, requests, context):
        try:
            async for request in requests:
                if request.value < 0:
                    raise Error(Code.OUT_OF_RANGE, "below 0")
                yield request
                if request.value == 99:
                    return
        except BaseException as error:
            say("ended by", type(error).__name__)
            raise

    def flood(self, request, context):
        try:
            for number in range(request.value):
                say("made", number)
                yield BytesValue(value=bytes(65536))
        except BaseException as error:
            say("ended by", type(error).__name__)
            raise

    async def asyncflood(self, request, context):
        try:
            for number in range(request.value):
                say("made", number)
                yield BytesValue(value=bytes(65536))
        except BaseException as error:
            say("ended by", type(error).__name__)
            raise

    def drink(self, requests, context):
        say("drinking")
        while not os.path.exists(os.environ.get("TEST_GATE", "/")):
            time.sleep(0.005)
        return Int64Value(value=sum(len(request.value) for request in requests))

    async def asyncdrink(self, requests, context):
        say("drinking")
        while not os.path.exists(os.environ.get("TEST_GATE", "/")):
            await asyncio.sleep(0.005)
        total = 0
        async for request in requests:
            total += len(request.value)
        return Int64Value(value=total)


@on_start
def started():
    say("started")


@on_stop
def stopped():
    say("stopped")


@expose
def plain(request):
    return {"got": request}


@expose
async def awaited(request, context):
    return [request, context.method]


@expose
async def take_signal(request):
    signal.raise_signal(request)
    return threading.current_thread() is threading.main_thread()


@expose
def with_event(request, cancel_event):
    return cancel_event.is_set()


@expose
def value(request):
    return eval(request)


@expose
def memory(request):
    """The most that this process had, in KiB; ru_maxrss would count what the test's process had at the fork."""
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))


@expose
def fork(request):
    return os.fork()


@expose
def fork_child(request):
    child = os.fork()
    if child == 0:
        time.sleep(60)
    return child


@expose
def meet(request):
    return barrier.wait(30)


@expose
def wait_file(request):
    say("waiting", "file")
    while not os.path.exists(request):
        time.sleep(0.005)
    return threading.current_thread().name


barrier = threading.Barrier(3)

if __name__ == "__main__":
    serve(Math(), threads=int(sys.argv[1]) if len(sys.argv) > 1 else 1)
