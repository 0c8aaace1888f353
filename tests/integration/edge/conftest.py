"""A real HAProxy in front of small real HTTP servers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ray_jobs.edge import Edge, EdgeConfig
from tests.support.edge_servers import Caller, Versions, split
from tests.support.ports import free_port


@pytest.fixture
def versions() -> Iterator[Versions]:
    server = Versions()
    yield server
    server.close()


@pytest.fixture
def config(versions: Versions, tmp_path: Path) -> EdgeConfig:
    return EdgeConfig(
        bind=f"127.0.0.1:{free_port()}",
        upstream=f"127.0.0.1:{versions.server_port}",
        # Longer than the 107 bytes of a Unix socket's path.
        state_dir=tmp_path / ("long" * 30),
        stable_timeout_s=5,
        breaker_s=1,
    )


@pytest.fixture
def edge(config: EdgeConfig) -> Iterator[Edge]:
    edge = Edge(config)
    edge.start()
    yield edge
    edge.stop()


@pytest.fixture
def call(edge: Edge) -> Caller:
    edge.set_route(split(0))
    return Caller(edge)
