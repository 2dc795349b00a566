"""Names of the files that are written."""

from __future__ import annotations

import re
from typing import List


def stem(name: str) -> str:
    """A schema file's name without `.proto`."""
    return name[:-len(".proto")] if name.endswith(".proto") else name


def pb_header(name: str) -> str:
    """protobuf-c's header of a schema file."""
    return f"{stem(name)}.pb-c.h"


def pyproc_header(name: str) -> str:
    """Our header of a schema file."""
    return f"{stem(name)}.pyproc.h"


def c_files(name: str) -> List[str]:
    """The C files of a schema file."""
    return [f"{stem(name)}.{ending}" for ending in ("pb-c.h", "pb-c.c", "pyproc.h", "pyproc.c")]


def python_module(name: str, suffix: str) -> str:
    """The Python module of a schema file, by protoc's rule: `a-b/c.proto` with `_pb2` is `a_b.c_pb2`."""
    return stem(name).replace("-", "_").replace("/", ".") + suffix


def python_file(module: str, ending: str = ".py") -> str:
    """The file of a module."""
    return module.replace(".", "/") + ending


def python_files(name: str) -> List[str]:
    """The Python files of a schema file."""
    messages = python_module(name, "_pb2")
    return [python_file(messages), python_file(messages, ".pyi"), python_file(python_module(name, "_pyproc"))]


def guard(name: str) -> str:
    """The include guard of a schema file's header; different for different files."""
    return "PYPROC_GENERATED_" + re.sub(r"[^A-Za-z0-9]", lambda match: f"_{ord(match[0]):x}", name) + "_H"
