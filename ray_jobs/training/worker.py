"""What a worker loop gets: the worker's rows, its rank, the last checkpoint."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from ray_jobs.training.checkpoints import Checkpoints
from ray_jobs.training.training_data import TrainingData

SHARD = "train"
_NICENESS = 10  # if a worker shares a machine with replicas, callers go first


@dataclass(frozen=True)
class Task:
    """The task that every worker of a run gets.

    :param data: all training rows
    :param streams: whether Ray Data brings the worker's rows; else the worker reads them from the file
    :param threads: CPUs of each worker
    :param device: where the model is trained
    :param seed: seed of every random number
    :param checkpoint_every_s: the least time between two checkpoints
    """

    data: TrainingData
    streams: bool
    threads: int
    device: Literal["cpu", "cuda"]
    seed: int
    checkpoint_every_s: float


class Worker(ABC):
    """One of ``world_size`` workers that train one model together.

    ``threads``, ``device`` and ``seed`` are those of the task: use them for everything that takes threads, a device or a seed.

    :param folder: a local folder of this worker, deleted at the end
    """

    rank: int
    world_size: int

    def __init__(self, task: Task, folder: Path) -> None:
        os.nice(_NICENESS)
        self.task = task
        self.threads, self.device, self.seed = task.threads, task.device, task.seed
        self.folder = folder
        self._look_at = 0
        self._looked = (0, time.monotonic())
        self._saved_at = time.monotonic()

    @abstractmethod
    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield this worker's rows. Their order is the same each time."""

    @abstractmethod
    def restored(self) -> Path | None:
        """Return a local folder with the files of the last checkpoint, or None if there is none."""

    @abstractmethod
    def report(self, metrics: Mapping[str, float], folder: Path | None = None) -> None:
        """Keep a checkpoint. All workers must call this equally often. The last call is the result.

        :param metrics: numbers that JSON can hold; those of rank 0 count
        :param folder: the checkpoint's files; only rank 0 gives them
        """

    @abstractmethod
    def agree(self, value: Any) -> Any:
        """Return the value of rank 0. All workers must call this equally often."""

    def due(self, step: int) -> bool:
        """Say whether to report a checkpoint now. All workers get the same answer at the same step.

        Cheap: the pace of the steps so far says at which step to look at the clock again.

        :param step: the number of steps done. All workers must call this after each step
        """
        if step < self._look_at:
            return False
        now, every_s = time.monotonic(), self.task.checkpoint_every_s
        since_s = now - self._saved_at
        pace_s = max(1e-9, now - self._looked[1]) / max(1, step - self._looked[0])
        left_s = every_s if since_s >= every_s else every_s - since_s
        is_due, steps = self.agree((since_s >= every_s, max(1, int(left_s / pace_s))))
        self._looked, self._look_at = (step, now), step + steps
        if is_due:
            self._saved_at = now
        return bool(is_due)


class LoneWorker(Worker):
    """The only worker of a run."""

    rank, world_size = 0, 1

    def __init__(self, task: Task, folder: Path, checkpoints: Checkpoints) -> None:
        super().__init__(task, folder)
        self._checkpoints = checkpoints

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield all rows of the file."""
        return self.task.data.batches()

    def restored(self) -> Path | None:
        """Copy the last checkpoint from the storage."""
        return self._checkpoints.restore(self.folder / "restored")

    def report(self, metrics: Mapping[str, float], folder: Path | None = None) -> None:
        """Write the checkpoint to the storage."""
        if folder is not None:
            self._checkpoints.save(folder, metrics)

    def agree(self, value: Any) -> Any:
        """Return the value."""
        return value


class GroupWorker(Worker):
    """A worker of a Ray Train group."""

    def __init__(self, task: Task, folder: Path) -> None:
        import ray.train

        super().__init__(task, folder)
        context = ray.train.get_context()
        self.rank, self.world_size = context.get_world_rank(), context.get_world_size()

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows that Ray Data brings, or read this worker's rows from the file."""
        if not self.task.streams:
            return self.task.data.shard(self.rank, self.world_size)
        import ray.train

        return streamed(ray.train.get_dataset_shard(SHARD))

    def restored(self) -> Path | None:
        """Copy the checkpoint that Ray Train names as the last."""
        import ray.train

        checkpoint = ray.train.get_checkpoint()
        return Path(checkpoint.to_directory(self.folder / "restored")) if checkpoint else None

    def report(self, metrics: Mapping[str, float], folder: Path | None = None) -> None:
        """Give the checkpoint to Ray Train, which uploads it."""
        import ray.train

        checkpoint = ray.train.Checkpoint.from_directory(folder) if folder is not None else None
        ray.train.report(dict(metrics), checkpoint=checkpoint)

    def agree(self, value: Any) -> Any:
        """Broadcast the value of rank 0."""
        import ray.train.collective

        return ray.train.collective.broadcast_from_rank_zero(value)


def streamed(shard: Any) -> Iterator[pa.RecordBatch]:
    """Yield the rows that Ray Data brings, a block at a time."""
    for table in shard.iter_batches(batch_size=None, batch_format="pyarrow"):
        yield from table.to_batches()
