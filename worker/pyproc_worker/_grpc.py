"""The gRPC server of a worker, on grpc.aio.

One thread runs an event loop with the server and with async handlers. Plain handlers run where those of the framed
worker do, on the main thread or on several (:class:`pyproc_worker._crew.Crew`): the loop hands them over step by step,
so that a generator whose reader is slow is suspended and blocks no thread. The sync server of grpc would need no second
loop, but it runs handlers in an executor's threads, blocks one for each stream, and tells of cancels on a thread that
must not be kept.

Each call is a task of its own (:meth:`_Rpc.serve`) beside grpc's. grpc cancels its own when the client is gone; ours
goes on until the handler has ended, which is what the worker waits for when it stops.
"""

from __future__ import annotations

import asyncio
import json
import os
import queue
import socket
import sys
import threading
import time
import urllib.parse
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from functools import partial
from types import FrameType
from typing import Any, NoReturn, Union

from . import _hooks
from ._codes import Cancelled, Code, Error
from ._crew import Crew
from ._describe import cut, error_object
from ._ext import Watch, encode_metadata
from ._grpc_call import (DETAILS_MAX, METADATA_LIMIT, Call, End, Entry, Failure, Limits, Metadata, NamedCall,
                         Outcome, Refused, Requests, report)
from ._grpc_wire import Wire

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # a child that a handler forks never calls grpc
try:
    import grpc

    # A debug build of grpc 1.51, as Debian 13's is, hangs in a fork unless its new poller is off.
    if grpc.__version__.startswith("1.51."):
        os.environ.setdefault("GRPC_EXPERIMENTS", "-posix_event_engine_enable_polling")
    from grpc import aio

    from . import _grpc_services as services
    from ._grpc_messages import message_class
except ImportError as error:
    from ._missing import missing_grpc
    raise missing_grpc(error) from error

CALLS_MAX = 4096
DEADLINE_SLACK_S = 0.05  # a client that gives up at its deadline may be heard of before ours
END_DOUBT_S = 0.005
STOP_GRACE_S = 0.1  # for who watches the health to be told; a dead host leaves half a second for all
RECEIVED_METADATA_MAX = 64 << 10
TRANSPORT = {"user-agent", "content-type", "te", "accept-encoding"}
RESERVED = ("grpc-", "pyproc-", ":")
KINDS = {"unary": (False, False), "server_stream": (False, True), "client_stream": (True, False), "bidi": (True, True)}
STATUS = {code.value[0]: code for code in grpc.StatusCode}


class _Step:
    """A function that a thread of plain handlers runs for a coroutine that waits for it."""

    def __init__(self, server: Server, function: Callable[[], Any], future: asyncio.Future[Any]) -> None:
        self._server = server
        self._function = function
        self._future = future

    def run(self, _thread: int, /) -> None:
        """Called by the crew."""
        try:
            result: Any = self._function()
        except BaseException as error:
            self._server.settle(self._future, None, error)
            raise
        self._server.settle(self._future, result, None)
        ending = result.ending if isinstance(result, Failure) else None
        if ending is not None:
            raise ending


class AsyncRequests(AsyncIterator[Any]):
    """The messages of a client stream or bidi stream, for an async handler."""

    def __init__(self, call: Call, read: Callable[[], Awaitable[bytes | None]]) -> None:
        self._call = call
        self._read = read

    async def __anext__(self) -> Any:
        """The next message. CancelledError where the caller is gone, an Error where it has sent what is no message."""
        data = await self._read()
        if self._call.run.code:
            if not self._call.run.claim_interrupt():
                await asyncio.sleep(0)  # the task has been cancelled: it comes up here
            raise asyncio.CancelledError
        if data is None:
            raise StopAsyncIteration
        try:
            return self._call.parse(data)
        except Refused as refused:
            raise Error(refused.failure.code, refused.failure.message) from None


