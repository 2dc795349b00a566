"""Our pool drives workers that know no handshake: the Go library's package from PyPI, and our own on a path."""
from pathlib import Path

from support import FOLDER, python, run_parts, show, venv

PACKAGE = "pyproc-worker==0.1.0"


def others(build: Path, work: Path) -> None:
    """The Go library's worker package."""
    program = venv(work / "venv", [PACKAGE])
    show(PACKAGE, [str(build / "bin" / "interop_bare_worker"), program, str(FOLDER / "library_worker.py"), "other"])


def ours(build: Path, _work: Path) -> None:
    """Our worker package, which also serves clients without a handshake."""
    program = str(build / "bin" / "interop_bare_worker")
    show("our package", [program, python(), str(FOLDER / "library_worker.py"), "own"],
         env={"PYTHONPATH": str(build / "lib" / "pyproc" / "worker")})


if __name__ == "__main__":
    run_parts([others, ours])
