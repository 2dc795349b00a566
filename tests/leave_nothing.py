"""A plugin for pytest: what tests write into temporary folders is removed at the end, where pytest would keep it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """A folder of this run's own, unless one is given: runs would share, and leave, the one that pytest takes.

    Plugins that are named are asked before those that are built in, of which one reads the option.
    """
    if config.option.basetemp is None:
        config.option.basetemp = tempfile.mkdtemp(prefix="pyproc-pytest-")


@pytest.fixture(scope="session", autouse=True)
def leave_nothing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The first fixture, and so the last that ends."""
    yield
    shutil.rmtree(tmp_path_factory.getbasetemp(), ignore_errors=True)
