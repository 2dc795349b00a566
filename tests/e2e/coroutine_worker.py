"""Async handlers beside a plain one."""
import asyncio
import collections
import itertools
import os
import threading
from typing import Any

from pyproc_worker import expose, serve
from quickstart_pyproc import PredictorHandler, PredictReply, PredictRequest

_here = 0


class Predictor(PredictorHandler):
    """Doubles, later."""

    async def predict(self, request: PredictRequest, context: Any) -> PredictReply:
        """Twice the value."""
        await asyncio.sleep(0.001)
        return PredictReply(result=request.value * 2)


@expose
async def meet(body: Any) -> Any:
    """Returns once so many are here."""
    global _here
    _here += 1
    while _here < body:
        await asyncio.sleep(0.001)
    return body


@expose
async def nap(body: Any) -> Any:
    """Sleeps on the event loop."""
    await asyncio.sleep(body["ms"] / 1000)
    return body


@expose
def sleep(body: Any, cancel_event: threading.Event) -> Any:
    """Keeps the main thread."""
    return cancel_event.wait(body["ms"] / 1000)


@expose
def hang(body: Any) -> Any:
    """Neither looks at signals nor lets another thread run."""
    collections.deque(itertools.repeat(0), maxlen=0)


@expose
def pid(body: Any) -> Any:
    """Of this worker."""
    return os.getpid()


if __name__ == "__main__":
    serve(Predictor())
