"""Cancels and deadlines of calls by gRPC, slow readers, and the ways in which such a worker ends."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import wait_until

grpc = pytest.importorskip("grpc")
pytest.importorskip("google.protobuf")

from grpc_support import (SCRIPT, BytesValue, Client, DoubleValue, GrpcHost, Int64Value, PATIENCE_S,  # noqa: E402
                          StringValue, failing)
from support import PING, PONG, REPLY, Worker, frame  # noqa: E402

BOTH = pytest.mark.parametrize("prefix", ["", "Async"])


def begin(worker: Worker, client: Client, name: str, value: str, **options: Any) -> Any:
    """Starts a call, and waits until its handler runs."""
    before = worker.output().count("waiting")
    future = client.callable(name, StringValue, StringValue).future(StringValue(value=value), **options)
    wait_until(lambda: worker.output().count("waiting") > before, "the handler")
    return future


def says(worker: Worker, text: str) -> None:
    wait_until(lambda: text in worker.output(), text)


class Feed:
    """Messages of a stream that goes on until it is closed."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.sent = 0

    def messages(self, first: list[Any]) -> Iterator[Any]:
        yield from first
        self.over.wait(PATIENCE_S)


# --- Cancel and deadline ---

@pytest.mark.parametrize("how", ["sleep", "lock", "loop"])
def test_cancel_interrupts(grpc_host: GrpcHost, how: str) -> None:
    worker, client = grpc_host.start()
    future = begin(worker, client, "Block", how)
    future.cancel()
    says(worker, "ended by Cancelled Cancelled")
    assert client.number("Twice", 1) == 2


@pytest.mark.parametrize("how", ["sleep", "lock", "loop"])
def test_deadline_interrupts(grpc_host: GrpcHost, how: str) -> None:
    worker, client = grpc_host.start()
    future = begin(worker, client, "Block", how, timeout=0.5)
    assert future.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    says(worker, "ended by Cancelled the deadline passed")
    assert client.number("Twice", 1) == 2


def test_cancel_in_other_threads(grpc_host: GrpcHost) -> None:
    worker, client = grpc_host.start(SCRIPT, "3")
    futures = [begin(worker, client, "Block", "loop") for _ in range(3)]
    for future in futures:
        future.cancel()
    wait_until(lambda: worker.output().count("ended by Cancelled") == 3, "the ends of the handlers")
    assert client.number("Twice", 1) == 2


def test_cancel_of_a_task(grpc_host: GrpcHost) -> None:
    worker, client = grpc_host.start()
    begin(worker, client, "AsyncBlock", "").cancel()
    says(worker, "ended by CancelledError True")
    assert begin(worker, client, "AsyncBlock", "", timeout=0.3).code() is grpc.StatusCode.DEADLINE_EXCEEDED
    wait_until(lambda: worker.output().count("ended by CancelledError True") == 2, "the end of the task")
    assert client.number("AsyncTwice", 1) == 2


def test_event_comes_before_the_interrupt(grpc_host: GrpcHost) -> None:
    worker, client = grpc_host.start(welcome={"cancel_grace_ms": 60_000})
    begin(worker, client, "Block", "- event").cancel()
    says(worker, "asked True")
    assert client.number("Twice", 1) == 2


def test_event_that_is_ignored(grpc_host: GrpcHost) -> None:
    worker, client = grpc_host.start(welcome={"cancel_grace_ms": 200})
    begin(worker, client, "Block", "- stay").cancel()
    says(worker, "asked True")
    assert client.number("Twice", 1) == 2


def test_cancelled_before_it_starts(grpc_host: GrpcHost, tmp_path: Path) -> None:
    worker, client = grpc_host.start()
    gate = tmp_path / "gate"
    waiting = threading.Thread(target=client.dynamic, args=("wait_file", str(gate)))
    waiting.start()
    says(worker, "waiting file")
    future = client.callable("Block", StringValue, StringValue).future(StringValue(value="sleep"))
    late = client.callable("Block", StringValue, StringValue).future(StringValue(value="sleep"), timeout=0.2)
    assert client.number("AsyncTwice", 1) == 2  # it has arrived behind them
    future.cancel()
    assert late.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert client.number("AsyncTwice", 1) == 2
    gate.touch()
    waiting.join()
    assert client.number("Twice", 1) == 2
    assert "waiting sleep" not in worker.output()


