"""Python's part in a cancel: events that are set, and threads and tasks that are interrupted."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable

from ._ext import Context


class Events:
    """Makes events for contexts, and sets them from a thread of its own, which starts with the first event.

    The extension's control thread never takes the GIL; it writes to a pipe, which that thread reads.
    """

    def __init__(self) -> None:
        self.on_wake: Callable[[], None] = lambda: None  # has threads and tasks interrupted
        self._fd = -1
        self._lock = threading.Lock()
        self._waiting: dict[int, tuple[Context, threading.Event]] = {}
        self._watching = False

    def open(self, fd: int) -> None:
        """Takes a duplicate of the pipe's reading end, so that it outlives the loop."""
        self._fd = os.dup(fd)
        os.set_blocking(self._fd, False)

    def close(self) -> None:
        """The loop is done; a thread that watches ends with the loop's end of the pipe."""
        with self._lock:
            if not self._watching and self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    def make_event(self, context: Context) -> threading.Event:
        """Called once for each context whose event is asked for."""
        event = threading.Event()
        with self._lock:
            self._waiting[id(context)] = (context, event)
        self.watch()
        if context.cancelled:
            event.set()
        return event

    def watch(self) -> None:
        """Starts the thread."""
        with self._lock:
            if not self._watching:
                threading.Thread(target=self._watch, name="pyproc-cancel", daemon=True).start()
                self._watching = True

    def forget_event(self, context: Context) -> None:
        """Called when the context's call is over."""
        with self._lock:
            self._waiting.pop(id(context), None)

    def _watch(self) -> None:
        while True:
            select.select([self._fd], [], [])
            if not os.read(self._fd, 4096):
                os.close(self._fd)
                return
            with self._lock:
                for context, event in self._waiting.values():
                    if context.cancelled:
                        event.set()
            self.on_wake()
