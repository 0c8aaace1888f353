"""The contract between Taxiway and training code: a `TrainingRun` in, a `TrainedModel` out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from operators.core.spec import PredictionSpec
from ray_jobs.training.training_data import TrainingData


@dataclass(frozen=True)
class TrainingRun:
    """What training code gets.

    For small data, ``run.data.table()`` returns all rows. For any size and any number of workers, use `distributed.fit`.

    :param spec: the model's spec
    :param parameters: the spec's parameters, with the changes that a person made in the trigger form
    :param data: the training rows, with features and label, without the holdout
    :param name: the checkpoints' name. A job that runs again for the same work has the same name, and goes on from the last one
    :param storage_path: where checkpoints are kept
    :param storage_filesystem: the `pyarrow.fs.FileSystem` of ``storage_path``
    :param work_dir: a local folder that is deleted afterwards
    """

    spec: PredictionSpec
    parameters: Mapping[str, Any]
    data: TrainingData
    name: str
    storage_path: str
    storage_filesystem: Any
    work_dir: Path

    @property
    def seed(self) -> int:
        """The parameter ``seed``, else 0. The same data, code and seed give the same model."""
        return int(self.parameters.get("seed", 0))


@dataclass(frozen=True)
class TrainedModel:
    """What training code returns.

    :param python_model: a file in MLflow's models-from-code form. The model's ``predict(context, columns)`` takes
        ``{feature: list of values}`` or a data frame, and returns one probability of the label for each row
    :param artifacts: files that the model loads, by the names under which it asks for them
    :param metrics: measured in training; they are logged to MLflow
    :param pip_requirements: packages that the model needs where it serves, e.g. ``xgboost==3.2.0``
    """

    python_model: Path
    artifacts: Mapping[str, Path]
    metrics: Mapping[str, float] = field(default_factory=dict)
    pip_requirements: tuple[str, ...] = ()
