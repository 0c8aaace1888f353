"""Ray jobs on a real cluster."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from operators.compute import errors
from operators.compute.cluster import local
from operators.compute.decorators import RayDecoratedOperator
from operators.compute.operators import SubmitRayJobOperator
from tests.support.killed_task import POINTS
from tests.support.tasks import TaskInstance, context, run

ROOT = Path(__file__).resolve().parents[2]
FACTOR = 7


@pytest.fixture
def to_cluster(ray_cluster: local.LocalCluster, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN", "TAXIWAY_STORAGE_URL"):
        monkeypatch.delenv(name, raising=False)
    return {"ray_conn_id": None, "address": ray_cluster.address, "token_path": ray_cluster.token_path, "poll_s": 0.3}


class Answer(BaseModel):
    a: int


def test_a_second_start_finds_the_cluster(ray_cluster: local.LocalCluster) -> None:
    assert local.start(Path(ray_cluster.token_path).parent) == ray_cluster
    assert Path(ray_cluster.token_path).stat().st_mode & 0o077 == 0


# Each job starts a process and waits for it: all at once, they take little longer than one.
ENDS: dict[str, tuple[dict[str, Any], Any]] = {
    "fails": ({"entrypoint": "python -c 'raise ValueError(3)'"}, errors.RayJobFailedError),
    "no_command": ({"entrypoint": "nosuchcommand"}, errors.RayEntrypointError),
    "no_file": ({"entrypoint": "python nosuchfile.py"}, errors.RayEntrypointError),
    "no_module": ({"entrypoint": "python -m nosuchmodule"}, errors.RayEntrypointError),
    "killed": ({"entrypoint": "python -c 'import os; os.kill(os.getpid(), 9)'"}, errors.RayJobKilledError),
    "rejected": ({"entrypoint": "exit 3"}, errors.RayJobRejectedError),
    "late": ({"entrypoint": "sleep 60", "timeout": timedelta(seconds=3)}, errors.RayJobTimeoutError),
    "bad_env": (
        {"entrypoint": "true", "runtime_env": {"working_dir": "file:///nowhere/x.zip"}}, errors.RayRuntimeEnvError,
    ),
    "sync": ({"entrypoint": """echo '::taxiway:: {"result": 7}'""", "deferrable": False}, 7),
    "typed": ({"entrypoint": """echo '::taxiway:: {"result": {"a": "7"}}'""", "result_type": Answer}, {"a": 7}),
    "env": ({"entrypoint": """echo "::taxiway:: {\\"result\\": \\"$A\\"}" """, "env": {"A": "seen"}}, "seen"),
}  # fmt: skip


def test_how_jobs_end(to_cluster: dict[str, Any]) -> None:
    def one(name: str) -> Any:
        given = {"deferrable": True, **to_cluster, **ENDS[name][0]}
        try:
            return run(SubmitRayJobOperator(task_id=name, **given), context(TaskInstance(task_id=name)))
        except errors.RayJobError as error:
            return error

    with ThreadPoolExecutor(len(ENDS)) as pool:
        found = dict(zip(ENDS, pool.map(one, ENDS), strict=True))
    said = {name: type(end) if isinstance(end, Exception) else end for name, end in found.items()}
    assert said == {name: expected for name, (_, expected) in ENDS.items()}
    assert "ValueError: 3" in str(found["fails"])


def times(x: int) -> int:
    return x * FACTOR


def test_a_function_runs_on_the_cluster(to_cluster: dict[str, Any], tmp_path: Path) -> None:
    offset = 5

    def on_ray(x: int, *, ds: str) -> dict[str, Any]:
        import ray

        remote = ray.remote(num_cpus=0.5)(times)
        return {"sum": ray.get(remote.remote(x)) + offset, "ds": ds, "pid": os.getpid()}

    def returns_much() -> bytes:
        return b"x" * 200_000

    def call(function: Any, *args: Any, **more: Any) -> Any:
        name = function.__name__
        given = {"deferrable": True, **to_cluster, **more}
        task = RayDecoratedOperator(task_id=name, python_callable=function, op_args=args, **given)
        return run(task, context(TaskInstance(task_id=name, run_id=str(more)), ds="2026-01-01"))

    with ThreadPoolExecutor(3) as pool:
        found = pool.submit(call, on_ray, 3)
        much = pool.submit(call, returns_much, storage=tmp_path.as_uri())
        too_much = pool.submit(call, returns_much)
    assert (found.result()["sum"], found.result()["ds"]) == (26, "2026-01-01")
    assert found.result()["pid"] != os.getpid()
    assert much.result() == b"x" * 200_000
    with pytest.raises(errors.RayJobRejectedError, match="without `storage` the limit is"):
        too_much.result()


def test_whatever_is_killed_the_job_runs_once(to_cluster: dict[str, Any], tmp_path: Path) -> None:
    env = {**os.environ, "TAXIWAY_RAY_URL": to_cluster["address"], "RAY_AUTH_TOKEN_PATH": to_cluster["token_path"]}

    def attempt(place: Path, deferrable: str, point: str = "") -> subprocess.CompletedProcess[str]:
        if point == "at_the_end":  # until then the job runs, however long the next process takes to import Airflow
            (place / "ran.end").touch()
        given = [str(place / "state"), str(place / "ran"), deferrable, point, "600"]
        command = [sys.executable, "-m", "tests.support.killed_task", *given]
        return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300, check=False)

    def one(deferrable: str) -> None:
        place = tmp_path / deferrable
        place.mkdir()
        codes = [attempt(place, deferrable, point).returncode for point in POINTS]
        assert codes == [-9] * len(POINTS)
        last = attempt(place, deferrable)
        assert re.search(r"^result 42$", last.stdout, re.MULTILINE), last.stdout + last.stderr
        assert (place / "ran").read_text() == "job\n"
        assert json.loads((place / "state").read_text())["ray_job"]["epoch"] == 0

    with ThreadPoolExecutor(2) as pool:  # a task that waits in its worker, and one that is deferred
        list(pool.map(one, ("0", "1")))