class _Rpc:
    """One call on the event loop: grpc's side of it."""

    def __init__(self, server: Server, call: Call, grpc_context: Any) -> None:
        self.server = server
        self.call = call
        self.grpc = grpc_context
        self.requests: Requests | None = None
        self.task: asyncio.Task[Outcome] | None = None
        self._sent_any = False
        self._initial: asyncio.Task[None] | None = None  # sends the initial metadata
        self._gone = False
        self._pulls: set[asyncio.Task[None]] = set()

    # --- What grpc waits for ---

    async def run(self, coroutine: Coroutine[Any, Any, Outcome]) -> bytes:
        """Serves the call in a task of its own, which goes on where grpc cancels this one."""
        self.task = task = asyncio.get_running_loop().create_task(self._serve(coroutine))
        try:
            return await self._answer(await asyncio.shield(task))
        except asyncio.CancelledError:
            if not task.done():
                self.abandon()
            raise
        finally:
            if task.done():
                self._let_go()

    def _let_go(self) -> None:
        """grpc keeps the call as long as anything refers to it."""
        self.grpc = self.task = self.requests = None

    def abandon(self) -> None:
        """The client has gone, or the deadline is over."""
        self._gone = True
        remaining = self.call.context.time_remaining()
        late = remaining is not None and remaining <= DEADLINE_SLACK_S
        self.call.run.cancel(int(Code.DEADLINE_EXCEEDED if late else Code.CANCELLED), "")
        self.wake()

    def wake(self) -> None:
        """A plain handler that waits for a message hears of the cancel."""
        if self.requests is not None:
            self.requests.wake()

    async def _serve(self, coroutine: Coroutine[Any, Any, Outcome]) -> Outcome:
        try:
            outcome = await coroutine
        except Exception as error:
            if not self._gone:
                report(self.call.entry.name, error)
            outcome = self.call.fail(Code.INTERNAL, f"{self.call.entry.name}: the worker failed", error)
        finally:
            self.call.run.end()
            for pull in self._pulls:
                pull.cancel()
            self.server.leave(self)
        if self._gone:
            self._let_go()
        return outcome

    async def _answer(self, outcome: Outcome) -> bytes:
        if self._initial is not None:  # a cancelled pull has left it under way, and grpc takes nothing meanwhile
            await self._try(asyncio.shield(self._initial))
        initial = () if self._sent_any or self._gone else self.call.run.take_initial()
        if initial:
            await self._try(self.grpc.send_initial_metadata(initial))
        if self._gone:
            raise asyncio.CancelledError
        added = self.call.run.take_metadata(True)
        if not isinstance(outcome, Failure):
            if added:
                self.grpc.set_trailing_metadata(added)
            return outcome
        if outcome.ending is not None and self.call.entry.is_async:
            self.server.fail(outcome.ending)
        await refuse(self.grpc, outcome, added)

    async def _try(self, sending: Awaitable[None]) -> None:
        """Waits for what fails where the call is over."""
        try:
            await sending
        except asyncio.CancelledError:
            raise
        except Exception:  # of several kinds
            self.abandon()

    # --- Messages ---

    async def send(self, data: bytes) -> bool:
        """Sends a message, once the client takes it. Whether it is still there."""
        if self._gone:
            return False
        if not self._sent_any and self.call.run.added:
            await self._try(self._send_initial_metadata())
        self._sent_any = True
        await self._try(self.grpc.write(data))
        return not self._gone

    async def _send_initial_metadata(self) -> None:
        async def send() -> None:
            await self.grpc.send_initial_metadata(self.call.run.take_metadata(False))

        self._sent_any = True
        self._initial = asyncio.get_running_loop().create_task(send())
        await asyncio.shield(self._initial)

    async def _look_whether_gone(self) -> None:
        """A call that was given up looks like the end of its messages until grpc says so, or refuses to send."""
        if self._sent_any:
            await asyncio.sleep(END_DOUBT_S)
            return
        await self._try(self._send_initial_metadata())

    async def read(self) -> bytes | None:
        """The next message, None at the end."""
        try:
            data = await self.grpc.read()
        except asyncio.CancelledError:
            raise
        except Exception:
            data = aio.EOF
        if data is aio.EOF:
            await self._look_whether_gone()
            return None
        assert isinstance(data, bytes)
        return data

    def pull(self) -> None:
        """Has the next message put into the inbox of a plain handler. Any thread."""
        self.server.post(self._start_pull)

    def _start_pull(self) -> None:
        async def put() -> None:
            data = await self.read()
            if self.requests is not None:
                self.requests.inbox.put(data)

        pull = asyncio.get_running_loop().create_task(put())
        self._pulls.add(pull)
        pull.add_done_callback(self._pulls.discard)

    # --- Plain handlers ---

    async def on_thread(self, function: Callable[[], Any]) -> Any:
        """Runs a step of the handler on a thread of plain ones."""
        future = asyncio.get_running_loop().create_future()
        self.server.crew.put(_Step(self.server, function, future))
        return await future

    async def plain_unary(self, data: bytes) -> Outcome:
        """A plain unary handler."""
        outcome: Outcome = await self.on_thread(partial(self.call.run_unary, data))
        return outcome

    async def plain_server_stream(self, data: bytes) -> Outcome:
        """A generator, which waits for its turn for each message, and for the client to take it."""
        outcome: Union[Outcome, End] = await self.on_thread(partial(self.call.open_stream, data))
        while isinstance(outcome, bytes):
            if not await self.send(outcome):
                await self.on_thread(self.call.close_replies)
                return self.call.fail(Code.CANCELLED, "Cancelled")
            outcome = await self.on_thread(self.call.next_reply)
        return b"" if isinstance(outcome, End) else outcome

    async def plain_in_thread(self, function: Callable[[], Outcome]) -> Outcome:
        """A plain handler of a client stream or bidi stream, which has a thread of its own."""
        future = asyncio.get_running_loop().create_future()
        self.requests = Requests(self.call, self.pull)
        number = self.server.take_thread()
        step = _Step(self.server, function, future)

        def work() -> None:
            try:
                step.run(0)
            except BaseException as error:
                self.server.fail(error)

        threading.Thread(target=work, name=f"pyproc-stream-{number}", daemon=True).start()
        try:
            outcome: Outcome = await future
            return outcome
        finally:
            self.server.return_thread(number)

    def run_client_stream(self) -> Outcome:
        """Called on the handler's thread."""
        refused = self.call.refuse()
        return refused or self.call.run_to_reply(self.call.bind(self.requests))

    def run_bidi(self) -> Outcome:
        """Called on the handler's thread, which waits for the client to take each message."""
        outcome: Union[Outcome, End, None] = self.call.refuse()
        outcome = outcome or self.call.begin_replies(self.call.bind(self.requests))
        sent: queue.SimpleQueue[bool] = queue.SimpleQueue()
        while not isinstance(outcome, Failure):
            outcome = self.call.next_reply()
            if not isinstance(outcome, bytes):
                break
            self.server.post(partial(self._send_for_thread, outcome, sent))
            if not sent.get():
                self.call.close_replies()
                return self.call.fail(Code.CANCELLED, "Cancelled")
        return b"" if isinstance(outcome, End) or outcome is None else outcome

    def _send_for_thread(self, data: bytes, sent: queue.SimpleQueue[bool]) -> None:
        async def send() -> None:
            done = False
            try:
                done = await self.send(data)
            finally:
                sent.put(done)

        task = asyncio.get_running_loop().create_task(send())
        self._pulls.add(task)
        task.add_done_callback(self._pulls.discard)

    # --- Async handlers, in the call's own task ---

    async def async_reply(self, handler: Callable[[Any], Any], data: bytes | None) -> Outcome:
        """An async handler; ``handler`` makes the outcome of what it is bound to."""
        refused = self.call.refuse()
        if refused is not None:
            return refused
        try:
            request = AsyncRequests(self.call, self.read) if data is None else self.call.parse(data)
        except Refused as error:
            return error.failure
        bound = self.call.bind(request)
        self.server.enter_task(self)
        try:
            outcome: Outcome = await handler(bound)
        except asyncio.CancelledError as error:
            outcome = self.call.fail_raised(Cancelled().with_traceback(error.__traceback__))
        except Refused as error:
            outcome = error.failure
        except BaseException as error:
            trace = error.__traceback__
            outcome = self.call.fail_raised(error.with_traceback(trace.tb_next.tb_next if trace and trace.tb_next
                                                                 else trace))
        finally:
            self.server.leave_task(self)
        return outcome

    async def one_reply(self, bound: Callable[[], Any]) -> Outcome:
        """Of a coroutine function."""
        value = await bound()
        return self.call.fail_cancelled() if self.call.run.code else self.call.serialise(value)

    async def many_replies(self, bound: Callable[[], Any]) -> Outcome:
        """Of an async generator."""
        generator = bound()
        try:
            async for value in generator:
                outcome = self.call.serialise(value)
                if isinstance(outcome, Failure):
                    return outcome
                if not await self.send(outcome):
                    return self.call.fail(Code.CANCELLED, "Cancelled")
        finally:
            close = getattr(generator, "aclose", None)
            if close is not None:
                await close()
        return self.call.fail_cancelled() if self.call.run.code else b""

    def choose(self, data: bytes | None) -> Coroutine[Any, Any, Outcome]:
        """What serves the method's kind; ``data`` is the request where there is one."""
        many = self.call.entry.sends
        if self.call.entry.is_async:
            return self.async_reply(self.many_replies if many else self.one_reply, data)
        if data is None:
            return self.plain_in_thread(self.run_bidi if many else self.run_client_stream)
        return self.plain_server_stream(data) if many else self.plain_unary(data)


