"""The threads of plain handlers that are given a stream."""

from __future__ import annotations

import threading
from collections.abc import Callable

from ._ext import StreamJob


class StreamThreads:
    """A thread for each plain handler that is given a stream.

    The worker bounds how many streams are open, and so how many threads there are.
    """

    def __init__(self, threads: int, watch: Callable[[], None], fail: Callable[[BaseException], None],
                 leave: Callable[[], None], is_child: Callable[[], bool]) -> None:
        self._first = threads  # behind those of other handlers, on the status page
        self._watch = watch  # starts what interrupts threads
        self._fail = fail  # ends the worker
        self._leave = leave  # ends a forked child that came back from a handler
        self._is_child = is_child
        self._lock = threading.Lock()
        self._numbers: set[int] = set()

    def start(self, job: StreamJob) -> None:
        """Called by the dispatching thread for each such stream."""
        self._watch()
        with self._lock:
            number = next(n for n in range(1, len(self._numbers) + 2) if n not in self._numbers)
            self._numbers.add(number)
        try:
            threading.Thread(target=self._run, args=(job, number), name=f"pyproc-stream-{number}", daemon=True).start()
        except BaseException:
            self._release(number)
            raise

    def _release(self, number: int) -> None:
        with self._lock:
            self._numbers.discard(number)

    def _run(self, job: StreamJob, number: int) -> None:
        try:
            job.run(self._first + number - 1)
        except BaseException as error:  # SystemExit of a handler
            self._fail(error)
        if self._is_child():
            self._leave()
        self._release(number)
