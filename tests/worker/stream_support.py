"""The host's part of streams, in pure Python, written from schema/wire.md."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest

from support import CANCEL, CREDIT, END, JSON, REPLY, REQUEST, STREAM_DATA, Frame, Worker, frame

wrappers = pytest.importorskip("google.protobuf.wrappers_pb2")

WINDOW = 262144
COST = 64


class Stream:
    """An open stream. Its owner reads from the connection, and gives each frame to the stream that it belongs to."""

    def __init__(self, worker: Worker, name: str, request: Any = None, *, json_form: bool = False,
                 timeout_ms: int = 0, window: int = WINDOW, grants: bool = True) -> None:
        self.worker = worker
        self.json_form = json_form
        self.window = window
        self.grants = grants
        self.credit = window
        self.received: list[Any] = []
        self.reply: Frame | None = None
        self.owed = 0
        self.costs = 0  # of all messages that came
        self.flags = JSON if json_form else 0
        worker.next_id += 4097
        self.id = worker.next_id
        body = b"" if request is None else self.encode(request)
        worker.wire.send(frame(REQUEST, body, flags=self.flags, method=worker.index(name), id=self.id,
                               timeout_ms=timeout_ms))

    def encode(self, value: Any) -> bytes:
        """A message: a str becomes a StringValue."""
        message = wrappers.StringValue(value=value)
        return json.dumps(value).encode() if self.json_form else bytes(message.SerializeToString())

    def decode(self, body: bytes) -> Any:
        """And back."""
        return json.loads(body) if self.json_form else wrappers.StringValue.FromString(body).value

    def data(self, value: Any) -> bytes:
        """A frame with a message."""
        body = value if isinstance(value, bytes) else self.encode(value)
        self.credit -= len(body) + COST
        return frame(STREAM_DATA, body, flags=self.flags, id=self.id)

    def end_frame(self) -> bytes:
        """The frame that says that no more messages follow."""
        return frame(END, id=self.id)

    def send(self, *values: Any) -> None:
        """Sends messages, as the credit allows; reads where it does not."""
        for value in values:
            while self.credit <= 0 and self.reply is None:
                self.take(self.worker.wire.read())
            self.worker.wire.send(self.data(value))

    def end(self) -> None:
        """No more messages."""
        self.worker.wire.send(self.end_frame())

    def cancel(self, code: int = 1, reason: bytes = b"") -> None:
        """Gives the stream up."""
        self.worker.wire.send(frame(CANCEL, reason, code=code, id=self.id))

    def grant(self, size: int) -> None:
        """Gives so much credit."""
        self.worker.wire.send(frame(CREDIT, struct.pack(">I", size), id=self.id))

    def take(self, got: Frame) -> None:
        """A frame of the worker."""
        assert got.id == self.id and self.reply is None, got
        if got.kind == CREDIT:
            size, = struct.unpack(">I", got.body)
            assert size >= self.window // 4
            self.credit += size
            assert self.credit <= self.window
        elif got.kind == STREAM_DATA:
            assert got.flags == self.flags
            self.received.append(self.decode(got.body))
            cost = len(got.body) + COST
            self.costs += cost
            self.owed += cost
            if self.grants and self.owed >= self.window // 4:
                self.grant(self.owed)
                self.owed = 0
        else:
            assert got.kind == REPLY, got
            self.reply = got

    def read(self, count: int) -> list[Any]:
        """Reads until so many messages have come, in all."""
        while len(self.received) < count:
            assert self.reply is None, self.reply
            self.take(self.worker.wire.read())
        return self.received

    def finish(self) -> Frame:
        """Reads to the end."""
        while self.reply is None:
            self.take(self.worker.wire.read())
        return self.reply


def read_all(worker: Worker, *streams: Stream) -> dict[int, Frame]:
    """Reads to the end of all streams; returns the replies of calls that came meanwhile."""
    others: dict[int, Frame] = {}
    while any(stream.reply is None for stream in streams):
        got = worker.wire.read()
        owner = next((stream for stream in streams if stream.id == got.id), None)
        if owner is None:
            others[got.id] = got
        else:
            owner.take(got)
    return others