def user_metadata(received: Iterable[tuple[str, str | bytes]] | None) -> list[tuple[str, str | bytes]]:
    """What a caller has sent along, without what belongs to gRPC or to this library."""
    return [(key, value) for key, value in received or () if key not in TRANSPORT and not key.startswith(RESERVED)]


async def refuse(grpc_context: Any, failure: Failure, added: Metadata = ()) -> NoReturn:
    """Ends a call with the failure's code and message, and the whole error object as metadata; never returns."""
    trailing = (*added, *failure.metadata, ("pyproc-error-bin", failure.error_object))
    await grpc_context.abort(STATUS.get(failure.code, grpc.StatusCode.UNKNOWN), cut(failure.message, DETAILS_MAX),
                             trailing)
    raise AssertionError("abort() returned")


async def refuse_plainly(grpc_context: Any, code: int, text: str) -> NoReturn:
    """The same for what no exception was raised for."""
    await refuse(grpc_context, Failure(code, text, error_object(text)))


def _tell_of_failed_task(loop: asyncio.AbstractEventLoop, about: dict[str, Any]) -> None:
    """Tells of what no task has waited for, but not of an answer that grpc could not send: its client has gone."""
    if type(about.get("exception")).__name__ != "ExecuteBatchError":
        loop.default_exception_handler(about)


