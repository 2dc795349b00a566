"""What runs handlers and what dispatches to them, as types."""

from __future__ import annotations

from types import FrameType
from typing import Protocol


class Work(Protocol):
    """What a thread of plain handlers runs: a job, or a step of a call that came by gRPC."""

    def run(self, thread: int, /) -> None:
        """Runs it on this thread, the worker's thread of the given number."""


class Dispatcher(Protocol):
    """What dispatches: the extension's loop, or a gRPC server."""

    @property
    def abandoned(self) -> bool:
        """Whether this is a forked child."""

    def run(self) -> None:
        """Serves until stop()."""

    def stop(self) -> None:
        """Lets run() return once the running handlers have."""


class Serving(Dispatcher, Protocol):
    """What serves: the extension's loop, or a gRPC server."""

    @property
    def event_fd(self) -> int:
        """Becomes readable when calls are cancelled."""

    @property
    def wakeup_fd(self) -> int:
        """What a signal's number is written to."""

    def use_signal(self, interrupt: int, /) -> None:
        """The calling thread's handlers are interrupted by it; 0: by none."""

    def use_stop_signals(self, stop: int, /) -> None:
        """The signals of these bits, bit n is number n, do as stop() when they come by wakeup_fd."""

    def use_stacks(self, dump: int, fd: int, /) -> None:
        """The signal, 0: none, has all stacks written to the descriptor, -1: to standard error."""

    def interrupt(self, number: int, frame: FrameType | None, /) -> None:
        """The signal's handler."""

    def interrupt_threads(self) -> None:
        """Raises Cancelled inside the cancelled handlers that take no signals."""

    def abandon(self) -> None:
        """Closes all descriptors: in a forked child."""
