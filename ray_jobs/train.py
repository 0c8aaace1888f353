"""The training job: dataset in, a model in MLflow out. Run as ``python -m ray_jobs.train <job key>``."""

from __future__ import annotations

import importlib
import json
import os
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from operators.core.errors import RejectedError
from operators.core.settings import storage_url
from operators.core.spec import ModelSpec
from operators.core.storage import Storage
from ray_jobs import job
from ray_jobs.contract import TrainedModel, TrainingRun, split


def work(given: dict[str, Any], key: str) -> dict[str, Any]:
    """Train once.

    :param given: ``spec`` (JSON), ``dataset`` (``key``, ``digest``), ``end`` (ISO time), ``parameters``
        (JSON), ``tags``
    :param key: where the job's files are
    :return: ``model_uri``, ``run_id``, ``rows``, ``metrics``
    """
    spec = ModelSpec.from_json(given["spec"])
    storage = Storage.from_url(storage_url())
    with tempfile.TemporaryDirectory(prefix="taxiway-train-") as folder:
        path = Path(folder) / "dataset.parquet"
        storage.download(given["dataset"]["key"], path)
        training, holdout = split(pq.read_table(path), spec, datetime.fromisoformat(given["end"]))
        if not training.num_rows:
            raise RejectedError(f"no labelled row of {spec.name} lies before the holdout; widen `data.window`")
        train_path = Path(folder) / "train.parquet"
        pq.write_table(training, train_path)
        filesystem, root = storage.arrow("ray")
        run = TrainingRun(
            spec=spec,
            parameters={**spec.training.parameters, **json.loads(given["parameters"])},
            table_path=train_path,
            name=Path(key).name,
            storage_path=root,
            storage_filesystem=filesystem,
            work_dir=Path(folder),
        )
        module, function = spec.training.entrypoint.split(":")
        trained = getattr(importlib.import_module(module), function)(run)
        model_uri, run_id = _log(spec, run, trained, given, training.num_rows)
    return {
        "model_uri": model_uri,
        "run_id": run_id,
        "rows": training.num_rows,
        "holdout_rows": holdout.num_rows,
        "metrics": dict(trained.metrics),
    }


def _log(spec: ModelSpec, run: TrainingRun, trained: TrainedModel, given: dict[str, Any], rows: int) -> tuple[str, str]:
    """Log parameters, metrics, the data's digest and the model to MLflow."""
    import mlflow
    import xgboost

    mlflow.set_experiment(spec.name)
    with mlflow.start_run(run_name=run.name) as active:
        mlflow.set_tags(
            {"taxiway.data_digest": given["dataset"]["digest"], "taxiway.owner": spec.owner, **given["tags"]}
        )
        mlflow.log_params({**run.parameters, "training_rows": rows, "entrypoint": spec.training.entrypoint})
        mlflow.log_metrics(dict(trained.metrics))
        mlflow.log_text(spec.to_json(), "spec.json")
        info = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(trained.python_model),
            artifacts={name: str(path) for name, path in trained.artifacts.items()},
            # Named outright: left alone, MLflow starts a process that imports the model to guess them.
            pip_requirements=[f"mlflow=={mlflow.__version__}", f"xgboost=={xgboost.__version__}"],
        )
        return info.model_uri, active.info.run_id


if __name__ == "__main__":
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    job.run(work)
