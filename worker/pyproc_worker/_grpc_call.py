"""One call that came by gRPC: what the thread of its handler does, whatever thread that is.

Nothing here knows grpc: requests come and replies go as bytes.
"""

from __future__ import annotations

import json
import queue
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Union

from . import _hooks
from ._codes import Cancelled, Code, Error
from ._ext import Run, check_json, decode_metadata
from ._methods import ASYNC, CONTEXT, CONTEXT_KEYWORD, EVENT_KEYWORD, RECEIVES, SENDS, Table

METADATA_LIMIT = 8 << 10  # what every gRPC client takes beside a reply or an error
DETAILS_MAX = 1 << 10     # bytes of an error's message in grpc-message, where each may take three
ROOM_MIN = 512


Metadata = tuple[tuple[str, Union[str, bytes]], ...]


@dataclass
class Limits:
    """What the host has said, or else what holds without one; and whether the worker stops."""

    frame: int = _hooks.FRAME_LIMIT
    metadata: int = METADATA_LIMIT
    streams: int = 64
    stopping: bool = False


@dataclass(frozen=True)
class Entry:
    """A method that is served, as in a table's rows.

    ``function`` is None where it is ``missing``, which says how to add it.
    """

    name: str
    function: Any
    missing: str | None
    request: Any
    reply: Any
    flags: int
    kind: str

    @property
    def is_async(self) -> bool:
        """Whether it runs on the event loop."""
        return bool(self.flags & ASYNC)

    @property
    def receives(self) -> bool:
        """Whether it is given a stream."""
        return bool(self.flags & RECEIVES)

    @property
    def sends(self) -> bool:
        """Whether it answers with a stream."""
        return bool(self.flags & SENDS)


def entries_of(table: Table) -> list[Entry]:
    """All methods of a worker."""
    return [Entry(*row, kind=facts["kind"]) for row, facts in zip(table.rows, table.hello)]


@dataclass
class Failure:
    """How a call fails. ``ending`` ends the worker once that has been answered: SystemExit and the like."""

    code: int
    message: str
    error_object: bytes
    metadata: Metadata = ()
    ending: BaseException | None = None


Outcome = Union[bytes, Failure]


class End:
    """The end of a stream of replies."""


END = End()


