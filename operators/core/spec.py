"""The spec of a model: what `include/models/<name>.yaml` may say. Frozen, strict, and free of Airflow and Ray."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from operators.core.durations import DurationS
from operators.core.errors import SpecError
from operators.core.spec_release import Release
from operators.core.tasks import TASKS, Metric, Output, TaskName

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
FeatureKind = Literal["category", "number", "integer", "boolean", "category?", "number?", "integer?", "boolean?"]
"""A trailing ? allows null: the value may be unknown when the prediction is asked for."""
Parameter = bool | int | float | str


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Table(_Part):
    """One raw table: a Parquet file or folder, and the column that says when a row was observed."""

    source: str = Field(min_length=1, description="below the storage root, or an s3:// or file:// address")
    time_column: str


class Data(_Part):
    """What the model learns from."""

    tables: dict[Name, Table] = Field(min_length=1)
    query: str = Field(description="SQL that makes the dataset from the tables; relative to include/")
    window_s: DurationS = Field(alias="window", description="history that one training run sees")
    holdout_s: DurationS = Field(alias="holdout", description="the last part of the window, kept for the gate")
    id: str = Field(description="column that names a row, and joins predictions to labels")
    time: str = Field(description="column with the time of the event")
    label: str
    features: dict[str, FeatureKind] = Field(min_length=1, description="what a caller sends, in this order")

    @model_validator(mode="after")
    def _consistent(self) -> Data:
        if self.holdout_s >= self.window_s:
            raise ValueError("holdout must be shorter than window")
        clash = {self.id, self.time, self.label} & set(self.features)
        if clash:
            raise ValueError(f"features must not contain the id, time or label column: {', '.join(sorted(clash))}")
        return self


class Validation(_Part):
    """Which expectations the data must meet."""

    suite: str = Field(description="Great Expectations suites, one per table; relative to include/")


class Scaling(_Part):
    """What Ray Train reserves."""

    workers: int = Field(1, ge=1, le=1024)
    cpus_per_worker: float = Field(1, gt=0)
    gpus_per_worker: float = Field(0, ge=0)


class Training(_Part):
    """The code that trains, and what it runs on."""

    entrypoint: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$", description="module:function")
    parameters: dict[str, Parameter] = Field(default_factory=dict)
    scaling: Scaling = Scaling()
    timeout_s: DurationS = Field(3600.0, alias="timeout")
    max_failures: int = Field(3, ge=0, le=100, description="how often workers are started again after one died")
    checkpoint_every_s: DurationS = Field(
        30.0, alias="checkpoint_every", description="what a worker that dies loses at most, beside one step"
    )


class Bounds(_Part):
    """Absolute limits of one metric."""

    min: float | None = Field(None)
    max: float | None = Field(None)


class Gate(_Part):
    """What a candidate must show before it may meet traffic."""

    metric: Metric
    margin: float = Field(0.0, ge=0, description="how much worse than the champion is still accepted")
    require: dict[Metric, Bounds] = Field(default_factory=dict)
    min_rows: int = Field(100, ge=1, description="labelled rows in the holdout")


class Serving(_Part):
    """What one version reserves on Ray Serve."""

    replicas: int = Field(1, ge=1)
    cpus_per_replica: float = Field(0.5, ge=0)
    gpus_per_replica: float = Field(0, ge=0)
    max_rows_per_request: int = Field(10_000, ge=1)


class PredictionLog(_Part):
    """How often a replica writes its predictions to object storage."""

    flush_every_s: DurationS = Field(30.0, alias="flush_every")
    max_rows: int = Field(5000, ge=1, description="rows after which it writes without waiting")


class Monitoring(_Part):
    """What is kept of the traffic."""

    prediction_log: PredictionLog = PredictionLog()


class Retraining(_Part):
    """When training runs by itself."""

    schedule: str | None = Field(None, pattern=r"^(@\w+|\S+( \S+){4})$", description="cron of five fields")
    start: date = date(2020, 1, 1)
    end: date | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Retraining:
        if self.end is not None and self.end <= self.start:
            raise ValueError("end must be after start")
        return self


class ModelSpec(_Part):
    """A model's whole life: what every kind of model shares. `operators.core.loader.load_spec` reads one from YAML.

    A kind of model is a subclass, and stands in `KINDS`. Only the code that must know the kind names the subclass.
    """

    kind: str = Field(description="What kind of model it is; it decides which other keys there are.")
    name: Name
    description: str = ""
    owner: str = Field(min_length=1, description="team that answers for the model")
    serving: Serving = Serving()
    release: Release
    monitoring: Monitoring = Monitoring()
    retraining: Retraining = Retraining()

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
        "binary", description="What the model predicts. It decides the outputs, the metrics and the checks."
    )
    data: Data
    validation: Validation
    training: Training
    gate: Gate

    @field_validator("task")
    @classmethod
    def _supported(cls, task: TaskName) -> TaskName:
        if task not in TASKS:
            raise ValueError(f"{task} models cannot be trained and released yet; what works: {', '.join(TASKS)}")
        return task

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
