"""What a worker does with a peer that breaks the protocol."""

from __future__ import annotations

import random
import socket
import struct

import pytest

from support import CANCEL, FAILED, HELLO, JSON, PING, PONG, REPLY, REQUEST, STARTED, WELCOME, Host, envelope, frame

SCRIPT = '''
from pyproc_worker import expose, on_stop, serve
@expose
def echo(request):
    return request
@on_stop
def stopped():
    print("stopped")
serve()
'''
HOSTILE = {
    "empty frame": struct.pack(">I", 0),
    "above the limit": struct.pack(">I", (64 << 20) + 1),
    "far above the limit": b"\xff\xff\xff\xff",
    "kind 0": struct.pack(">I", 24) + bytes(24),
    "no kind": struct.pack(">I", 24) + b"\x20" + bytes(23),
    "text": b"GET / HTTP/1.1\r\n\r\n",
    "short header": struct.pack(">I", 10) + b"\x03" + bytes(9),
    "unknown flag": frame(REQUEST, b"{}", flags=2),
    "metadata beyond the end": struct.pack(">I", 24) + struct.pack(">BBHIQII", REQUEST, 0, 0, 0, 1, 0, 1),
    "much metadata": struct.pack(">I", 24) + struct.pack(">BBHIQII", REQUEST, 0, 0, 0, 1, 0, 0xFFFFFFFF),
    "large ping": frame(PING, b"x" * 65, id=1),
    "second hello": frame(HELLO, b"{}", flags=JSON),
    "second welcome": frame(WELCOME, b'{"version":1}', flags=JSON),
    "reply": frame(REPLY, b"", id=1),
    "pong": frame(PONG, b"", id=1),
    "started": frame(STARTED, b"", id=1),
    "failed": frame(FAILED, b"{}", flags=JSON),
    "large frame that is none": struct.pack(">I", 100_000) + b"\xee" * 4096,
    "large request with an unknown flag": struct.pack(">I", 100_000) + bytes([REQUEST, 0x80]) + bytes(4096),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_hostile_frame_ends_the_worker(host: Host, data: bytes) -> None:
    worker = host.start(SCRIPT)
    id, request = worker.request("echo", "before")
    worker.wire.send(request, data)
    assert worker.reply(id).json == "before"
    assert worker.wire.is_closed()
    assert worker.process.wait(30) == 1
    assert "ConnectionError: the host broke the protocol" in worker.output() and "stopped" in worker.output()


@pytest.mark.parametrize("data", [b"{", b"{}}", b'{"id": -1}', b'{"id": 1.5, "method": "echo"}',
                                  b'{"id": 1, "method": 5}', b'{"id": 1, "method": "\xff"}', b"{" * 200,
                                  b'{"a":' * 200 + b"1" + b"}" * 200,
                                  b'{"id": 1, "method": "echo", "body": NaN}'], ids=range(9))
def test_hostile_envelope_is_answered_and_ends_the_worker(host: Host, data: bytes) -> None:
    worker = host.start(SCRIPT)
    worker.wire.send(envelope(data))
    reply = worker.wire.read().json
    assert (reply["id"], reply["ok"]) == (0, False) and "envelope" in reply["error"]
    assert worker.wire.is_closed()
    assert worker.process.wait(30) == 1


@pytest.mark.parametrize("data", [b"\x00", b"\x00\x00\x00", struct.pack(">I", 100) + b"\x03",
                                  frame(REQUEST, b"{}")[:-1],
                                  struct.pack(">I", 1_000_000) + b"\x03" + bytes(500_000), envelope({"id": 1})[:9]],
                         ids=["one byte", "length", "kind", "all but a byte", "large", "envelope"])
def test_truncated_frame_then_end(host: Host, data: bytes) -> None:
    worker = host.start(SCRIPT)
    worker.wire.send(data)
    assert worker.stop() == 0


def test_end_before_the_handshake(host: Host) -> None:
    worker = host.spawn(SCRIPT)
    assert worker.wire.read().kind == HELLO
    assert worker.stop() == 0


@pytest.mark.parametrize("welcome, says", [
    (b'{"version": 2}', "version 2"), (b"{}", "no version"), (b"[]", "no version"), (b"{", "no JSON"),
    (b"\xff", "no JSON"),
    (b'{"version": 1, "frame_limit": 10}', "frame_limit"), (b'{"version": 1, "frame_limit": "x"}', "frame_limit"),
    (b'{"version": 1, "frame_limit": 4294967296}', "frame_limit"),
    (b'{"version": 1, "worker_index": -2}', "worker_index")])
def test_welcome_that_does_not_fit(host: Host, welcome: bytes, says: str) -> None:
    worker = host.spawn(SCRIPT)
    assert worker.wire.read().kind == HELLO
    worker.wire.send(frame(WELCOME, welcome, flags=JSON))
    failed = worker.wire.read()
    assert failed.kind == FAILED and says in failed.json["error"]
    assert worker.wire.is_closed()
    assert worker.process.wait(30) == 1
    assert "ValueError" in worker.output() and says in worker.output()


@pytest.mark.parametrize("kind", [HELLO, REQUEST, REPLY])
def test_frame_before_the_welcome(host: Host, kind: int) -> None:
    worker = host.spawn(SCRIPT)
    assert worker.wire.read().kind == HELLO
    worker.wire.send(frame(kind, b"{}", flags=JSON, id=1))
    assert worker.wire.is_closed()
    assert worker.process.wait(30) == 1


def test_descriptors_that_nobody_asked_for_are_closed(host: Host) -> None:
    worker = host.start('''
import os
from pyproc_worker import expose, serve
@expose
def count(request):
    return len(os.listdir("/proc/self/fd"))
serve()
''')
    before = worker.call("count", {}).json
    with open("/dev/null", "rb") as file:
        fds = struct.pack("3i", *[file.fileno()] * 3)
        id, request = worker.request("count", {})
        worker.wire.sock.sendmsg([request], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
        assert worker.reply(id).json == before
    worker = host.spawn('''
import os
from pyproc_worker import expose, serve
@expose
def count(request):
    return len(os.listdir("/proc/self/fd"))
serve()
''')
    worker.hello = worker.wire.read().json
    with open("/dev/null", "rb") as file:
        fds = struct.pack("3i", *[file.fileno()] * 3)
        worker.wire.sock.sendmsg([frame(WELCOME, b'{"version":1}', flags=JSON)],
                                 [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
        assert worker.call("count", {}).json == before


@pytest.mark.parametrize("seed", range(8))
def test_random_bytes(host: Host, seed: int) -> None:
    """Whatever comes, the worker ends in order: with status 0 or 1, never by a signal."""
    randomness = random.Random(seed)
    worker = host.start(SCRIPT)
    pieces = []
    for _ in range(200):
        whole = bytearray(randomness.choice([
            frame(REQUEST, b'{"a":[1,"x"]}', flags=JSON, id=randomness.randrange(2**64)), frame(CANCEL, b"why", id=5),
            frame(PING, b"p"), envelope({"id": 5, "method": "echo", "body": {"k": [1]}}), frame(12, b"later")]))
        if randomness.random() < 0.02:
            whole[randomness.randrange(len(whole))] = randomness.randrange(256)
        pieces.append(bytes(whole))
    worker.wire.sock.settimeout(None)
    try:
        worker.wire.send(*pieces)
        worker.wire.sock.shutdown(socket.SHUT_WR)
        while worker.wire.sock.recv(65536):
            pass
    except ConnectionError:
        pass
    assert worker.process.wait(30) in (0, 1)
