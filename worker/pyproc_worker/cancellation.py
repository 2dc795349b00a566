"""Cancellation as the Go library pyproc's worker has it, for scripts that were written for it."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

__all__ = ["CancellableOperation", "CancellationError", "CancellationManager", "make_cancellable"]


class CancellationError(Exception):
    """An operation was cancelled; a handler that raises it answers its call CANCELLED."""

    def __init__(self, request_id: int, reason: str = "Operation cancelled") -> None:
        super().__init__(f"Request {request_id} cancelled: {reason}")
        self.request_id = request_id
        self.reason = reason


class CancellableOperation:
    """A long operation that looks every ``check_interval`` steps whether it was cancelled."""

    def __init__(self, cancel_event: threading.Event, check_interval: int = 100) -> None:
        self.cancel_event = cancel_event
        self.check_interval = check_interval
        self.iteration = 0

    def check(self) -> None:
        """One step; raises :class:`CancellationError` once cancelled."""
        self.iteration += 1
        if self.iteration % self.check_interval == 0 and self.cancel_event.is_set():
            raise CancellationError(0, "Operation cancelled")

    def __enter__(self) -> CancellableOperation:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        if kind is None and self.cancel_event.is_set():
            raise CancellationError(0, "Operation cancelled at exit")


class CancellationManager:
    """Events of requests that run, by the request's id. Any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._requests: dict[int, tuple[threading.Event, list[Callable[[], object]]]] = {}

    def register_request(self, request_id: int) -> threading.Event:
        """Begins a request; returns the event that is set when it is cancelled."""
        event = threading.Event()
        with self._lock:
            self._requests[request_id] = (event, [])
        return event

    def unregister_request(self, request_id: int) -> None:
        """Ends a request, and runs what add_cleanup_callback() was given."""
        with self._lock:
            request = self._requests.pop(request_id, None)
        for callback in request[1] if request else []:
            with _reported():
                callback()

    def cancel_request(self, request_id: int, reason: str = "context cancelled") -> bool:
        """Cancels a request. Returns whether it runs and was not cancelled before."""
        with self._lock:
            request = self._requests.get(request_id)
            if request is None or request[0].is_set():
                return False
            request[0].set()
            return True

    def is_cancelled(self, request_id: int) -> bool:
        """Whether the request runs and was cancelled."""
        with self._lock:
            request = self._requests.get(request_id)
            return request is not None and request[0].is_set()

    def add_cleanup_callback(self, request_id: int, callback: Callable[[], object]) -> None:
        """Runs ``callback`` when the request ends."""
        with self._lock:
            request = self._requests.get(request_id)
            if request is not None:
                request[1].append(callback)

    @contextmanager
    def track_request(self, request_id: int) -> Iterator[threading.Event]:
        """A request for the length of a ``with``, which raises :class:`CancellationError` in the end if cancelled."""
        event = self.register_request(request_id)
        try:
            yield event
            if event.is_set():
                raise CancellationError(request_id, "Request cancelled during execution")
        finally:
            self.unregister_request(request_id)

    def check_cancellation(self, request_id: int) -> None:
        """Raises :class:`CancellationError` where the request was cancelled."""
        if self.is_cancelled(request_id):
            raise CancellationError(request_id)


@contextmanager
def _reported() -> Iterator[None]:
    """An exception of a clean-up is told to the thread's hook, and does not keep the others from running."""
    try:
        yield
    except Exception as error:
        threading.excepthook(threading.ExceptHookArgs((type(error), error, error.__traceback__, None)))


def make_cancellable(function: Callable[..., Any]) -> Callable[[Any, threading.Event], Any]:
    """Gives a function a parameter ``cancel_event``, which is passed on where it has one itself."""
    takes_event = "cancel_event" in function.__code__.co_varnames

    @functools.wraps(function)
    def wrapper(request: Any, cancel_event: threading.Event) -> Any:
        return function(request, cancel_event=cancel_event) if takes_event else function(request)

    del wrapper.__wrapped__  # type: ignore[attr-defined]  # its signature is the wrapper's own
    return wrapper
