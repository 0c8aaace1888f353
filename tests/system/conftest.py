"""A stack of its own for the system test: real services, free ports, a folder that goes away."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.specs import change_yaml

if TYPE_CHECKING:
    from operators.stack.config import Stack

ROOT = Path(__file__).resolve().parents[2]
_OFFSETS = (300, 500, 900, 1100)  # a stack that a developer runs has the ports at 0


@dataclass
class System:
    """The running stack."""

    play: object
    include: Path
    stack: object


# A slice of the shipped example: two weeks, ten rounds, short bakes, margins for few requests.
SMALLER = {
    "data.window": "14d",
    "data.holdout": "3d",
    "training.parameters.rounds": 10,
    "training.scaling.workers": 2,
    "gate.require.roc_auc.min": 0.5,
    "gate.margin": 0.5,
    **{f"release.steps.{index}.bake": "3s" for index in range(3)},
    "release.judge.min_requests": 15,
    "release.judge.failures.margin_pct": 5,
    "release.judge.slow.margin_pct": 10,
    "release.keep_warm": "1s",
}


@contextmanager
def running(folder: Path, dags: Path | None = None) -> Iterator[Stack]:
    """Bring up a stack with what is in ``folder/include``; its variables are in the environment until it is down again."""
    from operators.core.errors import ConfigurationError
    from operators.stack import preflight, supervisor
    from operators.stack.config import Stack

    kept = dict(os.environ)
    os.environ.update(TAXIWAY_HOME=str(folder / "home"), TAXIWAY_INCLUDE=str(folder / "include"))
    os.environ.pop("TAXIWAY_DAGS", None)
    if dags is not None:
        os.environ["TAXIWAY_DAGS"] = str(dags)
    os.environ.pop("AIRFLOW_HOME", None)  # the DAG tests have one of their own

    def free(offset: int) -> bool:
        os.environ["TAXIWAY_PORT_OFFSET"] = str(offset)
        try:
            preflight.check_ports(Stack.load())
        except ConfigurationError:
            return False
        return True

    if not any(free(offset) for offset in _OFFSETS):
        pytest.fail(f"the ports at none of the offsets {_OFFSETS} are free")
    stack = Stack.load()
    try:
        os.environ.update(supervisor.ensure_up(stack, progress=print))
        yield stack
    finally:
        supervisor.down(stack)
        left = supervisor.leftovers(stack)
        os.environ.clear()
        os.environ.update(kept)
        if not left:
            shutil.rmtree(folder, ignore_errors=True)
    assert not left, f"`down` left processes: {left}"


@pytest.fixture(scope="session")
def system() -> Iterator[System]:
    from operators.core.loader import load_spec
    from operators.core.settings import storage_url
    from operators.core.storage import Storage
    from operators.demo.acts import Play
    from operators.demo.airflow import Airflow
    from operators.demo.seed import seed_flights
    from operators.demo.view import View

    folder = Path(tempfile.mkdtemp(prefix="tw-test-"))
    include = Path(shutil.copytree(ROOT / "include", folder / "include"))
    spec_path = include / "models" / "flight_delay.yaml"
    change_yaml(spec_path, SMALLER)
    with running(folder, Path(__file__).parent / "dags") as stack:
        seed_flights(Storage(storage_url()), months=[1])
        airflow = Airflow(stack.airflow_url, "admin", stack.secrets.airflow_password)
        view = View(lambda: "")
        play = Play(load_spec(spec_path), airflow, view, os.environ)
        for dag_id in ("flight_delay.train", "flight_delay.release", "rollback", "retire", "reconcile"):
            airflow.wait_for_dag(dag_id)
        yield System(play, include, stack)
