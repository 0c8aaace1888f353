"""The contract between Taxiway and training code: a `TrainingRun` in, a `TrainedModel` out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from operators.core.spec import ModelSpec


@dataclass(frozen=True)
class TrainingRun:
    """What training code gets.

    :param spec: the model's spec
    :param parameters: the spec's parameters with what a person changed in the trigger form
    :param table_path: local Parquet file with the training rows: id, time, features, label; no row of the holdout
    :param name: unique name of this run, the same when the job is run again
    :param storage_path: where Ray Train keeps checkpoints
    :param storage_filesystem: the `pyarrow.fs.FileSystem` of ``storage_path``
    :param work_dir: a folder that is deleted afterwards
    """

    spec: ModelSpec
    parameters: Mapping[str, Any]
    table_path: Path
    name: str
    storage_path: str
    storage_filesystem: Any
    work_dir: Path


@dataclass(frozen=True)
class TrainedModel:
    """What training code returns.

    :param python_model: a file in MLflow's models-from-code form, whose model's ``predict(context, columns)`` takes
        ``{feature: list of values}`` and returns one probability of the label for each row
    :param artifacts: files that the model loads, by the names under which it asks for them
    :param metrics: what training measured, logged to MLflow
    """

    python_model: Path
    artifacts: Mapping[str, Path]
    metrics: Mapping[str, float] = field(default_factory=dict)


def split(table: pa.Table, spec: ModelSpec, end: datetime) -> tuple[pa.Table, pa.Table]:
    """Split labelled rows into training rows and the holdout, the last ``holdout`` of the window.

    :param end: the end of the window
    """
    import pyarrow.compute as pc

    labelled = table.filter(pc.is_valid(table[spec.data.label]))
    # Times have no zone; reading them all as UTC keeps the border where it is, whatever zone the worker is in.
    border = pa.scalar(end.replace(tzinfo=UTC).timestamp() - spec.data.holdout_s, pa.float64())
    times = pc.divide(
        pc.cast(pc.cast(labelled[spec.data.time], pa.timestamp("us")), pa.int64()).cast(pa.float64()), 1e6
    )
    recent = pc.greater_equal(times, border)
    return labelled.filter(pc.invert(recent)), labelled.filter(recent)
