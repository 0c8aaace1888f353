"""From Arrow to the float32 matrix that the trainers learn from. The `Encoder` is saved with the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from operators.core.errors import RejectedError
from operators.core.spec_training import FeatureKind
from ray_jobs.training.training_data import TrainingData

Encoder = dict[str, list[str] | None]
"""The features in order. A category has the sorted values that training saw, and a value's place is its code. Else None."""


def learn_encoder(data: TrainingData, features: Mapping[str, FeatureKind]) -> Encoder:
    """Read the category columns once, a batch at a time, and return the encoder."""
    values: dict[str, set[str]] = {name: set() for name, kind in features.items() if kind.startswith("category")}
    for batch in data.batches(list(values)) if values else ():
        for name in values:
            values[name].update(_text(batch[name]).drop_null().unique().to_pylist())
    return {name: sorted(values[name]) if name in values else None for name in features}


def encode(encoder: Encoder, batch: pa.RecordBatch) -> Any:
    """Return a float32 matrix of shape [rows, features]. Null, and a category that the encoder does not have, become NaN."""
    out = np.empty((batch.num_rows, len(encoder)), dtype=np.float32)
    for place, (name, categories) in enumerate(encoder.items()):
        column = batch[name]
        if categories is not None:
            column = pc.index_in(_text(column), pa.array(categories, pa.string()))
        out[:, place] = pc.fill_null(pc.cast(column, pa.float32(), safe=False), float("nan")).to_numpy(False)
    return out


def matrix(batches: Iterable[pa.RecordBatch], encoder: Encoder, label: str, folder: Path) -> tuple[Any, Any]:
    """Encode a shard in one pass. The matrix is a file that is mapped into memory, so that it may be larger than the memory.

    :param folder: local folder for the file, which must live as long as the matrix
    :returns: features [rows, features] and label [rows], float32
    :raises RejectedError: there is no row, or a label is neither 0 nor 1
    """
    labels: list[Any] = []
    path = folder / "features.f32"
    with path.open("wb") as file:
        for batch in batches:
            encode(encoder, batch).tofile(file)
            labels.append(pc.cast(batch[label], pa.float32(), safe=False).to_numpy(False))
    if not labels:
        raise RejectedError(
            "a worker has no rows to learn from; lower `training.scaling.workers`, or widen `data.window`"
        )
    y = np.concatenate(labels)
    if not ((y == 0) | (y == 1)).all():
        raise RejectedError(
            f"the label column {label} has other values than 0 and 1; `data.query` must return only these two"
        )
    return np.memmap(path, dtype=np.float32, mode="r", shape=(len(y), len(encoder))), y


def category_places(encoder: Encoder) -> list[int]:
    """Return the places of the categories among the features."""
    return [place for place, categories in enumerate(encoder.values()) if categories is not None]


def _text(column: Any) -> Any:
    return pc.cast(column, pa.string())
