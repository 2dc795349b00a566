"""Workers that run several handlers at once: async ones on an event loop, plain ones in threads."""

from __future__ import annotations

import os
import signal
import struct
import time
from pathlib import Path

import pytest

from support import CANCEL, PING, PONG, REPLY, Frame, Host, Worker, envelope, frame, wait_until

SCRIPT = '''
import asyncio, collections, itertools, os, signal, sys, threading, time
from pyproc_worker import Cancelled, Code, Error, expose, on_stop, serve


def say(text="waiting"):
    print(text, flush=True)


@on_stop
def stopped():
    say("stopped")


@expose
async def echo(request):
    return request


@expose
async def nap(request, context):
    say()
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        say("task cancelled " + context.cancel_reason)
        raise


@expose
async def wait_file(request):
    say()
    while not os.path.exists(request):
        await asyncio.sleep(0.005)
    return threading.current_thread().name


@expose
async def swallow(request):
    say()
    for number in range(request):
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            say(f"swallowed {number}")
    return "went on"


@expose
async def take_signal(request):
    signal.raise_signal(request)
    return threading.current_thread() is threading.main_thread()


@expose
async def stuck(request):
    say()
    collections.deque(itertools.repeat(0), maxlen=0)


@expose
async def fail(request):
    await asyncio.sleep(0)
    if request == "Error":
        raise Error(Code.NOT_FOUND, "gone")
    if request == "CancelledError":
        raise asyncio.CancelledError
    if request == "SystemExit":
        sys.exit(3)
    raise ValueError(request)


@expose
async def fork(request):
    child = os.fork()
    await asyncio.sleep(0)
    return child


@expose
async def wrong(request):
    return {1, 2}


@expose
async def large(request):
    return "x" * request


@expose
def plain(request):
    return [request, threading.current_thread() is threading.main_thread()]


@expose
def block(request):
    say()
    if request == "sleep":
        time.sleep(60)
    while True:
        pass


@expose
def block_file(request):
    say()
    while not os.path.exists(request):
        time.sleep(0.005)
    return threading.current_thread().name


@expose
def leave(request):
    sys.exit(3)


@expose
def fork_plain(request):
    return os.fork()


@expose
def meet(request):
    """Returns once so many are here."""
    return barrier.wait(60)


barrier = threading.Barrier(4)

if __name__ == "__main__":
    serve(threads=int(sys.argv[1]) if len(sys.argv) > 1 else 1)
'''


def begin(worker: Worker, name: str, body: object = None, *, timeout_ms: int = 0) -> int:
    """Starts a call, and waits until its handler runs."""
    before = worker.output().count("waiting")
    id = worker.start_call(name, body, timeout_ms=timeout_ms)
    wait_until(lambda: worker.output().count("waiting") > before, "the handler")
    return id


def replies(worker: Worker, count: int) -> dict[int, Frame]:
    """So many replies, by id."""
    found = {}
    for _ in range(count):
        reply = worker.wire.read()
        assert reply.kind == REPLY
        found[reply.id] = reply
    assert len(found) == count
    return found


def test_hello(host: Host) -> None:
    worker = host.start(SCRIPT, "3")
    assert (worker.hello["threads"], worker.hello["concurrency"]) == (3, 4096)
    methods = {method["name"]: method for method in worker.hello["methods"]}
    assert methods["echo"] == {"name": "echo", "kind": "unary", "async": True}
    assert methods["plain"] == {"name": "plain", "kind": "unary"}


def test_async_and_plain_answers(host: Host) -> None:
    worker = host.start(SCRIPT, page=True)
    for number in range(200):
        assert worker.call("echo", number).json == number
        assert worker.call("plain", number).json == [number, True]
    worker.wire.send(envelope({"id": 5, "method": "echo", "body": 7}))
    assert worker.wire.read().json == {"id": 5, "ok": True, "body": 7}
    assert worker.stop() == 0
    assert worker.output() == "stopped\n"


