"""What a prediction model predicts: each task with its output and the metrics of its gate. Pure.

A new task is an entry of `TASKS`: the gate, the evaluation, the signature and the smoke test take the rest from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

TaskName = Literal["binary", "multiclass", "regression", "quantiles", "custom"]
Metric = Literal["log_loss", "roc_auc", "brier", "accuracy"]


@dataclass(frozen=True)
class Output:
    """One number for each row.

    :param name: of the tensor in the answer, and of the column in MLflow's signature
    :param lowest: smallest number that an answer may have
    :param highest: largest number that an answer may have
    """

    name: str
    lowest: float
    highest: float


@dataclass(frozen=True)
class Task:
    """What a model predicts.

    :param metrics: which a gate may name
    """

    output: Output
    metrics: tuple[Metric, ...]


HIGHER_IS_BETTER: Mapping[Metric, bool] = {"log_loss": False, "roc_auc": True, "brier": False, "accuracy": True}
TASKS: Mapping[str, Task] = {
    "binary": Task(
        output=Output("probability", lowest=0.0, highest=1.0),
        metrics=("log_loss", "roc_auc", "brier", "accuracy"),
    )
}
"""The tasks that work."""
