"""Serving: the inherited socket of a pool, or a path that clients connect to."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, TypeVar

from . import _codecs, _hooks
from ._ext import HAS_RINGS, Loop
from ._methods import Table
from ._stacks import Stacks, free_signal, real_time_signals
from ._streams import StreamThreads
from ._version import __version__

if TYPE_CHECKING:
    import socket

    from ._crew import Crew
    from ._grpc import Server
    from ._serving import Serving

Hook = TypeVar("Hook", bound=Callable[[], object])

THREADS_MAX = 64
CODECS = ("auto", "json", "orjson", "msgspec")
SPIN_US = 50


def _take_descriptor(name: str) -> int:
    """A descriptor that the host names in the environment, -1 for none. Children shall not look for it there."""
    text = os.environ.pop(name, None)
    if text is None:
        return -1
    try:
        number = int(text)
        os.set_inheritable(number, False)
    except (ValueError, OSError) as error:
        raise RuntimeError(f"{name} is {text!r}, which is no open descriptor: only a pyproc host sets it") from error
    return number


def _take_grpc_address() -> str:
    """Where to serve gRPC, as grpc names it; empty where nothing is said."""
    path = os.environ.pop("PYPROC_GRPC_SOCKET", "")
    address = os.environ.pop("PYPROC_GRPC_ADDRESS", "")
    if not path:
        return address
    from urllib.parse import quote  # others need not pay for it
    return "unix:" + quote(os.path.abspath(path))


class _Process:
    """What this process was given, and whether it still has it."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Begins anew: also in a worker that a zygote forked, which has a wire of its own."""
        self.wire_fd = _take_descriptor("PYPROC_WORKER_FD")
        self.host_fd = _take_descriptor("PYPROC_HOST_FD")
        self.stacks = Stacks(_take_descriptor("PYPROC_STACKS_FD"))
        self.protocol = os.environ.pop("PYPROC_PROTOCOL", "")
        self.grpc_address = _take_grpc_address()
        self.loop: Serving | None = None
        self.serving = False
        self.took_wire = False  # a host hears of failures by pyproc_bootstrap.py before, by the exit status after
        self.forked = False
        self.failure: BaseException | None = None  # what a stream's handler raised to end the worker
        self.interrupts = 0  # the signal that interrupts handlers
        self.signals = False  # whether SIGTERM and the wake-up descriptor are set by us

    def hold_signals(self) -> None:
        """Before a fork: a signal that comes to the child while it still has our handlers would be lost in it, and be
        taken by us, whose descriptor they write to."""
        if self.signals:
            _held.mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())

    def let_signals_come(self) -> None:
        """After a fork, on either side."""
        mask, _held.mask = getattr(_held, "mask", None), None
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def lose_wire(self) -> None:
        """In a forked child: nothing of the parent's may be read, written or held open."""
        self.forked = True
        if self.signals:  # a child must die of SIGTERM, and write to none of our descriptors
            signal.set_wakeup_fd(-1)
            if signal.getsignal(signal.SIGTERM) is _stop_loop:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
            if self.interrupts:
                signal.signal(self.interrupts, signal.SIG_DFL)
        if self.loop is not None:
            self.loop.abandon()
        self.stacks.lose()
        for fd in (self.wire_fd, self.host_fd):
            if fd >= 0:
                os.close(fd)
        self.wire_fd = self.host_fd = -1


process = _Process()
_held = threading.local()  # the mask of a thread that forks
os.register_at_fork(after_in_child=process.lose_wire)
os.register_at_fork(before=process.hold_signals, after_in_parent=process.let_signals_come,
                    after_in_child=process.let_signals_come)

_start_hooks: list[Callable[[], object]] = []
_stop_hooks: list[Callable[[], object]] = []


def on_start(hook: Hook) -> Hook:
    """Registers a function that runs before the worker is ready; one that raises keeps it from starting."""
    _start_hooks.append(hook)
    return hook


def on_stop(hook: Hook) -> Hook:
    """Registers a function that runs when the worker stops in order; the last registered runs first."""
    _stop_hooks.append(hook)
    return hook


