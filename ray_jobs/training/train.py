"""The training job: trains on a dataset and logs the model to MLflow. Run as ``python -m ray_jobs.training.train <key>``."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from operators.core.errors import RejectedError
from operators.core.settings import storage_url
from operators.core.spec import PredictionSpec
from operators.core.storage import Storage
from ray_jobs import job_frame, progress
from ray_jobs.training.contract import TrainedModel, TrainingRun
from ray_jobs.training.provenance import code_commit, code_digest, model_digest
from ray_jobs.training.training_data import split

_CHECKPOINTS = "ray"


def work(given: dict[str, Any], key: str) -> dict[str, Any]:
    """Train a model on the dataset, and log it to MLflow.

    :param given: ``spec`` (JSON), ``dataset`` (with ``key`` and ``digest``), ``end`` (ISO time), ``parameters`` (JSON), ``tags``
    :param key: prefix of the job's files in the storage
    :returns: ``model_uri``, ``run_id``, ``rows``, ``holdout_rows``, ``metrics``
    """
    spec = PredictionSpec.from_json(given["spec"])
    parameters = {**spec.training.parameters, **json.loads(given["parameters"])}
    storage = Storage(storage_url())
    training, holdout = split(given["dataset"]["key"], storage, spec, datetime.fromisoformat(given["end"]))
    rows, holdout_rows = training.count(), holdout.count()
    if not rows:
        raise RejectedError(f"no labelled row of {spec.name} lies before the holdout; widen `data.window`")
    progress.report(0.05, f"training on {rows:,} rows, {holdout_rows:,} held out")
    # This import takes 9 s on two cores; meanwhile the workers start.
    threading.Thread(target=importlib.import_module, args=("mlflow.pyfunc",), daemon=True).start()
    code = _code(spec.training.entrypoint)
    filesystem, root = storage.arrow(_CHECKPOINTS)
    with tempfile.TemporaryDirectory(prefix="taxiway-train-") as folder:
        run = TrainingRun(
            spec=spec,
            parameters=parameters,
            data=training,
            name=checkpoint_name(given, parameters, code.digest, key),
            storage_path=root,
            storage_filesystem=filesystem,
            work_dir=Path(folder),
        )
        trained = code.function(run)
        progress.report(0.8, "trained; logging the model", trained.metrics)
        model_uri, run_id = _log(run, trained, given, code, rows)
    discard_checkpoints(run)
    return {
        "model_uri": model_uri,
        "run_id": run_id,
        "rows": rows,
        "holdout_rows": holdout_rows,
        "metrics": dict(trained.metrics),
    }


@dataclass(frozen=True)
class _Code:
    """The training code that the spec names."""

    function: Callable[[TrainingRun], TrainedModel]
    commit: str
    digest: str


def _code(entrypoint: str) -> _Code:
    name, function = entrypoint.split(":")
    module = importlib.import_module(name)
    file = Path(str(module.__file__))
    return _Code(getattr(module, function), code_commit(file), code_digest(file))


def checkpoint_name(given: Mapping[str, Any], parameters: Mapping[str, Any], code: str, key: str) -> str:
    """Return the name of a job's checkpoints. Another try of the same work has the same name; other work has another.

    :param code: digest of the training code
    :param key: the job's key, which is new for each try. The tries of one Airflow run have the same tag instead
    """
    parts = {
        "run": given["tags"].get("taxiway.dag_run") or key,
        "spec": json.loads(given["spec"]),
        "dataset": given["dataset"]["digest"],
        "end": given["end"],
        "parameters": dict(parameters),
        "code": code,
    }
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return f"{parts['spec']['name']}-{digest[:20]}"


def discard_checkpoints(run: TrainingRun) -> None:
    """Delete a run's checkpoints, now that its model is in MLflow."""
    try:
        run.storage_filesystem.delete_dir(f"{run.storage_path}/{run.name}")
    except FileNotFoundError:  # the training code kept no checkpoint
        return


def _log(run: TrainingRun, trained: TrainedModel, given: dict[str, Any], code: _Code, rows: int) -> tuple[str, str]:
    """Log the model to MLflow, with its origin and its metrics."""
    import mlflow.pyfunc

    from ray_jobs.training.signature import input_example, signature_of

    spec, dataset = run.spec, given["dataset"]
    artifacts = {name: Path(path) for name, path in trained.artifacts.items()}
    mlflow.set_experiment(spec.name)
    with mlflow.start_run(run_name=run.name) as active:
        mlflow.set_tags(
            {
                "taxiway.data_digest": dataset["digest"],
                "taxiway.owner": spec.owner,
                "taxiway.code_digest": code.digest,
                "taxiway.model_digest": model_digest(Path(trained.python_model), artifacts),
                "mlflow.source.git.commit": code.commit,
                **given["tags"],
            }
        )
        parameters = {"seed": run.seed, **run.parameters}
        mlflow.log_params({**parameters, "training_rows": rows, "entrypoint": spec.training.entrypoint})
        mlflow.log_metrics(dict(trained.metrics))
        mlflow.log_text(spec.to_json(), "spec.json")
        mlflow.log_input(_dataset(run, dataset), context="training")
        info = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(trained.python_model),
            artifacts={name: str(path) for name, path in artifacts.items()},
            signature=signature_of(spec),
            input_example=input_example(spec, run.data.head(100)),
            # Without these, MLflow starts a process that imports the model to guess its requirements.
            pip_requirements=[f"mlflow=={mlflow.__version__}", *trained.pip_requirements],
        )
        return info.model_uri, active.info.run_id


def _dataset(run: TrainingRun, dataset: Mapping[str, Any]) -> Any:
    """Return the dataset that MLflow shows for the run. None of its rows is read."""
    from mlflow.data.dataset_source_registry import resolve_dataset_source
    from mlflow.data.meta_dataset import MetaDataset

    uri = Storage(storage_url()).url(dataset["key"])
    return MetaDataset(resolve_dataset_source(uri), name=run.spec.name, digest=dataset["digest"][:36])


if __name__ == "__main__":
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    job_frame.run(work)
