"""What a handler may ask about a call that came by gRPC."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Sequence
from typing import Union

from ._ext import Context as CallContext

Value = Union[str, bytes]
Metadata = tuple[tuple[str, Value], ...]

ENTRIES_MAX = 64
BYTES_MAX = 16 << 10
_KEY = re.compile(r"[0-9a-z_.-]{1,128}\Z")
_TEXT = re.compile(r"[\x20-\x7e]*\Z")
_RESERVED = ("grpc-", "pyproc-")
_TRANSPORT = {"user-agent", "content-type", "te", "accept-encoding"}


def user_metadata(received: Iterable[tuple[str, Value]] | None) -> Metadata:
    """What a caller has sent along, without what belongs to gRPC or to this library."""
    return tuple((key, value) for key, value in received or ()
                 if key not in _TRANSPORT and not key.startswith(_RESERVED) and not key.startswith(":"))


def check_entry(key: str, value: Value) -> None:
    """ValueError where an entry cannot be sent."""
    if not isinstance(key, str) or not _KEY.match(key):
        raise ValueError(f"the metadata key {key!r} must be 1 to 128 of 0-9, a-z, '_', '.' and '-'")
    if key.startswith(_RESERVED):
        raise ValueError(f"the metadata key {key!r} is reserved: choose one that does not begin with "
                         f"{' or '.join(map(repr, _RESERVED))}")
    if key.endswith("-bin"):
        if not isinstance(value, bytes):
            raise ValueError(f"the metadata {key!r} must be bytes, as its key ends in '-bin'")
    elif not isinstance(value, str) or not _TEXT.match(value) or value != value.strip(" "):
        raise ValueError(f"the metadata {key!r} must be printable ASCII without a blank at either end: for anything "
                         "else choose a key that ends in '-bin', and give bytes")


class Context:
    """What a handler may ask about the call that it runs: as :class:`pyproc_worker.Context`."""

    __slots__ = ("_call", "metadata", "_added", "_added_size", "_lock")

    def __init__(self, call: CallContext, metadata: Metadata) -> None:
        self._call = call
        self.metadata = metadata
        self._added: list[tuple[str, Value]] = []
        self._added_size = 0
        self._lock = threading.Lock()

    @property
    def method(self) -> str:
        """Name of the method that is called."""
        return self._call.method

    @property
    def call_id(self) -> int:
        """The call's number in this worker."""
        return self._call.call_id

    @property
    def worker_index(self) -> int:
        """Index of this worker in its pool, from 0."""
        return self._call.worker_index

    @property
    def deadline(self) -> float | None:
        """When the call is over, in time.monotonic()'s seconds; None: never."""
        return self._call.deadline

    @property
    def cancelled(self) -> bool:
        """Whether the caller has given the call up."""
        return self._call.cancelled

    @property
    def cancel_reason(self) -> str:
        """Why the call was cancelled; empty where nothing is known."""
        return self._call.cancel_reason

    @property
    def cancel_event(self) -> threading.Event:
        """A threading.Event that is set once the call is cancelled."""
        return self._call.cancel_event

    def time_remaining(self) -> float | None:
        """Seconds until the call's deadline, 0.0 once it is over; None where it has none."""
        return self._call.time_remaining()

    def add_metadata(self, key: str, value: Value) -> None:
        """Sent beside the reply or the error; in streams beside the next message where that is the first, else at the
        end. ValueError for what cannot be sent."""
        check_entry(key, value)
        self.add_all(((key, value),))

    def add_all(self, entries: Sequence[tuple[str, Value]]) -> None:
        """Adds entries that have been checked."""
        with self._lock:
            size = self._added_size + sum(len(key) + len(value) for key, value in entries)
            if len(self._added) + len(entries) > ENTRIES_MAX or size > BYTES_MAX:
                raise ValueError(f"there is no room for the metadata {entries[0][0]!r}: a call may send "
                                 f"{ENTRIES_MAX} entries of {BYTES_MAX} bytes in all")
            self._added.extend(entries)
            self._added_size = size

    @property
    def added_size(self) -> int:
        """Bytes that the added entries take at most, with what gRPC counts for each, and in base64."""
        return self._added_size * 4 // 3 + 36 * len(self._added)

    def take_added(self) -> Metadata:
        """What is to be sent now."""
        with self._lock:
            taken = tuple(self._added)
            self._added.clear()
            self._added_size = 0
        return taken

    def __repr__(self) -> str:
        return f"<Context of call {self.call_id} of {self.method!r}>"
