"""worker.py on a path, driven with raw frames: what the end-to-end tests cannot say because the library never would."""
import json
import os
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest

HERE = Path(__file__).resolve().parent
HEADER = struct.Struct(">BBHIQII")
HELLO, WELCOME, REQUEST, REPLY, CANCEL, PING, PONG, STARTED = range(1, 9)
JSON = 1
PATIENCE_S = 30


def framed(payload: bytes) -> bytes:
    """A payload with its length."""
    return struct.pack(">I", len(payload)) + payload


def frame(kind: int, body: bytes = b"", flags: int = 0, code: int = 0, method: int = 0, call_id: int = 0,
          metadata: bytes = b"") -> bytes:
    """A frame with a header."""
    return framed(HEADER.pack(kind, flags, code, method, call_id, 0, len(metadata)) + metadata + body)


class Client:
    """A client of the worker."""

    def __init__(self, path: Path) -> None:
        self.wire = socket.socket(socket.AF_UNIX)
        self.wire.settimeout(PATIENCE_S)
        self.wire.connect(str(path))
        self.methods: List[str] = []

    def read_exactly(self, size: int) -> bytes:
        """So many bytes, fewer at the end."""
        data = b""
        while len(data) < size:
            chunk = self.wire.recv(size - len(data))
            if not chunk:
                break
            data += chunk
        return data

    def read(self) -> bytes:
        """The next payload; empty at the end."""
        head = self.read_exactly(4)
        return self.read_exactly(struct.unpack(">I", head)[0]) if head else b""

    def shake_hands(self, **welcome: Any) -> Dict[str, Any]:
        """HELLO, HELLO, WELCOME; returns the worker's hello."""
        self.wire.sendall(frame(HELLO, b'{"version": 1}', flags=JSON))
        payload = self.read()
        assert payload[0] == HELLO
        hello: Dict[str, Any] = json.loads(payload[HEADER.size:])
        self.methods = [method["name"] for method in hello["methods"]]
        self.wire.sendall(frame(WELCOME, json.dumps({"version": 1, **welcome}).encode(), flags=JSON))
        return hello

    def call(self, method: str, body: bytes, flags: int = JSON, call_id: int = 4096) -> None:
        """Sends a REQUEST frame."""
        self.wire.sendall(frame(REQUEST, body, flags=flags, method=self.methods.index(method), call_id=call_id))

    def reply(self) -> Any:
        """Code, id and body of the next REPLY."""
        while True:
            payload = self.read()
            kind, _, code, _, call_id, _, _ = HEADER.unpack_from(payload)
            if kind == REPLY:
                return code, call_id, json.loads(payload[HEADER.size:])
            assert kind == STARTED

    def envelope(self, value: Any) -> Any:
        """Sends an envelope, and returns the answer."""
        self.wire.sendall(framed(value if isinstance(value, bytes) else json.dumps(value).encode()))
        return json.loads(self.read())


def listens(path: Path) -> bool:
    """Whether one can connect: the path is there a moment before."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


@pytest.fixture(scope="module", name="path")
def _path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A running worker's socket."""
    path = tmp_path_factory.mktemp("worker") / "socket"
    variables = {name: value for name, value in os.environ.items() if name != "PYPROC_WORKER_FD"}
    with subprocess.Popen([sys.executable, str(HERE / "worker.py")], stderr=subprocess.DEVNULL,
                          env={**variables, "PYPROC_SOCKET_PATH": str(path)}) as process:
        end = time.monotonic() + PATIENCE_S
        while not listens(path) and process.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        yield path
        process.kill()


@pytest.fixture(name="client")
def _client(path: Path) -> Iterator[Client]:
    """A new connection."""
    client = Client(path)
    with client.wire:
        yield client


def test_hello(client: Client) -> None:
    """The hello has what the page asks for."""
    hello = client.shake_hands()
    assert hello["version"] == 1 and "started" in hello["features"]
    assert all(len(method["fingerprint"]) == 16 for method in hello["methods"] if "/" in method["name"])


def test_go_client(client: Client) -> None:
    """A first payload that begins with { needs no handshake, and errors have nothing but their text."""
    assert client.envelope({"id": 7, "method": "predict", "body": {"value": 42}}) == {
        "id": 7, "ok": True, "body": {"result": 84}}
    refused = {"id": 8, "ok": False, "error": "there is no method nobody"}
    assert client.envelope({"id": 8, "method": "nobody"}) == refused
    wrapped = {"type": "request", "payload": {"id": 9, "method": "echo", "body": [1]}}
    assert client.envelope(wrapped) == {"id": 9, "ok": True, "body": [1]}


def test_both_forms_on_one_connection(client: Client) -> None:
    """A reply has the form of its request."""
    client.shake_hands()
    client.call("echo", b'"frame"')
    assert client.reply() == (0, 4096, "frame")
    client.wire.sendall(framed(b'{"id": 5, "method": "fail", "body": {"text": "x"}}'))
    payload = client.read()
    assert payload[0] == STARTED
    answer = json.loads(client.read())
    assert (answer["code"], answer["type"], answer["id"]) == (2, "ValueError", 5)


