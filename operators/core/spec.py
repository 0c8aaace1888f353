"""The spec of a model: what `include/models/<name>.yaml` may say. Frozen, strict, and free of Airflow and Ray."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from operators.core.durations import DurationS
from operators.core.errors import SpecError
from operators.core.frozen import Written
from operators.core.spec_release import Release
from operators.core.spec_training import Data, FeatureKind, Gate, Name, Training, Validation
from operators.core.tasks import TASKS, Output, TaskName


class Serving(Written):
    """What one version reserves on Ray Serve."""

    replicas: int = Field(1, ge=1, description="Number of replicas of each version.")
    cpus_per_replica: float = Field(0.5, ge=0, description="CPU cores that each replica reserves.")
    gpus_per_replica: float = Field(0, ge=0, description="GPUs that each replica reserves.")
    max_rows_per_request: int = Field(
        10_000, ge=1, description="A request with more rows than this is refused with status 400."
    )


class PredictionLog(Written):
    """How often a replica writes its predictions to object storage."""

    flush_every_s: DurationS = Field(
        30.0, alias="flush_every", description="Longest time that a prediction stays in the replica's memory alone."
    )
    max_rows: int = Field(
        5000, ge=1, description="Rows in memory at which the replica writes without waiting for `flush_every`."
    )


class Monitoring(Written):
    """What is kept of the traffic."""

    prediction_log: PredictionLog = Field(
        PredictionLog(), description="When each replica writes what it was asked and what it answered."
    )


class Retraining(Written):
    """When training runs by itself."""

    schedule: str | None = Field(
        None,
        pattern=r"^(@\w+|\S+( \S+){4})$",
        description="Cron expression of five fields, or e.g. `@weekly`, in UTC. Leave it out to train by hand only.",
    )
    start: date = Field(date(2020, 1, 1), description="The schedule makes no run before this date.")
    end: date | None = Field(
        None,
        description="The schedule makes no run after this date. A run reads no data after it, unless its form says as of when.",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Retraining:
        if self.end is not None and self.end <= self.start:
            raise ValueError("end must be after start")
        return self


class ModelSpec(Written):
    """A model's whole life: what every kind of model shares. `operators.core.loader.load_spec` reads one from YAML.

    A kind of model is a subclass, and stands in `KINDS`. Only the code that must know the kind names the subclass.
    """

    kind: str = Field(description="What kind of model it is; it decides which other keys there are.")
    name: Name = Field(
        description="Name of the model, the same as the file's: `a-z`, digits and `_`. It names the DAGs, the registered model "
        "and the address that callers use."
    )
    description: str = Field("", description="What the model predicts, in one sentence. Airflow shows it.")
    owner: str = Field(
        min_length=1, description="Team that is responsible for the model. Airflow shows it as the owner."
    )
    serving: Serving = Field(Serving(), description="The replicas of each version.")
    release: Release = Field(description="How a new version gets the traffic, and when it is rolled back.")
    monitoring: Monitoring = Field(Monitoring(), description="What is kept of the traffic.")
    retraining: Retraining = Field(Retraining(), description="When the model is trained without being asked.")

    @property
    def files(self) -> Mapping[tuple[str, ...], str]:
        """Files below include/ that the spec names, by the key that names them."""
        return {}

    @property
    def functions(self) -> Mapping[tuple[str, ...], str]:
        """Functions, as module:function, that the spec names, by the key that names them."""
        return {}

    def to_json(self) -> str:
        """One line of JSON that `from_json` reads back; travels with a Ray job and an MLflow run."""
        return self.model_dump_json(by_alias=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote.

        :raises ValueError: it is no spec, or a spec of another kind
        """
        spec = spec_type(json.loads(text)).model_validate_json(text)
        if not isinstance(spec, cls):
            raise ValueError(f"{spec.name} is a model of the kind {spec.kind!r}, not a {cls.__name__}")
        return spec


class PredictionSpec(ModelSpec):
    """A model that takes rows of features and returns a prediction for each."""

    kind: Literal["prediction"] = Field(
        "prediction", description="What kind of model it is; it decides which other keys there are."
    )
    task: TaskName = Field(
        "binary",
        description="What the model predicts; it decides the outputs, the metrics and the checks. So far only `binary` works.",
    )
    data: Data = Field(description="The tables, the SQL and the features that the model learns from.")
    validation: Validation = Field(description="The checks that the data must pass before training.")
    training: Training = Field(description="The function that trains, its parameters and its resources.")
    gate: Gate = Field(description="What a candidate must show on the holdout before it is registered and released.")

    @field_validator("task")
    @classmethod
    def _supported(cls, task: TaskName) -> TaskName:
        if task not in TASKS:
            raise ValueError(f"{task} models cannot be trained and released yet; what works: {', '.join(TASKS)}")
        return task

    @model_validator(mode="after")
    def _measured(self) -> Self:
        measured = TASKS[self.task].metrics
        unknown = sorted({self.gate.metric, *self.gate.require} - set(measured))
        if unknown:
            raise ValueError(
                f"gate: a {self.task} model has no metric {', '.join(unknown)}; it has: {', '.join(measured)}"
            )
        return self

    @property
    def files(self) -> Mapping[tuple[str, ...], str]:
        """The query and the suite."""
        return {("data", "query"): self.data.query, ("validation", "suite"): self.validation.suite}

    @property
    def functions(self) -> Mapping[tuple[str, ...], str]:
        """The code that trains."""
        return {("training", "entrypoint"): self.training.entrypoint}

    @property
    def features(self) -> Mapping[str, FeatureKind]:
        """Feature columns and their kinds, in the order of the spec."""
        return self.data.features

    @property
    def output(self) -> Output:
        """What a prediction of this model is called, and which numbers it may be."""
        return TASKS[self.task].output


def prediction_spec(spec: ModelSpec) -> PredictionSpec:
    """Return the spec of a prediction model, for code that can do with no other kind.

    :raises SpecError: it is a model of another kind
    """
    if not isinstance(spec, PredictionSpec):
        raise SpecError(f"{spec.name} is a model of the kind {spec.kind!r}; this needs one of the kind 'prediction'")
    return spec


KINDS: Mapping[str, type[ModelSpec]] = {"prediction": PredictionSpec}
"""The kinds of models that a spec may describe."""


def spec_type(document: Mapping[str, Any]) -> type[ModelSpec]:
    """Return the type of a spec from its key `kind`; without one it is a prediction model.

    :raises ValueError: there is no such kind
    """
    kind = document.get("kind", "prediction")
    if kind not in KINDS:
        raise ValueError(f"{kind!r} is not a kind of model; known: {', '.join(KINDS)}")
    return KINDS[kind]
