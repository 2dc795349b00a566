"""Workers that serve gRPC, called by a plain grpcio client."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import Host

grpc = pytest.importorskip("grpc")
pytest.importorskip("google.protobuf")

from grpc_support import (BytesValue, DoubleValue, GrpcHost, Int64Value, StringValue,  # noqa: E402
                          error_object, failing)


@pytest.fixture
def grpc_host(tmp_path: Path) -> Iterator[GrpcHost]:
    """Starts workers and clients; grpc keeps descriptors of its own in this process."""
    made = GrpcHost(Host(tmp_path))
    yield made
    made.close()
    made.host.close()


@pytest.mark.parametrize("prefix", ["", "Async"])
def test_unary(grpc_host: GrpcHost, prefix: str) -> None:
    worker, client = grpc_host.start()
    assert "grpc" in worker.hello["features"] and "status_page" not in worker.hello["features"]
    for number in range(20):
        assert client.number(prefix + "Twice", number) == number * 2
    assert worker.stop() == 0
    assert worker.stop() == 0
    assert worker.output() == "started\nstopped\n"
