"""Runs a training loop on as many Ray workers as the spec says, with their rows, checkpoints, restarts, resources and seeds.

Training code with a loop of its own looks like this. `ray_jobs.trainers.tabular_network` is a complete example::

    def train(run: TrainingRun) -> TrainedModel:
        fitted = fit(run, loop, {"epochs": 10}, backend="torch")
        return TrainedModel(Path(__file__).with_name("served.py"), {"weights": fitted.folder / "weights"}, fitted.metrics)

    def loop(worker: Worker, config: Mapping[str, Any]) -> None:
        model, first = start_from(worker.restored())
        for epoch in range(first, config["epochs"]):
            for batch in worker.batches():
                model.learn(batch)
            if worker.due(epoch + 1):
                worker.report({}, model.save(worker.folder, epoch) if worker.rank == 0 else None)
        worker.report({"loss": model.loss}, model.save(worker.folder, config["epochs"]) if worker.rank == 0 else None)
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from operators.core.errors import ConfigurationError, RejectedError
from operators.core.spec_training import Scaling
from ray_jobs.training.checkpoints import Checkpoints
from ray_jobs.training.contract import TrainingRun
from ray_jobs.training.worker import SHARD, GroupWorker, LoneWorker, Task, Worker

STREAM_ABOVE_BYTES = 2 * 1024**3
"""If the columns are larger than this, uncompressed, the workers get their rows through Ray Data.

Below it, each worker scans the whole file and keeps its own rows. That takes 2 s a GiB from a local disk, and 10 s a GiB from
object storage at 100 MB/s. Ray Data reads each row once for all workers, but its processes take 7 s to start, and 18 to 32 s on
a busy machine. Measured by ``benchmarks/training.py``.
"""
_POLL_S = "0.5"
_TRAINERS = {
    "xgboost": ("ray.train.xgboost", "XGBoostTrainer"),
    "lightgbm": ("ray.train.lightgbm", "LightGBMTrainer"),
    "torch": ("ray.train.torch", "TorchTrainer"),
}
Loop = Callable[[Worker, Mapping[str, Any]], None]


@dataclass(frozen=True)
class Fitted:
    """The result of the workers.

    :param metrics: the metrics of the last report
    :param folder: a local copy of the last checkpoint
    """

    metrics: Mapping[str, float]
    folder: Path


def fit(
    run: TrainingRun,
    loop: Loop,
    config: Mapping[str, Any],
    *,
    backend: Literal["xgboost", "lightgbm", "torch"],
    stream_above_bytes: int = STREAM_ABOVE_BYTES,
) -> Fitted:
    """Call ``loop(worker, config)`` on each worker, and return the last report. If a worker dies, go on from the last checkpoint.

    A single worker is a Ray task: it needs no controller, and Ray runs it again if its process dies. Several workers are a
    Ray Train group. In both cases a second call with the same ``run.name`` goes on from the last checkpoint.

    :param loop: trains on ``worker.batches()``. It begins with ``worker.restored()``. It calls ``worker.report`` when
        ``worker.due(step)`` is true, and once at the end
    :param config: what else the loop needs; it is pickled
    :param backend: how the workers talk to each other
    :param stream_above_bytes: see `STREAM_ABOVE_BYTES`
    :raises ConfigurationError: the loop ended without a checkpoint
    """
    training = run.spec.training
    task = Task(
        data=run.data,
        streams=training.scaling.workers > 1
        and run.data.size_bytes > stream_above_bytes
        and _cpu_to_spare(training.scaling),
        threads=max(1, int(training.scaling.cpus_per_worker)),
        device="cuda" if training.scaling.gpus_per_worker else "cpu",
        seed=run.seed,
        checkpoint_every_s=training.checkpoint_every_s,
    )
    folder = run.work_dir / "fitted"
    if training.scaling.workers == 1:
        return _fit_alone(run, loop, config, task, folder)
    return _fit_group(run, loop, config, task, folder, backend)


def task_options(scaling: Scaling, max_failures: int) -> dict[str, Any]:
    """Return the options of a single worker's Ray task: its resources, and how often it runs again after its process died."""
    return {
        "num_cpus": scaling.cpus_per_worker,
        "num_gpus": scaling.gpus_per_worker,
        "max_retries": max_failures,
        # If the loop raises an exception, it would raise it again.
        "retry_exceptions": False,
    }


