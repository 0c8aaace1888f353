from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.support.specs import change_yaml

ROOT = Path(__file__).resolve().parents[2]
DAGS = ROOT / "dags"
MOST_OF_AIRFLOWS_IMPORT = 0.3

# Runs in a process of its own: what a dag-processor does with a file, timed, with deprecations as errors.
_PARSE = """
import json, sys, time, warnings
began = time.process_time()
import airflow.sdk
from airflow.timetables.trigger import CronTriggerTimetable
from airflow.dag_processing.dagbag import DagBag
airflow_cpu_s = time.process_time() - began
warnings.simplefilter("error")
warnings.filterwarnings("ignore", category=ResourceWarning)
from importlib.util import module_from_spec, spec_from_file_location
began = time.process_time()
module = module_from_spec(spec_from_file_location("parsed", sys.argv[1]))
module.__spec__.loader.exec_module(module)
cpu_s = time.process_time() - began
heavy = sorted({"ray", "mlflow", "great_expectations", "pandas", "numpy", "duckdb", "pyarrow", "boto3"} & set(sys.modules))
bag = DagBag(sys.argv[1])
print(json.dumps({
    "cpu_s": cpu_s,
    "airflow_cpu_s": airflow_cpu_s,
    "heavy": heavy,
    "errors": bag.import_errors,
    "dags": {d.dag_id: {t.task_id: sorted(t.downstream_task_ids) for t in d.tasks} for d in bag.dags.values()},
    "params": {d.dag_id: list(d.params) for d in bag.dags.values()},
}))
"""


@cache
def parse(path: Path, include: Path | None = None) -> dict[str, Any]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    if include is not None:
        env["TAXIWAY_INCLUDE"] = str(include)
    done = subprocess.run(
        [sys.executable, "-c", _PARSE, str(path)], env=env, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("path", sorted(DAGS.glob("*.py")), ids=lambda path: path.stem)
def test_files_import_without_deprecations_and_heavy_modules(path: Path) -> None:
    found = parse(path)
    assert found["errors"] == {}
    assert found["heavy"] == []
    assert found["dags"] or path.stem == "broken_specs"


def test_parsing_is_fast() -> None:
    """A part of what Airflow's own import costs, in processor time: that a busy machine is no reason."""
    tries = (parse.__wrapped__(DAGS / "models.py") for _ in range(3))
    assert min(found["cpu_s"] / found["airflow_cpu_s"] for found in tries) < MOST_OF_AIRFLOWS_IMPORT


def test_hundred_specs(include: Path) -> None:
    models = include / "models"
    for n in range(99):
        change_yaml(models / "flight_delay.yaml", {"name": f"model_{n}"}, to=models / f"model_{n}.yaml")
    found = parse(DAGS / "models.py", include)
    assert len(found["dags"]) == 200
    assert found["cpu_s"] < 3 * found["airflow_cpu_s"]


def test_shape_of_the_dags() -> None:
    dags = parse(DAGS / "models.py")["dags"]
    train, release = dags["flight_delay.train"], dags["flight_delay.release"]
    assert list(train) == ["snapshot", "validate", "train", "evaluate", "gate", "register"]
    assert [t for t in release if t.startswith("canary")] == ["canary_5_pct", "canary_25_pct", "canary_50_pct"]
    for task in ("deploy", "smoke_test", "canary_5_pct", "canary_50_pct", "promote"):
        assert "roll_back" in release[task]


def test_second_model_is_one_file(include: Path) -> None:
    models = include / "models"
    change = {"name": "second", "release.steps.0.weight_pct": 0.5}
    change_yaml(models / "flight_delay.yaml", change, to=models / "second.yaml")
    dags = parse(DAGS / "models.py", include)["dags"]
    assert set(dags) == {"flight_delay.train", "flight_delay.release", "second.train", "second.release"}
    assert "canary_0_5_pct" in dags["second.release"]


def test_broken_spec_is_an_import_error_and_others_live_on(include: Path) -> None:
    path = include / "models" / "second.yaml"
    change = {"name": "second", "training.scaling.wrokers": 1, "release.steps.0.bake": 10}
    change_yaml(include / "models" / "flight_delay.yaml", change, to=path)
    found = parse(DAGS / "models.py", include)
    assert set(found["dags"]) == {"flight_delay.train", "flight_delay.release"}
    # An error in this file would pause the good model too; another file says it.
    assert found["errors"] == {}
    (message,) = parse(DAGS / "broken_specs.py", include)["errors"].values()
    assert f"{path}:" in message
    assert "training.scaling.wrokers: unknown key; did you mean 'workers'?" in message
    assert "10 is not a duration" in message


def test_forms() -> None:
    parsed = parse(DAGS / "operations.py")
    assert parsed["params"]["rollback"] == ["model", "version", "reason"]
    # Neither waits for the other: a model that only a person can mend does not keep the copies of drills.
    assert parsed["dags"]["reconcile"] == {"reconcile": [], "remove_drill_copies": []}
    params = parse(DAGS / "models.py")["params"]
    assert params["flight_delay.train"] == ["as_of", "parameters", "sources"]
    assert params["flight_delay.release"] == ["version"]
