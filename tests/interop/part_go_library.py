"""The Go library's pool, and its own tests, with our worker package in place of its own.

PYPROC_GO_SRC names a checkout of it (YuminosukeSato/pyproc); a copy of that is worked on.
"""
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Dict, List, Tuple

from support import FOLDER, Skip, go, last_line, ok, python, run, run_parts, show

MODULE = "github.com/YuminosukeSato/pyproc"


def checkout() -> Path:
    """The folder that PYPROC_GO_SRC names."""
    name = os.environ.get("PYPROC_GO_SRC")
    if not name:
        raise Skip("PYPROC_GO_SRC names no checkout of the Go library pyproc")
    if not (Path(name) / "go.mod").is_file():
        raise Skip(f"PYPROC_GO_SRC: {name} has no go.mod")
    return Path(name).resolve()


def copy_of_library(build: Path, work: Path) -> Path:
    """A copy of the checkout, with our package where its own is."""
    source, copy = checkout(), work / "library"
    if copy.exists():
        shutil.rmtree(copy)
    shutil.copytree(source, copy, symlinks=True, ignore=shutil.ignore_patterns(".git"))
    theirs = copy / "worker" / "python" / "pyproc_worker"
    shutil.rmtree(theirs)
    theirs.symlink_to(build / "lib" / "pyproc" / "worker" / "pyproc_worker")
    done = run([go(), "mod", "download"], copy)
    if done.returncode != 0:
        raise Skip(f"the modules of the Go library cannot be had: {last_line(done.stdout)}")
    return copy


def environment(work: Path) -> Dict[str, str]:
    """One in which python3 is the Python that our package was built for."""
    folder = work / "bin"
    folder.mkdir(exist_ok=True)
    program = folder / "python3"
    program.write_text(f'#!/bin/sh\nexec "{shutil.which(python())}" "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


def results(output: str) -> Tuple[Dict[str, str], Dict[str, List[str]]]:
    """How each test ended, and what it printed, from the output of `go test -json`."""
    ends: Dict[str, str] = {}
    texts: Dict[str, List[str]] = {}
    for line in output.splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if "Test" not in event:
            continue
        name = f"{event['Package'].rpartition('/')[2]}.{event['Test']}"
        if event["Action"] in ("pass", "fail", "skip"):
            ends[name] = event["Action"]
        elif event["Action"] == "output":
            texts.setdefault(name, []).append(event["Output"].rstrip())
    return ends, texts


def its_tests(build: Path, work: Path) -> None:
    """All Go tests of the library."""
    copy = copy_of_library(build, work)
    done = run([go(), "test", "-count=1", "-json", "./..."], copy, environment(work), timeout=1200)
    ends, texts = results(done.stdout)
    counts = {word: sum(end == word for end in ends.values()) for word in ("pass", "fail", "skip")}
    for name, end in sorted(ends.items()):
        if end == "fail":
            ok(False, f"its own test {name}", " ".join(texts.get(name, [])[-3:]))
    if done.returncode != 0 and not counts["fail"]:
        ok(False, "its own tests", last_line(done.stdout))
    ok(counts["pass"] > 0, f"its own tests: {counts['pass']} pass, {counts['skip']} skip", last_line(done.stdout))


def its_pool(build: Path, work: Path) -> None:
    """A program of ours with the library's pool."""
    copy, program = copy_of_library(build, work), work / "program"
    if program.exists():
        shutil.rmtree(program)
    shutil.copytree(FOLDER / "go", program)
    for command in (["mod", "edit", f"-require={MODULE}@v0.0.0", f"-replace={MODULE}={copy}"], ["mod", "tidy"]):
        done = run([go(), *command], program)
        if done.returncode != 0:
            raise Skip(f"the modules of the Go library cannot be had: {last_line(done.stdout)}")
    done = run([go(), "build", "-o", "library_pool", "."], program)
    if done.returncode != 0:
        ok(False, "our Go program builds", last_line(done.stdout))
        return
    with tempfile.TemporaryDirectory(prefix="pyproc-") as sockets:
        show("the Go library's pool",
             [str(program / "library_pool"), "python3", str(FOLDER / "library_worker.py"), f"{sockets}/worker"],
             env={**environment(work), "PYTHONPATH": str(copy / "worker" / "python")})


if __name__ == "__main__":
    run_parts([its_tests, its_pool])
