"""The methods of tests/conformance/worker.py, served by the real pyproc_worker."""
import os
import threading
from typing import Any

from conformance_pyproc import Blob, EchoHandler, serve
from pyproc_worker import expose
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
def die(body: Any) -> Any:
    """Ends the process."""
    os._exit(body["status"])


if __name__ == "__main__":
    serve(Predictor(), Echo())
