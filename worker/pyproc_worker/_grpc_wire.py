"""What a gRPC worker says on the socket that it inherited: hello and welcome. Later the extension answers pings."""

from __future__ import annotations

import asyncio
import socket
import struct

_HEADER = struct.Struct(">BBHIQII")
_HELLO, _WELCOME = 1, 2
_JSON = 1
_LIMIT = 1 << 20  # bytes of a welcome


def hello_frame(body: bytes) -> bytes:
    """A HELLO with its length."""
    payload = _HEADER.pack(_HELLO, _JSON, 0, 0, 0, 0, 0) + body
    return struct.pack(">I", len(payload)) + payload


class Wire:
    """The inherited socket."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._socket.setblocking(False)
        self._unread = b""

    async def greet(self, hello: bytes) -> bytes | None:
        """Sends the hello; returns the welcome's body, None where the host hung up. ConnectionError."""
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_sendall(self._socket, hello_frame(hello))
            while True:
                head = await self._read(4)
                size, = struct.unpack(">I", head)
                if not _HEADER.size <= size <= _LIMIT:
                    raise ConnectionError(f"the host broke the protocol: it sent a frame of {size} bytes in place of "
                                          "its welcome")
                payload = await self._read(size)
                kind, _, _, _, _, _, metadata = _HEADER.unpack_from(payload)
                if kind == _WELCOME:
                    return payload[_HEADER.size + metadata:]
        except (EOFError, ConnectionResetError, BrokenPipeError):
            return None

    async def _read(self, size: int) -> bytes:
        loop = asyncio.get_running_loop()
        while len(self._unread) < size:
            more = await loop.sock_recv(self._socket, size - len(self._unread))
            if not more:
                raise EOFError
            self._unread += more
        data, self._unread = self._unread[:size], self._unread[size:]
        return data

    def fileno(self) -> int:
        """Its descriptor."""
        return self._socket.fileno()

    def close(self) -> None:
        """Closes it here; others may have it, too."""
        self._socket.close()

    def hang_up(self) -> None:
        """Ends it for everybody who has it."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the host was first
        self._socket.close()
