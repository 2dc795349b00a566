"""The little of protobuf's wire format that reading and removing one custom option takes."""

from __future__ import annotations

from typing import Iterator, Tuple, Union


def read_varint(data: bytes, at: int) -> Tuple[int, int]:
    """The varint at `at` and the offset behind it."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
        shift += 7


def _skip_group(data: bytes, at: int, number: int) -> int:
    while True:
        tag, at = read_varint(data, at)
        if tag == (number << 3 | 4):
            return at
        at = _skip(data, at, tag)


def _skip(data: bytes, at: int, tag: int) -> int:
    kind = tag & 7
    if kind == 0:
        return read_varint(data, at)[1]
    if kind == 1:
        return at + 8
    if kind == 2:
        size, at = read_varint(data, at)
        return at + size
    if kind == 3:
        return _skip_group(data, at, tag >> 3)
    return at + 4


def fields(data: bytes) -> Iterator[Tuple[int, Union[int, bytes], bytes]]:
    """Each field of a well-formed message: number, value (an int or bytes), and its whole encoding."""
    at = 0
    while at < len(data):
        begin = at
        tag, at = read_varint(data, at)
        end = _skip(data, at, tag)
        value: Union[int, bytes]
        if tag & 7 == 0:
            value = read_varint(data, at)[0]
        elif tag & 7 == 2:
            size, at = read_varint(data, at)
            value = data[at:at + size]
        else:
            value = data[at:end]
        yield tag >> 3, value, data[begin:end]
        at = end


def extension(data: bytes, number: int) -> bytes:
    """The merged encoding of the message-typed field `number`; empty where it is absent."""
    return b"".join(value for found, value, _ in fields(data) if found == number and isinstance(value, bytes))


def without(data: bytes, number: int) -> bytes:
    """The message without the field `number`."""
    return b"".join(encoded for found, _, encoded in fields(data) if found != number)
