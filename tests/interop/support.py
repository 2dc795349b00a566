"""What the parts share: finding programs and packages, running them, and telling how it went."""
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence

FOLDER = Path(__file__).resolve().parent


class Skip(Exception):
    """The part cannot be had here; its text is the reason."""


def python() -> str:
    """The Python for which the worker package was built."""
    return os.environ.get("PYPROC_PYTHON") or sys.executable


def ok(good: bool, name: str, why: str = "") -> None:
    """Tells of one case."""
    text = " ".join(f"{name}: {why}".split()) if why and not good else name
    print(f"{'ok' if good else 'not ok'} {text}", flush=True)


def skipped(reason: str) -> None:
    """Tells of a part that cannot be reached."""
    print(f"skipped: {' '.join(reason.split())}", flush=True)


def run_parts(parts: Sequence[Callable[[Path, Path], None]]) -> None:
    """Runs functions with the build folder and the folder to work in, as the command line names them."""
    build, work = Path(sys.argv[1]), Path(sys.argv[2])
    for part in parts:
        try:
            part(build, work)
        except Skip as reason:
            skipped(str(reason))


def run(command: Sequence[str], cwd: Optional[Path] = None, env: Optional[Dict[str, str]] = None,
        timeout: float = 600) -> "subprocess.CompletedProcess[str]":
    """Runs a command to its end; its output in one text. `env` is added to the environment."""
    try:
        return subprocess.run(list(command), cwd=cwd, env={**os.environ, **(env or {})}, text=True, errors="replace",
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout, check=False)
    except subprocess.TimeoutExpired as error:
        output = error.stdout.decode(errors="replace") if isinstance(error.stdout, bytes) else error.stdout or ""
        return subprocess.CompletedProcess(list(command), 124, f"{output}\nnot done within {timeout:g} s")


def show(title: str, command: Sequence[str], cwd: Optional[Path] = None, env: Optional[Dict[str, str]] = None) -> None:
    """Runs a program that prints `ok …` and `not ok …` itself, and passes these lines on."""
    done = run(command, cwd, env)
    lines = done.stdout.splitlines()
    cases = [line for line in lines if line.startswith(("ok ", "not ok "))]
    for line in cases:
        word, _, name = line.partition("ok ")
        print(f"{word}ok {title}: {name}", flush=True)
    if done.returncode != 0 and not any(line.startswith("not ok ") for line in cases):
        ok(False, f"{title}: status {done.returncode}")
    if done.returncode != 0:
        print("\n".join(f"  {line}" for line in lines[-40:]), flush=True)


def last_line(text: str) -> str:
    """The last line that says something."""
    lines: List[str] = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no output"


def venv(folder: Path, packages: Sequence[str]) -> str:
    """The Python of a virtual environment with these packages from PyPI."""
    program = folder / "bin" / "python3"
    if not program.exists():
        done = run([python(), "-m", "venv", str(folder)])
        if done.returncode != 0:
            raise Skip(f"no virtual environment: {last_line(done.stdout)}")
    done = run([str(program), "-m", "pip", "install", "-q", "--disable-pip-version-check", *packages])
    if done.returncode != 0:
        raise Skip(f"{', '.join(packages)} cannot be installed: {last_line(done.stdout)}")
    return str(program)


def go() -> str:
    """The Go command."""
    found = shutil.which("go")
    if found is None:
        raise Skip("there is no go on PATH")
    return found
