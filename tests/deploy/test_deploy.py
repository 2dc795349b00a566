"""The files of examples/attached/deploy: syntax, how they fit, and the program against a worker run like that."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Iterator

import pytest

SOURCE = Path(__file__).resolve().parents[2]
DEPLOY = SOURCE / "examples/attached/deploy"
PATH = "/run/pyproc/worker.sock"


class Unit(configparser.RawConfigParser):
    """A systemd unit: options keep their case, and may stand twice."""

    def __init__(self, name: str) -> None:
        super().__init__(strict=False, interpolation=None, delimiters=("=",), comment_prefixes=("#", ";"))
        self.text = (DEPLOY / name).read_text(encoding="utf-8")
        self.read_string(self.text)

    def optionxform(self, optionstr: str) -> str:
        return optionstr


def test_units_are_right_for_systemd(tmp_path: Path) -> None:
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("systemd-analyze is not here")
    script = tmp_path / "worker.py"
    script.write_text("", encoding="utf-8")
    for name in ("pyproc-worker.service", "pyproc-worker.socket"):
        text = (DEPLOY / name).read_text(encoding="utf-8")
        text = text.replace("/opt/pyproc-worker/worker.py", str(script))
        (tmp_path / name).write_text(text, encoding="utf-8")
    units = [str(tmp_path / "pyproc-worker.socket"), str(tmp_path / "pyproc-worker.service")]
    done = subprocess.run([tool, "verify", *units], text=True, capture_output=True, timeout=60,
                          env={**os.environ, "SYSTEMD_LOG_TARGET": "console"})
    if re.search(r"Failed to (initialize|create|setup|start up) manager|Host is down|not been booted", done.stderr):
        pytest.skip(f"systemd-analyze cannot run here: {done.stderr.strip()[:200]}")
    ours = [line for line in done.stderr.splitlines() if "pyproc-worker" in line]
    assert done.returncode == 0 and not ours, done.stderr


def test_units_fit_the_worker() -> None:
    listens, serves = Unit("pyproc-worker.socket"), Unit("pyproc-worker.service")
    assert listens["Socket"]["ListenStream"] == PATH
    assert listens["Socket"]["Accept"] == "no" and listens["Socket"]["SocketMode"] == "0660"
    assert serves["Unit"]["Requires"] == "pyproc-worker.socket"
    assert shlex.split(serves["Service"]["ExecStart"])[1].endswith("/worker.py")
    assert serves["Service"]["Restart"] == "always" and serves["Service"]["NoNewPrivileges"] == "yes"
    peer = re.search(r"^Environment=PYPROC_PEER_UID=(\d+)$", serves.text, re.M)
    assert peer is not None


def test_pod() -> None:
    yaml = pytest.importorskip("yaml", reason="python3-yaml is not in this Python")
    pod: Any = yaml.safe_load((DEPLOY / "pod.yaml").read_text(encoding="utf-8"))
    assert (pod["apiVersion"], pod["kind"]) == ("v1", "Pod")
    spec = pod["spec"]
    containers = {container["name"]: container for container in spec["containers"]}
    assert set(containers) == {"worker", "program"}
    volumes = {volume["name"] for volume in spec["volumes"]}
    for container in containers.values():
        mount, = container["volumeMounts"]
        assert mount["name"] in volumes
        variables = {entry["name"]: entry["value"] for entry in container["env"]}
        assert variables["PYPROC_SOCKET_PATH"] == PATH and PATH.startswith(mount["mountPath"] + "/")
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
    for name in ("worker", "program"):  # one user, so that each is the other's peer
        user = re.search(r"^USER (\d+):(\d+)$", (DEPLOY / f"Dockerfile.{name}").read_text(encoding="utf-8"), re.M)
        assert user is not None and int(user.group(1)) == spec["securityContext"]["runAsUser"]


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """Of a Dockerfile: lines that end in a backslash go on."""
    for line in re.sub(r"\\\n", " ", text).splitlines():
        if line.strip() and not line.startswith("#"):
            word, _, rest = line.strip().partition(" ")
            yield word, rest.strip()


@pytest.mark.parametrize("name", ["Dockerfile.worker", "Dockerfile.program"])
def test_dockerfiles(name: str) -> None:
    stages: set[str] = set()
    words = []
    for word, rest in instructions((DEPLOY / name).read_text(encoding="utf-8")):
        words.append(word)
        assert word in {"FROM", "RUN", "COPY", "USER", "ENV", "WORKDIR", "ENTRYPOINT"}, word
        stage = re.search(r" AS (\w+)$", rest)
        if word == "FROM" and stage is not None:
            stages.add(stage.group(1))
        elif word == "COPY" and rest.startswith("--from="):
            assert rest.split()[0][len("--from="):] in stages
        elif word == "COPY":
            assert (SOURCE / rest.split()[0]).exists(), rest
        elif word == "RUN":
            subprocess.run(["sh", "-n", "-c", rest], check=True, timeout=10)
        elif word == "ENTRYPOINT":
            assert json.loads(rest)
    assert words[0] == "FROM" and words[-1] == "ENTRYPOINT"


def program() -> Path:
    path = Path(os.environ.get("PYPROC_TEST_BUILD", SOURCE / "build")) / "examples/attached/attached"
    if not path.exists():
        pytest.skip("the examples are not built")
    return path


@pytest.mark.parametrize("activated", [False, True], ids=["by path", "activated"])
def test_program_and_worker(tmp_path: Path, activated: bool) -> None:
    """As by hand, and as systemd does it: it listens, and starts the worker when somebody has connected."""
    path = tmp_path / "worker.sock"
    worker = [sys.executable, str(SOURCE / "examples/attached/worker.py")]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYPROC_")}
    attached = [str(program())]
    with socket.socket(socket.AF_UNIX) as listener:
        if activated:
            listener.bind(str(path))
            listener.listen(8)
            command = f'LISTEN_PID=$$ LISTEN_FDS=1 exec "$@" 3<&{listener.fileno()}'
            worker = ["bash", "-c", command, "bash", *worker]
        client = subprocess.Popen(attached, env={**clean, "PYPROC_SOCKET_PATH": str(path)}, stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, text=True)
        server = subprocess.Popen(worker, env=clean if activated else {**clean, "PYPROC_SOCKET_PATH": str(path)},
                                  pass_fds=[listener.fileno()] if activated else [])
        try:
            output, errors = client.communicate(timeout=60)
            assert client.returncode == 0, errors
            assert json.loads(output) == {"words": 6, "worker": server.pid}
        finally:
            client.kill()
            server.send_signal(signal.SIGTERM)
            assert server.wait(60) == 0
