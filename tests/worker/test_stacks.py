"""The stacks of all threads: where they go on fatal signals, on the host's signal, and when a handler does not end."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import BinaryIO

import pytest

from support import CANCEL, Host, Worker, frame, wait_until

SCRIPT = '''
import collections, ctypes, itertools, os, sys
from pyproc_worker import expose, serve

if "early" in sys.argv:
    ctypes.string_at(8)


@expose
def echo(request):
    return request


@expose
def segfault(request):
    ctypes.string_at(8)


@expose
def stuck(request):
    print("waiting", flush=True)
    collections.deque(itertools.repeat(0), maxlen=0)  # holds the GIL


@expose
def segfault_in_child(request):
    child = os.fork()
    if child == 0:
        ctypes.string_at(8)
    return os.WTERMSIG(os.waitpid(child, 0)[1])


serve(threads=2 if "shared" in sys.argv else 1)
'''


@pytest.fixture
def stacks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BinaryIO]:
    with open(tmp_path_factory.mktemp("stacks") / "text", "w+b", buffering=0) as file:
        yield file


def text_of(stacks: BinaryIO) -> str:
    return os.pread(stacks.fileno(), 1 << 20, 0).decode()


def start(host: Host, stacks: BinaryIO, *arguments: str, **welcome: int) -> Worker:
    return host.start(SCRIPT, *arguments, stacks_fd=stacks.fileno(), welcome={**welcome})


def test_fatal_signal(host: Host, stacks: BinaryIO) -> None:
    worker = start(host, stacks)
    worker.start_call("segfault")
    assert worker.process.wait(30) == -signal.SIGSEGV
    text = text_of(stacks)
    assert text.startswith("Fatal Python error: Segmentation fault") and "in segfault" in text
    assert "segfault" not in worker.output()


def test_fatal_signal_before_it_serves(host: Host, stacks: BinaryIO) -> None:
    worker = host.spawn(SCRIPT, "early", stacks_fd=stacks.fileno())
    assert worker.process.wait(30) == -signal.SIGSEGV
    assert "script.py" in text_of(stacks)


@pytest.mark.parametrize("arguments", [(), ("shared",)])
def test_host_asks_for_them(host: Host, stacks: BinaryIO, arguments: tuple[str, ...]) -> None:
    worker = start(host, stacks, *arguments)
    number = worker.hello["stacks_signal"]
    assert signal.SIGRTMIN < number < signal.SIGRTMAX
    os.kill(worker.process.pid, number)
    wait_until(lambda: "most recent call first" in text_of(stacks), "stacks of a worker at rest")
    assert worker.call("echo", 1).json == 1  # it does no harm
    worker.start_call("stuck")
    wait_until(lambda: "waiting" in worker.output(), "the handler")
    os.kill(worker.process.pid, number)
    wait_until(lambda: "in stuck" in text_of(stacks), "stacks under a handler that holds the GIL")
    worker.process.kill()


def test_handler_that_does_not_end(host: Host, stacks: BinaryIO) -> None:
    worker = start(host, stacks, cancel_grace_ms=100)
    id = worker.start_call("stuck")
    wait_until(lambda: "waiting" in worker.output(), "the handler")
    worker.wire.send(frame(CANCEL, code=1, id=id))
    assert worker.process.wait(30) == -signal.SIGKILL
    text = text_of(stacks)
    assert text.startswith("pyproc_worker: stuck still runs ") and "in stuck" in text
    assert "still runs" not in worker.output()


def test_forked_child_writes_none(host: Host, stacks: BinaryIO) -> None:
    worker = start(host, stacks)
    assert worker.call("segfault_in_child").json == signal.SIGSEGV
    assert text_of(stacks) == ""
    assert worker.call("echo", 1).json == 1


def test_without_a_descriptor_they_go_to_standard_error(host: Host) -> None:
    worker = host.start(SCRIPT)
    os.kill(worker.process.pid, worker.hello["stacks_signal"])
    wait_until(lambda: "most recent call first" in worker.output(), "stacks")


def test_a_signal_that_the_script_uses_is_left_alone(host: Host, stacks: BinaryIO) -> None:
    taken = signal.SIGRTMAX - 1
    script = f"import signal; signal.signal({int(taken)}, lambda *_: print('mine', flush=True))" + SCRIPT
    worker = host.start(script, stacks_fd=stacks.fileno())
    assert worker.hello["stacks_signal"] != taken
    os.kill(worker.process.pid, taken)
    wait_until(lambda: "mine" in worker.output(), "the script's own handler")
