"""What the extension asks Python for while it serves."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from typing import Any

from . import _codecs, _describe
from ._codes import Cancelled, Code, Error
from ._events import Events
from ._ext import Job, StreamJob, encode_metadata
from .cancellation import CancellationError

VERSION = 1
FRAME_LIMIT = 64 << 20
FRAME_LIMIT_MIN = 1 << 10
FRAME_LIMIT_MAX = (2 << 30) - 1
STREAM_WINDOW = 256 << 10
STREAM_WINDOW_MAX = 1 << 30
STREAMS = 64
STREAMS_MAX = 1024
RING_MIN = 4096
RING_MAX = 1 << 30


def _code_of(exception: BaseException) -> int:
    if isinstance(exception, Error):
        return int(exception.code)
    if isinstance(exception, (CancellationError, Cancelled)):
        return int(Code.CANCELLED)
    return int(Code.UNKNOWN)


def _message_of(exception: BaseException) -> str:
    if isinstance(exception, CancellationError):
        return f"Cancelled: {exception.reason}"
    if isinstance(exception, Cancelled) and not exception.args:
        return "Cancelled"
    return _describe.message_of(exception)


def _metadata_of(exception: BaseException, most: int) -> bytes:
    """What an :class:`Error` carries; nothing where that was spoilt later, or is too much: the error counts."""
    try:
        metadata = encode_metadata(exception.metadata) if isinstance(exception, Error) else b""
    except (AttributeError, TypeError, ValueError):
        return b""
    return metadata if len(metadata) <= most else b""


def number(welcome: dict[str, Any], name: str, default: int, least: int, most: int) -> int:
    """A number of a host's welcome; ValueError."""
    value = welcome.get(name, default)
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"the host's welcome has {name} {value!r}: it must be an integer in {least}..{most}")
    return value


def _facts(body: bytes) -> dict[str, Any]:
    try:
        welcome = json.loads(body)
    except ValueError as error:
        raise ValueError(f"the host's welcome is no JSON: {error}") from None
    if not isinstance(welcome, dict) or "version" not in welcome:
        raise ValueError("the host's welcome has no version")
    return welcome


class Hooks(Events):
    """The callables of :class:`pyproc_worker._ext.Loop`."""

    def __init__(self) -> None:
        super().__init__()
        self.cancelled = Cancelled
        self.submit: Callable[[Job | StreamJob, bool], None] | None = None
        self.start_stream: Callable[[StreamJob], None] | None = None
        self.decode = json.JSONDecoder().decode
        self.encode = json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode
        self._json_format: Any = None

    def _mapping(self) -> Any:
        if self._json_format is None:
            self._json_format = importlib.import_module("google.protobuf.json_format")
        return self._json_format

    def parse(self, text: str, message_class: Any) -> Any:
        """Protobuf's JSON mapping to a message."""
        return self._mapping().Parse(text, message_class())

    def print(self, message: Any) -> str:
        """A message to protobuf's JSON mapping."""
        return self.encode(self._mapping().MessageToDict(message))

    def describe(self, exception: BaseException | None, message: str, code: int, room: int,
                 bare: bool, interrupted: bool) -> tuple[int, bytes, bytes]:
        """The status code, the error object and the metadata of a failure.

        A ``message`` says what failed while the worker, not the handler, was at work. ``code`` 0 leaves the code to the
        exception. ``bare`` is for clients that take nothing but a message. ``interrupted``: the exception was raised in
        the handler to end it.
        """
        if exception is None:
            return code, _describe.error_object(message, room=room), b""
        text = _message_of(exception)
        if message:
            return code, _describe.error_object(f"{message}: {text}", room=room), b""
        if code == 0:
            code = _code_of(exception)
        if bare:
            return code, _describe.error_object(text, room=room), b""
        metadata = _metadata_of(exception, room // 2)
        trace = _describe.traceback_text(exception, exception.__traceback__)
        described = _describe.error_object(text, _describe.type_name(exception), trace, interrupted=interrupted,
                                           room=room - len(metadata))
        return code, described, metadata

    def bad_message(self, method: str, kind: str, cause: str | BaseException) -> Error:
        """What a handler is given for a message of its stream that does not parse."""
        if isinstance(cause, str):
            return Error(Code.INVALID_ARGUMENT, f"{method}: a message is {cause}")
        text = f"{method}: a message is no valid {kind}: {_message_of(cause)}"
        error = Error(Code.INVALID_ARGUMENT, text)
        error.__cause__ = cause
        return error

    def welcome(self, body: bytes) -> tuple[int, int, int, int, int, int, int]:
        """What a host's welcome says; ValueError.

        Frame limit, worker index, spin time, grace, window and number of streams, and bytes of a ring. Worker index,
        spin time and grace are -1 where it says nothing; 0 bytes: there are no rings.
        """
        welcome = _facts(body)
        rings = welcome.get("shm")
        if welcome["version"] != VERSION:
            raise ValueError(f"the host chose version {welcome['version']!r} of the wire, this worker speaks "
                             f"{VERSION}: install the pyproc_worker that belongs to the library")
        return (number(welcome, "frame_limit", FRAME_LIMIT, FRAME_LIMIT_MIN, FRAME_LIMIT_MAX),
                number(welcome, "worker_index", -1, -1, (1 << 31) - 1),
                number(welcome, "spin_us", -1, -1, 1_000_000),
                number(welcome, "cancel_grace_ms", -1, -1, 86_400_000),
                number(welcome, "stream_window", STREAM_WINDOW, 1, STREAM_WINDOW_MAX),
                number(welcome, "max_streams", STREAMS, 1, STREAMS_MAX),
                number(rings, "ring_bytes", 0, RING_MIN, RING_MAX) if isinstance(rings, dict) else 0)

    def codec(self, body: bytes) -> _codecs.Codec | None:
        """The registered codec that a host's welcome chose, None for a built-in one; ValueError where there is none."""
        return _codecs.chosen(_facts(body).get("codec"))
