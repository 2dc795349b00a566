"""Serves remote.Echo and a few exposed functions, for the tests of gRPC."""
import os
import signal
import sys
import time
from typing import Any, Iterator

from remote_pyproc import EchoHandler, Item, serve
from pyproc_worker import Code, Error, expose

if os.environ.get("E2E_RAISE"):
    raise RuntimeError("not today")


class Echo(EchoHandler):
    """Handles remote.Echo."""

    def call(self, request: Any, context: Any) -> Any:
        """Does as told."""
        word, _, rest = request.text.partition(" ")
        if word == "sleep":
            print("sleeping", flush=True)
            time.sleep(int(rest) / 1000)
        elif word == "fail":
            raise KeyError("no good")
        elif word == "refuse":
            raise Error(Code(int(rest)), f"refused with {rest}")
        elif word == "name":
            return Item(text=context.method, number=os.getpid())
        elif word == "void":
            return Item(data=bytes(int(rest)))
        elif word == "deadline":
            return Item(number=int((context.time_remaining() or 0) * 1000))
        elif word == "die":
            print("last words", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        elif word == "metadata":
            for key, value in context.metadata:
                context.add_metadata("got-" + key, value)
        elif word == "metadata-error":
            raise Error(Code.ABORTED, "with metadata", metadata=(("why", "because"), ("raw-bin", b"\0\1")))
        return request

    def count(self, request: Any, context: Any) -> Iterator[Any]:
        """Answers many."""
        try:
            context.add_metadata("before", "the first")
            for number in range(request.number):
                if request.text == "fail" and number == 3:
                    raise Error(Code.ABORTED, "three is enough")
                if request.text == "die" and number == 3:
                    os.kill(os.getpid(), signal.SIGKILL)
                yield Item(number=number, data=request.data)
            context.add_metadata("after", "the last")
        except GeneratorExit:
            print("closed", flush=True)
            raise

    def sum(self, requests: Iterator[Any], context: Any) -> Any:
        """Answers one."""
        total = items = 0
        for request in requests:
            total += request.number
            items += 1
            if request.text == "refuse":
                raise Error(Code.OUT_OF_RANGE, "enough")
            if request.text == "sleep":
                time.sleep(request.number / 1000)
        return Item(number=total, text=str(items))

    def chat(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:
        """Answers each."""
        for request in requests:
            yield request
            if request.text == "end":
                return
            if request.text == "fail":
                raise Error(Code.DATA_LOSS, "as told")


@expose
def pid(request: Any) -> int:
    """Whose it is."""
    return os.getpid()


@expose
def twice(request: Any) -> Any:
    """Twice the value."""
    return request["value"] * 2


@expose
def beside(request: Any, context: Any) -> Any:
    """What came beside it, and something beside the answer."""
    context.add_metadata("answer", "yes")
    return dict(context.metadata).get("traceparent")


@expose
def path(request: Any) -> Any:
    """Where it serves, as the host told it."""
    return os.environ.get("PYPROC_GRPC_SOCKET", "")


if __name__ == "__main__":
    serve(Echo())
