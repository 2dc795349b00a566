"""Streams of async handlers, as tasks of the event loop."""

from __future__ import annotations

import asyncio
from typing import Any

from ._codes import Cancelled
from ._ext import StreamJob

MESSAGES_A_TURN = 16  # that a task takes or sends before others of its event loop have their turn


class StreamTask:
    """Serves one stream."""

    def __init__(self, job: StreamJob) -> None:
        self._job = job
        self._waiters: list[asyncio.Future[None]] = []
        self._count = 0

    def wake(self) -> None:
        """Something has come that it waits for."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def _wait(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter

    async def _let_others_in(self) -> None:
        self._count += 1
        if self._count % MESSAGES_A_TURN == 0:
            await asyncio.sleep(0)

    async def serve(self) -> None:
        """Runs the handler, and answers; raises what is to end the worker."""
        result: Any = self._job.begin(AsyncRequests(self))
        if result is None:
            return
        try:
            value = await (self._send_all(result) if self._job.sends else result)
        except asyncio.CancelledError as error:
            self._job.fail(Cancelled().with_traceback(error.__traceback__))
        except BaseException as error:
            self._job.fail(error)
        else:
            self._job.finish(value)

    async def receive(self) -> Any:
        """The next message of the host; StopAsyncIteration at the end."""
        while True:
            message = self._job.take()
            if message is not None:
                await self._let_others_in()
                return message
            await self._wait()

    async def _send_all(self, messages: Any) -> None:
        try:
            while True:
                while not self._job.may_send():
                    await self._wait()
                try:
                    message = await messages.__anext__()
                except StopAsyncIteration:
                    return
                if not self._job.send(message):
                    return
                await self._let_others_in()
        finally:
            close = getattr(messages, "aclose", None)
            if close is not None:
                await close()


class AsyncRequests:
    """The messages that the host sends, one after the other."""

    def __init__(self, task: StreamTask) -> None:
        self._task = task

    def __aiter__(self) -> AsyncRequests:
        return self

    async def __anext__(self) -> Any:
        return await self._task.receive()
