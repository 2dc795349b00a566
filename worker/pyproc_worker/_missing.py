"""What to say where the extension was not built for the interpreter that runs."""

from __future__ import annotations

import os
import shlex
import sys


def source_of(package: str) -> str:
    """Where pip can install the package from: what a file SOURCE beside it names, else the package's name."""
    try:
        with open(os.path.join(os.path.dirname(package), "SOURCE"), encoding="utf-8") as file:
            return file.read().strip() or "pyproc_worker"
    except OSError:
        return "pyproc_worker"


def missing_extension(error: ImportError) -> ImportError:
    """The error that names the one command that mends it."""
    package = os.path.dirname(os.path.abspath(__file__))
    version = ".".join(map(str, sys.version_info[:2]))
    command = shlex.join([sys.executable or "python3", "-m", "pip", "install", source_of(package)])
    return ImportError(f"the extension of pyproc_worker in {package} does not fit {sys.executable} (Python {version}; "
                       f"{error}): run `{command}`", name="pyproc_worker._ext", path=package)


def missing_grpc(error: ImportError) -> ImportError:
    """The same for what a gRPC worker needs besides."""
    command = shlex.join([sys.executable or "python3", "-m", "pip", "install", "grpcio", "protobuf"])
    return ImportError(f"this Python ({sys.executable}) lacks what a gRPC worker needs ({error}): run `{command}`",
                       name=error.name, path=error.path)
