"""The ``cancel_event`` of a call: a ``threading.Event`` that is set when the call is cancelled."""

from __future__ import annotations

import os
import select
import threading

from ._ext import Context


class Events:
    """Makes events for contexts, and sets them from a thread of its own, which starts with the first event.

    The extension's control thread never takes the GIL; it writes to a pipe, which that thread reads.
    """

    def __init__(self) -> None:
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
            if not self._watching:
                self._watching = True
                threading.Thread(target=self._watch, name="pyproc-cancel", daemon=True).start()
        if context.cancelled:
            event.set()
        return event

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