def test_ping_during_a_call(client: Client) -> None:
    """PONG repeats id and body, whatever runs."""
    client.shake_hands()
    client.call("sleep", b'{"ms": 60000}')
    assert client.read()[0] == STARTED
    client.wire.sendall(frame(PING, b"are you there", call_id=99))
    assert client.read() == HEADER.pack(PONG, 0, 0, 0, 99, 0, 0) + b"are you there"
    client.wire.sendall(frame(CANCEL, b"enough", code=4, call_id=4096))
    assert client.reply()[0] == 4


def test_cancel_before_it_runs(client: Client) -> None:
    """A call that waits is answered without being run."""
    client.shake_hands()
    client.call("sleep", b'{"ms": 60000}', call_id=4096)
    client.call("die", b'{"status": 1}', call_id=4097)
    client.wire.sendall(frame(CANCEL, code=1, call_id=4097) + frame(CANCEL, code=1, call_id=4096))
    assert [client.reply()[:2], client.reply()[:2]] == [(1, 4096), (1, 4097)]


def test_cancellation_envelope(client: Client) -> None:
    """It has no reply of its own."""
    client.wire.sendall(framed(b'{"id": 1, "method": "sleep", "body": {"ms": 60000}}'))
    answer = client.envelope({"type": "cancellation", "payload": {"id": 1, "reason": "enough"}})
    assert answer["id"] == 1 and not answer["ok"]


def test_ignored(client: Client) -> None:
    """Reserved kinds, unknown ones, unknown ids, and envelopes of unknown type."""
    client.shake_hands()
    for kind in (10, 11, 12, 13, 14, 15, 16, 0x1F):
        client.wire.sendall(frame(kind, b"later"))
    client.wire.sendall(frame(CANCEL, call_id=1 << 60))
    client.wire.sendall(framed(b'{"type": "heartbeat", "payload": {"id": 3}}'))
    client.call("echo", b"1")
    assert client.reply() == (0, 4096, 1)


@pytest.mark.parametrize("body, code", [(b"{", 3), (b"NaN", 3), (b'"\xff"', 3), (b"[" * 99 + b"]" * 99, 3),
                                        (b"[" * 98 + b"]" * 98, 0), (b"", 3)])
def test_bodies(client: Client, body: bytes, code: int) -> None:
    """A body that is no JSON is the call's error, and the connection goes on."""
    client.shake_hands()
    client.call("echo", body)
    assert client.reply()[0] == code
    client.call("echo", b"1")
    assert client.reply()[2] == 1


def test_frame_limit(client: Client) -> None:
    """WELCOME's limit holds both ways."""
    client.shake_hands(frame_limit=2048)
    client.call("big", b'{"size": 5000}')
    assert client.reply()[0] == 8
    client.wire.sendall(struct.pack(">I", 2049))
    assert client.read() == b""


@pytest.mark.parametrize("data", [
    struct.pack(">I", 0), struct.pack(">I", (64 << 20) + 1), struct.pack(">I", 0xFFFFFFFF), framed(b"\xee" * 24),
    framed(b"\0" * 24), framed(b"[]"), framed(b"\x03"), framed(HEADER.pack(REQUEST, 0x80, 0, 0, 1, 0, 0)),
    framed(HEADER.pack(REQUEST, 0, 0, 0, 1, 0, 1)), frame(PING, b"x" * 65)])
def test_hostile_frames(client: Client, path: Path, data: bytes) -> None:
    """A peer that breaks a "must" is closed; the others do not feel it."""
    client.shake_hands()
    client.wire.sendall(data)
    assert client.read() == b""
    other = Client(path)
    with other.wire:
        assert other.envelope({"id": 1, "method": "echo", "body": 2})["body"] == 2


@pytest.mark.parametrize("payload", [b"{", b"{}x", b'{"id": -1}', b'{"id": 9007199254740993}',
                                     b'{"id": 1, "method": 2}', b'{"id": 1, "method": "echo", "body": NaN}',
                                     b'{"a": "\xff"}', b'{"a\\u0000": 1}',
                                     b'{"a": "\\ud800"}', b'{"a": ' + b"[" * 100 + b"]" * 100 + b"}"])
def test_hostile_envelopes(client: Client, payload: bytes) -> None:
    """What begins with { and is no envelope is answered with id 0, then the connection ends."""
    answer = client.envelope(payload)
    assert answer["id"] == 0 and answer["ok"] is False and answer["error"]
    assert client.read() == b""


def test_metadata_that_breaks_the_rules(client: Client) -> None:
    """The call is refused, and the connection goes on."""
    client.shake_hands()
    for metadata in (b"\0", b"\0\1\0\0\0\0K", b"\0\1\0\0\0\2kv", b"\0\1\0\0\0\1k\n"):
        client.wire.sendall(frame(REQUEST, b"1", flags=JSON, method=client.methods.index("echo"), call_id=4096,
                                  metadata=metadata))
        code, call_id, reply = client.reply()
        assert (code, call_id) == (3, 4096) and "metadata" in reply["error"]
    client.call("echo", b"2")
    assert client.reply() == (0, 4096, 2)
