from __future__ import annotations

import json
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import fs

from ray_jobs.training.checkpoints import Checkpoints
from ray_jobs.training.worker import LoneWorker, Task

EVERY_S = 30.0


def checkpoint_at(tmp_path: Path, name: str = "run") -> Checkpoints:
    return Checkpoints(fs.LocalFileSystem(), str(tmp_path / "store" / name))


def folder_with(tmp_path: Path, text: str) -> Path:
    folder = tmp_path / text
    folder.mkdir()
    (folder / "model").write_text(text)
    return folder


def test_the_last_checkpoint_is_kept_and_the_one_before_goes(tmp_path: Path) -> None:
    kept = checkpoint_at(tmp_path)
    assert kept.latest() is None
    assert kept.restore(tmp_path / "nothing") is None
    kept.save(folder_with(tmp_path, "one"), {"loss": 0.5})
    kept.save(folder_with(tmp_path, "two"), {"loss": 0.25})
    restored = checkpoint_at(tmp_path).restore(tmp_path / "restored")
    assert restored is not None
    assert (restored / "model").read_text() == "two"
    assert checkpoint_at(tmp_path).latest() == {"number": 1, "metrics": {"loss": 0.25}}
    assert sorted(path.name for path in (tmp_path / "store/run").iterdir()) == ["checkpoint_000001", "latest.json"]
    assert checkpoint_at(tmp_path, "another").latest() is None


def test_a_checkpoint_that_was_not_finished_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = checkpoint_at(tmp_path)
    kept.save(folder_with(tmp_path, "one"), {"loss": 0.5})

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ray_jobs.training.checkpoints.json.dumps", killed)
    with pytest.raises(KeyboardInterrupt):
        kept.save(folder_with(tmp_path, "two"), {"loss": 0.25})
    monkeypatch.undo()
    restored = kept.restore(tmp_path / "restored")
    assert restored is not None
    assert (restored / "model").read_text() == "one"
    kept.save(folder_with(tmp_path, "three"), {"loss": 0.1})  # over what the killed one left
    assert kept.latest() == {"number": 1, "metrics": {"loss": 0.1}}


class Clock:
    now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s


class Heard(LoneWorker):
    """Counts how often the workers would have talked to each other."""

    talks = 0

    def agree(self, value: Any) -> Any:
        self.talks += 1
        return value


def worker_on(clock: Clock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Heard:
    monkeypatch.setattr("ray_jobs.training.worker.time", clock)
    monkeypatch.setattr("ray_jobs.training.worker.os.nice", lambda _: 0)
    task = Task(data=None, streams=False, threads=1, device="cpu", seed=0, checkpoint_every_s=EVERY_S)  # type: ignore[arg-type]
    return Heard(task, tmp_path, checkpoint_at(tmp_path))


@given(steps_s=st.lists(st.floats(0.001, 100), min_size=1, max_size=40), loading_s=st.floats(0, 100))
@settings(max_examples=50)
def test_checkpoints_are_never_closer_than_asked_for(
    steps_s: list[float], loading_s: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock()
        worker = worker_on(clock, patch, tmp_path_factory.getbasetemp())
        saved_at = [clock.now_s]
        clock.now_s += loading_s
        for step, step_s in enumerate(steps_s, start=1):
            clock.now_s += step_s
            if worker.due(step):
                saved_at.append(clock.now_s)
    assert all(later - earlier >= EVERY_S for earlier, later in pairwise(saved_at))


@pytest.mark.parametrize(("step_s", "saved"), [(0.01, 33), (1.0, 33), (29.0, 17), (31.0, 34), (400.0, 3)])
def test_steady_steps_are_saved_about_as_often_as_asked_for(
    step_s: float, saved: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clock = Clock()
    worker = worker_on(clock, monkeypatch, tmp_path)
    clock.now_s += 5  # loading
    due = 0
    for step in range(1, round(1000 / step_s) + 2):
        clock.now_s += step_s
        due += worker.due(step)
    assert abs(due - saved) <= max(1, saved // 10)
    assert worker.talks <= 2 * due + 3


def test_the_clock_is_asked_seldom(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clock = Clock()
    worker = worker_on(clock, monkeypatch, tmp_path)
    clock.now_s += 5
    for step in range(1, 1001):
        clock.now_s += 0.01
        assert not worker.due(step)
    assert worker.talks <= 3


def test_niceness_and_reports_of_a_lone_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(os, "nice", asked.append)
    task = Task(data=None, streams=False, threads=2, device="cpu", seed=3, checkpoint_every_s=EVERY_S)  # type: ignore[arg-type]
    worker = LoneWorker(task, tmp_path, checkpoint_at(tmp_path))
    assert asked == [10]
    assert (worker.rank, worker.world_size, worker.threads, worker.device, worker.seed) == (0, 1, 2, "cpu", 3)
    worker.report({"loss": 1.0})
    assert worker.restored() is None
    worker.report({"loss": 0.5}, folder_with(tmp_path, "one"))
    restored = worker.restored()
    assert restored is not None
    assert (restored / "model").read_text() == "one"
    assert json.loads((tmp_path / "store/run/latest.json").read_text())["metrics"] == {"loss": 0.5}
