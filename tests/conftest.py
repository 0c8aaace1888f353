"""Airflow's own folder for the tests, before anything imports airflow: it reads its settings, and makes its folder, at import."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from operators.compute.cluster.local import LocalCluster

os.environ["AIRFLOW_HOME"] = str(Path(__file__).resolve().parents[1] / "var" / "test-airflow")
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
os.environ["AIRFLOW__CORE__UNIT_TEST_MODE"] = "False"
settings.register_profile("tests", deadline=None)  # how long an example takes says how busy the machine is
settings.load_profile("tests")


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[LocalCluster]:
    """A real Ray cluster for the whole session, and nothing left of it afterwards."""
    from operators.compute.cluster import local
    from operators.core import processes

    folder = local.folder_for(f"test-{os.getpid()}")
    try:
        yield local.start(folder, num_cpus=2)
    finally:
        local.stop(folder)
    assert not folder.exists()
    assert not list(processes.marked("TAXIWAY_LOCAL_RAY", str(folder)))
