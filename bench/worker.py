"""The handlers that are measured: as little Python as there can be."""
import os
import time
from typing import Any, Dict, Iterator

from bench_pyproc import (Blob, DownloadRequest, PredictorHandler, PredictReply, PredictRequest, UploadReply,
                          WorkRequest, serve)
from pyproc_worker import Context, expose


class Predictor(PredictorHandler):
    """Handles bench.Predictor."""

    def predict(self, request: PredictRequest, context: Context) -> PredictReply:
        """Answers with twice the value."""
        return PredictReply(result=request.value * 2)

    def work(self, request: WorkRequest, context: Context) -> PredictReply:
        """Keeps the processor busy for so long."""
        end = time.perf_counter_ns() + request.us * 1000
        while time.perf_counter_ns() < end:
            pass
        return PredictReply(result=request.us)

    def echo(self, request: Blob, context: Context) -> Blob:
        """Answers with the bytes that came."""
        return Blob(data=request.data)

    def download(self, request: DownloadRequest, context: Context) -> Iterator[Blob]:
        """Sends so many messages."""
        blob = Blob(data=bytes(request.size))
        for _ in range(request.count):
            yield blob

    def upload(self, requests: Iterator[Blob], context: Context) -> UploadReply:
        """Counts the messages."""
        return UploadReply(count=sum(1 for _ in requests))


@expose
def predict(request: Dict[str, Any]) -> Dict[str, Any]:
    """Does the same as Predict without a schema."""
    return {"result": request["value"] * 2}


@expose
def sleep(request: Any) -> None:
    """Does not end by itself."""
    time.sleep(3600)


@expose
def spin(request: Any) -> None:
    """Nor does this."""
    while True:
        pass


@expose
def crash(request: Any) -> None:
    """Ends the worker."""
    os._exit(1)


if __name__ == "__main__":
    serve(Predictor())
