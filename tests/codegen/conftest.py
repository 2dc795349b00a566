"""Fixtures of the generator's tests."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Dict, List

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "codegen"))

import support  # noqa: E402


class Generated:
    """Generates each golden case once for all tests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notes: Dict[str, str] = {}

    def case(self, case: support.Case) -> Path:
        """The folder with a case's files."""
        out = self.folder / case.name
        if case.name not in self.notes:
            self.notes[case.name] = support.generate(case.files, case.folder, out).stderr
        return out


@pytest.fixture(scope="session")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Generated:
    """The golden cases' files."""
    return Generated(tmp_path_factory.mktemp("golden"))


@pytest.fixture(scope="session")
def well_known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the C files of protobuf's own types."""
    out = tmp_path_factory.mktemp("well-known")
    done = support.run_generator(["--well-known", "--out", str(out)], out)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="session")
def worker_package(tmp_path_factory: pytest.TempPathFactory) -> List[Path]:
    """What generated modules need on Python's path: a built worker package, or one that only declares it.

    They use a handful of names of pyproc_worker, whose C extension need not be built to test the generator.
    """
    builds = [support.ROOT / build / "lib" / "pyproc" / "worker" for build in ("build", "build-dev")]
    for entry in [*map(Path, sys.path), *builds]:
        if list(entry.glob("pyproc_worker/_ext*.so")):
            return [entry]
    folder = tmp_path_factory.mktemp("worker")
    (folder / "pyproc_worker.py").write_text(Path(support.__file__).with_name("declared_worker.py").read_text())
    return [folder]
