"""Binary classification with XGBoost on Ray Train, on CPUs or, where the spec asks for GPUs, on `cuda`."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray_jobs.contract import TrainedModel, TrainingRun

_BOOSTER = "booster.ubj"
_SERVED = Path(__file__).with_name("xgboost_served.py")


def train(run: TrainingRun) -> TrainedModel:
    """Train on as many workers as the spec says; parameters are XGBoost's own, with ``rounds`` and ``seed``."""
    import ray.train
    import xgboost
    from ray.train.xgboost import XGBoostTrainer

    encoder = _encoder(run)
    scaling = run.spec.training.scaling
    resources = {"CPU": scaling.cpus_per_worker, "GPU": scaling.gpus_per_worker}
    trainer = XGBoostTrainer(
        _train_on_worker,
        train_loop_config={
            "data": run.table_path.read_bytes(),
            "encoder": encoder,
            "label": run.spec.data.label,
            "parameters": dict(run.parameters),
            "device": "cuda" if scaling.gpus_per_worker else "cpu",
            "threads": max(1, int(scaling.cpus_per_worker)),
        },
        scaling_config=ray.train.ScalingConfig(
            num_workers=scaling.workers,
            use_gpu=scaling.gpus_per_worker > 0,
            resources_per_worker={name: amount for name, amount in resources.items() if amount},
        ),
        run_config=ray.train.RunConfig(
            name=run.name, storage_path=run.storage_path, storage_filesystem=run.storage_filesystem
        ),
    )
    result = trainer.fit()
    booster_path, encoder_path = run.work_dir / "booster.ubj", run.work_dir / "encoder.json"
    with result.checkpoint.as_directory() as folder:
        xgboost.Booster(model_file=Path(folder) / _BOOSTER).save_model(booster_path)
    encoder_path.write_text(json.dumps(encoder))
    return TrainedModel(_SERVED, {"booster": booster_path, "encoder": encoder_path}, result.metrics)


def _encoder(run: TrainingRun) -> dict[str, list[str] | None]:
    """Return the features in order; for a category, the values that training saw, sorted: its codes are their places."""
    import pyarrow.parquet as pq

    names = list(run.spec.features)
    table = pq.read_table(run.table_path, columns=names)
    return {
        name: sorted(str(v) for v in table[name].unique().to_pylist() if v is not None)
        if run.spec.features[name].startswith("category")
        else None
        for name in names
    }


def _train_on_worker(config: Mapping[str, Any]) -> None:
    """Train on this worker's rows: every n-th of the table, so that the shards are alike."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq
    import ray.train
    import xgboost

    from ray_jobs.trainers.xgboost_served import encode

    os.nice(10)  # where a worker shares a machine with replicas, callers go first
    context = ray.train.get_context()
    table = pq.read_table(pa.BufferReader(config["data"]))
    rows = pa.array(range(context.get_world_rank(), table.num_rows, context.get_world_size()))
    shard = table.take(rows)
    columns = {name: shard[name].to_pylist() for name in config["encoder"]}
    matrix, kinds = encode(config["encoder"], columns)
    label = pc.cast(shard[config["label"]], pa.float32()).to_numpy()
    data = xgboost.DMatrix(
        matrix, label=label, feature_names=list(config["encoder"]), feature_types=kinds, enable_categorical=True
    )
    parameters = dict(config["parameters"])
    rounds = int(parameters.pop("rounds", 100))
    fixed = {
        "objective": "binary:logistic",
        "tree_method": "hist",
        "eval_metric": "logloss",
        "device": config["device"],
        "nthread": config["threads"],
    }
    history: dict[str, dict[str, list[float]]] = {}
    booster = xgboost.train(
        {**parameters, **fixed},
        data,
        num_boost_round=rounds,
        evals=[(data, "train")],
        evals_result=history,
        verbose_eval=False,
    )
    # One report at the end: Ray Train's own callback reports every round, and each report took a second here.
    metrics = {"train_log_loss": history["train"]["logloss"][-1]}
    if context.get_world_rank():
        ray.train.report(metrics)
        return
    with tempfile.TemporaryDirectory() as folder:
        booster.save_model(Path(folder) / _BOOSTER)
        ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))
