"""Status codes, and the exceptions that carry them."""

from __future__ import annotations

import enum
from collections.abc import Iterable

from ._ext import encode_metadata


class Code(enum.IntEnum):
    """gRPC's canonical status codes, which all protocols report alike."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class Error(Exception):
    """Raised by a handler to answer its call with a status code of its choice.

    ``code`` is any :class:`Code` but ``OK``; ``message`` is what the caller reads. ``metadata``, pairs of a key and a
    ``str``, or ``bytes`` where the key ends in ``-bin``, goes along with it, behind what the handler has added to its
    context.
    """

    def __init__(self, code: Code | int, message: str = "",
                 metadata: Iterable[tuple[str, str | bytes]] = ()) -> None:
        self.code = Code(code)
        if self.code is Code.OK:
            raise ValueError("an Error cannot carry Code.OK: return a reply instead")
        self.message = message
        self.metadata = tuple(metadata)
        if self.metadata:
            encode_metadata(self.metadata)  # tells at once what may not be sent
        super().__init__(self.code, message)

    def __str__(self) -> str:
        return self.message or self.code.name


class Cancelled(BaseException):
    """The caller has given the call up, or its deadline has passed.

    Raised inside the handler of that call, and never outside of it; see :func:`serve`. A handler may also raise it to
    end early; its call is then answered CANCELLED. It is no ``Exception``, so that a broad ``except Exception`` lets it
    pass.
    """


for _public in (Code, Error, Cancelled):
    _public.__module__ = "pyproc_worker"
