"""gRPC's own interop programs, in Go: their client calls a worker of ours, our generated stubs call their server.

The programs come from the Go module proxy, the schema from Debian's package grpc-proto; neither is copied.
"""
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from support import FOLDER, Skip, go, last_line, ok, python, run, run_parts, show

MODULE, VERSION = "google.golang.org/grpc", "v1.85.0"
PROTOS = Path("/usr/share/grpc-proto/grpc/testing")
FILES = ("test", "messages", "empty")
CASES = ("empty_unary", "large_unary", "client_streaming", "server_streaming", "ping_pong", "empty_stream",
         "cancel_after_begin", "cancel_after_first_response", "timeout_on_sleeping_server", "custom_metadata",
         "status_code_and_message", "special_status_message", "unimplemented_method", "unimplemented_service")


def program(work: Path, name: str) -> Path:
    """One of the Go programs, built."""
    folder = (work / "bin").resolve()
    if not (folder / name).exists():
        done = run([go(), "install", f"{MODULE}/interop/{name}@{VERSION}"], env={"GOBIN": str(folder)}, timeout=1200)
        if done.returncode != 0:
            raise Skip(f"{MODULE}/interop/{name}@{VERSION} cannot be had: {last_line(done.stdout)}")
    return folder / name


def schema(work: Path) -> Path:
    """A folder with grpc.testing's files, under a path that is no package of grpcio."""
    folder = work / "schema"
    target = folder / "interop_schema"
    shutil.rmtree(folder, ignore_errors=True)
    target.mkdir(parents=True)
    for name in FILES:
        source = PROTOS / f"{name}.proto"
        if not source.exists():
            raise Skip(f"there is no {source}: install Debian's package grpc-proto")
        text = source.read_text(encoding="utf-8").replace('"grpc/testing/', '"interop_schema/')
        (target / source.name).write_text(text, encoding="utf-8")
    return folder


def generated(build: Path, work: Path) -> Path:
    """The folder of the generated code."""
    folder = work / "gen"
    done = run([str(build / "bin" / "pyproc-gen"), "-I", str(schema(work)), "--out", str(folder), "--no-worker",
                "interop_schema/test.proto"])
    if done.returncode != 0:
        raise RuntimeError(done.stdout)
    return folder


class Worker:
    """A worker that somebody started by hand."""

    def __init__(self, build: Path, work: Path, *arguments: str) -> None:
        environment = {**os.environ, "PYTHONPATH": str(build / "lib" / "pyproc" / "worker"),
                       "GRPC_TESTING_GEN": str(generated(build, work)), "PYPROC_PROTOCOL": "grpc",
                       "PYPROC_GRPC_ADDRESS": "127.0.0.1:0"}
        self.log = work / "worker.log"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen([python(), str(FOLDER / "grpc_testing_worker.py"), *arguments],
                                            env=environment, stdout=log, stderr=log)

    def output(self) -> str:
        """What it printed."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def port(self) -> str:
        """Where it listens."""
        end = time.monotonic() + 60
        while time.monotonic() < end and self.process.poll() is None:
            told = self.output().rpartition("serves gRPC on 127.0.0.1:")[2]
            if told.endswith("\n") and told.strip().isdigit():
                return told.strip()
            time.sleep(0.01)
        raise Skip(f"the worker does not serve: {last_line(self.output())}")

    def stop(self) -> int:
        """In order; returns its status."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(30)
        finally:
            self.process.kill()
            self.process.wait()


def client_calls_worker(build: Path, work: Path, kind: str) -> None:
    """All cases that need no cloud account."""
    client = program(work, "client")
    worker = Worker(build, work, kind)
    try:
        port = worker.port()
        for case in CASES:
            done = run([str(client), f"-server_port={port}", f"-test_case={case}"], timeout=60)
            ok(done.returncode == 0, f"Go client, {kind} handlers: {case}", last_line(done.stdout))
    finally:
        status = worker.stop()
    ok(status == 0, f"Go client, {kind} handlers: the worker ends", f"status {status}: {worker.output()}")


def plain(build: Path, work: Path) -> None:
    """Plain handlers."""
    client_calls_worker(build, work, "plain")


def asynchronous(build: Path, work: Path) -> None:
    """Async handlers."""
    client_calls_worker(build, work, "async")


def stubs(build: Path, work: Path) -> Path:
    """Our program with the same cases, built with the generated stubs."""
    library = build / "lib"
    if not (library / "libpyproc-grpc.so").exists():
        raise Skip("the library was built without gRPC (CMake option PYPROC_GRPC)")
    gen = generated(build, work)
    target = work / "stubs"
    done = run([os.environ.get("CC", "cc"), "-std=gnu11", f"-I{gen}", f"-I{FOLDER.parents[1] / 'runtime' / 'include'}",
                str(FOLDER / "grpc" / "client.c"), *map(str, sorted(gen.rglob("*.c"))), "-o", str(target),
                f"-L{library}", "-lpyproc", "-lprotobuf-c", f"-Wl,-rpath,{library}"])
    if done.returncode != 0:
        raise RuntimeError(done.stdout)
    return target


def free_port() -> int:
    """One that nobody has at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def wait_for(port: int, process: "subprocess.Popen[bytes]") -> None:
    """Until the server listens."""
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 5).close()
            return
        except OSError:
            time.sleep(0.01)
    raise Skip("the Go server does not listen")


def stubs_call_server(build: Path, work: Path) -> None:
    """All cases that need no cloud account, the other way round."""
    server, ours = program(work, "server"), stubs(build, work)
    port = free_port()
    with open(work / "server.log", "wb") as log:
        process = subprocess.Popen([str(server), "-port", str(port)], stdout=log, stderr=log)
    try:
        wait_for(port, process)
        show("our stubs, Go server", [str(ours), f"ipv4:127.0.0.1:{port}"])
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    run_parts([plain, asynchronous, stubs_call_server])
