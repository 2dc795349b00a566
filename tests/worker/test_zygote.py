"""The Python side of the zygote: what it answers, and what a worker that it forked is."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import PATIENCE_S, Frame, Host, Wire, Worker, environment, frame, wait_until, worker_folder

FORK, REAP, READY, UNFIT, FORKED, NOT_FORKED, ENDED, RUNS, ZYGOTE_FAILED = range(1, 10)
SCRIPT = '''
import os, sys
from pyproc_worker import expose, serve
@expose
def about(request):
    return {"pid": os.getpid(), "parent": os.getppid(), "group": os.getpgid(0), "argv": sys.argv, "cwd": os.getcwd(),
            "names": sorted(os.environ)}
print("the script runs")
serve()
'''


class Zygote:
    """One that is driven by hand."""

    def __init__(self, host: Host, modules: str, script: str = SCRIPT, environ: dict[str, str] | None = None) -> None:
        self.script = host.write_script(script)
        self.folder = self.script.parent
        ours, theirs = socket.socketpair()
        self.watch, keep = os.pipe()  # our death is seen at its end
        self.keep = keep
        self.fd, self.host_fd = theirs.fileno(), self.watch
        variables = {**environment(), **(environ or {}), "PYPROC_ZYGOTE_FD": str(self.fd),
                     "PYPROC_HOST_FD": str(self.host_fd)}
        variables["PYTHONPATH"] = f"{self.folder}{os.pathsep}{variables['PYTHONPATH']}"
        bootstrap = str(worker_folder() / "pyproc_bootstrap.py")
        self.process = subprocess.Popen([sys.executable, bootstrap, f"--zygote={modules}", str(self.script)],
                                        env=variables, pass_fds=[self.fd, self.host_fd], start_new_session=True,
                                        stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        theirs.close()
        self.wire = Wire(ours)
        self.worker_wires: list[Wire] = []

    def read(self) -> Frame:
        """The next answer."""
        return self.wire.read()

    def ask(self, *arguments: str, cwd: str = "", id: int = 1, processor: int = -1, body: bytes | None = None) -> Wire:
        """Asks for a worker; returns our end of its socket."""
        ours, theirs = socket.socketpair()
        variables = {**environment(), "PYPROC_WORKER_FD": str(self.fd), "PYPROC_HOST_FD": str(self.host_fd),
                     "PYPROC_WORKER_INDEX": "2"}
        texts = [cwd, str(self.script), *arguments, *(f"{name}={value}" for name, value in variables.items())]
        head = struct.pack(">iII", processor, 1 + len(arguments), len(variables))
        if body is None:
            body = head + b"".join(os.fsencode(text) + b"\0" for text in texts)
        with open(self.folder / "stdout", "wb") as out, open(self.folder / "stderr", "wb") as err:
            socket.send_fds(self.wire.sock, [frame(FORK, body, id=id)], [out.fileno(), err.fileno(), theirs.fileno()])
        theirs.close()
        self.worker_wires.append(Wire(ours))
        return self.worker_wires[-1]

    def fork(self, *arguments: str, cwd: str = "", id: int = 1) -> tuple[int, Worker]:
        """A worker that was forked, with its pid."""
        wire = self.ask(*arguments, cwd=cwd, id=id)
        answer = self.read()
        assert (answer.kind, answer.id) == (FORKED, id), answer
        worker = Worker(self.process, wire, self.folder, None)
        worker.greet()
        return struct.unpack(">I", answer.body)[0], worker

    def reap(self, pid: int) -> Frame:
        """How it has ended."""
        self.wire.send(frame(REAP, id=pid))
        return self.read()

    def close(self) -> str:
        """Hangs up; returns what it wrote to standard error."""
        for wire in [*self.worker_wires, self.wire]:
            wire.close()
        try:
            _, error = self.process.communicate(timeout=PATIENCE_S)
        finally:
            self.process.kill()
            for fd in (self.watch, self.keep):
                os.close(fd)
        return error.decode()


@pytest.fixture
def zygotes(host: Host) -> Iterator[list[Zygote]]:
    """Those that a test has started; all end."""
    started: list[Zygote] = []
    yield started
    for zygote in started:
        zygote.close()


def start(zygotes: list[Zygote], host: Host, modules: str, **options: object) -> Zygote:
    """One, which is closed after the test."""
    zygotes.append(Zygote(host, modules, **options))  # type: ignore[arg-type]
    return zygotes[-1]


def test_a_worker(host: Host, zygotes: list[Zygote], tmp_path: Path) -> None:
    zygote = start(zygotes, host, "decimal,json.tool")
    ready = zygote.read()
    assert ready.kind == READY and ready.code == (1 if hasattr(os, "pidfd_open") else 0)
    pid, worker = zygote.fork("--size", "7", cwd=str(tmp_path))
    about = worker.call("about").json
    assert about["pid"] == about["group"] == worker.hello["pid"] == pid and about["parent"] == zygote.process.pid
    assert about["argv"] == [str(zygote.script), "--size", "7"] and about["cwd"] == str(tmp_path)
    assert "PYPROC_WORKER_INDEX" in about["names"] and "OMP_NUM_THREADS" not in about["names"]
    assert "PYPROC_ZYGOTE_FD" not in about["names"] and "PYPROC_WORKER_FD" not in about["names"]
    assert zygote.reap(pid).kind == RUNS
    worker.wire.close()
    wait_until(lambda: (zygote.folder / "stdout").read_text() == "the script runs\n", "its output")
    ended = wait_until(lambda: (lambda answer: answer if answer.kind == ENDED else None)(zygote.reap(pid)), "its end")
    status, size, time_ms = struct.unpack(">IQQ", ended.body)
    assert (ended.id, status) == (pid, 0) and size > 1 << 20 and time_ms < 60_000


def test_the_script_as_it_stands(host: Host, zygotes: list[Zygote]) -> None:
    """The zygote has compiled it: a worker uses that only where the script is still the same."""
    zygote = start(zygotes, host, "decimal", script="x = (")
    zygote.read()
    zygote.ask()
    assert zygote.read().kind == FORKED
    failed = zygote.worker_wires[-1].read()
    assert failed.kind == ZYGOTE_FAILED and failed.json["type"] == "SyntaxError"
    for answer in (1, 2):
        zygote.script.write_text(SCRIPT.replace("os.getpid()", str(answer)))
        _, worker = zygote.fork()
        assert worker.call("about").json["pid"] == answer


def test_a_signal(host: Host, zygotes: list[Zygote]) -> None:
    zygote = start(zygotes, host, "decimal")
    zygote.read()
    pid, _ = zygote.fork()
    os.kill(pid, signal.SIGSEGV)
    ended = wait_until(lambda: (lambda answer: answer if answer.kind == ENDED else None)(zygote.reap(pid)), "its end")
    assert os.WTERMSIG(struct.unpack_from(">I", ended.body)[0]) == signal.SIGSEGV
    for unknown in (pid, 1, 2 ** 63, zygote.process.pid):
        answer = zygote.reap(unknown)
        assert (answer.kind, answer.id) == (ENDED, unknown) and answer.body[:4] == b"\xff" * 4


def test_a_script_that_fails(host: Host, zygotes: list[Zygote]) -> None:
    zygote = start(zygotes, host, "decimal", script="raise OSError(5, 'disk')\n")
    zygote.read()
    wire = zygote.ask()
    assert zygote.read().kind == FORKED
    failed = wire.read()
    assert failed.kind == ZYGOTE_FAILED and failed.json["error"] == "[Errno 5] disk"
    assert "_zygote.py" not in failed.json["traceback"]


def test_a_module_that_fails(host: Host, zygotes: list[Zygote]) -> None:
    zygote = start(zygotes, host, "decimal,no_such_module_of_ours,json")
    failed = zygote.read()
    assert failed.kind == ZYGOTE_FAILED and failed.json["type"] == "ModuleNotFoundError"
    assert failed.json["error"].startswith("cannot import 'no_such_module_of_ours': ModuleNotFoundError")
    assert zygote.process.wait(PATIENCE_S) == 1


def test_unfit(host: Host, zygotes: list[Zygote]) -> None:
    script = ("import threading, time\n"
              "threading.Thread(target=time.sleep, args=(600,), daemon=True, name='it').start()\n")
    zygote = start(zygotes, host, "script", script=script)
    unfit = zygote.read()
    assert unfit.kind == UNFIT and b"1 more thread runs in it (it)" in unfit.body
    assert zygote.process.wait(PATIENCE_S) == 0


def test_no_fork(host: Host, zygotes: list[Zygote]) -> None:
    zygote = start(zygotes, host, "decimal")
    zygote.read()
    wire = zygote.ask(cwd="/nowhere/at/all", id=77)
    answer = zygote.read()
    assert (answer.kind, answer.id, answer.code) == (NOT_FORKED, 77, 2) and b"/nowhere/at/all" in answer.body
    assert wire.is_closed()
    assert zygote.fork(id=78)[0] > 1


@pytest.mark.parametrize("data", [
    struct.pack(">I", 3) + b"abc", struct.pack(">I", (16 << 20) + 1), frame(99), frame(FORK, b"\0" * 12),
    frame(FORK, struct.pack(">iII", -1, 1, 2 ** 32 - 1) + b"a\0b\0"), frame(FORK, b"short")])
def test_nonsense(host: Host, data: bytes) -> None:
    zygote = Zygote(host, "decimal")
    assert zygote.read().kind == READY
    zygote.wire.send(data)
    assert zygote.wire.is_closed()
    assert "makes no sense" in zygote.close() or len(data) < 24 + 4 + 12


def test_the_host_dies(host: Host, zygotes: list[Zygote]) -> None:
    zygote = start(zygotes, host, "decimal")
    zygote.read()
    os.close(zygote.keep)  # its socket stays open
    zygote.keep = os.dup(zygote.watch)
    assert zygote.process.wait(PATIENCE_S) == 0


def test_numpy_is_as_without(host: Host, zygotes: list[Zygote]) -> None:
    pytest.importorskip("numpy")
    script = '''
import os, numpy
from pyproc_worker import expose, serve
@expose
def draw(request):
    return [float(numpy.random.rand()), len(os.listdir("/proc/self/task"))]
serve()
'''
    draws = [host.start(script).call("draw").json]
    zygote = start(zygotes, host, "numpy", script=script)
    assert zygote.read().kind == READY
    draws += [zygote.fork(id=id)[1].call("draw").json for id in range(3)]
    assert len({number for number, _ in draws}) == 4
    assert len({threads for _, threads in draws}) == 1
