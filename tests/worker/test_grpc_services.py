"""Health, reflection, and gRPC workers that are started by hand."""

from __future__ import annotations

import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Union

import pytest

from support import environment, wait_until

grpc = pytest.importorskip("grpc")
pytest.importorskip("google.protobuf")

from google.protobuf import descriptor_pb2, descriptor_pool  # noqa: E402

from grpc_support import SCRIPT, Client, GrpcHost, Int64Value, PATIENCE_S, failing, put_text  # noqa: E402

SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3
NAMES = ["shop.Math", "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection",
         "grpc.reflection.v1.ServerReflection", "pyproc.Dynamic"]


def fields(data: bytes) -> list[tuple[int, Union[int, bytes]]]:
    """A message as it is on the wire: the tests know nothing of the worker's own descriptors."""
    found: list[tuple[int, Union[int, bytes]]] = []
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            value |= (data[at] & 127) << shift
            shift += 7
            at += 1
            if data[at - 1] < 128:
                return value

    while at < len(data):
        tag = varint()
        value = varint()
        if tag & 7 == 2:
            found.append((tag >> 3, data[at:at + value]))
            at += value
        else:
            assert tag & 7 == 0
            found.append((tag >> 3, value))
    return found


def inside(data: bytes, number: int) -> list[Any]:
    return [value for found, value in fields(data) if found == number]


# --- Health ---

def test_health(grpc_host: GrpcHost) -> None:
    worker, client = grpc_host.start()
    check = client.channel.unary_unary("/grpc.health.v1.Health/Check")
    for name in ["", *NAMES]:
        assert fields(check(put_text(1, name), timeout=PATIENCE_S)) == [(1, SERVING)]
    with failing() as found:
        check(put_text(1, "no.Such"), timeout=PATIENCE_S)
    assert found[0].code() is grpc.StatusCode.NOT_FOUND


def test_health_watch(grpc_host: GrpcHost) -> None:
    worker, client = grpc_host.start()
    watch = client.channel.unary_stream("/grpc.health.v1.Health/Watch")
    calls = [watch(put_text(1, name), timeout=PATIENCE_S) for name in ("", "shop.Math", "no.Such")]
    assert [fields(next(call)) for call in calls] == [[(1, SERVING)], [(1, SERVING)], [(1, SERVICE_UNKNOWN)]]
    worker.process.send_signal(signal.SIGTERM)
    assert fields(next(calls[0])) == fields(next(calls[1])) == [(1, NOT_SERVING)]
    for call in calls[:2]:
        with suppress(grpc.RpcError):  # a client that just writes when the worker goes hears of that first
            assert list(call) == []
        assert call.code() in (grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE)
    assert worker.process.wait(PATIENCE_S) == 0


# --- Reflection ---

VERSIONS = pytest.mark.parametrize("version", ["v1", "v1alpha"])


