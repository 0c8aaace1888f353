"""Models and versions of the registry, read from the answers of MLflow's REST API."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from operators.core.errors import ServiceError
from operators.core.frozen import Frozen

SERVICE = "MLflow"
KEY_TAG = "taxiway.key"  # of a version: the registration that made it
NO_VERSION = "none"


def alias_tag(alias: str) -> str:
    """Return the name of the model's tag that holds the version at which these operators last pointed an alias."""
    return f"taxiway.alias.{alias}"


class ModelVersion(Frozen):
    """One version in the registry."""

    model: str
    version: str
    source: str
    run_id: str
    tags: dict[str, str]
    aliases: tuple[str, ...] = ()

    @property
    def uri(self) -> str:
        """The address under which `mlflow.pyfunc.load_model` finds it."""
        return f"models:/{self.model}/{self.version}"

    @property
    def number(self) -> int:
        """The version as a number; versions are given out in rising order."""
        return int(self.version)


class RegisteredModel(Frozen):
    """A name in the registry, with where its aliases point.

    :param created_ms: Unix time; another one means that the model was deleted and made again
    """

    name: str
    created_ms: int
    aliases: dict[str, str] = Field(default_factory=dict)
    tags: dict[str, str] = Field(default_factory=dict)


def read_version(row: Mapping[str, Any]) -> ModelVersion:
    """Read MLflow's ``model_version``.

    :raises ServiceError: it is not one
    """
    if "name" not in row or not str(row.get("version", "")).isdigit():
        raise ServiceError(f"{SERVICE} sent no model version where one was expected: {str(row)[:200]}")
    return ModelVersion(
        model=row["name"],
        version=str(row["version"]),
        source=row.get("source", ""),
        run_id=row.get("run_id", ""),
        tags=_tags(row),
        aliases=tuple(row.get("aliases", ())),
    )


def read_model(row: Mapping[str, Any]) -> RegisteredModel:
    """Read MLflow's ``registered_model``."""
    return RegisteredModel(
        name=row["name"],
        created_ms=int(row.get("creation_timestamp", 0)),
        aliases={pair["alias"]: str(pair["version"]) for pair in row.get("aliases", [])},
        tags=_tags(row),
    )


def read_metrics(run: Mapping[str, Any]) -> dict[str, float]:
    """Return the last value of each metric of MLflow's ``run``; a value that is not finite counts as not measured."""
    values = {metric["key"]: float(metric["value"]) for metric in run.get("data", {}).get("metrics", [])}
    return {key: value for key, value in values.items() if math.isfinite(value)}


def _tags(row: Mapping[str, Any]) -> dict[str, str]:
    return {tag["key"]: tag.get("value", "") for tag in row.get("tags", [])}