def _worker_index() -> int:
    text = os.environ.get("PYPROC_WORKER_INDEX", "0")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def _spin_us() -> int:
    """Looking for more before blocking pays only where the caller runs on another core meanwhile."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        cores = os.cpu_count() or 1
    return SPIN_US if cores > 1 else 0


CONCURRENCY_MAX = 4096


def _hello(table: Table, threads: int, feature: str = "status_page") -> bytes:
    concurrency = {"concurrency": CONCURRENCY_MAX} if table.has_async else {}
    rings = ["shm"] if HAS_RINGS and feature != "grpc" else []
    return json.dumps({
        "version": _hooks.VERSION, "oldest": _hooks.VERSION, "pid": os.getpid(), "python": sys.version.split()[0],
        "worker": __version__, "features": [feature, "streams", "ping", *rings], "threads": threads, **concurrency,
        **({"stacks_signal": process.stacks.signal} if process.stacks.signal else {}),
        **({"codecs": list(_codecs.registered)} if _codecs.registered else {}),
        "methods": table.hello, "messages": table.messages,
    }, separators=(",", ":")).encode("utf-8")


def _stop_loop(_number: int, _frame: FrameType | None) -> None:
    if process.loop is not None:
        process.loop.stop()


@contextmanager
def _interrupted_by_signal(loop: Serving) -> Iterator[None]:
    """A signal has Cancelled raised in a cancelled handler.

    By default SIGURG is ignored, so that one which comes late, in a child say, does no harm.
    """
    number = free_signal(signal.SIGURG, *(other for other in real_time_signals() if other != process.stacks.signal))
    if number:
        signal.signal(number, loop.interrupt)
    loop.use_signal(number)
    process.interrupts = number
    try:
        yield
    finally:
        process.interrupts = 0
        loop.use_signal(0)
        if number:
            signal.signal(number, signal.SIG_IGN)  # until the last one that was sent has come
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def _stopped_by_signal(loop: Serving) -> Iterator[None]:
    """SIGTERM lets the running handler finish and then stops, SIGINT interrupts it and stops.

    Where the script has a handler of its own for one, that stays.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, _stop_loop)
    interrupts = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    loop.use_stop_signals(ours << signal.SIGTERM | interrupts << signal.SIGINT)
    old_fd = signal.set_wakeup_fd(loop.wakeup_fd, warn_on_full_buffer=False)
    process.signals = True
    try:
        with _interrupted_by_signal(loop):
            yield
    finally:
        process.signals = False
        signal.set_wakeup_fd(old_fd)
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _fail(error: BaseException) -> None:
    """A handler in a thread of its own raised what ends the worker; the first is told."""
    process.failure = process.failure or error
    if process.loop is not None:
        process.loop.stop()


def _crew(table: Table, threads: int, hooks: _hooks.Hooks, listens: bool) -> Crew | None:
    """The threads where there is more than one handler at once.

    One that listens has a thread which reads all its connections also where only streams have threads.
    """
    hooks.start_stream = StreamThreads(threads, hooks.watch, _fail, _leave_child, lambda: process.forked).start
    if threads == 1 and not table.has_async and not (listens and table.has_stream_threads):
        return None
    from ._crew import Crew  # it imports asyncio, which others need not pay for
    crew = Crew(threads, table.has_async, _leave_child)
    hooks.submit = crew.submit
    return crew


def _open_events(loop: Serving, hooks: _hooks.Hooks, crew: Crew | None) -> None:
    def wake() -> None:
        serving = process.loop  # no reference of its own: the thread that calls this ends with the loop
        if serving is not None:
            serving.interrupt_threads()
        if crew is not None:
            crew.cancel_tasks()

    hooks.on_wake = wake
    hooks.open(loop.event_fd)
    if crew is not None or threading.current_thread() is not threading.main_thread():
        hooks.watch()