@pytest.mark.parametrize("what, code, type", [
    ("text", 2, "ValueError"), ("Error", 5, "pyproc_worker.Error"), ("CancelledError", 1, "pyproc_worker.Cancelled")])
def test_async_exceptions(host: Host, what: str, code: int, type: str) -> None:
    worker = host.start(SCRIPT)
    reply = worker.call("fail", what)
    assert (reply.code, reply.json["type"]) == (code, type)
    assert "in fail" in reply.json["traceback"]
    assert worker.call("wrong").code == 13
    assert worker.call("echo", 1).json == 1


def test_async_handlers_run_at_once_beside_a_plain_one(host: Host, tmp_path: Path) -> None:
    worker = host.start(SCRIPT)
    flag, other = tmp_path / "flag", tmp_path / "other"
    slow = begin(worker, "block_file", str(other))
    requests = [worker.request("wait_file", str(flag)) for _ in range(500)]
    worker.wire.send(*(data for _, data in requests))
    assert worker.call("echo", "not stalled").json == "not stalled"
    flag.touch()
    found = replies(worker, 500)
    assert {reply.json for reply in found.values()} == {"pyproc-async"}
    assert set(found) == {id for id, _ in requests}
    other.touch()
    assert worker.reply(slow).json == "MainThread"


def test_large_replies_do_not_mix(host: Host) -> None:
    worker = host.start(SCRIPT)
    requests = [worker.request("large", 300_000 + number) for number in range(40)]
    worker.wire.send(*(data for _, data in requests), frame(PING, id=1))
    time.sleep(0.05)  # the socket is full by now
    sizes, pongs = set(), 0
    for _ in range(41):
        got = worker.wire.read()
        pongs += got.kind == PONG
        sizes |= {len(got.json)} if got.kind == REPLY else set()
    assert (pongs, sizes) == (1, {300_000 + number for number in range(40)})


@pytest.mark.parametrize("code, says", [(1, "Cancelled: enough"), (4, "the deadline passed")])
def test_cancel_of_a_task(host: Host, code: int, says: str) -> None:
    worker = host.start(SCRIPT)
    id = begin(worker, "nap")
    worker.wire.send(frame(CANCEL, b"enough", code=code, id=id))
    reply = worker.reply(id)
    assert (reply.code, reply.json["error"], reply.json["interrupted"]) == (code, says, True)
    assert "task cancelled enough" in worker.output()
    assert worker.call("echo", 1).json == 1


def test_deadline_of_a_task(host: Host) -> None:
    worker = host.start(SCRIPT)
    assert worker.reply(begin(worker, "nap", timeout_ms=30)).code == 4
    time.sleep(0.4)  # longer than the worker looks whether something runs
    assert worker.reply(begin(worker, "nap", timeout_ms=30)).code == 4


def test_cancel_of_the_main_threads_handler(host: Host) -> None:
    worker = host.start(SCRIPT)
    for what in ("sleep", "loop"):
        id = begin(worker, "block", what)
        worker.wire.send(frame(CANCEL, b"enough", code=1, id=id))
        reply = worker.reply(id)
        assert (reply.code, reply.json["error"]) == (1, "Cancelled: enough")
        assert worker.call("plain", 1).json == [1, True]


def test_cancel_of_what_waits_for_its_thread(host: Host, tmp_path: Path) -> None:
    worker = host.start(SCRIPT, welcome={"cancel_grace_ms": 50})
    flag = tmp_path / "flag"
    first = begin(worker, "block_file", str(flag))
    second = worker.start_call("plain", 1)
    worker.wire.send(frame(CANCEL, code=1, id=second), frame(PING, id=1))
    assert worker.wire.read().kind == PONG
    time.sleep(0.2)  # longer than the grace: what has not started is not killed
    flag.touch()
    found = replies(worker, 2)
    assert found[first].json == "MainThread"
    assert (found[second].code, found[second].json["error"]) == (1, "Cancelled: before it started")


