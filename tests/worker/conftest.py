"""Fixtures: a host whose workers end with the test, and no descriptor is left."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from grpc_support import GrpcHost

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


@pytest.fixture
def grpc_host(tmp_path: Path) -> Iterator[GrpcHost]:
    """Starts workers that serve gRPC, and clients; grpc keeps descriptors of its own in this process."""
    from grpc_support import GrpcHost
    made = GrpcHost(Host(tmp_path))
    yield made
    made.close()
    made.host.close()
