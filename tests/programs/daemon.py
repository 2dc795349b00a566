"""Drives daemon.c, the README's example for production: requests, new code, what is broken, the end.

Each case is a line `ok …` or `not ok …`.
"""
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path
from typing import Callable, List

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from processes import children_of  # noqa: E402

WORKER = """\
from quickstart_pyproc import PredictorHandler, PredictReply, serve


class Predictor(PredictorHandler):
    def predict(self, request, context):
        return PredictReply(result=request.value * FACTOR)


if __name__ == "__main__":
    serve(Predictor())
"""


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Waits, a minute at most."""
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until, f"not within a minute: {what}"
        time.sleep(0.01)


class Daemon:
    """One that runs in a folder of its own."""

    def __init__(self, program: Path, folder: Path, generated: Path) -> None:
        self.folder = folder
        self.log = folder / "log"
        (folder / "gen").mkdir()
        for module in generated.glob("quickstart_*.py"):
            (folder / "gen" / module.name).write_bytes(module.read_bytes())
        self.write_worker(WORKER.replace("FACTOR", "2"))
        self.write_config((HERE / "daemon.yaml").read_text(encoding="utf-8"))
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen([program, "pool.yaml", "socket"], cwd=folder, stderr=log)
        self.socket = self.connect("client")
        wait_for(lambda: (folder / "socket").exists() or self.process.poll() is not None, "the socket")

    def connect(self, name: str) -> socket.socket:
        """A client."""
        client = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        client.bind(str(self.folder / name))
        client.settimeout(60)
        return client

    def write_worker(self, text: str) -> None:
        """The Python that the next workers run."""
        (self.folder / "gen/worker.py").write_text(text, encoding="utf-8")

    def write_config(self, text: str) -> None:
        """What it reads at its start and when it gets SIGHUP."""
        (self.folder / "pool.yaml").write_text(text, encoding="utf-8")

    def said(self) -> str:
        """All that it has printed."""
        return self.log.read_text(encoding="utf-8")

    def ask(self, text: str) -> str:
        """One answer."""
        self.socket.sendto(text.encode(), str(self.folder / "socket"))
        return self.socket.recv(200).decode()

    def reload(self, expected: str) -> None:
        """SIGHUP, and waits until it has said something that it had not said so often before."""
        before = self.said().count(expected)
        self.process.send_signal(signal.SIGHUP)
        wait_for(lambda: self.said().count(expected) > before, expected)


def check_answers(daemon: Daemon) -> None:
    """It answers, and has the workers that its configuration says."""
    assert daemon.ask("21") == "42"
    assert len(children_of(daemon.process.pid)) == 2


def check_reload(daemon: Daemon) -> None:
    """Every request is answered by the old code or the new one, and by the new one afterwards."""
    answers: List[str] = []
    done = threading.Event()

    def ask_on() -> None:
        client = daemon.connect("other")
        while not done.is_set():
            client.sendto(b"21", str(daemon.folder / "socket"))
            answers.append(client.recv(200).decode())
        client.close()

    thread = threading.Thread(target=ask_on)
    thread.start()
    try:
        daemon.write_worker(WORKER.replace("FACTOR", "3"))
        daemon.reload("reloaded")
        assert daemon.ask("21") == "63"
    finally:
        done.set()
        thread.join()
    assert set(answers) <= {"42", "63"}, set(answers)


def check_broken_code(daemon: Daemon) -> None:
    """The old workers serve on, and the reason is told."""
    before = children_of(daemon.process.pid)
    daemon.write_worker("def broken(:\n")
    daemon.reload("the old workers are kept: ")
    assert "SyntaxError" in daemon.said()
    assert daemon.ask("21") == "63"
    assert children_of(daemon.process.pid) == before


def check_broken_config(daemon: Daemon) -> None:
    """Line and key are told; a good one then counts."""
    config = (HERE / "daemon.yaml").read_text(encoding="utf-8")
    daemon.write_config(config.replace("workers: 2", "workers: many"))
    daemon.reload("the old configuration is kept: pool.yaml:2: workers: ")
    assert daemon.ask("21") == "63"
    daemon.write_worker(WORKER.replace("FACTOR", "4"))
    daemon.write_config(config.replace("workers: 2", "workers: 3"))
    daemon.reload("reloaded")
    assert daemon.ask("21") == "84"
    assert len(children_of(daemon.process.pid)) == 3


def check_crash(daemon: Daemon) -> None:
    """A worker that is killed is replaced."""
    os.kill(children_of(daemon.process.pid)[0], signal.SIGKILL)
    wait_for(lambda: "was killed by signal 9" in daemon.said(), "a death")
    assert daemon.ask("21") == "84"


def check_stop(daemon: Daemon) -> None:
    """SIGTERM: what it has is answered, it ends well, nothing is left."""
    workers = children_of(daemon.process.pid)
    clients = [daemon.connect(f"client{number}") for number in range(8)]
    for client in clients:
        client.sendto(b"1", str(daemon.folder / "socket"))
    assert daemon.ask("2") == "8"  # it has taken them all
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(60) == 0
    for client in clients:
        assert client.recv(200).decode() == "4"
        client.close()
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]
    assert not (daemon.folder / "socket").exists()


def main() -> int:
    """Runs all cases in turn, on one daemon."""
    program, generated = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    failed = False
    with tempfile.TemporaryDirectory(prefix="pyproc-daemon.") as folder:
        daemon = Daemon(program, Path(folder), generated)
        try:
            for case in (check_answers, check_reload, check_broken_code, check_broken_config, check_crash, check_stop):
                try:
                    case(daemon)
                    print(f"ok {case.__name__}", flush=True)
                except (AssertionError, OSError, subprocess.TimeoutExpired):
                    failed = True
                    print(f"{traceback.format_exc()}{daemon.said()}\nnot ok {case.__name__}", flush=True)
        finally:
            if daemon.process.poll() is None:
                daemon.process.kill()
                daemon.process.wait()
            daemon.socket.close()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
