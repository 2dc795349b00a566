"""A plugin for pytest: what tests write into temporary folders is removed at the end, where pytest would keep it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def leave_nothing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The first fixture, and so the last that ends."""
    yield
    shutil.rmtree(tmp_path_factory.getbasetemp(), ignore_errors=True)
