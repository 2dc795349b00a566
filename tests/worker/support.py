"""A host in pure Python, written from schema/wire.md, that drives real workers."""

from __future__ import annotations

import json
import mmap
import os
import socket
import struct
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

import pyproc_worker

HELLO, WELCOME, REQUEST, REPLY, CANCEL, PING, PONG, STARTED, FAILED, STREAM_DATA, CREDIT, END = range(1, 13)
JSON = 1
HEADER = struct.Struct(">BBHIQII")
PAGE_SIZE = 34816
PATIENCE_S = 30


def worker_folder() -> Path:
    """The folder of pyproc_bootstrap.py: the one that is named, else beside the imported package, else the tree's."""
    named = os.environ.get("PYPROC_TEST_WORKER_DIR")
    beside = Path(pyproc_worker.__file__).resolve().parents[1]
    if named:
        return Path(named)
    return beside if (beside / "pyproc_bootstrap.py").exists() else Path(__file__).resolve().parents[2] / "worker"


def environment() -> dict[str, str]:
    """Ours, without what a host sets, and with the package under test on the path."""
    result = {name: value for name, value in os.environ.items() if not name.startswith("PYPROC_")}
    result["PYTHONPATH"] = str(Path(pyproc_worker.__file__).resolve().parents[1])
    result["TSAN_OPTIONS"] = f"{result.get('TSAN_OPTIONS', '')}:atexit_sleep_ms=0"  # its default outlasts a dead host
    return result


def frame(kind: int, body: bytes = b"", *, flags: int = 0, code: int = 0, method: int = 0, id: int = 0,
          timeout_ms: int = 0, metadata: bytes = b"") -> bytes:
    """A frame with its length."""
    payload = HEADER.pack(kind, flags, code, method, id, timeout_ms, len(metadata)) + metadata + body
    return struct.pack(">I", len(payload)) + payload


def envelope(value: Any) -> bytes:
    """A JSON envelope with its length."""
    payload = value if isinstance(value, bytes) else json.dumps(value).encode()
    return struct.pack(">I", len(payload)) + payload


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    """Waits for something that happens in another process."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError(f"waited in vain for {what}")


@dataclass
class Frame:
    """A frame that a worker sent; kind 0: an envelope."""

    kind: int
    flags: int
    code: int
    id: int
    body: bytes
    metadata: bytes = b""

    @property
    def json(self) -> Any:
        """The body as a JSON value."""
        return json.loads(self.body)


class Wire:
    """One end of a connection to a worker."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sock.settimeout(PATIENCE_S)
        self.unread = b""
        self.page_fd = -1

    def send(self, *frames: bytes) -> None:
        """Sends them with one write; the first byte of all takes the status page along, where there is one."""
        data = b"".join(frames)
        if self.page_fd >= 0:
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", self.page_fd))]
            data = data[self.sock.sendmsg([data[:1]], ancillary):]
            os.close(self.page_fd)
            self.page_fd = -1
        self.sock.sendall(data)

    def _read_exactly(self, size: int) -> bytes:
        pieces = [self.unread]
        have = len(self.unread)
        while have < size:
            piece = self.sock.recv(max(size - have, 65536))
            if not piece:
                raise EOFError(f"the worker closed the connection after {have} of {size} bytes")
            pieces.append(piece)
            have += len(piece)
        data = b"".join(pieces)
        self.unread = data[size:]
        return data[:size]

    def read(self) -> Frame:
        """The next frame; EOFError at the end."""
        size, = struct.unpack(">I", self._read_exactly(4))
        payload = self._read_exactly(size)
        if payload[:1] == b"{":
            return Frame(0, 0, 0, json.loads(payload).get("id", -1), payload)
        kind, flags, code, method, id, timeout_ms, metadata_size = HEADER.unpack(payload[:24])
        assert (method, timeout_ms) == (0, 0)
        return Frame(kind, flags, code, id, payload[24 + metadata_size:], payload[24:24 + metadata_size])

    def is_closed(self) -> bool:
        """Whether the worker closes the connection without another frame."""
        try:
            self.read()
        except (EOFError, ConnectionError):
            return True
        return False

    def close(self) -> None:
        """Hangs up."""
        self.sock.close()


