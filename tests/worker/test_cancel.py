"""Cancels and deadlines that stop a running handler, wherever it is, and never land outside of it."""

from __future__ import annotations

import os
import random
import signal
import struct
import threading
import time
from pathlib import Path

import pytest

from support import CANCEL, Host, Worker, frame, wait_until

SCRIPT = '''
import collections, ctypes, itertools, os, queue, select, signal, socket, subprocess, sys, threading, time
from pyproc_worker import Cancelled, expose, serve

SECONDS = 60


def say(text="waiting"):
    print(text, flush=True)


def blocked_in_sleep():
    time.sleep(SECONDS)


def blocked_in_queue():
    queue.Queue().get()


def blocked_in_simple_queue():
    queue.SimpleQueue().get(timeout=SECONDS)


def blocked_in_lock():
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def blocked_in_condition():
    condition = threading.Condition()
    with condition:
        condition.wait()


def blocked_in_join():
    thread = threading.Thread(target=time.sleep, args=(SECONDS,), daemon=True)
    thread.start()
    thread.join()


def blocked_in_subprocess():
    subprocess.run(["sleep", str(SECONDS)])


def blocked_in_recv():
    one, other = socket.socketpair()
    one.recv(1)


def blocked_in_select():
    select.select([], [], [], SECONDS)


def blocked_in_read():
    read_fd, _ = os.pipe()
    os.read(read_fd, 1)


def blocked_in_loop():
    while True:
        pass


def blocked_in_calls():
    def call(depth):
        return depth and call(depth - 1)
    while True:
        call(50)


def blocked_in_c():
    ctypes.PyDLL(None).sleep(SECONDS)


@expose
def block(request):
    say()
    globals()["blocked_in_" + request]()


@expose
def nested(request):
    seen = []
    try:
        try:
            try:
                say()
                time.sleep(SECONDS)
            except Exception:
                seen.append("wrong")
            finally:
                seen.append("inner")
        except BaseException as error:
            seen.append(type(error).__name__)
            raise
        finally:
            seen.append("outer")
    finally:
        say("ran " + " ".join(seen))


@expose
def swallow(request):
    """Goes on so often."""
    say()
    for number in range(request):
        try:
            time.sleep(SECONDS)
        except Cancelled as error:
            say(f"swallowed {number}: {error}")
    return "went on"


@expose
def raises(request):
    say()
    try:
        time.sleep(SECONDS)
    finally:
        raise ValueError("during clean-up")


@expose
def wait_event(request, cancel_event):
    say()
    cancel_event.wait(SECONDS)
    say("asked")
    if request == "stays":
        time.sleep(SECONDS)
    return "late"


@expose
def asks_context(request, context):
    event = context.cancel_event
    say()
    event.wait(SECONDS)
    say("asked")


@expose
def polls(request, context):
    say()
    while not context.cancelled:
        time.sleep(0.001)
    say("asked")


@expose
def stuck(request):
    """Neither looks at signals nor lets another thread run."""
    say()
    collections.deque(itertools.repeat(0), maxlen=0)


@expose
def stuck_with_child(request):
    say(str(subprocess.Popen(["sleep", str(SECONDS)]).pid))
    stuck(request)


@expose
def gate(request):
    """Runs until its byte comes, which is when it is cancelled."""
    fd = os.open(request["path"], os.O_RDONLY)
    try:
        if request["spin"]:
            os.set_blocking(fd, False)
            while True:
                try:
                    if os.read(fd, 1):
                        break
                except BlockingIOError:
                    pass
        else:
            os.read(fd, 1)
    finally:
        os.close(fd)
    return request["number"]


@expose
def echo(request):
    return request


@expose
def handlers(request):
    return [signal.getsignal(number) in (signal.SIG_DFL, signal.SIG_IGN) for number in request]


if __name__ == "__main__":
    serve()
'''


def begin(worker: Worker, name: str, body: object = None, *, timeout_ms: int = 0) -> int:
    """Starts a call, and waits until its handler runs."""
    before = worker.output().count("waiting")
    id = worker.start_call(name, body, timeout_ms=timeout_ms)
    wait_until(lambda: worker.output().count("waiting") > before, "the handler")
    return id


BLOCKED = ["sleep", "queue", "simple_queue", "lock", "condition", "join", "subprocess", "recv", "select", "read",
           "loop", "calls", "c"]


@pytest.mark.parametrize("where", BLOCKED)
def test_cancel_ends(host: Host, where: str) -> None:
    worker = host.start(SCRIPT)
    for code, says in ((1, "Cancelled: enough"), (4, "the deadline passed")):
        id = begin(worker, "block", where)
        worker.wire.send(frame(CANCEL, b"enough" if code == 1 else b"", code=code, id=id))
        reply = worker.reply(id)
        assert (reply.code, reply.json["error"]) == (code, says)
        assert reply.json["type"] == "pyproc_worker.Cancelled" and reply.json["interrupted"] is True
        assert "blocked_in_" + where in reply.json["traceback"]
        assert worker.call("echo", 1).json == 1


