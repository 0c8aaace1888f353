from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from airflow.sdk import DAG
from hypothesis import given
from hypothesis import strategies as st

from operators.compute.cluster.operators import (
    CreateKubeRayClusterOperator,
    DeleteKubeRayClusterOperator,
    StartLocalRayOperator,
    StopLocalRayOperator,
)
from operators.compute.cluster.policy import KubeRayCluster, is_deleted, manifest, readiness
from operators.compute.operators import SubmitRayJobOperator
from operators.core.errors import ConfigurationError, ServiceError
from tests.support.kubernetes_api import Kubernetes
from tests.support.tasks import TaskInstance, context, run

TOKEN = "a-token-of-some-length"
DESCRIBED = {
    "name": "train-1",
    "namespace": "ml",
    "image": "rayproject/ray:2.60.0-py311",
    "ray_version": "2.60.0",
    "head": {"cpus": 2, "memory": "8Gi"},
    "workers": [
        {
            "name": "gpu",
            "replicas": 2,
            "max_replicas": 4,
            "cpus": 8,
            "gpus": 1,
            "node_selector": {"gpu": "yes"},
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
            "env": {"A": "1"},
        }
    ],
    "autoscaling": True,
    "service_account": "ray",
    "labels": {"team": "ml"},
}
SCHEMA = yaml.safe_load((Path(__file__).parent / "data" / "raycluster.schema.yaml").read_text())


def check(body: dict[str, Any]) -> None:
    """Hold a manifest against KubeRay's schema, and its pods against the types of Kubernetes' own client."""
    jsonschema.validate(body, SCHEMA)
    for group in [body["spec"]["headGroupSpec"], *body["spec"]["workerGroupSpecs"]]:
        known_to_kubernetes(group["template"], "V1PodTemplateSpec")


def known_to_kubernetes(value: Any, kind: str) -> None:
    from kubernetes.client import models

    if kind.startswith("list["):
        for item in value:
            known_to_kubernetes(item, kind[5:-1])
    elif hasattr(models, kind):
        model = getattr(models, kind)
        names = {json_name: attribute for attribute, json_name in model.attribute_map.items()}
        for name, inner in value.items():
            assert name in names, f"Kubernetes' {kind} has no {name}"
            known_to_kubernetes(inner, model.openapi_types[names[name]])
    else:
        assert isinstance(value, {"str": str, "int": int, "bool": bool}.get(kind, dict)), (kind, value)


def test_a_manifest_follows_the_schemas() -> None:
    body = manifest(KubeRayCluster.model_validate(DESCRIBED), token_secret="train-1-token")
    check(body)
    worker = body["spec"]["workerGroupSpecs"][0]["template"]["spec"]
    assert worker["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert worker["nodeSelector"] == {"gpu": "yes"}
    assert TOKEN not in json.dumps(body)


names = st.from_regex(r"[a-z]([-a-z0-9]{0,10}[a-z0-9])?", fullmatch=True)


@given(
    names,
    st.lists(
        st.fixed_dictionaries(
            {"name": names, "replicas": st.integers(0, 9), "cpus": st.floats(0.1, 64), "gpus": st.integers(0, 8)}
        ),
        max_size=3,
    ),
    st.booleans(),
)
def test_every_cluster_follows_the_schemas(name: str, workers: list[dict[str, Any]], secured: bool) -> None:
    cluster = KubeRayCluster.model_validate({"name": name, "image": "ray", "workers": workers})
    check(manifest(cluster, token_secret="t" if secured else None))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"nmae": "x"}, "nmae"),
        ({"name": "Train_1"}, "name"),
        ({"head": {"memory": "much"}}, "memory"),
        ({"workers": [{"gpus": -1}]}, "gpus"),
        ({"workers": [{"replicas": 3, "max_replicas": 2}]}, "between"),
    ],
)
def test_a_mistake_in_a_cluster_is_an_error_of_the_dag(more: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        CreateKubeRayClusterOperator(task_id="ray", cluster={**DESCRIBED, **more})


@pytest.mark.parametrize(
    ("found", "ready"),
    [
        ({}, False),
        ({"status": {"state": "unhealthy"}}, False),
        ({"status": {"state": "ready", "availableWorkerReplicas": 2, "desiredWorkerReplicas": 2}}, True),
    ],
)
def test_readiness(found: dict[str, Any], ready: bool) -> None:
    assert readiness(found)[0] is ready


@pytest.mark.parametrize("found", [None, {"status": {"state": "failed", "reason": "no image"}}])
def test_what_will_never_be_ready(found: Any) -> None:
    with pytest.raises(ValueError, match=r"deleted|no image"):
        readiness(found)


def test_when_a_cluster_goes() -> None:
    for states, goes in ((["success"], False), (["success", "failed"], True), (["upstream_failed"], True)):
        assert is_deleted("on_exception", states) is goes
        assert is_deleted("always", states)
        assert not is_deleted("never", states)
    with pytest.raises(ConfigurationError, match="always"):
        StopLocalRayOperator(task_id="stop", folder="x", cleanup="sometimes")


def test_scope_makes_setup_and_teardown() -> None:
    with DAG("d", schedule=None) as dag:
        ray = StartLocalRayOperator(task_id="ray", num_cpus=1)
        with ray.scope(cleanup="on_exception"):
            SubmitRayJobOperator(task_id="job", entrypoint="true", **ray.connection)
    job, stop = dag.get_task("job"), dag.get_task("ray_stop")
    assert ray.is_setup
    assert stop.is_teardown
    assert (job.upstream_task_ids, job.downstream_task_ids) == ({"ray"}, {"ray_stop"})
    assert "xcom_pull(task_ids='ray')['address']" in job.address
    assert stop.cleanup == "on_exception"


CLUSTER = "/apis/ray.io/v1/namespaces/ml/rayclusters/train-1"
SECRET = "/api/v1/namespaces/ml/secrets/train-1-token"


@pytest.fixture
def kubernetes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Kubernetes]:
    server = Kubernetes()
    monkeypatch.setenv(
        "AIRFLOW_CONN_KUBERNETES_DEFAULT",
        json.dumps({"conn_type": "kubernetes", "extra": {"kube_config": server.kube_config}}),
    )
    monkeypatch.setenv(
        "AIRFLOW_CONN_RAY_DEFAULT", json.dumps({"conn_type": "ray", "host": "unused", "password": TOKEN})
    )
    yield server
    server.shutdown()
    server.server_close()