def close_sockets(bound: Union[str, int]) -> None:
    """In a forked child: closes the server's sockets, which are bound to that path or port, so that the child of a
    worker that has ended keeps no client waiting. grpc's own objects are never used again."""
    for name in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else ():
        try:
            one = socket.socket(fileno=int(name))
        except OSError:  # it is no socket
            continue
        about = one.getsockname()
        if about == bound or (isinstance(about, tuple) and len(about) > 1 and about[1] == bound):
            one.close()
        else:
            one.detach()


class Server(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """Serves a table of methods; it has what :class:`pyproc_worker._ext.Loop` has for those who run it."""

    def __init__(self, entries: list[Entry], hooks: _hooks.Hooks, crew: Crew, *, hello: bytes, wire_fd: int,
                 host_fd: int, worker_index: int, leave_child: Callable[[], None]) -> None:
        self.crew = crew
        self._entries: dict[str, Entry] = {entry.name: entry for entry in entries}
        self._hooks = hooks
        self._hello = hello
        self._leave_child = leave_child
        self._limits = Limits()
        self._wire = Wire(wire_fd) if wire_fd >= 0 else None
        self._watch = Watch(hooks, host_fd=host_fd, worker_index=worker_index)
        self._loop = asyncio.new_event_loop()
        self._server: Any = None
        self._bound: Union[str, int] = 0
        self._failure: BaseException | None = None
        self._next_id = 0
        self._rpcs: set[_Rpc] = set()
        self._async_rpcs: set[_Rpc] = set()
        self._answering: set[asyncio.Task[Any]] = set()
        self._threads: set[int] = set()
        self._handlers: dict[str, Any] = {"/pyproc.Dynamic/Call": self._handler("unary", self._call_by_name)}
        self._request = message_class("pyproc.DynamicRequest")
        self._reply = message_class("pyproc.DynamicReply")

    # --- What runs it ---

    @property
    def event_fd(self) -> int:
        """As Loop's."""
        return self._watch.event_fd

    @property
    def wakeup_fd(self) -> int:
        """As Loop's."""
        return self._watch.wakeup_fd

    @property
    def abandoned(self) -> bool:
        """Whether this is a forked child."""
        return self._watch.abandoned

    def stop(self) -> None:
        """Lets run() return once the running handlers have. Any thread, and signal handlers."""
        self._watch.stop()

    def use_signal(self, interrupt: int, /) -> None:
        """As Loop's."""
        self._watch.use_signal(interrupt)

    def use_stop_signals(self, stop: int, /) -> None:
        """As Loop's."""
        self._watch.use_stop_signals(stop)

    def use_stacks(self, dump: int, fd: int, /) -> None:
        """As Loop's."""
        self._watch.use_stacks(dump, fd)

    def interrupt(self, number: int, frame: FrameType | None, /) -> None:
        """As Loop's."""
        self._watch.interrupt(number, frame)

    def interrupt_threads(self) -> None:
        """Interrupts what no signal does: threads and tasks, whose calls have been cancelled."""
        self._watch.interrupt_threads()
        for rpc in list(self._async_rpcs):
            if rpc.call.run.take_interrupt() and rpc.task is not None:
                self.post(rpc.task.cancel)

    def abandon(self) -> None:
        """In a forked child: closes all descriptors."""
        self._watch.abandon()
        if self._wire is not None:
            self._wire.close()
        close_sockets(self._bound)

    def fail(self, error: BaseException) -> None:
        """Ends the worker; the first error is told."""
        self._failure = self._failure or error
        self.stop()

    def open(self, address: str) -> int:
        """Listens; returns the port where the address has one. OSError."""
        return self._loop.run_until_complete(self._open(address))

    async def _open(self, address: str) -> int:
        most = _hooks.FRAME_LIMIT if self._wire is None else _hooks.FRAME_LIMIT_MAX  # the host says it later
        self._loop.set_exception_handler(_tell_of_failed_task)
        self._stopping = asyncio.Event()
        self._welcomed = asyncio.Event()
        self._idle = asyncio.Event()
        entries = self._entries.values()
        names = services.service_names(entries)
        self._handlers.update(services.Health(names, self._stopping).handlers(self._handler))
        self._handlers.update(services.Reflection(names, entries, self._stopping).handlers(self._handler))
        self._server = aio.server(options=(
            ("grpc.max_receive_message_length", most), ("grpc.max_send_message_length", -1),
            ("grpc.max_metadata_size", RECEIVED_METADATA_MAX), ("grpc.absolute_max_metadata_size",
                                                                RECEIVED_METADATA_MAX),
            ("grpc.so_reuseport", 0), ("grpc.max_concurrent_streams", CALLS_MAX + services.OWN_STREAMS_MAX)))
        self._server.add_generic_rpc_handlers((self,))
        try:
            port: int = self._server.add_insecure_port(address)
        except RuntimeError:
            port = 0
        if port == 0:
            self._drop_server()
            raise OSError(f"cannot listen on {address}: look whether it is free, and whether it is an address of this "
                          "machine")
        self._bound = urllib.parse.unquote(address[len("unix:"):]) if address.startswith("unix:") else port
        await self._server.start()
        return port

    def run(self) -> None:
        """Serves until stop(), or the end of the inherited socket."""
        asyncio.set_event_loop(self._loop)
        self._watch.start()
        try:
            self._loop.run_until_complete(self._serve())
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            if not self.abandoned:
                self._drop_server()
                self._loop.close()
                if self._wire is not None:
                    self._wire.hang_up()
        if self._failure is not None:
            raise self._failure

    def _drop_server(self) -> None:
        """Ends grpc's server while its thread still runs. Where the last reference goes with the interpreter, from an
        exception's traceback, grpc waits for that thread, which has ended already, for ever."""
        self._server = None

    async def _serve(self) -> None:
        self._loop.add_reader(self._watch.turn_fd, self._turn)
        talk = self._loop.create_task(self._talk())
        await self._stopping.wait()
        while self._rpcs or self._answering:
            self._idle.clear()
            await self._idle.wait()
        await self._server.stop(STOP_GRACE_S)
        self._loop.remove_reader(self._watch.turn_fd)
        talk.cancel()
        await asyncio.gather(talk, return_exceptions=True)

    def _turn(self) -> None:
        if self._watch.drain() and not self._stopping.is_set():
            self._limits.stopping = True
            self._stopping.set()
            self._welcomed.set()

    async def _talk(self) -> None:
        """With the host, on the inherited socket."""
        try:
            if self._wire is not None:
                welcome = await self._wire.greet(self._hello)
                if welcome is None:
                    self.stop()
                else:
                    self._take_welcome(welcome)
                    self._welcomed.set()
                    self._watch.take_wire(self._wire.fileno())  # pings are answered without the GIL
        except Exception as error:
            self.fail(error)
        finally:
            self._welcomed.set()

    def _take_welcome(self, body: bytes) -> None:
        frame_limit, worker_index, _, grace_ms, _, max_streams, _ = self._hooks.welcome(body)
        self._watch.set_welcome(worker_index, grace_ms)
        self._limits.frame, self._limits.streams = frame_limit, max_streams
        self._limits.metadata = _hooks.number(json.loads(body), "metadata_limit", METADATA_LIMIT, METADATA_LIMIT,
                                              RECEIVED_METADATA_MAX)

    # --- Between threads ---

    def post(self, function: Callable[[], Any]) -> None:
        """Has the event loop's thread call it. Any thread."""
        try:
            self._loop.call_soon_threadsafe(function)
        except RuntimeError:
            pass  # the loop has ended, and with it all that waits

    def settle(self, future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
        """Ends what a coroutine waits for. Any thread."""
        def set_it() -> None:
            if future.done():
                return
            if error is None:
                future.set_result(result)
            elif isinstance(error, Exception) and not isinstance(error, StopIteration):
                future.set_exception(error)
            else:
                future.set_exception(RuntimeError(f"the handler's thread ended by {type(error).__name__}"))

        if not self.abandoned:
            self.post(set_it)

    def take_thread(self) -> int:
        """The lowest free number."""
        number = next(number for number in range(1, len(self._threads) + 2) if number not in self._threads)
        self._threads.add(number)
        return number

    def return_thread(self, number: int) -> None:
        """Its thread is done."""
        self._threads.discard(number)

    def enter_task(self, rpc: _Rpc) -> None:
        """The handler is the call's task from now on."""
        self._async_rpcs.add(rpc)
        rpc.call.run.enter_task()

    def leave_task(self, rpc: _Rpc) -> None:
        """It has ended."""
        self._async_rpcs.discard(rpc)
        if self.abandoned:
            self._leave_child()

    def leave(self, rpc: _Rpc) -> None:
        """The call is over."""
        self._rpcs.discard(rpc)
        self._look_idle()

    def _answered(self, task: asyncio.Task[Any]) -> None:
        self._answering.discard(task)
        self._look_idle()

    def _look_idle(self) -> None:
        if not self._rpcs and not self._answering:
            self._idle.set()

    # --- Calls ---

    def service(self, details: Any) -> Any:
        """What grpc asks for each call."""
        handler = self._handlers.get(details.method)
        if handler is None:
            entry = self._entries.get(details.method[1:])
            if entry is not None and "/" in entry.name:
                handler = self._handler(entry.kind, partial(self._call, entry))
            else:
                return self._handler("bidi", partial(self._refuse_unknown, details.method))
            self._handlers[details.method] = handler
        return handler

    def _handler(self, kind: str, function: Callable[[Any, Any], Awaitable[Any]], parse: Any = None,
                 serialise: Any = None) -> Any:
        takes_many, gives_many = KINDS[kind]

        async def serve(request: Any, grpc_context: Any) -> Any:
            task = asyncio.current_task()
            assert task is not None
            self._answering.add(task)  # until grpc has sent all of the answer
            task.add_done_callback(self._answered)
            return await function(request, grpc_context)

        if takes_many:
            make = grpc.stream_stream_rpc_method_handler if gives_many else grpc.stream_unary_rpc_method_handler
        else:
            make = grpc.unary_stream_rpc_method_handler if gives_many else grpc.unary_unary_rpc_method_handler
        return make(serve, parse, serialise)

    async def _refuse_unknown(self, method: str, _requests: Any, grpc_context: Any) -> None:
        text = f"there is no method {method!r} in this worker: check the name, or give its handler to serve()"
        await refuse_plainly(grpc_context, Code.UNIMPLEMENTED, text)

    def _begin(self, entry: Entry, grpc_context: Any, kind: type[Call]) -> Call:
        remaining = grpc_context.time_remaining()
        deadline = None if remaining is None or remaining > 1e9 else time.monotonic() + remaining
        metadata = encode_metadata(user_metadata(grpc_context.invocation_metadata()))
        self._next_id += 1
        run = self._watch.begin(entry.name, self._next_id, deadline, metadata)
        return kind(entry, run, self._hooks, self._limits)

    def _refusal(self, entry: Entry) -> tuple[Code, str] | None:
        if entry.function is None:
            return Code.UNIMPLEMENTED, entry.missing or entry.name
        if self._stopping.is_set():
            return Code.UNAVAILABLE, "the worker stops; the call has not been started"
        if len(self._rpcs) >= CALLS_MAX:
            return Code.RESOURCE_EXHAUSTED, f"the worker has {CALLS_MAX} calls already: try again later"
        if entry.receives and not entry.is_async and len(self._threads) >= self._limits.streams:
            return (Code.RESOURCE_EXHAUSTED, f"the worker has {self._limits.streams} streams already (max_streams), "
                    "each with a thread: try again later, or make the handler async")
        return None

    async def _start(self, entry: Entry, grpc_context: Any, kind: type[Call], data: bytes | None) -> Any:
        if not self._welcomed.is_set() and self._wire is not None:
            await self._welcomed.wait()
        refusal = self._refusal(entry)
        if refusal is not None:
            await refuse_plainly(grpc_context, *refusal)
        try:
            rpc = _Rpc(self, self._begin(entry, grpc_context, kind), grpc_context)
        except ValueError as error:
            await refuse_plainly(grpc_context, Code.INVALID_ARGUMENT, f"{entry.name}: {error}")
        self._rpcs.add(rpc)
        return await rpc.run(rpc.choose(data))

    async def _call(self, entry: Entry, request: Any, grpc_context: Any) -> Any:
        reply = await self._start(entry, grpc_context, Call, request if isinstance(request, bytes) else None)
        return None if entry.sends else reply

    async def _call_by_name(self, data: bytes, grpc_context: Any) -> bytes:
        """``/pyproc.Dynamic/Call``."""
        try:
            request = self._request.FromString(data)
        except Exception as error:
            text = f"the request is no valid pyproc.DynamicRequest: {error}"
            await refuse_plainly(grpc_context, Code.INVALID_ARGUMENT, text)
        entry = self._entries.get(request.method)
        if entry is None or entry.kind != "unary":
            text = (f"there is no method {request.method!r} in this worker: expose it, or check the name"
                    if entry is None else f"{request.method} is a stream, which cannot be called by name")
            await refuse_plainly(grpc_context, Code.UNIMPLEMENTED, text)
        body = await self._start(entry, grpc_context, NamedCall, request.body.encode("utf-8"))
        reply: bytes = self._reply(body=body.decode("utf-8")).SerializeToString()
        return reply


def say_where(address: str, port: int) -> None:
    """Tells those who started the script by hand where it serves."""
    where = address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{port}"
    print(f"pyproc_worker: serves gRPC on {where}", file=sys.stderr, flush=True)
