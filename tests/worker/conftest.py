"""Fixtures: a host whose workers end with the test, and no descriptor is left."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

if os.environ.get("PYPROC_TEST_WORKER_DIR"):
    sys.path.insert(0, os.environ["PYPROC_TEST_WORKER_DIR"])

from support import Host  # noqa: E402


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """Starts worker processes."""
    before = set(os.listdir("/proc/self/fd"))
    host = Host(tmp_path)
    try:
        yield host
    finally:
        host.close()
    assert set(os.listdir("/proc/self/fd")) <= before
