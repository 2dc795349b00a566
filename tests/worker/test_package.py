"""The package itself: its names, its compatibility module, its classes."""

from __future__ import annotations

import threading

import pytest

import pyproc_worker
from pyproc_worker import Cancelled, Code, Context, Error, Method, Service
from pyproc_worker.cancellation import (CancellableOperation, CancellationError, CancellationManager, make_cancellable)


def test_codes_are_those_of_grpc() -> None:
    assert len(Code) == 17 and Code(16) is Code.UNAUTHENTICATED and Code(14) is Code.UNAVAILABLE


def test_error() -> None:
    error = Error(5, "gone")
    assert error.code is Code.NOT_FOUND and str(error) == error.message == "gone"
    assert str(Error(Code.ABORTED)) == "ABORTED"
    with pytest.raises(ValueError):
        Error(Code.OK, "fine")
    with pytest.raises(ValueError):
        Error(99, "odd")


def test_cancelled_passes_an_except_exception() -> None:
    assert issubclass(Cancelled, BaseException) and not issubclass(Cancelled, Exception)


def test_expose_returns_the_function() -> None:
    def function(request: object) -> object:
        return request
    assert pyproc_worker.expose(function) is function
    assert pyproc_worker.health({})["status"] == "healthy"


def test_context_is_not_for_making() -> None:
    with pytest.raises(TypeError):
        Context()


def test_loop_checks_its_arguments() -> None:
    from pyproc_worker._ext import Loop
    from pyproc_worker._hooks import Hooks
    for arguments in ([], [("name",)], [("name", None, None, None, None, "flags")], [("n", None, None, int, 5, 0)]):
        with pytest.raises((TypeError, ValueError)):
            Loop(arguments, b"{}", Hooks(), fd=-1 if not arguments else 0)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        Loop([], "no bytes", Hooks(), fd=0)  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        Loop([], b"{}", object(), fd=0)  # type: ignore[arg-type]
    with pytest.raises(OSError):
        Loop([], b"{}", Hooks(), fd=1_000_000)


def test_services_are_values() -> None:
    method = Method("a.B/C", "c", int, int, "unary", "00")
    assert method == Method("a.B/C", "c", int, int, "unary", "00", 0, False)
    assert Service("a.B", (method,), {}).methods == (method,)
    with pytest.raises(AttributeError):
        method.name = "other"  # type: ignore[misc]


def test_cancellable_operation() -> None:
    event = threading.Event()
    with CancellableOperation(event, check_interval=2) as operation:
        operation.check()
        operation.check()
    event.set()
    with pytest.raises(CancellationError) as caught:
        with CancellableOperation(event, check_interval=2) as operation:
            operation.check()
            operation.check()
    assert (caught.value.request_id, caught.value.reason) == (0, "Operation cancelled")
    with pytest.raises(CancellationError, match="at exit"):
        with CancellableOperation(event):
            pass
    with pytest.raises(KeyError):
        with CancellableOperation(event):
            raise KeyError


def test_cancellation_manager() -> None:
    manager = CancellationManager()
    cleaned = []
    with manager.track_request(1) as event:
        manager.add_cleanup_callback(1, lambda: cleaned.append(1))
        assert not manager.is_cancelled(1) and not manager.cancel_request(2)
        manager.check_cancellation(1)
    assert cleaned == [1] and not event.is_set()
    with pytest.raises(CancellationError, match="Request 2 cancelled"):
        with manager.track_request(2) as event:
            assert manager.cancel_request(2, "why") and event.is_set() and not manager.cancel_request(2)
            with pytest.raises(CancellationError):
                manager.check_cancellation(2)
    assert not manager.is_cancelled(2)


def test_make_cancellable() -> None:
    event = threading.Event()

    def with_event(request: object, cancel_event: threading.Event) -> object:
        return cancel_event

    def without(request: object) -> object:
        return request

    assert make_cancellable(with_event)(1, event) is event
    assert make_cancellable(without)(1, event) == 1
    assert make_cancellable(without).__name__ == "without"