def scaling_config(scaling: Scaling) -> dict[str, Any]:
    """Return the arguments of Ray Train's ``ScalingConfig``."""
    resources = {"CPU": scaling.cpus_per_worker, "GPU": scaling.gpus_per_worker}
    return {
        "num_workers": scaling.workers,
        "use_gpu": scaling.gpus_per_worker > 0,
        "resources_per_worker": {name: amount for name, amount in resources.items() if amount},
    }


def _fit_alone(run: TrainingRun, loop: Loop, config: Mapping[str, Any], task: Task, folder: Path) -> Fitted:
    import ray

    checkpoints = Checkpoints(run.storage_filesystem, f"{run.storage_path}/{run.name}")
    options = task_options(run.spec.training.scaling, run.spec.training.max_failures)
    ray.get(ray.remote(**options)(_work_alone).remote(loop, config, task, checkpoints))
    latest = checkpoints.latest()
    if latest is None:
        raise _no_checkpoint(run)
    checkpoints.restore(folder)
    return Fitted(latest["metrics"], folder)


def _work_alone(loop: Loop, config: Mapping[str, Any], task: Task, checkpoints: Checkpoints) -> None:
    with tempfile.TemporaryDirectory(prefix="taxiway-worker-") as folder:
        loop(LoneWorker(task, Path(folder), checkpoints), config)


def _fit_group(
    run: TrainingRun, loop: Loop, config: Mapping[str, Any], task: Task, folder: Path, backend: str
) -> Fitted:
    import ray.train

    # The controller looks for reports every 2 s by default, and a report waits for it.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", _POLL_S)
    module, name = _TRAINERS[backend]
    trainer = getattr(import_module(module), name)(
        _work_in_group,
        train_loop_config={"loop": loop, "config": config, "task": task},
        scaling_config=ray.train.ScalingConfig(**scaling_config(run.spec.training.scaling)),
        run_config=ray.train.RunConfig(
            name=run.name,
            storage_path=run.storage_path,
            storage_filesystem=run.storage_filesystem,
            failure_config=ray.train.FailureConfig(max_failures=run.spec.training.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
        ),
        **(streaming(run) if task.streams else {}),
    )
    try:
        result = trainer.fit()
    except ray.train.WorkerGroupError as error:
        raise (refusal_in(error.worker_failures) or error) from error
    if result.checkpoint is None:
        raise _no_checkpoint(run)
    result.checkpoint.to_directory(folder)
    return Fitted(result.metrics, folder)


def _work_in_group(given: Mapping[str, Any]) -> None:
    with tempfile.TemporaryDirectory(prefix="taxiway-worker-") as folder:
        given["loop"](GroupWorker(given["task"], Path(folder)), given["config"])


def refusal_in(failures: Mapping[int, Exception]) -> Exception | None:
    """Return the error of ours that a worker raised, or None: then another try of the job may help.

    :param failures: Ray Train's exceptions by rank; what the loop raised is inside
    """
    for failure in failures.values():
        cause = getattr(failure, "_base_exc", failure)
        if isinstance(cause, ConfigurationError | RejectedError):
            return cause
    return None


def streaming(run: TrainingRun) -> dict[str, Any]:
    """Return the trainer's arguments for Ray Data, which reads only the rows and columns that are needed."""
    import ray.data
    import ray.train
    from ray.data.expressions import col, lit

    ray.data.DataContext.get_current().enable_progress_bars = False  # bars would fill the job's log
    data = run.data
    time, border = col(data.time), lit(data.border.as_py())
    rows = ray.data.read_parquet(data.path, filesystem=data.filesystem).filter(
        expr=col(data.label).is_not_null() & (time >= border if data.is_recent else time < border)
    )
    # Without this, a worker's rows, and so the model, would depend on which read is the fastest.
    options = ray.data.ExecutionOptions(preserve_order=True)
    return {
        "datasets": {SHARD: rows.select_columns(list(data.columns))},
        "dataset_config": ray.train.DataConfig(execution_options=options),
    }


def _cpu_to_spare(scaling: Scaling) -> bool:
    """Say whether Ray Data can run beside the workers. If the workers fill the cluster, it would wait for ever."""
    import ray

    if not ray.is_initialized():
        ray.init()
    return float(ray.cluster_resources().get("CPU", 0)) >= scaling.workers * scaling.cpus_per_worker + 1


def _no_checkpoint(run: TrainingRun) -> ConfigurationError:
    return ConfigurationError(
        f"the training code of {run.spec.name} ended without a checkpoint; its loop must call "
        "`worker.report(metrics, folder)` once at the end"
    )
