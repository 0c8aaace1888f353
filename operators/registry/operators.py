"""Register what passed the gate as the challenger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow.sdk import BaseOperator
from airflow.sdk.definitions.asset import Model

from operators.core.settings import setting
from operators.core.spec import ModelSpec
from operators.registry.client import CHALLENGER, Registry

_AS_OF = "taxiway.as_of"  # runs of a backfill end in any order: an older window does not displace a newer one


def model_asset(name: str) -> Model:
    """Return the asset that stands for a registered model; its events say that there is a new challenger."""
    return Model(name=name, uri=f"x-mlflow://models/{name}", group="model")


class RegisterOperator(BaseOperator):
    """Register a logged model, point `challenger` at it, and emit the model's asset event.

    :param spec: the model's spec, kept as a tag of the version
    :param trained: what the training job returned (templated)
    :param tags: tags of the version (templated)
    :return: ``version``
    """

    template_fields: Sequence[str] = ("trained", "tags")

    def __init__(self, *, spec: ModelSpec, trained: Any, tags: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(outlets=[model_asset(spec.name)], **kwargs)
        self.spec = spec
        self.trained = trained
        self.tags = tags

    def execute(self, context: Any) -> dict[str, str]:
        """Register once for each training run, however often the task runs."""
        name = self.spec.name
        registry = Registry(setting("MLFLOW_TRACKING_URI", "address of the MLflow tracking server"))
        trained = self.trained
        tags = {**self.tags, "taxiway.spec": self.spec.to_json()}
        version = registry.register(name, trained["model_uri"], trained["run_id"], key=trained["run_id"], tags=tags)
        challenger = registry.alias(name, CHALLENGER)
        if challenger is None or challenger.tags.get(_AS_OF, "") <= self.tags.get(_AS_OF, ""):
            registry.set_alias(name, CHALLENGER, version.version)
        context["outlet_events"][model_asset(name)].extra = {
            "version": version.version,
            "run_id": trained["run_id"],
        }
        self.log.info("registered version %s of %s", version.version, name)
        return {"version": version.version}
