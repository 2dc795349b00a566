"""Builds the client of the Go library pyproc, where PYPROC_GO_SRC names a checkout of it and Go is there.

Usage: build.py FOLDER. The program becomes FOLDER/original/original; where it cannot be built pyproc-bench says so.
"""
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import List

HERE = Path(__file__).resolve().parent
MODULE = "github.com/YuminosukeSato/pyproc"


def run_go(go: str, command: List[str], folder: Path) -> bool:
    """One command of Go; what it complains about is shown."""
    done = subprocess.run([go, *command], cwd=folder, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        print(f"the client of the Go library is not built: {done.stdout.strip()}", file=sys.stderr)
    return done.returncode == 0


def build(go: str, source: Path, folder: Path) -> None:
    """In a copy, so that the checkout stays as it is."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(HERE, folder)
    commands = [["mod", "edit", f"-require={MODULE}@v0.0.0", f"-replace={MODULE}={source}"], ["mod", "tidy"],
                ["build", "-o", "original", "."]]
    all(run_go(go, command, folder) for command in commands)


def main() -> None:
    """Command line."""
    source, go = os.environ.get("PYPROC_GO_SRC"), shutil.which("go")
    if source and go:
        build(go, Path(source).resolve(), Path(sys.argv[1]).resolve() / "original")


if __name__ == "__main__":
    main()
