"""What a worker sees while a handler runs: cancels, pings, hang-ups, the host's death, signals; and forked children."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support import CANCEL, PING, PONG, Host, Worker, envelope, frame, wait_until

SCRIPT = '''
import atexit, collections, itertools, os, signal, subprocess, sys, threading, time
from pyproc_worker import expose, on_start, on_stop, serve
from pyproc_worker.cancellation import CancellableOperation

print("script", __name__)


@on_start
def started():
    print("started")


@on_stop
def stopped_last():
    print("stopped last")


@on_stop
def stopped():
    print("stopped")


atexit.register(print, "at exit")


@expose
def echo(request):
    return request


@expose
def wait_event(request, cancel_event):
    print("waiting", flush=True)
    return cancel_event.wait(30)


@expose
def wait_context(request, context):
    print("waiting", flush=True)
    end = time.monotonic() + 30
    while not context.cancelled and time.monotonic() < end:
        time.sleep(0.01)
    print("reason", context.cancel_reason, context.cancel_event.wait(30), flush=True)
    return "late"


@expose
def operation(request, cancel_event=None):
    print("waiting", flush=True)
    with CancellableOperation(cancel_event, check_interval=1) as operation:
        for _ in range(3000):
            operation.check()
            time.sleep(0.01)


@expose
def wait_file(request):
    print("waiting", flush=True)
    end = time.monotonic() + 30
    while not os.path.exists(request) and time.monotonic() < end:
        time.sleep(0.005)
    return "done"


@expose
def hold_gil(request):
    """Never lets another Python thread run, nor looks at signals."""
    print("waiting", flush=True)
    collections.deque(itertools.repeat(0), maxlen=0)


@expose
def fork_and_return(request):
    child = os.fork()
    return {"child": child}


@expose
def fork_and_use(request):
    child = os.fork()
    if child == 0:
        names = [os.readlink(f"/proc/self/fd/{fd}") for fd in range(64) if os.path.lexists(f"/proc/self/fd/{fd}")]
        os._exit(1 if any(name.startswith("socket:") for name in names) else 0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@expose
def fork_and_terminate(request):
    import multiprocessing
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    child.start()
    time.sleep(0.1)
    child.terminate()
    child.join(30)
    return child.exitcode


@expose
def pool(request):
    import multiprocessing
    with multiprocessing.get_context(request).Pool(2) as workers:
        return workers.map(square, range(5))


def square(number):
    return number * number


@expose
def run_child(request):
    code = "import os; print([os.readlink(f'/proc/self/fd/{fd}') for fd in (0, *range(3, 20)) if os.path.exists(" \\
           "f'/proc/self/fd/{fd}')], [n for n in os.environ if n.startswith('PYPROC_')])"
    return subprocess.run([sys.executable, "-c", code], close_fds=False, capture_output=True, text=True).stdout


@expose
def child_that_stays(request):
    return subprocess.Popen(["sleep", "60"]).pid


if __name__ == "__main__":
    serve()
'''


def start_waiting(worker: Worker, name: str, body: object = None) -> int:
    """Starts a call, and waits until its handler runs."""
    id = worker.start_call(name, body)
    wait_until(lambda: "waiting" in worker.output(), "the handler")
    return id


@pytest.mark.parametrize("code, reason, says", [
    (1, b"no longer needed", "Cancelled: no longer needed"), (1, b"", "Cancelled"), (4, b"", "the deadline passed")])
def test_cancel_sets_the_event_of_a_running_handler(host: Host, code: int, reason: bytes, says: str) -> None:
    worker = host.start(SCRIPT)
    id = start_waiting(worker, "wait_event")
    worker.wire.send(frame(CANCEL, reason, code=code, id=id))
    reply = worker.reply(id)
    assert reply.code == code and reply.json["error"] == says
    assert worker.call("echo", 1).json == 1


def test_cancel_is_seen_in_the_context(host: Host) -> None:
    worker = host.start(SCRIPT)
    id = start_waiting(worker, "wait_context")
    worker.wire.send(frame(CANCEL, b"enough", code=1, id=id + 1), frame(CANCEL, b"enough", code=1, id=id))
    assert worker.reply(id).code == 1
    assert "reason enough True" in worker.output()


def test_cancel_as_json(host: Host) -> None:
    worker = host.start(SCRIPT)
    worker.wire.send(envelope({"type": "request", "payload": {"id": 7, "method": "operation", "body": {}}}))
    wait_until(lambda: "waiting" in worker.output(), "the handler")
    worker.wire.send(envelope({"type": "cancellation", "payload": {"id": 7, "reason": "he \"said\" so"}}))
    reply = worker.wire.read().json
    assert (reply["id"], reply["ok"], reply["code"]) == (7, False, 1) and reply["error"].startswith("Cancelled: ")


def test_cancel_of_calls_that_wait(host: Host, tmp_path: Path) -> None:
    worker = host.start(SCRIPT)
    flag = tmp_path / "flag"
    first = start_waiting(worker, "wait_file", str(flag))
    second, third, fourth = (worker.start_call("echo", number) for number in (2, 3, 4))
    worker.wire.send(frame(CANCEL, code=1, id=second), frame(CANCEL, code=4, id=fourth),
                     envelope({"type": "cancellation", "payload": {"id": 99}}))
    worker.wire.send(frame(PING, b"seen", id=5))
    assert worker.wire.read().kind == PONG
    flag.touch()
    assert worker.reply(first).json == "done"
    assert worker.reply(second).code == 1
    assert worker.reply(third).json == 3
    assert worker.reply(fourth).code == 4


def test_cancel_in_one_write_with_its_request(host: Host) -> None:
    worker = host.start(SCRIPT)
    id, request = worker.request("echo", 1)
    worker.wire.send(request, frame(CANCEL, code=1, id=id))
    assert worker.reply(id).code == 1
    worker.wire.send(frame(CANCEL, code=1, id=id))
    assert worker.call("echo", 2).json == 2


def test_ping_is_answered_at_rest_and_under_a_handler(host: Host, tmp_path: Path) -> None:
    worker = host.start(SCRIPT)
    worker.wire.send(frame(PING, b"x" * 64, id=77))
    pong = worker.wire.read()
    assert (pong.kind, pong.id, pong.body) == (PONG, 77, b"x" * 64)
    flag = tmp_path / "flag"
    id = start_waiting(worker, "wait_file", str(flag))
    for number in range(1, 4):
        worker.wire.send(frame(PING, b"", id=number))
        pong = worker.wire.read()
        assert (pong.kind, pong.id, pong.body) == (PONG, number, b"")
    flag.touch()
    assert worker.reply(id).json == "done"


def test_pings_do_not_wake_python(host: Host) -> None:
    worker = host.start(SCRIPT, page=True)
    assert worker.page is not None
    assert worker.call("echo", 1).json == 1
    time.sleep(0.3)  # until it neither looks for more nor turns for what came before
    turns = struct.unpack_from("=Q", worker.page, 16)[0]
    for number in range(1, 20):
        worker.wire.send(frame(PING, b"x", id=number), frame(PING, b"y", id=number))
        assert [worker.wire.read().body, worker.wire.read().body] == [b"x", b"y"]
        time.sleep(0.005)
    assert struct.unpack_from("=Q", worker.page, 16)[0] <= turns + 2
    assert worker.call("echo", 2).json == 2
    id, request = worker.request("echo", 3)
    data = frame(PING, b"z", id=99) + request
    worker.wire.send(data[:40])  # a ping, and the beginning of a request
    assert worker.wire.read().body == b"z"
    worker.wire.send(data[40:])
    assert worker.reply(id).json == 3


def test_control_thread_beats_under_a_handler_alone(host: Host, tmp_path: Path) -> None:
    worker = host.start(SCRIPT, page=True)
    page = worker.page
    assert page is not None

    def beats() -> int:
        return int(struct.unpack_from("=Q", page, 32)[0])

    flag = tmp_path / "flag"
    id = start_waiting(worker, "wait_file", str(flag))
    wait_until(lambda: beats() > 0, "the first beat")
    before = beats()
    wait_until(lambda: beats() > before + 3, "more of them")
    flag.touch()
    assert worker.reply(id).json == "done"
    time.sleep(0.1)
    before = beats()
    time.sleep(0.3)
    assert beats() == before


def test_ping_is_answered_under_a_handler_that_holds_the_gil(host: Host) -> None:
    worker = host.start(SCRIPT)
    start_waiting(worker, "hold_gil")
    worker.wire.send(frame(PING, b"alive?", id=1))
    assert worker.wire.read().body == b"alive?"
    worker.process.kill()


def test_replies_do_not_wait_for_a_slow_handler_behind_them(host: Host, tmp_path: Path) -> None:
    worker = host.start(SCRIPT)
    flag = tmp_path / "flag"
    calls = [worker.request("echo", number) for number in range(3)]
    slow, request = worker.request("wait_file", str(flag))
    worker.wire.send(*(data for _, data in calls), request)
    assert [worker.reply(id).json for id, _ in calls] == [0, 1, 2]
    flag.touch()
    assert worker.reply(slow).json == "done"


def test_large_request_that_arrives_under_a_handler(host: Host, tmp_path: Path) -> None:
    worker = host.start(SCRIPT)
    flag = tmp_path / "flag"
    slow = start_waiting(worker, "wait_file", str(flag))
    large, request = worker.request("echo", "x" * 3_000_000)
    worker.wire.send(request)  # the worker takes it all, although it is more than it reads ahead otherwise
    flag.touch()
    assert worker.reply(slow).json == "done"
    assert worker.reply(large).json == "x" * 3_000_000
    assert worker.call("echo", "y" * 300_000).json == "y" * 300_000


def test_thread_record_while_a_handler_runs(host: Host, tmp_path: Path) -> None:
    worker = host.start(SCRIPT, page=True)
    assert worker.page is not None
    flag = tmp_path / "flag"
    id = start_waiting(worker, "wait_file", str(flag))
    assert struct.unpack_from("=Q", worker.page, 64)[0] == id
    assert struct.unpack_from("=Q", worker.page, 72)[0] > 0
    flag.touch()
    assert worker.reply(id).json == "done"
    wait_until(lambda: worker.page is not None and worker.page[64:72] == bytes(8), "the record's end")


def test_deadline_that_passed_in_the_queue(host: Host, tmp_path: Path) -> None:
    worker = host.start(SCRIPT)
    flag = tmp_path / "flag"
    first = start_waiting(worker, "wait_file", str(flag))
    second = worker.start_call("echo", 1, timeout_ms=1)
    third = worker.start_call("echo", 2, timeout_ms=60_000)
    worker.wire.send(frame(PING, id=1))
    assert worker.wire.read().kind == PONG
    time.sleep(0.01)  # ten times the deadline
    flag.touch()
    assert worker.reply(first).json == "done"
    assert worker.reply(second).code == 4
    assert worker.reply(third).json == 2


def test_orderly_stop_runs_hooks_and_atexit(host: Host) -> None:
    worker = host.start(SCRIPT)
    assert worker.call("echo", 1).json == 1
    assert worker.stop() == 0
    assert worker.output().splitlines() == ["script __main__", "started", "stopped", "stopped last", "at exit"]


def test_hang_up_cancels_what_runs(host: Host) -> None:
    worker = host.start(SCRIPT)
    start_waiting(worker, "wait_context")
    assert worker.stop() == 0
    assert "reason connection closed True" in worker.output()
    assert worker.output().splitlines()[-1] == "at exit"


def test_sigterm_lets_the_handler_finish(host: Host, tmp_path: Path) -> None:
    worker = host.start(SCRIPT)
    flag = tmp_path / "flag"
    id = start_waiting(worker, "wait_file", str(flag))
    waiting = worker.start_call("echo", 1)
    worker.process.terminate()
    worker.wire.send(frame(PING, id=1))
    assert worker.wire.read().kind == PONG
    flag.touch()
    assert worker.reply(id).json == "done"
    assert worker.reply(waiting).code == 14
    assert worker.wire.is_closed()
    assert worker.process.wait(30) == 0
    assert worker.output().splitlines()[-2:] == ["stopped last", "at exit"]


def test_sigterm_at_rest(host: Host) -> None:
    worker = host.start(SCRIPT)
    assert worker.call("echo", 1).json == 1
    worker.process.terminate()
    assert worker.process.wait(30) == 0
    assert worker.output().splitlines()[-1] == "at exit"


@pytest.mark.parametrize("handler", ["wait_event", "hold_gil"])
def test_host_dies_under_a_handler(host: Host, handler: str) -> None:
    life, host_fd = os.pipe()
    worker = host.start(SCRIPT, host_fd=life)
    os.close(life)
    start_waiting(worker, handler)
    os.close(host_fd)
    status = worker.process.wait(30)
    assert status == (0 if handler == "wait_event" else -signal.SIGKILL)


def test_host_dies_at_rest(host: Host) -> None:
    life, host_fd = os.pipe()
    worker = host.start(SCRIPT, host_fd=life)
    os.close(life)
    assert worker.call("echo", 1).json == 1
    os.close(host_fd)
    assert worker.process.wait(30) == 0
    assert worker.output().splitlines()[-1] == "at exit"


def test_host_that_dies_takes_the_group(host: Host) -> None:
    life, host_fd = os.pipe()
    worker = host.start(SCRIPT, host_fd=life)
    os.close(life)
    child = worker.call("child_that_stays", {}).json
    start_waiting(worker, "hold_gil")
    os.close(host_fd)
    assert worker.process.wait(30) == -signal.SIGKILL

    def is_gone() -> bool:
        try:
            return Path(f"/proc/{child}/stat").read_text().split()[2] == "Z"
        except (FileNotFoundError, ProcessLookupError):
            return True

    wait_until(is_gone, "the end of the handler's child")


def test_forked_child_loses_the_wire(host: Host) -> None:
    worker = host.start(SCRIPT)
    assert worker.call("fork_and_use", {}).json == 0
    reply = worker.call("fork_and_return", {}).json
    assert reply["child"] > 0
    assert worker.call("echo", 1).json == 1
    assert worker.stop() == 0
    assert worker.output().count("at exit") == 1


def test_forked_child_dies_of_sigterm(host: Host) -> None:
    worker = host.start(SCRIPT)
    assert worker.call("fork_and_terminate", {}).json == -signal.SIGTERM
    assert worker.call("echo", 1).json == 1


TERMINATED_AT_ONCE = '''
import os, signal

os.register_at_fork(after_in_child=lambda: os.kill(os.getpid(), signal.SIGTERM))  # before the worker's own

from pyproc_worker import expose, serve


@expose
def fork_and_wait(request):
    pid = os.fork()
    if pid == 0:
        signal.alarm(10)
        signal.pause()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ()))


@expose
def echo(request):
    return request


serve()
'''


def test_forked_child_that_is_terminated_before_it_has_lost_the_wire(host: Host) -> None:
    worker = host.start(TERMINATED_AT_ONCE)
    assert worker.call("fork_and_wait", {}).json == [-signal.SIGTERM, []]
    assert worker.call("echo", 1).json == 1  # the parent was not asked to stop


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_in_a_handler(host: Host, method: str) -> None:
    worker = host.start(SCRIPT)
    assert worker.call("pool", method).json == [0, 1, 4, 9, 16]
    assert worker.stop() == 0


def test_subprocesses_inherit_nothing(host: Host) -> None:
    life, host_fd = os.pipe()
    worker = host.start(SCRIPT, host_fd=life)
    os.close(life)
    names = worker.call("run_child", {}).json
    assert "socket:" not in names and names.endswith("['PYPROC_WORKER_INDEX']\n")
    inherited = [name for name in names[1:names.index("]")].split(", ") if "pipe:" in name]
    assert f"'pipe:[{os.fstat(host_fd).st_ino}]'" not in inherited
    os.close(host_fd)


def test_print_never_reaches_the_wire(host: Host) -> None:
    worker = host.start('''
import os, sys
from pyproc_worker import expose, serve
@expose
def shout(request):
    print("to stdout")
    print("to stderr", file=sys.stderr)
    os.write(1, b"raw\\n")
    return "quiet"
@expose
def die(request):
    print("last words")
    os._exit(3)
serve()
''')
    assert worker.call("shout", {}).json == "quiet"
    worker.start_call("die", {})
    assert worker.wire.is_closed()
    assert worker.process.wait(30) == 3
    assert worker.output().splitlines() == ["to stdout", "raw", "last words", "to stderr"]


@pytest.mark.skipif("tsan" in os.environ.get("LD_PRELOAD", ""), reason="ThreadSanitizer has a thread that ticks")
def test_idle_worker_burns_no_cpu(host: Host) -> None:
    worker = host.start(SCRIPT)
    assert worker.call("echo", 1).json == 1

    def wakeups() -> int:
        total = 0
        for task in os.listdir(f"/proc/{worker.process.pid}/task"):
            for line in Path(f"/proc/{worker.process.pid}/task/{task}/status").read_text().splitlines():
                if line.startswith("voluntary_ctxt_switches"):
                    total += int(line.split()[1])
        return total

    def sleeps() -> bool:
        before = wakeups()
        subprocess.run([sys.executable, "-c", "import time; time.sleep(0.2)"], check=True)
        return wakeups() == before

    wait_until(sleeps, "a worker that sleeps")