def create(**more: Any) -> CreateKubeRayClusterOperator:
    return CreateKubeRayClusterOperator(task_id="ray", cluster=DESCRIBED, **{"poll_s": 0.01, **more})


def test_a_cluster_is_made_once_and_found_when_it_is_ready(kubernetes: Kubernetes) -> None:
    kubernetes.status = {"state": "ready", "availableWorkerReplicas": 2, "desiredWorkerReplicas": 2}
    for _ in range(2):  # the second as after a kill
        found = run(create(), context())
    assert found == {"address": "http://train-1-head-svc.ml.svc:8265", "name": "train-1", "namespace": "ml"}
    assert set(kubernetes.objects) == {CLUSTER, SECRET}
    check({key: value for key, value in kubernetes.objects[CLUSTER].items() if key != "status"})
    assert base64.b64decode(kubernetes.objects[SECRET]["data"]["token"]).decode() == TOKEN
    stop = DeleteKubeRayClusterOperator(task_id="stop", cluster_name="train-1", namespace="ml")
    assert stop.execute(context()) is True
    assert stop.execute(context()) is True
    assert kubernetes.objects == {}


@pytest.mark.parametrize(
    "status", [{"state": "failed", "reason": "no image"}, {"state": "unhealthy", "reason": "no node"}]
)
def test_a_cluster_that_does_not_get_ready_is_deleted(kubernetes: Kubernetes, status: dict[str, Any]) -> None:
    kubernetes.status = status
    with pytest.raises(ServiceError, match=status["reason"]):
        run(create(timeout=timedelta(seconds=0)), context())
    assert kubernetes.objects == {}


def test_without_a_token_no_cluster_is_made(kubernetes: Kubernetes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_RAY_DEFAULT", json.dumps({"conn_type": "ray", "host": "unused"}))
    with pytest.raises(ConfigurationError, match="has no token"):
        create().execute(context())
    assert kubernetes.objects == {}


def test_on_exception_asks_how_the_tasks_ended(kubernetes: Kubernetes) -> None:
    class Ended(TaskInstance):
        state = "success"

        def get_task_states(self, **_: Any) -> dict[str, dict[str, str]]:
            return {"run": {"job": self.state}}

    kubernetes.status = {"state": "ready"}
    run(create(), context())
    stop = DeleteKubeRayClusterOperator(task_id="stop", cluster_name="train-1", namespace="ml", cleanup="on_exception")
    ti = Ended()
    assert stop.execute(context(ti)) is False
    assert CLUSTER in kubernetes.objects
    ti.state = "failed"
    assert stop.execute(context(ti)) is True
    assert kubernetes.objects == {}