class Call:
    """A call from its start to its answer."""

    def __init__(self, entry: Entry, run: Run, hooks: _hooks.Hooks, limits: Limits) -> None:
        self.entry = entry
        self.run = run
        self.context = run.context
        self.iterator: Any = None  # the handler's replies
        self._hooks = hooks
        self._limits = limits

    # --- Failures ---

    def fail(self, code: int, message: str, exception: BaseException | None = None) -> Failure:
        """Says what failed; code 0 leaves it to the exception, whose own text is used where there is no message."""
        room = self._limits.metadata - 3 * DETAILS_MAX - 512 - 2 * self.run.added
        interrupted = self.run.code != 0 and isinstance(exception, Cancelled)
        code, data, metadata = self._hooks.describe(exception, message, code, max(room * 3 // 4, ROOM_MIN), False,
                                                    interrupted)
        return Failure(code, json.loads(data)["error"], data, decode_metadata(metadata) if metadata else ())

    def fail_cancelled(self) -> Failure:
        """The call was given up."""
        return self.fail(self.run.code, self.run.explain())

    def fail_raised(self, exception: BaseException) -> Failure:
        """The handler raised."""
        code = self.run.code
        if code and isinstance(exception, Cancelled) and not exception.args:
            exception.args = (self.run.explain(),)
        failure = self.fail(code, "", exception)
        if isinstance(exception, (SystemExit, KeyboardInterrupt)):
            failure.ending = exception
        return failure

    def refuse(self) -> Failure | None:
        """Why the handler must not be started; None where it may."""
        if self._limits.stopping:
            return self.fail(Code.UNAVAILABLE, "the worker stops; the call has not been started")
        if self.run.code == Code.DEADLINE_EXCEEDED:
            return self.fail(self.run.code, f"the deadline passed before {self.entry.name} was started")
        if self.run.code:
            return self.fail(self.run.code, "Cancelled: before it started")
        remaining = self.context.time_remaining()
        if remaining is not None and remaining <= 0:
            return self.fail(Code.DEADLINE_EXCEEDED, f"the deadline passed before {self.entry.name} was started")
        return None

    # --- Messages ---

    def parse(self, data: bytes) -> Any:
        """A request; raises the Failure in a :class:`Refused`."""
        if len(data) > self._limits.frame:
            raise Refused(self.fail(Code.RESOURCE_EXHAUSTED, f"{self.entry.name}: the request of {len(data)} bytes is "
                                    f"larger than the frame limit of {self._limits.frame}"))
        try:
            return self._decode(data)
        except Refused:
            raise
        except Exception as error:
            raise Refused(self.fail(Code.INVALID_ARGUMENT, self._wrong_request(), error)) from None

    def _wrong_request(self) -> str:
        if self.entry.request is None:
            return f"{self.entry.name}: the request cannot be decoded"
        return f"{self.entry.name}: the request is no valid {self.entry.request.__name__}"

    def _decode(self, data: bytes) -> Any:
        return self.entry.request.FromString(data)

    def serialise(self, value: Any) -> Outcome:
        """A reply, which must be of the method's type and not too large."""
        name, kind = self.entry.name, self.entry.reply
        if kind is not None and not isinstance(value, kind):
            got = "None" if value is None else type(value).__name__
            return self.fail(Code.INTERNAL, f"{name}: the handler returned {got} where it must return {kind.__name__}")
        try:
            data = self._encode(value)
        except Refused as refused:
            return refused.failure
        except Exception as error:
            return self.fail(Code.INTERNAL, f"{name}: the reply cannot be serialised", error)
        if len(data) > self._limits.frame:
            return self.fail(Code.RESOURCE_EXHAUSTED, f"{name}: the reply of {len(data)} bytes is larger than the "
                             f"frame limit of {self._limits.frame}")
        return data

    def _encode(self, value: Any) -> bytes:
        data: bytes = value.SerializeToString()
        return data

    # --- Plain handlers ---

    def bind(self, request: Any) -> Callable[[], Any]:
        """The handler with what it is given."""
        flags = self.entry.flags
        keywords: dict[str, Any] = {}
        if flags & CONTEXT_KEYWORD:
            keywords["context"] = self.context
        if flags & EVENT_KEYWORD:
            keywords["cancel_event"] = self.context.cancel_event
        arguments = (request, self.context) if flags & CONTEXT else (request,)
        return partial(self.entry.function, *arguments, **keywords)

    def run_unary(self, data: bytes) -> Outcome:
        """A plain unary handler, on this thread."""
        refused = self.refuse()
        if refused is not None:
            return refused
        try:
            handler = self.bind(self.parse(data))
        except Refused as error:
            return error.failure
        return self.run_to_reply(handler)

    def run_to_reply(self, handler: Callable[[], Any]) -> Outcome:
        """A plain handler with one reply."""
        value, exception = self.run.call(handler)
        if exception is not None:
            return self.fail_raised(exception)
        if self.run.code:
            return self.fail_cancelled()
        return self.serialise(value)

    def open_stream(self, data: bytes) -> Union[Outcome, End]:
        """Begins a plain server stream; returns its first message, its end, or how it failed."""
        refused = self.refuse()
        if refused is not None:
            return refused
        try:
            handler = self.bind(self.parse(data))
        except Refused as error:
            return error.failure
        return self.begin_replies(handler) or self.next_reply()

    def begin_replies(self, handler: Callable[[], Any]) -> Failure | None:
        """Calls a plain handler with many replies."""
        value, exception = self.run.call(handler)
        if exception is not None:
            return self.fail_raised(exception)
        try:
            self.iterator = iter(value)
        except TypeError:
            return self.fail(Code.INTERNAL, f"{self.entry.name}: the handler returned {type(value).__name__} where it "
                             "must return an iterator, as a function with `yield` does")
        return None

    def next_reply(self) -> Union[Outcome, End]:
        """One more message of a plain handler with many replies; what is left is closed where it has failed."""
        if self.run.code:
            self.close_replies()
            return self.fail_cancelled()
        value, exception = self.run.call(next, self.iterator, END)
        if exception is not None:
            self.iterator = None
            return self.fail_raised(exception)
        if value is END:
            self.iterator = None
            return self.fail_cancelled() if self.run.code else END
        outcome = self.serialise(value)
        if isinstance(outcome, Failure):
            self.close_replies()
        return outcome

    def close_replies(self) -> None:
        """Ends a generator that nobody reads any more, by GeneratorExit; it has the grace for its clean-up."""
        iterator, self.iterator = self.iterator, None
        close = getattr(iterator, "close", None)
        if close is None:
            return
        self.run.restart()
        _, exception = self.run.call(close)
        if exception is not None and not isinstance(exception, Cancelled):
            report(self.entry.name, exception)


class Refused(Exception):
    """Carries a failure out of what cannot return it."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def report(name: str, exception: BaseException) -> None:
    """Tells the log of what nobody else can be told."""
    print(f"pyproc_worker: {name}, whose caller has gone:", file=sys.stderr)
    traceback.print_exception(type(exception), exception, exception.__traceback__)


class NamedCall(Call):
    """A call by name with JSON, of an exposed function or of a typed unary method."""

    def _decode(self, data: bytes) -> Any:
        wrong = check_json(data)
        if wrong is not None:
            raise Refused(self.fail(Code.INVALID_ARGUMENT, f"{self.entry.name}: the request is {wrong}"))
        text = data.decode("utf-8")
        if self.entry.request is None:
            return self._hooks.decode(text)
        return self._hooks.parse(text, self.entry.request)

    def _encode(self, value: Any) -> bytes:
        text = self._hooks.encode(value) if self.entry.reply is None else self._hooks.print(value)
        data = text.encode("utf-8")
        wrong = check_json(data)
        if wrong is not None:
            raise Refused(self.fail(Code.INTERNAL, f"{self.entry.name}: the reply is {wrong}"))
        return data


class Requests(Iterator[Any]):
    """The messages of a client stream or bidi stream, for a plain handler, which has a thread of its own.

    One message is read ahead. ``pull`` has the next one put into ``inbox``: bytes, None for the end, or a Failure.
    """

    def __init__(self, call: Call, pull: Callable[[], None]) -> None:
        self._call = call
        self._pull = pull
        self._over = False
        self.inbox: queue.SimpleQueue[Union[bytes, None, Cancelled]] = queue.SimpleQueue()
        pull()

    def wake(self) -> None:
        """The call was given up."""
        self.inbox.put(Cancelled())

    def __next__(self) -> Any:
        """The next message. Cancelled where the caller is gone, an Error where it has sent what is no message."""
        if self._over:
            raise StopIteration
        data = None if self._call.run.code else self.inbox.get()
        if self._call.run.code:
            self._raise_cancelled()
        if data is None:
            self._over = True
            raise StopIteration
        assert isinstance(data, bytes)
        self._pull()
        try:
            return self._call.parse(data)
        except Refused as refused:
            self._over = True
            raise Error(refused.failure.code, refused.failure.message) from None

    def _raise_cancelled(self) -> None:
        """Raises it once: the thread may have been interrupted at the same moment."""
        if not self._call.run.claim_interrupt():
            for _ in range(3):  # what another thread has raised here comes up
                pass
        raise Cancelled(self._call.run.explain())
