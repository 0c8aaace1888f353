"""Binary classification with LightGBM on any number of CPU workers."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from operators.core.errors import ConfigurationError
from ray_jobs.trainers.encoding import category_places, learn_encoder, matrix
from ray_jobs.training.contract import TrainedModel, TrainingRun
from ray_jobs.training.distributed import fit
from ray_jobs.training.provenance import pinned
from ray_jobs.training.worker import Worker

_BOOSTER = "booster.txt"
_SERVED = Path(__file__).with_name("lightgbm_served.py")
_CONNECT_TIMEOUT_MINUTES = 2


def train(run: TrainingRun) -> TrainedModel:
    """Train on as many workers as the spec says. The parameters are LightGBM's own, with ``rounds`` and ``seed``.

    The model does not depend on the number of threads. It does not depend on restarts either, unless rows or columns are sampled
    (``bagging_fraction``, ``feature_fraction``): LightGBM does not save the state of its random numbers.

    :raises ConfigurationError: the spec asks for GPUs, or LightGBM cannot be loaded
    """
    if run.spec.training.scaling.gpus_per_worker:
        raise ConfigurationError(
            "LightGBM's wheel trains on CPUs only; set `gpus_per_worker: 0`, or use xgboost_classifier"
        )
    encoder = learn_encoder(run.data, run.spec.features)
    config = {"encoder": encoder, "label": run.spec.data.label, "parameters": dict(run.parameters)}
    fitted = fit(run, train_on_worker, config, backend="lightgbm")
    encoder_path = run.work_dir / "encoder.json"
    encoder_path.write_text(json.dumps(encoder))
    artifacts = {"booster": fitted.folder / _BOOSTER, "encoder": encoder_path}
    return TrainedModel(_SERVED, artifacts, fitted.metrics, (pinned("lightgbm"),))


def train_on_worker(worker: Worker, config: Mapping[str, Any]) -> None:
    """Add rounds to the last checkpoint's booster until there are ``rounds``."""
    lightgbm = load_lightgbm()
    features, label = matrix(worker.batches(), config["encoder"], config["label"], worker.folder)
    parameters, rounds = _parameters(worker, config["parameters"])
    data = lightgbm.Dataset(
        features,
        label=label,
        feature_name=list(config["encoder"]),
        categorical_feature=category_places(config["encoder"]),
        free_raw_data=False,  # a run that goes on from a checkpoint predicts with the raw data first
    )
    restored = worker.restored()
    start = lightgbm.Booster(model_file=restored / _BOOSTER) if restored else None
    first = start.current_iteration() if start else 0
    if first >= rounds:  # the worker died after the last checkpoint, before Ray had the report
        _report(worker, start, json.loads((Path(str(restored)) / "metrics.json").read_text()))
        return

    def after_round(env: Any) -> None:
        done = env.iteration + 1  # counts the restored rounds
        if done == rounds:
            # Measured on this worker's rows only: LightGBM does not sum metrics over workers.
            _report(worker, env.model, {"rounds": rounds, "train_log_loss": float(env.model.eval_train()[0][2])})
        elif worker.due(done):
            _report(worker, env.model, {"rounds": done})

    lightgbm.train(parameters, data, rounds - first, init_model=start, callbacks=[after_round])


def load_lightgbm() -> Any:
    """Import LightGBM.

    :raises ConfigurationError: it is not installed, or the system lacks its OpenMP library
    """
    try:
        import lightgbm
    except ImportError as error:
        raise ConfigurationError("lightgbm is not installed on the Ray cluster; `pip install lightgbm`") from error
    except OSError as error:
        raise ConfigurationError(
            f"LightGBM cannot be loaded ({error}); it needs the system's OpenMP library: `apt-get install libgomp1`"
        ) from error
    return lightgbm


def _parameters(worker: Worker, given: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """Return LightGBM's parameters, with those that must not change, and the number of rounds."""
    parameters = dict(given)
    rounds = int(parameters.pop("rounds", 100))
    fixed: dict[str, Any] = {
        "objective": "binary",
        "metric": "binary_logloss",
        "num_threads": worker.threads,
        "seed": worker.seed,
        "deterministic": True,
        "force_col_wise": True,  # else LightGBM takes the way that is faster in a trial, and the model may change from run to run
        "verbosity": -1,
    }
    if worker.world_size > 1:
        import ray.train.lightgbm

        fixed |= ray.train.lightgbm.get_network_params()
        fixed |= {"tree_learner": "data_parallel", "pre_partition": True, "time_out": _CONNECT_TIMEOUT_MINUTES}
    return parameters | fixed, rounds


def _report(worker: Worker, booster: Any, metrics: Mapping[str, float]) -> None:
    if worker.rank:
        worker.report(metrics)
        return
    with tempfile.TemporaryDirectory() as folder:
        booster.save_model(Path(folder) / _BOOSTER)
        (Path(folder) / "metrics.json").write_text(json.dumps(metrics))
        worker.report(metrics, Path(folder))
