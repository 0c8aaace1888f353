"""Deployments that are asked for at the same time."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from operators.core.loader import load_specs
from ray_jobs.agent.serve_deployer import Deployer


def test_applications_are_built_one_at_a_time_and_nobody_waits_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Serve cannot build two at once in one process: the modules that it pickles by value are kept in a global."""
    from ray import serve

    spec = load_specs()[0][0]
    deployed: list[str] = []

    def run_many(targets: list[Any], **waits: bool) -> None:
        assert not any(waits.values())
        deployed.extend(target.name for target in targets)

    monkeypatch.setattr(serve, "run_many", run_many)
    deployer = Deployer("http://127.0.0.1:1", tmp_path, {})
    monkeypatch.setattr(deployer, "states", dict)
    before = threading.active_count()
    for version in range(30):
        deployer.deploy(spec.name, str(version), spec.to_json(), "models:/m")
    end = time.monotonic() + 60
    while threading.active_count() > before and time.monotonic() < end:
        time.sleep(0.02)
    assert not deployer._failed
    assert sorted(deployed) == sorted(f"{spec.name}-{version}" for version in range(30))