@pytest.mark.parametrize("where", ["sleep", "loop"])
def test_own_deadline_ends(host: Host, where: str) -> None:
    worker = host.start(SCRIPT)
    id = begin(worker, "block", where, timeout_ms=30)
    reply = worker.reply(id)
    assert (reply.code, reply.json["error"]) == (4, "the deadline passed")
    assert worker.call("echo", 1, timeout_ms=60_000).json == 1


def test_deadline_of_a_call_that_starts_while_the_worker_sleeps(host: Host) -> None:
    worker = host.start(SCRIPT)
    assert worker.call("echo", 1).json == 1
    time.sleep(0.4)  # longer than it looks whether something runs
    assert worker.reply(begin(worker, "block", "sleep", timeout_ms=30)).code == 4


def test_nested_clean_up_runs(host: Host) -> None:
    worker = host.start(SCRIPT)
    id = begin(worker, "nested")
    worker.wire.send(frame(CANCEL, code=1, id=id))
    assert worker.reply(id).code == 1
    assert "ran inner Cancelled outer" in worker.output()


def test_exception_during_clean_up(host: Host) -> None:
    worker = host.start(SCRIPT)
    id = begin(worker, "raises")
    worker.wire.send(frame(CANCEL, code=1, id=id))
    reply = worker.reply(id)
    assert (reply.code, reply.json["type"], reply.json["error"]) == (1, "ValueError", "during clean-up")
    assert "interrupted" not in reply.json  # that is not what ended it
    assert "pyproc_worker.Cancelled" in reply.json["traceback"]


def test_handler_that_swallows_is_interrupted_again(host: Host) -> None:
    worker = host.start(SCRIPT, welcome={"cancel_grace_ms": 400})
    id = begin(worker, "swallow", 2)
    worker.wire.send(frame(CANCEL, b"enough", code=1, id=id))
    reply = worker.reply(id)
    assert (reply.code, reply.json["error"]) == (1, "Cancelled: enough")
    assert worker.output().count("swallowed") == 2
    assert worker.call("echo", 1).json == 1


def test_handler_that_always_swallows_is_killed(host: Host) -> None:
    worker = host.start(SCRIPT, welcome={"cancel_grace_ms": 200})
    id = begin(worker, "swallow", 100)
    worker.wire.send(frame(CANCEL, code=1, id=id))
    assert worker.wire.is_closed()
    assert worker.process.wait(30) == -signal.SIGKILL
    output = worker.output()
    assert 1 <= output.count("swallowed") <= 4
    assert "swallow still runs" in output and "in swallow" in output


@pytest.mark.parametrize("name", ["wait_event", "asks_context", "polls"])
def test_event_comes_before_the_interrupt(host: Host, name: str) -> None:
    worker = host.start(SCRIPT, welcome={"cancel_grace_ms": 60_000})
    id = begin(worker, name)
    worker.wire.send(frame(CANCEL, b"enough", code=1, id=id))
    reply = worker.reply(id)
    assert (reply.code, reply.json) == (1, {"error": "Cancelled: enough"})
    assert "asked" in worker.output()


def test_event_that_is_ignored(host: Host) -> None:
    worker = host.start(SCRIPT, welcome={"cancel_grace_ms": 300})
    id = begin(worker, "wait_event", "stays")
    worker.wire.send(frame(CANCEL, code=1, id=id))
    reply = worker.reply(id)
    assert (reply.code, reply.json["type"]) == (1, "pyproc_worker.Cancelled")
    assert worker.call("echo", 1).json == 1


def test_stuck_handler_is_killed_with_its_stacks(host: Host) -> None:
    worker = host.start(SCRIPT, welcome={"cancel_grace_ms": 100})
    id = begin(worker, "stuck")
    worker.wire.send(frame(CANCEL, code=1, id=id))
    assert worker.wire.is_closed()
    assert worker.process.wait(30) == -signal.SIGKILL
    output = worker.output()
    assert "pyproc_worker: stuck still runs" in output and "the worker is killed" in output
    assert "in stuck" in output and "most recent call first" in output


def test_stuck_handler_is_named_in_the_page(host: Host) -> None:
    worker = host.start(SCRIPT, welcome={"cancel_grace_ms": 100}, page=True)
    assert worker.page is not None
    id = begin(worker, "stuck")
    assert struct.unpack_from("=Q", worker.page, 24)[0] == 0
    worker.wire.send(frame(CANCEL, code=1, id=id))
    assert worker.process.wait(30) == -signal.SIGKILL
    assert struct.unpack_from("=Q", worker.page, 24)[0] == id