@BOTH
def test_abandoned_server_stream(grpc_host: GrpcHost, prefix: str) -> None:
    worker, client = grpc_host.start()
    call = client.callable(prefix + "Count", Int64Value, Int64Value, "unary_stream")(Int64Value(value=10_000_000))
    assert next(call).value == 0
    call.cancel()
    wait_until(lambda: "closed True" in worker.output() or "interrupted" in worker.output(), "the generator's end")
    assert client.number(prefix + "Twice", 1) == 2


@BOTH
def test_suspended_generator_gets_generator_exit(grpc_host: GrpcHost, prefix: str) -> None:
    worker, client = grpc_host.start()
    call = client.callable(prefix + "Flood", Int64Value, BytesValue, "unary_stream")(Int64Value(value=2000))
    next(call)
    settle(worker)
    call.cancel()
    says(worker, "ended by GeneratorExit")
    assert client.number(prefix + "Twice", 1) == 2


@BOTH
@pytest.mark.parametrize("name", ["Sum", "Echo"])
def test_abandoned_request_stream(grpc_host: GrpcHost, prefix: str, name: str) -> None:
    worker, client = grpc_host.start()
    feed = Feed()
    if name == "Sum":
        call = client.callable(prefix + name, Int64Value, Int64Value, "stream_unary").future(
            feed.messages([Int64Value(value=1)]))
        says(worker, "got 1")
    else:
        call = client.callable(prefix + name, Int64Value, Int64Value, "stream_stream")(
            feed.messages([Int64Value(value=1)]))
        assert next(call).value == 1
    call.cancel()
    feed.over.set()
    if name == "Sum":
        says(worker, "ended by " + ("CancelledError" if prefix else "Cancelled"))
    else:  # by GeneratorExit, where it has come while the reply was sent
        says(worker, "ended by ")
    assert client.number(prefix + "Twice", 1) == 2


@pytest.mark.parametrize("how, options", [("stuck", {"timeout": 0.4}), ("stuck_in_c", {"timeout": 0.4}),
                                          ("stuck_in_c", {})])
def test_stuck_handler_is_killed_with_its_stacks(grpc_host: GrpcHost, how: str, options: dict[str, Any]) -> None:
    worker, client = grpc_host.start(welcome={"cancel_grace_ms": 200})
    future = begin(worker, client, "Block", how, **options)
    if not options:
        future.cancel()
    assert worker.process.wait(PATIENCE_S) == -signal.SIGKILL
    output = worker.output()
    assert "shop.Math/Block still runs" in output and "the worker is killed" in output
    assert "in blocked" in output and "most recent call first" in output


# --- Pings of the host ---

def ask(worker: Worker, number: int, body: bytes = b"") -> None:
    worker.wire.send(frame(PING, body, id=number))
    pong = worker.wire.read()
    assert (pong.kind, pong.id, pong.body) == (PONG, number, body)


def test_pings_are_answered_on_the_inherited_socket(grpc_host: GrpcHost) -> None:
    worker, client = grpc_host.start()
    assert "ping" in worker.hello["features"]
    client.number("Twice", 1)
    ask(worker, 1)
    ask(worker, 2, b"x" * 64)
    worker.wire.send(frame(REPLY, b"y" * 5000), frame(PING, b"z" * 65), frame(31, b""))  # of no interest
    ask(worker, 3)
    begin(worker, client, "Block", "stuck")
    ask(worker, 4, b"the GIL is held")
    worker.process.kill()


@pytest.mark.parametrize("text", [b"\0\0\0\1x" + b"y" * 30, b""])
def test_what_is_no_frame_stops_the_worker(grpc_host: GrpcHost, text: bytes) -> None:
    worker, client = grpc_host.start()
    client.number("Twice", 1)
    ask(worker, 1)
    if text:
        worker.wire.send(text)
    else:
        worker.wire.close()
    assert worker.process.wait(PATIENCE_S) == 0


def test_without_a_grace_nothing_is_killed(grpc_host: GrpcHost) -> None:
    worker, client = grpc_host.start(SCRIPT.replace("time.sleep(60)", "[time.sleep(0.01) for _ in range(200)]"))
    begin(worker, client, "Block", "sleep").cancel()
    says(worker, "ended by Cancelled")
    assert client.number("Twice", 1) == 2


