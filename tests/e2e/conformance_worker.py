"""The methods of tests/conformance/worker.py, served by the real pyproc_worker."""
import os
import threading
import time
from typing import Any, Iterator

from conformance_pyproc import Blob, EchoHandler, StreamsHandler, Task, serve
from pyproc_worker import Context, expose
from quickstart_pyproc import PredictorHandler, PredictReply, PredictRequest


class Predictor(PredictorHandler):
    """Doubles."""

    def predict(self, request: PredictRequest, context: Any) -> PredictReply:
        """Twice the value."""
        return PredictReply(result=request.value * 2)


class Echo(EchoHandler):
    """Echoes."""

    def echo(self, request: Blob, context: Any) -> Blob:
        """The request."""
        return request


def obey(order: str) -> None:
    """What a Task or a Blob says is to be done instead of going on."""
    if order == "fail":
        raise ValueError("as told")
    if order == "pause":
        time.sleep(0.5)
    while order == "hang":
        time.sleep(0.01)  # short: on a thread that is when Cancelled comes up
    if order == "die":
        time.sleep(0.1)  # what was yielded before has been written by then
        os._exit(9)


class Streams(StreamsHandler):
    """Does as it is told."""

    def produce(self, request: Task, context: Any) -> Iterator[Blob]:
        """So many messages of so many bytes, and then what the task says."""
        pattern = bytes(range(256)) * (request.size // 256 + 2)
        for number in range(request.count):
            yield Blob(data=pattern[number % 256:number % 256 + request.size])
        obey(request.then)

    def consume(self, requests: Iterator[Blob], context: Any) -> Task:
        """Counts what comes."""
        count = size = 0
        for blob in requests:
            order = blob.data[:8].decode("latin-1")
            if order == "stop":
                break
            obey(order)
            count, size = count + 1, size + len(blob.data)
        return Task(count=count, size=size)

    def converse(self, requests: Iterator[Blob], context: Any) -> Iterator[Blob]:
        """What comes; the metadata of the request beside the first message, and some beside the end."""
        for key, value in context.metadata:
            context.add_metadata(key, value)
        for blob in requests:
            order = blob.data[:8].decode("latin-1")
            if order == "stop":
                break
            obey(order)
            yield blob
        if context.metadata:
            context.add_metadata("x-end", "here")


@expose
def predict(body: Any) -> Any:
    """Twice the value."""
    return {"result": body["value"] * 2}


@expose
def echo(body: Any) -> Any:
    """The request."""
    return body


@expose
def sleep(body: Any, cancel_event: threading.Event) -> Any:
    """Waits until the time is up, or until the call is cancelled."""
    return cancel_event.wait(body["ms"] / 1000)


@expose
def fail(body: Any) -> Any:
    """Raises ValueError."""
    return int(body["text"])


@expose
def nan(body: Any) -> Any:
    """What JSON cannot say."""
    return float("nan")


@expose
def big(body: Any) -> Any:
    """A text of a given size."""
    return "x" * body["size"]


@expose
def beside(body: Any, context: Context) -> Any:
    """The request; what came beside it goes beside the reply, and one entry more."""
    for key, value in context.metadata:
        context.add_metadata(key, value)
    context.add_metadata("served-by", "beside")
    return body


@expose
def die(body: Any) -> Any:
    """Ends the process."""
    os._exit(body["status"])


if __name__ == "__main__":
    serve(Predictor(), Echo(), Streams())
