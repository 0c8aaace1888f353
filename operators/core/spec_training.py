"""The parts of a spec about learning: data, validation, training, gate. Frozen, strict, free of Airflow and Ray."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from operators.core.durations import DurationS
from operators.core.frozen import Written
from operators.core.tasks import Metric

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
FeatureKind = Literal["category", "number", "integer", "boolean", "category?", "number?", "integer?", "boolean?"]
"""A trailing ? allows null: the value may be unknown when the prediction is asked for."""
Parameter = bool | int | float | str


class Table(Written):
    """One raw table: a Parquet file or folder, and the column with the time of each row."""

    source: str = Field(
        min_length=1,
        description="Parquet file or folder: a path below the storage root, or an `s3://` or `file://` address.",
    )
    time_column: str = Field(
        description="Column with the time at which a row was observed. A training run reads the rows whose time lies in its "
        "window."
    )


class Data(Written):
    """What the model learns from."""

    tables: dict[Name, Table] = Field(
        min_length=1, description="The raw tables. The SQL of `query` reads each one under its key."
    )
    query: str = Field(
        description="File with the SQL that makes the dataset from the tables; the path is relative to `include/`. The SQL "
        "gets `$start`, `$end` and `$as_of`, and must return nothing that became known after `$as_of`."
    )
    window_s: DurationS = Field(
        alias="window", description="Length of the history that one training run reads, counted back from its date."
    )
    holdout_s: DurationS = Field(
        alias="holdout",
        description="Last part of the window. The model is not trained on it; the gate measures the model there.",
    )
    id: str = Field(
        description="Column that identifies a row of the dataset. Predictions and labels are joined by its value."
    )
    time: str = Field(description="Column of the dataset with the time of the event that the row is about.")
    label: str = Field(description="Column of the dataset with what turned out to be true; null where it is not known.")
    features: dict[str, FeatureKind] = Field(
        min_length=1,
        description="Columns that a caller sends, in this order, each with its kind. `category` is text; a trailing `?` "
        "allows null.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Data:
        if self.holdout_s >= self.window_s:
            raise ValueError("holdout must be shorter than window")
        clash = {self.id, self.time, self.label} & set(self.features)
        if clash:
            raise ValueError(f"features must not contain the id, time or label column: {', '.join(sorted(clash))}")
        return self


class Validation(Written):
    """Which expectations the data must meet."""

    suite: str = Field(
        description="File with the suites of Great Expectations, one for each table; the path is relative to `include/`."
    )


class Scaling(Written):
    """What training reserves on Ray."""

    workers: int = Field(
        1, ge=1, le=1024, description="Number of workers that train together. One worker is fastest for small data."
    )
    cpus_per_worker: float = Field(1, gt=0, description="CPU cores that each worker reserves.")
    gpus_per_worker: float = Field(0, ge=0, description="GPUs that each worker reserves.")


class Training(Written):
    """The code that trains, and what it runs on."""

    entrypoint: str = Field(
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$",
        description="The function that trains, as `module:function`, e.g. `ray_jobs.trainers.xgboost_classifier:train`.",
    )
    parameters: dict[str, Parameter] = Field(
        default_factory=dict,
        description="Parameters for the training function; their meaning is the function's. A run's form can replace them.",
    )
    scaling: Scaling = Field(Scaling(), description="The workers that train, and what each one reserves.")
    timeout_s: DurationS = Field(
        3600.0, alias="timeout", description="A training job that runs longer than this is stopped and fails."
    )
    max_failures: int = Field(
        3, ge=0, le=100, description="How many times the workers are started again after one of them died."
    )
    checkpoint_every_s: DurationS = Field(
        30.0,
        alias="checkpoint_every",
        description="Least time between two checkpoints. A worker that dies loses at most this much work and one step.",
    )


class Bounds(Written):
    """Absolute limits of one metric."""

    min: float | None = Field(None, description="The gate refuses a candidate whose metric is below this value.")
    max: float | None = Field(None, description="The gate refuses a candidate whose metric is above this value.")


class Gate(Written):
    """What a candidate must show on the holdout before any caller meets it."""

    metric: Metric = Field(description="Metric by which the candidate is compared with the champion, on the same rows.")
    margin: float = Field(
        0.0,
        ge=0,
        description="How much worse than the champion a candidate may be, in the unit of the metric. With 0 it must be at "
        "least as good.",
    )
    require: dict[Metric, Bounds] = Field(
        default_factory=dict,
        description="Limits that a candidate must keep whatever the champion does, by metric, e.g. `{roc_auc: {min: 0.55}}`.",
    )
    min_rows: int = Field(
        100, ge=1, description="The gate refuses a candidate if the holdout has fewer labelled rows than this."
    )
