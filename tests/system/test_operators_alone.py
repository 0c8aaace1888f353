"""Each operator of the library in a DAG of a real Airflow, as an author uses it who wants none of the rest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest

from tests.support.kubernetes_api import Kubernetes
from tests.support.waiting import until
from tests.system.dags.clusters_alone import KUBERNETES, RAY
from tests.system.dags.gx_alone import ROWS
from tests.system.dags.mlflow_alone import MODEL

pytestmark = pytest.mark.system
DAGS = ("mlflow_alone", "gx_alone", "ray_local", "kuberay_alone")
CLUSTER = "/apis/ray.io/v1/namespaces/ml/rayclusters/alone"


class Ended:
    """One run of each DAG, all at once."""

    def __init__(self, airflow: Any, folder: Path, kubernetes: Kubernetes) -> None:
        self.airflow, self.folder = airflow, folder
        extra = json.dumps({"kube_config": kubernetes.kube_config})
        for connection in (
            {"connection_id": KUBERNETES, "conn_type": "kubernetes", "extra": extra},
            {"connection_id": RAY, "conn_type": "ray", "host": "unused", "password": "a-token-of-some-length"},
        ):
            airflow.call("POST", "/api/v2/connections", connection)
        for dag_id in (*DAGS, "mlflow_watched"):
            airflow.wait_for_dag(dag_id)
        self.runs = {dag_id: airflow.trigger(dag_id, self._conf(dag_id)) for dag_id in DAGS}
        until(lambda: self._state("kuberay_alone", "ray") == "deferred", "the wait for the cluster is deferred")
        self.asked_for = dict(kubernetes.objects)
        kubernetes.status = {"state": "ready", "availableWorkerReplicas": 1, "desiredWorkerReplicas": 1}
        self.tasks = {
            dag_id: airflow.follow(dag_id, run_id, timeout_s=200, on_change=lambda *_: None)[1]
            for dag_id, run_id in self.runs.items()
        }

    def _conf(self, dag_id: str) -> dict[str, Any]:
        return {"folder": str(self.folder)} if dag_id == "gx_alone" else {}

    def _state(self, dag_id: str, task_id: str) -> str | None:
        found: str | None = self.airflow.tasks(dag_id, self.runs[dag_id]).get(task_id)
        return found

    def xcom(self, dag_id: str, task_id: str) -> Any:
        return self.airflow.xcom(dag_id, self.runs[dag_id], task_id)

    def log(self, dag_id: str, task_id: str) -> str:
        run = f"/api/v2/dags/{dag_id}/dagRuns/{self.runs[dag_id]}/taskInstances/{task_id}"
        return str(self.airflow.call("GET", f"{run}/logs/1?full_content=true"))


@pytest.fixture(scope="module")
def kubernetes() -> Iterator[Kubernetes]:
    server = Kubernetes()
    yield server
    server.close()


@pytest.fixture(scope="module")
def ended(system: Any, kubernetes: Kubernetes, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    return Ended(system.play.airflow, tmp_path_factory.mktemp("alone"), kubernetes)


def test_versions_are_registered_compared_and_pointed_at(ended: Ended) -> None:
    assert set(ended.tasks["mlflow_alone"].values()) == {"success"}, ended.tasks["mlflow_alone"]
    (row,) = ended.xcom("mlflow_alone", "compare")["rows"]
    assert (row["baseline"], row["candidate"], row["verdict"]) == (0.7, 0.5, "better")
    newer, approved = (ended.xcom("mlflow_alone", name) for name in ("newer", "approved"))
    assert (newer["version"], approved["version"]) == ("2", "2")
    assert approved["tags"]["reviewed"] == "yes"
    assert ended.xcom("mlflow_alone", "drop") is True


def test_what_somebody_does_in_mlflow_starts_a_run(ended: Ended, system: Any) -> None:
    with httpx.Client(base_url=system.stack.mlflow_url) as mlflow:
        body = {"name": MODEL, "alias": "by_hand", "version": "1"}
        mlflow.post("/api/2.0/mlflow/registered-models/alias", json=body).raise_for_status()

    def runs() -> list[dict[str, Any]]:
        found = ended.airflow.call("GET", "/api/v2/dags/mlflow_watched/dagRuns?limit=10")["dag_runs"]
        return [run for run in found if run["state"] == "success"]

    (run,) = until(runs, "the watcher's run ended")
    (change,) = ended.airflow.xcom("mlflow_watched", run["dag_run_id"], "changes")
    assert (change["kind"], change["alias"], change["version"]) == ("alias_set", "by_hand", "1")
    assert change["by_taxiway"] is False


def test_bad_rows_are_set_aside_and_bad_data_fails_the_task(ended: Ended) -> None:
    assert ended.tasks["gx_alone"] == {
        "write": "success", "quarantined": "success", "batch": "success", "checkpoint": "failed",
    }  # fmt: skip
    good = Path(ended.xcom("gx_alone", "quarantined")["dataset_uri"].removeprefix("file://"))
    assert pq.read_table(good).num_rows == ROWS - 1
    assert pq.read_table(good.with_name("quarantine.parquet"))["id"].to_pylist() == [57]
    assert ended.xcom("gx_alone", "batch")["statistics"]["unsuccessful_expectations"] == 1


def test_a_cluster_of_its_own_is_there_for_the_run_and_gone_after_it(ended: Ended) -> None:
    assert ended.tasks["ray_local"] == {"ray": "success", "job": "success", "ray_stop": "success"}, ended.log(
        "ray_local", "job"
    )
    assert ended.xcom("ray_local", "job") == 7
    assert not Path(ended.xcom("ray_local", "ray")["folder"]).exists()


def test_a_cluster_on_kubernetes_is_waited_for_and_deleted(ended: Ended, kubernetes: Kubernetes) -> None:
    assert ended.tasks["kuberay_alone"] == {"ray": "success", "used": "success", "ray_stop": "success"}
    assert CLUSTER in ended.asked_for
    assert ended.xcom("kuberay_alone", "used") == "http://alone-head-svc.ml.svc:8265"
    assert kubernetes.objects == {}
