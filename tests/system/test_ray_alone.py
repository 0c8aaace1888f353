"""Workers and triggerers of a real Airflow are killed while Ray jobs run: each job runs once, and its log arrives whole."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from operators.compute.address import RayAddress
from operators.compute.client import RayJobs
from operators.core import processes
from operators.stack import state as state_file
from tests.support.waiting import until
from tests.system.dags.ray_alone import LINES

pytestmark = pytest.mark.system
DAG_ID = "ray_alone"


@pytest.fixture(scope="module")
def ended(system: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Run the DAG; kill the worker of one task, the triggerer under another, and end a third by hand."""
    airflow, folder = system.play.airflow, tmp_path_factory.mktemp("ray-alone")
    airflow.wait_for_dag(DAG_ID)
    run_id = airflow.trigger(DAG_ID, {"folder": str(folder)})
    path = f"/api/v2/dags/{DAG_ID}/dagRuns/{run_id}/taskInstances"

    def state(task_id: str) -> str | None:
        return airflow.tasks(DAG_ID, run_id).get(task_id)

    names = ("deferred", "in_worker", "killed_by_hand")
    until(lambda: all((folder / name).exists() for name in names), "the jobs run")
    until(lambda: state("deferred") == state("killed_by_hand") == "deferred", "the tasks wait in the triggerer")
    until(
        lambda: airflow.xcom(DAG_ID, run_id, "deferred", "ray_log_offset") is not None, "the place in the log is kept"
    )
    worker = airflow.call("GET", f"{path}/in_worker")["pid"]
    os.kill(worker, signal.SIGKILL)
    airflow.call("PATCH", f"{path}/killed_by_hand", {"new_state": "failed"})
    jobs = RayJobs(RayAddress(system.stack.ray_url, Path(system.stack.ray_token_path).read_text().strip()))
    stopped = job_of(jobs, "killed_by_hand")
    until(lambda: jobs.get(stopped).status == "STOPPED", "the job is stopped that a person gave up")
    stack = state_file.read(system.stack.run_dir / "state.json")
    triggerer = stack.services["airflow-triggerer"].pid
    processes.signal_all(processes.descendants([triggerer]), signal.SIGKILL)
    _, tasks = airflow.follow(DAG_ID, run_id, timeout_s=180, on_change=lambda *_: None)
    return {"tasks": tasks, "folder": folder, "run_id": run_id, "airflow": airflow, "path": path}


def job_of(jobs: RayJobs, task_id: str) -> str:
    rows = jobs._call("GET", "/api/jobs/").json()
    (found,) = (r["submission_id"] for r in rows if (r.get("metadata") or {}).get("task_id") == task_id)
    return str(found)


def test_each_job_ran_once_whatever_was_killed(ended: dict[str, Any]) -> None:
    assert ended["tasks"] == {
        "deferred": "success", "in_worker": "success", "killed_by_hand": "failed", "doubled": "success",
    }  # fmt: skip
    ran = {name: (ended["folder"] / name).read_text() for name in ("deferred", "in_worker", "killed_by_hand")}
    assert ran == dict.fromkeys(ran, "ran\n")


def test_results_are_xcoms(ended: dict[str, Any]) -> None:
    xcom = ended["airflow"].xcom
    for task_id in ("deferred", "in_worker"):
        assert xcom(DAG_ID, ended["run_id"], task_id) == {"lines": LINES}
    assert xcom(DAG_ID, ended["run_id"], "doubled") == {"values": [2, 4, 6], "run_id": ended["run_id"]}
    links = ended["airflow"].call("GET", f"{ended['path']}/deferred/links")["extra_links"]
    assert re.search(r"/#/jobs/tw-ray-alone-deferred-\w+$", links["Ray job"])


def test_the_log_of_a_killed_triggerer_goes_on_where_it_was(ended: dict[str, Any]) -> None:
    log = str(ended["airflow"].call("GET", f"{ended['path']}/deferred/logs/1?full_content=true"))
    seen = [int(number) for number in re.findall(r"ray \| line (\d+)", log)]
    assert sorted(set(seen)) == list(range(LINES))
    assert len(seen) < LINES + 20  # the place in the log is kept every three seconds
    assert "progress: 100%" in log


def test_connections_have_their_form(system: Any) -> None:
    found = {row["connection_type"]: row for row in system.play.airflow.call("GET", "/ui/connections/hook_meta")}
    assert found["ray"]["standard_fields"]["password"]["title"] == "Token"
    assert {"tls", "verify", "ca_path", "token_path", "dashboard_url"} <= set(found["ray"]["extra_fields"])
    assert {"tls_verify", "tls_ca_path"} <= set(found["mlflow"]["extra_fields"])
