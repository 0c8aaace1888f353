"""Class paths and arguments of triggers, pinned: deferred tasks of a running installation hold them in Airflow's database."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.sdk.module_loading import import_string

HITL = ["ti_id", "options", "defaults", "params", "multiple", "timeout_datetime", "poke_interval"]
# A path is never taken out, and an argument never renamed. What is new is added, with a default.
KEPT: dict[str, tuple[dict[str, Any], list[str]]] = {
    "operators.compute.triggers.RayJobTrigger": (
        {"submission_id": "j"},
        ["submission_id", "ray_conn_id", "address", "token_path", "deadline", "poll_s", "unreachable_s", "stream_logs"],
    ),
    "operators.compute.cluster.triggers.KubeRayTrigger": (
        {"name": "n", "namespace": "s", "kubernetes_conn_id": "k", "poll_s": 1.0, "deadline": 2.0},
        ["name", "namespace", "kubernetes_conn_id", "poll_s", "deadline"],
    ),
    "operators.registry.triggers.ModelEventTrigger": (
        {"model": "m", "asset": "a"},
        ["model", "asset", "kinds", "aliases", "foreign_only", "from_start", "poll_s", "mlflow_conn_id"],
    ),
    "operators.registry.triggers.ModelVersionTrigger": (
        {"wanted": {"model": "m"}, "poll_s": 1.0, "mlflow_conn_id": None},
        ["wanted", "poll_s", "mlflow_conn_id"],
    ),
    "operators.rollout.triggers.DeployTrigger": (
        {"model": "m", "version": "1", "deadline": 1.0},
        ["model", "version", "deadline"],
    ),
    "operators.rollout.steps.triggers.JudgeTrigger": ({"spec": "{}", "watched": {}}, ["spec", "watched", "until"]),
    "operators.rollout.approval.triggers.ApprovalTrigger": (
        {"spec": "{}", "watched": {}, "ti_id": "i", "options": ["Approve"], "params": {}, "timeout_datetime": None},
        [*HITL, "spec", "watched"],
    ),
}


@pytest.mark.parametrize("path", KEPT)
def test_a_deferred_task_finds_its_trigger_again(path: str) -> None:
    arguments, names = KEPT[path]
    where, kept = import_string(path)(**arguments).serialize()
    assert (where, list(kept)) == (path, names)
