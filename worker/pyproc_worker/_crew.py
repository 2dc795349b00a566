"""The threads of a worker that runs several handlers at once: of plain ones, and one with an event loop."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from ._codes import Cancelled
from ._ext import Job, Loop, StreamJob
from ._tasks import StreamTask

if TYPE_CHECKING:
    from ._serving import Dispatcher, Work


class Crew:
    """One thread dispatches, the calling one and ``threads - 1`` others run plain handlers, one runs the event loop.

    The calling thread should be the main one, whose handlers are interrupted by signals.
    """

    def __init__(self, threads: int, has_async: bool, leave: Callable[[], None]) -> None:
        self._size = threads
        self._jobs: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._events = asyncio.new_event_loop() if has_async else None
        self._tasks: dict[Job | StreamJob, asyncio.Task[None]] = {}
        self._streams: dict[StreamJob, StreamTask] = {}
        self._leave = leave  # ends a forked child that came back from a handler
        self._loop: Dispatcher | None = None
        self._failure: BaseException | None = None
        self._over = False  # no more work comes
        self._ready = threading.Event()  # the calling thread bears what a signal's handler raises

    def submit(self, job: Job | StreamJob, is_async: bool) -> None:
        """Called for each call, and for each step of a stream."""
        if is_async and self._events is not None:
            self._events.call_soon_threadsafe(self._start_task, job)
        else:
            self.put(job)

    def put(self, work: Work) -> None:
        """Has a thread of plain handlers run it, in its turn."""
        self._jobs.put(work)

    def run(self, loop: Dispatcher) -> None:
        """Serves until the loop has stopped and all jobs are done; raises what ended it."""
        self._loop = loop
        threads = [threading.Thread(target=self._work, args=(number,), name=f"pyproc-{number}", daemon=True)
                   for number in range(1, self._size)]
        threads.append(threading.Thread(target=self._dispatch, name="pyproc-dispatch", daemon=True))
        events = threading.Thread(target=self._run_events, name="pyproc-async", daemon=True)
        if self._events is not None:
            events.start()
        for thread in threads:
            thread.start()
        self._work(0)
        for thread in threads:
            thread.join()
        if self._events is not None:
            self._events.call_soon_threadsafe(self._events.stop)
            events.join()
        self._loop = None
        if self._failure is not None:
            raise self._failure

    def cancel_tasks(self) -> None:
        """Called, by any thread, when calls have been cancelled."""
        for job, task in list(self._tasks.items()):
            if job.take_interrupt() and self._events is not None:
                self._events.call_soon_threadsafe(task.cancel)

    def fail(self, error: BaseException) -> None:
        """What a handler raised to end the worker, or what ended the loop; the first is told."""
        self._failure = self._failure or error
        if self._loop is not None:
            self._loop.stop()

    def _dispatch(self) -> None:
        assert self._loop is not None
        self._ready.wait()
        try:
            self._loop.run()
        except BaseException as error:
            self.fail(error)
        finally:
            self._over = True
            for _ in range(self._size):
                self._jobs.put(None)

    def _work(self, number: int) -> None:
        while True:
            try:
                if number == 0:
                    self._ready.set()
                self._run_jobs(number)
                return
            except BaseException as error:  # SystemExit of a handler; KeyboardInterrupt, at any time
                self.fail(error)
                if self._over:  # it may have come just when the end had been taken from the queue
                    self._jobs.put(None)
            self._check_child()

    def _run_jobs(self, number: int) -> None:
        while True:
            job = self._jobs.get()
            if job is None:
                return
            job.run(number)
            self._check_child()

    def _check_child(self) -> None:
        if self._loop is not None and self._loop.abandoned:
            self._leave()

    def _run_events(self) -> None:
        assert self._events is not None and isinstance(self._loop, Loop)
        asyncio.set_event_loop(self._events)
        self._events.add_reader(self._loop.stream_fd, self._wake_streams)
        try:
            self._events.run_forever()
            self._events.remove_reader(self._loop.stream_fd)
            self._events.run_until_complete(self._events.shutdown_asyncgens())
            self._events.run_until_complete(self._events.shutdown_default_executor())
        finally:
            self._events.close()

    def _wake_streams(self) -> None:
        assert isinstance(self._loop, Loop)
        for job in self._loop.take_woken():
            if job in self._streams:
                self._streams[job].wake()

    def _start_task(self, job: Job | StreamJob) -> None:
        assert self._events is not None
        work = self._serve_stream(job) if isinstance(job, StreamJob) else self._serve(job)
        self._tasks[job] = self._events.create_task(work)

    async def _serve_stream(self, job: StreamJob) -> None:
        self._streams[job] = task = StreamTask(job)
        try:
            await task.serve()
        except BaseException as error:
            self.fail(error)
        finally:
            self._streams.pop(job, None)
            self._tasks.pop(job, None)
            self._check_child()

    async def _serve(self, job: Job) -> None:
        try:
            coroutine = job.begin()
            if coroutine is None:
                return
            try:
                value = await coroutine
            except asyncio.CancelledError as error:
                job.fail(Cancelled().with_traceback(error.__traceback__))
            except BaseException as error:
                job.fail(error)
            else:
                job.finish(value)
        except BaseException as error:
            self.fail(error)
        finally:
            self._tasks.pop(job, None)
            self._check_child()
