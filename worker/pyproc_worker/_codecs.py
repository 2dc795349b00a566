"""Codecs that a script registers: encodings of bodies beside protobuf's and JSON."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

CODECS_MAX = 32
BUILT_IN = ("protobuf", "json", "grpc")
NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")


class Codec(NamedTuple):
    """What :func:`register_codec` was given; the extension reads it by position (src/codec.c)."""

    name: str
    pack: Callable[[Any], bytes]
    unpack: Callable[[bytes, Any], Any]
    dumps: Callable[[Any], bytes]
    loads: Callable[[bytes], Any]


registered: dict[str, Codec] = {}


def register_codec(name: str, *, pack: Callable[[Any], bytes], unpack: Callable[[bytes, Any], Any],
                   dumps: Callable[[Any], bytes], loads: Callable[[bytes], Any]) -> None:
    """Adds an encoding of requests and replies, for pools whose ``options.protocol`` is ``name``.

    Such a pool has registered a codec of the same name with ``pyproc_protocol_register``. Call this before
    :func:`serve`.

    ``pack(message)`` gives the bytes of a typed reply and ``unpack(data, message_class)`` the message of a typed
    request; ``dumps(value)`` and ``loads(data)`` do the same for the values of exposed functions, which are those of
    JSON. All four are called on the threads that run handlers, by several at once where there are several, and outside
    of the handler: no cancel interrupts them. ``data`` comes from another process: bound nesting and sizes.

    What ``unpack`` and ``loads`` raise refuses the call (INVALID_ARGUMENT); what ``pack`` and ``dumps`` raise, and
    results of another type than said here, is INTERNAL.

    Raises ValueError for a name that is taken or is not of the form ``[a-z][a-z0-9_]*`` with at most 32 characters, and
    TypeError for what cannot be called.
    """
    if not isinstance(name, str) or NAME.fullmatch(name) is None:
        raise ValueError(f"{name!r} is no name of a codec: it begins with a-z and has at most 32 of a-z, 0-9 and _")
    if name in BUILT_IN or name in registered:
        raise ValueError(f"there is a codec {name} already: choose another name")
    if len(registered) == CODECS_MAX:
        raise ValueError(f"a worker can have at most {CODECS_MAX} codecs")
    codec = Codec(name, pack, unpack, dumps, loads)
    for part, function in zip(Codec._fields[1:], codec[1:]):
        if not callable(function):
            raise TypeError(f"{part} of the codec {name} is {function!r}: it must be a function")
    registered[name] = codec


def chosen(name: object) -> Codec | None:
    """The codec that a host's welcome names, None for a built-in one; ValueError where there is none."""
    if name is None or name in ("protobuf", "json"):
        return None
    codec = registered.get(name) if isinstance(name, str) else None
    if codec is None:
        raise ValueError(f"the host speaks the codec {name!r}, which this worker has not: call "
                         f"pyproc_worker.register_codec({name!r}, ...) in its script before serve()")
    return codec
