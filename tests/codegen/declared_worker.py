"""The names of pyproc_worker that generated modules use, for tests in a tree where its extension is not built."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any, AsyncIterator, Dict, Iterator, Tuple, TypeVar


class Code(enum.IntEnum):
    """Status codes."""

    UNIMPLEMENTED = 12


class Error(Exception):
    """An error with a code."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code


class Context:
    """What a handler learns about its call."""


Message = TypeVar("Message", covariant=True)


class Requests(Iterator[Message], AsyncIterator[Message]):
    """What a base class says of a stream's messages."""


class Handler:
    """Base of all handlers."""


@dataclass(frozen=True)
class Method:
    """An rpc."""

    name: str
    python_name: str
    request: Any
    reply: Any
    kind: str
    fingerprint: str
    timeout_ms: int = 0
    idempotent: bool = False


@dataclass(frozen=True)
class Service:
    """A service."""

    name: str
    methods: Tuple[Method, ...]
    messages: Dict[str, Tuple[Tuple[int, str, str, str], ...]]


def serve(*handlers: Handler, threads: int = 1) -> None:
    """Serve handlers."""