def test_task_that_swallows(host: Host) -> None:
    worker = host.start(SCRIPT, welcome={"cancel_grace_ms": 400})
    id = begin(worker, "swallow", 2)
    worker.wire.send(frame(CANCEL, code=1, id=id))
    assert worker.reply(id).code == 1
    assert worker.output().count("swallowed") == 2


def test_stuck_task_is_killed(host: Host) -> None:
    worker = host.start(SCRIPT, welcome={"cancel_grace_ms": 100})
    id = begin(worker, "stuck")
    worker.wire.send(frame(CANCEL, code=1, id=id))
    assert worker.process.wait(30) == -signal.SIGKILL
    assert "stuck still runs" in worker.output() and "in stuck" in worker.output()


def test_threads_run_at_once(host: Host) -> None:
    worker = host.start(SCRIPT, "4")
    requests = [worker.request("meet") for _ in range(40)]
    worker.wire.send(*(data for _, data in requests))
    assert {reply.code for reply in replies(worker, 40).values()} == {0}


def test_thread_records(host: Host, tmp_path: Path) -> None:
    worker = host.start(SCRIPT, "4", page=True)
    flag = tmp_path / "flag"
    ids = [begin(worker, "block_file", str(flag)) for _ in range(4)]
    assert worker.page is not None
    records = {struct.unpack_from("=Q", worker.page, 64 + 16 * number)[0] for number in range(64)}
    assert records == {0, *ids}
    flag.touch()
    names = {reply.json for reply in replies(worker, 4).values()}
    assert names == {"MainThread", "pyproc-1", "pyproc-2", "pyproc-3"}


def test_cancel_in_each_thread(host: Host) -> None:
    worker = host.start(SCRIPT, "3")
    ids = [begin(worker, "block", "loop") for _ in range(3)]
    for id in ids:
        worker.wire.send(frame(CANCEL, b"enough", code=1, id=id))
        reply = worker.reply(id)
        assert (reply.code, reply.json["error"]) == (1, "Cancelled: enough")
        assert reply.json["type"] == "pyproc_worker.Cancelled" and reply.json["interrupted"] is True
        assert worker.call("plain", 1).json[0] == 1


def test_thread_that_sleeps_past_the_grace(host: Host) -> None:
    worker = host.start(SCRIPT, "2", welcome={"cancel_grace_ms": 100})
    ids = [begin(worker, "block", "sleep") for _ in range(2)]
    for id in ids:
        worker.wire.send(frame(CANCEL, code=1, id=id))
    assert worker.reply(worker_first(worker, ids)).code == 1  # the main thread's
    assert worker.process.wait(30) == -signal.SIGKILL
    assert "block still runs" in worker.output()


def worker_first(worker: Worker, ids: list[int]) -> int:
    """The call whose reply comes next; puts it back."""
    got = worker.wire.read()
    assert got.id in ids
    payload = struct.pack(">BBHIQII", got.kind, got.flags, got.code, 0, got.id, 0, 0) + got.body
    worker.wire.unread = struct.pack(">I", len(payload)) + payload + worker.wire.unread
    return got.id


def test_cancels_raced_in_threads(host: Host) -> None:
    worker = host.start(SCRIPT.replace("while True:\n        pass", "for _ in range(40_000):\n        pass"), "4")
    rounds = 4 * int(os.environ.get("PYPROC_TEST_SCALE", "100"))
    outcomes = {0: 0, 1: 0}
    for number in range(rounds):
        requests = [worker.request("block", "loop") for _ in range(3)]
        plain, request = worker.request("plain", number)
        worker.wire.send(*(data for _, data in requests))
        time.sleep(0.0005 * (number % 8))
        worker.wire.send(*(frame(CANCEL, code=1, id=id) for id, _ in requests), request)
        found = replies(worker, 4)
        assert found[plain].code == 0, found[plain]
        for id, _ in requests:
            outcomes[found[id].code] += 1
    assert outcomes[0] > 0 and outcomes[1] > 0
    assert worker.stop() == 0


