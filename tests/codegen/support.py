"""What the generator's tests share: running it, compilers, and the golden cases."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
BAD_SCHEMAS = ROOT / "tests" / "bad_schemas"
INCLUDE = ROOT / "runtime" / "include"
WORKER = ROOT / "worker"

WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror"]
COMPILERS: Dict[str, List[str]] = {
    "gcc": ["gcc", "-std=c11"],
    "clang": ["clang", "-std=c11"],
    "g++": ["g++", "-x", "c++", "-std=c++17"],
}


@dataclass(frozen=True)
class Case:
    """A golden case: its folder below tests/golden and the files that are named to the generator."""

    name: str
    files: Tuple[str, ...]

    def __str__(self) -> str:
        return self.name

    @property
    def folder(self) -> Path:
        """Where its schemas and its `expected` folder are."""
        return GOLDEN / self.name


CASES = (
    Case("chat", ("chat.proto",)),
    Case("imports", ("acme/a/service-one.proto", "acme/b/service.proto")),
    Case("options", ("options.proto",)),
    Case("proto2", ("proto2.proto",)),
    Case("quickstart", ("quickstart.proto",)),
    Case("reserved", ("reserved.proto", "no_package.proto", "pyproc.proto")),
    Case("types", ("types.proto",)),
)


def environment(extra: Optional[Mapping[str, str]] = None) -> Dict[str, str]:
    """The environment for the generator and for generated Python."""
    return {**os.environ, "PYTHONPATH": str(ROOT / "codegen"), **(extra or {})}


def run_generator(arguments: Sequence[str], cwd: Path, extra: Optional[Mapping[str, str]] = None,
                  module: str = "pyproc_gen", data: Optional[str] = None) -> "subprocess.CompletedProcess[str]":
    """Run pyproc-gen, or another module of its package; whatever it does, it must not show a traceback."""
    done = subprocess.run([sys.executable, "-m", module, *arguments], cwd=cwd, env=environment(extra), input=data,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def generate(files: Sequence[str], cwd: Path, out: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    """Run pyproc-gen, which must succeed."""
    done = run_generator([*files, "--out", str(out), *options], cwd)
    assert done.returncode == 0, done.stderr
    return done


def compile_check(compiler: str, sources: Sequence[Path], folders: Sequence[Path]) -> None:
    """Compile without a warning, writing nothing."""
    if shutil.which(compiler) is None:
        pytest.skip(f"skipped: no {compiler} here")
    command = [*COMPILERS[compiler], *WARNINGS, "-fsyntax-only", *(f"-I{folder}" for folder in (*folders, INCLUDE)),
               *map(str, sources)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True,
                          check=False)
    assert done.returncode == 0, done.stdout


def run_python(code: str, *folders: Path) -> str:
    """The output of Python code that finds modules in `folders`; it must end well."""
    found = os.pathsep.join(map(str, folders))
    done = subprocess.run([sys.executable, "-c", code], env=environment({"PYTHONPATH": found}), stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, universal_newlines=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def tree(folder: Path) -> Dict[str, bytes]:
    """All files below a folder: path -> content."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def ours(folder: Path) -> Dict[str, bytes]:
    """The files of a tree that pyproc-gen lays out itself, not protoc or protoc-gen-c, whose text varies by release."""
    endings = (".pyproc.h", ".pyproc.c", "_pyproc.py", "worker.py")
    return {path: content for path, content in tree(folder).items() if path.endswith(endings)}
