"""Says hello like a good worker, and answers the first request with bytes that are none of the protocol's.

The argument names the answer. A file named by E2E_ONCE makes it good from the second start on.
"""
import json
import os
import socket
import struct
import sys
import time
from typing import Dict

HEADER = struct.Struct(">BBHIQII")
HELLO, REQUEST, REPLY, STARTED = 1, 3, 4, 8
JSON = 1


def entry(key: bytes, value: bytes) -> bytes:
    """One entry of metadata."""
    return struct.pack(">HI", len(key), len(value)) + key + value


def with_metadata(call_id: int, metadata: bytes, code: int = 0) -> bytes:
    """A reply that has such metadata."""
    body = b'{"error": "with metadata"}' if code else b"true"
    return frame(REPLY, JSON, code, call_id, metadata + body, len(metadata))


def frame(kind: int, flags: int, code: int, call_id: int, body: bytes, metadata: int = 0) -> bytes:
    """A frame with its length."""
    payload = HEADER.pack(kind, flags, code, 0, call_id, 0, metadata) + body
    return struct.pack(">I", len(payload)) + payload


def read(wire: socket.socket, size: int) -> bytes:
    """So many bytes; the end of the process at the end of the connection."""
    data = b""
    while len(data) < size:
        chunk = wire.recv(size - len(data))
        if not chunk:
            os._exit(0)
        data += chunk
    return data


def next_request(wire: socket.socket) -> int:
    """The id of the next request, in either codec."""
    while True:
        payload = read(wire, struct.unpack(">I", read(wire, 4))[0])
        if payload[:1] == b"{":
            return int(json.loads(payload)["id"])
        if payload[0] == REQUEST:
            return int(HEADER.unpack_from(payload)[4])


def good(call_id: int) -> bytes:
    """A good reply: true."""
    return frame(REPLY, JSON, 0, call_id, b"true")


def answers(call_id: int) -> Dict[str, bytes]:
    """What a hostile worker may say to a request."""
    return {
        "good": good(call_id),
        "garbage": b"\x00\x00\x00\x20" + b"\xee" * 32,
        "empty": b"\x00\x00\x00\x00",
        "huge": b"\xff\xff\xff\xff" + b"x" * 100,
        "over_limit": struct.pack(">I", (64 << 20) + 1) + b"\x04" + b"x" * 100,
        "short_header": b"\x00\x00\x00\x05\x04\x01\x00\x00\x00",
        "metadata": frame(REPLY, JSON, 0, call_id, b"true", metadata=1000),
        "metadata_beyond": with_metadata(call_id, b"\xff\xff\xff\xff\xff\xff" + b"x" * 20),
        "metadata_cut": with_metadata(call_id, entry(b"k", b"v")[:-1]),
        "metadata_half": with_metadata(call_id, entry(b"k", b"v") + b"\0\0\0"),
        "metadata_many": with_metadata(call_id, entry(b"k", b"v") * 65),
        "metadata_large": with_metadata(call_id, entry(b"k", b"v" * 16378)),
        "metadata_key": with_metadata(call_id, entry(b"Key", b"v")),
        "metadata_no_key": with_metadata(call_id, entry(b"", b"v")),
        "metadata_nul_key": with_metadata(call_id, entry(b"k\0", b"v")),
        "metadata_reserved": with_metadata(call_id, entry(b"grpc-x", b"v")),
        "metadata_nul": with_metadata(call_id, entry(b"k", b"v\0w")),
        "metadata_of_error": with_metadata(call_id, entry(b"k", b"\xff"), 5),
        "metadata_good": with_metadata(call_id, entry(b"k-bin", b"\0\xff") * 64),
        "flags": frame(REPLY, 0x80, 0, call_id, b"true"),
        "second_hello": frame(HELLO, JSON, 0, 0, b'{"version": 1, "methods": []}'),
        "bad_json": frame(REPLY, JSON, 0, call_id, b'{"a": tru'),
        "bad_utf8": frame(REPLY, JSON, 0, call_id, b'"\xff"'),
        "bad_envelope": b"\x00\x00\x00\x08" + b'{"id": x',
        "bad_error": frame(REPLY, JSON, 3, call_id, b"no error object"),
        "other_form": struct.pack(">I", 40) + (b'{"id": %d, "ok": true, "body": 1}' % call_id).ljust(40),
        "truncated": good(call_id)[:-2],
        "unknown_kind": frame(0x1F, 0, 0, 77, b"?") + good(call_id),
        "unknown_id": frame(REPLY, JSON, 0, call_id ^ 4096, b"1") + frame(REPLY, JSON, 0, 0, b"2") + good(call_id),
        "twice": good(call_id) + good(call_id),
        "started_unknown": frame(STARTED, 0, 0, 1 << 63, b"") + good(call_id),
        "unknown_code": frame(REPLY, JSON, 999, call_id, b'{"error": "from the future"}'),
        "close": b"",
    }


def is_first() -> bool:
    """Whether this is the first start that the test sees."""
    try:
        os.close(os.open(os.environ["E2E_ONCE"], os.O_CREAT | os.O_EXCL))
        return True
    except FileExistsError:
        return False


def main() -> None:
    """Answers requests until the host is gone."""
    wire = socket.socket(fileno=int(os.environ["PYPROC_WORKER_FD"]))
    wire.setblocking(True)
    methods = [{"name": "ping", "kind": "unary"}]
    features = sys.argv[2:]  # it answers no ping, whatever it says
    hello = {"version": 1, "features": features, "methods": methods}
    wire.sendall(frame(HELLO, JSON, 0, 0, json.dumps(hello).encode()))
    mode = sys.argv[1] if is_first() else "good"
    while True:
        call_id = next_request(wire)
        wire.sendall(answers(call_id)[mode])
        if mode == "close":
            wire.close()
            time.sleep(600)
        if mode == "truncated":
            os._exit(0)
        mode = "good"


if __name__ == "__main__":
    main()
