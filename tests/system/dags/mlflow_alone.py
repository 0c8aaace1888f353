"""The MLflow operators by themselves: two runs become two versions, which are compared, tagged and pointed at."""

from __future__ import annotations

from typing import Any

from airflow.sdk import AssetWatcher, chain, dag, task
from airflow.sdk.definitions.asset import Model

from operators import (
    CompareVersionsOperator,
    DeleteAliasOperator,
    MlflowHook,
    ModelAliasSensor,
    ModelEventTrigger,
    ModelVersionSensor,
    RegisterModelOperator,
    SetAliasOperator,
    TagVersionOperator,
    new_changes,
)

MODEL = "mlflow_alone"
BY_HAND = Model(
    name=f"{MODEL}.by_hand",
    uri=f"x-mlflow://models/{MODEL}/aliases/by_hand",
    group="model",
    watchers=[
        AssetWatcher(
            name="mlflow",
            trigger=ModelEventTrigger(
                model=MODEL,
                asset=f"{MODEL}.by_hand",
                kinds=["alias_set"],
                aliases=["by_hand"],
                from_start=True,
                poll_s=1.0,
            ),
        )
    ],
)


@task
def train(log_loss: float) -> str:
    """Stand for a training: a run with a metric. MLflow's own client takes nine seconds to import."""
    registry = MlflowHook().get_conn()
    run_id: str = registry._call("POST", "runs/create", {"experiment_id": "0"})["run"]["info"]["run_id"]
    registry._call("POST", "runs/log-metric", {"run_id": run_id, "key": "log_loss", "value": log_loss, "timestamp": 1})
    registry.close()
    return run_id


def register(task_id: str, run_id: Any, alias: str) -> RegisterModelOperator:
    return RegisterModelOperator(
        task_id=task_id,
        model=MODEL,
        model_uri="s3://models/alone",
        run_id=run_id,
        aliases=[alias],
        data_digest="d" * 64,
    )


@dag(schedule=None, catchup=False)
def mlflow_alone() -> None:
    ModelVersionSensor(task_id="newer", model=MODEL, newer_than="1", deferrable=True, poke_interval=1, timeout=180)
    ModelAliasSensor(task_id="approved", model=MODEL, alias="approved", deferrable=False, poke_interval=1, timeout=180)
    chain(
        register("first", train.override(task_id="train_first")(0.7), "challenger"),
        SetAliasOperator(task_id="champion", model=MODEL, alias="champion", version="@challenger"),
        register("second", train.override(task_id="train_second")(0.5), "challenger"),
        CompareVersionsOperator(task_id="compare", model=MODEL, metrics={"log_loss": "lower"}, fail_if_worse=True),
        TagVersionOperator(task_id="tag", model=MODEL, version="@challenger", tags={"reviewed": "yes"}),
        SetAliasOperator(task_id="approve", model=MODEL, alias="approved", version="@challenger"),
        DeleteAliasOperator(task_id="drop", model=MODEL, alias="challenger"),
    )


@dag(schedule=[BY_HAND], catchup=False, max_active_runs=1)
def mlflow_watched() -> None:
    @task
    def changes(**context: Any) -> list[dict[str, Any]]:
        return new_changes(context, BY_HAND)

    changes()


mlflow_alone()
mlflow_watched()
