from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from operators.core.errors import ConfigurationError
from operators.core.spec_training import Scaling
from ray_jobs.trainers import lightgbm_classifier, tabular_network
from ray_jobs.training import train
from ray_jobs.training.contract import TrainingRun
from ray_jobs.training.distributed import refusal_in, scaling_config, task_options
from ray_jobs.training.provenance import code_commit, code_digest, pinned
from tests.support.training import spec


def given(**changes: Any) -> dict[str, Any]:
    return {
        "spec": spec().to_json(),
        "dataset": {"key": "k", "digest": "d1"},
        "end": "2013-02-01T00:00:00",
        "tags": {"taxiway.dag_run": "manual__1"},
        **changes,
    }


def name(
    changes: dict[str, Any], parameters: dict[str, Any] | None = None, code: str = "c1", key: str = "jobs/1"
) -> str:
    return train.checkpoint_name(given(**changes), parameters or {}, code, key)


def test_a_job_that_is_tried_again_finds_its_checkpoints() -> None:
    assert name({}, key="jobs/1") == name({}, key="jobs/2")
    assert name({}).startswith("late-")
    outside = {"tags": {}}
    assert name(outside, key="jobs/1") == name(outside, key="jobs/1") != name(outside, key="jobs/2")


@pytest.mark.parametrize(
    "other",
    [
        name({"tags": {"taxiway.dag_run": "manual__2"}}),
        name({"dataset": {"key": "k", "digest": "d2"}}),
        name({"end": "2013-02-02T00:00:00"}),
        name({"spec": spec(scaling={"workers": 2}).to_json()}),
        name({}, {"seed": 1}),
        name({}, code="c2"),
    ],
)
def test_other_work_has_other_checkpoints(other: str) -> None:
    assert other != name({})


def test_the_commit_is_told_or_found_or_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TAXIWAY_CODE_COMMIT", raising=False)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    file = tmp_path / "repository" / "code.py"
    file.parent.mkdir()
    file.write_text("x = 1\n")
    assert code_commit(file) == "unknown"
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@t", "-C", str(file.parent)]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "code.py"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "one"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert code_commit(file) == head
    monkeypatch.setenv("TAXIWAY_CODE_COMMIT", "abc123")
    assert code_commit(file) == "abc123"
    monkeypatch.delenv("TAXIWAY_CODE_COMMIT")
    monkeypatch.setenv("PATH", str(tmp_path))  # no git
    assert code_commit(file) == "unknown"


def test_the_digest_changes_with_the_code(tmp_path: Path) -> None:
    file = tmp_path / "code.py"
    file.write_text("x = 1\n")
    before = code_digest(file)
    file.write_text("x = 2\n")
    assert code_digest(file) != before


def test_requirements_are_pinned() -> None:
    import xgboost

    assert pinned("xgboost", "xgboost-cpu") == f"xgboost=={xgboost.__version__}"
    with pytest.raises(ConfigurationError, match="no-such-thing is not installed on the Ray cluster"):
        pinned("no-such-thing")


@pytest.mark.parametrize(
    ("scaling", "group", "task"),
    [
        (
            Scaling(workers=4, cpus_per_worker=2, gpus_per_worker=1),
            {"num_workers": 4, "use_gpu": True, "resources_per_worker": {"CPU": 2, "GPU": 1}},
            {"num_cpus": 2, "num_gpus": 1},
        ),
        (
            Scaling(workers=2, gpus_per_worker=0.5),
            {"num_workers": 2, "use_gpu": True, "resources_per_worker": {"CPU": 1, "GPU": 0.5}},
            {"num_cpus": 1, "num_gpus": 0.5},
        ),
        (
            Scaling(),
            {"num_workers": 1, "use_gpu": False, "resources_per_worker": {"CPU": 1}},
            {"num_cpus": 1, "num_gpus": 0},
        ),
    ],
)
def test_the_spec_says_what_ray_reserves(scaling: Scaling, group: dict[str, Any], task: dict[str, Any]) -> None:
    import ray.train

    assert scaling_config(scaling) == group
    ray.train.ScalingConfig(**scaling_config(scaling))
    assert task_options(scaling, 3) == {**task, "max_retries": 3, "retry_exceptions": False}


def test_what_a_worker_of_a_group_refused_is_found() -> None:
    from ray.train.v2._internal.exceptions import UserExceptionWithTraceback

    refused = ConfigurationError("mend this")
    assert refusal_in({0: RuntimeError("peer is gone"), 1: UserExceptionWithTraceback(refused, "…")}) is refused
    assert refusal_in({0: UserExceptionWithTraceback(RuntimeError("chance"), "…")}) is None


def run_of(model: Any, parameters: dict[str, Any], tmp_path: Path) -> TrainingRun:
    return TrainingRun(model, parameters, None, "r", "s", None, tmp_path)  # type: ignore[arg-type]


def test_lightgbm_says_what_it_cannot_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="set `gpus_per_worker: 0`"):
        lightgbm_classifier.train(run_of(spec(scaling={"gpus_per_worker": 1}), {}, tmp_path))
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(ConfigurationError, match="pip install lightgbm"):
        lightgbm_classifier.load_lightgbm()


def test_a_missing_openmp_library_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lightgbm.py").write_text("raise OSError('libgomp.so.1: cannot open shared object file')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "lightgbm", raising=False)
    with pytest.raises(ConfigurationError, match=r"libgomp\.so\.1.*apt-get install libgomp1"):
        lightgbm_classifier.load_lightgbm()


def test_the_network_says_what_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tabular_network, "find_spec", lambda _: None)
    with pytest.raises(ConfigurationError, match=r"pip install 'taxiway\[torch\]'"):
        tabular_network.train(run_of(spec(), {}, tmp_path))
    monkeypatch.setattr(tabular_network, "find_spec", lambda _: True)
    with pytest.raises(ConfigurationError, match="unknown rounds; tabular_network takes epochs"):
        tabular_network.train(run_of(spec(), {"rounds": 3}, tmp_path))


def test_the_spec_names_failures_and_checkpoints() -> None:
    assert (spec().training.max_failures, spec().training.checkpoint_every_s) == (3, 30.0)
    changed = spec(max_failures=0, checkpoint_every="5m")
    assert type(changed).from_json(changed.to_json()) == changed
    assert json.loads(changed.to_json())["training"]["checkpoint_every"] == "300.0s"
