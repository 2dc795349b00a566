"""The stacks of all threads, for whoever wants to know why a worker hung or crashed.

They go to a descriptor that the host reads, named by ``PYPROC_STACKS_FD``, else to standard error. faulthandler writes
them: when a fatal signal comes, and when a certain signal is sent, by the extension's control thread or by the host,
which HELLO tells its number. Both need neither the GIL nor memory.
"""

from __future__ import annotations

import faulthandler
import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


def free_signal(*wanted: int) -> int:
    """The first signal that nothing in this process handles, 0 for none."""
    return next((number for number in wanted if signal.getsignal(number) is signal.SIG_DFL), 0)


def real_time_signals() -> Iterable[int]:
    """Those that nobody means anything by, the least likely to be used first."""
    return range(signal.SIGRTMAX - 1, signal.SIGRTMIN, -1)


class Stacks:
    """Where they go, and what has them written."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.signal = 0
        if fd >= 0:
            faulthandler.enable(file=fd, all_threads=True)

    @contextmanager
    def on_signal(self) -> Iterator[None]:
        """Has ``signal`` write them; it is 0 where none is free."""
        number = free_signal(*real_time_signals())
        if number:
            faulthandler.register(number, file=self.fd if self.fd >= 0 else 2, all_threads=True)
        self.signal = number
        try:
            yield
        finally:
            self.signal = 0
            if number and self.fd < 0:  # else the host may have sent one that is still to come
                faulthandler.unregister(number)

    def lose(self) -> None:
        """In a forked child: they are the parent's."""
        if self.fd < 0:
            return
        faulthandler.disable()
        if self.signal:
            faulthandler.unregister(self.signal)
        os.close(self.fd)
        self.fd = -1
