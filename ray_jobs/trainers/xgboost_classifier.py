"""Binary classification with XGBoost on any number of workers, on CPUs or, if the spec asks for them, on GPUs."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray_jobs.trainers.encoding import category_places, learn_encoder, matrix
from ray_jobs.training.contract import TrainedModel, TrainingRun
from ray_jobs.training.distributed import fit
from ray_jobs.training.provenance import pinned
from ray_jobs.training.worker import Worker

_BOOSTER = "booster.ubj"
_SERVED = Path(__file__).with_name("xgboost_served.py")


def train(run: TrainingRun) -> TrainedModel:
    """Train on as many workers as the spec says. The parameters are XGBoost's own, with ``rounds`` and ``seed``.

    The model does not depend on the number of threads. It does not depend on restarts either, unless rows or columns are sampled
    (``subsample``, ``colsample_*``): XGBoost does not save the state of its random numbers.
    """
    encoder = learn_encoder(run.data, run.spec.features)
    config = {"encoder": encoder, "label": run.spec.data.label, "parameters": dict(run.parameters)}
    fitted = fit(run, train_on_worker, config, backend="xgboost")
    encoder_path = run.work_dir / "encoder.json"
    encoder_path.write_text(json.dumps(encoder))
    artifacts = {"booster": fitted.folder / _BOOSTER, "encoder": encoder_path}
    return TrainedModel(_SERVED, artifacts, fitted.metrics, (pinned("xgboost", "xgboost-cpu"),))


def train_on_worker(worker: Worker, config: Mapping[str, Any]) -> None:
    """Add rounds to the last checkpoint's booster until there are ``rounds``."""
    import xgboost

    features, label = matrix(worker.batches(), config["encoder"], config["label"], worker.folder)
    names = list(config["encoder"])
    categories = set(category_places(config["encoder"]))
    data = xgboost.QuantileDMatrix(
        features,
        label=label,
        feature_names=names,
        feature_types=["c" if place in categories else "q" for place in range(len(names))],
        enable_categorical=True,
        nthread=worker.threads,
    )
    parameters, rounds = _parameters(worker, config["parameters"])
    restored = worker.restored()
    booster = xgboost.Booster(parameters, [data], model_file=restored / _BOOSTER if restored else None)
    for done in range(booster.num_boosted_rounds(), rounds):
        booster.update(data, iteration=done)
        if done + 1 < rounds and worker.due(done + 1):
            _report(worker, booster, {"rounds": done + 1})
    measured = booster.eval_set([(data, "train")], iteration=rounds - 1)  # XGBoost sums over the rows of all workers
    _report(worker, booster, {"rounds": rounds, "train_log_loss": float(measured.rsplit(":", 1)[1])})


def _parameters(worker: Worker, given: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """Return XGBoost's parameters, with those that must not change, and the number of rounds."""
    parameters = dict(given)
    rounds = int(parameters.pop("rounds", 100))
    fixed = {
        "objective": "binary:logistic",
        "tree_method": "hist",
        "eval_metric": "logloss",
        "device": worker.device,
        "nthread": worker.threads,
        "seed": worker.seed,
    }
    return parameters | fixed, rounds


def _report(worker: Worker, booster: Any, metrics: Mapping[str, float]) -> None:
    if worker.rank:
        worker.report(metrics)
        return
    with tempfile.TemporaryDirectory() as folder:
        booster.save_model(Path(folder) / _BOOSTER)
        worker.report(metrics, Path(folder))