@pytest.mark.parametrize("handler", ["nap", "block"])
def test_hang_up_cancels(host: Host, handler: str) -> None:
    worker = host.start(SCRIPT, "2")
    begin(worker, handler)
    assert worker.stop() == 0
    assert worker.output().splitlines()[-1] == "stopped"


def test_sigterm_lets_handlers_finish(host: Host, tmp_path: Path) -> None:
    worker = host.start(SCRIPT)
    flag = tmp_path / "flag"
    ids = [begin(worker, "block_file", str(flag)), begin(worker, "wait_file", str(flag))]
    waiting = worker.start_call("plain", 1)
    worker.process.terminate()
    time.sleep(0.05)
    late = worker.start_call("echo", 2)
    worker.wire.send(frame(PING, id=1))
    codes: dict[int, int] = {}
    while not {1, late} <= set(codes):  # they wait for no handler
        got = worker.wire.read()
        codes[got.id] = got.code
    assert not set(ids) & set(codes)
    flag.touch()
    while len(codes) < 5:
        got = worker.wire.read()
        codes[got.id] = got.code
    assert [codes[id] for id in (*ids, waiting)] == [0, 0, 14]
    assert worker.wire.is_closed()
    assert worker.process.wait(30) == 0
    assert worker.output().splitlines()[-1] == "stopped"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_on_another_thread(host: Host, number: int) -> None:
    """The main one, which runs its Python handler, waits for work meanwhile."""
    worker = host.start(SCRIPT)
    assert worker.call("take_signal", int(number)).json is False
    assert worker.process.wait(30) == 0
    assert worker.output().splitlines()[-1] == "stopped"


SLOW_START = '''
import asyncio, signal, threading, time
from pyproc_worker import expose


@expose
async def go_on(request):
    signal.raise_signal(request)
    await asyncio.sleep(1)
    return "went on"


class SlowThread(threading.Thread):
    def start(self):
        super().start()
        if self.name == "pyproc-dispatch":
            time.sleep(0.5)


threading.Thread = SlowThread
'''


def test_signal_before_the_main_thread_works(host: Host) -> None:
    """A call that is served while the main thread still starts the others has its reply."""
    worker = host.start(SLOW_START + SCRIPT)
    assert worker.call("go_on", int(signal.SIGINT)).json == "went on"
    assert worker.process.wait(30) == 0
    assert worker.output().splitlines()[-1] == "stopped"


def test_dead_host(host: Host) -> None:
    life, host_fd = os.pipe()
    worker = host.start(SCRIPT, host_fd=life)
    os.close(life)
    begin(worker, "nap")
    begin(worker, "block", "sleep")
    os.close(host_fd)
    assert worker.process.wait(30) == 0


@pytest.mark.parametrize("name, body", [("leave", None), ("fail", "SystemExit")])
def test_exit_of_a_handler_ends_the_worker(host: Host, name: str, body: object) -> None:
    worker = host.start(SCRIPT, "2")
    assert worker.call(name, body).json["type"] == "SystemExit"
    assert worker.wire.is_closed()
    assert worker.process.wait(30) == 3


@pytest.mark.parametrize("name", ["fork", "fork_plain"])
def test_forked_child_ends(host: Host, name: str) -> None:
    worker = host.start(SCRIPT)
    child = worker.call(name).json
    assert child > 0
    assert worker.call("echo", 1).json == 1
    assert worker.stop() == 0
    assert worker.output().count("stopped") == 1


def test_broken_frame_ends_the_worker(host: Host) -> None:
    worker = host.start(SCRIPT)
    begin(worker, "nap")
    worker.wire.send(bytes(4))
    assert worker.process.wait(30) == 1
    assert "an empty frame" in worker.output()
