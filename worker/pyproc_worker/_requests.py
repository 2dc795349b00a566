"""What the base classes that pyproc-gen writes say of the messages that a client sends in a stream."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TypeVar

Message = TypeVar("Message", covariant=True)


class Requests(Iterator[Message], AsyncIterator[Message]):
    """The messages of a stream, for type checkers: no object is of this class.

    A plain handler gets an ``Iterator``, an async one an ``AsyncIterator``. A base class cannot know which, so that it
    says both; a handler declares its own ``requests`` as the one that it gets.
    """
