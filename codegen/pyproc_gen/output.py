"""Writes files: atomically, and only those that change."""

from __future__ import annotations

import os
import tempfile
from typing import Dict, Iterable, List, Mapping, Optional

from pyproc_gen.errors import GeneratorError


def read(path: str) -> Optional[bytes]:
    """A file's content; None when there is no such file."""
    try:
        with open(path, "rb") as stream:
            return stream.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise GeneratorError([f"{path}:1:1: the file cannot be read: {error.strerror}"]) from None


def changed(contents: Mapping[str, bytes]) -> List[str]:
    """The paths whose files are absent or differ."""
    return [path for path in sorted(contents) if read(path) != contents[path]]


def write(path: str, content: bytes) -> None:
    """Replace a file in one step."""
    folder = os.path.dirname(path) or os.curdir
    temporary = ""
    try:
        os.makedirs(folder, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=".pyproc-gen-", dir=folder)
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)
        raise GeneratorError([f"{path}:1:1: the file cannot be written: {error.strerror}"]) from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_changed(contents: Mapping[str, bytes]) -> None:
    """Write the files that are absent or differ; the others keep their time."""
    for path in changed(contents):
        write(path, contents[path])


def _escaped(path: str) -> str:
    text = path.replace("\\", "\\\\").replace("$", "$$").replace("#", "\\#")
    return text.replace(" ", "\\ ")


def depfile(targets: Iterable[str], sources: Iterable[str]) -> bytes:
    """Make's syntax for: the targets depend on the sources."""
    lines = [" \\\n ".join(_escaped(path) for path in targets) + ":"]
    lines.extend(f" {_escaped(path)}" for path in sources)
    return (" \\\n".join(lines) + "\n").encode("utf-8")


def join(folder: str, contents: Mapping[str, bytes]) -> Dict[str, bytes]:
    """The same contents at paths below a folder."""
    return {os.path.join(folder, *path.split("/")): content for path, content in contents.items()}