def ask(client: Client, version: str, *requests: bytes) -> list[bytes]:
    function = client.channel.stream_stream(f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo")
    return list(function(iter(requests), timeout=PATIENCE_S))


@VERSIONS
def test_list_services(grpc_host: GrpcHost, version: str) -> None:
    _, client = grpc_host.start()
    answer, = ask(client, version, put_text(7, ""))
    assert [inside(entry, 1)[0].decode() for entry in inside(inside(answer, 6)[0], 1)] == NAMES


@VERSIONS
def test_descriptors(grpc_host: GrpcHost, version: str) -> None:
    """What comes is enough for a pool that knows nothing else."""
    _, client = grpc_host.start()
    wanted = ["google.protobuf.DoubleValue", "pyproc.Dynamic", "grpc.health.v1.HealthCheckResponse",
              f"grpc.reflection.{version}.ServerReflection"]
    answers = ask(client, version, *(put_text(4, name) for name in wanted),
                  put_text(3, "google/protobuf/wrappers.proto"))
    pool = descriptor_pool.DescriptorPool()
    names = set()
    for answer in answers:
        for data in inside(inside(answer, 4)[0], 1):
            file = descriptor_pb2.FileDescriptorProto.FromString(data)
            if file.name not in names:
                names.add(file.name)
                pool.AddSerializedFile(data)
    assert "google/protobuf/wrappers.proto" in names and "pyproc/dynamic.proto" in names
    for name in wanted:
        pool.FindFileContainingSymbol(name)
    method = pool.FindServiceByName("pyproc.Dynamic").methods_by_name["Call"]
    assert [field.name for field in method.input_type.fields] == ["method", "body"]


@VERSIONS
def test_reflection_of_what_is_not_there(grpc_host: GrpcHost, version: str) -> None:
    _, client = grpc_host.start()
    requests = [put_text(4, "no.Such"), put_text(3, "no/such.proto"), put_text(6, "no.Such"), b"",
                put_text(5, "\n\x03a.b\x10\x07")]
    answers = ask(client, version, *requests)
    codes = [inside(inside(answer, 7)[0], 1)[0] for answer in answers]
    assert codes == [5, 5, 5, 3, 5]
    assert [inside(answer, 2)[0] for answer in answers] == requests


def test_open_streams_do_not_keep_the_worker(grpc_host: GrpcHost) -> None:
    worker, client = grpc_host.start()

    def requests() -> Iterator[bytes]:
        yield put_text(7, "")
        worker.process.wait(PATIENCE_S)

    call = client.channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")(requests())
    next(call)
    worker.wire.close()
    assert worker.process.wait(PATIENCE_S) == 0


def test_dynamic_proto_is_what_is_served(grpc_host: GrpcHost, tmp_path: Path) -> None:
    schema = Path(__file__).resolve().parents[2] / "schema"
    command = ["protoc", f"-I{schema}", f"--descriptor_set_out={tmp_path}/set", "pyproc/dynamic.proto"]
    subprocess.run(command, check=True)
    written = descriptor_pb2.FileDescriptorSet.FromString((tmp_path / "set").read_bytes()).file[0]
    _, client = grpc_host.start()
    answer, = ask(client, "v1", put_text(3, "pyproc/dynamic.proto"))
    served = descriptor_pb2.FileDescriptorProto.FromString(inside(inside(answer, 4)[0], 1)[0])
    for file in (written, served):
        for message in file.message_type:
            for one in message.field:
                one.ClearField("json_name")
    for ours, theirs in zip(written.service[0].method, served.service[0].method):
        assert (ours.client_streaming, ours.server_streaming) == (theirs.client_streaming, theirs.server_streaming)
        theirs.ClearField("client_streaming")
        theirs.ClearField("server_streaming")
    assert written == served


def test_grpcs_own_clients(grpc_host: GrpcHost) -> None:
    """Where PyPI's packages are there."""
    health = pytest.importorskip("grpc_health.v1.health_pb2_grpc")
    health_pb2 = pytest.importorskip("grpc_health.v1.health_pb2")
    reflection = pytest.importorskip("grpc_reflection.v1alpha.proto_reflection_descriptor_database")
    _, client = grpc_host.start()
    reply = health.HealthStub(client.channel).Check(health_pb2.HealthCheckRequest(service="shop.Math"))
    assert reply.status == health_pb2.HealthCheckResponse.SERVING
    database = reflection.ProtoReflectionDescriptorDatabase(client.channel)
    assert list(database.get_services()) == NAMES
    pool = descriptor_pool.DescriptorPool(database)
    assert pool.FindServiceByName("pyproc.Dynamic").methods_by_name["Call"].name == "Call"


# --- By hand ---

class Script:
    """A worker script that no host started."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self.folder = folder
        (folder / "script.py").write_text(SCRIPT)
        self.log = open(folder / "log", "wb")
        self.process = subprocess.Popen([sys.executable, str(folder / "script.py")],
                                        env={**environment(), "PYPROC_PROTOCOL": "grpc", **variables},
                                        stdout=self.log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)

    def output(self) -> str:
        return (self.folder / "log").read_text()

    def address(self) -> str:
        """Where it says that it serves."""
        def told() -> str:
            assert self.process.poll() is None, self.output()
            return self.output().partition("serves gRPC on ")[2]

        wait_until(lambda: told().endswith("\n"), "a worker that listens")
        return told().splitlines()[0]

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)

    def close(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE_S)
        self.log.close()


@pytest.mark.parametrize("kind", ["socket", "odd name", "address", "unix address"])
def test_started_by_hand(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("a b%20é" if kind == "odd name" else "socket")
    if kind in ("socket", "odd name"):
        script = Script(tmp_path, PYPROC_GRPC_SOCKET=str(path))
    else:
        script = Script(tmp_path, PYPROC_GRPC_ADDRESS=f"unix:{path}" if kind == "unix address" else "127.0.0.1:0")
    client = None
    try:
        address = script.address()
        client = Client(address)
        assert client.number("Twice", 21) == 42
        assert client.dynamic("plain", 1) == {"got": 1}
        count = client.callable("Count", Int64Value, Int64Value, "unary_stream")
        assert len(list(count(Int64Value(value=5), timeout=PATIENCE_S))) == 5
        if kind != "address":
            assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert script.stop() == 0
        assert script.output().endswith("stopped\n")
        assert not path.exists()
    finally:
        if client is not None:
            client.close()
        script.close()


@pytest.mark.parametrize("there", ["listener", "file"])
def test_taken_path(tmp_path: Path, there: str) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listener:
        if there == "file":
            path.touch()
        else:
            listener.bind(str(path))
            listener.listen()
        script = Script(tmp_path, PYPROC_GRPC_SOCKET=str(path))
        try:
            assert script.process.wait(PATIENCE_S) == 1
            assert str(path) in script.output() and "choose another path" in script.output()
            assert path.exists()
        finally:
            script.close()


def test_stale_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    script = Script(tmp_path, PYPROC_GRPC_SOCKET=str(path))
    try:
        client = Client(script.address())
        assert client.number("Twice", 21) == 42
        client.close()
    finally:
        script.close()


def test_taken_port(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        script = Script(tmp_path, PYPROC_GRPC_ADDRESS=f"127.0.0.1:{port}")
        try:
            assert script.process.wait(PATIENCE_S) == 1
            assert f"cannot listen on 127.0.0.1:{port}" in script.output()
        finally:
            script.close()