def _run_loop(loop: Serving, hooks: _hooks.Hooks, crew: Crew | None) -> None:
    process.loop = loop
    loop.use_stacks(process.stacks.signal, process.stacks.fd)
    _open_events(loop, hooks, crew)
    process.took_wire = True
    try:
        with _stopped_by_signal(loop):
            try:
                if crew is None:
                    loop.run()
                else:
                    crew.run(loop)
                if process.failure is not None:
                    raise process.failure
            except KeyboardInterrupt:
                pass  # Ctrl-C in a terminal is how a listening worker is stopped
            finally:
                if process.forked:
                    _leave_child()
                _run_stop_hooks()
    finally:
        process.loop = None
        hooks.close()


def _leave_child() -> None:
    """A child that a handler forked came back from that handler: there is nothing here for it to do."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(0)


def _run_stop_hooks() -> None:
    """Runs them all, whatever one raises; the first exception goes on."""
    failure: BaseException | None = None
    while _stop_hooks:
        try:
            _stop_hooks.pop()()
        except BaseException as error:
            failure = failure or error
    if failure is not None:
        raise failure


def _serve_inherited(table: Table, threads: int) -> None:
    hooks = _hooks.Hooks()
    crew = _crew(table, threads, hooks, False)
    loop = Loop(table.rows, _hello(table, threads), hooks, fd=process.wire_fd, host_fd=process.host_fd,
                worker_index=_worker_index(), spin_us=_spin_us(), shared=crew is not None)
    process.wire_fd = process.host_fd = -1  # the loop's now
    _run_loop(loop, hooks, crew)


def _serve_listener(table: Table, threads: int, listener: socket.socket) -> None:
    """Takes the socket over."""
    from ._listener import peer_uid
    try:
        hooks = _hooks.Hooks()
        crew = _crew(table, threads, hooks, True)
        loop = Loop(table.rows, _hello(table, threads), hooks, listen_fd=listener.fileno(), host_fd=process.host_fd,
                    worker_index=_worker_index(), spin_us=_spin_us(), shared=crew is not None, peer_uid=peer_uid())
        listener.detach()
        process.host_fd = -1
        _run_loop(loop, hooks, crew)
    finally:
        listener.close()


def _take_activated() -> socket.socket | None:
    from ._listener import take_activated  # a pool's worker needs to pay for none of it
    return take_activated()


def _serve_path(table: Table, threads: int, path: str) -> None:
    from ._listener import listen, remove
    listener = listen(path)
    made = os.lstat(path)
    try:
        _serve_listener(table, threads, listener)
    finally:
        remove(path, made)


def _bind_grpc(server: Server, address: str) -> int:
    """Returns the port, where there is one. A socket has mode 0660 from the start."""
    if address.startswith("unix:"):
        from urllib.parse import unquote

        from ._listener import remove_stale
        remove_stale(unquote(address[len("unix:"):]))
    mask = os.umask(0o117)
    try:
        return server.open(address)
    finally:
        os.umask(mask)


def _serve_grpc(table: Table, threads: int) -> None:
    if not process.grpc_address:
        raise ValueError("PYPROC_PROTOCOL is grpc, but there is nothing to serve on: give a path in "
                         "PYPROC_GRPC_SOCKET, or an address such as 127.0.0.1:50051 in PYPROC_GRPC_ADDRESS")
    from ._crew import Crew  # others need to pay for none of these
    from ._grpc import Server, say_where
    from ._grpc_call import entries_of
    hooks = _hooks.Hooks()
    crew = Crew(threads, False, _leave_child)
    inherited = process.wire_fd >= 0
    server = Server(entries_of(table), hooks, crew, hello=_hello(table, threads, "grpc"),
                    wire_fd=process.wire_fd, host_fd=process.host_fd, worker_index=_worker_index(),
                    leave_child=_leave_child)
    port = _bind_grpc(server, process.grpc_address)
    process.wire_fd = process.host_fd = -1  # the server's now
    if not inherited:
        say_where(process.grpc_address, port)
    _run_loop(server, hooks, crew)


def _serve(handlers: tuple[object, ...], threads: int, path: str | None) -> None:
    if process.forked:
        raise RuntimeError("this process was forked from a worker, whose socket it does not have: serve in the parent")
    if process.serving:
        raise RuntimeError("this process serves already: give all handlers to one call of serve()")
    table = Table(handlers)
    path = path or os.environ.get("PYPROC_SOCKET_PATH")
    is_wired = process.wire_fd >= 0 or process.protocol == "grpc"
    activated = None if is_wired else _take_activated()
    if not is_wired and activated is None and not path:
        raise ValueError("there is nothing to serve on: start this script by a pyproc host, or give a socket path as "
                         "an argument of run_worker() or in PYPROC_SOCKET_PATH")
    process.serving = True
    try:
        for hook in _start_hooks:
            hook()
        with process.stacks.on_signal():
            if process.protocol == "grpc":
                _serve_grpc(table, threads)
            elif process.wire_fd >= 0:
                _serve_inherited(table, threads)
            elif activated is not None:
                _serve_listener(table, threads, activated)
            elif path:
                _serve_path(table, threads, path)
    finally:
        process.serving = False


def serve(*handlers: object, threads: int = 1) -> None:
    """Serves typed handlers, and what is exposed, until the host goes or SIGTERM comes; then it returns.

    A worker that a pool started speaks on the socket that it inherited; another one listens on a socket that a service
    manager passes (systemd's socket activation), or on ``PYPROC_SOCKET_PATH``. It serves up to 128 connections, of this
    user and root, or of the user that ``PYPROC_PEER_UID`` names by number, or of ``any``.
    With ``PYPROC_PROTOCOL=grpc`` it serves gRPC instead, on the path in ``PYPROC_GRPC_SOCKET`` or the address in
    ``PYPROC_GRPC_ADDRESS``, to any client.

    Plain handlers run one at a time on the calling thread, which should be the main one, or, with ``threads`` (2 to
    64), on that thread and so many minus one others at once: that pays where they release the GIL. ``async`` handlers
    all run at once on one event loop in a thread of its own, which no plain handler stalls.

    A handler that answers with a stream is a generator. A plain one takes turns with other handlers, and is suspended
    while the caller is behind. Plain handlers that are given a stream of requests, an iterator, have a thread each.

    A handler whose call is cancelled, or past its deadline, is interrupted by :class:`Cancelled`, raised inside it: on
    the main thread at once, whatever it waits for; on other threads between two bytecodes, so not while it sleeps or
    waits in C. An ``async`` one has its task cancelled. A handler that looks for a cancel itself, by ``cancel_event``
    or ``context.cancelled``, is given the host's ``cancel_grace_ms`` to end before that. One that catches the exception
    and goes on is interrupted again, four times in all, and where it still runs ``cancel_grace_ms`` after the first
    time the worker is killed, with the stacks of all its threads in the host's log. A worker that listens is never
    killed. Where this is not the main thread, its handlers are as those of other threads. A generator that is suspended
    is closed; who waits for the next request of a stream is woken.
    """
    if type(threads) is not int or not 1 <= threads <= THREADS_MAX:
        raise ValueError(f"threads is {threads!r}: it must be an integer in 1..{THREADS_MAX}")
    _serve(handlers, threads, None)


def run_worker(socket_path: str | None = None, codec_type: str = "auto") -> None:
    """Serves what is exposed, as the worker of the Go library pyproc does.

    Started by a pool of ours it uses the socket that it inherited. Else it listens on ``socket_path``, by default
    ``PYPROC_SOCKET_PATH``, with mode 0660, and serves many connections at once. ``codec_type`` (or
    ``PYPROC_CODEC_TYPE``) may be ``auto``, ``json``, ``orjson`` or ``msgspec``: all of them are JSON on the wire.
    """
    codec = os.environ.get("PYPROC_CODEC_TYPE") or codec_type
    if codec not in CODECS:
        raise ValueError(f"unknown codec type {codec!r}: it must be one of {', '.join(CODECS)}")
    _serve((), 1, socket_path)
