"""Handlers that answer with the metadata that they were sent."""
import time
from typing import Any

from pyproc_worker import Code, Context, Error, expose
from quickstart_pyproc import PredictorHandler, PredictReply, PredictRequest, serve


def send_back(context: Context) -> None:
    """Each entry goes back, and what the program did not send itself."""
    for key, value in context.metadata:
        context.add_metadata(key, value)
    context.add_metadata("served-by", "metadata_worker")


class Predictor(PredictorHandler):
    """Doubles; fails below 0."""

    def predict(self, request: PredictRequest, context: Context) -> PredictReply:
        """Twice the value."""
        send_back(context)
        if request.value < 0:
            raise Error(Code.UNAVAILABLE, "busy", [("retry-after", "3"), ("retry-after", "later")])
        return PredictReply(result=request.value * 2)


@expose
def echo(body: Any, context: Context) -> Any:
    """The request; fails for null."""
    send_back(context)
    if body is None:
        raise ValueError("null")
    return body


@expose
def quiet(body: Any) -> Any:
    """The request, without metadata."""
    return body


@expose
def only_reply(body: Any, context: Context) -> Any:
    """Metadata that was not asked for."""
    context.add_metadata("x-only", "reply")
    return body


@expose
def interrupted(body: Any, context: Context) -> Any:
    """Adds, and then goes on for ever."""
    context.add_metadata("x-before", "the end")
    while True:
        time.sleep(0.001)


if __name__ == "__main__":
    serve(Predictor())
