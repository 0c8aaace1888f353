"""Deployments that are asked for at the same time."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from ray_jobs.agent.serve_deployer import Deployer
from tests.support.specs import small_spec
from tests.support.waiting import until


def test_applications_are_built_one_at_a_time_and_nobody_waits_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Serve cannot build two at once in one process: the modules that it pickles by value are kept in a global."""
    from ray import serve

    spec = small_spec()
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
    until(lambda: threading.active_count() <= before, "all are deployed")
    assert not deployer._failed
    assert sorted(deployed) == sorted(f"{spec.name}-{version}" for version in range(30))