class Worker:
    """A worker process on an inherited socket."""

    def __init__(self, process: subprocess.Popen[bytes], wire: Wire, folder: Path, page: mmap.mmap | None) -> None:
        self.process = process
        self.wire = wire
        self.folder = folder
        self.page = page
        self.hello: dict[str, Any] = {}
        self.next_id = 4096

    def greet(self, **welcome: Any) -> None:
        """The handshake, with the status page where there is one."""
        hello = self.wire.read()
        assert hello.kind == HELLO, hello
        self.hello = hello.json
        message = frame(WELCOME, json.dumps({"version": 1, **welcome}).encode(), flags=JSON)
        self.wire.send(message)

    def index(self, name: str) -> int:
        """A method's number."""
        return next(i for i, method in enumerate(self.hello["methods"]) if method["name"] == name)

    def request(self, name: str, body: Any = None, *, timeout_ms: int = 0) -> tuple[int, bytes]:
        """A REQUEST frame and its id; bytes are sent as they are, other values as JSON."""
        self.next_id += 4097  # another slot and another generation
        flags, data = (0, body) if isinstance(body, bytes) else (JSON, json.dumps(body).encode())
        return self.next_id, frame(REQUEST, data, flags=flags, method=self.index(name), id=self.next_id,
                                   timeout_ms=timeout_ms)

    def start_call(self, name: str, body: Any = None, *, timeout_ms: int = 0) -> int:
        """Sends a request; returns its id."""
        id, request = self.request(name, body, timeout_ms=timeout_ms)
        self.wire.send(request)
        return id

    def reply(self, id: int) -> Frame:
        """The next frame, which is the call's reply."""
        reply = self.wire.read()
        assert (reply.kind, reply.id) == (REPLY, id), reply
        return reply

    def call(self, name: str, body: Any = None, *, timeout_ms: int = 0) -> Frame:
        """A call."""
        return self.reply(self.start_call(name, body, timeout_ms=timeout_ms))

    def output(self) -> str:
        """What the worker printed."""
        return (self.folder / "stdout").read_text() + (self.folder / "stderr").read_text()

    def stop(self) -> int:
        """Hangs up, as a host does that closes its pool; returns the exit status."""
        self.wire.close()
        return self.process.wait(PATIENCE_S)


class Host:
    """Starts workers, and leaves none behind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.workers: list[Worker] = []

    def write_script(self, text: str) -> Path:
        """A worker script of its own folder."""
        folder = self.folder / f"worker{len(self.workers)}"
        folder.mkdir()
        script = folder / "script.py"
        script.write_text(text)
        return script

    def spawn(self, text: str | Path, *arguments: str, page: bool = False, host_fd: int = -1, stacks_fd: int = -1,
              bootstrap: bool = True, environ: dict[str, str] | None = None,
              python: tuple[str, ...] = (sys.executable,)) -> Worker:
        """Starts a script, given by its text or its path; no handshake yet."""
        script = self.write_script(text) if isinstance(text, str) else text
        ours, theirs = socket.socketpair()
        variables = {**environment(), **(environ or {}), "PYPROC_WORKER_FD": str(theirs.fileno()),
                     "PYPROC_WORKER_INDEX": "3"}
        passed = [theirs.fileno()]
        if host_fd >= 0:
            variables["PYPROC_HOST_FD"] = str(host_fd)
            passed.append(host_fd)
        if stacks_fd >= 0:
            variables["PYPROC_STACKS_FD"] = str(stacks_fd)
            passed.append(stacks_fd)
        starter = [str(worker_folder() / "pyproc_bootstrap.py")] if bootstrap else []
        command = [*python, *starter, str(script), *arguments]
        with open(script.parent / "stdout", "wb") as stdout, open(script.parent / "stderr", "wb") as stderr:
            process = subprocess.Popen(command, env=variables, pass_fds=passed, stdout=stdout, stderr=stderr,
                                       stdin=subprocess.DEVNULL, start_new_session=True)
        theirs.close()
        worker = Worker(process, Wire(ours), script.parent, None)
        self.workers.append(worker)
        if page:
            self._give_page(worker)
        return worker

    def _give_page(self, worker: Worker) -> None:
        fd = os.memfd_create("page")
        os.truncate(fd, PAGE_SIZE)
        os.pwrite(fd, struct.pack("=IIII", 0x50595350, 1, 64, 4096), 0)
        worker.page = mmap.mmap(fd, PAGE_SIZE)
        worker.wire.page_fd = fd

    def start(self, text: str | Path, *arguments: str, welcome: dict[str, Any] | None = None, **options: Any) -> Worker:
        """Starts a script that serves, and greets it."""
        worker = self.spawn(text, *arguments, **options)
        worker.greet(**(welcome or {}))
        return worker

    def close(self) -> None:
        """Ends all workers, also those that hang."""
        for worker in self.workers:
            worker.wire.close()
        for worker in self.workers:
            try:
                worker.process.wait(5)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
            if worker.page is not None:
                worker.page.close()
