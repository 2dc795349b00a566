"""Serves matrix.proto with plain handlers or, with the argument "async", with async ones."""
import asyncio
import os
import signal
import sys
import time
from contextlib import contextmanager
from typing import Any, AsyncIterator, Iterator

import e2e_codecs
from matrix_pyproc import Answer, ShapesHandler, Work, serve
from pyproc_worker import Code, Context, Error, expose


@contextmanager
def marked(work: Work) -> Iterator[None]:
    """Files that say when something began and that it was stopped."""
    try:  # first of all: who waits for the file may stop it right away
        with open(work.marker + ".begun", "w", encoding="utf-8"):
            pass
        yield
    finally:
        with open(work.marker + ".stopped", "w", encoding="utf-8"):
            pass


def repeat(context: Any) -> None:
    """Sends the request's metadata back."""
    for key, value in context.metadata:
        context.add_metadata(key, value)


def act(work: Work, context: Any, number: int) -> None:
    """Does what the work says, but for hanging."""
    if work.then == "raise":
        raise ValueError(work.text)
    if work.then == "refuse":
        raise Error(Code.NOT_FOUND, work.text)
    if work.then == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if work.then in ("metadata", "metadata_raise") and number == 0:
        repeat(context)
    if work.then == "metadata_raise":
        raise ValueError(work.text)


def end(work: Work, context: Any) -> None:
    """Does what is to be done behind the last message."""
    if work.then == "metadata_end":
        repeat(context)


def plain_act(work: Work, context: Context, number: int = 0) -> None:
    """The same, and hangs."""
    if work.then == "hang":
        with marked(work):
            while True:
                time.sleep(0.005)
    act(work, context, number)


async def async_act(work: Work, context: Context, number: int = 0) -> None:
    """The same."""
    if work.then == "hang":
        with marked(work):
            await asyncio.Event().wait()
    act(work, context, number)


def answer(work: Work, text: str, count: int) -> Answer:
    """What all handlers answer."""
    return Answer(text=text, data=work.data, numbers=work.numbers, count=count)


class Plain(ShapesHandler):
    """Functions and generators."""

    def unary(self, request: Work, context: Context) -> Answer:
        """One answer."""
        plain_act(request, context)
        return answer(request, request.text, 1)

    def server(self, request: Work, context: Context) -> Iterator[Answer]:
        """Numbered answers; what it is told to do it does before the first one."""
        plain_act(request, context)
        for number in range(request.count):
            yield answer(request, f"{request.text} {number}", number)
        end(request, context)

    def client(self, requests: Any, context: Context) -> Answer:
        """The texts joined."""
        texts, last = [], Work()
        for last in requests:
            plain_act(last, context, len(texts))
            texts.append(last.text)
        return answer(last, ",".join(texts), len(texts))

    def bidi(self, requests: Any, context: Context) -> Iterator[Answer]:
        """An answer for each request."""
        request = Work()
        for number, request in enumerate(requests):
            plain_act(request, context, number)
            yield answer(request, f"{request.text} {number}", number)
        end(request, context)


class Async(ShapesHandler):
    """The same as coroutines and async generators."""

    async def unary(self, request: Work, context: Context) -> Answer:
        """One answer."""
        await async_act(request, context)
        return answer(request, request.text, 1)

    async def server(self, request: Work, context: Context) -> AsyncIterator[Answer]:
        """Numbered answers."""
        await async_act(request, context)
        for number in range(request.count):
            yield answer(request, f"{request.text} {number}", number)
        end(request, context)

    async def client(self, requests: Any, context: Context) -> Answer:
        """The texts joined."""
        texts, last = [], Work()
        async for last in requests:
            await async_act(last, context, len(texts))
            texts.append(last.text)
        return answer(last, ",".join(texts), len(texts))

    async def bidi(self, requests: Any, context: Context) -> AsyncIterator[Answer]:
        """An answer for each request."""
        number, request = 0, Work()
        async for request in requests:
            await async_act(request, context, number)
            yield answer(request, f"{request.text} {number}", number)
            number += 1
        end(request, context)


@expose
def echo(body: Any) -> Any:
    """The request."""
    return body


if __name__ == "__main__":
    e2e_codecs.register()
    serve(Async() if "async" in sys.argv else Plain())
