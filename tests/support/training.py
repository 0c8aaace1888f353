"""A small binary problem: numbers, categories and nulls, of which everything is known."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from operators.core.spec import PredictionSpec
from operators.core.storage import Storage
from ray_jobs.training.contract import TrainingRun
from ray_jobs.training.training_data import split

KEY = "datasets/abc/dataset.parquet"
START = datetime(2013, 1, 1)
END = datetime(2013, 2, 1)


def table(rows: int, *, seed: int = 0) -> pa.Table:
    """One row for each part of January, the last tenth of them without a label."""
    rng = np.random.default_rng(seed)
    distance, wind = rng.normal(size=rows), rng.normal(size=rows)
    carrier = rng.choice(np.array(["AA", "B6", "UA"]), rows)
    late = distance + wind * distance + (carrier == "B6") + rng.normal(size=rows) > 0.3
    step_us = int((END - START).total_seconds() * 1e6 / rows)
    times = np.datetime64(START) + (np.arange(rows) * step_us).astype("timedelta64[us]")
    wind_known = rng.random(rows) < 0.8
    labelled = np.arange(rows) % 10 != 9
    return pa.table(
        {
            "id": pa.array([str(i) for i in range(rows)]),
            "at": pa.array(times, pa.timestamp("us")),
            "distance": distance,
            "wind": pa.array(wind, mask=~wind_known),
            "carrier": pa.array(carrier, mask=rng.random(rows) < 0.05),
            "late": pa.array(late, mask=~labelled),
        }
    )


def spec(entrypoint: str = "ray_jobs.trainers.xgboost_classifier:train", **training: Any) -> PredictionSpec:
    return PredictionSpec.model_validate(
        {
            "name": "late",
            "owner": "tests",
            "data": {
                "tables": {"t": {"source": "raw/t", "time_column": "at"}},
                "query": "q.sql",
                "window": "31d",
                "holdout": "7d",
                "id": "id",
                "time": "at",
                "label": "late",
                "features": {"distance": "number", "wind": "number?", "carrier": "category?"},
            },
            "validation": {"suite": "s.yaml"},
            "training": {"entrypoint": entrypoint, **training},
            "gate": {"metric": "log_loss"},
            "release": {"steps": [{"weight_pct": 5, "bake": "1s"}]},
        },
        strict=False,
    )


def write(storage: Storage, rows: pa.Table, folder: Path) -> None:
    """Put a table into storage as the dataset, in many row groups."""
    pq.write_table(rows, folder / "dataset.parquet", row_group_size=max(1, rows.num_rows // 8))
    storage.upload(folder / "dataset.parquet", KEY)


def training_run(storage: Storage, model: PredictionSpec, work_dir: Path, *, name: str = "run") -> TrainingRun:
    filesystem, root = storage.arrow("ray")
    work_dir.mkdir(parents=True, exist_ok=True)
    return TrainingRun(
        spec=model,
        parameters=model.training.parameters,
        data=split(KEY, storage, model, END)[0],
        name=name,
        storage_path=root,
        storage_filesystem=filesystem,
        work_dir=work_dir,
    )
