"""Workers that listen on a path, and the clients of the Go library pyproc."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import (FAILED, HELLO, JSON, PATIENCE_S, PING, PONG, REQUEST, WELCOME, Wire, environment, envelope,
                     frame, wait_until)

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

    def __init__(self, folder: Path, *, by_variable: bool = True, script: str = SCRIPT,
                 more: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.path = folder / "worker.sock"
        (folder / "script.py").write_text(script)
        variables = {**environment(), **(more or {})}
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


def test_other_connections_are_heard_while_a_handler_runs(listener: Listener) -> None:
    """A ping is answered, and what came behind it is not forgotten; an end is seen."""
    busy, other, gone = listener.connect(), listener.connect(), listener.connect()
    other.send(frame(HELLO, b'{"version":1}', flags=JSON))
    assert other.read().kind == HELLO
    other.send(frame(WELCOME, b'{"version":1}', flags=JSON))
    assert call(gone, {"id": 1, "method": "health"})["ok"]
    busy.send(envelope({"id": 5, "method": "slow"}))
    wait_until(lambda: "waiting" in listener.output(), "the handler")
    other.send(frame(PING, b"are you there", id=77), envelope({"id": 9, "method": "health"}))
    gone.close()
    pong = other.read()
    assert (pong.kind, pong.id, pong.body) == (PONG, 77, b"are you there")
    assert "cleaned up" not in listener.output()
    busy.send(envelope({"type": "cancellation", "payload": {"id": 5}}))
    assert other.read().json["ok"]
    assert busy.read().json["id"] == 5
    assert call(listener.connect(), {"id": 1, "method": "health"})["ok"]


# ---- who may connect, and how many ----

def try_hello(path: Path) -> Any:
    """What a client hears: the frame after its hello, None where the worker just hangs up."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        wire = Wire(sock)
        try:
            wire.send(frame(HELLO, b'{"version":1}', flags=JSON))
        except BrokenPipeError:
            pass
        try:
            return wire.read()
        except (EOFError, ConnectionError):
            return None


def hello_as(path: Path, uid: int) -> tuple[int, bytes]:
    """The same for another user: kind and body of the answer."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            answer = try_hello(path)
            os.write(writer, bytes([answer.kind]) + answer.body if answer is not None else b"\0")
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as file:
        data = file.read()
    os.waitpid(pid, 0)
    return data[0], data[1:]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")
@pytest.mark.parametrize("allowed, kind", [("", FAILED), ("12345", FAILED), ("65534", HELLO), ("any", HELLO)])
def test_peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: str, kind: int) -> None:
    folder = Path(tempfile.mkdtemp(prefix="pyproc-", dir="/tmp"))  # pytest's own is closed to others
    folder.chmod(0o755)
    listener = Listener(folder, more={"PYPROC_PEER_UID": allowed} if allowed else {})
    try:
        assert call(listener.connect(), {"id": 1, "method": "health"})["ok"]  # root
        listener.path.chmod(0o777)
        found, body = hello_as(listener.path, 65534)
        assert found == kind
        if kind == FAILED:
            assert b"user 65534 may not connect" in body and "user 65534 may not connect" in listener.output()
    finally:
        listener.close()
        shutil.rmtree(folder)


def test_busy_is_said(listener: Listener) -> None:
    wires = [listener.connect() for _ in range(128)]
    assert call(wires[-1], {"id": 1, "method": "health"})["ok"]
    refused = try_hello(listener.path)
    assert refused.kind == FAILED and "busy: it has 128 connections" in refused.json["error"]
    wires[0].close()
    assert call(wires[1], {"id": 1, "method": "health"})["ok"]  # it has seen the end of the first by then, or soon
    wait_until(lambda: (answer := try_hello(listener.path)) is not None and answer.kind == HELLO, "a place")


# ---- sockets that a service manager passes ----

class Activated(Listener):
    """A worker that is started as systemd starts one: the socket is descriptor 3."""

    def __init__(self, folder: Path, sock: socket.socket, *, pid: str = "$$", count: str = "1",
                 code: str = SCRIPT) -> None:
        self.folder = folder
        self.path = folder / "worker.sock"
        (folder / "script.py").write_text(code)
        command = f'LISTEN_PID={pid} LISTEN_FDS={count} LISTEN_FDNAMES=x exec "$@" 3<&{sock.fileno()}'
        self.log = open(folder / "log", "wb")
        self.process = subprocess.Popen(["bash", "-c", command, "bash", sys.executable, str(folder / "script.py")],
                                        env=environment(), pass_fds=[sock.fileno()], stdout=self.log,
                                        stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        self.wires: list[Wire] = []


def test_socket_activation(tmp_path: Path) -> None:
    code = SCRIPT.replace("import sys, time\n", "import os, sys, time\n").replace('''@expose
def predict(request):
''', '''@expose
def variables(request):
    return [name for name in os.environ if name.startswith("LISTEN_")]


@expose
def predict(request):
''')
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "worker.sock"))
        sock.listen(8)
        early = socket.socket(socket.AF_UNIX)
        early.connect(str(tmp_path / "worker.sock"))  # what systemd starts the service for
        for number in range(2):
            listener = Activated(tmp_path, sock, code=code)
            try:
                wire = Wire(early) if number == 0 else listener.connect()
                assert call(wire, {"id": 1, "method": "predict", "body": {"value": 4}})["body"] == {"result": 8}
                assert call(wire, {"id": 2, "method": "variables"})["body"] == []
                listener.process.terminate()
                assert listener.process.wait(PATIENCE_S) == 0
                assert listener.path.exists()  # it is the manager's
            finally:
                listener.close()
                early.close()


def test_activation_for_another_process_is_none(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "worker.sock"))
        sock.listen(8)
        listener = Activated(tmp_path, sock, pid="1")
        assert listener.process.wait(PATIENCE_S) == 1 and "there is nothing to serve on" in listener.output()
        listener.close()


@pytest.mark.parametrize("kind, count, says", [
    ("stream", "2", "one ListenStream="), ("stream", "", "one ListenStream="), ("deaf", "1", "leave Accept= no"),
    ("datagram", "1", "no Unix stream")])
def test_activation_that_cannot_be_used(tmp_path: Path, kind: str, count: str, says: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM if kind == "datagram" else socket.SOCK_STREAM) as sock:
        sock.bind(str(tmp_path / "worker.sock"))
        if kind == "stream":
            sock.listen(8)
        listener = Activated(tmp_path, sock, count=count)
        assert listener.process.wait(PATIENCE_S) == 1 and says in listener.output()
        listener.close()


@pytest.mark.parametrize("value", ["root", "-1", "4294967295"])
def test_bad_peer(tmp_path: Path, value: str) -> None:
    listener = Listener(tmp_path, more={"PYPROC_PEER_UID": value})
    assert listener.process.wait(PATIENCE_S) == 1 and "PYPROC_PEER_UID is" in listener.output()
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
