"""Drives examples/http: what it answers and with which status, under load, and when it is told to stop.

Each case is a line `ok …` or `not ok …`. Load is made by wrk; without it that case is skipped.
"""
import argparse
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

from processes import children_of

FLOWER = {"sepalLength": 5.9, "sepalWidth": 3, "petalLength": 4.2, "petalWidth": 1.5}
BODY_MAX = 64 * 1024
MANY = 100  # more than a worker holds, and two that wait
Answer = Tuple[int, Any, Dict[str, str]]


class Service:
    """One running service."""

    def __init__(self, program: Path, *options: str) -> None:
        self.process = subprocess.Popen([program, "-p", "0", *options], cwd=program.parent, stdout=subprocess.PIPE,
                                        text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("listening on http://127.0.0.1:"), line
        self.port = int(line.rpartition(":")[2])

    def __enter__(self) -> "Service":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def connect(self) -> http.client.HTTPConnection:
        """A connection of its own."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)

    def ask(self, method: str, path: str, body: Any = None) -> Answer:
        """Status, JSON and headers of one answer."""
        connection = self.connect()
        try:
            connection.request(method, path, body)
            return read(connection)
        finally:
            connection.close()

    def predict(self) -> Answer:
        """The answer for one flower."""
        return self.ask("POST", "/predict", json.dumps(FLOWER))

    def workers(self) -> List[int]:
        """The processes of the pool."""
        return children_of(self.process.pid)

    def signal_workers(self, number: int) -> None:
        """Sends a signal to all of them."""
        for pid in self.workers():
            os.kill(pid, number)

    def stop(self) -> str:
        """Tells it to stop; the rest of its output, once it has ended well."""
        self.process.send_signal(signal.SIGTERM)
        output, _ = self.process.communicate(timeout=120)
        assert self.process.returncode == 0, self.process.returncode
        return output


def read(connection: http.client.HTTPConnection) -> Answer:
    """An answer, which must be JSON."""
    response = connection.getresponse()
    headers = dict(response.getheaders())
    assert headers["Content-Type"] == "application/json"
    return response.status, json.loads(response.read()), headers


def answers(service: Service) -> None:
    """The model answers, one flower or many."""
    status, species, _ = service.predict()
    assert (status, species["name"]) == (200, "versicolor"), species
    status, reply, _ = service.ask("POST", "/batch", json.dumps({"flowers": [FLOWER] * 20}))
    assert status == 200 and [one["label"] for one in reply["species"]] == [1] * 20
    status, health, _ = service.ask("GET", "/health")
    assert status == 200 and health["workers"] == health["ready"] == 2 and health["failures"] == 0, health


def refuses_bad_requests(service: Service) -> None:
    """400, 404, 405 and 413 say what is wrong; the connection goes on where it can."""
    for body in ("", "{", '{"sepalLength": "wide"}', '{"no\\"such": 1}', b"1\0", b"\xff", "[" * 1000):
        status, reply, _ = service.ask("POST", "/predict", body)
        assert status == 400 and reply["error"], (body, status, reply)
    assert service.ask("POST", "/", "{}")[0] == 404
    status, _, headers = service.ask("GET", "/predict")
    assert status == 405 and headers["Allow"] == "POST"
    status, _, headers = service.ask("PUT", "/health", "{}")
    assert status == 405 and headers["Allow"] == "GET"
    connection = service.connect()
    for body, expected in (("x", 400), (json.dumps(FLOWER), 200)):
        connection.request("POST", "/predict", body)
        assert read(connection)[0] == expected
    connection.close()


def bounds_bodies(service: Service) -> None:
    """A body of 64 KiB is read, a larger one is refused, whether its size is announced or not."""
    spaces = json.dumps(FLOWER).ljust(BODY_MAX)
    assert service.ask("POST", "/predict", spaces)[0] == 200
    assert service.ask("POST", "/predict", spaces + " ")[0] == 413
    connection = service.connect()
    connection.request("POST", "/predict", iter([b" " * 1024] * 65), encode_chunked=True,
                       headers={"Transfer-Encoding": "chunked"})
    assert read(connection)[0] == 413
    connection.close()
    with socket.create_connection(("127.0.0.1", service.port), timeout=120) as endless:
        endless.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            while True:
                endless.sendall(b"400\r\n" + b" " * 1024 + b"\r\n")
        except OSError:
            pass  # it has had enough


def outlives_its_workers(service: Service) -> None:
    """Killed workers are replaced; requests wait for that."""
    before = service.workers()
    service.signal_workers(signal.SIGKILL)
    assert service.predict()[0] == 200
    assert not set(before) & set(service.workers())


def bears_load(service: Service, script: Path) -> None:
    """Every answer to wrk is a good one."""
    wrk = shutil.which("wrk")
    if wrk is None:
        print("skipped: no wrk here (Debian: wrk)")
        return
    done = subprocess.run([wrk, "-t", "1", "-c", "32", "-d", "2s", "--timeout", "60s", "-s", script,
                           f"http://127.0.0.1:{service.port}/predict"], check=True, stdout=subprocess.PIPE, text=True)
    count = next(int(line.split()[0]) for line in done.stdout.splitlines() if " requests in " in line)
    assert count > 0 and "Non-2xx" not in done.stdout and "Socket errors" not in done.stdout, done.stdout
    status, health, _ = service.ask("GET", "/health")
    assert status == 200 and health["calls"] >= count, health


def stops_in_order(service: Service) -> None:
    """What has begun is answered, what comes later is not let in."""
    service.signal_workers(signal.SIGSTOP)
    begun, idle = service.connect(), service.connect()
    idle.request("GET", "/health")
    read(idle)
    begun.request("POST", "/predict", json.dumps(FLOWER))
    idle.request("GET", "/health")  # so the one before has been read
    read(idle)
    service.process.send_signal(signal.SIGTERM)
    late: Optional[Answer] = None
    while late is None or late[0] != 503:
        idle.request("GET", "/health")
        late = read(idle)
        time.sleep(0.01)
    service.signal_workers(signal.SIGCONT)
    status, species, headers = read(begun)
    assert (status, species["name"], headers["Connection"]) == (200, "versicolor", "close")
    output, _ = service.process.communicate(timeout=120)
    assert service.process.returncode == 0 and output == "stopped\n", output
    begun.close()
    idle.close()


def says_when_it_is_too_busy(service: Service) -> None:
    """503 where no more may wait, 504 where it takes too long; afterwards all is well."""
    assert service.predict()[0] == 200
    service.signal_workers(signal.SIGSTOP)
    connections = [service.connect() for _ in range(MANY)]
    for connection in connections:
        connection.request("POST", "/predict", json.dumps(FLOWER))
    found = [read(connection) for connection in connections]
    for connection in connections:
        connection.close()
    service.signal_workers(signal.SIGCONT)
    assert {status for status, _, _ in found} == {503, 504}, found
    assert all(headers.get("Retry-After") == "1" for status, _, headers in found if status == 503)
    for _ in range(1000):  # until the worker is through with what was given up
        if service.predict()[0] == 200:
            break
    assert service.predict()[0] == 200
    assert service.stop() == "stopped\n"


def main() -> int:
    """Command line; one line for each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=Path)
    parser.add_argument("script", type=Path, help="post.lua")
    arguments = parser.parse_args()
    failed = 0

    def run(service: Service, case: Callable[..., None], *rest: Any) -> None:
        nonlocal failed
        try:
            case(service, *rest)
            print("ok", case.__name__)
        except Exception:  # pylint: disable=broad-except
            failed += 1
            traceback.print_exc()
            print("not ok", case.__name__)

    with Service(arguments.program, "-w", "2", "-t", "60000") as service:
        for case in (answers, refuses_bad_requests, bounds_bodies, outlives_its_workers):
            run(service, case)
        run(service, bears_load, arguments.script)
        run(service, stops_in_order)
    with Service(arguments.program, "-w", "1", "-t", "2000", "-q", "1") as service:
        run(service, says_when_it_is_too_busy)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
