"""What the generator says when it cannot go on: never a traceback."""

from __future__ import annotations

from typing import Iterable, List

from pyproc_gen.model import Location


class GeneratorError(Exception):
    """A failure with its lines of text, each complete: `file:line:col: message`, or `pyproc-gen: message`."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.lines: List[str] = list(lines)
        super().__init__("\n".join(self.lines))


class Problems:
    """Collects what is wrong with a schema, so that one run names everything."""

    def __init__(self) -> None:
        self._lines: List[str] = []

    def add(self, location: Location, message: str) -> None:
        """Note that `message` holds at `location`."""
        line = f"{location}: {message}"
        if line not in self._lines:
            self._lines.append(line)

    def raise_any(self) -> None:
        """Raise GeneratorError if anything was noted."""
        if self._lines:
            raise GeneratorError(self._lines)
