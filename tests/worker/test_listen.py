"""Workers that listen on a path, and the clients of the Go library pyproc."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import HELLO, JSON, PATIENCE_S, REQUEST, WELCOME, Wire, environment, envelope, frame, wait_until

SCRIPT = '''
import sys, time
import pyproc_worker
from pyproc_worker import expose, run_worker
from pyproc_worker.cancellation import CancellableOperation, CancellationError


@expose
def predict(request):
    return {"result": request["value"] * 2}


@expose
def slow(request, cancel_event=None):
    print("waiting", flush=True)
    try:
        with CancellableOperation(cancel_event, check_interval=1) as operation:
            for _ in range(3000):
                operation.check()
                time.sleep(0.01)
    except CancellationError:
        print("cleaned up", flush=True)
        raise


@expose
def fails(request):
    raise ValueError("no such luck")


@expose
def tells(request, context):
    context.add_metadata("x-more", "1")
    if request == "no":
        raise pyproc_worker.Error(5, "no such", [("x-why", "2")])
    return [list(pair) for pair in context.metadata]


@pyproc_worker.on_stop
def stopped():
    print("stopped", flush=True)


if __name__ == "__main__":
    run_worker(sys.argv[1] if len(sys.argv) > 1 else None)
'''


class Listener:
    """A worker that listens."""

    def __init__(self, folder: Path, *, by_variable: bool = True, script: str = SCRIPT) -> None:
        self.folder = folder
        self.path = folder / "worker.sock"
        (folder / "script.py").write_text(script)
        variables = environment()
        command = [sys.executable, str(folder / "script.py")]
        if by_variable:
            variables["PYPROC_SOCKET_PATH"] = str(self.path)
        else:
            command.append(str(self.path))
        self.log = open(folder / "log", "wb")
        self.process = subprocess.Popen(command, env=variables, stdout=self.log, stderr=subprocess.STDOUT,
                                        stdin=subprocess.DEVNULL)
        self.wires: list[Wire] = []

    def output(self) -> str:
        return (self.folder / "log").read_text()

    def connect(self) -> Wire:
        """A new connection, once the worker listens."""
        def try_it() -> socket.socket | None:
            assert self.process.poll() is None, self.output()
            sock = socket.socket(socket.AF_UNIX)
            try:
                sock.connect(str(self.path))
            except OSError:
                sock.close()
                return None
            return sock
        wire = Wire(wait_until(try_it, "a worker that listens"))
        self.wires.append(wire)
        return wire

    def close(self) -> None:
        for wire in self.wires:
            wire.close()
        self.process.kill()
        self.process.wait(PATIENCE_S)
        self.log.close()


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    """A worker that listens on PYPROC_SOCKET_PATH."""
    listener = Listener(tmp_path)
    yield listener
    listener.close()


def call(wire: Wire, request: Any) -> Any:
    wire.send(envelope(request))
    return wire.read().json


def test_original_client(listener: Listener) -> None:
    wire = listener.connect()
    reply = call(wire, {"id": 1, "method": "predict", "body": {"value": 21}})
    assert reply == {"id": 1, "ok": True, "body": {"result": 42}}
    assert call(wire, {"id": 2, "method": "health", "body": {}}) == {
        "id": 2, "ok": True, "body": {"status": "healthy", "pid": listener.process.pid}}
    wrapped = {"type": "request", "payload": {"id": 3, "method": "predict", "body": {"value": 1}}}
    assert call(wire, wrapped) == {"id": 3, "ok": True, "body": {"result": 2}}


def test_original_client_gets_short_errors(listener: Listener) -> None:
    wire = listener.connect()
    assert call(wire, {"id": 1, "method": "fails"}) == {"id": 1, "ok": False, "error": "no such luck"}
    reply = call(wire, {"id": 2, "method": "nope"})
    assert set(reply) == {"id", "ok", "error"} and "'nope'" in reply["error"]
    assert set(call(wire, {"id": 3})) == {"id", "ok", "error"}


def test_original_client_gets_no_metadata(listener: Listener) -> None:
    wire = listener.connect()
    assert call(wire, {"id": 1, "method": "tells", "body": 1}) == {"id": 1, "ok": True, "body": []}
    assert call(wire, {"id": 2, "method": "tells", "body": "no"}) == {"id": 2, "ok": False, "error": "no such"}


def test_socket_mode(listener: Listener) -> None:
    listener.connect()
    facts = os.lstat(listener.path)
    assert stat.S_ISSOCK(facts.st_mode) and stat.S_IMODE(facts.st_mode) == 0o660


def test_path_as_argument(tmp_path: Path) -> None:
    listener = Listener(tmp_path, by_variable=False)
    try:
        assert call(listener.connect(), {"id": 1, "method": "predict", "body": {"value": 1}})["body"] == {"result": 2}
    finally:
        listener.close()


def test_several_connections_of_both_kinds(listener: Listener) -> None:
    wires = [listener.connect() for _ in range(5)]
    ours = listener.connect()
    ours.send(frame(HELLO, b'{"version":1}', flags=JSON))
    hello = ours.read()
    assert hello.kind == HELLO
    ours.send(frame(WELCOME, b'{"version":1,"frame_limit":2048}', flags=JSON))
    index = [method["name"] for method in hello.json["methods"]].index("predict")
    for number, wire in enumerate(wires):
        wire.send(envelope({"id": number, "method": "predict", "body": {"value": number}}))
    ours.send(frame(REQUEST, b'{"value":50}', flags=JSON, method=index, id=4097))
    for number, wire in enumerate(wires):
        assert wire.read().json == {"id": number, "ok": True, "body": {"result": number * 2}}
    reply = ours.read()
    assert (reply.id, reply.json) == (4097, {"result": 100})
    ours.send(envelope({"id": 1, "method": "fails"}))
    assert ours.read().json["type"] == "ValueError"


def test_connections_come_and_go(listener: Listener) -> None:
    for number in range(20):
        wire = listener.connect()
        assert call(wire, {"id": number, "method": "health"})["ok"]
        wire.close()
    assert len(os.listdir(f"/proc/{listener.process.pid}/fd")) < 16


def test_cancellation_message(listener: Listener) -> None:
    wire = listener.connect()
    wire.send(envelope({"type": "request", "payload": {"id": 5, "method": "slow", "body": {}}}))
    wait_until(lambda: "waiting" in listener.output(), "the handler")
    wire.send(envelope({"type": "cancellation", "payload": {"id": 5, "reason": "context deadline exceeded"}}))
    reply = wire.read().json
    assert set(reply) == {"id", "ok", "error"} and reply["id"] == 5 and "Cancelled" in reply["error"]
    assert "cleaned up" in listener.output()


def test_hang_up_cancels_and_the_next_client_is_served(listener: Listener) -> None:
    wire = listener.connect()
    other = listener.connect()
    wire.send(envelope({"id": 5, "method": "slow"}))
    wait_until(lambda: "waiting" in listener.output(), "the handler")
    wire.close()
    assert call(other, {"id": 1, "method": "health"})["ok"]
    assert "cleaned up" in listener.output()


@pytest.mark.parametrize("data", [b"\xff" * 64, b"\x00\x00\x00\x00", frame(REQUEST, b"{}", flags=JSON),
                                  frame(WELCOME, b"{}", flags=JSON), envelope(b"{nonsense")], ids=range(5))
def test_hostile_client_is_disconnected_alone(listener: Listener, data: bytes) -> None:
    good = listener.connect()
    assert call(good, {"id": 1, "method": "health"})["ok"]
    bad = listener.connect()
    bad.send(data)
    if data[4:5] == b"{":
        assert bad.read().json["ok"] is False
    assert bad.is_closed()
    assert call(good, {"id": 2, "method": "health"})["ok"]


def test_client_with_another_version(listener: Listener) -> None:
    wire = listener.connect()
    wire.send(frame(HELLO, b'{"version":1}', flags=JSON))
    assert wire.read().kind == HELLO
    wire.send(frame(WELCOME, b'{"version":9}', flags=JSON))
    assert wire.is_closed()
    assert call(listener.connect(), {"id": 2, "method": "health"})["ok"]


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
def test_signal_stops_in_order(listener: Listener, number: str) -> None:
    import signal
    wire = listener.connect()
    assert call(wire, {"id": 1, "method": "health"})["ok"]
    listener.process.send_signal(getattr(signal, number))
    assert listener.process.wait(PATIENCE_S) == 0
    assert wire.is_closed() and not listener.path.exists()
    assert listener.output() == "stopped\n"


def test_stale_socket_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "worker.sock"))
    listener = Listener(tmp_path)
    try:
        assert call(listener.connect(), {"id": 1, "method": "health"})["ok"]
    finally:
        listener.close()


def test_socket_in_use_is_not_replaced(listener: Listener, tmp_path: Path) -> None:
    wire = listener.connect()
    second = subprocess.run([sys.executable, str(tmp_path / "script.py"), str(listener.path)], env=environment(),
                            text=True, capture_output=True, timeout=PATIENCE_S)
    assert second.returncode == 1 and "another worker listens there" in second.stderr
    assert call(wire, {"id": 1, "method": "health"})["ok"]


def test_file_that_is_no_socket_is_kept(tmp_path: Path) -> None:
    (tmp_path / "worker.sock").write_text("precious")
    listener = Listener(tmp_path)
    try:
        assert listener.process.wait(PATIENCE_S) == 1
        assert "no socket" in listener.output() and (tmp_path / "worker.sock").read_text() == "precious"
    finally:
        listener.close()


@pytest.mark.parametrize("script, says", [
    ("from pyproc_worker import run_worker\nrun_worker()", "PYPROC_SOCKET_PATH"),
    ("from pyproc_worker import serve\nserve()", "PYPROC_SOCKET_PATH"),
    ("from pyproc_worker import run_worker\nrun_worker('/tmp/x', 'msgpack')", "msgpack"),
    ("from pyproc_worker import run_worker\nrun_worker('/nonexistent/x')", "cannot listen there"),
    ("from pyproc_worker import serve\nserve(threads=0)", "threads"),
    ("from pyproc_worker import Handler, serve\nserve(Handler)", "write serve(Handler())"),
    ("from pyproc_worker import Handler, serve\nserve(Handler())", "no handler of a service"),
    ("from pyproc_worker import expose\n@expose\ndef later(request): yield", "generator"),
])
def test_mistakes_are_explained(tmp_path: Path, script: str, says: str) -> None:
    (tmp_path / "script.py").write_text(script)
    done = subprocess.run([sys.executable, str(tmp_path / "script.py")], env=environment(), text=True,
                          capture_output=True, timeout=PATIENCE_S)
    assert done.returncode == 1 and says in done.stderr.splitlines()[-1]
