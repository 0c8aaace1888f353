"""The assets of a registered model, by which one DAG starts another."""

from __future__ import annotations

from airflow.sdk import AssetWatcher
from airflow.sdk.definitions.asset import Model

from operators.registry.triggers import ModelEventTrigger

CHALLENGER = "challenger"


def model_asset(name: str) -> Model:
    """Return the asset of a registered model. Its events say that there is a new challenger.

    :param name: name of the registered model
    """
    return Model(name=name, uri=f"x-mlflow://models/{name}", group="model")


def challenger_by_hand(name: str) -> Model:
    """Return the asset whose events say that a person has set the alias ``challenger`` in MLflow itself.

    It is an asset of its own, because every DAG that names an asset must name the same watchers: otherwise Airflow
    removes them.

    :param name: name of the registered model
    """
    asset = f"{name}.challenger_by_hand"
    trigger = ModelEventTrigger(
        model=name, asset=asset, kinds=["alias_set"], aliases=[CHALLENGER], foreign_only=True, mlflow_conn_id=None
    )
    watcher = AssetWatcher(name="mlflow", trigger=trigger)
    return Model(name=asset, uri=f"x-mlflow://models/{name}/aliases/{CHALLENGER}", group="model", watchers=[watcher])