def test_stuck_handler_takes_its_children(host: Host) -> None:
    worker = host.start(SCRIPT, welcome={"cancel_grace_ms": 100})
    id = begin(worker, "stuck_with_child")
    child = int(worker.output().split()[0])
    worker.wire.send(frame(CANCEL, code=4, id=id))
    assert worker.process.wait(30) == -signal.SIGKILL

    def is_gone() -> bool:
        try:
            return Path(f"/proc/{child}/stat").read_text().split()[2] == "Z"
        except (FileNotFoundError, ProcessLookupError):
            return True

    wait_until(is_gone, "the end of the handler's child")


def test_without_a_grace_nothing_is_killed(host: Host) -> None:
    worker = host.start(SCRIPT)
    id = begin(worker, "swallow", 4)
    worker.wire.send(frame(CANCEL, code=1, id=id))
    assert worker.reply(id).code == 1


def test_hang_up_interrupts(host: Host) -> None:
    worker = host.start(SCRIPT)
    begin(worker, "nested")
    assert worker.stop() == 0
    assert "ran inner Cancelled outer" in worker.output()


def test_dead_host_interrupts(host: Host) -> None:
    life, host_fd = os.pipe()
    worker = host.start(SCRIPT, host_fd=life)
    os.close(life)
    begin(worker, "nested")
    os.close(host_fd)
    assert worker.process.wait(30) == 0
    assert "ran inner Cancelled outer" in worker.output()


def test_signals_of_the_script_are_left_alone(host: Host) -> None:
    worker = host.start(SCRIPT.replace("serve()", '''
    signal.signal(signal.SIGURG, lambda *_: say("ours"))
    serve()'''))
    id = begin(worker, "block", "sleep")
    worker.process.send_signal(signal.SIGURG)
    wait_until(lambda: "ours" in worker.output(), "the script's handler")
    worker.wire.send(frame(CANCEL, code=1, id=id))
    assert worker.reply(id).code == 1


def test_stray_signals_do_nothing(host: Host) -> None:
    worker = host.start(SCRIPT)
    id = begin(worker, "swallow", 1)
    for _ in range(20):
        worker.process.send_signal(signal.SIGURG)
        time.sleep(0.001)
    assert "swallowed" not in worker.output()
    worker.wire.send(frame(CANCEL, code=1, id=id))
    assert worker.reply(id).code == 1


# --- Cancels raced against returns ---

RACERS = 8


class Racer:
    """One worker, whose handlers are let go and cancelled at the same moment."""

    def __init__(self, worker: Worker, path: Path, rounds: int, seed: int) -> None:
        self.worker = worker
        self.path = path
        self.rounds = rounds
        self.random = random.Random(seed)
        self.outcomes = {0: 0, 1: 0}
        self.failure: BaseException | None = None

    def run(self) -> None:
        """Notes what went wrong for the main thread."""
        try:
            os.mkfifo(self.path)
            fd = os.open(self.path, os.O_RDWR)
            try:
                for number in range(self.rounds):
                    self.race(fd, number)
            finally:
                os.close(fd)
        except BaseException as error:
            self.failure = error

    def race(self, fd: int, number: int) -> None:
        """Whichever comes first, the call has its own answer, and so has the next one."""
        spin = number % 4 == 0
        id = self.worker.start_call("gate", {"path": str(self.path), "number": number, "spin": spin})
        time.sleep(0.007 + self.random.random() * 0.002)  # the worker looks for cancels after 5 ms
        cancel = frame(CANCEL, b"raced", code=1, id=id)
        if self.random.random() < 0.5:
            os.write(fd, b"x")
            self.worker.wire.send(cancel)
        else:
            self.worker.wire.send(cancel)
            os.write(fd, b"x")
        reply = self.worker.reply(id)
        self.outcomes[reply.code] += 1
        says = ("Cancelled: raced", "Cancelled: before it started")
        assert reply.json == number if reply.code == 0 else reply.json["error"] in says, reply
        reply = self.worker.call("echo", number)
        assert (reply.code, reply.json) == (0, number)
        os.set_blocking(fd, False)
        try:
            os.read(fd, 16)  # the byte of a cancelled handler may be left
        except BlockingIOError:
            pass
        os.set_blocking(fd, True)


def test_cancels_raced_against_returns(host: Host, tmp_path: Path) -> None:
    total = 10_000 * int(os.environ.get("PYPROC_TEST_SCALE", "100")) // 100
    racers = [Racer(host.start(SCRIPT), tmp_path / f"gate{number}", total // RACERS, number)
              for number in range(RACERS)]
    threads = [threading.Thread(target=racer.run) for racer in racers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for racer in racers:
        assert racer.failure is None, (racer.failure, racer.worker.output())
        assert racer.worker.stop() == 0
        assert racer.worker.output() == ""
    assert sum(racer.outcomes[0] for racer in racers) > 0
    assert sum(racer.outcomes[1] for racer in racers) > 0
    print({code: sum(racer.outcomes[code] for racer in racers) for code in (0, 1)})