def test_cancels_raced_against_returns(grpc_host: GrpcHost) -> None:
    """Whichever comes first, no Cancelled lands outside of its own handler."""
    worker, client = grpc_host.start(SCRIPT.replace('''        return DoubleValue(value=request.value * 2)

    async''', '''        time.sleep(0.001)
        return DoubleValue(value=request.value * 2)

    async''', 1))
    twice = client.callable("Twice", DoubleValue, DoubleValue)
    outcomes = {True: 0, False: 0}
    for number in range(1000 * int(os.environ.get("PYPROC_TEST_SCALE", "100")) // 100):
        future = twice.future(DoubleValue(value=number), timeout=PATIENCE_S)
        time.sleep(0.001 + number % 17 * 0.0001)
        outcomes[future.cancel()] += 1
        if not future.cancelled():
            assert future.result().value == number * 2
        if number % 10 == 0:
            assert client.number("Twice", number) == number * 2
    assert client.number("Twice", 1) == 2
    assert worker.stop() == 0
    assert worker.output() == "started\nstopped\n"


# --- Flow control ---

def settle(worker: Worker) -> int:
    """How many messages were made, once it makes no more."""
    made = -1
    while made != worker.output().count("made"):
        made = worker.output().count("made")
        time.sleep(0.5)
    return made


def check_memory(client: Client) -> None:
    """The worker has not held much of what was sent; sanitizers keep what was freed."""
    if os.environ.get("PYPROC_TEST_SCALE", "100") == "100":
        assert client.dynamic("memory", None) < 200 << 10  # KiB


@BOTH
def test_fast_producer_waits_for_a_slow_reader(grpc_host: GrpcHost, prefix: str) -> None:
    worker, client = grpc_host.start()
    call = client.callable(prefix + "Flood", Int64Value, BytesValue, "unary_stream")(Int64Value(value=2000))
    next(call)
    assert settle(worker) < 500  # of 64 KiB each
    assert client.number("Twice", 1) == 2  # it blocks no thread
    assert client.number("AsyncTwice", 1) == 2
    assert sum(1 for _ in call) == 1999
    check_memory(client)


@BOTH
def test_fast_sender_waits_for_a_slow_handler(grpc_host: GrpcHost, prefix: str, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    worker, client = grpc_host.start(environ={"TEST_GATE": str(gate)})
    sent = 0

    def messages() -> Iterator[BytesValue]:
        nonlocal sent
        for _ in range(2000):
            sent += 1
            yield BytesValue(value=bytes(65536))

    future = client.callable(prefix + "Drink", BytesValue, Int64Value, "stream_unary").future(messages())
    says(worker, "drinking")
    before = -1
    while before != sent:
        before = sent
        time.sleep(0.5)
    assert sent < 500
    assert client.number("Twice", 1) == 2
    gate.touch()
    assert future.result(PATIENCE_S).value == 2000 * 65536
    check_memory(client)


def test_streams_are_bounded(grpc_host: GrpcHost) -> None:
    worker, client = grpc_host.start(welcome={"max_streams": 2})
    feed = Feed()
    echo = client.callable("Echo", Int64Value, Int64Value, "stream_stream")
    calls = [echo(feed.messages([Int64Value(value=1)])) for _ in range(2)]
    assert [next(call).value for call in calls] == [1, 1]
    with failing() as found:
        next(echo(feed.messages([Int64Value(value=1)])))
    assert found[0].code() is grpc.StatusCode.RESOURCE_EXHAUSTED and "max_streams" in found[0].details()
    feed.over.set()
    assert [list(call) for call in calls] == [[], []]
    wait_until(lambda: [message.value for message in echo(iter([Int64Value(value=5)]))] == [5], "a free stream")


# --- The ends of a worker ---

@BOTH
def test_hang_up_lets_handlers_finish(grpc_host: GrpcHost, tmp_path: Path, prefix: str) -> None:
    gate = tmp_path / "gate"
    worker, client = grpc_host.start(environ={"TEST_GATE": str(gate)})
    feed = Feed()
    future = client.callable(prefix + "Drink", BytesValue, Int64Value, "stream_unary").future(
        feed.messages([BytesValue(value=b"abc")]))
    says(worker, "drinking")
    worker.wire.close()

    def is_refused() -> bool:
        try:
            client.number("AsyncTwice", 1)
        except grpc.RpcError as error:
            return error.code() is grpc.StatusCode.UNAVAILABLE and "the worker stops" in error.details()
        return False  # it has not seen it yet

    wait_until(is_refused, "the refusal of new calls")
    assert worker.process.poll() is None
    gate.touch()
    feed.over.set()
    assert future.result(PATIENCE_S).value == 3
    assert worker.process.wait(PATIENCE_S) == 0
    assert worker.output().endswith("stopped\n")


def test_queued_calls_are_refused_at_the_end(grpc_host: GrpcHost, tmp_path: Path) -> None:
    worker, client = grpc_host.start()
    gate = tmp_path / "gate"
    waiting = threading.Thread(target=client.dynamic, args=("wait_file", str(gate)))
    waiting.start()
    says(worker, "waiting file")
    queued = client.callable("Twice", DoubleValue, DoubleValue).future(DoubleValue(value=1), timeout=PATIENCE_S)
    assert client.number("AsyncTwice", 1) == 2
    worker.process.send_signal(signal.SIGTERM)
    worker.wire.close()
    time.sleep(0.2)
    gate.touch()
    waiting.join()
    assert queued.code() is grpc.StatusCode.UNAVAILABLE and "has not been started" in queued.details()
    assert worker.process.wait(PATIENCE_S) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_stop_in_order(grpc_host: GrpcHost, number: int) -> None:
    worker, client = grpc_host.start()
    assert client.number("Twice", 1) == 2
    worker.process.send_signal(number)
    assert worker.process.wait(PATIENCE_S) == 0
    assert worker.output() == "started\nstopped\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_on_another_thread(grpc_host: GrpcHost, number: int) -> None:
    """The main one, which runs its Python handler, waits for work meanwhile."""
    worker, client = grpc_host.start()
    assert client.dynamic("take_signal", int(number)) is False
    assert worker.process.wait(PATIENCE_S) == 0
    assert worker.output() == "started\nstopped\n"


def test_hang_up_before_the_welcome(grpc_host: GrpcHost) -> None:
    worker, _ = grpc_host.spawn()
    worker.wire.read()
    assert worker.stop() == 0
    assert worker.output() == "started\nstopped\n"


@BOTH
def test_exit_in_a_handler_is_answered_first(grpc_host: GrpcHost, prefix: str) -> None:
    worker, client = grpc_host.start()
    with failing() as found:
        client.callable(prefix + "Fails", StringValue, StringValue)(StringValue(value="exit"), timeout=PATIENCE_S)
    assert found[0].code() is grpc.StatusCode.UNKNOWN
    assert worker.process.wait(PATIENCE_S) == 7
    assert worker.output() == "started\nstopped\n"


def test_dead_host_ends_what_runs(grpc_host: GrpcHost) -> None:
    life, host_fd = os.pipe()
    worker, client = grpc_host.start(host_fd=life)
    os.close(life)
    future = begin(worker, client, "Block", "sleep")
    os.close(host_fd)
    assert worker.process.wait(PATIENCE_S) == 0
    assert "ended by Cancelled Cancelled: the host died" in worker.output() and "stopped" in worker.output()
    assert not future.cancelled()


def test_dead_host_ends_a_stuck_worker(grpc_host: GrpcHost) -> None:
    life, host_fd = os.pipe()
    worker, client = grpc_host.start(host_fd=life)
    os.close(life)
    future = begin(worker, client, "Block", "stuck")
    os.close(host_fd)
    assert worker.process.wait(PATIENCE_S) == -signal.SIGKILL
    assert not future.cancelled()


def test_nothing_is_left(grpc_host: GrpcHost, tmp_path: Path) -> None:
    worker, client = grpc_host.start()
    path = Path(client.address[len("unix:"):])
    assert path.is_socket()
    assert client.number("Twice", 1) == 2
    assert worker.stop() == 0
    assert not path.exists()


def test_forked_child_ends(grpc_host: GrpcHost) -> None:
    worker, client = grpc_host.start()
    child = client.dynamic("fork", None)
    wait_until(lambda: Path(f"/proc/{child}/stat").read_text().split()[2] == "Z", "the end of the child")
    assert client.number("Twice", 1) == 2
    assert worker.stop() == 0
    assert worker.output() == "started\nstopped\n"


def test_forked_child_keeps_no_client(grpc_host: GrpcHost) -> None:
    worker, client = grpc_host.start()
    child = client.dynamic("fork_child", None)
    future = begin(worker, client, "Block", "sleep")
    try:
        worker.process.kill()
        assert future.code() is grpc.StatusCode.UNAVAILABLE
        assert worker.wire.is_closed()
    finally:
        os.kill(child, signal.SIGKILL)
